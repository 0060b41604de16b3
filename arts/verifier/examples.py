"""Trees as a trainer takes them: packed for one verifier, with the targets of their nodes, split by problem.

What cannot be trained on is left out and counted: trees without a step, and paths longer than the verifier's context.
"""

import hashlib
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from arts.lm.packing import PackedBatch, PackedTree, join_packed
from arts.protocols import Aggregation, aggregate
from arts.tree import LogPriorLaw, ReasoningTree
from arts.verifier.model import FlowVerifier
from arts.verifier.objectives import (
    Batch,
    Objective,
    RewardSettings,
    Targets,
    TemperedFlow,
    TreeFacts,
    join_targets,
)
from arts.verifier.scorer import pack_for


class Example(NamedTuple):
    """One tree, ready to train on."""

    problem_id: str
    parts: list[PackedTree]
    first_seen: np.ndarray
    "for each node of the tree, its place in the joined nodes of `parts` [N]"
    facts: TreeFacts
    targets: Targets
    answers: tuple[int, ...]
    "finished leaves of the main trajectories, with repeats: what best-of-N chooses from"

    @property
    def num_nodes(self) -> int:
        return len(self.facts.parent)

    @property
    def num_tokens(self) -> int:
        return sum(len(part.token_ids) for part in self.parts)


@dataclass
class LeftOut:
    """Counts of what no example was made of, or no use."""

    trees: int = 0
    "without a step that fits the context"
    paths: int = 0
    "longer than the verifier's context"
    trees_without_signal: int = 0
    "trees the objective learns nothing from, such as one without two different outcomes to rank"


class Prepared(NamedTuple):
    examples: list[Example]
    left_out: LeftOut
    effective_share: float | None
    "effective sample size at the root as a share of the draws, mean over trees; for objectives that weigh paths"

    def notes(self, context: int) -> list[str]:
        """What to tell the user; nothing where nothing was left out or weighed."""
        notes = []
        if self.left_out.paths:
            notes.append(
                f"paths longer than the verifier's context of {context} tokens, left out: {self.left_out.paths}"
            )
        if self.left_out.trees:
            notes.append(f"trees without a step to train on, left out: {self.left_out.trees}")
        if self.left_out.trees_without_signal:
            notes.append(f"trees that hold nothing this objective learns from: {self.left_out.trees_without_signal}")
        if self.effective_share is not None:
            notes.append(f"effective sample size of the weighted paths: {self.effective_share:.2f} of the draws")
        return notes


def prepare(
    verifier: FlowVerifier,
    trees: Iterable[ReasoningTree],
    rewards: RewardSettings,
    objective: Objective,
    *,
    fork_share: float = 1.0,
) -> Prepared:
    """Pack every tree and compute its targets; trees may be a stream, they are not kept.

    Args:
        fork_share: of the forks, whose steps are trained on. Targets are means over all draws whatever is trained on.

    Raises:
        ValueError: nothing to learn from; an objective with pi_0 was given trees whose log-priors are missing or of
            different laws; or one that compares steps with each other was given a share of the forks only.
    """
    examples: list[Example] = []
    left_out = LeftOut()
    laws: set[LogPriorLaw] = set()
    shares: list[float] = []
    for whole in trees:
        tree, num_cut = within_context(verifier, whole)
        left_out.paths += num_cut
        if len(tree.nodes) < 2:
            left_out.trees += 1
            continue
        facts = TreeFacts.of(tree)
        if objective.needs_prior:
            laws.add(tree.log_prior_law)
            _check_prior(objective, tree, facts, laws)
        if isinstance(objective, TemperedFlow) and facts.is_known[0]:
            shares.append(objective.effective_sample_share(facts))
        targets = objective.targets(facts, rewards)
        if fork_share < 1:
            kept = without_forks(tree, fork_share)
            if len(kept) < 2:
                left_out.trees += 1
                continue
            targets = _targets_of(objective, targets, kept, len(tree.nodes))
            tree = part_of(tree, kept)
            facts = TreeFacts.of(tree)
        parts, _ = pack_for(verifier, tree)
        joined = np.concatenate([part.nodes for part in parts])
        left_out.trees_without_signal += not targets["weight"].sum() > 0
        answers = tuple(leaf for leaf in tree.trunks if tree.nodes[leaf].is_answer)
        first_seen = np.unique(joined, return_index=True)[1]
        # The facts anew: what the targets had them work out would be kept as long as the example.
        examples.append(Example(tree.problem.id, parts, first_seen, replace(facts), targets, answers))
    prepared = Prepared(examples, left_out, math.fsum(shares) / len(shares) if shares else None)
    if not examples:
        raise ValueError(
            "; ".join(
                [
                    "there is not one tree with a step to train on; collect some with `arts collect`",
                    *prepared.notes(verifier.max_positions),
                ]
            )
        )
    if left_out.trees_without_signal == len(examples):
        raise ValueError(
            f"none of the {len(examples)} trees holds anything that objective {objective.name} learns from "
            "(a ranking needs right and wrong paths of one problem); collect more problems or choose another objective"
        )
    return prepared


def _targets_of(objective: Objective, targets: Targets, kept: Sequence[int], num_nodes: int) -> Targets:
    if any(name.endswith("_index") or len(values) != num_nodes for name, values in targets.items()):
        raise ValueError(
            f"objective {objective.name}, as it is set, compares steps of a tree with each other, so it needs all of "
            "them; train it with fork_share 1, or choose one that has a target for each step alone, such as mean_flow"
        )
    return {name: values[kept] for name, values in targets.items()}


def _check_prior(objective: Objective, tree: ReasoningTree, facts: TreeFacts, laws: set[LogPriorLaw]) -> None:
    where = f"objective {objective.name} uses log pi_0, and problem {tree.problem.id!r}"
    if len(laws) > 1:
        raise ValueError(
            f"{where} has log-priors of law {tree.log_prior_law!r} after trees of another law; "
            "train on collections of one law, or choose an objective without pi_0"
        )
    if not np.isfinite(facts.log_prior[facts.is_known]).all():
        raise ValueError(
            f"{where} has steps without a log-prior; collect with a proposer that reports log-probabilities, or choose "
            "an objective without pi_0"
        )


def within_context(verifier: FlowVerifier, tree: ReasoningTree) -> tuple[ReasoningTree, int]:
    """The tree without the steps that end beyond the verifier's context, and the number of paths that were cut."""
    sizes = [len(ids) for ids in verifier.node_token_ids(tree)]
    ends = [sizes[0]]
    for node in tree.nodes[1:]:
        ends.append(ends[node.parent] + sizes[node.id])
    if max(ends) <= verifier.max_positions:
        return tree, 0
    kept = [node.id for node in tree.nodes if ends[node.id] <= verifier.max_positions]
    if not kept:  # the prompt alone is too long
        return replace(tree, nodes=tree.nodes[:1], trunks=()), len(tree.leaves())
    return part_of(tree, kept), len({leaf.id for leaf in tree.leaves()}.difference(kept))


def without_forks(tree: ReasoningTree, share: float) -> list[int]:
    """Ids of the nodes that are left of a tree when each end of a fork stays with chance `share`.

    Main trajectories stay whole. What stays is a function of the problem, and grows with the share.
    """
    rng = random.Random(f"forks {tree.problem.id}")
    ends = {leaf.id for leaf in tree.leaves() if rng.random() < share} | set(tree.trunks)
    kept = {0}
    for end in ends:
        while end not in kept:
            kept.add(end)
            end = tree.nodes[end].parent
    return sorted(kept)


def part_of(tree: ReasoningTree, kept: Sequence[int]) -> ReasoningTree:
    """The tree of some of its nodes, in ascending order, the ancestors of each among them."""
    new_id = {node: place for place, node in enumerate(kept)}
    nodes = tuple(
        replace(tree.nodes[node], id=new_id[node], parent=new_id.get(tree.nodes[node].parent, -1)) for node in kept
    )
    return replace(tree, nodes=nodes, trunks=tuple(new_id[leaf] for leaf in tree.trunks if leaf in new_id))


def split_by_problem(examples: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """(training, validation) examples; a problem is always on the same side, whatever else was collected."""

    def is_validation(example: Example) -> bool:
        digest = hashlib.sha256(f"validation {example.problem_id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < share * 2**64

    training = [example for example in examples if not is_validation(example)]
    validation = [example for example in examples if is_validation(example)]
    if not training or not validation:
        raise ValueError(
            f"{len(examples)} trees leave {len(training)} to train on and {len(validation)} to validate with; "
            "collect more problems or change validation_share"
        )
    return training, validation


class StepEnds:
    """Hidden states of examples' nodes under a frozen backbone: computed once and kept, at most 4 H bytes a node, as
    long as the examples themselves are."""

    def __init__(self, verifier: FlowVerifier) -> None:
        self.verifier = verifier
        self._kept: dict[int, torch.Tensor] = {}

    @torch.no_grad()
    def __call__(self, batch: Sequence[Example]) -> torch.Tensor:
        """[N, H], the nodes of one example after those of another."""
        missing = [example for example in batch if id(example) not in self._kept]
        if missing:
            computed = self.verifier.step_ends(pack(missing)).split([example.num_nodes for example in missing])
            self._kept.update(zip(map(id, missing), computed, strict=True))
        return torch.cat([self._kept[id(example)] for example in batch])


def pack(batch: Sequence[Example]) -> PackedBatch:
    """The trees of a batch behind one another; its nodes are those of one example after those of another."""
    packed = join_packed([part for example in batch for part in example.parts])
    places, offset = [], 0
    for example in batch:
        places.append(example.first_seen + offset)
        offset += sum(len(part.nodes) for part in example.parts)
    return packed._replace(node_end_N=packed.node_end_N[torch.from_numpy(np.concatenate(places))])


def predict(
    model: Callable[[Any], torch.Tensor],
    batch: Sequence[Example],
    inputs: Callable[[Sequence[Example]], PackedBatch | torch.Tensor] = pack,
) -> tuple[torch.Tensor, Batch]:
    """The head's output for every node of the examples [N, K] in float32 or more, and their joined targets beside it.

    Args:
        model: a `FlowVerifier`, or what wraps one.
        inputs: what the model is given for a batch.
    """
    output_NK = model(inputs(batch))
    if output_NK.dtype in (torch.bfloat16, torch.float16):
        output_NK = output_NK.float()
    return output_NK, {name: values.to(output_NK.device) for name, values in joined_targets(batch).items()}


def joined_targets(batch: Sequence[Example]) -> Batch:
    return join_targets([example.targets for example in batch], [example.num_nodes for example in batch])


def picked_right(log_flow: np.ndarray, batch: Sequence[Example], aggregation: Aggregation) -> float:
    """Number of problems whose answer of highest score is right; without main trajectories, of all terminal nodes."""
    right, offset = 0, 0
    for example in batch:
        own = log_flow[offset : offset + example.num_nodes]
        offset += example.num_nodes
        leaves = example.answers or tuple(np.flatnonzero(example.facts.is_terminal))
        if leaves:
            best = max(leaves, key=lambda leaf: _path_score(example.facts, own, leaf, aggregation))
            right += bool(example.facts.is_right[best])
    return float(right)


def _path_score(facts: TreeFacts, log_flow: np.ndarray, leaf: int, aggregation: Aggregation) -> float:
    path = []
    while leaf > 0:
        path.append(float(log_flow[leaf]))
        leaf = int(facts.parent[leaf])
    return aggregate(path[::-1], aggregation)
