"""Trees as one sequence of their distinct tokens, so that every token is computed once.

A token attends to the prompt, to the steps above its own and to the earlier tokens of its own step; its position is its
depth in tokens. The result equals one row per path, up to rounding. Tokens lie depth first, so what a run of them
attends to is short: the path to its first token, and the run itself. Attention is computed run by run, and the work
grows with the depth of a tree instead of its size; `tree_attention` does it. Knows token ids and parents, no text and
no model.

Shapes: T tokens of all trees, N nodes of all trees, R blocks of Q tokens, K keys of a block.
"""

from collections.abc import Sequence, Set
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.integer[Any]]

_BLOCK_SIZES = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)
# What a key costs a block besides its scores, in scores: it is gathered, and its gradient is added up. Fitted on a CPU
# core to training steps with 4 heads of 32 (benchmarks/packing.py --block-size). The optimum is flat: 32 to 128 tokens
# are level for paths of 30 tokens, 64 to 192 for paths of 200.
_KEY_COST = 48


class PackedTree(NamedTuple):
    """One tree, or the part of it that was asked for, depth first.

    A training run holds all of its trees packed. So a token is kept as its id and nothing else, 4 bytes; what follows
    from the node it lies in is made when it is asked for.
    """

    token_ids: Ints
    nodes: Ints
    "node ids in packed order, the root first"
    num_tokens: Ints
    "of each entry of `nodes`"
    node_start: Ints
    "depth of the first token of each entry of `nodes`, counted in tokens from the start of the prompt"
    node_end: Ints
    "index of the last token of each entry of `nodes`; an empty node ends where its parent does"
    node_subtree_end: Ints
    "index behind the last token that lies in or below each entry of `nodes`"

    @property
    def positions(self) -> Ints:
        """Depth of each token, counted in tokens from the start of the prompt."""
        before = np.cumsum(self.num_tokens) - self.num_tokens
        positions: Ints = np.arange(len(self.token_ids)) + np.repeat(self.node_start - before, self.num_tokens)
        return positions

    @property
    def subtree_end(self) -> Ints:
        """Index behind the last token in or below each token's node: token q attends to k <= q < subtree_end[k]."""
        return np.repeat(self.node_subtree_end.astype(np.int64), self.num_tokens)


def pack_tree(
    parents: Sequence[int], node_token_ids: Sequence[Sequence[int]], nodes: Sequence[int] | None = None
) -> PackedTree:
    """Pack a tree, or the nodes named (which must hold the ancestors of each).

    Args:
        parents: parent id of each node; -1 at the root, parents before children.
        node_token_ids: ids of each node; the root's are the prompt, at least one token.
    """
    kept = sorted(range(len(parents)) if nodes is None else nodes)
    children: dict[int, list[int]] = {}
    num_below = {node: len(node_token_ids[node]) for node in kept}
    for node in reversed(kept[1:]):
        num_below[parents[node]] += num_below[node]
        children.setdefault(parents[node], []).append(node)
    order, node_start, node_end, subtree_end = [], [], [], []
    end_of: dict[int, int] = {}
    depth_of: dict[int, int] = {-1: 0}
    stack, start = [0], 0
    while stack:
        node = stack.pop()
        stack.extend(children.get(node, ()))  # the last of them first
        size, parent = len(node_token_ids[node]), parents[node]
        order.append(node)
        node_start.append(depth_of[parent])
        subtree_end.append(start + num_below[node])
        end_of[node] = start + size - 1 if size else end_of[parent]
        node_end.append(end_of[node])
        depth_of[node] = depth_of[parent] + size
        start += size
    return PackedTree(
        np.fromiter(chain.from_iterable(node_token_ids[node] for node in order), np.int32, start),
        _ints(order),
        _ints([len(node_token_ids[node]) for node in order]),
        _ints(node_start),
        _ints(node_end),
        _ints(subtree_end),
    )


def _ints(values: Sequence[int]) -> Ints:
    return np.array(values, dtype=np.int32)


def split_nodes(parents: Sequence[int], num_tokens: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut a tree into parts of at most `max_tokens` tokens where that is possible, each closed under ancestors.

    Leaves are taken depth first, so that a part shares as much as it can. A single path longer than the limit is a part
    of its own: the caller decides whether its model can take it. Ancestors shared by two parts are computed in both.
    """
    if sum(num_tokens) <= max_tokens:
        return [list(range(len(parents)))]
    children: list[list[int]] = [[] for _ in parents]
    for node, parent in enumerate(parents):
        if parent >= 0:
            children[parent].append(node)
    parts: list[set[int]] = [set()]
    size = 0
    stack = [0]
    while stack:
        node = stack.pop()
        stack.extend(reversed(children[node]))
        if children[node]:
            continue
        path = _path_up(parents, node, parts[-1])
        extra = sum(num_tokens[node] for node in path)
        if parts[-1] and size + extra > max_tokens:
            parts.append(set())
            path = _path_up(parents, node, parts[-1])
            size, extra = 0, sum(num_tokens[node] for node in path)
        parts[-1].update(path)
        size += extra
    return [sorted(part) for part in parts]


def _path_up(parents: Sequence[int], node: int, known: Set[int]) -> list[int]:
    """A node and those above it, up to the first known one: what is known is closed under ancestors."""
    path = []
    while node >= 0 and node not in known:
        path.append(node)
        node = parents[node]
    return path


class PackedBatch(NamedTuple):
    """Several packed trees, one behind the other; nothing is padded.

    For attention the sequence is cut into R runs of Q tokens, the last of them filled up. Masks are made where they are
    needed: on the device that attends, as they are much larger than what they are made of.
    """

    input_ids_T: torch.Tensor
    position_ids_T: torch.Tensor
    subtree_end_T: torch.Tensor
    node_end_N: torch.Tensor
    "last token of every node of every tree, tree after tree"
    key_index_RK: torch.Tensor
    "tokens that a run attends to: the path to its first token, then its own; -1 fills up, to a multiple of 8"

    def to(self, device: torch.device) -> "PackedBatch":
        return PackedBatch(*(tensor.to(device) for tensor in self))

    def block_mask_RQK(self) -> torch.Tensor:
        """True where a token attends to a key; what fills up the last run attends as the last token does."""
        num_tokens, num_blocks = len(self.subtree_end_T), len(self.key_index_RK)
        size = -(-num_tokens // num_blocks)
        place = torch.arange(num_blocks * size, device=self.subtree_end_T.device).clamp(max=num_tokens - 1)
        query, key = place.view(num_blocks, size, 1), self.key_index_RK[:, None]
        return (key >= 0) & (key <= query) & (query < self.subtree_end_T[key])

    def dense_mask_TT(self) -> torch.Tensor:
        """The whole attention mask, for attention that cannot go by blocks."""
        place_T = torch.arange(len(self.subtree_end_T), device=self.subtree_end_T.device)
        return (place_T <= place_T[:, None]) & (place_T[:, None] < self.subtree_end_T)


def join_packed(trees: Sequence[PackedTree], *, block_size: int | None = None) -> PackedBatch:
    """Put trees behind one another.

    Args:
        block_size: tokens of a block; None: what the cost model finds cheapest.
    """
    starts = np.cumsum([0, *(len(tree.token_ids) for tree in trees)])[:-1].tolist()
    position_ids = np.concatenate([tree.positions for tree in trees])
    subtree_end = np.concatenate([start + tree.subtree_end for start, tree in zip(starts, trees, strict=True)])
    node_end = np.concatenate(
        [start + tree.node_end.astype(np.int64) for start, tree in zip(starts, trees, strict=True)]
    )
    return PackedBatch(
        torch.from_numpy(np.concatenate([tree.token_ids for tree in trees]).astype(np.int64)),
        torch.from_numpy(position_ids),
        torch.from_numpy(subtree_end),
        torch.from_numpy(node_end),
        torch.from_numpy(_key_index(position_ids, subtree_end, block_size or cheapest_block_size(position_ids))),
    )


def cheapest_block_size(position_ids: np.ndarray) -> int:
    """Tokens of a block that make attention cheapest.

    A block has as many keys as its own tokens and those above its first one: the position of that token. All blocks
    are filled up to the largest. Small blocks repeat the keys above them, large ones score what they then mask.
    """

    def cost(size: int) -> float:
        first = position_ids[::size]
        return float(len(first) * (first.max() + size) * (size + _KEY_COST))

    return min((min(size, len(position_ids)) for size in _BLOCK_SIZES), key=cost)


def _key_index(position_ids: np.ndarray, subtree_end: np.ndarray, size: int) -> np.ndarray:
    num_tokens = len(position_ids)
    num_blocks = -(-num_tokens // size)
    size = -(-num_tokens // num_blocks)  # all about equal: less to fill up
    first = np.minimum(np.arange(num_blocks) * size, num_tokens - 1)
    num_keys = int(position_ids[first].max()) + size
    # Kernels of GPUs take a mask whose rows are aligned; -1 fills up.
    key_index = np.full((num_blocks, num_keys + -num_keys % 8), -1, dtype=np.int64)
    own = np.arange(num_blocks * size).reshape(num_blocks, size)
    roots = np.flatnonzero(position_ids == 0)
    own_root = roots[np.searchsorted(roots, first, side="right") - 1]
    for block, (start, root) in enumerate(zip(first, own_root, strict=True)):
        # In its own tree: looking through all trees before it, a batch would cost the square of its size.
        above = root + np.flatnonzero(subtree_end[root:start] > start)
        key_index[block, : len(above)] = above
        key_index[block, num_keys - size : num_keys] = np.where(own[block] < num_tokens, own[block], -1)
    return key_index
