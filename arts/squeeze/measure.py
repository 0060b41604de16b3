"""Log-likelihood of given paths under a local model: every token of a tree computed once, as in training.

A packed tree gives the next-token logits behind every token; the first token of a step is predicted behind the last of
its parent. Models whose attention cannot go by trees are given one row for every path. Knows no base and no tuned.

Shapes: T tokens of packed trees, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from arts.lm.load import LanguageModel
from arts.lm.packing import PackedTree, join_packed, pack_tree, split_nodes
from arts.lm.tree_attention import attends_to_all_above, run_packed, use_tree_attention
from arts.squeeze.paths import finished_paths
from arts.tree import ReasoningTree

MAX_PACKED_TOKENS = 4096  # of one sequence; its logits are V numbers a token


class LocalLikelihood:
    """`Likelihood` of a causal language model, at temperature 1."""

    def __init__(self, language_model: LanguageModel, *, name: str, max_tokens: int = MAX_PACKED_TOKENS) -> None:
        self.language_model, self.name, self.max_tokens = language_model, name, max_tokens
        self._by_trees = attends_to_all_above(language_model.model.config)
        if self._by_trees:
            use_tree_attention(language_model.model)

    @torch.inference_mode()
    def score(self, trees: Sequence[ReasoningTree], watch: Callable[[int], None] = lambda _: None) -> list[list[float]]:
        """log pi of the finished paths of each tree.

        Raises:
            ValueError: a path is longer than the model's context.
        """
        scores = []
        for number, tree in enumerate(trees, start=1):
            log_probs = self._node_log_probs(tree)
            scores.append(
                [sum(log_probs[node.id] for node in tree.path(leaf.id)) for leaf in finished_paths(tree)]
            )
            watch(number)
        return scores

    def _node_log_probs(self, tree: ReasoningTree) -> list[float]:
        """log pi(step | path above) of every node; 0 at the root."""
        node_ids = self.language_model.text.node_ids(tree)
        self._check_length(tree, node_ids)
        wanted = sorted({node.id for leaf in finished_paths(tree) for node in tree.path(leaf.id)} | {0})
        parents = [node.parent for node in tree.nodes]
        log_probs = [0.0] * len(tree.nodes)
        if self._by_trees:
            number_of = {node: number for number, node in enumerate(wanted)}
            kept_parents = [number_of.get(parents[node], -1) for node in wanted]
            kept_ids = [node_ids[node] for node in wanted]
            for part in split_nodes(kept_parents, [len(ids) for ids in kept_ids], self.max_tokens):
                packed = pack_tree(kept_parents, kept_ids, part)
                logits_TV = run_packed(self.language_model.model, join_packed([packed])).logits[0]
                for number, value in _sum_by_node(packed, kept_parents, kept_ids, logits_TV).items():
                    log_probs[wanted[number]] = value
            return log_probs
        for leaf in finished_paths(tree):
            for node, value in self._path_log_probs([0, *(node.id for node in tree.path(leaf.id))], node_ids).items():
                log_probs[node] = value
        return log_probs

    def _path_log_probs(self, path: Sequence[int], node_ids: Sequence[Sequence[int]]) -> dict[int, float]:
        """The same for one path in a row of its own."""
        chain = [node_ids[node] for node in path]
        packed = pack_tree(range(-1, len(path) - 1), chain)
        row = torch.tensor([packed.token_ids], device=self.language_model.device)
        logits_TV = self.language_model.model(input_ids=row, use_cache=False).logits[0]
        found = _sum_by_node(packed, list(range(-1, len(path) - 1)), chain, logits_TV)
        return {path[place]: value for place, value in found.items()}

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


def _sum_by_node(
    packed: PackedTree, parents: Sequence[int], node_ids: Sequence[Sequence[int]], logits_TV: Any
) -> dict[int, float]:
    """log pi of each node's own tokens, each predicted behind the token before it; the root's are given."""
    end_of = dict(zip(packed.nodes, packed.node_end, strict=True))
    places, targets, owners = [], [], []
    for node in packed.nodes:
        ids = node_ids[node]
        if parents[node] < 0 or not ids:
            continue
        first = end_of[node] - len(ids) + 1
        places += [end_of[parents[node]], *range(first, end_of[node])]
        targets += list(ids)
        owners += [node] * len(ids)
    found = dict.fromkeys(packed.nodes, 0.0)
    if not places:
        return found
    log_law = torch.log_softmax(logits_TV[torch.tensor(places)].float(), dim=-1)
    values = log_law.gather(1, torch.tensor(targets, device=log_law.device)[:, None])[:, 0].double().tolist()
    for node, value in zip(owners, values, strict=True):
        found[node] += value
    return found
