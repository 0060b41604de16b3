"""Keys and values of the nodes of many trees, so that a step that is new costs its own tokens and nothing above it.

Storage is one pool of token slots for all trees; a node owns the slots of its tokens, and a path is the slots of its
nodes in order (paged attention with pages of one token, as in vLLM and SGLang's radix cache). A forward pass runs the
new tokens of many nodes of many trees in one row without padding; attention gathers what lies above each of them. The
pool is bounded: the nodes used least recently go first, leaves before what they hang on, and come back by being
computed again. Knows token ids and positions, no text and no score.

Shapes: T new tokens, R runs of at most Q new tokens, K slots a run attends to, H heads, D numbers of a head.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

Ints = np.ndarray


class Run(NamedTuple):
    """New tokens in a row, below a path whose tokens are in the pool (or in an earlier run of the same pass)."""

    token_ids: Sequence[int]
    slots: Ints
    "where their keys and values go"
    above: Ints
    "slots of all tokens above them, first one first"


class Plan(NamedTuple):
    """One forward pass over the pool."""

    input_ids_T: torch.Tensor
    position_ids_T: torch.Tensor
    slots_T: torch.Tensor
    query_RQ: torch.Tensor
    "new tokens of each run; filled up with its first"
    key_RK: torch.Tensor
    "slots that each run attends to, its own last; filled up with slot 0"
    mask_RQK: torch.Tensor
    run_T: torch.Tensor
    offset_T: torch.Tensor
    "each new token is `query_RQ[run_T, offset_T]`"


def plan(runs: Sequence[Run]) -> Plan:
    sizes = np.array([len(run.token_ids) for run in runs])
    lengths = np.array([len(run.above) for run in runs])
    starts = np.cumsum(sizes) - sizes
    most, longest = int(sizes.max()), int((lengths + sizes).max())
    key_RK = np.zeros((len(runs), longest), dtype=np.int64)
    for index, run in enumerate(runs):
        key_RK[index, : lengths[index]] = run.above
        key_RK[index, lengths[index] : lengths[index] + sizes[index]] = run.slots
    offset_Q = np.arange(most)
    query_RQ = starts[:, None] + np.where(offset_Q < sizes[:, None], offset_Q, 0)
    mask_RQK = np.arange(longest) <= (lengths[:, None] + np.minimum(offset_Q, sizes[:, None] - 1))[:, :, None]
    run_T = np.repeat(np.arange(len(runs)), sizes)
    offset_T = np.arange(int(sizes.sum())) - starts[run_T]
    arrays = (
        np.concatenate([np.asarray(run.token_ids, dtype=np.int64) for run in runs]),
        lengths[run_T] + offset_T,
        np.concatenate([run.slots for run in runs]),
        query_RQ,
        key_RK,
        mask_RQK,
        run_T,
        offset_T,
    )
    return Plan(*map(torch.from_numpy, arrays))


class KeyValuePool:
    """Keys and values of up to `capacity` tokens, for every layer of a model; memory grows with what is used.

    Slot 0 is never given out: rows are filled up with it, and nothing attends to it.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}
        self._free = np.arange(capacity, 0, -1, dtype=np.int64)  # the low ones are taken first: memory grows with use
        self._num_free = capacity
        self._highest = 0

    @property
    def num_free(self) -> int:
        return self._num_free

    def take(self, count: int) -> Ints:
        if count > self._num_free:
            raise ValueError(f"{count} slots are wanted and {self._num_free} are free")
        self._num_free -= count
        slots = self._free[self._num_free : self._num_free + count].copy()
        self._highest = max(self._highest, int(slots.max(initial=0)))
        return slots

    def enlarge(self, capacity: int) -> None:
        """Make room for more tokens; never for fewer."""
        more = capacity - self.capacity
        if more > 0:
            new = np.arange(capacity, self.capacity, -1, dtype=np.int64)
            self._free = np.concatenate([new, self._free])
            self._num_free += more
            self.capacity = capacity

    def give_back(self, slots: Ints) -> None:
        self._free[self._num_free : self._num_free + len(slots)] = slots
        self._num_free += len(slots)

    def store(self, layer: int, slots_T: torch.Tensor, key_THD: torch.Tensor, value_THD: torch.Tensor) -> None:
        size = len(self.keys[layer]) if layer in self.keys else 0
        if self._highest >= size:
            size = min(self.capacity, max(self._highest, 2 * size, 1023)) + 1
            for states, new in ((self.keys, key_THD), (self.values, value_THD)):
                grown = new.new_zeros((size, *new.shape[1:]))
                if layer in states:
                    grown[: len(states[layer])] = states[layer]
                states[layer] = grown
        self.keys[layer][slots_T] = key_THD
        self.values[layer][slots_T] = value_THD


def attend(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    bias_R1QK: torch.Tensor,
    *,
    scaling: float | None,
    pool: KeyValuePool,
    pass_plan: Plan,
) -> torch.Tensor:
    """Store the new keys and values, then attend run by run. The bias has the heads that share keys as more queries."""
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    pool.store(layer, pass_plan.slots_T, key_BHTD[0].transpose(0, 1), value_BHTD[0].transpose(0, 1))
    num_shared = query_BHTD.shape[1] // key_BHTD.shape[1]
    query = query_BHTD[0][:, pass_plan.query_RQ]  # [heads, R, Q, D]
    query = query.unflatten(0, (-1, num_shared)).permute(2, 0, 1, 3, 4).flatten(2, 3)
    key = pool.keys[layer][pass_plan.key_RK].transpose(1, 2)
    value = pool.values[layer][pass_plan.key_RK].transpose(1, 2)
    output = scaled_dot_product_attention(query, key, value, attn_mask=bias_R1QK, scale=scaling)
    output = output.unflatten(2, (num_shared, -1)).permute(0, 3, 1, 2, 4).flatten(2, 3)  # [R, Q, heads, D]
    output_BTHD: torch.Tensor = output[pass_plan.run_T, pass_plan.offset_T][None]
    return output_BTHD


@dataclass(eq=False)
class CachedNode:
    """Tokens that hang below others; the root of a tree is its prompt."""

    token_ids: tuple[int, ...]
    parent: "CachedNode | None"
    num_above: int
    children: dict[tuple[int, ...], "CachedNode"] = field(default_factory=dict)
    slots: Ints | None = None
    "None: its keys and values are not in the pool (now)"
    num_pending: int = 0
    "tokens at its end that have slots and were never run: a token that was drawn last"
    num_children_in: int = 0
    "children whose keys and values are in the pool; it stays while there are any"
    output: Any = None
    "what the caller made of its last token"


class NodeCache:
    """The nodes of many trees, what of them is in the pool, and what has to be computed.

    Args:
        capacity: tokens the pool holds.
    """

    def __init__(self, capacity: int) -> None:
        self.pool = KeyValuePool(capacity)
        self.roots: dict[tuple[int, ...], CachedNode] = {}
        self.computed_tokens = 0
        self.dropped_tokens = 0
        "that had to make room; what is asked for again is computed again"
        self._in: dict[CachedNode, None] = {}
        "nodes whose tokens are in the pool, the least recently used first"

    def path(self, parts: Sequence[Sequence[int]]) -> list[CachedNode]:
        """The nodes of a path, made where they are new. `parts` are the prompt's ids and those of each step."""
        ids = tuple(parts[0])
        node = self.roots.get(ids)
        if node is None:
            node = self.roots[ids] = CachedNode(ids, None, 0)
        nodes = [node]
        for part in parts[1:]:
            ids = tuple(part)
            child = node.children.get(ids)
            if child is None:
                child = node.children[ids] = CachedNode(ids, node, node.num_above + len(node.token_ids))
            node = child
            nodes.append(node)
        return nodes

    def touch(self, path: Sequence[CachedNode]) -> None:
        """Mark a path as used now."""
        for node in path:
            if node in self._in:
                self._in[node] = self._in.pop(node)

    def bring_in(self, paths: Sequence[Sequence[CachedNode]]) -> list[tuple[CachedNode, Run]]:
        """Slots for all nodes of the paths that are not in the pool, and the runs that compute them, parents first.

        Raises:
            ValueError: the paths together need more tokens than the pool has.
        """
        kept = {node for path in paths for node in path}
        for path in paths:
            self.touch(path)
        wanted = dict.fromkeys(node for path in paths for node in path)
        self._make_room(sum(len(node.token_ids) for node in wanted if node.slots is None), kept)
        runs = []
        for node in wanted:
            if node.slots is None:
                self.adopt(node, self.pool.take(len(node.token_ids)), num_pending=len(node.token_ids))
            count = node.num_pending
            if count:
                self.computed_tokens += count
                node.num_pending = 0
                slots = self.slots(node)
                runs.append((node, Run(node.token_ids[-count:], slots[-count:], slots[:-count])))
        return runs

    def adopt(self, node: CachedNode, slots: Ints, *, num_pending: int = 0) -> None:
        """Give a node slots that hold its keys and values, but for those of its last `num_pending` tokens."""
        node.slots, node.num_pending = slots, num_pending
        self._in[node] = None
        (self.roots if node.parent is None else node.parent.children)[node.token_ids] = node
        if node.parent is not None:
            node.parent.num_children_in += 1

    def slots(self, node: CachedNode) -> Ints:
        """Of the whole path down to a node."""
        parts = []
        above: CachedNode | None = node
        while above is not None:
            assert above.slots is not None
            parts.append(above.slots)
            above = above.parent
        return np.concatenate(parts[::-1])

    def take(self, count: int, kept: Set[CachedNode]) -> Ints:
        """Slots of one's own, for tokens that are on their way; the nodes named stay."""
        self._make_room(count, kept)
        return self.pool.take(count)

    def _make_room(self, count: int, kept: Set[CachedNode]) -> None:
        """Drop nodes, the least recently used leaf first, until `count` slots are free."""
        while self.pool.num_free < count:
            # Some nodes in front may have children; leaves lie close behind them.
            victim = next((node for node in self._in if node.num_children_in == 0 and node not in kept), None)
            if victim is None:
                raise ValueError(
                    f"{count} more tokens do not fit into a cache of {self.pool.capacity} tokens; "
                    "ask for fewer paths at once, or give it more room"
                )
            self.dropped_tokens += len(victim.token_ids)
            self.drop(victim)

    def shrink(self, most: int) -> None:
        """Drop nodes until at most that many tokens are in the pool."""
        self._make_room(max(0, self.pool.capacity - most), set())

    def drop(self, node: CachedNode) -> None:
        """Give a node's slots back and forget it; nothing below it may be in the pool."""
        assert node.slots is not None and node.num_children_in == 0
        self.pool.give_back(node.slots)
        node.slots = node.output = None
        del self._in[node]
        (self.roots if node.parent is None else node.parent.children).pop(node.token_ids, None)
        if node.parent is not None:
            node.parent.num_children_in -= 1
