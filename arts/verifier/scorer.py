"""Score trees with a trained verifier: log F(s) on every node, every token computed once.

Batches are cut by size and never change a score beyond rounding. Trees too large for one sequence are cut into parts
that repeat shared ancestors; the counts say so.
"""

from collections.abc import Sequence

import torch

from arts.lm.packing import PackedTree, join_packed, pack_tree, split_nodes
from arts.protocols import PathTooLong, ScoredTrees
from arts.tree import ReasoningTree
from arts.verifier.model import FlowVerifier
from arts.verifier.objectives import Objective, RewardSettings, build_objective

MAX_PACKED_TOKENS = 16384  # of one sequence: it goes through the model whole, so memory grows with it


class FlowScorer:
    """`Scorer` over a `FlowVerifier`.

    Args:
        batch_tokens: tokens of one batch; a single tree may have more.
    """

    def __init__(self, verifier: FlowVerifier, *, batch_tokens: int = 8192) -> None:
        self.verifier = verifier.eval()
        self.batch_tokens = batch_tokens
        self.objective, self.rewards = trained_objective(verifier)
        self.scale = self.objective.scale(self.rewards)

    @torch.inference_mode()
    def score(self, trees: Sequence[ReasoningTree]) -> ScoredTrees:
        """Raises PathTooLong where one path is longer than the verifier's context."""
        parts: list[tuple[int, PackedTree]] = []
        distinct = 0
        for index, tree in enumerate(trees):
            packed, num_tokens = pack_for(self.verifier, tree)
            parts.extend((index, part) for part in packed)
            distinct += num_tokens
        flows = [[0.0] * len(tree.nodes) for tree in trees]
        for batch in _batches(parts, self.batch_tokens):
            output_NK = self.verifier(join_packed([part for _, part in batch]))
            log_flow = self.objective.log_flow(output_NK, self.rewards).tolist()
            position = 0
            for index, part in batch:
                for node in part.nodes.tolist():
                    flows[index][node] = log_flow[position]
                    position += 1
        scored = [tree.with_log_flows(flow) for tree, flow in zip(trees, flows, strict=True)]
        return ScoredTrees(scored, sum(len(part.token_ids) for _, part in parts), distinct, self.scale)


def trained_objective(verifier: FlowVerifier) -> tuple[Objective, RewardSettings]:
    """What a verifier was trained on, from its card; an untrained one counts as one of Reasoning Flow Matching."""
    described = dict(verifier.card.get("objective", {"name": "rfm"}))
    return build_objective(described.pop("name"), described), RewardSettings(**verifier.card.get("rewards", {}))


def pack_for(verifier: FlowVerifier, tree: ReasoningTree) -> tuple[list[PackedTree], int]:
    """The packed parts of a tree for one verifier, and the tree's distinct tokens.

    Raises:
        PathTooLong: a path does not fit the verifier's context.
    """
    parents = [node.parent for node in tree.nodes]
    node_ids = verifier.node_token_ids(tree)
    sizes = [len(ids) for ids in node_ids]
    packed = [pack_tree(parents, node_ids, part) for part in split_nodes(parents, sizes, MAX_PACKED_TOKENS)]
    longest = max(int((part.node_start + part.num_tokens).max()) for part in packed)
    if longest > verifier.max_positions:
        raise PathTooLong(
            f"problem {tree.problem.id!r}: a path takes {longest} tokens and the verifier's context is "
            f"{verifier.max_positions}; use a backbone with a longer context or collect with fewer --max-new-tokens"
        )
    return packed, sum(sizes)


def _batches(parts: Sequence[tuple[int, PackedTree]], batch_tokens: int) -> list[list[tuple[int, PackedTree]]]:
    """Group parts up to a number of tokens; those of similar size share a batch."""
    batches: list[list[tuple[int, PackedTree]]] = []
    size = 0
    for item in sorted(parts, key=lambda item: len(item[1].token_ids)):
        length = len(item[1].token_ids)
        if batches and size + length <= batch_tokens:
            batches[-1].append(item)
        else:
            batches.append([item])
            size = 0
        size += length
    return batches
