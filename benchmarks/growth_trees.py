"""What one node costs as a tree grows from 10 nodes to 100,000: every operation on a tree, in this process.

Two shapes: `wide`, solutions of 8 steps whose number grows, and `deep`, 16 solutions whose length grows. Half of the
rollouts of both are forks. Steps have 8 tokens. Proposer, verifier and checker are instant, so what is left is ours.
Knows the operations and how they are timed; `growth.py` runs them and keeps the rows.
"""

import gc
import json
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from arts.evaluate.run import evaluate_trees
from arts.facts import TreeFacts
from arts.files import dump
from arts.lm.packing import join_packed, pack_tree, split_nodes
from arts.pages.tree import tree_markup
from arts.protocols import ScoredTrees
from arts.residuals import tree_residuals
from arts.sparse_deep_fork import fork_cost
from arts.store import tree_from_json, tree_to_json
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, Verdict, build_tree
from arts.verifier.objectives import OBJECTIVES, RewardSettings, join_targets
from arts.verifier.scorer import MAX_PACKED_TOKENS
from arts.view.page import View, render_view

Row = dict[str, Any]
STEP_TOKENS = 8
LIMIT_S = 10.0
PROMPT = tuple(range(1, 33))
WIDE_STEPS = 8
DEEP_TRUNKS = 16
PROBLEM = Problem("grown", "a problem")
SHAPES = ("wide", "deep")


class Grown(NamedTuple):
    """One tree, and what it is made of."""

    rollouts: tuple[Rollout, ...]
    tree: ReasoningTree
    text: str
    "the tree as a line of a shard"


def judge(text: str) -> Verdict:
    return Verdict(text[-2] in "123", text[-4:])


def grown(shape: str, num_nodes: int) -> Grown:
    """A tree of about that many nodes, scored at random."""
    rng = random.Random(0)
    steps = WIDE_STEPS if shape == "wide" else max(2, num_nodes * 2 // (3 * DEEP_TRUNKS))
    trunks = max(1, num_nodes * 2 // (3 * steps))
    rollouts = [Rollout(index, index, 0, _steps(rng, steps)) for index in range(trunks)]
    rollouts += [Rollout(trunks + index, index, steps // 2, _steps(rng, steps - steps // 2)) for index in range(trunks)]
    tree = build_tree(PROBLEM, rollouts, tokenizer="random", judge=judge)
    tree = tree.with_log_flows([-rng.random() for _ in tree.nodes])
    return Grown(tuple(rollouts), tree, dump(tree_to_json(tree)))


def _steps(rng: random.Random, count: int) -> tuple[Step, ...]:
    ends = [StopReason.STOP] * (count - 1) + [StopReason.EOS]
    return tuple(
        Step(f"{rng.random():.12f};", tuple(rng.choices(range(1000, 50_000), k=STEP_TOKENS)), -1.0, stop)
        for stop in ends
    )


# --- operations -------------------------------------------------------------------------------------------------------


def walk(one: Grown) -> None:
    """What a reader of trees does: children, leaves, depths, and the path of every draw."""
    tree = one.tree
    tree.children()
    tree.depths()
    fork_cost([tree])
    for leaf in tree.leaves():
        tree.path(leaf.id)


def pack(one: Grown) -> None:
    """Parts of at most what one sequence of a verifier takes, each packed, and batches of them with their keys."""
    nodes = one.tree.nodes
    parents, ids = [node.parent for node in nodes], [PROMPT, *(node.token_ids for node in nodes[1:])]
    for part in split_nodes(parents, [len(own) for own in ids], MAX_PACKED_TOKENS):
        join_packed([pack_tree(parents, ids, part)])


def evaluate(one: Grown) -> None:
    evaluate_trees([one.tree, one.tree], {"arts": ScoredTrees([one.tree, one.tree], 0, 0)})


def page(one: Grown) -> None:
    render_view(View(title="grown", trees=[one.tree]))


def targets(name: str) -> Callable[[Grown], None]:
    """Targets and weights of one objective, and its loss on them."""
    objective, rewards = OBJECTIVES[name](), RewardSettings()

    def run(one: Grown) -> None:
        facts = TreeFacts.of(one.tree)
        found = objective.targets(facts, rewards)
        batch = join_targets([found], [len(facts.parent)])
        objective.loss(torch.zeros(len(facts.parent), objective.num_outputs), batch, rewards)

    return run


OPERATIONS: Mapping[str, Callable[[Grown], Any]] = {
    "build": lambda one: build_tree(PROBLEM, one.rollouts, judge=judge),
    "write": lambda one: dump(tree_to_json(one.tree)),
    "read": lambda one: tree_from_json(json.loads(one.text)),
    "walk": walk,
    "facts": lambda one: TreeFacts.of(one.tree).success,
    "residuals": lambda one: list(tree_residuals(one.tree)),
    "pack": pack,
    "evaluate": evaluate,
    "view": page,
    "report": lambda one: tree_markup(one.tree, chosen=one.tree.trunks[0]),
} | {f"targets {name}": targets(name) for name in OBJECTIVES}


def measure(operation: Callable[[Grown], Any], one: Grown, seconds: float = 0.1) -> Row:
    """Least processor time of several calls, a node, and the most memory that one took at a time."""
    times: list[float] = []
    gc.collect()
    while not times or (sum(times) < seconds and len(times) < 20):
        started = time.process_time()
        operation(one)
        times.append(time.process_time() - started)
    tracemalloc.start()
    operation(one)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    nodes = len(one.tree.nodes) - 1
    return {"nodes": nodes, "us_per_node": 1e6 * min(times) / nodes, "bytes_per_node": peak / nodes}


def operation_rows(
    shape: str, sizes: Sequence[int], operations: Sequence[str], is_known: Callable[[Row], bool]
) -> Iterator[Row]:
    """Each operation on trees of rising size; what is expected to take too long is left out."""
    torch.set_num_threads(1)
    trees: dict[int, Grown] = {}
    for name in operations or OPERATIONS:
        us_per_node = 0.0
        for size in sizes:
            key = {"part": "tree", "shape": shape, "operation": name, "size": size}
            if is_known(key) or us_per_node * size > 1e6 * LIMIT_S:
                continue
            if size not in trees:
                trees[size] = grown(shape, size)
            row = key | measure(OPERATIONS[name], trees[size])
            us_per_node = row["us_per_node"]
            yield row
