"""A flow verifier that is asked while trees grow: every token once, keys and values kept per node.

Whole-prefix scoring, which every other tool does, runs a path of S steps (S + 1) / 2 times over. Here a new step costs
its own tokens, and a step that was scored before costs nothing. Scores equal those of whole paths up to rounding.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from arts.lm.node_cache import CachedNode, NodeCache
from arts.lm.tree_attention import has_tree_attention, run_new_tokens
from arts.protocols import PathTooLong, ScoreReply, ScoreRequest
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

    caches = True

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
        """Raises PathTooLong, or ValueError where a path is longer than the cache."""
        replies: dict[int, ScoreReply] = {}
        batch: list[_Wanted] = []
        kept: set[CachedNode] = set()
        num_new = num_kept = 0
        for index, request in enumerate(requests):
            token_ids = self._token_ids(request)
            path = self.cache.path(token_ids)
            wanted = _Wanted(index, path, request.num_new)
            if (known := wanted.scores()) is not None:
                self.cache.touch(path)
                replies[index] = ScoreReply(known, 0)
                continue
            more = [node for node in path if node not in kept]
            full = num_kept + _num_tokens(more) > self.cache.pool.capacity
            if batch and (full or num_new + _num_missing(more) > self.batch_tokens):
                replies |= self._compute(batch)
                path = self.cache.path(token_ids)  # its nodes may have been dropped for those that just ran
                wanted = _Wanted(index, path, request.num_new)
                batch, kept, more, num_new, num_kept = [], set(), path, 0, 0
            batch.append(wanted)
            kept.update(more)
            num_new, num_kept = num_new + _num_missing(more), num_kept + _num_tokens(more)
        if batch:
            replies |= self._compute(batch)
        return [replies[index] for index in range(len(requests))]

    def forget(self) -> None:
        self.cache = NodeCache(self.cache.pool.capacity)

    def _compute(self, batch: Sequence["_Wanted"]) -> dict[int, ScoreReply]:
        """Run what is missing of the paths, and keep a score on every node that ran."""
        runs = self.cache.bring_in([wanted.path for wanted in batch])
        if runs:
            output = run_new_tokens(self.verifier.backbone, [run for _, run in runs], self.cache.pool)
            ends = torch.tensor([len(run.token_ids) for _, run in runs]).cumsum(0) - 1
            hidden_NH = output.last_hidden_state[0][ends.to(output.last_hidden_state.device)]
            log_flows = self.objective.log_flow(self.verifier.read(hidden_NH), self.rewards).tolist()
            for (node, _), log_flow in zip(runs, log_flows, strict=True):
                node.output = log_flow
        ran = {node for node, _ in runs}
        replies = {}
        for wanted in batch:
            for above, node in pairwise(wanted.path):
                if node.output is None:  # a step without tokens ends where the one above it does
                    node.output = above.output
            # A node is billed to the first path that needs it.
            replies[wanted.place] = ScoreReply(wanted.scores() or (), _num_tokens(ran.intersection(wanted.path)))
            ran.difference_update(wanted.path)
        return replies

    def _token_ids(self, request: ScoreRequest) -> list[Sequence[int]]:
        steps = (Node(id=index, parent=index - 1, **step._asdict()) for index, step in enumerate(request.steps, 1))
        nodes = (Node(id=0, parent=-1), *steps)
        ids = self.verifier.node_token_ids(
            ReasoningTree(problem=request.problem, nodes=nodes, tokenizer=self.tokenizer)
        )
        length = sum(map(len, ids))
        if length > self.verifier.max_positions:
            raise PathTooLong(
                f"problem {request.problem.id!r}: a path takes {length} tokens and the verifier's context is "
                f"{self.verifier.max_positions}; use a backbone with a longer context, or shorter solutions"
            )
        return ids


class _Wanted(NamedTuple):
    place: int
    path: list[CachedNode]
    num_new: int

    def scores(self) -> tuple[float, ...] | None:
        """Of the new steps; None while one of them has none."""
        found = tuple(node.output for node in self.path[-self.num_new :])
        return None if None in found else found


def _num_tokens(nodes: Iterable[CachedNode]) -> int:
    return sum(len(node.token_ids) for node in nodes)


def _num_missing(nodes: Iterable[CachedNode]) -> int:
    return _num_tokens(node for node in nodes if node.slots is None)
