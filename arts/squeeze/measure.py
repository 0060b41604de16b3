"""Log-likelihood of given paths under a local model: every token of a tree computed once, as in training.

A packed tree gives the next-token logits behind every token; the first token of a step is predicted behind the last of
its parent. Models whose attention cannot go by trees are given one row for every path. Knows no base and no tuned.

Shapes: T tokens of packed trees, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from arts.lm.load import LanguageModel
from arts.lm.packing import PackedTree, join_packed, pack_tree, split_nodes
from arts.lm.tree_attention import attends_to_all_above, run_packed, use_tree_attention
from arts.squeeze.paths import finished_paths
from arts.tree import ReasoningTree

MAX_PACKED_TOKENS = 4096  # of one sequence; its logits are V numbers a token


class _Part(NamedTuple):
    """A tree's finished paths, or a part of them that fits one sequence."""

    tree: int
    nodes: Sequence[int]
    "the tree's ids of the nodes; everything below counts them anew"
    parents: Sequence[int]
    node_ids: Sequence[Sequence[int]]
    packed: PackedTree


class LocalLikelihood:
    """`Likelihood` of a causal language model, at temperature 1."""

    def __init__(self, language_model: LanguageModel, *, name: str, max_tokens: int = MAX_PACKED_TOKENS) -> None:
        self.language_model, self.name, self.max_tokens = language_model, name, max_tokens
        self.tokenizer_fingerprint = language_model.tokenizer_fingerprint
        self._by_trees = attends_to_all_above(language_model.model.config)
        if self._by_trees:
            use_tree_attention(language_model.model)

    @torch.inference_mode()
    def score(self, trees: Sequence[ReasoningTree], watch: Callable[[int], None] = lambda _: None) -> list[list[float]]:
        """log pi of the finished paths of each tree.

        Raises:
            ValueError: a path is longer than the model's context.
        """
        log_probs = [[0.0] * len(tree.nodes) for tree in trees]
        batch: list[_Part] = []
        for number, tree in enumerate(trees):
            for part in self._parts(number, tree):
                if batch and (not self._by_trees or _size([*batch, part]) > self.max_tokens):
                    self._run(batch, log_probs)
                    batch = []
                    watch(number)
                batch.append(part)
        if batch:
            self._run(batch, log_probs)
        watch(len(trees))
        return [
            [sum(log_probs[number][node.id] for node in tree.path(leaf.id)) for leaf in finished_paths(tree)]
            for number, tree in enumerate(trees)
        ]

    def _parts(self, number: int, tree: ReasoningTree) -> list[_Part]:
        """What is run of a tree: as few tokens as its finished paths have, or one path after another."""
        node_ids = self.language_model.text.node_ids(tree)
        self._check_length(tree, node_ids)
        paths = [[0, *(node.id for node in tree.path(leaf.id))] for leaf in finished_paths(tree)]
        groups = ([sorted({node for path in paths for node in path})] if paths else []) if self._by_trees else paths
        parts = []
        for nodes in groups:
            number_of = {node: place for place, node in enumerate(nodes)}
            parents = [number_of.get(tree.nodes[node].parent, -1) for node in nodes]
            ids = [node_ids[node] for node in nodes]
            parts += [
                _Part(number, nodes, parents, ids, pack_tree(parents, ids, kept))
                for kept in split_nodes(parents, list(map(len, ids)), self.max_tokens)
            ]
        return parts

    def _run(self, batch: Sequence[_Part], log_probs: list[list[float]]) -> None:
        """One pass of the model; writes log pi(step | path above) of every node of the batch."""
        model = self.language_model.model
        if self._by_trees:
            logits_TV = run_packed(model, join_packed([part.packed for part in batch])).logits[0]
        else:
            [part] = batch
            row = torch.from_numpy(part.packed.token_ids.astype(np.int64))[None].to(self.language_model.device)
            logits_TV = model(input_ids=row, use_cache=False).logits[0]
        start = 0
        for part in batch:
            end = start + len(part.packed.token_ids)
            found = _sum_by_node(part.packed, part.parents, part.node_ids, logits_TV[start:end])
            for place, value in found.items():
                log_probs[part.tree][part.nodes[place]] = value
            start = end

    def _check_length(self, tree: ReasoningTree, node_ids: Sequence[Sequence[int]]) -> None:
        limit = getattr(self.language_model.model.config, "max_position_embeddings", None)
        longest = max(
            (sum(len(node_ids[node.id]) for node in tree.path(leaf.id)) for leaf in finished_paths(tree)), default=0
        )
        if limit is not None and longest + len(node_ids[0]) > limit:
            raise ValueError(
                f"problem {tree.problem.id!r}: a path takes {longest + len(node_ids[0])} tokens and the context of "
                f"{self.name} is {limit}; leave such problems out, or collect with fewer --max-new-tokens"
            )


def _size(parts: Sequence[_Part]) -> int:
    return sum(len(part.packed.token_ids) for part in parts)


def _sum_by_node(
    packed: PackedTree, parents: Sequence[int], node_ids: Sequence[Sequence[int]], logits_TV: Any
) -> dict[int, float]:
    """log pi of each node's own tokens, each predicted behind the token before it; the root's are given."""
    end_of = dict(zip(packed.nodes.tolist(), packed.node_end.tolist(), strict=True))
    places, targets, owners = [], [], []
    for node in end_of:
        ids = node_ids[node]
        if parents[node] < 0 or not ids:
            continue
        first = end_of[node] - len(ids) + 1
        places += [end_of[parents[node]], *range(first, end_of[node])]
        targets += list(ids)
        owners += [node] * len(ids)
    found = dict.fromkeys(end_of, 0.0)
    if not places:
        return found
    log_law = torch.log_softmax(logits_TV[torch.tensor(places)].float(), dim=-1)
    values = log_law.gather(1, torch.tensor(targets, device=log_law.device)[:, None])[:, 0].double().tolist()
    for node, value in zip(owners, values, strict=True):
        found[node] += value
    return found
