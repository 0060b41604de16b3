"""Records as trees, one collection a policy: cut into steps, judged, put on disk.

Trees of imported rollouts are like all others: train, evaluate, view and compare them. Their tokens are not known
(four characters count as one), and neither are log-priors.
"""

import csv
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from arts.rollouts.reading import Reading, read_records
from arts.rollouts.records import UNNAMED, Record, Sample
from arts.store import create_collection
from arts.tasks.answers import find_answer
from arts.tasks.checks import Checker
from arts.tasks.math_answer import answer_key, check_math
from arts.text_steps import LONGEST_STEP, cut_steps
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, Usage, Verdict, build_tree

POOL = "pool"
"""Policy of the merged samples of all policies."""
_TREES_PER_SHARD = 512
_ENDINGS = re.compile(r"(\.jsonl?)?(\.gz)?$")
_LEAST_SCORE = 1e-6  # whose logarithm stands for a score of 0


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
        ValueError: nothing in the file can be used; says why.
    """
    reading = Reading()
    records = _joined(read_records(path, reading), reading)
    if not records:
        raise ValueError(f"{path} has no row that can be read: {'; '.join(reading.bad[:3])}")
    records = _judgeable(records, reading, checker)
    records = _named(with_puzzles(records, path.parent), settings.name or _ENDINGS.sub("", path.name))
    policies = _policies(records, settings)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    made = []
    for policy in policies:
        folder = out if len(policies) == 1 else out / folder_name(policy)
        own = _own_samples(records, None if settings.pool else policy)
        num_samples = settings.num_samples or _usual_number(own)
        header = {
            "task": "rollouts",
            "source": {"file": path.name, "sha256": digest, "formats": sorted(reading.formats)},
            "policy": policy,
            "pool": settings.pool,
            "selected": any(policy in record.selected for record in records),
            "judge": checker.name if checker else "label",
            "num_samples": num_samples,
            "max_step_chars": settings.max_step_chars,
        }
        for fold in range(settings.num_folds) if settings.num_folds > 1 else ():
            part = [one for one in own if fold_of(one[0].problem_id, settings.num_folds) == fold]
            dealt = {"fold": f"{fold} of {settings.num_folds}"}
            made.append(_write(part, header | dealt, folder / f"fold-{fold}", checker))
        if settings.num_folds == 1:
            made.append(_write(own, header, folder, checker))
    return made, reading


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


def folder_name(policy: str) -> str:
    """A policy's name as a folder's."""
    return re.sub(r"[^\w.+-]+", "_", policy).strip("._") or "policy"


def _write(
    own: Sequence[tuple[Record, tuple[Sample, ...]]], header: dict[str, Any], folder: Path, checker: Checker | None
) -> Imported:
    """One collection."""
    num_samples, max_chars = header["num_samples"], header["max_step_chars"]
    kept = [
        (record, _first_draws(samples, num_samples))
        for record, samples in own
        if sum(sample.is_draw for sample in samples) >= num_samples
    ]
    if not own:
        raise ValueError(
            f"{header.get('fold', 'the file')} has no problem of policy {header['policy']!r}; fewer --folds"
        )
    if not kept:
        raise ValueError(f"no problem of policy {header['policy']!r} has {num_samples} draws; ask for fewer")
    scored = [record.score_kind for record, samples in kept if all(sample.step_scores for sample in samples)]
    if len(scored) == len(kept):
        header["scores"] = {"kind": scored[0]}
    trees, num_relabelled = [], 0
    for record, samples in kept:
        tree, conflicts = tree_of(record, samples, max_step_chars=max_chars, checker=checker)
        trees.append(tree)
        num_relabelled += conflicts
    collection = create_collection(folder, header)
    with collection.lock():
        for shard, start in enumerate(range(0, len(trees), _TREES_PER_SHARD)):
            collection.finish_shard(shard, trees[start : start + _TREES_PER_SHARD])
    leaves = [tree.nodes[leaf] for tree in trees for leaf in tree.trunks]
    return Imported(
        folder,
        header["policy"],
        len(trees),
        num_samples,
        sum(leaf.verdict is not None and leaf.verdict.correct for leaf in leaves),
        len(own) - len(kept),
        sum(max(0, sum(one.is_draw for one in samples) - num_samples) for _, samples in own),
        sum(not sample.text.strip() for _, samples in kept for sample in samples),
        header["selected"],
        num_relabelled,
    )


def _first_draws(samples: Sequence[Sample], num_samples: int) -> tuple[Sample, ...]:
    """The first draws, and what else a search looked at."""
    draws = [sample for sample in samples if sample.is_draw][:num_samples]
    return (*draws, *(sample for sample in samples if not sample.is_draw))


def tree_of(
    record: Record, samples: Sequence[Sample], *, max_step_chars: int = LONGEST_STEP, checker: Checker | None = None
) -> tuple[ReasoningTree, int]:
    """The tree of one problem, equal steps merged; its main trajectories are the draws.

    Step scores become log-flows: those of steps that are cut where they were, else the last one at the end.

    Returns:
        The tree, and how many draws have the text of another one but a different label.
    """
    problem = Problem(record.problem_id, record.prompt, _metadata(record))
    rollouts = [Rollout(index, index, 0, _steps(sample, max_step_chars)) for index, sample in enumerate(samples)]
    usage = Usage(
        prompt_tokens=-(-len(record.prompt) // 4) * len(samples),
        generated_tokens=sum(step.num_tokens for rollout in rollouts for step in rollout.steps),
        requests=len(samples),
        estimated_requests=len(samples),
    )
    tree = build_tree(problem, rollouts, usage=usage)
    nodes, conflicts = list(tree.nodes), 0
    for sample, leaf in zip(samples, tree.trunks, strict=True):
        path = [node.id for node in tree.path(leaf)]
        for node_id, log_score in zip(reversed(path), _log_scores(sample, len(path)), strict=False):
            nodes[node_id] = replace(nodes[node_id], log_flow=log_score)
        if nodes[leaf].is_answer:
            verdict = _verdict(record, sample, checker)
            there = nodes[leaf].verdict
            conflicts += there is not None and there.correct != verdict.correct
            nodes[leaf] = replace(nodes[leaf], verdict=there or verdict)
    trunks = tuple(leaf for sample, leaf in zip(samples, tree.trunks, strict=True) if sample.is_draw)
    return replace(tree, nodes=tuple(nodes), trunks=trunks), conflicts


def _metadata(record: Record) -> dict[str, Any]:
    return {**record.metadata, **({} if record.gold is None else {"answer": record.gold})}


def _steps(sample: Sample, max_step_chars: int) -> tuple[Step, ...]:
    texts = list(sample.steps) or _scored_steps(sample) or cut_steps(sample.text, max_chars=max_step_chars) or [""]
    last = StopReason.STOP if not sample.is_draw else StopReason.EOS if sample.is_finished else StopReason.LENGTH
    stops = [StopReason.STOP] * (len(texts) - 1) + [last]
    return tuple(Step(text, (), None, stop) for text, stop in zip(texts, stops, strict=True))


def _scored_steps(sample: Sample) -> list[str]:
    """The steps between blank lines, where there is a score for each of them."""
    steps = (
        cut_steps(sample.text, style="paragraphs", max_chars=len(sample.text)) if len(sample.step_scores) > 1 else []
    )
    return steps if len(steps) == len(sample.step_scores) else []


def _log_scores(sample: Sample, num_steps: int) -> list[float]:
    """From the last step upwards."""
    scores = sample.step_scores if len(sample.step_scores) == num_steps else sample.step_scores[-1:]
    return [math.log(max(score, _LEAST_SCORE)) for score in reversed(scores)]


def _verdict(record: Record, sample: Sample, checker: Checker | None) -> Verdict:
    """The checker's word, else the file's label, else the comparison with the gold answer."""
    if checker is not None and record.gold is not None:
        return checker.judge(record.prompt, record.gold, sample.text)
    answer = sample.answer if sample.answer is not None else find_answer(sample.text)
    if sample.correct is None:
        assert record.gold is not None  # others were left out
        return check_math(record.gold, answer)
    return Verdict(sample.correct, None if answer is None else answer_key(answer), "" if sample.correct else "label")
