"""One problem of a large run, made up: its tokens, its bytes, and what our own code takes for each of its tokens.

Knows trees and the store; `plan.py` makes a plan of it, and `growth.py` keeps what is measured as a row.
"""

import json
import pickle
import random
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, NamedTuple

from arts.facts import TreeFacts
from arts.files import dump
from arts.store import JournalRow, _journal_row_to_json, tree_from_json, tree_to_json
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, Usage, Verdict, build_tree


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is drawn, trained on and searched. The defaults are the paper's: 12,000 problems of MATH x 72 rollouts."""

    problems: int = 12_000
    trunks: int = 16
    rollouts: int = 72
    "trunks and forks of a problem; 16 (1 + 7/2) with a fork at half of the inner ones of 8 steps"
    steps: int = 8
    "of a trunk"
    tokens: int = 400
    "of a trunk"
    prompt_tokens: int = 150
    epochs: int = 2
    "passes of the verifier over all trees"
    test_problems: int = 500
    test_rollouts: int = 16

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}; it must be at least 1")
        if self.rollouts < self.trunks:
            raise ValueError(f"{self.rollouts} rollouts hold no {self.trunks} trunks; give at least as many")
        if self.forks and self.steps < 2:
            raise ValueError("a solution of 1 step has no inner step to fork from; give --steps 2 or more")
        if self.tokens < self.steps:
            raise ValueError(f"{self.tokens} tokens make no {self.steps} steps; a step has at least one")

    @property
    def forks(self) -> int:
        return self.rollouts - self.trunks

    @property
    def problem_tokens(self) -> float:
        """Generated tokens of a problem: T for a trunk, and T / 2 for a fork."""
        return self.tokens * (self.trunks + self.forks / 2)

    @property
    def generated_tokens(self) -> float:
        return self.problems * self.problem_tokens

    @property
    def distinct_tokens(self) -> float:
        """Of all trees, prompts included: what the verifier reads in one pass, where no two steps are equal."""
        return self.generated_tokens + self.problems * self.prompt_tokens

    @property
    def sent_tokens(self) -> float:
        """Prompt tokens of all requests: the trunks share one, a fork's holds the path above it too."""
        return self.problems * (self.prompt_tokens + self.forks * (self.prompt_tokens + self.tokens / 2))

    @property
    def test_tokens(self) -> float:
        return self.test_problems * self.test_rollouts * self.tokens


class Measured(NamedTuple):
    """Microseconds of a core and bytes of memory, a token."""

    write_us: float
    "of the driver of a collection: journal, tree, checker's answer, shard"
    read_us: float
    prepare_us: float
    "of a trainer: targets and packing, behind reading"
    packed_bytes: float
    "that a trainer holds"
    loaded_bytes: float
    "of a tree in memory, as `arts evaluate` holds those of its pool"


def made_up_problem(work: Work) -> tuple[list[Rollout], ReasoningTree]:
    """One problem of that shape: random ids of a large vocabulary, four characters a token."""
    rng = random.Random(0)

    def steps(first: int) -> tuple[Step, ...]:
        bounds = [work.tokens * step // work.steps for step in range(first, work.steps + 1)]
        made = []
        for number, (start, end) in enumerate(pairwise(bounds), start=first + 1):
            ids = tuple(rng.randrange(1_000, 150_000) for _ in range(end - start))
            text = "".join(rng.choice("abcdefgh ") for _ in range(4 * len(ids)))
            stop = StopReason.EOS if number == work.steps else StopReason.STOP
            made.append(Step(text, ids, round(-9 * rng.random(), 6), stop))
        return tuple(made)

    rollouts = [Rollout(index, index, 0, steps(0)) for index in range(work.trunks)]
    for number in range(work.forks):
        depth = 1 + number % (work.steps - 1)
        rollouts.append(Rollout(work.trunks + number, number % work.trunks, depth, steps(depth)))
    problem = Problem("problem", "x" * 4 * work.prompt_tokens)
    return rollouts, build_tree(problem, rollouts, tokenizer="made up", judge=judge)


def judge(text: str) -> Verdict:
    return Verdict(text[-1] in "abc", text[-4:])


def stored_bytes(tree: ReasoningTree) -> int:
    """Of one tree as a line of a shard."""
    return len(dump(tree_to_json(tree))) + 1


def sent_bytes(rollouts: list[Rollout], tree: ReasoningTree) -> int:
    """Of what a worker sends to the driver: the rollouts for the journal, the tree for the shard."""
    return len(pickle.dumps((rollouts, tree)))


def measure(work: Work, repetitions: int = 20) -> Measured:
    """On this machine, on one thread; least of several times, in processor time."""
    from arts.lm.packing import pack_tree, split_nodes
    from arts.verifier.objectives import DEFAULT_OBJECTIVE, RewardSettings
    from arts.verifier.scorer import MAX_PACKED_TOKENS

    rollouts, tree = made_up_problem(work)
    num_tokens = tree.num_distinct_tokens()
    line = dump(tree_to_json(tree))

    def write() -> None:
        dump(_journal_row_to_json(JournalRow("problem", tuple(rollouts), Usage())))
        dump(tree_to_json(build_tree(tree.problem, rollouts, tokenizer="made up", judge=judge)))

    def prepare() -> Any:
        facts = TreeFacts.of(tree)
        parents = [node.parent for node in tree.nodes]
        ids = [range(work.prompt_tokens), *(node.token_ids for node in tree.nodes[1:])]
        parts = split_nodes(parents, list(map(len, ids)), MAX_PACKED_TOKENS)
        targets = DEFAULT_OBJECTIVE.targets(facts, RewardSettings())
        return [pack_tree(parents, ids, part) for part in parts], replace(facts), targets

    def us(call: Callable[[], Any]) -> float:
        times = []
        for _ in range(repetitions):
            started = time.process_time()
            call()
            times.append(time.process_time() - started)
        return 1e6 * min(times) / num_tokens

    def held(call: Callable[[], Any]) -> float:
        tracemalloc.start()
        kept = call()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        del kept
        return size / num_tokens

    def read() -> ReasoningTree:
        return tree_from_json(json.loads(line))

    found = Measured(us(write), us(read), us(prepare), held(prepare), held(read))
    return Measured(*(round(value, 3) for value in found))
