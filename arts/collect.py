"""Sparse Deep Fork: sample a frozen model's reasoning as trees (step 2 of the method in arXiv 2602.12846).

For each problem N main trajectories (trunks) are drawn, then continuations from each chosen pivot, an inner step of a
trunk: one in the paper. Work runs in fixed blocks of problems; a reply is on disk before it counts, and a killed run
goes on inside the block. Knows the protocols and the store; no model library.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from arts.protocols import Proposer, Reply, Request, Split, Task
from arts.store import Collection, JournalRow, create_collection
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, Usage, build_tree

Pivots = Literal["auto", "node", "trajectory", "none"]


@dataclass(frozen=True, kw_only=True)
class CollectSettings:
    """What to draw. Where the paper is silent the default is ours, with the reason beside it."""

    split: Split = "train"
    num_problems: int = 500
    first_problem: int = 0
    "place in the task's stream to start at, so that several machines can share one stream"
    num_samples: int = 16
    "N, main trajectories a problem (paper: 16)"
    pivots: Pivots = "auto"
    """Where forks start. `node`: every inner step with chance `fork_probability`, the paper's wording, which costs
    about N (1 + (S-1)/4) for S steps. `trajectory`: one inner step of each trunk, which keeps to the paper's 1.5 N for
    every S. `auto`: `node` for a trunk of at most 3 steps, where the two cost the same, else `trajectory`. `none`: a
    plain best-of-N pool, the form that evaluation needs."""
    fork_probability: float = 0.5
    "chance of an inner step to become a pivot under `node` (paper: 0.5)"
    forks_per_pivot: int = 1
    """Continuations drawn from each pivot (paper: 1). More make the values of inner steps less noisy: they are means
    over more draws, at a price of about N (1 + forks_per_pivot (S-1)/4) for `node` and chance 0.5."""
    forks_inside: bool = False
    """False: forks come on top of N, as the paper's O(1.5 N) suggests. True: trunks and forks together stay within N,
    so that fewer trunks are drawn."""
    merge: bool = True
    """True: equal steps below one parent are one node that counts its draws: less to store and train on, and no
    information lost. False: every draw keeps nodes of its own."""
    max_new_tokens: int | None = None
    "limit for one solution; None takes the task's"
    seed: int = 0
    block_size: int = 64
    "problems that are drawn in one batch; part of the law of a float32 model, as rounding depends on it"

    def __post_init__(self) -> None:
        for name, choices in (("split", get_args(Split)), ("pivots", get_args(Pivots))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed are {', '.join(choices)}")
        if self.first_problem < 0:
            raise ValueError(f"first_problem is {self.first_problem}; it must be at least 0")
        for name in ("num_problems", "num_samples", "forks_per_pivot", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.fork_probability <= 1:
            raise ValueError(f"fork_probability is {self.fork_probability}; it must lie in 0..1")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")

    @property
    def num_trunks(self) -> int:
        if not self.forks_inside or self.pivots == "none":
            return self.num_samples
        return max(1, round(self.num_samples / 1.5))


_BLOCKS_PER_SHARD = 8


class Progress(NamedTuple):
    """Told to a watcher after every block."""

    done: int
    total: int
    generated_tokens: int


def collect(
    task: Task,
    proposer: Proposer,
    settings: CollectSettings,
    folder: Path,
    *,
    about: Mapping[str, Any] | None = None,
    watch: Callable[[Progress], None] | None = None,
) -> Collection:
    """Draw trees into a folder, or finish the run that was started there.

    The result is the same whether or not the run was interrupted: draws depend on seeds made from the problem and the
    rollout's index, and a block of a proposer whose rounding depends on the batch is drawn again as a whole.

    Raises:
        ValueError: the folder holds a collection made with other settings, or is being written by another process.
    """
    stream = task.problems(settings.split, settings.seed)
    problems = list(islice(stream, settings.first_problem, settings.first_problem + settings.num_problems))
    if len(problems) < settings.num_problems:
        raise ValueError(
            f"task {task.name} has {len(problems)} more problems in split {settings.split}, "
            f"{settings.num_problems} were asked for"
        )
    collection = create_collection(folder, run_header(task, proposer, settings), about=about)
    shard_size = settings.block_size * _BLOCKS_PER_SHARD
    generated = 0
    with collection.lock():
        for shard, start in enumerate(range(0, len(problems), shard_size)):
            wanted = problems[start : start + shard_size]
            if collection.shard_path(shard).exists():
                collection.drop_journal(shard)
                continue
            run = _ShardRun(task, proposer, settings, collection, shard)
            for block in range(0, len(wanted), settings.block_size):
                generated += run.draw_block(wanted[block : block + settings.block_size])
                if watch:
                    watch(Progress(start + min(block + settings.block_size, len(wanted)), len(problems), generated))
            collection.finish_shard(shard, [run.tree(problem) for problem in wanted])
    return collection


def run_header(task: Task, proposer: Proposer, settings: CollectSettings) -> dict[str, Any]:
    own = asdict(settings)
    if settings.forks_per_pivot == 1:
        del own["forks_per_pivot"]  # it came later: collections made before go on
    return {
        "task": task.name,
        "proposer": proposer.fingerprint,
        "tokenizer": proposer.tokenizer_fingerprint,
        "log_prior_law": proposer.log_prior_law,
        "settings": own,
    }


class _Job(NamedTuple):
    """One request, and the rollouts it makes."""

    request: Request
    indices: tuple[int, ...]
    trunk: int | None
    "the trunk that is forked; None where the rollouts are trunks themselves"

    def rollouts(self, reply: Reply) -> list[Rollout]:
        num_shared = len(self.request.prefix)
        return [
            Rollout(index, index if self.trunk is None else self.trunk, num_shared, steps)
            for index, steps in zip(self.indices, reply.draws, strict=True)
        ]


class _ShardRun:
    """The replies of one shard: those found in its journal, and those drawn now."""

    def __init__(
        self, task: Task, proposer: Proposer, settings: CollectSettings, collection: Collection, shard: int
    ) -> None:
        self.task, self.proposer, self.settings = task, proposer, settings
        self.collection, self.shard = collection, shard
        self.rollouts: dict[str, dict[int, Rollout]] = {}
        self.usage: dict[str, Usage] = {}
        for row in collection.read_journal(shard):
            self._keep(row)

    def draw_block(self, problems: Sequence[Problem]) -> int:
        """Draw what is missing of a block: trunks, then forks. Returns the tokens generated now."""
        trunks = tuple(range(self.settings.num_trunks))
        generated = self._draw([self._job(problem, trunks) for problem in problems])
        return generated + self._draw([job for problem in problems for job in self._fork_jobs(problem)])

    def _draw(self, jobs: Sequence[_Job]) -> int:
        """Ask for the missing rollouts; where rounding depends on the batch, for the whole batch if one is missing."""
        missing = [self._without_known(job) for job in jobs]
        if not any(job.indices for job in missing):
            return 0
        asked = [job for job in missing if job.indices] if self.proposer.batch_invariant else jobs
        replies = self.proposer.propose([job.request for job in asked])
        rows = []
        for job, reply in zip(asked, replies, strict=True):
            known = self.rollouts.get(job.request.problem.id, {})
            new = tuple(rollout for rollout in job.rollouts(reply) if rollout.index not in known)
            if new:
                rows.append(JournalRow(job.request.problem.id, new, reply.usage))
        self.collection.append(self.shard, rows)
        for row in rows:
            self._keep(row)
        return sum(reply.usage.generated_tokens for reply in replies)

    def _keep(self, row: JournalRow) -> None:
        self.rollouts.setdefault(row.problem_id, {}).update({rollout.index: rollout for rollout in row.rollouts})
        self.usage[row.problem_id] = self.usage.get(row.problem_id, Usage()).plus(row.usage)

    def _without_known(self, job: _Job) -> _Job:
        known = self.rollouts.get(job.request.problem.id, {})
        indices = tuple(index for index in job.indices if index not in known)
        return job if indices == job.indices else self._job(job.request.problem, indices, job.trunk, job.request.prefix)

    def _job(
        self, problem: Problem, indices: tuple[int, ...], trunk: int | None = None, prefix: tuple[Step, ...] = ()
    ) -> _Job:
        limit = self.settings.max_new_tokens or self.task.max_new_tokens
        limit -= sum(len(step.token_ids) for step in prefix)
        seeds = tuple(rollout_seed(self.settings.seed, problem, index) for index in indices)
        return _Job(Request(problem, prefix, seeds, limit), indices, trunk)

    def _fork_jobs(self, problem: Problem) -> list[_Job]:
        """One job per pivot, in order of trunk and depth: a function of the trunks and the seed alone."""
        num_trunks = self.settings.num_trunks
        pivots: list[tuple[int, tuple[Step, ...]]] = []
        for trunk in range(num_trunks):
            steps = self.rollouts[problem.id][trunk].steps
            depths = choose_pivots(self.settings, problem, trunk, [step.stop for step in steps])
            pivots.extend((trunk, steps[:depth]) for depth in depths)
        width = self.settings.forks_per_pivot
        last = self.settings.num_samples if self.settings.forks_inside else num_trunks + width * len(pivots)
        starts = range(num_trunks, last, width)
        return [
            self._job(problem, tuple(range(start, min(start + width, last))), trunk, prefix)
            for start, (trunk, prefix) in zip(starts, pivots, strict=False)
        ]

    def tree(self, problem: Problem) -> ReasoningTree:
        return build_tree(
            problem,
            list(self.rollouts[problem.id].values()),
            merge=self.settings.merge,
            log_prior_law=self.proposer.log_prior_law,
            tokenizer=self.proposer.tokenizer_fingerprint,
            usage=self.usage[problem.id],
            judge=lambda solution: self.task.judge(problem, solution),
        )


def choose_pivots(settings: CollectSettings, problem: Problem, trunk: int, stops: Sequence[StopReason]) -> list[int]:
    """Numbers of trunk steps that forks keep: the pivots of one trunk, from its root to its end.

    Inner nodes are those behind which the trunk went on; the last step is not one, whatever ended it.
    """
    inner = [depth for depth, stop in enumerate(stops[:-1], start=1) if stop is StopReason.STOP]
    mode = settings.pivots
    if mode == "auto":
        mode = "node" if len(stops) <= 3 else "trajectory"
    if mode == "none" or not inner:
        return []
    rng = random.Random(f"pivots {settings.seed} {problem.id} {trunk}")
    if mode == "trajectory":
        return [rng.choice(inner)]
    return [depth for depth in inner if rng.random() < settings.fork_probability]


def rollout_seed(seed: int, problem: Problem, index: int) -> int:
    """Seed of one rollout: a function of the run's seed, the problem and the rollout's index, on every machine."""
    digest = hashlib.sha256(f"{seed}\0{problem.id}\0{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


class ForkCost(NamedTuple):
    """Generated tokens of trunks and forks; the paper's budget is `ratio` 1.5."""

    trunk_tokens: int
    fork_tokens: int

    @property
    def ratio(self) -> float:
        return (self.trunk_tokens + self.fork_tokens) / max(1, self.trunk_tokens)


def fork_cost(trees: Iterable[ReasoningTree]) -> ForkCost:
    """What forking cost on top of the main trajectories."""
    trunk = total = 0
    for tree in trees:
        depth_tokens = [0]
        for node in tree.nodes[1:]:
            depth_tokens.append(depth_tokens[node.parent] + len(node.token_ids))
            total += len(node.token_ids) * node.num_draws
        trunk += sum(depth_tokens[leaf] for leaf in tree.trunks)
    return ForkCost(trunk, total - trunk)
