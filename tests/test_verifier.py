"""The verifier network: what is trained, what a saved folder holds, what is refused, and which tokens it reads."""

import ast
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from tiny_models import save_gpt2, save_llama
from tiny_verifier import (
    CONTEXT,
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    KEY_VALUE_HEADS,
    LAYERS,
    build_verifier,
    letter_rollout,
    letter_tree,
    letter_trees,
    save_backbone,
)

from arts.lm.load import load_backbone
from arts.lm.weights import weights_fingerprint
from arts.tree import Node, Problem, ReasoningTree, Rollout, Step, StopReason, build_tree
from arts.verifier.examples import predict, prepare
from arts.verifier.model import FlowVerifier, VerifierSettings, load_verifier, new_verifier
from arts.verifier.objectives import RFM, RewardSettings, TreeFacts
from arts.verifier.scorer import FlowScorer

RANK = 16
TUNINGS = ["full", "lora", "frozen"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def other_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("models") / "tiny", seed=1)


def moved_verifier(base: Path, tuning: str) -> FlowVerifier:
    """A verifier whose every trained weight lies away from where it started, as training would leave it."""
    verifier = build_verifier(base, tuning=tuning)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in verifier.trained_parameters().values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return verifier


@pytest.fixture(scope="module")
def saved(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved verifier of each tuning; tests that change one copy it."""
    folders = {tuning: tmp_path_factory.mktemp("saved") / tuning for tuning in TUNINGS}
    for tuning, folder in folders.items():
        moved_verifier(base, tuning).save(folder)
    return folders


def scores(verifier: FlowVerifier, trees: list[ReasoningTree]) -> list[list[float | None]]:
    return [[node.log_flow for node in tree.nodes] for tree in FlowScorer(verifier).score(trees).trees]


# --- what is trained --------------------------------------------------------------------------------------------------


def test_lora_is_the_papers_on_the_seven_linear_layers(base: Path) -> None:
    verifier = build_verifier(base, tuning="lora")
    config = verifier.backbone.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (16, 32, 0.1)
    adapted = {
        name.split(".lora_A")[0].split("layers.")[1] for name in verifier.trained_parameters() if "lora_A" in name
    }
    seven = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    seven += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert adapted == {f"{layer}.{name}" for layer in range(LAYERS) for name in seven}
    dropouts = [module.p for module in verifier.modules() if isinstance(module, torch.nn.Dropout)]
    assert dropouts == [0.1] * (7 * LAYERS + 1)


def test_lora_trains_adapters_and_head_only_and_their_number_is_the_formula(base: Path) -> None:
    verifier = build_verifier(base, tuning="lora")
    key_value = HIDDEN // HEADS * KEY_VALUE_HEADS
    shapes = [(HIDDEN, HIDDEN), (HIDDEN, key_value), (HIDDEN, key_value), (HIDDEN, HIDDEN)]  # q, k, v, o
    shapes += [(HIDDEN, INTERMEDIATE), (HIDDEN, INTERMEDIATE), (INTERMEDIATE, HIDDEN)]  # gate, up, down
    adapters = LAYERS * sum(RANK * (inputs + outputs) for inputs, outputs in shapes)
    head = HIDDEN * HIDDEN + HIDDEN + HIDDEN + 1
    trained = verifier.trained_parameters()
    assert sum(parameter.numel() for parameter in trained.values()) == adapters + head
    assert all("lora_" in name or name.startswith("head.") for name in trained)


def test_full_tuning_trains_everything(base: Path) -> None:
    verifier = build_verifier(base, tuning="full")
    backbone = sum(parameter.numel() for parameter in load_backbone(base).model.parameters())
    head = HIDDEN * HIDDEN + HIDDEN + HIDDEN + 1
    assert sum(parameter.numel() for parameter in verifier.trained_parameters().values()) == backbone + head


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_training_step_moves_all_that_is_trained_and_nothing_else(base: Path, tuning: str) -> None:
    verifier = build_verifier(base, tuning=tuning).train()
    before = {name: parameter.detach().clone() for name, parameter in verifier.named_parameters()}
    trained = verifier.trained_parameters()
    optimizer = torch.optim.AdamW(verifier.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(2):  # lora_A has a gradient once lora_B has left zero
        optimizer.zero_grad()
        output_NK, _ = predict(verifier, prepare(verifier, letter_trees(2), RewardSettings(), RFM()).examples)
        output_NK.square().sum().backward()
        optimizer.step()
    for name, parameter in verifier.named_parameters():
        assert torch.equal(parameter, before[name]) is (name not in trained), name


def test_untrained_lora_leaves_the_backbone_as_it_is(base: Path) -> None:
    trees = letter_trees(2)
    full, lora = (build_verifier(base, tuning=tuning) for tuning in ("full", "lora"))
    lora.head.load_state_dict(full.head.state_dict())
    np.testing.assert_allclose(np.concatenate(scores(lora, trees)), np.concatenate(scores(full, trees)), atol=1e-6)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_seed_decides_the_new_weights(base: Path, tuning: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        return torch.cat([w.flatten() for w in build_verifier(base, tuning=tuning, seed=seed).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_head_is_the_papers(base: Path) -> None:
    """Linear(hidden, hidden) - GELU - Dropout - Linear(hidden, 1), on the last token of each step."""
    verifier = build_verifier(base)
    assert [type(layer).__name__ for layer in verifier.head] == ["Linear", "GELU", "Dropout", "Linear"]
    chain = build_tree(Problem("p", "letters"), [letter_rollout(0, "abc")])
    ids = [token for node_ids in verifier.node_token_ids(chain) for token in node_ids]
    with torch.no_grad():
        hidden_H = verifier.backbone(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        inner_H = torch.nn.functional.gelu(verifier.head[0].weight @ hidden_H + verifier.head[0].bias)
        expected = float(verifier.head[3].weight[0] @ inner_H + verifier.head[3].bias)
    assert scores(verifier, [chain])[0][-1] == pytest.approx(expected, abs=1e-5)


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save_model", [save_backbone, save_gpt2, save_llama], ids=["qwen2", "gpt2", "llama"])
def test_a_node_scores_as_its_path_alone_for_every_architecture(
    tmp_path: Path, save_model: Callable[[Path], Path]
) -> None:
    verifier = build_verifier(save_model(tmp_path))
    tree = letter_tree("a b", num_samples=5)
    together = scores(verifier, [tree])[0]
    for node in tree.nodes[1:]:
        path = tree.path(node.id)
        chain = ReasoningTree(
            problem=tree.problem,
            nodes=(tree.nodes[0], *(replace(step, id=place, parent=place - 1) for place, step in enumerate(path, 1))),
        )
        assert scores(verifier, [chain])[0] == pytest.approx(
            [together[0], *(together[step.id] for step in path)], abs=2e-5
        )
    assert np.ptp(together) > 0.01


def test_attention_kernels_give_the_same_scores(base: Path) -> None:
    trees = letter_trees(3)
    by_kernel = []
    for kernel in ("sdpa", "eager"):
        verifier = build_verifier(base)
        verifier.backbone.set_attn_implementation(kernel)
        assert verifier.backbone.config._attn_implementation == kernel
        by_kernel.append(np.concatenate(scores(verifier, trees)))
    np.testing.assert_allclose(by_kernel[0], by_kernel[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_give_nearly_the_same_scores(base: Path, dtype: torch.dtype) -> None:
    trees = letter_trees(3)
    expected = np.concatenate(scores(build_verifier(base), trees))
    verifier = new_verifier(load_backbone(base, dtype=dtype), VerifierSettings(tuning="full"), base="tiny").eval()
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    np.testing.assert_allclose(np.concatenate(scores(verifier, trees)), expected, rtol=0, atol=tolerance)


def test_scoring_has_no_dropout_and_leaves_the_tree_alone_but_for_its_flows(base: Path) -> None:
    verifier = build_verifier(base, dropout=0.5).train()
    trees = letter_trees(2)
    scored = FlowScorer(verifier).score(trees).trees
    assert scores(verifier, trees) == [[node.log_flow for node in tree.nodes] for tree in scored]
    unscored = [replace(tree, nodes=tuple(replace(node, log_flow=None) for node in tree.nodes)) for tree in scored]
    assert unscored == trees


# --- save and load ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tuning", TUNINGS)
def test_saved_and_loaded_verifier_gives_the_same_scores_to_the_last_bit(
    base: Path, saved: dict[str, Path], tuning: str
) -> None:
    trees = letter_trees(4)
    expected = scores(moved_verifier(base, tuning), trees)
    loaded = load_verifier(saved[tuning], base=None if tuning == "full" else base)
    assert not loaded.training
    assert scores(loaded, trees) == expected
    assert expected != scores(build_verifier(base, tuning=tuning), trees)
    assert loaded.settings == VerifierSettings(tuning=tuning)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_saving_a_loaded_verifier_writes_the_same_files(
    base: Path, saved: dict[str, Path], tmp_path: Path, tuning: str
) -> None:
    load_verifier(saved[tuning], base=base).save(tmp_path)
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(saved[tuning])) for path in saved[tuning].rglob("*") if path.is_file())
    for name in names:
        first, second = ((folder / name).read_bytes() for folder in (saved[tuning], tmp_path))
        if name.endswith("adapter_config.json"):  # peft writes the layers' names as a set, in any order
            first, second = (json.loads(text) for text in (first, second))
            assert set(first.pop("target_modules")) == set(second.pop("target_modules"))
        assert first == second, name


def test_card_says_what_the_score_is_and_which_weights_it_belongs_to(base: Path, saved: dict[str, Path]) -> None:
    for tuning, folder in saved.items():
        card = json.loads((folder / "verifier.json").read_text())
        assert card["base"] == "tiny"
        assert card["base_fingerprint"] == weights_fingerprint(base)
        shape = {"lora_rank": 16, "lora_alpha": 32, "dropout": 0.1, "num_outputs": 1, "head": "mlp"}
        assert card["settings"] == {"tuning": tuning, **shape}


@pytest.mark.parametrize("tuning", TUNINGS)
def test_saved_folder_holds_safetensors_and_text_only_and_no_path_of_this_machine(
    base: Path, saved: dict[str, Path], tuning: str
) -> None:
    files = [path for path in saved[tuning].rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja"}
    weights = {
        "lora": "adapter/adapter_model.safetensors",
        "full": "backbone/model.safetensors",
        "frozen": "head.safetensors",
    }[tuning]
    assert saved[tuning] / weights in files
    for path in files:
        content = path.read_bytes()
        for folder in (base, base.parent, saved[tuning], ROOT):
            assert str(folder).encode() not in content, path


def test_name_of_the_base_is_the_last_part_of_its_folder(base: Path) -> None:
    for name in ("countdown", "models/countdown", "/some/where/countdown/"):
        verifier = new_verifier(load_backbone(base), VerifierSettings(tuning="full"), base=name)
        assert verifier.card["base"] == "countdown"


@pytest.mark.parametrize("tuning", TUNINGS)
def test_another_base_model_is_refused(other_base: Path, saved: dict[str, Path], tuning: str) -> None:
    with pytest.raises(ValueError, match=r"trained on 'tiny' with weights \w{16}; .* has weights \w{16}\. Give"):
        load_verifier(saved[tuning], base=other_base)


def test_lora_without_its_base_is_refused(saved: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="an adapter of 'tiny'; name that model's folder with --backbone"):
        load_verifier(saved["lora"])


def test_a_head_without_its_base_is_refused(saved: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="a head of 'tiny'; name that model's folder with --backbone"):
        load_verifier(saved["frozen"])


def test_a_base_that_is_no_model_is_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"base model .* is not a folder with \*\.safetensors"):
        load_verifier(saved["lora"], base=tmp_path)


def test_missing_verifier_is_refused(base: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path, base):
        with pytest.raises(ValueError, match=r"holds no verifier \(no verifier.json\); train one"):
            load_verifier(folder)


def test_other_format_is_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    card = json.loads((saved["full"] / "verifier.json").read_text())
    for version in (0, 2, None):
        (tmp_path / "verifier.json").write_text(json.dumps(card | {"format": version}))
        with pytest.raises(ValueError, match=f"format version {version}; this version of arts reads 1"):
            load_verifier(tmp_path)


DAMAGE: list[tuple[str, str, Callable[[Path], Any], str]] = [
    ("full", "verifier.json", lambda path: path.write_text(path.read_text()[:40]), "verifier.json is damaged"),
    ("full", "head.safetensors", Path.unlink, "are damaged or incomplete"),
    ("full", "head.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-100]), "are damaged or incomplete"),
    ("full", "backbone/model.safetensors", Path.unlink, r"holds no \*\.safetensors weights"),
    (
        "full",
        "backbone/model.safetensors",
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        "could not|damaged",
    ),
    ("lora", "adapter/adapter_model.safetensors", Path.unlink, "are damaged or incomplete"),
    ("lora", "adapter/adapter_model.safetensors", lambda path: path.write_bytes(b"{}"), "are damaged or incomplete"),
]


@pytest.mark.parametrize(("tuning", "name", "damage", "message"), DAMAGE)
def test_damaged_verifier_is_refused(
    base: Path,
    saved: dict[str, Path],
    tmp_path: Path,
    tuning: str,
    name: str,
    damage: Callable[[Path], Any],
    message: str,
) -> None:
    shutil.copytree(saved[tuning], tmp_path / "copy")
    damage(tmp_path / "copy" / name)
    with pytest.raises(ValueError, match=message):
        load_verifier(tmp_path / "copy", base=base)


@pytest.mark.parametrize("settings", [{"tuning": "none"}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is .*{next(iter(settings.values()))}"):
        VerifierSettings(**settings)


def test_nothing_is_unpickled() -> None:
    """No module of ARTS imports a pickle reader, calls torch.load, or runs a model folder's own code."""
    sources = sorted((ROOT / "arts").rglob("*.py"))
    assert len(sources) > 20
    for path in sources:
        for item in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(item, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in item.names} | {getattr(item, "module", None) or ""}
                assert not {name.split(".")[0] for name in names} & {"pickle", "dill", "joblib", "shelve", "marshal"}, (
                    path
                )
            if isinstance(item, ast.Call):
                called = ast.unparse(item.func)
                assert called not in ("torch.load", "torch.save", "torch.jit.load", "np.load", "numpy.load"), path
                remote = [ast.unparse(word.value) for word in item.keywords if word.arg == "trust_remote_code"]
                assert not remote or remote == ["remote"], path  # what the user said, never switched on by us


def test_a_folder_with_pickled_weights_only_is_refused(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "pickled")
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds no \*\.safetensors weights"):
        load_backbone(tmp_path / "pickled")


# --- tokens -----------------------------------------------------------------------------------------------------------


def text_step(text: str, stop: StopReason) -> Step:
    return Step(text, (7,), -1.0, stop)


MIXED = build_tree(
    Problem("p", "abc"),
    [
        Rollout(0, 0, 0, (text_step("a\n", StopReason.STOP), text_step("\nb", StopReason.EOS))),
        Rollout(1, 1, 0, (text_step("a\n", StopReason.STOP), text_step("c", StopReason.LENGTH))),
        Rollout(2, 2, 0, (Step("", (), None, StopReason.ERROR),)),
    ],
    tokenizer="somebody else's",
)


def test_own_tokens_are_taken_as_they_are(base: Path) -> None:
    verifier = build_verifier(base)
    own = replace(MIXED, tokenizer=verifier.language_model.tokenizer_fingerprint)
    prompt, *steps = verifier.node_token_ids(own)
    assert prompt == verifier.language_model.prompt_ids("abc")
    assert [list(ids) for ids in steps] == [list(node.token_ids) for node in own.nodes[1:]]


@pytest.mark.parametrize("fingerprint", ["somebody else's", None])
def test_foreign_steps_are_tokenised_alone_and_finished_ones_end_in_the_end_token(
    tmp_path: Path, fingerprint: str | None
) -> None:
    """This tokenizer merges the two line ends of `a`, `b` when it sees them together; the steps' ids do not show it."""
    verifier = build_verifier(save_gpt2(tmp_path))
    tokenizer = verifier.language_model.tokenizer
    ids = {
        node.text: list(own)
        for node, own in zip(MIXED.nodes, verifier.node_token_ids(replace(MIXED, tokenizer=fingerprint)), strict=True)
        if node.id
    }
    alone = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a\n", "\nb", "c")}
    assert tokenizer("a\n\nb", add_special_tokens=False)["input_ids"] != alone["a\n"] + alone["\nb"]
    end = tokenizer.eos_token_id
    assert ids == {"a\n": alone["a\n"], "\nb": [*alone["\nb"], end], "c": alone["c"], "": []}


def test_ids_and_scores_of_a_node_do_not_depend_on_what_follows(tmp_path: Path) -> None:
    verifier = build_verifier(save_gpt2(tmp_path))
    stem = build_tree(MIXED.problem, [Rollout(0, 0, 0, (text_step("a\n", StopReason.STOP),))])
    longer = MIXED.nodes
    place = next(node.id for node in longer if node.text == "a\n")
    assert verifier.node_token_ids(stem)[1] == verifier.node_token_ids(MIXED)[place]
    assert scores(verifier, [stem])[0][1] == pytest.approx(scores(verifier, [MIXED])[0][place], abs=1e-6)


def test_saved_backbone_keeps_its_tokenizer(base: Path, saved: dict[str, Path]) -> None:
    """Otherwise the proposer's own ids would be taken for foreign ones after loading."""
    first, second = load_backbone(base), load_backbone(saved["full"] / "backbone")
    assert second.tokenizer_fingerprint == first.tokenizer_fingerprint
    assert second.prompt_ids("3 5 > 8") == first.prompt_ids("3 5 > 8")


def chain_of(num_tokens: int) -> ReasoningTree:
    """A prompt of 4 tokens and two steps that end at token `num_tokens`; a second path is short."""
    long = (text_step("x" * (num_tokens - 6), StopReason.STOP), text_step("y", StopReason.EOS))
    return build_tree(
        Problem("too long", "abcd"), [Rollout(0, 0, 0, long), Rollout(1, 1, 0, (text_step("z", StopReason.EOS),))]
    )


def test_a_path_longer_than_the_context_is_refused_and_one_as_long_is_not(base: Path) -> None:
    verifier = build_verifier(base)
    assert FlowScorer(verifier).score([chain_of(CONTEXT)]).computed_tokens == CONTEXT + 2
    message = rf"'too long': a path takes {CONTEXT + 1} tokens and the verifier's context is {CONTEXT}; use a"
    with pytest.raises(ValueError, match=message):
        FlowScorer(verifier).score([chain_of(CONTEXT + 1)])


def test_training_leaves_out_the_paths_beyond_the_context_and_counts_them(base: Path) -> None:
    verifier = build_verifier(base)
    prepared = prepare(verifier, [chain_of(CONTEXT + 1), chain_of(CONTEXT)], RewardSettings(), RFM())
    assert prepared.notes(CONTEXT) == [f"paths longer than the verifier's context of {CONTEXT} tokens, left out: 1"]
    cut, whole = prepared.examples
    assert (cut.num_nodes, whole.num_nodes) == (3, 4)  # the long path keeps the step that fits
    assert cut.facts.is_known.tolist() == [True, False, True]  # and nothing is known below that step
    assert cut.answers == (2,)
    nothing_fits = replace(chain_of(5), problem=Problem("p", "x" * (CONTEXT + 1)))
    with pytest.raises(
        ValueError,
        match=r"not one tree with a step .* tokens, left out: 2; trees without a step to train on, left out: 1",
    ):
        prepare(verifier, [nothing_fits], RewardSettings(), RFM())


def test_a_tree_may_hold_more_tokens_than_the_context_as_long_as_its_paths_fit(base: Path) -> None:
    tree = letter_tree("a", num_samples=60, merge=False)
    scored = FlowScorer(build_verifier(base)).score([tree])
    assert scored.computed_tokens == scored.distinct_tokens > 2 * CONTEXT


def test_failed_draw_has_the_flow_of_its_parent_and_takes_no_part_in_training(base: Path) -> None:
    flows = scores(build_verifier(base), [MIXED])[0]
    failed: Node = next(node for node in MIXED.nodes if node.stop is StopReason.ERROR)
    assert flows[failed.id] == pytest.approx(flows[failed.parent], abs=1e-6)
    assert not TreeFacts.of(MIXED).is_known[failed.id]
