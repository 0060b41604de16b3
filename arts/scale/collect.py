"""Collect on many machines: workers draw blocks of problems, one driver writes them to disk.

The unit is the block of problems that a local model draws in one batch, so a block's trees depend on its seeds alone,
whoever draws it and how often. The driver takes each block's answer once. Knows shards, rows and trees; no Ray.
"""

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from arts.collect import opened
from arts.draw import CollectRun, OpenShard, Progress, Watch, draw
from arts.protocols import ProposerIdentity, Task
from arts.scale.workers import Tools, Workers, portable
from arts.sparse_deep_fork import CollectSettings
from arts.store import Collection, JournalRow
from arts.tree import Problem, ReasoningTree


class Block(NamedTuple):
    """Work for one call of a worker."""

    shard: int
    place: int
    "in the shard"
    problems: tuple[Problem, ...]
    rows: tuple[JournalRow, ...]
    "replies that are there already"


class Drawn(NamedTuple):
    """What a worker made of a block."""

    shard: int
    place: int
    rows: Sequence[JournalRow]
    "the new ones"
    trees: Sequence[ReasoningTree]
    "of all its problems; none where an error ended it"
    has_failures: bool
    "draws in the trees failed, and are to be tried again some day"
    progress: Progress
    error: Exception | None


@dataclass
class _Memory:
    """A `TreeStore` that keeps what a worker draws until it is sent."""

    there: Sequence[JournalRow]
    rows: list[JournalRow] = field(default_factory=list)
    trees: Sequence[ReasoningTree] = ()
    has_failures: bool = False

    def read_journal(self, shard: int) -> list[JournalRow]:
        return list(self.there)

    def is_finished(self, shard: int) -> bool:
        return False

    def append(self, shard: int, rows: Sequence[JournalRow]) -> None:
        self.rows.extend(rows)

    def finish_shard(self, shard: int, trees: Sequence[ReasoningTree], *, keep_journal: bool = False) -> None:
        self.trees, self.has_failures = trees, keep_journal

    def drop_journal(self, shard: int) -> None:
        """There is none on disk."""

    def write_status(self, status: Mapping[str, Any]) -> None:
        """The driver writes it, of all workers."""


def draw_block(block: Block, settings: CollectSettings, tools: Tools) -> Drawn:
    """On a worker: the trees of a block. An error comes with what had arrived until then."""
    memory, error = _Memory(block.rows), None
    run = CollectRun(tools.task, settings, memory, block.problems)
    try:
        draw(run, tools.proposer)
    except (Exception, SystemExit) as reason:  # of any type: what was drawn is paid for
        error = portable(reason)
    return Drawn(block.shard, block.place, memory.rows, memory.trees, memory.has_failures, run.progress, error)


@dataclass
class _Open:
    """A shard whose blocks are drawn, as far as they are there."""

    num_blocks: int
    drawn: dict[int, Drawn] = field(default_factory=dict)


def collect_on(
    workers: Workers,
    task: Task,
    proposer: ProposerIdentity,
    settings: CollectSettings,
    folder: Path,
    *,
    about: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> Collection:
    """Draw trees into a folder, or finish the run that was started there: `arts.collect.collect` on many machines.

    The folder ends as it would on one machine, shard for shard; either may go on with what the other began.

    Args:
        proposer: what the workers' proposers are, as `Workers.first` tells.

    Raises:
        ValueError: as `collect` does.
        RuntimeError: a worker failed in another way; with its traceback.
            Either comes when the blocks that were out are back, and what was drawn of them is on disk.
    """
    with opened(task, proposer, settings, folder, about=about) as (collection, problems):
        run = CollectRun(task, settings, collection, problems, watch)
        shards: dict[int, _Open] = {}
        error: Exception | None = None
        work = _work(run, shards)
        for drawn in workers.run(work):
            number = drawn.shard
            if drawn.rows:
                collection.append(number, drawn.rows)
            _count(run, drawn)
            if drawn.error:
                error = error or drawn.error
                work.close()  # nothing more is handed out
                continue
            shards[number].drawn[drawn.place] = drawn
            if len(shards[number].drawn) == shards[number].num_blocks:
                blocks = [one for _, one in sorted(shards.pop(number).drawn.items())]
                collection.finish_shard(
                    number,
                    [tree for block in blocks for tree in block.trees],
                    keep_journal=any(block.has_failures for block in blocks),
                )
            run.tell()
        run.tell()
        if error:
            raise error
    return collection


def _work(run: CollectRun, shards: dict[int, _Open]) -> Generator[partial[Drawn]]:
    """Blocks in the order of the problems. A shard is open as soon as its first block is taken."""
    for shard in run.open_shards():
        blocks = list(_blocks(shard, run.settings.block_size))
        shards[shard.number] = _Open(len(blocks))
        for block in blocks:
            yield partial(draw_block, block, run.settings)


def _blocks(shard: OpenShard, size: int) -> Iterator[Block]:
    for place, start in enumerate(range(0, len(shard.problems), size)):
        problems = tuple(shard.problems[start : start + size])
        ids = {problem.id for problem in problems}
        yield Block(shard.number, place, problems, tuple(row for row in shard.rows if row.problem_id in ids))


def _count(run: CollectRun, drawn: Drawn) -> None:
    """Add what a worker drew to the counts of the run."""
    run.done += drawn.progress.done
    run.generated += drawn.progress.generated_tokens
    run.prompt += drawn.progress.prompt_tokens
    run.rollouts += drawn.progress.rollouts
    run.failed += Counter(drawn.progress.failed)
