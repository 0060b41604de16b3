"""Records as collections of trees, one a policy.

Trees of imported rollouts are like all others: train, evaluate, view and compare them. Whatever can be refused is
refused before the first collection is written.
"""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from arts.rollouts.reading import Reading, read_records
from arts.rollouts.records import UNNAMED, Record, Sample
from arts.rollouts.trees import tree_of
from arts.store import create_collection
from arts.tasks.checks import Checker
from arts.text_steps import LONGEST_STEP

POOL = "pool"
"""Policy of the merged samples of all policies."""
_TREES_PER_SHARD = 512
_ENDINGS = re.compile(r"(\.jsonl?)?(\.gz)?$")


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """What is made of a file."""

    policy: str | None = None
    "only this one"
    pool: bool = False
    "all policies as one, which is no law: nothing that is an average over draws of one policy is shown of it"
    name: str | None = None
    "of the policy where the file names none; default: the file's own name"
    num_samples: int | None = None
    "draws kept of each problem; default: the number that keeps most. Problems with fewer are left out"
    num_folds: int = 1
    "collections of other problems that each policy's are dealt out to, for training on some and testing on others"
    max_step_chars: int = LONGEST_STEP
    "longer steps are cut"

    def __post_init__(self) -> None:
        if self.policy is not None and self.pool:
            raise ValueError("--policy picks one policy and --pool merges all of them; give one of the two")
        for name in ("num_samples", "num_folds", "max_step_chars"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")


class Imported(NamedTuple):
    """A collection that was made, and what was left out of it."""

    folder: Path
    policy: str
    num_trees: int
    num_samples: int
    "draws of each problem"
    num_right: int
    "of all draws"
    num_short: int
    "problems that had fewer draws, and were left out"
    num_beyond: int
    "draws beyond that number, which were left out"
    num_empty: int
    "draws without any text"
    is_selected: bool
    num_relabelled: int
    "draws of equal text, whose labels differ: the first label counts"

    @property
    def share_right(self) -> float:
        return self.num_right / (self.num_trees * self.num_samples)

    def notes(self) -> Iterator[str]:
        """What whoever uses it should know, in sentences."""
        if self.num_short:
            yield f"{self.num_short:,} problems have fewer than {self.num_samples} draws and are left out"
        if self.num_beyond:
            yield f"{self.num_beyond:,} draws are beyond {self.num_samples} of a problem, and left out (--num-samples)"
        if self.num_empty:
            yield f"{self.num_empty:,} draws are empty texts"
        if self.num_relabelled:
            yield f"{self.num_relabelled:,} draws have the text of another one and a different label; the first counts"
        if self.is_selected:
            yield "its solutions were picked among many draws: they are no draws of a policy"


def import_rollouts(
    path: Path, out: Path, settings: ImportSettings, *, checker: Checker | None = None
) -> tuple[list[Imported], Reading]:
    """Read a file of rollouts and write a collection for every policy: `out` itself, or folders in it for several.

    Args:
        checker: judges solutions anew, which needs gold answers. Without it the file's labels count, and answers are
            compared with the gold one where it has none.

    Raises:
        ValueError: nothing in the file can be used, a policy or fold would be empty, or a folder holds something else;
            then nothing is written.
    """
    reading = Reading()
    records = _joined(read_records(path, reading), reading)
    if not records:
        raise ValueError(f"{path} has no row that can be read: {'; '.join(reading.bad[:3])}")
    records = _judgeable(records, reading, checker)
    records = _named(with_puzzles(records, path.parent), settings.name or _ENDINGS.sub("", path.name))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    source = {"file": path.name, "sha256": digest, "formats": sorted(reading.formats)}
    header = {"task": "rollouts", "source": source, "judge": checker.name if checker else "label"}
    parts = list(_parts(records, out, header, settings))
    for part in parts:
        if (part.folder / "collection.json").exists():
            create_collection(part.folder, part.header)  # refuses what was made with other settings
    return [_write(part, checker) for part in parts], reading


class _Part(NamedTuple):
    """One collection to be."""

    folder: Path
    header: dict[str, Any]
    problems: list[tuple[Record, tuple[Sample, ...]]]
    kept: list[tuple[Record, tuple[Sample, ...]]]
    "those with as many draws as are asked for, and only so many of these"


def _parts(records: Sequence[Record], out: Path, header: dict[str, Any], settings: ImportSettings) -> Iterator[_Part]:
    """All collections that are to be made; an empty one is refused."""
    policies = _policies(records, settings)
    folders = dict(zip(policies, folder_names(policies), strict=True))
    for policy in policies:
        folder = out if len(policies) == 1 else out / folders[policy]
        own = _own_samples(records, None if settings.pool else policy)
        whole = header | {
            "policy": policy,
            "pool": settings.pool,
            "selected": any(policy in record.selected for record in records),
            "num_samples": settings.num_samples or _usual_number(own),
            "max_step_chars": settings.max_step_chars,
        }
        if settings.num_folds == 1:
            yield _part(folder, whole, own)
        for fold in range(settings.num_folds) if settings.num_folds > 1 else ():
            dealt = [one for one in own if fold_of(one[0].problem_id, settings.num_folds) == fold]
            yield _part(folder / f"fold-{fold}", whole | {"fold": f"{fold} of {settings.num_folds}"}, dealt)


def _part(folder: Path, header: dict[str, Any], problems: list[tuple[Record, tuple[Sample, ...]]]) -> _Part:
    num_samples, policy = header["num_samples"], header["policy"]
    kept = [
        (record, _first_draws(samples, num_samples))
        for record, samples in problems
        if sum(sample.is_draw for sample in samples) >= num_samples
    ]
    if not problems:
        raise ValueError(f"{header.get('fold', 'the file')} has no problem of policy {policy!r}; fewer --folds")
    if not kept:
        raise ValueError(f"no problem of policy {policy!r} has {num_samples} draws; ask for fewer")
    scored = [record.score_kind for record, samples in kept if all(sample.step_scores for sample in samples)]
    return _Part(folder, header | ({"scores": {"kind": scored[0]}} if len(scored) == len(kept) else {}), problems, kept)


def _judgeable(records: Sequence[Record], reading: Reading, checker: Checker | None) -> list[Record]:
    """Those with a label for every draw, or an answer to compare with, which a checker needs."""
    kept = []
    for record in records:
        draws = [sample for sample in record.samples if sample.is_draw]
        if record.gold is None and (checker or any(sample.correct is None for sample in draws)):
            lacks = "no `answer` for the check" if checker else "neither labels nor an `answer` to compare with"
            reading.bad.append(f"problem {record.problem_id[:60]!r}: {lacks}")
        else:
            kept.append(record)
    if not kept:
        raise ValueError(f"no problem can be judged: {reading.bad[-1]}")
    return kept


def _named(records: Sequence[Record], name: str) -> list[Record]:
    """Samples of a policy without a name get one."""

    def renamed(sample: Sample) -> Sample:
        return replace(sample, policy=name) if sample.policy == UNNAMED else sample

    return [replace(record, samples=tuple(map(renamed, record.samples))) for record in records]


def _joined(records: Iterable[Record], reading: Reading) -> list[Record]:
    """Records of one problem as one; an id that two different problems have is that of the first."""
    joined: dict[str, Record] = {}
    for record in records:
        there = joined.get(record.problem_id)
        if there is None:
            joined[record.problem_id] = record
        elif there.prompt == record.prompt:
            joined[record.problem_id] = replace(there, samples=there.samples + record.samples)
        else:
            reading.bad.append(f"row {reading.num_rows}: {record.problem_id!r} is the id of another problem already")
    return list(joined.values())


def with_puzzles(records: Sequence[Record], folder: Path) -> list[Record]:
    """Numbers of Game of 24 from a file of puzzles (`Rank,Puzzles,...`) beside the rollouts, where there is one."""
    puzzles: list[str] = []
    if any("numbers" in record.metadata for record in records):
        for path in sorted(folder.glob("*.csv")):
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            if rows and "Puzzles" in rows[0]:
                puzzles = [row["Puzzles"] for row in rows]
    return [_with_numbers(record, puzzles) for record in records]


def _with_numbers(record: Record, puzzles: Sequence[str]) -> Record:
    found = re.fullmatch(r"game24 (\d+)", record.problem_id)
    if not found or not int(found[1]) < len(puzzles):
        return record
    said, known = str(record.metadata["numbers"]), puzzles[int(found[1])]
    return replace(record, prompt=record.prompt.replace(said, known), metadata={**record.metadata, "numbers": known})


def _policies(records: Sequence[Record], settings: ImportSettings) -> list[str]:
    """The collections that are to be made."""
    there = list(dict.fromkeys(sample.policy for record in records for sample in record.samples))
    if settings.pool:
        return [POOL]
    if settings.policy is None:
        return there
    if settings.policy not in there:
        raise ValueError(f"no policy {settings.policy!r} in the file; it has {', '.join(map(repr, there))}")
    return [settings.policy]


def _own_samples(records: Sequence[Record], policy: str | None) -> list[tuple[Record, tuple[Sample, ...]]]:
    """The samples of one policy, or of all, problem by problem."""
    own = [(record, tuple(one for one in record.samples if policy in (None, one.policy))) for record in records]
    return [(record, samples) for record, samples in own if samples]


def _usual_number(own: Sequence[tuple[Record, Sequence[Sample]]]) -> int:
    """The number of draws that keeps most of them; problems with fewer are left out, and draws beyond it."""
    counts = [sum(sample.is_draw for sample in samples) for _, samples in own]
    return max(sorted({*counts, 1} - {0}), key=lambda number: number * sum(count >= number for count in counts))


def fold_of(problem_id: str, num_folds: int) -> int:
    """The fold that a problem belongs to, whatever else is in the file."""
    return int.from_bytes(hashlib.sha256(f"fold {problem_id}".encode()).digest()[:8], "big") % num_folds


def folder_names(policies: Sequence[str]) -> list[str]:
    """Policies' names as those of folders. Where two would share one, on a disk that takes `A` for `a` too, a hash of
    the policy's own name tells them apart."""
    names = [re.sub(r"[^\w.+-]+", "_", policy).strip("._") or "policy" for policy in policies]
    uses = Counter(name.casefold() for name in names)
    return [
        name if uses[name.casefold()] == 1 else f"{name}-{hashlib.sha256(policy.encode()).hexdigest()[:8]}"
        for name, policy in zip(names, policies, strict=True)
    ]


def _write(part: _Part, checker: Checker | None) -> Imported:
    """One collection."""
    num_samples, max_chars = part.header["num_samples"], part.header["max_step_chars"]
    trees, num_relabelled = [], 0
    for record, samples in part.kept:
        tree, conflicts = tree_of(record, samples, max_step_chars=max_chars, checker=checker)
        trees.append(tree)
        num_relabelled += conflicts
    collection = create_collection(part.folder, part.header)
    with collection.lock():
        for shard, start in enumerate(range(0, len(trees), _TREES_PER_SHARD)):
            collection.finish_shard(shard, trees[start : start + _TREES_PER_SHARD])
    leaves = [tree.nodes[leaf] for tree in trees for leaf in tree.trunks]
    return Imported(
        part.folder,
        part.header["policy"],
        len(trees),
        num_samples,
        sum(leaf.verdict is not None and leaf.verdict.correct for leaf in leaves),
        len(part.problems) - len(part.kept),
        sum(max(0, sum(one.is_draw for one in samples) - num_samples) for _, samples in part.problems),
        sum(not sample.text.strip() for _, samples in part.kept for sample in samples),
        part.header["selected"],
        num_relabelled,
    )


def _first_draws(samples: Sequence[Sample], num_samples: int) -> tuple[Sample, ...]:
    """The first draws, and what else a search looked at."""
    draws = [sample for sample in samples if sample.is_draw][:num_samples]
    return (*draws, *(sample for sample in samples if not sample.is_draw))
