"""Sparse Deep Fork: which rollouts of a frozen model make the tree of a problem (step 2 of arXiv 2602.12846).

N main trajectories (trunks) are drawn, then continuations from each chosen pivot, an inner step of a trunk: one in the
paper. Says what is to be drawn and puts together what was; draws nothing and knows no file but the rows of a journal.
"""

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from arts.protocols import Reply, Request, Split, Task
from arts.store import JournalRow
from arts.tree import LogPriorLaw, Problem, ReasoningTree, Rollout, Step, StopReason, Usage, build_tree

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


class Job(NamedTuple):
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


class ProblemRun:
    """The rollouts of one problem: those that are there, and those that are still wanted.

    Draws that failed are kept apart where their reply says why: they are wanted again by the next run. Without a reason
    they failed for good, as those of a local model do, and stay in the tree.
    """

    def __init__(
        self, task: Task, settings: CollectSettings, problem: Problem, rows: Iterable[JournalRow] = ()
    ) -> None:
        self.task, self.settings, self.problem = task, settings, problem
        self.rollouts: dict[int, Rollout] = {}
        self.failed: dict[int, tuple[Rollout, str]] = {}
        self.usage = Usage()
        for row in rows:
            self.keep(row)
        self.failed.clear()

    def keep(self, row: JournalRow) -> None:
        """Take a reply in. A rollout that is there already stays as it is."""
        for rollout in row.rollouts:
            if row.failure and rollout.steps[-1].stop is StopReason.ERROR:
                self.failed[rollout.index] = (rollout, row.failure)
            else:
                self.rollouts.setdefault(rollout.index, rollout)
        self.usage = self.usage.plus(row.usage)

    def row(self, job: Job, reply: Reply) -> JournalRow | None:
        """What a reply brings that was not there; None where that is nothing."""
        new = tuple(rollout for rollout in job.rollouts(reply) if rollout.index not in self.rollouts)
        return JournalRow(self.problem.id, new, reply.usage, reply.failure) if new else None

    # --- what is wanted -----------------------------------------------------------------------------------------------

    def trunk_job(self) -> Job:
        return self._job(tuple(range(self.settings.num_trunks)))

    def fork_jobs(self) -> list[Job]:
        """One job per pivot, in order of trunk and depth: a function of the trunks and the seed alone.

        None while a trunk is to be tried again, as the numbers of forks depend on all trunks.
        """
        num_trunks = self.settings.num_trunks
        if not all(trunk in self.rollouts for trunk in range(num_trunks)):
            return []
        pivots: list[tuple[int, tuple[Step, ...]]] = []
        for trunk in range(num_trunks):
            steps = self.rollouts[trunk].steps
            depths = choose_pivots(self.settings, self.problem, trunk, [step.stop for step in steps])
            pivots.extend((trunk, steps[:depth]) for depth in depths)
        width = self.settings.forks_per_pivot
        last = self.settings.num_samples if self.settings.forks_inside else num_trunks + width * len(pivots)
        starts = range(num_trunks, last, width)
        return [
            self._job(tuple(range(start, min(start + width, last))), trunk, prefix)
            for start, (trunk, prefix) in zip(starts, pivots, strict=False)
        ]

    def missing(self, job: Job) -> Job:
        """The part of a job that is not there and did not fail."""
        indices = tuple(index for index in job.indices if index not in self.rollouts and index not in self.failed)
        return job if indices == job.indices else self._job(indices, job.trunk, job.request.prefix)

    def wanted(self, draws_at_once: int) -> list[Job]:
        """What can be asked for now, in requests of that many draws; empty where all is there that will be.

        To be called when nothing is on its way: first come the trunks, then the forks of all of them.
        """
        jobs = [self.missing(self.trunk_job())]
        if not jobs[0].indices:
            jobs = [self.missing(job) for job in self.fork_jobs()]
        return [
            self._job(job.indices[start : start + draws_at_once], job.trunk, job.request.prefix)
            for job in jobs
            for start in range(0, len(job.indices), draws_at_once)
        ]

    def _job(self, indices: tuple[int, ...], trunk: int | None = None, prefix: tuple[Step, ...] = ()) -> Job:
        limit = self.settings.max_new_tokens or self.task.max_new_tokens
        limit -= sum(step.num_tokens for step in prefix)
        seeds = tuple(rollout_seed(self.settings.seed, self.problem, index) for index in indices)
        return Job(Request(self.problem, prefix, seeds, max(1, limit)), indices, trunk)

    # --- what is there ------------------------------------------------------------------------------------------------

    def tree(self, *, log_prior_law: LogPriorLaw, tokenizer: str | None) -> ReasoningTree:
        return build_tree(
            self.problem,
            [*self.rollouts.values(), *(rollout for rollout, _ in self.failed.values())],
            merge=self.settings.merge,
            log_prior_law=log_prior_law,
            tokenizer=tokenizer,
            usage=self.usage,
            judge=lambda solution: self.task.judge(self.problem, solution),
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
    is_counted: bool
    "False where the server tells no token ids, so that tokens are estimated from texts"

    @property
    def ratio(self) -> float:
        return (self.trunk_tokens + self.fork_tokens) / max(1, self.trunk_tokens)


def fork_cost(trees: Iterable[ReasoningTree]) -> ForkCost:
    """What forking cost on top of the main trajectories."""
    trunk = total = 0
    counted = True
    for tree in trees:
        depth_tokens = [0]
        for node in tree.nodes[1:]:
            depth_tokens.append(depth_tokens[node.parent] + node.num_tokens)
            total += node.num_tokens * node.num_draws
            counted = counted and bool(node.token_ids or not node.text)
        trunk += sum(depth_tokens[leaf] for leaf in tree.trunks)
    return ForkCost(trunk, total - trunk, counted)
