"""Score trees with a trained verifier: log F(s) on every node, every token computed once.

Batches are cut by size and never change a score beyond rounding. Trees too large for one sequence are cut into parts
that repeat shared ancestors; the counts say so.
"""

from collections.abc import Sequence

import torch

from arts.console import progress
from arts.lm.packing import PackedTree, pack_tree, pad_packed, split_nodes
from arts.protocols import ScoredTrees
from arts.tree import ReasoningTree
from arts.verifier.model import FlowVerifier
from arts.verifier.objectives import Objective, RewardSettings, build_objective

MAX_PACKED_TOKENS = 2048  # of one sequence: the mask grows with its square
_SCORED_AT_ONCE = 128


class FlowScorer:
    """`Scorer` over a `FlowVerifier`.

    Args:
        batch_tokens: padded tokens of one batch.
    """

    def __init__(self, verifier: FlowVerifier, *, batch_tokens: int = 8192) -> None:
        self.verifier = verifier.eval()
        self.batch_tokens = batch_tokens
        self.objective, self.rewards = trained_objective(verifier)
        self.scale = self.objective.scale(self.rewards)

    @torch.inference_mode()
    def score(self, trees: Sequence[ReasoningTree]) -> ScoredTrees:
        """Raises ValueError where one path is longer than the verifier's context."""
        parts: list[tuple[int, PackedTree]] = []
        distinct = 0
        for index, tree in enumerate(trees):
            packed, num_tokens = pack_for(self.verifier, tree)
            parts.extend((index, part) for part in packed)
            distinct += num_tokens
        flows = [[0.0] * len(tree.nodes) for tree in trees]
        for batch in _batches(parts, self.batch_tokens):
            output_NK = self.verifier(pad_packed([part for _, part in batch], self._pad_id))
            log_flow = self.objective.log_flow(output_NK, self.rewards).tolist()
            position = 0
            for index, part in batch:
                for node in part.nodes:
                    flows[index][node] = log_flow[position]
                    position += 1
        scored = [tree.with_log_flows(flow) for tree, flow in zip(trees, flows, strict=True)]
        return ScoredTrees(scored, sum(len(part.token_ids) for _, part in parts), distinct, self.scale)

    @property
    def _pad_id(self) -> int:
        return pad_id(self.verifier)


def score_with_progress(scorer: FlowScorer, trees: Sequence[ReasoningTree], title: str) -> ScoredTrees:
    """Score many trees, some at a time, and show how far it is."""
    scored: list[ReasoningTree] = []
    computed = distinct = 0
    with progress(title, len(trees)) as tell:
        for start in range(0, len(trees), _SCORED_AT_ONCE):
            part = scorer.score(trees[start : start + _SCORED_AT_ONCE])
            scored.extend(part.trees)
            computed += part.computed_tokens
            distinct += part.distinct_tokens
            tell(len(scored))
    return ScoredTrees(scored, computed, distinct, scorer.scale)


def trained_objective(verifier: FlowVerifier) -> tuple[Objective, RewardSettings]:
    """What a verifier was trained on, from its card; an untrained one counts as one of Reasoning Flow Matching."""
    described = dict(verifier.card.get("objective", {"name": "rfm"}))
    return build_objective(described.pop("name"), described), RewardSettings(**verifier.card.get("rewards", {}))


def pad_id(verifier: FlowVerifier) -> int:
    tokenizer = verifier.language_model.tokenizer
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)


def pack_for(verifier: FlowVerifier, tree: ReasoningTree) -> tuple[list[PackedTree], int]:
    """The packed parts of a tree for one verifier, and the tree's distinct tokens.

    Raises:
        ValueError: a path does not fit the verifier's context.
    """
    parents = [node.parent for node in tree.nodes]
    node_ids = verifier.node_token_ids(tree)
    sizes = [len(ids) for ids in node_ids]
    packed = [pack_tree(parents, node_ids, part) for part in split_nodes(parents, sizes, MAX_PACKED_TOKENS)]
    longest = 1 + max(position for part in packed for position in part.positions)
    if longest > verifier.max_positions:
        raise ValueError(
            f"problem {tree.problem.id!r}: a path takes {longest} tokens and the verifier's context is "
            f"{verifier.max_positions}; use a backbone with a longer context or collect with fewer --max-new-tokens"
        )
    return packed, sum(sizes)


def _batches(parts: Sequence[tuple[int, PackedTree]], batch_tokens: int) -> list[list[tuple[int, PackedTree]]]:
    """Group parts of similar length, so that little is padded."""
    batches: list[list[tuple[int, PackedTree]]] = []
    for item in sorted(parts, key=lambda item: len(item[1].token_ids)):
        length = len(item[1].token_ids)
        if batches and length * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches
