"""Trees as a trainer takes them: packed for one verifier, with the targets of their nodes, split by problem."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from arts.lm.packing import PackedTree, pad_packed
from arts.tree import ReasoningTree
from arts.verifier.model import FlowVerifier
from arts.verifier.objectives import (
    NodeTargets,
    RewardSettings,
    RFMSettings,
    TargetBatch,
    join_targets,
    node_targets,
)
from arts.verifier.scorer import pack_for, pad_id


class Example(NamedTuple):
    """One tree, ready to train on."""

    problem_id: str
    parts: list[PackedTree]
    first_seen: np.ndarray
    "for each node of the tree, its place in the joined nodes of `parts` [N]"
    targets: NodeTargets
    answers: tuple[int, ...]
    "finished leaves of the main trajectories, with repeats: what best-of-N chooses from"

    @property
    def num_tokens(self) -> int:
        return sum(len(part.token_ids) for part in self.parts)


def prepare(
    verifier: FlowVerifier, trees: Iterable[ReasoningTree], rewards: RewardSettings, objective: RFMSettings
) -> list[Example]:
    """Pack every tree and compute its targets; trees may be a stream, they are not kept."""
    examples = []
    for tree in trees:
        if len(tree.nodes) < 2:
            continue
        parts, _ = pack_for(verifier, tree)
        joined = np.concatenate([np.asarray(part.nodes) for part in parts])
        first_seen = np.unique(joined, return_index=True)[1]
        targets = node_targets(tree, rewards, objective)
        answers = tuple(leaf for leaf in tree.trunks if tree.nodes[leaf].is_answer)
        examples.append(Example(tree.problem.id, parts, first_seen, targets, answers))
    if not examples:
        raise ValueError("there is not one tree with a step to train on; collect some with `arts collect`")
    return examples


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


def predict(verifier: FlowVerifier, batch: Sequence[Example]) -> tuple[torch.Tensor, TargetBatch]:
    """log F of every node of the examples [N], and their joined targets, on the verifier's device."""
    parts = [part for example in batch for part in example.parts]
    log_flow_parts = verifier(pad_packed(parts, pad_id(verifier)))
    index, offset = [], 0
    for example in batch:
        index.append(example.first_seen + offset)
        offset += sum(len(part.nodes) for part in example.parts)
    log_flow = log_flow_parts[torch.from_numpy(np.concatenate(index)).to(log_flow_parts.device)]
    targets = join_targets([example.targets for example in batch])
    return log_flow, TargetBatch(*(tensor.to(log_flow.device) for tensor in targets))


def picked_right(log_flow: np.ndarray, batch: Sequence[Example], rewards: RewardSettings) -> float:
    """Number of problems whose answer of highest flow is right; without main trajectories, of all terminal nodes."""
    right, offset = 0, 0
    halfway = (math.log(rewards.right) + math.log(rewards.wrong)) / 2
    for example in batch:
        own = log_flow[offset : offset + len(example.targets.parent)]
        offset += len(own)
        leaves = np.array(example.answers or np.flatnonzero(example.targets.is_terminal), dtype=np.int64)
        if len(leaves):
            best = leaves[np.argmax(own[leaves])]
            right += example.targets.is_terminal[best] and example.targets.log_reward[best] > halfway
    return float(right)
