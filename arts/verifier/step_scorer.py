"""A flow verifier that is asked while trees grow: every token once, keys and values kept per node.

Whole-prefix scoring, which every other tool does, runs a path of S steps (S + 1) / 2 times over. Here a new step costs
its own tokens, and a step that was scored before costs nothing. Scores equal those of whole paths up to rounding.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch

from arts.lm.node_cache import CachedNode, NodeCache
from arts.lm.tree_attention import has_tree_attention, run_new_tokens
from arts.protocols import ScoreReply, ScoreRequest
from arts.tree import Node, ReasoningTree
from arts.verifier.model import FlowVerifier
from arts.verifier.scorer import trained_objective


class CachedFlowScorer:
    """`StepScorer` over a `FlowVerifier`.

    Args:
        tokenizer: fingerprint of the tokenizer that the steps' token ids belong to, as a proposer reports it.
        capacity: tokens whose keys and values are kept; the least recently used go first.
        batch_tokens: new tokens of one forward pass; a single path may have more.

    Raises:
        ValueError: the backbone's attention cannot be exchanged (see `use_tree_attention`).
    """

    def __init__(
        self,
        verifier: FlowVerifier,
        *,
        tokenizer: str | None = None,
        capacity: int = 1 << 16,
        batch_tokens: int = 8192,
    ) -> None:
        if not has_tree_attention(verifier.backbone):
            raise ValueError(
                f"the backbone {verifier.language_model.folder!r} uses attention that cannot be exchanged, so no keys "
                "are kept per step; load it with attn_implementation 'sdpa', or score whole paths (WholePathScorer)"
            )
        self.verifier = verifier.eval()
        self.tokenizer = tokenizer
        self.batch_tokens = batch_tokens
        self.objective, self.rewards = trained_objective(verifier)
        self.scale = self.objective.scale(self.rewards)
        self.cache = NodeCache(capacity)

    @torch.inference_mode()
    def score_steps(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        """Raises ValueError where a path is longer than the verifier's context, or than the cache."""
        paths = [self.cache.path(self._token_ids(request)) for request in requests]
        computed = [0] * len(requests)
        batch: list[tuple[int, list[CachedNode]]] = []
        kept: set[CachedNode] = set()
        num_new = num_kept = 0
        for index, (request, path) in enumerate(zip(requests, paths, strict=True)):
            if all(node.output is not None for node in path[-request.num_new :]):
                self.cache.touch(path)
                continue
            more = [node for node in path if node not in kept]
            full = num_kept + _num_tokens(more) > self.cache.pool.capacity
            if batch and (full or num_new + _num_missing(more) > self.batch_tokens):
                self._compute(batch, computed)
                batch, kept, more, num_new, num_kept = [], set(), path, 0, 0
            batch.append((index, path))
            kept.update(more)
            num_new, num_kept = num_new + _num_missing(more), num_kept + _num_tokens(more)
        if batch:
            self._compute(batch, computed)
        return [
            ScoreReply(tuple(node.output for node in path[-request.num_new :]), own)
            for request, path, own in zip(requests, paths, computed, strict=True)
        ]

    def _compute(self, batch: Sequence[tuple[int, list[CachedNode]]], computed: list[int]) -> None:
        """Run what is missing of the paths, and keep a score on every node that ran."""
        runs = self.cache.bring_in([path for _, path in batch])
        ran = {node for node, _ in runs}
        for index, path in batch:  # a node is billed to the first path that needs it
            computed[index] = _num_tokens(node for node in path if node in ran)
            ran.difference_update(path)
        if runs:
            output = run_new_tokens(self.verifier.backbone, [run for _, run in runs], self.cache.pool)
            ends = torch.tensor([len(run.token_ids) for _, run in runs]).cumsum(0) - 1
            hidden_NH = output.last_hidden_state[0][ends.to(output.last_hidden_state.device)]
            head_type = next(self.verifier.head.parameters()).dtype
            log_flows = self.objective.log_flow(self.verifier.head(hidden_NH.to(head_type)), self.rewards).tolist()
            for (node, _), log_flow in zip(runs, log_flows, strict=True):
                node.output = log_flow
        for _, path in batch:
            for above, node in pairwise(path):
                if node.output is None:  # a step without tokens ends where the one above it does
                    node.output = above.output

    def _token_ids(self, request: ScoreRequest) -> list[Sequence[int]]:
        steps = (Node(id=index, parent=index - 1, **step._asdict()) for index, step in enumerate(request.steps, 1))
        nodes = (Node(id=0, parent=-1), *steps)
        ids = self.verifier.node_token_ids(
            ReasoningTree(problem=request.problem, nodes=nodes, tokenizer=self.tokenizer)
        )
        length = sum(map(len, ids))
        if length > self.verifier.max_positions:
            raise ValueError(
                f"problem {request.problem.id!r}: a path takes {length} tokens and the verifier's context is "
                f"{self.verifier.max_positions}; use a backbone with a longer context, or shorter solutions"
            )
        return ids


def _num_tokens(nodes: Iterable[CachedNode]) -> int:
    return sum(len(node.token_ids) for node in nodes)


def _num_missing(nodes: Iterable[CachedNode]) -> int:
    return _num_tokens(node for node in nodes if node.slots is None)
