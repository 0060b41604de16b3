"""Run a model over packed trees: attention by blocks of tokens that share the keys and values above them.

Everything else of a model works on single tokens, so a batch is one row of distinct tokens without padding, and only
attention has to know of trees. Keys and values of a token are computed once and handed to every block below it (a
prompt cache that is expanded to the rows that use it, but at every node instead of the prompt alone); gradients flow
back through the gather and add up: they are exact. It takes any model whose attention can be exchanged (transformers'
AttentionInterface) and any device: the one form that is tested everywhere. FlexAttention does the same on a GPU without
gathering keys, but needs a compiler and has no backward pass on a CPU; `use_tree_attention(model, flex=True)` takes it,
and benchmarks/gpu.py holds it against the blocks.

Shapes: B = 1 row, T tokens, H heads, D numbers of a head, R blocks of Q tokens, K keys of a block.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from arts.lm.node_cache import KeyValuePool, Plan, Run, attend, plan
from arts.lm.packing import PackedBatch

_NAME, _FLEX_NAME = "arts_tree", "arts_tree_flex"


def use_tree_attention(model: Any, *, flex: bool = False) -> None:
    """Let a model attend by blocks where it would use torch's scaled dot product; other kernels stay what they are.

    Args:
        flex: by FlexAttention instead, for training on GPUs; keys and values are then kept for no search.
    """
    if model.config._attn_implementation in ("sdpa", _NAME, _FLEX_NAME):
        model.set_attn_implementation(_FLEX_NAME if flex else _NAME)


def attends_to_all_above(config: Any) -> bool:
    """False for attention over a window, or in layers of several kinds: such models need transformers' own masks."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return kinds == {"full_attention"} and not getattr(config, "sliding_window", None)


def hidden_states(model: Any, batch: PackedBatch) -> torch.Tensor:
    """Last hidden state of every token of packed trees [T, hidden]."""
    hidden_TH: torch.Tensor = run_packed(model, batch).last_hidden_state[0]
    return hidden_TH


def run_packed(model: Any, batch: PackedBatch) -> Any:
    """The model's output for packed trees: one row of T tokens."""
    batch = batch.to(model.device)
    if model.config._attn_implementation == _FLEX_NAME:
        mask = _flex_mask(batch.subtree_end_T)
        ids, positions = batch.input_ids_T[None], batch.position_ids_T[None]
        return model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False)
    by_blocks = has_tree_attention(model)
    mask_RQK = batch.block_mask_RQK() if by_blocks else batch.dense_mask_TT()[None]
    # Added to the scores: some kernels take no boolean mask in half precision, eager attention takes none at all.
    dtype = _score_dtype(model)
    bias_RQK = torch.zeros_like(mask_RQK, dtype=dtype).masked_fill(~mask_RQK, torch.finfo(dtype).min)
    options = {}
    if by_blocks:
        # Heads that share keys become further queries of one head, so that keys are not copied for each.
        num_shared = model.config.num_attention_heads // _num_key_value_heads(model.config)
        bias_RQK = bias_RQK.repeat(1, num_shared, 1)
        options["key_index_RK"] = batch.key_index_RK.clamp(min=0)
    return model(
        input_ids=batch.input_ids_T[None],
        position_ids=batch.position_ids_T[None],
        attention_mask=bias_RQK[:, None],  # transformers passes a mask of four dimensions on as it is
        use_cache=False,
        **options,
    )


def run_new_tokens(model: Any, runs: Sequence[Run], pool: KeyValuePool, **options: Any) -> Any:
    """The model's output for new tokens whose paths are in a pool, which then holds theirs too; one row of T tokens.

    Args:
        options: for the model, such as `logits_to_keep`.
    """
    return run_plan(model, plan(runs), pool, **options)


def run_plan(model: Any, pass_plan: Plan, pool: KeyValuePool, **options: Any) -> Any:
    """The same for a plan that was made elsewhere."""
    pass_plan = Plan(*(tensor.to(model.device) for tensor in pass_plan))
    bias_RQK = torch.zeros_like(pass_plan.mask_RQK, dtype=model.dtype)
    bias_RQK = bias_RQK.masked_fill(~pass_plan.mask_RQK, torch.finfo(model.dtype).min)
    num_shared = model.config.num_attention_heads // _num_key_value_heads(model.config)
    return model(
        input_ids=pass_plan.input_ids_T[None],
        position_ids=pass_plan.position_ids_T[None],
        attention_mask=bias_RQK.repeat(1, num_shared, 1)[:, None],
        use_cache=False,
        pool=pool,
        pass_plan=pass_plan,
        **options,
    )


def has_tree_attention(model: Any) -> bool:
    """Whether `use_tree_attention` could exchange the model's attention; without it there is no pool either."""
    return bool(model.config._attn_implementation == _NAME)


def _score_dtype(model: Any) -> torch.dtype:
    """What attention's scores are computed in; a bias of another type would be cast in every layer."""
    device: str = model.device.type
    dtype: torch.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype
    return dtype


def _num_key_value_heads(config: Any) -> int:
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _tree_attention(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    key_index_RK: torch.Tensor | None = None,
    pool: KeyValuePool | None = None,
    pass_plan: Plan | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' signature; the mask, [R, 1, heads that share keys x Q, K], is added to the scores.

    With a pool, what lies above the new tokens comes from there. Without both it is plain attention: a verifier's
    backbone can still be called like any other model.
    """
    if pool is not None and pass_plan is not None and attention_mask is not None:
        states = query_BHTD, key_BHTD, value_BHTD, attention_mask
        return attend(module, *states, scaling=scaling, pool=pool, pass_plan=pass_plan), None
    if key_index_RK is None:
        output, _ = sdpa_attention_forward(
            module, query_BHTD, key_BHTD, value_BHTD, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return output, None
    # Under autocast the rotation of positions leaves queries and keys in float32: gathered, they would be twice as big.
    query_BHTD, key_BHTD = query_BHTD.to(value_BHTD.dtype), key_BHTD.to(value_BHTD.dtype)
    (_, num_heads, num_tokens, dim), num_blocks = query_BHTD.shape, len(key_index_RK)
    num_shared, size = num_heads // key_BHTD.shape[1], -(-num_tokens // num_blocks)
    query = pad(query_BHTD[0], (0, 0, 0, num_blocks * size - num_tokens))
    query = query.view(-1, num_shared, num_blocks, size, dim).permute(2, 0, 1, 3, 4).flatten(2, 3)
    key, value = (
        states_BHTD[0].transpose(0, 1)[key_index_RK].transpose(1, 2) for states_BHTD in (key_BHTD, value_BHTD)
    )
    output = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling)
    output = output.unflatten(2, (num_shared, size)).permute(0, 3, 1, 2, 4).reshape(1, -1, num_heads, dim)
    return output[:, :num_tokens], None


def _flex_mask(subtree_end_T: torch.Tensor) -> BlockMask:
    def attends(_batch: torch.Tensor, _head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (query < subtree_end_T[key])

    num_tokens = len(subtree_end_T)
    return create_block_mask(attends, None, None, num_tokens, num_tokens, device=subtree_end_T.device)


@cache
def _flex_kernel(device: str) -> Any:
    """Compiled where it is fast; on a CPU torch's plain form, for comparison."""
    return flex_attention if device == "cpu" else torch.compile(flex_attention)


def _flex_tree_attention(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: torch.Tensor | BlockMask | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' signature, with the mask of packed trees; with any other it is plain attention."""
    if not isinstance(attention_mask, BlockMask):
        output, _ = sdpa_attention_forward(
            module, query_BHTD, key_BHTD, value_BHTD, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return output, None
    kernel = _flex_kernel(query_BHTD.device.type)
    query_BHTD, key_BHTD = query_BHTD.to(value_BHTD.dtype), key_BHTD.to(value_BHTD.dtype)
    mask = {"block_mask": attention_mask, "scale": scaling, "enable_gqa": True}
    output_BHTD: torch.Tensor = kernel(query_BHTD, key_BHTD, value_BHTD, **mask)
    return output_BHTD.transpose(1, 2), None


for _name, _function in ((_NAME, _tree_attention), (_FLEX_NAME, _flex_tree_attention)):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, sdpa_mask)
