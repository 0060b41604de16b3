"""A packed tree is its paths: mask and positions by definition, hidden states and gradients as of one row per path."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_verifier import build_verifier, in_float64, letter_tree, letter_trees, save_backbone

from arts.build import build_proposer, build_task
from arts.collect import collect
from arts.lm.load import load_backbone
from arts.lm.packing import PackedTree, cheapest_block_size, join_packed, pack_tree, split_nodes
from arts.lm.tree_attention import hidden_states, use_tree_attention
from arts.models import shipped_folder
from arts.sparse_deep_fork import CollectSettings
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, build_tree
from arts.verifier import scorer as scorer_module
from arts.verifier.examples import predict, prepare
from arts.verifier.model import FlowVerifier, VerifierSettings, new_verifier
from arts.verifier.objectives import RFM, RewardSettings
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
    for model in models.values():
        use_tree_attention(model)
    return models


# --- order, mask, positions, ends -------------------------------------------------------------------------------------


def depth_first(tree: Plain) -> list[int]:
    def below(node: int) -> list[int]:
        return [
            node,
            *(other for child in range(len(tree.parents)) if tree.parents[child] == node for other in below(child)),
        ]

    return below(0)


@settings(deadline=None)
@given(plain_trees())
def test_tokens_are_the_nodes_depth_first_at_their_depth_in_the_path(tree: Plain) -> None:
    packed = pack_tree(tree.parents, tree.token_ids)
    assert packed.nodes.tolist() == depth_first(tree)
    assert packed.token_ids.tolist() == [token for node in packed.nodes for token in tree.token_ids[node]]
    positions = []
    for node in packed.nodes:
        end = len(tree.path_ids(node))
        positions.extend(range(end - len(tree.token_ids[node]), end))
    assert packed.positions.tolist() == positions


@settings(deadline=None)
@given(plain_trees())
def test_node_end_is_the_last_token_of_the_path_also_of_empty_nodes(tree: Plain) -> None:
    packed = pack_tree(tree.parents, tree.token_ids)
    token_node = [node for node in packed.nodes.tolist() for _ in tree.token_ids[node]]
    for node, end in zip(packed.nodes, packed.node_end, strict=True):
        assert token_node[end] == next(above for above in reversed(tree.ancestors(node)) if tree.token_ids[above])
        assert packed.positions[end] == len(tree.path_ids(node)) - 1


def slow_mask(trees: list[Plain]) -> np.ndarray:
    """[T, T] by definition: the same tree, and an earlier token of the same node or any of a node above."""
    places = [
        (index, node, offset)
        for index, tree in enumerate(trees)
        for node in depth_first(tree)
        for offset in range(len(tree.token_ids[node]))
    ]
    mask = np.zeros((len(places), len(places)), dtype=bool)
    for query, (index, node, offset) in enumerate(places):
        for key, (other_index, other, other_offset) in enumerate(places):
            above = other != node and other in trees[index].ancestors(node)
            mask[query, key] = index == other_index and (above or (other == node and other_offset <= offset))
    return mask


@settings(deadline=None)
@given(st.lists(plain_trees(), min_size=1, max_size=3), st.integers(1, 80))
def test_mask_is_the_slow_definition_by_ancestors_whole_and_by_blocks(trees: list[Plain], block_size: int) -> None:
    packed = [pack_tree(tree.parents, tree.token_ids) for tree in trees]
    batch = join_packed(packed, block_size=block_size)
    expected = slow_mask(trees)
    num_tokens = len(expected)
    np.testing.assert_array_equal(batch.dense_mask_TT().numpy(), expected)
    mask_RQK = batch.block_mask_RQK()
    from_blocks = np.zeros((mask_RQK[:, :, 0].numel(), num_tokens), dtype=int)
    for block, (keys, mask) in enumerate(zip(batch.key_index_RK.numpy(), mask_RQK.numpy(), strict=True)):
        for place, row in enumerate(mask, start=block * len(mask)):
            np.add.at(from_blocks[place], keys[row], 1)
    np.testing.assert_array_equal(from_blocks[:num_tokens], expected)  # and no key is seen twice
    assert (from_blocks.sum(axis=1) > 0).all()  # also of what fills up the last block
    assert mask_RQK.shape[1] <= block_size
    assert batch.input_ids_T.tolist() == [token for part in packed for token in part.token_ids]
    assert batch.position_ids_T.tolist() == [position for part in packed for position in part.positions]
    starts = np.cumsum([0, *(len(part.token_ids) for part in packed)])
    assert batch.node_end_N.tolist() == [
        start + end for start, part in zip(starts, packed, strict=False) for end in part.node_end
    ]


@settings(deadline=None)
@given(plain_trees(max_nodes=20), st.integers(1, 80))
def test_a_block_has_keys_for_its_own_tokens_and_the_deepest_path_at_most(tree: Plain, block_size: int) -> None:
    packed = pack_tree(tree.parents, tree.token_ids)
    batch = join_packed([packed], block_size=block_size)
    num_blocks, size, num_keys = batch.block_mask_RQK().shape
    assert 0 <= num_blocks * size - len(packed.token_ids) < num_blocks
    assert num_keys <= max(packed.positions) + size + 7
    assert num_keys % 8 == 0


def test_block_size_is_the_cheapest_of_the_model() -> None:
    """Where paths are long, larger blocks repeat less; what is short is one block."""
    positions = {
        "short": np.tile(np.arange(30), 40),
        "long": np.concatenate([np.arange(160), *[np.arange(160, 200)] * 32]),
        "chain": np.arange(20),
    }
    chosen = {name: cheapest_block_size(values) for name, values in positions.items()}
    assert chosen["short"] < chosen["long"] < 512
    assert chosen["chain"] == 20


@settings(deadline=None)
@given(plain_trees(), st.data())
def test_part_of_a_tree_packs_like_the_tree_of_that_part(tree: Plain, data: st.DataObject) -> None:
    ends = data.draw(st.sets(st.sampled_from(range(len(tree.parents))), min_size=1))
    nodes = sorted({above for node in ends for above in tree.ancestors(node)})
    packed = pack_tree(tree.parents, tree.token_ids, nodes)
    renumbered = [nodes.index(tree.parents[node]) if node else -1 for node in nodes]
    alone = pack_tree(renumbered, [tree.token_ids[node] for node in nodes])
    for found, expected in zip(packed, alone._replace(nodes=np.array(nodes)[alone.nodes]), strict=True):
        np.testing.assert_array_equal(found, expected)


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


def packed_states(model: Any, tree: Plain, block_size: int | None = None) -> torch.Tensor:
    """Hidden state at the end of every node, from one packed sequence [N, H]."""
    packed = pack_tree(tree.parents, tree.token_ids)
    batch = join_packed([packed], block_size=block_size)
    return hidden_states(model, batch)[batch.node_end_N[np.argsort(packed.nodes)]]


def path_states(model: Any, tree: Plain) -> torch.Tensor:
    """The same from one plain causal row per node, without mask, positions or padding of ours [N, H]."""
    rows = [torch.tensor([tree.path_ids(node)]) for node in range(len(tree.parents))]
    return torch.stack([model(input_ids=row, use_cache=False).last_hidden_state[0, -1] for row in rows])


def padded_states(model: Any, tree: Plain) -> torch.Tensor:
    """The same from one batch of padded rows, a row per leaf, as other tools train [N, H]."""
    leaves = sorted(tree.leaves())
    rows = [tree.path_ids(leaf) for leaf in leaves]
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    hidden = model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    places = {
        node: (row, len(tree.path_ids(node)) - 1) for row, leaf in enumerate(leaves) for node in tree.ancestors(leaf)
    }
    return torch.stack([hidden[places[node]] for node in range(len(tree.parents))])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_packed_hidden_states_equal_one_row_per_path(
    backbones: dict[torch.dtype, Any], dtype: torch.dtype, tolerance: float
) -> None:
    @settings(max_examples=30, deadline=None)
    @given(plain_trees(max_nodes=10), st.integers(1, 40))
    def check(tree: Plain, block_size: int) -> None:
        with torch.no_grad():
            packed = packed_states(backbones[dtype], tree, block_size)
            assert (packed - path_states(backbones[dtype], tree)).abs().max() < tolerance
            assert (packed - padded_states(backbones[dtype], tree)).abs().max() < tolerance

    check()


WIDE = Plain([-1, 0, 0, 1, 1, 2, 3, 3], [[5, 6, 7], [8, 9], [8, 10], [11], [], [12, 13], [14], [15, 16]])
SHAPES = {
    "wide": WIDE,
    "root only": Plain([-1], [[5, 6, 7]]),
    "one leaf": Plain([-1, 0, 1, 2], [[5, 6], [7, 8, 9], [10], [11, 12]]),
    "empty nodes": Plain([-1, 0, 0, 1, 1, 3], [[5, 6], [], [7], [], [8], [9, 9]]),
    "long prompt": Plain([-1, *[0] * 6], [list(range(2, 42)), *([node, node + 1, 3] for node in range(50, 56))]),
}


def test_hidden_states_would_show_a_wrong_mask_or_position(backbones: dict[torch.dtype, Any]) -> None:
    """The equality above is no accident of a model that looks at nothing: both parts of the packing matter to it."""
    model = backbones[torch.float64]
    packed = pack_tree(WIDE.parents, WIDE.token_ids)
    batch = join_packed([packed])
    num_tokens = len(packed.token_ids)
    paths = path_states(model, WIDE)[packed.nodes]
    assert len(batch.key_index_RK) == 1  # one block, which has all tokens for keys
    causal = batch._replace(subtree_end_T=torch.full((num_tokens,), num_tokens))
    for wrong in (causal, batch._replace(position_ids_T=torch.arange(num_tokens))):
        with torch.no_grad():
            hidden_TH = hidden_states(model, wrong)
        assert (hidden_TH[batch.node_end_N] - paths).abs().max() > 0.05


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_flex_attention_gives_the_hidden_states_of_attention_by_blocks(
    backbones: dict[torch.dtype, Any], precision: str
) -> None:
    """Its plain form, as on a CPU it is not compiled; in bf16 queries and keys come in other types than values."""
    model = backbones[torch.float32]
    batch = join_packed([pack_tree(tree.parents, tree.token_ids) for tree in SHAPES.values()])
    found = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for flex in (False, True):
            use_tree_attention(model, flex=flex)
            found.append(hidden_states(model, batch))
    use_tree_attention(model)
    assert (found[0] - found[1]).abs().max() < {"fp32": 1e-4, "bf16": 0.1}[precision]


def gradients(model: Any, states: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of every weight, for a loss that looks at every number of every state."""
    weight_NH = torch.from_numpy(np.random.default_rng(0).normal(size=tuple(states.shape))).to(states.dtype)
    model.zero_grad()
    (states * weight_NH).sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("block_size", [1, 4, 5, None])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_packed_gradients_equal_one_row_per_path(
    backbones: dict[torch.dtype, Any], dtype: torch.dtype, tolerance: float, block_size: int | None, shape: str
) -> None:
    model, tree = backbones[dtype], SHAPES[shape]
    packed = gradients(model, packed_states(model, tree, block_size))
    for by_path in (gradients(model, path_states(model, tree)), gradients(model, padded_states(model, tree))):
        for name, gradient in by_path.items():
            scale = gradient.abs().max()
            assert scale > 0, name
            assert (packed[name] - gradient).abs().max() < tolerance * scale.clamp(min=1.0), name


def test_packed_gradients_of_random_trees_equal_one_row_per_path(backbones: dict[torch.dtype, Any]) -> None:
    model = backbones[torch.float64]

    @settings(max_examples=15, deadline=None)
    @given(plain_trees(max_nodes=10), st.integers(1, 40))
    def check(tree: Plain, block_size: int) -> None:
        packed, by_path = (
            gradients(model, packed_states(model, tree, block_size)),
            gradients(model, path_states(model, tree)),
        )
        for name, gradient in by_path.items():
            assert (packed[name] - gradient).abs().max() < 1e-10 * gradient.abs().max().clamp(min=1.0), name

    check()


def test_blocks_and_one_mask_over_the_whole_tree_are_the_same(tiny_folder: Path) -> None:
    """Models that keep their own attention kernel get the whole mask."""
    model = load_backbone(tiny_folder, dtype=torch.float64).model
    in_float64(model)
    whole = packed_states(model, WIDE)
    use_tree_attention(model)
    calls: list[torch.Size] = []
    model.layers[0].self_attn.register_forward_pre_hook(
        lambda _module, _inputs, options: calls.append(options["attention_mask"].shape), with_kwargs=True
    )
    by_blocks = packed_states(model, WIDE, block_size=5)
    # 14 tokens; two heads share keys; the deepest path above a block's first token has 6, and there are 5 of its own.
    assert calls == [(3, 1, 2 * 5, 16)]
    assert (whole - by_blocks).abs().max() < 1e-12


def test_shipped_model_packs_like_paths_too() -> None:
    language_model = load_backbone(shipped_folder("countdown-proposer"), dtype=torch.float64)
    in_float64(language_model.model)
    use_tree_attention(language_model.model)
    prompt = language_model.prompt_ids("2 2 11 15 > 24")
    steps = ["15-2=13|2 11 13;", "15-11=4|2 2 4;", "2*13=26|11 26;", "11+13=24|2 24;", "2*2=4|4 4;", "4*4=16|16"]
    ids = [language_model.tokenizer(step, add_special_tokens=False)["input_ids"] for step in steps]
    tree = Plain([-1, 0, 0, 1, 1, 2, 5], [prompt, *ids])
    with torch.no_grad():
        difference = packed_states(language_model.model, tree, 16) - path_states(language_model.model, tree)
    assert difference.abs().max() < 1e-9


# --- losses and gradients of draws ------------------------------------------------------------------------------------


class Draws(NamedTuple):
    """Rollouts of one problem, some of them equal, some forked off another."""

    prompt: list[int]
    rollouts: list[Rollout]

    def rows(self) -> list[list[list[int]]]:
        """Token ids of prompt and steps of every draw, by itself."""
        trunks = {rollout.index: rollout.steps for rollout in self.rollouts if not rollout.num_shared}
        paths = [(*trunks[rollout.trunk][: rollout.num_shared], *rollout.steps) for rollout in self.rollouts]
        return [[self.prompt, *(list(step.token_ids) for step in path)] for path in paths]


@st.composite
def draws(draw: st.DrawFn) -> Draws:
    """Few different steps, so that many draws begin alike and some are equal."""
    steps = st.lists(st.sampled_from([(5,), (5, 6), (7, 8, 9)]), min_size=1, max_size=3)
    made: list[Rollout] = []

    def rollout(trunk: int | None, num_shared: int) -> Rollout:
        ids = draw(steps)
        last = len(ids) - 1
        drawn = tuple(
            Step(str(own), own, -1.0, StopReason.EOS if place == last else StopReason.STOP)
            for place, own in enumerate(ids)
        )
        return Rollout(len(made), len(made) if trunk is None else trunk, num_shared, drawn)

    num_trunks, num_forks = draw(st.integers(1, 5)), draw(st.integers(0, 3))
    while len(made) < num_trunks:
        made.append(rollout(None, 0))
    for trunk in [draw(st.sampled_from(made)) for _ in range(num_forks)]:
        made += [rollout(trunk.index, draw(st.integers(1, len(trunk.steps) - 1)))] if len(trunk.steps) > 1 else []
    return Draws(draw(st.lists(st.integers(10, 20), min_size=1, max_size=9)), made)


def loss_of_trees(verifier: FlowVerifier, drawn: list[Draws]) -> torch.Tensor:
    """Every node's loss, as often as it was drawn through, from packed merged trees."""
    packed, counts = [], []
    for each in drawn:
        tree = build_tree(Problem("p", "p"), each.rollouts)
        packed.append(
            pack_tree([node.parent for node in tree.nodes], [each.prompt, *(n.token_ids for n in tree.nodes[1:])])
        )
        through = [0] * len(tree.nodes)
        for leaf in tree.leaves():
            for node in (tree.nodes[0], *tree.path(leaf.id)):
                through[node.id] += leaf.num_draws
        counts.extend(through[node] for node in packed[-1].nodes)
    output_NK = verifier(join_packed(packed, block_size=7))
    return (torch.tensor(counts)[:, None] * (output_NK - 0.5).square()).sum() / sum(counts)


def loss_of_rows(verifier: FlowVerifier, drawn: list[Draws]) -> torch.Tensor:
    """The same from one plain row per draw."""
    errors = []
    for each in drawn:
        for steps in each.rows():
            ids = torch.tensor([[token for step in steps for token in step]])
            hidden_H = verifier.backbone(input_ids=ids, use_cache=False).last_hidden_state[0]
            ends = np.cumsum([len(step) for step in steps]) - 1
            errors.append((verifier.head(hidden_H[ends].to(verifier.head[0].weight.dtype)) - 0.5).square())
    return torch.cat(errors).mean()


def loss_and_gradients(verifier: FlowVerifier, loss: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    found = torch.autograd.grad(loss, list(verifier.trained_parameters().values()))
    return float(loss.detach()), dict(zip(verifier.trained_parameters(), found, strict=True))


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_merged_trees_train_like_one_row_per_draw(
    tiny_folder: Path, dtype: torch.dtype, tolerance: float, tuning: str
) -> None:
    """Loss and gradient of every trained weight, relative to the largest, with draws merged and counted."""
    verifier = build_verifier(tiny_folder, tuning=tuning, dropout=0.0, dtype=dtype).train()
    wake_adapters(verifier)

    @settings(max_examples=15, deadline=None)
    @given(st.lists(draws(), min_size=1, max_size=3))
    def check(drawn: list[Draws]) -> None:
        loss, packed = loss_and_gradients(verifier, loss_of_trees(verifier, drawn))
        expected, by_row = loss_and_gradients(verifier, loss_of_rows(verifier, drawn))
        assert loss == pytest.approx(expected, rel=tolerance)
        scale = max(float(gradient.abs().max()) for gradient in by_row.values())
        for name, gradient in by_row.items():
            assert (packed[name] - gradient).abs().max() < tolerance * scale, name

    check()


def wake_adapters(verifier: FlowVerifier) -> None:
    """New adapters do nothing, and their first half has no gradient."""
    with torch.no_grad():
        for name, weight in verifier.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_in_bfloat16_training_on_countdown_differs_by_less_than_one_percent(tmp_path: Path, tuning: str) -> None:
    """A step of four trees, on the shipped model. Both forms differ from float32 by more than from each other."""
    task = build_task("countdown")
    drawn = CollectSettings(num_problems=4, num_samples=4, pivots="none")
    trees = list(collect(task, build_proposer("countdown", task), drawn, tmp_path / "trees").trees())
    language_model = load_backbone(shipped_folder("countdown-proposer"), dtype=torch.bfloat16)
    verifier = new_verifier(language_model, VerifierSettings(tuning=tuning, dropout=0.0), base="countdown").train()
    wake_adapters(verifier)
    batch = [
        Draws(
            language_model.prompt_ids(tree.problem.prompt),
            [
                Rollout(index, index, 0, tuple(Step(n.text, n.token_ids, n.log_prior, n.stop) for n in tree.path(leaf)))
                for index, leaf in enumerate(tree.trunks)
            ],
        )
        for tree in trees
    ]
    loss, packed = loss_and_gradients(verifier, loss_of_trees(verifier, batch))
    expected, by_row = loss_and_gradients(verifier, loss_of_rows(verifier, batch))
    assert loss == pytest.approx(expected, rel=1e-2)
    packed_G, by_row_G = (
        torch.cat([gradient.float().flatten() for gradient in found.values()]) for found in (packed, by_row)
    )
    assert (packed_G - by_row_G).norm() < 1e-2 * by_row_G.norm()


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
def test_tokens_of_a_batch_keep_to_the_limit(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, batch_tokens: int
) -> None:
    verifier = build_verifier(tiny_folder)
    sizes: list[int] = []
    monkeypatch.setattr(verifier, "forward", lambda batch: sizes.append(len(batch.input_ids_T)) or forward(batch))
    forward = type(verifier).forward.__get__(verifier)
    trees = [letter_tree(f"{size}", num_samples=size) for size in (1, 9, 2, 5, 1, 7)]
    tokens = [len(part.token_ids) for tree in trees for part in pack_for(verifier, tree)[0]]
    FlowScorer(verifier, batch_tokens=batch_tokens).score(trees)
    assert sum(sizes) == sum(tokens)
    assert all(size <= batch_tokens or size in tokens for size in sizes)  # one tree may be larger
    assert (len(sizes) < len(trees)) is (batch_tokens > 1)


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


@contextmanager
def tokens_through(verifier: FlowVerifier) -> Iterator[list[int]]:
    """Number of tokens of every call of the model, seen by a hook on its embedding."""
    seen: list[int] = []
    embedding = verifier.language_model.model.get_input_embeddings()
    hook = embedding.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].numel()))
    yield seen
    hook.remove()


@pytest.mark.parametrize("limit", [16384, 30])
def test_every_distinct_token_is_computed_once(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    verifier = build_verifier(tiny_folder)
    trees = letter_trees(5)
    monkeypatch.setattr(scorer_module, "MAX_PACKED_TOKENS", limit)
    with tokens_through(verifier) as seen:
        scored = FlowScorer(verifier).score(trees)
    # Texts are bytes here, a token each; a finished step has the end-of-sequence token besides.
    tokens = [len(tree.problem.prompt) + sum(len(node.text) + node.is_answer for node in tree.nodes) for tree in trees]
    assert scored.distinct_tokens == sum(tokens)
    assert scored.computed_tokens == sum(seen)
    if limit > max(tokens):
        assert sum(seen) == sum(tokens)
        parts: list[PackedTree] = [part for tree in trees for part in pack_for(verifier, tree)[0]]
        assert [len(part.token_ids) for part in parts] == tokens
    else:
        assert sum(seen) > sum(tokens)


def test_training_computes_every_distinct_token_once(tiny_folder: Path) -> None:
    verifier = build_verifier(tiny_folder)
    examples = prepare(verifier, letter_trees(4), RewardSettings(), RFM()).examples
    with tokens_through(verifier) as seen:
        predict(verifier, examples)
    assert seen == [sum(example.num_tokens for example in examples)]


def test_a_tree_of_five_thousand_nodes_is_scored_whole_and_right(tiny_folder: Path) -> None:
    """Work and memory grow with its depth times its size: no mask over all pairs of its 10,000 tokens."""
    verifier = build_verifier(tiny_folder)
    rng = np.random.default_rng(0)
    parents = [-1, *(int(rng.integers(max(0, node - 400), node)) for node in range(1, 5000))]
    tree = Plain(parents, [rng.integers(2, 250, size=rng.integers(1, 4)).tolist() for _ in parents])
    packed = pack_tree(tree.parents, tree.token_ids)
    batch = join_packed([packed])
    with torch.inference_mode():
        found_NK = verifier(batch)
        checked = rng.choice(5000, size=40, replace=False).tolist()
        rows = [torch.tensor([tree.path_ids(packed.nodes[index])]) for index in checked]
        expected = [verifier.head(verifier.backbone(input_ids=row).last_hidden_state[0, -1]) for row in rows]
    assert batch.block_mask_RQK().numel() < 0.1 * len(packed.token_ids) ** 2
    assert (found_NK[checked] - torch.stack(expected)).abs().max() < 1e-4
