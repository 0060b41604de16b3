"""One problem's tree as one sequence of its distinct tokens, so that every token is computed once.

A token attends to the prompt, to the steps above its own and to the earlier tokens of its own step; its position is its
depth in tokens. The result equals one row per path, up to rounding. Knows token ids and parents, no text and no model.

Shapes: B trees, L tokens (padded), N nodes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch


class PackedTree(NamedTuple):
    """One tree, or the part of it that was asked for, in packed form."""

    token_ids: list[int]
    positions: list[int]
    "depth of each token, counted in tokens from the start of the prompt"
    token_node: list[int]
    "index into `nodes` of the node that each token belongs to"
    nodes: list[int]
    "node ids in packed order, the root first"
    node_end: list[int]
    "index of the last token of each entry of `nodes`; an empty node ends where its parent does"
    parent_index: list[int]
    "index into `nodes` of each entry's parent; -1 at the root"


def pack_tree(
    parents: Sequence[int], node_token_ids: Sequence[Sequence[int]], nodes: Sequence[int] | None = None
) -> PackedTree:
    """Pack a tree, or the nodes named (which must hold the ancestors of each, in order of id).

    Args:
        parents: parent id of each node; -1 at the root, parents before children.
        node_token_ids: ids of each node; the root's are the prompt, at least one token.
    """
    nodes = list(range(len(parents))) if nodes is None else list(nodes)
    index_of = {node: index for index, node in enumerate(nodes)}
    packed = PackedTree([], [], [], nodes, [], [])
    depth_end: list[int] = []  # tokens from the start of the prompt to the end of each node
    for index, node in enumerate(nodes):
        parent_index = index_of[parents[node]] if parents[node] >= 0 else -1
        start = depth_end[parent_index] if parent_index >= 0 else 0
        ids = node_token_ids[node]
        packed.token_ids.extend(ids)
        packed.positions.extend(range(start, start + len(ids)))
        packed.token_node.extend([index] * len(ids))
        packed.parent_index.append(parent_index)
        packed.node_end.append(len(packed.token_ids) - 1 if ids else packed.node_end[parent_index])
        depth_end.append(start + len(ids))
    return packed


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
        path = []
        while node >= 0:
            path.append(node)
            node = parents[node]
        extra = sum(num_tokens[node] for node in path if node not in parts[-1])
        if parts[-1] and size + extra > max_tokens:
            parts.append(set())
            size, extra = 0, sum(num_tokens[node] for node in path)
        parts[-1].update(path)
        size += extra
    return [sorted(part) for part in parts]


class PackedBatch(NamedTuple):
    """Several packed trees, padded on the right."""

    input_ids_BL: torch.Tensor
    position_ids_BL: torch.Tensor
    attention_mask_B1LL: torch.Tensor
    "True where row attends to column; padding attends to itself, so that no row is empty"
    node_row: torch.Tensor
    "row of every node of every tree, tree after tree [sum of N]"
    node_column: torch.Tensor
    "column of the last token of every node [sum of N]"


def pad_packed(trees: Sequence[PackedTree], pad_token_id: int) -> PackedBatch:
    num_rows, length = len(trees), max(len(tree.token_ids) for tree in trees)
    ids = np.full((num_rows, length), pad_token_id, dtype=np.int64)
    positions = np.zeros((num_rows, length), dtype=np.int64)
    mask = np.zeros((num_rows, length, length), dtype=bool)
    mask[:, np.arange(length), np.arange(length)] = True
    for row, tree in enumerate(trees):
        size = len(tree.token_ids)
        ids[row, :size] = tree.token_ids
        positions[row, :size] = tree.positions
        mask[row, :size, :size] = _ancestor_mask(tree)
    return PackedBatch(
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        torch.from_numpy(mask)[:, None],
        torch.from_numpy(np.repeat(np.arange(num_rows), [len(tree.nodes) for tree in trees])),
        torch.from_numpy(np.concatenate([np.asarray(tree.node_end) for tree in trees])),
    )


def _ancestor_mask(tree: PackedTree) -> np.ndarray:
    """[L, L] True where the column's node is the row's or above it, and the column does not come later."""
    num_nodes = len(tree.nodes)
    above = np.eye(num_nodes, dtype=bool)
    for index, parent in enumerate(tree.parent_index):
        if parent >= 0:
            above[index] |= above[parent]
    token_node = np.asarray(tree.token_node)
    mask: np.ndarray = above[token_node][:, token_node] & np.tri(len(token_node), dtype=bool)
    return mask
