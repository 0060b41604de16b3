"""How a batch is computed - in passes, with activations computed again, in bf16 - does not change what is trained."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerated import SETTINGS, TREES, Case, Interrupted, largest_difference, run_case
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_verifier import build_verifier, save_backbone

from arts.verifier.examples import joined_targets, predict, prepare
from arts.verifier.objectives import OBJECTIVES, Objective, RewardSettings
from arts.verifier.processes import ComputeSettings, Processes, arithmetic, deal
from arts.verifier.train import TrainProgress

SHORT = replace(SETTINGS, num_epochs=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("models") / "base")


@settings(deadline=None)
@given(st.lists(st.integers(1, 1000), max_size=30), st.integers(1, 8))
def test_a_batch_is_dealt_out_evenly_and_nothing_is_lost(sizes: list[int], num_parts: int) -> None:
    parts = deal(sizes, num_parts)
    assert sorted(place for part in parts for place in part) == list(range(len(sizes)))
    assert all(part == sorted(part) for part in parts)
    assert sum(map(bool, parts)) == min(num_parts, len(sizes))  # none is idle while another has two
    loads = [sum(sizes[place] for place in part) for part in parts]
    assert max(loads) - min(loads) <= max(sizes, default=0)
    assert deal(sizes, 1) == [list(range(len(sizes)))]


@pytest.mark.parametrize("wrong", [{"precision": "fp16"}, {"accumulate": 0}], ids=str)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(ValueError, match=f"{name} is {value!r}; "):
        ComputeSettings(**wrong)


def test_a_precision_of_the_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match="give `arts train --precision bf16`"):
        Processes()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_weight_of_a_batch_is_known_before_its_loss_and_parts_add_up(base: Path, name: str) -> None:
    objective: Objective = OBJECTIVES[name]()
    verifier, rewards = build_verifier(base), RewardSettings()
    examples = prepare(verifier, TREES[:4], rewards, objective).examples
    nodes = sum(example.num_nodes for example in examples)
    output_NK = torch.randn(nodes, objective.num_outputs, generator=torch.Generator().manual_seed(0)).double()
    whole = objective.loss(output_NK, joined_targets(examples), rewards)
    assert float(objective.weight(joined_targets(examples))) == pytest.approx(float(whole.weight))
    total, start = 0.0, 0
    for example in examples:
        part = output_NK[start : start + example.num_nodes]
        total += float(objective.loss(part, joined_targets([example]), rewards).total)
        start += example.num_nodes
    assert total == pytest.approx(float(whole.total))


@pytest.mark.parametrize("tuning", ["full", "frozen"])
def test_passes_of_a_batch_come_to_the_weights_of_the_whole(base: Path, tmp_path: Path, tuning: str) -> None:
    whole, passes = (
        run_case(Case(SHORT, ComputeSettings(accumulate=count), tuning), base, tmp_path / str(count))
        for count in (1, 3)
    )
    assert passes["losses"] == pytest.approx(whole["losses"], abs=1e-5)
    assert passes["num_steps"] == math.ceil(26 / 5)
    assert largest_difference(tmp_path / "3", tmp_path / "1") < 1e-5


def gradients(base: Path, tuning: str, *, again: bool, precision: str = "fp32") -> tuple[dict[str, torch.Tensor], int]:
    """Of one batch, with dropout, and how often the first layer ran."""
    verifier = build_verifier(base, tuning=tuning, dropout=0.1).train()
    runs: list[int] = []
    verifier.language_model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    if again:
        verifier.checkpoint_activations()
    examples = prepare(verifier, TREES[:4], SETTINGS.rewards, SETTINGS.objective).examples
    torch.manual_seed(0)
    with arithmetic(precision, torch.device("cpu")):
        output_NK, targets = predict(verifier, examples)
    SETTINGS.objective.loss(output_NK, targets, SETTINGS.rewards).mean.backward()
    found = {name: weight.grad for name, weight in verifier.trained_parameters().items() if weight.grad is not None}
    return found, len(runs)


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_that_are_computed_again_give_the_same_gradients(base: Path, tuning: str, precision: str) -> None:
    kept, once = gradients(base, tuning, again=False, precision=precision)
    again, twice = gradients(base, tuning, again=True, precision=precision)
    assert (once, twice) == (1, 2)
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=["trained", "frozen weights"])
def test_bf16_is_for_the_backbone_and_what_is_trained_stays_float32(base: Path, stored: torch.dtype) -> None:
    verifier = build_verifier(base, tuning="full" if stored == torch.float32 else "lora", dtype=stored)
    types: dict[str, torch.dtype] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            types[f"{name} in"], types[f"{name} out"] = inputs[0].dtype, output.dtype

        return hook

    verifier.language_model.model.layers[0].mlp.register_forward_hook(note("layer"))
    verifier.head.register_forward_hook(note("head"))
    examples = prepare(verifier, TREES[:2], SETTINGS.rewards, SETTINGS.objective).examples
    with arithmetic("bf16", torch.device("cpu")):
        output_NK, targets = predict(verifier, examples)
    loss = SETTINGS.objective.loss(output_NK, targets, SETTINGS.rewards).mean
    assert types["layer out"] == torch.bfloat16
    assert types["head in"] == types["head out"] == loss.dtype == torch.float32
    assert {parameter.dtype for parameter in verifier.trained_parameters().values()} == {torch.float32}
    exact, _ = predict(build_verifier(base), examples)
    if stored == torch.float32:
        assert 0 < (output_NK - exact).abs().max() < 0.05 * exact.abs().max()


def test_a_run_goes_on_in_other_passes_but_not_in_another_precision(base: Path, tmp_path: Path) -> None:
    def stop(state: TrainProgress) -> None:
        if state.step == 4:
            raise Interrupted

    begun = Case(replace(SHORT, checkpoint_every_s=0.0))
    with pytest.raises(Interrupted):
        run_case(begun, base, tmp_path / "run", watch=stop)
    with pytest.raises(ValueError, match="of a run with other settings"):
        run_case(Case(SHORT, ComputeSettings(precision="bf16")), base, tmp_path / "run")
    rest = run_case(Case(SHORT, ComputeSettings(accumulate=2)), base, tmp_path / "run")
    assert len(rest["losses"]) == 3
    run_case(begun, base, tmp_path / "whole")
    assert largest_difference(tmp_path / "run", tmp_path / "whole") < 1e-5


def test_a_frozen_backbone_has_no_activations_to_save(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to shard and no activation to save"):
        run_case(Case(SHORT, ComputeSettings(checkpoint_activations=True), "frozen"), base, tmp_path)
