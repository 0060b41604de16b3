"""Draw tokens row by row from a causal model: next-token logits for many rows that share prefixes.

Two ways with one interface. `PoolDecoder` keeps keys and values per tree node (node_cache.py): a prefix is run once
however often it is gone on from, and what was drawn is there for whoever goes on below it. `CacheDecoder` works with
every model that transformers can generate with; it runs each prefix of a call once, and keeps nothing between calls.

Shapes: R prefixes, B rows, V vocabulary, K slots a row attends to.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from transformers import DynamicCache

from arts.lm.load import LanguageModel
from arts.lm.node_cache import CachedNode, NodeCache, Plan, Run
from arts.lm.tree_attention import (
    attends_to_all_above,
    has_tree_attention,
    run_new_tokens,
    run_plan,
    use_tree_attention,
)

Parts = Sequence[Sequence[int]]
"""Token ids of a path: the prompt's, then those of each step."""


class Decoder(Protocol):
    @property
    def computed_tokens(self) -> int:
        """Tokens that went through the model so far, padding left out."""
        ...

    def start(self, prefixes: Sequence[Parts], prefix_of_row: Sequence[int], room: int) -> torch.Tensor:
        """Begin rows of at most `room` new tokens; logits [B, V] of their first one."""
        ...

    def advance(self, tokens: Sequence[int], kept: Sequence[int]) -> torch.Tensor:
        """Drop all rows but `kept` (places among those of the last call), give each its newest token; logits [B, V]."""
        ...

    def finish(self, ends: Sequence[tuple[Parts, bool]]) -> None:
        """All rows of `start` are done: the steps each drew, and whether its last one may be gone on from."""
        ...


def build_decoder(language_model: LanguageModel, *, keep_tokens: int) -> Decoder:
    """The pool where tokens are to be kept and the model's attention can be exchanged, else transformers' cache.

    Attention over a window, or in layers of several kinds, needs transformers' own masks. In one large call with
    nothing to keep, transformers' cache is faster: its rows lie in memory as they are read.
    """
    if not keep_tokens:
        return CacheDecoder(language_model.model)
    if attends_to_all_above(language_model.model.config):
        use_tree_attention(language_model.model)
        if has_tree_attention(language_model.model):
            return PoolDecoder(language_model.model, keep_tokens=keep_tokens)
    return CacheDecoder(language_model.model)


class PoolDecoder:
    """Rows over a pool of keys and values.

    Args:
        keep_tokens: tokens that are kept when the rows of a call are done, for those that go on below them.
    """

    def __init__(self, model: Any, *, keep_tokens: int) -> None:
        self.model = model
        self.keep_tokens = keep_tokens
        self.cache = NodeCache(keep_tokens)

    @property
    def computed_tokens(self) -> int:
        return self.cache.computed_tokens

    def start(self, prefixes: Sequence[Parts], prefix_of_row: Sequence[int], room: int) -> torch.Tensor:
        paths = [[node for node in self.cache.path(parts) if node.token_ids] for parts in prefixes]
        self._kept = {node for path in paths for node in path}
        most = sum(len(node.token_ids) for node in self._kept) + len(prefix_of_row) * room
        self.cache.pool.enlarge(most)
        runs = self.cache.bring_in(paths)
        place = {node: index for index, (node, _) in enumerate(runs)}
        passes = [run for _, run in runs]
        for path in paths:
            if path[-1] not in place:  # it was run before, but only keys and values were kept: its last token again
                place[path[-1]] = len(passes)
                slots = self.cache.slots(path[-1])
                passes.append(Run(path[-1].token_ids[-1:], slots[-1:], slots[:-1]))
                self.cache.computed_tokens += 1
        ends = torch.tensor([len(run.token_ids) for run in passes]).cumsum(0) - 1
        wanted = ends[[place[paths[prefix][-1]] for prefix in prefix_of_row]].to(self.model.device)
        unique, row = wanted.unique(return_inverse=True)
        logits_RV = run_new_tokens(self.model, passes, self.cache.pool, logits_to_keep=unique).logits[0]
        above = [self.cache.slots(path[-1]) for path in paths]
        self._rows = np.arange(len(prefix_of_row))
        self._parents = [paths[prefix][-1] for prefix in prefix_of_row]
        self._start = np.array([len(above[prefix]) for prefix in prefix_of_row])
        self._length = self._start.copy()
        self._slots = np.zeros((len(prefix_of_row), int(self._start.max()) + room), dtype=np.int64)
        for index, prefix in enumerate(prefix_of_row):
            self._slots[index, : len(above[prefix])] = above[prefix]
        logits_BV: torch.Tensor = logits_RV[row]
        return logits_BV

    def advance(self, tokens: Sequence[int], kept: Sequence[int]) -> torch.Tensor:
        rows = self._rows = self._rows[np.asarray(kept, dtype=np.int64)]
        length = self._length[rows]
        new = self.cache.take(len(rows), self._kept)
        self._slots[rows, length] = new
        self._length[rows] += 1
        longest = int(length.max()) + 1
        every = np.arange(len(rows))
        mask_R1K = (np.arange(longest) <= length[:, None])[:, None]
        query, offset = every[:, None], np.zeros_like(every)
        arrays = (np.asarray(tokens), length, new, query, self._slots[rows, :longest], mask_R1K, every, offset)
        self.cache.computed_tokens += len(rows)
        logits: torch.Tensor = run_plan(self.model, Plan(*map(torch.from_numpy, arrays)), self.cache.pool).logits[0]
        return logits

    def finish(self, ends: Sequence[tuple[Parts, bool]]) -> None:
        for row, (parts, goes_on) in enumerate(ends):
            own = self._slots[row, self._start[row] : self._length[row]]
            node, start = self._parents[row], 0
            for index, ids in enumerate(parts):
                last = index == len(parts) - 1
                slots, start = own[start : start + len(ids)], start + len(ids)
                node = self._child(node, tuple(ids))
                if (last and not goes_on) or node.slots is not None or (len(slots) < len(ids) and not last):
                    self.cache.pool.give_back(slots)
                    continue
                pending = len(ids) - len(slots)  # the token drawn last was never run
                slots = np.concatenate([slots, self.cache.take(pending, self._kept)])
                self.cache.adopt(node, slots, num_pending=pending)
                self._kept.add(node)
        self._kept = set()
        self.cache.shrink(self.keep_tokens)

    def _child(self, node: CachedNode, ids: tuple[int, ...]) -> CachedNode:
        return node.children.get(ids) or CachedNode(ids, node, node.num_above + len(node.token_ids))


class CacheDecoder:
    """Rows over the cache of transformers: prefixes padded on the left, finished rows taken out."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.computed_tokens = 0

    def start(self, prefixes: Sequence[Parts], prefix_of_row: Sequence[int], room: int) -> torch.Tensor:
        ids = [[token for part in parts for token in part] for parts in prefixes]
        length = max(map(len, ids))
        ids_RT = torch.zeros(len(ids), length, dtype=torch.long)
        mask_RT = torch.zeros(len(ids), length, dtype=torch.long)
        for index, own in enumerate(ids):
            ids_RT[index, length - len(own) :] = torch.tensor(own)
            mask_RT[index, length - len(own) :] = 1
        ids_RT, mask_RT = ids_RT.to(self.model.device), mask_RT.to(self.model.device)
        self._cache = DynamicCache(config=self.model.config)
        output = self.model(
            input_ids=ids_RT,
            attention_mask=mask_RT,
            position_ids=(mask_RT.cumsum(1) - 1).clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.computed_tokens += sum(map(len, ids))
        rows = torch.tensor(list(prefix_of_row), device=mask_RT.device)
        self._cache.batch_select_indices(rows)
        self._mask_BT = mask_RT[rows]
        logits_BV: torch.Tensor = output.logits[rows, -1]
        return logits_BV

    def advance(self, tokens: Sequence[int], kept: Sequence[int]) -> torch.Tensor:
        if len(kept) < len(self._mask_BT):
            index = torch.tensor(list(kept), device=self._mask_BT.device)
            self._cache.batch_select_indices(index)
            self._mask_BT = self._mask_BT[index]
        self._mask_BT = torch.cat([self._mask_BT, self._mask_BT.new_ones(len(kept), 1)], dim=1)
        self.computed_tokens += len(kept)
        output = self.model(
            input_ids=torch.tensor([[token] for token in tokens], device=self._mask_BT.device),
            attention_mask=self._mask_BT,
            position_ids=self._mask_BT.sum(1, keepdim=True) - 1,
            past_key_values=self._cache,
            use_cache=True,
        )
        logits_BV: torch.Tensor = output.logits[:, -1]
        return logits_BV

    def finish(self, ends: Sequence[tuple[Parts, bool]]) -> None:
        del self._cache, self._mask_BT
