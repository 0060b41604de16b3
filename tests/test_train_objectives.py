"""Every objective through the trainer: packed equals one row per path, odd trees work or are refused in words."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tiny_verifier import CONTEXT, build_verifier, holds_c, in_float64, letter_rollout, letter_trees, save_backbone

from arts.lm.load import load_backbone
from arts.tree import Problem, ReasoningTree, Step, StopReason, build_tree
from arts.verifier.examples import predict, prepare
from arts.verifier.model import FlowVerifier, VerifierSettings, load_verifier, new_verifier
from arts.verifier.objectives import OBJECTIVES, Objective, RewardSettings, TreeFacts, build_objective, join_targets
from arts.verifier.scorer import FlowScorer, trained_objective
from arts.verifier.train import TrainSettings, train

REWARDS = RewardSettings()
VARIANTS: dict[str, Objective] = {name: build_objective(name) for name in OBJECTIVES} | {
    "rfm bootstrap": build_objective("rfm", {"target": "bootstrap", "stop_gradient": False}),
    "mean_flow bootstrap": build_objective("mean_flow", {"target": "bootstrap", "regression": "squared_log"}),
    "tempered poisson": build_objective("tempered_flow", {"self_normalised": False, "regression": "poisson"}),
    "tb": build_objective("subtb", {"length_weight": None}),
}
each_variant = pytest.mark.parametrize("objective", VARIANTS.values(), ids=VARIANTS.keys())
each_objective = pytest.mark.parametrize("name", OBJECTIVES)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("models") / "tiny")


def verifier_for(base: Path, objective: Objective, *, exact: bool = False) -> FlowVerifier:
    """Without dropout; `exact` in float64."""
    shape = VerifierSettings(tuning="full", dropout=0.0, num_outputs=objective.num_outputs)
    verifier = new_verifier(
        load_backbone(base, dtype=torch.float64 if exact else torch.float32), shape, base="tiny", seed=0
    )
    if exact:
        in_float64(verifier)
    return verifier


def settings_for(objective: Objective, **changes: Any) -> TrainSettings:
    settings = TrainSettings(objective=objective, num_epochs=1, validation_share=0.3, learning_rate=1e-3)
    return replace(settings, **changes)


# --- packed equals one row per path -----------------------------------------------------------------------------------


@st.composite
def forests(draw: st.DrawFn) -> list[ReasoningTree]:
    """One to three trees of random words, forked anywhere, merged or not; steps of a trunk's fork may repeat it."""
    trees = []
    for number in range(draw(st.integers(1, 3))):
        words = draw(st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=5))
        rollouts = [letter_rollout(index, word) for index, word in enumerate(words)]
        for trunk, word in enumerate(words):
            if len(word) > 2 and draw(st.booleans()):
                shared = draw(st.integers(1, len(word) - 2))
                tail = draw(st.text("abc", min_size=1, max_size=3))
                rollouts.append(letter_rollout(len(rollouts), word[:shared] + tail, trunk=trunk, num_shared=shared))
        problem = Problem(f"{number}", f"letters {number}")
        trees.append(build_tree(problem, rollouts, merge=draw(st.booleans()), judge=holds_c))
    return trees


def outputs_row_by_row(verifier: FlowVerifier, trees: Sequence[ReasoningTree]) -> torch.Tensor:
    """The head's output for every node [N, K], each from a row of its own that holds nothing but its path."""
    rows = []
    for tree in trees:
        ids = verifier.node_token_ids(tree)
        for node in tree.nodes:
            path = [*ids[0], *(token for step in tree.path(node.id) for token in ids[step.id])]
            hidden = verifier.backbone(input_ids=torch.tensor([path]), use_cache=False).last_hidden_state
            rows.append(verifier.head(hidden[0, -1]))
    return torch.stack(rows)


def gradients(verifier: FlowVerifier, loss: torch.Tensor) -> list[torch.Tensor]:
    verifier.zero_grad()
    loss.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in verifier.trained_parameters().values()]


@each_variant
@hypothesis_settings(max_examples=4, deadline=None)
@given(trees=forests())
def test_packed_loss_and_gradients_are_those_of_one_row_per_path(
    base: Path, objective: Objective, trees: list[ReasoningTree]
) -> None:
    verifier = verifier_for(base, objective, exact=True)
    targets = [objective.targets(TreeFacts.of(tree), REWARDS) for tree in trees]
    if sum(target["weight"].sum() for target in targets) == 0:
        return  # nothing to learn: `prepare` refuses it, see below
    examples = prepare(verifier, trees, REWARDS, objective).examples
    packed = objective.loss(*predict(verifier, examples), REWARDS).mean
    batch = join_targets(targets, [len(tree.nodes) for tree in trees])
    unpacked = objective.loss(outputs_row_by_row(verifier, trees), batch, REWARDS).mean
    assert float(packed.detach()) == pytest.approx(float(unpacked.detach()), rel=1e-9, abs=1e-12)
    for one, other in zip(gradients(verifier, packed), gradients(verifier, unpacked), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


# --- every objective trains, and its verifier says what its score is --------------------------------------------------


@each_variant
def test_training_lowers_the_loss_and_the_card_rebuilds_the_objective(
    base: Path, tmp_path: Path, objective: Objective
) -> None:
    verifier = verifier_for(base, objective)
    before = _loss(verifier, objective)
    train(verifier, letter_trees(40), settings_for(objective, num_epochs=2, learning_rate=1e-2), tmp_path)
    assert _loss(verifier, objective) < before
    loaded = load_verifier(tmp_path)
    assert trained_objective(loaded) == (objective, REWARDS)
    scored = FlowScorer(loaded).score(letter_trees(2))
    assert scored.scale == objective.scale(REWARDS)
    assert all(node.log_flow is not None and np.isfinite(node.log_flow) for tree in scored.trees for node in tree.nodes)
    if scored.scale.kind == "log_value":
        assert max(node.log_flow for tree in scored.trees for node in tree.nodes) <= 0  # type: ignore[type-var]


def _loss(verifier: FlowVerifier, objective: Objective) -> float:
    examples = prepare(verifier, letter_trees(40), REWARDS, objective).examples
    with torch.no_grad():
        return float(objective.loss(*predict(verifier.eval(), examples), REWARDS).mean)


def test_objective_with_a_selector_needs_a_head_with_two_outputs(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"subtb needs a head with 2 outputs, the verifier's has 1; .*num_outputs"):
        train(build_verifier(base), letter_trees(4), settings_for(build_objective("subtb")), tmp_path)


def test_objective_with_pi_0_refuses_mixed_laws_and_missing_priors(base: Path) -> None:
    name = "tempered_flow"
    objective = build_objective(name)
    verifier = verifier_for(base, objective)
    first, second = letter_trees(2)
    with pytest.raises(
        ValueError, match=f"objective {name} uses log pi_0, .* of law 'sampling' after trees of another"
    ):
        prepare(verifier, [first, replace(second, log_prior_law="sampling")], REWARDS, objective)
    silent = replace(first, nodes=tuple(replace(node, log_prior=None) for node in first.nodes))
    with pytest.raises(ValueError, match=f"objective {name} .* steps without a log-prior; collect with a proposer"):
        prepare(verifier, [silent], REWARDS, objective)
    for other in set(OBJECTIVES) - {name}:
        assert prepare(verifier, [silent], REWARDS, build_objective(other)).examples


# --- validation -------------------------------------------------------------------------------------------------------


def test_validation_trees_are_used_as_given_and_must_be_of_other_problems(base: Path, tmp_path: Path) -> None:
    settings = settings_for(build_objective("rfm"))
    trees, others = letter_trees(12), letter_trees(5, seed=1)
    result = train(build_verifier(base), trees, settings, tmp_path / "a", validation=others)
    assert (result.num_trained_trees, result.num_validation_trees) == (12, 5)
    with pytest.raises(ValueError, match="1 validation problems are trained on, '0-3' among them; give trees of other"):
        train(build_verifier(base), trees, settings, tmp_path / "b", validation=[*others, trees[3]])


@pytest.mark.parametrize("keep", ["loss", "picked_right"])
def test_kept_weights_are_those_that_validate_best(base: Path, tmp_path: Path, keep: Any) -> None:
    seen: list[Any] = []
    settings = settings_for(
        build_objective("rfm"), keep=keep, num_epochs=5, evaluations_per_epoch=2, patience=99, learning_rate=2e-2
    )
    result = train(
        build_verifier(base),
        letter_trees(20),
        settings,
        tmp_path,
        validation=letter_trees(9, seed=2),
        watch=lambda state: seen.append(state.validation) if state.validation else None,
    )
    assert len({one.loss for one in seen}) > 2
    best = min(seen, key=lambda one: one.loss) if keep == "loss" else max(seen, key=lambda one: one.picked_right)
    assert result.best == best


# --- odd trees --------------------------------------------------------------------------------------------------------

NEEDS_BOTH = {"sibling_rank", "pairwise_rm"}  # nothing to learn where all outcomes are equal


def same_ending(word: str, count: int) -> list[ReasoningTree]:
    return [
        build_tree(Problem(f"{index}", f"p{index}"), [letter_rollout(0, word)], judge=holds_c) for index in range(count)
    ]


@each_objective
@pytest.mark.parametrize("word", ["abc", "aba"], ids=["all right", "all wrong"])
def test_trees_of_one_leaf_all_right_or_all_wrong(base: Path, tmp_path: Path, name: str, word: str) -> None:
    objective = build_objective(name)
    verifier = verifier_for(base, objective)
    if name in NEEDS_BOTH:
        with pytest.raises(ValueError, match=f"none of the 12 trees holds anything that objective {name} learns from"):
            train(verifier, same_ending(word, 12), settings_for(objective), tmp_path)
        return
    result = train(verifier, same_ending(word, 12), settings_for(objective), tmp_path)
    assert np.isfinite(result.best.loss)
    assert result.skipped_batches == 0
    # With one path a tree, the one weight is all there is.
    weighed = ("effective sample size of the weighted paths: 1.00 of the draws",)
    assert result.notes == (weighed if name == "tempered_flow" else ())


def test_trees_without_signal_are_counted_and_told(base: Path, tmp_path: Path) -> None:
    objective = build_objective("pairwise_rm")
    trees = [*letter_trees(10), *same_ending("aba", 3)]
    result = train(verifier_for(base, objective), trees, settings_for(objective), tmp_path)
    [line] = result.notes
    without = sum(len({node.verdict.correct for node in tree.leaves() if node.verdict}) == 1 for tree in trees)
    assert line == f"trees that hold nothing this objective learns from: {without}"
    assert without >= 3
    assert json.loads((tmp_path / "verifier.json").read_text())["result"]["notes"] == [line]


@pytest.fixture(scope="module")
def large_tree() -> ReasoningTree:
    """1,250 paths of four steps below one prompt."""
    rng = random.Random(0)
    rollouts = [letter_rollout(index, "".join(rng.choices("abc", k=4))) for index in range(1250)]
    return build_tree(Problem("large", "p"), rollouts, merge=False, judge=holds_c)


def test_tree_of_5000_nodes_is_cut_into_parts_that_hold_every_node(base: Path, large_tree: ReasoningTree) -> None:
    objective = build_objective("rfm")
    verifier = verifier_for(base, objective)
    [example] = prepare(verifier, [large_tree], REWARDS, objective).examples
    assert sum(len(part.nodes) for part in example.parts) >= 5001 == example.num_nodes
    with torch.no_grad():
        output_NK, batch = predict(verifier.eval(), [example])
    assert np.isfinite(float(objective.loss(output_NK, batch, REWARDS).mean))


@each_objective
def test_tree_of_5000_nodes_has_a_loss_under_every_objective(large_tree: ReasoningTree, name: str) -> None:
    objective = build_objective(name)
    batch = join_targets([objective.targets(TreeFacts.of(large_tree), REWARDS)], [5001])
    output_NK = torch.randn(5001, objective.num_outputs, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = objective.loss(output_NK, batch, REWARDS)
    loss.mean.backward()
    assert float(loss.weight) > 0
    assert torch.isfinite(output_NK.grad).all()
    assert output_NK.grad[:, 0].abs().sum() > 0


@each_objective
def test_path_longer_than_the_context_is_left_out_and_counted(base: Path, tmp_path: Path, name: str) -> None:
    objective = build_objective(name)
    long = (Step("x" * CONTEXT, (), -1.0, StopReason.STOP), Step("y", (), -1.0, StopReason.EOS))
    trees = [
        build_tree(tree.problem, [*_rollouts(index), replace(letter_rollout(9, "a"), steps=long)], judge=holds_c)
        for index, tree in enumerate(letter_trees(12))
    ]
    result = train(verifier_for(base, objective), trees, settings_for(objective), tmp_path)
    assert f"paths longer than the verifier's context of {CONTEXT} tokens, left out: 12" in result.notes


def _rollouts(index: int) -> list[Any]:
    return [letter_rollout(place, word) for place, word in enumerate(("ac", "ab", "cb" if index % 2 else "bb"))]
