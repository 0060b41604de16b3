"""A packed tree is its paths: mask and positions by definition, hidden states and gradients as of one row per path."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_verifier import build_verifier, in_float64, letter_tree, letter_trees, save_backbone

from arts.lm.load import load_backbone
from arts.lm.packing import PackedTree, pack_tree, pad_packed, split_nodes
from arts.models import shipped_folder
from arts.tree import ReasoningTree
from arts.verifier import scorer as scorer_module
from arts.verifier.scorer import FlowScorer, pack_for


class Plain(NamedTuple):
    """A tree of token ids."""

    parents: list[int]
    token_ids: list[list[int]]

    def ancestors(self, node: int) -> list[int]:
        """From the root down to the node itself."""
        return [*(self.ancestors(self.parents[node]) if node else []), node]

    def path_ids(self, node: int) -> list[int]:
        return [token for above in self.ancestors(node) for token in self.token_ids[above]]

    def leaves(self) -> set[int]:
        return set(range(len(self.parents))) - set(self.parents)


@st.composite
def plain_trees(draw: st.DrawFn, *, max_nodes: int = 12) -> Plain:
    """Trees of every shape; steps may be empty (a failed draw has no text), the prompt is not."""
    num_nodes = draw(st.integers(1, max_nodes))
    parents = [-1, *(draw(st.integers(0, node - 1)) for node in range(1, num_nodes))]
    ids = st.integers(2, 250)
    steps = [draw(st.lists(ids, max_size=4)) for _ in range(num_nodes - 1)]
    return Plain(parents, [draw(st.lists(ids, min_size=1, max_size=5)), *steps])


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def backbones(tiny_folder: Path) -> dict[torch.dtype, Any]:
    models = {dtype: load_backbone(tiny_folder, dtype=dtype).model for dtype in (torch.float32, torch.float64)}
    in_float64(models[torch.float64])
    return models


# --- mask, positions, ends --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(plain_trees())
def test_tokens_are_the_nodes_in_order_at_their_depth_in_the_path(tree: Plain) -> None:
    packed = pack_tree(tree.parents, tree.token_ids)
    assert packed.token_ids == [token for ids in tree.token_ids for token in ids]
    assert packed.token_node == [node for node, ids in enumerate(tree.token_ids) for _ in ids]
    for node, ids in enumerate(tree.token_ids):
        end = len(tree.path_ids(node))
        own = [position for position, owner in zip(packed.positions, packed.token_node, strict=True) if owner == node]
        assert own == list(range(end - len(ids), end))


@settings(deadline=None)
@given(plain_trees())
def test_node_end_is_the_last_token_of_the_path_also_of_empty_nodes(tree: Plain) -> None:
    packed = pack_tree(tree.parents, tree.token_ids)
    assert packed.parent_index == tree.parents
    for node, end in enumerate(packed.node_end):
        last_with_tokens = next(above for above in reversed(tree.ancestors(node)) if tree.token_ids[above])
        assert packed.token_node[end] == last_with_tokens
        assert packed.positions[end] == len(tree.path_ids(node)) - 1


@settings(deadline=None)
@given(st.lists(plain_trees(), min_size=1, max_size=3))
def test_mask_is_the_slow_definition_by_ancestors_and_padding_sees_only_itself(trees: list[Plain]) -> None:
    packed = [pack_tree(tree.parents, tree.token_ids) for tree in trees]
    batch = pad_packed(packed, pad_token_id=0)
    length = max(len(part.token_ids) for part in packed)
    assert batch.attention_mask_B1LL.shape == (len(trees), 1, length, length)
    for row, (tree, part) in enumerate(zip(trees, packed, strict=True)):
        places = [(node, offset) for node, ids in enumerate(tree.token_ids) for offset in range(len(ids))]
        expected = np.eye(length, dtype=bool)
        for query, (node, offset) in enumerate(places):
            for key, (other, other_offset) in enumerate(places):
                above = other != node and other in tree.ancestors(node)
                expected[query, key] = above or (other == node and other_offset <= offset)
        np.testing.assert_array_equal(batch.attention_mask_B1LL[row, 0].numpy(), expected)
        size = len(places)
        assert batch.input_ids_BL[row].tolist() == part.token_ids + [0] * (length - size)
        assert batch.position_ids_BL[row, :size].tolist() == part.positions
    assert batch.node_row.tolist() == [row for row, tree in enumerate(trees) for _ in tree.parents]
    assert batch.node_column.tolist() == [end for part in packed for end in part.node_end]


@settings(deadline=None)
@given(plain_trees(), st.data())
def test_part_of_a_tree_packs_like_the_tree_of_that_part(tree: Plain, data: st.DataObject) -> None:
    ends = data.draw(st.sets(st.sampled_from(range(len(tree.parents))), min_size=1))
    nodes = sorted({above for node in ends for above in tree.ancestors(node)})
    packed = pack_tree(tree.parents, tree.token_ids, nodes)
    renumbered = [nodes.index(tree.parents[node]) if node else -1 for node in nodes]
    assert packed == pack_tree(renumbered, [tree.token_ids[node] for node in nodes])._replace(nodes=nodes)


# --- splitting --------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(plain_trees(max_nodes=20), st.integers(1, 40))
def test_parts_hold_their_ancestors_every_leaf_once_and_keep_to_the_limit(tree: Plain, limit: int) -> None:
    sizes = [len(ids) for ids in tree.token_ids]
    parts = split_nodes(tree.parents, sizes, limit)
    leaves_of_parts = [[node for node in part if node in tree.leaves()] for part in parts]
    assert sorted(leaf for leaves in leaves_of_parts for leaf in leaves) == sorted(tree.leaves())
    for part, leaves in zip(parts, leaves_of_parts, strict=True):
        assert part == sorted({above for leaf in leaves for above in tree.ancestors(leaf)})
        # A part over the limit is one path that is longer than the limit by itself.
        assert len(leaves) == 1 or sum(sizes[node] for node in part) <= limit
    if sum(sizes) <= limit:
        assert parts == [list(range(len(tree.parents)))]


def test_parts_share_what_lies_next_to_each_other() -> None:
    """Two branches of 2 + 2 x 3 tokens below a prompt of 2: 10 cuts between the branches, not across."""
    parents, sizes = [-1, 0, 0, 1, 2, 1, 2], [2, 2, 2, 3, 3, 3, 3]
    assert split_nodes(parents, sizes, max_tokens=10) == [[0, 1, 3, 5], [0, 2, 4, 6]]
    assert split_nodes(parents, sizes, max_tokens=18) == [[0, 1, 2, 3, 4, 5, 6]]
    assert split_nodes(parents, sizes, max_tokens=1) == [[0, 1, 3], [0, 1, 5], [0, 2, 4], [0, 2, 6]]


# --- the same as one row per path -------------------------------------------------------------------------------------


def packed_states(model: Any, tree: Plain) -> torch.Tensor:
    """Hidden state at the end of every node, from one packed sequence [N, H]."""
    batch = pad_packed([pack_tree(tree.parents, tree.token_ids)], pad_token_id=0)
    hidden_BLH = model(
        input_ids=batch.input_ids_BL,
        attention_mask=batch.attention_mask_B1LL,
        position_ids=batch.position_ids_BL,
        use_cache=False,
    ).last_hidden_state
    return torch.as_tensor(hidden_BLH[batch.node_row, batch.node_column])


def path_states(model: Any, tree: Plain) -> torch.Tensor:
    """The same from one plain causal row per node, without mask, positions or padding of ours [N, H]."""
    rows = [torch.tensor([tree.path_ids(node)]) for node in range(len(tree.parents))]
    return torch.stack([model(input_ids=row, use_cache=False).last_hidden_state[0, -1] for row in rows])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_packed_hidden_states_equal_one_row_per_path(
    backbones: dict[torch.dtype, Any], dtype: torch.dtype, tolerance: float
) -> None:
    @settings(max_examples=20, deadline=None)
    @given(plain_trees(max_nodes=10))
    def check(tree: Plain) -> None:
        with torch.no_grad():
            difference = packed_states(backbones[dtype], tree) - path_states(backbones[dtype], tree)
        assert difference.abs().max() < tolerance

    check()


WIDE = Plain([-1, 0, 0, 1, 1, 2, 3, 3], [[5, 6, 7], [8, 9], [8, 10], [11], [], [12, 13], [14], [15, 16]])


def test_hidden_states_would_show_a_wrong_mask_or_position(backbones: dict[torch.dtype, Any]) -> None:
    """The equality above is no accident of a model that looks at nothing: both parts of the packing matter to it."""
    model = backbones[torch.float64]
    packed = pack_tree(WIDE.parents, WIDE.token_ids)
    batch = pad_packed([packed], pad_token_id=0)
    paths = path_states(model, WIDE)
    causal = torch.ones_like(batch.attention_mask_B1LL).tril()
    in_a_row = torch.arange(len(packed.token_ids))[None]
    for mask, positions in [(causal, batch.position_ids_BL), (batch.attention_mask_B1LL, in_a_row)]:
        with torch.no_grad():
            hidden = model(
                input_ids=batch.input_ids_BL, attention_mask=mask, position_ids=positions, use_cache=False
            ).last_hidden_state
        assert (hidden[0, batch.node_column] - paths).abs().max() > 0.05


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_packed_gradients_equal_one_row_per_path(
    backbones: dict[torch.dtype, Any], dtype: torch.dtype, tolerance: float
) -> None:
    model = backbones[dtype]
    weight_NH = torch.from_numpy(np.random.default_rng(0).normal(size=(len(WIDE.parents), 32))).to(dtype)
    gradients = []
    for states in (packed_states, path_states):
        model.zero_grad()
        (states(model, WIDE) * weight_NH).sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    model.zero_grad()
    packed, by_path = gradients
    for name, gradient in by_path.items():
        scale = gradient.abs().max()
        assert scale > 0, name
        assert (packed[name] - gradient).abs().max() < tolerance * scale.clamp(min=1.0), name


def test_shipped_model_packs_like_paths_too() -> None:
    language_model = load_backbone(shipped_folder("countdown-proposer"), dtype=torch.float64)
    in_float64(language_model.model)
    prompt = language_model.prompt_ids("2 2 11 15 > 24")
    steps = ["15-2=13|2 11 13;", "15-11=4|2 2 4;", "2*13=26|11 26;", "11+13=24|2 24;", "2*2=4|4 4;", "4*4=16|16"]
    ids = [language_model.tokenizer(step, add_special_tokens=False)["input_ids"] for step in steps]
    tree = Plain([-1, 0, 0, 1, 1, 2, 5], [prompt, *ids])
    with torch.no_grad():
        difference = packed_states(language_model.model, tree) - path_states(language_model.model, tree)
    assert difference.abs().max() < 1e-9


# --- scores -----------------------------------------------------------------------------------------------------------


def scores(scorer: FlowScorer, trees: list[ReasoningTree]) -> list[list[float]]:
    return [[float(node.log_flow or 0.0) for node in tree.nodes] for tree in scorer.score(trees).trees]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_padding_and_batch_composition_never_change_a_score(
    tiny_folder: Path, dtype: torch.dtype, tolerance: float
) -> None:
    verifier = build_verifier(tiny_folder, dtype=dtype)
    trees = [letter_tree(f"{size}", num_samples=size) for size in (1, 9, 2, 5, 1, 7)]
    alone = [scores(FlowScorer(verifier), [tree])[0] for tree in trees]
    together = scores(FlowScorer(verifier), trees)
    backwards = scores(FlowScorer(verifier, batch_tokens=300), trees[::-1])[::-1]
    assert np.std(np.concatenate(alone)) > 0.01
    for by_itself, *others in zip(alone, together, backwards, strict=True):
        for other in others:
            np.testing.assert_allclose(other, by_itself, rtol=0, atol=tolerance)


@pytest.mark.parametrize("batch_tokens", [1, 150, 300])
def test_padded_tokens_of_a_batch_keep_to_the_limit(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, batch_tokens: int
) -> None:
    verifier = build_verifier(tiny_folder)
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(verifier, "forward", lambda batch: shapes.append(batch.input_ids_BL.shape) or forward(batch))
    forward = type(verifier).forward.__get__(verifier)
    trees = [letter_tree(f"{size}", num_samples=size) for size in (1, 9, 2, 5, 1, 7)]
    FlowScorer(verifier, batch_tokens=batch_tokens).score(trees)
    assert sum(rows for rows, _ in shapes) == len(trees)
    assert all(rows == 1 or rows * length <= batch_tokens for rows, length in shapes)  # one tree may be larger
    assert (len(shapes) < len(trees)) is (batch_tokens > 1)


@pytest.mark.parametrize("limit", [1, 30, 45])
def test_split_trees_get_the_same_scores_and_the_bill_shows_the_repeated_tokens(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    verifier = build_verifier(tiny_folder, dtype=torch.float64)
    trees = [letter_tree(f"{size}", num_samples=size) for size in (6, 12)]
    whole = FlowScorer(verifier).score(trees)
    assert whole.computed_tokens == whole.distinct_tokens
    monkeypatch.setattr(scorer_module, "MAX_PACKED_TOKENS", limit)
    split = FlowScorer(verifier).score(trees)
    assert split.distinct_tokens == whole.distinct_tokens < split.computed_tokens
    for one, other in zip(split.trees, whole.trees, strict=True):
        np.testing.assert_allclose(
            [node.log_flow for node in one.nodes], [node.log_flow for node in other.nodes], rtol=0, atol=1e-12
        )


def test_every_distinct_token_is_computed_once(tiny_folder: Path) -> None:
    verifier = build_verifier(tiny_folder)
    trees = letter_trees(5)
    scored = FlowScorer(verifier).score(trees)
    # Texts are bytes here, a token each; a finished step has the end-of-sequence token besides.
    tokens = [len(tree.problem.prompt) + sum(len(node.text) + node.is_answer for node in tree.nodes) for tree in trees]
    assert scored.computed_tokens == scored.distinct_tokens == sum(tokens)
    parts: list[PackedTree] = [part for tree in trees for part in pack_for(verifier, tree)[0]]
    assert [len(part.token_ids) for part in parts] == tokens
