"""Trees on disk: append-only, readable, and never half written.

A collection is a folder:

    collection.json            format version, task, proposer, settings, and what made it
    trees-00000.jsonl          a finished shard: one tree a line, in the order of the problems
    trees-00001.journal        the shard being made: one reply of the proposer a line, appended and synced

A shard appears by rename when its problems are complete; its journal is then removed. A line that a crash tore is
dropped when the journal is opened, so that reply is asked for again. Knows values and files; no model and no task.
"""

import fcntl
import gc
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from arts.files import append_lines, dump, read_lines, write_atomically, writing_to
from arts.tree import Node, Problem, ReasoningTree, Rollout, Step, StopReason, Usage, Verdict

FORMAT = 1
_LOCK_ATTEMPTS = 5


# --- trees as JSON ----------------------------------------------------------------------------------------------------


def tree_to_json(tree: ReasoningTree) -> dict[str, Any]:
    row: dict[str, Any] = {
        "problem": {"id": tree.problem.id, "prompt": tree.problem.prompt, "metadata": dict(tree.problem.metadata)},
        "log_prior_law": tree.log_prior_law,
        "tokenizer": tree.tokenizer,
        "usage": tree.usage._asdict(),
        "trunks": list(tree.trunks),
    }
    if tree.nodes[0].log_flow is not None:
        row["log_flow"] = tree.nodes[0].log_flow
    return row | {"nodes": [_node_to_json(node) for node in tree.nodes[1:]]}


def _node_to_json(node: Node) -> dict[str, Any]:
    """A node without what is at its default. The root is no row of its own: only its log-flow says anything."""
    row: dict[str, Any] = {
        "parent": node.parent,
        "text": node.text,
        "ids": list(node.token_ids),
        "log_prior": node.log_prior,
        "stop": node.stop,
    }
    if node.num_draws != 1:
        row["draws"] = node.num_draws
    if node.verdict is not None:
        row["verdict"] = list(node.verdict)
    if node.log_flow is not None:
        row["log_flow"] = node.log_flow
    return row


def tree_from_json(row: Mapping[str, Any]) -> ReasoningTree:
    nodes = [Node(id=0, parent=-1, log_flow=row.get("log_flow"))]
    for index, node in enumerate(row["nodes"], start=1):
        nodes.append(
            Node(
                id=index,
                parent=node["parent"],
                text=node["text"],
                token_ids=tuple(node["ids"]),
                log_prior=node["log_prior"],
                stop=StopReason(node["stop"]),
                num_draws=node.get("draws", 1),
                verdict=Verdict(*node["verdict"]) if "verdict" in node else None,
                log_flow=node.get("log_flow"),
            )
        )
    return ReasoningTree(
        problem=Problem(**row["problem"]),
        nodes=tuple(nodes),
        trunks=tuple(row["trunks"]),
        log_prior_law=row["log_prior_law"],
        tokenizer=row["tokenizer"],
        usage=Usage(**row["usage"]),
    )


# --- collections ------------------------------------------------------------------------------------------------------


class JournalRow(NamedTuple):
    """One reply: rollouts of one problem, and what they cost."""

    problem_id: str
    rollouts: tuple[Rollout, ...]
    usage: Usage
    failure: str = ""
    "why those that ended with ERROR did: a kind, a colon, and what is known"


@dataclass(frozen=True)
class Collection:
    """A folder of trees. Build it with `create_collection` or `open_collection`."""

    folder: Path
    header: Mapping[str, Any]

    def shard_path(self, shard: int) -> Path:
        return self.folder / f"trees-{shard:05d}.jsonl"

    def is_finished(self, shard: int) -> bool:
        return self.shard_path(shard).exists()

    def finished_shards(self) -> list[Path]:
        return sorted(self.folder.glob("trees-[0-9]*.jsonl"))

    def journals(self) -> list[int]:
        """Numbers of the shards that have a journal."""
        return sorted(int(path.stem.partition("-")[2]) for path in self.folder.glob("trees-[0-9]*.journal"))

    def num_trees(self) -> int:
        """Trees in the finished shards."""
        count = 0
        for path in self.finished_shards():
            with path.open("rb") as file:
                while part := file.read(1 << 20):
                    count += part.count(b"\n")
        return count

    def trees(self) -> Iterator[ReasoningTree]:
        """All trees of the finished shards, one in memory at a time.

        Raises:
            ValueError: a shard is damaged (it was whole when it was renamed into place); names file and line.
        """
        for path in self.finished_shards():
            yield from read_trees(path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for writing; a second process gets a ValueError instead of a mixed journal."""
        with writing_to(self.folder):
            file = (self.folder / ".lock").open("w")
        with file:
            for attempt in range(_LOCK_ATTEMPTS):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if attempt == _LOCK_ATTEMPTS - 1:
                        raise ValueError(
                            f"another process is writing to {self.folder}; wait for it or choose another --out"
                        ) from error
                    time.sleep(0.1)  # somebody who only looks holds it for a moment
            yield

    def read_journal(self, shard: int, *, repair: bool = True) -> list[JournalRow]:
        """The replies that reached the disk.

        Args:
            repair: as in `read_lines`.
        """
        hint = "; delete the file to draw this shard again"
        return list(read_lines(self._journal_path(shard), _journal_row, repair=repair, hint=hint))

    def append(self, shard: int, rows: Sequence[JournalRow]) -> None:
        """Put replies on disk; they count once this returns. Where that fails, the journal is as it was."""
        append_lines(self._journal_path(shard), [dump(_journal_row_to_json(row)) for row in rows])

    def finish_shard(self, shard: int, trees: Sequence[ReasoningTree], *, keep_journal: bool = False) -> None:
        """Write the trees; a journal that is kept says that some of them lack draws that failed."""
        with writing_to(self.folder):
            write_atomically(self.shard_path(shard), "".join(dump(tree_to_json(tree)) + "\n" for tree in trees))
        if not keep_journal:
            self.drop_journal(shard)

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Leave word for those who look at a running collection. Nothing depends on it."""
        temporary = self.folder / "status.tmp"
        with suppress(OSError):
            temporary.write_text(dump(status), encoding="utf-8")
            temporary.replace(self.folder / "status.json")

    def read_status(self) -> dict[str, Any] | None:
        with suppress(OSError, ValueError):
            found = json.loads((self.folder / "status.json").read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else None
        return None

    def is_being_written(self) -> bool:
        """Does a process hold the folder now?"""
        with suppress(OSError), (self.folder / ".lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def drop_journal(self, shard: int) -> None:
        """Remove the journal of a finished shard; a crash right after the rename leaves it there."""
        with writing_to(self.folder):
            self._journal_path(shard).unlink(missing_ok=True)

    def _journal_path(self, shard: int) -> Path:
        return self.folder / f"trees-{shard:05d}.journal"


def create_collection(folder: Path, header: Mapping[str, Any], *, about: Mapping[str, Any] | None = None) -> Collection:
    """Start a collection, or go on with the one that is there if it was made with the same header.

    Args:
        header: everything that decides the trees; a run may only be resumed with an equal one.
        about: versions, date and such; written once, never compared.

    Raises:
        ValueError: the folder holds a collection made with other settings (each difference is named), or trees of which
            nobody knows how they were made.
    """
    wanted = {"format": FORMAT, **header}
    path = folder / "collection.json"
    if path.exists():
        found = open_collection(folder).header
        there, asked = _flat({key: value for key, value in found.items() if key != "about"}), _flat(wanted)
        different = [
            f"{key}: {there.get(key)!r} there, {asked.get(key)!r} asked for"
            for key in sorted({*there, *asked})
            if there.get(key) != asked.get(key)
        ]
        if different:
            raise ValueError(
                f"{folder} was collected with other settings ({'; '.join(different)}); choose another --out"
            )
        return Collection(folder, found)
    if lost := sorted(one.name for kind in ("jsonl", "journal") for one in folder.glob(f"trees-[0-9]*.{kind}")):
        raise ValueError(
            f"{folder} holds trees ({lost[0]}), but no collection.json that says how they were made; "
            "put that back, or choose another --out"
        )
    whole = {**wanted, "about": dict(about or {})}
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    return Collection(folder, whole)


def _flat(header: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names, so that a difference is named by itself."""
    flat: dict[str, Any] = {}
    for key, value in header.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat


def open_collection(folder: Path) -> Collection:
    """Open a collection for reading.

    Raises:
        ValueError: there is none, or it was written by another version.
    """
    path = folder / "collection.json"
    if not path.is_file():
        below = sorted(str(found.parent) for depth in ("*", "*/*") for found in folder.glob(f"{depth}/collection.json"))
        more = f" and {len(below) - 3} more" if len(below) > 3 else ""
        raise ValueError(
            f"{str(folder)!r} holds no collection (no collection.json); "
            + (f"these do: {', '.join(below[:3])}{more}" if below else f"make one with `arts collect --out {folder}`")
        )
    try:
        header = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} has format version {header.get('format')!r}; this version of arts reads {FORMAT}")
    return Collection(folder, header)


def collections_in(folder: Path) -> list[Path]:
    """The folder itself where it is a collection, else the collections in it.

    Raises:
        ValueError: there is none.
    """
    if (folder / "collection.json").is_file():
        return [folder]
    found = sorted(path.parent for path in folder.glob("*/collection.json"))
    if not found:
        open_collection(folder)  # says what is missing
    return found


def load_trees(folder: Path) -> list[ReasoningTree]:
    """All trees of a collection in memory.

    Raises:
        ValueError: also when there is not one finished tree.
    """
    collection = open_collection(folder)
    with _no_garbage():
        trees = list(collection.trees())
    if not trees:
        raise ValueError(f"{str(folder)!r} holds no finished trees; run its `arts collect` command again to finish it")
    return trees


@contextmanager
def _no_garbage() -> Iterator[None]:
    """For reading much of which nothing is thrown away: Python would look through all of it for garbage, again and
    again, which takes as long as reading it.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read_trees(path: Path) -> Iterator[ReasoningTree]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("the line has no end")
                yield tree_from_json(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{path} line {number} is damaged ({type(error).__name__}: {error}); "
                    "delete this file and run the same `arts collect` command to draw it again"
                ) from error


def _journal_row_to_json(row: JournalRow) -> dict[str, Any]:
    written = {
        "problem": row.problem_id,
        "usage": list(row.usage),
        "rollouts": [
            [rollout.index, rollout.trunk, rollout.num_shared, [list(step) for step in rollout.steps]]
            for rollout in row.rollouts
        ],
    }
    return written | ({"failure": row.failure} if row.failure else {})


def _journal_row(row: Mapping[str, Any]) -> JournalRow:
    rollouts = tuple(
        Rollout(
            index,
            trunk,
            num_shared,
            tuple(Step(text, tuple(ids), log_prior, StopReason(stop)) for text, ids, log_prior, stop in steps),
        )
        for index, trunk, num_shared, steps in row["rollouts"]
    )
    return JournalRow(row["problem"], rollouts, Usage(*row["usage"]), row.get("failure", ""))
