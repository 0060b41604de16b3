"""Training: a function of settings, trees and weights, killed or not; it skips what is not finite, and it learns."""

import json
import math
import random
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from tiny_verifier import (
    build_verifier,
    letter_rollout,
    letter_tree,
    letter_trees,
    save_backbone,
)

from arts.files import only_writer
from arts.lm.packing import PackedBatch
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, Verdict, build_tree
from arts.verifier import scorer as scorer_module
from arts.verifier import training_run
from arts.verifier.examples import Example, StepEnds, pack, picked_right, predict, split_by_problem, without_forks
from arts.verifier.examples import prepare as prepare_for
from arts.verifier.model import FlowVerifier, load_verifier
from arts.verifier.objectives import (
    RFM,
    Loss,
    McValue,
    MeanFlow,
    Objective,
    Outcome,
    RewardSettings,
    TreeFacts,
    build_objective,
)
from arts.verifier.scorer import FlowScorer
from arts.verifier.train import TrainProgress, TrainResult, TrainSettings, train

TREES = letter_trees(24)


def prepare(verifier: FlowVerifier, trees: Iterable[ReasoningTree], settings: TrainSettings) -> list[Example]:
    return prepare_for(verifier, trees, settings.rewards, settings.objective).examples


# Three epochs of five steps, dropout on, a checkpoint after every step.
SETTINGS = TrainSettings(
    objective=RFM(),
    num_epochs=3,
    batch_trees=4,
    learning_rate=3e-3,
    validation_share=0.25,
    evaluations_per_epoch=2,
    checkpoint_every_s=0.0,
)
NUM_STEPS = 15


class Interrupted(Exception):
    """What a watcher raises here; a signal would end the process at the same place."""


class Run(NamedTuple):
    """What a finished run left."""

    result: TrainResult
    files: dict[str, bytes]
    steps: list[int]
    "the steps that were made in this run"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("models") / "tiny")


def run(
    base: Path,
    folder: Path,
    settings: TrainSettings = SETTINGS,
    *,
    trees: Sequence[ReasoningTree] = TREES,
    tuning: str = "full",
    dropout: float = 0.1,
    stop_at: int | None = None,
    watch: Callable[[TrainProgress], None] | None = None,
) -> Run:
    """Train from new; with `stop_at`, until that step is done and before it can be saved."""
    verifier = build_verifier(base, tuning=tuning, dropout=dropout)
    torch.manual_seed(random.randrange(2**40))  # the run must not go on from the process's own random state
    steps: list[int] = []

    def tell(state: TrainProgress) -> None:
        steps.append(state.step)
        if watch:
            watch(state)
        if state.step == stop_at:
            raise Interrupted

    result = train(verifier, trees, settings, folder, watch=tell)
    return Run(result._replace(seconds=0.0), weight_files(folder), steps)


def weight_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}


def interrupt(base: Path, folder: Path, stop_at: int, settings: TrainSettings = SETTINGS, **options: Any) -> None:
    with pytest.raises(Interrupted):
        run(base, folder, settings, stop_at=stop_at, **options)


def checkpoint_state(folder: Path) -> dict[str, Any]:
    with safe_open(folder / "checkpoint.safetensors", framework="pt") as file:
        state: dict[str, Any] = json.loads(file.metadata()["state"])
    return state


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The uninterrupted runs."""
    return {tuning: run(base, tmp_path_factory.mktemp("whole"), tuning=tuning) for tuning in ("full", "lora")}


# --- the same weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_same_settings_give_the_same_weights_to_the_last_bit(
    base: Path, whole: dict[str, Run], tmp_path: Path, tuning: str
) -> None:
    again = run(base, tmp_path, tuning=tuning)
    assert again == whole[tuning]
    assert again.steps == list(range(1, NUM_STEPS + 1))
    weights = {"full": "backbone/model.safetensors", "lora": "adapter/adapter_model.safetensors"}[tuning]
    assert set(again.files) == {"head.safetensors", weights}


def test_another_seed_gives_other_weights(base: Path, whole: dict[str, Run], tmp_path: Path) -> None:
    other = run(base, tmp_path, replace(SETTINGS, seed=1))
    assert all(other.files[name] != content for name, content in whole["full"].files.items())


@pytest.mark.parametrize(("tuning", "stop_at"), [("full", 1), ("full", 2), ("full", NUM_STEPS), ("lora", 8)])
def test_interrupted_run_ends_with_the_same_weights_and_result(
    base: Path, whole: dict[str, Run], tmp_path: Path, tuning: str, stop_at: int
) -> None:
    interrupt(base, tmp_path, stop_at, tuning=tuning)
    assert not (tmp_path / "verifier.json").exists()
    assert (tmp_path / "checkpoint.safetensors").exists() is (stop_at > 1)
    resumed = run(base, tmp_path, tuning=tuning)
    assert resumed.steps == list(range(stop_at, NUM_STEPS + 1))  # what was on disk was not done again
    assert resumed.result == whole[tuning].result
    assert resumed.files == whole[tuning].files  # which also says that checkpoint and temporary files are gone


def test_run_interrupted_again_and_again_ends_with_the_same_weights(
    base: Path, whole: dict[str, Run], tmp_path: Path
) -> None:
    for stop_at in (2, 3, 7, 8, NUM_STEPS):
        interrupt(base, tmp_path, stop_at)
        assert checkpoint_state(tmp_path)["step"] == stop_at - 1
    resumed = run(base, tmp_path)
    assert resumed.steps == [NUM_STEPS]
    assert resumed.result == whole["full"].result
    assert resumed.files == whole["full"].files


def test_interrupted_run_may_go_on_with_another_time_between_checkpoints(
    base: Path, whole: dict[str, Run], tmp_path: Path
) -> None:
    interrupt(base, tmp_path, 6)
    resumed = run(base, tmp_path, replace(SETTINGS, checkpoint_every_s=1e9))
    assert resumed.steps[0] == 6
    assert resumed.files == whole["full"].files


def test_a_damaged_checkpoint_is_named(base: Path, tmp_path: Path) -> None:
    interrupt(base, tmp_path, 3)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"the checkpoint {path} is damaged \(.+\); remove it"):
        run(base, tmp_path)


def test_a_full_disk_is_said_and_leaves_the_checkpoint_before(
    base: Path, whole: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(base, tmp_path, 3)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()

    def full(tensors: object, path: Path, metadata: object = None) -> None:
        path.write_bytes(b"half of it")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr("arts.verifier.checkpoint.save_file", full)
        with pytest.raises(ValueError, match=f"cannot write to {tmp_path}: .* No space left on device"):
            run(base, tmp_path)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    assert run(base, tmp_path).files == whole["full"].files


def test_a_damaged_card_of_a_finished_run_is_named(base: Path, tmp_path: Path) -> None:
    run(base, tmp_path)
    path = tmp_path / "verifier.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match=rf"{path} is damaged \(.+\); remove it, and the same command trains anew"):
        run(base, tmp_path)


def test_two_processes_do_not_train_in_one_folder(base: Path, whole: dict[str, Run], tmp_path: Path) -> None:
    with only_writer(tmp_path), pytest.raises(ValueError, match=f"another process is writing to {tmp_path}"):
        run(base, tmp_path)
    assert run(base, tmp_path).files == whole["full"].files


def test_checkpoints_are_only_written_when_their_time_has_come(base: Path, tmp_path: Path) -> None:
    interrupt(base, tmp_path, NUM_STEPS, replace(SETTINGS, checkpoint_every_s=1e9))
    assert list(tmp_path.iterdir()) == []


def test_lora_checkpoint_does_not_hold_the_frozen_base(base: Path, tmp_path: Path) -> None:
    interrupt(base, tmp_path, 3, tuning="lora")
    names = load_file(tmp_path / "checkpoint.safetensors")
    assert all("lora_" in name or ".head." in name for name in names)


def flipped(trees: Sequence[ReasoningTree]) -> list[ReasoningTree]:
    """The same trees, but the last answer of the first one was judged the other way."""
    nodes = list(trees[0].nodes)
    verdict = nodes[-1].verdict
    assert verdict is not None
    nodes[-1] = replace(nodes[-1], verdict=verdict._replace(correct=not verdict.correct))
    return [replace(trees[0], nodes=tuple(nodes)), *trees[1:]]


OTHER_RUNS: dict[str, dict[str, Any]] = {
    "learning rate": {"settings": replace(SETTINGS, learning_rate=1e-3)},
    "seed": {"settings": replace(SETTINGS, seed=1)},
    "objective": {"settings": replace(SETTINGS, objective=RFM(target="bootstrap"))},
    "rewards": {"settings": replace(SETTINGS, rewards=RewardSettings(right=5.0))},
    "network": {"dropout": 0.2},
    "more trees": {"trees": letter_trees(25)},
    "verdicts": {"trees": flipped(TREES)},
    "trunks": {"trees": [replace(TREES[0], trunks=TREES[0].trunks[:-1]), *TREES[1:]]},
}


@pytest.fixture(scope="module")
def half_done(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that was interrupted; tests copy it."""
    folder = tmp_path_factory.mktemp("half") / "run"
    interrupt(base, folder, 3)
    return folder


@pytest.mark.parametrize("other", OTHER_RUNS.values(), ids=OTHER_RUNS)
def test_checkpoint_of_another_run_is_refused_and_kept(
    base: Path, half_done: Path, tmp_path: Path, other: dict[str, Any]
) -> None:
    shutil.copytree(half_done, tmp_path / "run")
    with pytest.raises(ValueError, match="of a run with other settings, trees or base weights; choose another --out"):
        run(base, tmp_path / "run", **other)
    assert weight_files(tmp_path / "run") == weight_files(half_done)


def test_checkpoint_of_another_base_model_is_refused(half_done: Path, tmp_path: Path) -> None:
    shutil.copytree(half_done, tmp_path / "run")
    with pytest.raises(ValueError, match="of a run with other settings, trees or base weights"):
        run(save_backbone(tmp_path / "other", seed=1), tmp_path / "run")


# --- not finite -------------------------------------------------------------------------------------------------------


def break_steps(monkeypatch: pytest.MonkeyPatch, broken: Sequence[int]) -> None:
    """Let the loss of these training steps be NaN; validation is left alone."""
    step = 0

    true_loss = RFM.loss

    def loss(objective: RFM, *arguments: Any) -> Loss:
        nonlocal step
        value = true_loss(objective, *arguments)
        if not torch.is_grad_enabled():
            return value
        step += 1
        return value._replace(total=value.total * math.nan) if step in broken else value

    monkeypatch.setattr(RFM, "loss", loss)


def test_batches_that_are_not_finite_are_skipped_and_counted(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [2, 3, 7]
    break_steps(monkeypatch, broken)
    verifier = build_verifier(base)
    weights: list[torch.Tensor] = []
    losses: list[float] = []

    def watch(state: TrainProgress) -> None:
        weights.append(torch.cat([parameter.detach().flatten() for parameter in verifier.parameters()]))
        losses.append(state.loss)

    result = train(verifier, TREES, SETTINGS, tmp_path, watch=watch)
    assert result.skipped_batches == 3
    assert result.num_steps == NUM_STEPS
    for step in range(2, NUM_STEPS):  # the last step has a learning rate of nearly zero
        assert torch.equal(weights[step - 1], weights[step - 2]) is (step in broken)
        assert math.isnan(losses[step - 1]) is (step in broken)
    assert all(bool(weight.isfinite().all()) for weight in load_file(tmp_path / "backbone/model.safetensors").values())


def test_steps_skipped_before_an_interruption_still_count(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        break_steps(patch, [2])
        interrupt(base, tmp_path, 5)
    assert run(base, tmp_path).result.skipped_batches == 1


def test_nine_broken_steps_in_a_row_are_survived(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_steps(monkeypatch, range(2, 11))
    assert run(base, tmp_path).result.skipped_batches == 9


def test_ten_broken_steps_in_a_row_end_the_run_and_the_last_good_checkpoint_stays(
    base: Path, whole: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        break_steps(patch, range(4, 14))
        with pytest.raises(FloatingPointError, match=r"not finite for ten steps up to step 12; the last checkpoint"):
            run(base, tmp_path)
    assert checkpoint_state(tmp_path)["step"] == 3
    assert not (tmp_path / "verifier.json").exists()
    resumed = run(base, tmp_path)  # whatever broke the steps is gone
    assert resumed.steps[0] == 4
    assert resumed.files == whole["full"].files
    assert resumed.result == whole["full"].result


def test_a_weight_that_is_not_finite_never_reaches_a_checkpoint(
    base: Path, whole: dict[str, Run], tmp_path: Path
) -> None:
    verifier = build_verifier(base)

    def poison(state: TrainProgress) -> None:
        if state.step == 3:
            with torch.no_grad():
                next(iter(verifier.parameters()))[:] = math.inf

    with pytest.raises(FloatingPointError, match="for ten steps"):
        train(verifier, TREES, SETTINGS, tmp_path, watch=poison)
    assert checkpoint_state(tmp_path)["step"] == 2
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(tmp_path / "checkpoint.safetensors").values())
    assert run(base, tmp_path).files == whole["full"].files


def test_a_learning_rate_that_blows_up_ends_in_a_clear_error(base: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"Lower the learning rate \(1e\+30\)"):
        run(base, tmp_path, replace(SETTINGS, learning_rate=1e30))


def test_run_without_one_finite_validation_saves_nothing(base: Path, tmp_path: Path) -> None:
    def poison(state: TrainProgress) -> None:
        with torch.no_grad():
            verifier.head[0].weight[0] = math.nan

    verifier = build_verifier(base)
    settings = replace(SETTINGS, num_epochs=1, evaluations_per_epoch=1, batch_trees=3)
    steps = math.ceil(len(split_by_problem(prepare(verifier, TREES, settings), 0.25)[0]) / 3)
    assert 2 <= steps < 10
    with torch.no_grad():
        verifier.head[0].weight[0] = math.nan
    with pytest.raises(FloatingPointError, match="validation loss was not finite after any of"):
        train(verifier, TREES, settings, tmp_path, watch=poison)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0.0},
        {"learning_rate": math.inf},
        {"learning_rate": math.nan},
        {"num_epochs": 0},
        {"batch_trees": 0},
        {"patience": 0},
        {"evaluations_per_epoch": 0},
        {"fork_share": -0.1},
        {"fork_share": math.nan},
        {"validation_share": 0.0},
        {"validation_share": 1.0},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(ValueError, match=f"{name} is {value}; it must"):
        TrainSettings(**wrong)


# --- validation and early stopping ------------------------------------------------------------------------------------


def test_early_stopping_saves_the_weights_of_the_best_validation(base: Path, tmp_path: Path) -> None:
    """A learning rate this high learns the 18 trees by heart, and the validation loss turns up again."""
    settings = replace(SETTINGS, num_epochs=40, learning_rate=1e-2, patience=3)
    verifier = build_verifier(base, dropout=0.0)
    seen: list[tuple[float, dict[str, torch.Tensor]]] = []

    def watch(state: TrainProgress) -> None:
        if state.validation is not None:
            seen.append((state.validation.loss, {k: v.detach().clone() for k, v in verifier.named_parameters()}))

    result = train(verifier, TREES, settings, tmp_path / "run", watch=watch)
    losses = [loss for loss, _ in seen]
    best = int(np.argmin(losses))
    assert result.num_steps < settings.num_epochs * 5
    assert len(losses) == best + 1 + settings.patience
    assert result.best.loss == losses[best] < losses[-1]
    saved = load_verifier(tmp_path / "run")
    for name, parameter in saved.named_parameters():
        assert torch.equal(parameter, seen[best][1][name]), name
    assert not torch.equal(saved.head[0].weight, seen[-1][1]["head.0.weight"])
    # An interruption after the best validation keeps it: it is in the checkpoint, with the count of those since.
    stop_at = result.num_steps - 1
    interrupt(base, tmp_path / "again", stop_at, settings, dropout=0.0)
    assert checkpoint_state(tmp_path / "again")["stale"] > 0
    assert run(base, tmp_path / "again", settings, dropout=0.0).files == weight_files(tmp_path / "run")


def example(problem_id: str) -> Example:
    tree = letter_tree(problem_id, num_samples=1)
    return Example(problem_id, [], np.zeros(0), TreeFacts.of(tree), {}, ())


def test_validation_problems_stay_when_trees_are_added_and_are_never_trained_on() -> None:
    examples = [example(f"problem {index % 80}") for index in range(160)]  # every problem twice
    few_training, few_validation = split_by_problem(examples[:60], 0.3)
    training, validation = split_by_problem(examples, 0.3)
    assert {e.problem_id for e in few_validation} <= {e.problem_id for e in validation}
    assert {e.problem_id for e in few_training} <= {e.problem_id for e in training}
    assert not {e.problem_id for e in training} & {e.problem_id for e in validation}
    assert len(training) + len(validation) == 160
    smaller = split_by_problem(examples, 0.1)[1]
    assert {e.problem_id for e in smaller} < {e.problem_id for e in validation}


def test_validation_share_is_kept() -> None:
    row = example("any")
    validation = split_by_problem([row._replace(problem_id=str(index)) for index in range(4000)], 0.05)[1]
    assert len(validation) == pytest.approx(200, abs=4 * math.sqrt(4000 * 0.05 * 0.95))


def record_batches(monkeypatch: pytest.MonkeyPatch) -> dict[bool, list[list[str]]]:
    """Problem ids of every batch, by whether it was trained on."""
    batches: dict[bool, list[list[str]]] = {True: [], False: []}

    def recorded(model: Any, batch: Sequence[Example], inputs: Any) -> Any:
        batches[torch.is_grad_enabled()].append([example.problem_id for example in batch])
        return predict(model, batch, inputs)

    monkeypatch.setattr(training_run, "predict", recorded)
    return batches


def test_a_frozen_backbone_is_computed_once_for_every_tree_and_only_its_head_learns(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    step_ends = FlowVerifier.step_ends

    def counted(verifier: FlowVerifier, batch: PackedBatch) -> torch.Tensor:
        found = step_ends(verifier, batch)
        computed.append(len(found))
        return found

    monkeypatch.setattr(FlowVerifier, "step_ends", counted)
    verifier = build_verifier(base, tuning="frozen", dropout=0.0)
    weights = {name: value.clone() for name, value in verifier.backbone.state_dict().items()}
    examples = prepare(verifier, TREES, SETTINGS)
    result = train(verifier, TREES, replace(SETTINGS, patience=99), tmp_path / "once")
    assert sum(computed) == sum(example.num_nodes for example in examples)
    assert all(torch.equal(value, weights[name]) for name, value in verifier.backbone.state_dict().items())
    monkeypatch.setattr(
        StepEnds, "__call__", lambda self, batch: self.verifier.step_ends(pack(batch)).detach()
    )  # none kept
    again = build_verifier(base, tuning="frozen", dropout=0.0)
    other = train(again, TREES, replace(SETTINGS, patience=99), tmp_path / "again")
    assert sum(computed) > 3 * sum(example.num_nodes for example in examples)
    assert other.best == pytest.approx(result.best, rel=1e-5)
    for name, value in verifier.head.state_dict().items():
        torch.testing.assert_close(again.head.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_every_epoch_has_every_training_problem_once_and_no_validation_problem(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = record_batches(monkeypatch)
    run(base, tmp_path)
    training, validation = split_by_problem(prepare(build_verifier(base), TREES, SETTINGS), SETTINGS.validation_share)
    epochs = [list(chain(*batches[True][start : start + 5])) for start in (0, 5, 10)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(one.problem_id for one in training)
    assert epochs[0] != epochs[1] != epochs[2]
    validated = list(chain(*batches[False]))
    assert set(validated) == {one.problem_id for one in validation}
    assert set(validated).isdisjoint(epochs[0])


def test_validation_loss_is_that_of_one_batch_however_it_is_cut(base: Path, tmp_path: Path) -> None:
    """A learning rate too small to move a weight leaves the network as it was; only the cut into batches differs."""
    trees = [letter_tree(f"{index}", num_samples=1 + index % 7) for index in range(24)]
    losses = []
    for batch_trees in (2, 24):
        settings = replace(
            SETTINGS,
            num_epochs=1,
            batch_trees=batch_trees,
            learning_rate=1e-30,
            evaluations_per_epoch=1,
            objective=RFM(leaf_weight=5.0),
        )
        losses.append(run(base, tmp_path / str(batch_trees), settings, trees=trees).result.best.loss)
    verifier = build_verifier(base)
    validation = split_by_problem(prepare(verifier, trees, settings), settings.validation_share)[1]
    with torch.no_grad():
        expected = float(settings.objective.loss(*predict(verifier, validation), settings.rewards).mean)
    assert losses == pytest.approx([expected] * 2, rel=1e-5)


def test_best_of_n_counts_right_trunks() -> None:
    rollouts = [letter_rollout(0, "ac"), letter_rollout(1, "ab"), letter_rollout(2, "aa", trunk=1, num_shared=1)]
    tree = build_tree(Problem("p", "p"), rollouts, judge=lambda text: Verdict(text.endswith("c"), text))
    row = Example("p", [], np.zeros(0), TreeFacts.of(tree), {}, tree.trunks)
    right_leaf, wrong_leaf = tree.trunks
    [fork] = {node.id for node in tree.leaves()} - set(tree.trunks)
    flow = np.zeros(len(tree.nodes), dtype=np.float32)
    flow[[right_leaf, wrong_leaf, fork]] = [2.0, 1.0, 3.0]  # a fork is no main trajectory, so its flow does not count
    assert picked_right(flow, [row], "last") == 1.0
    assert picked_right(-flow, [row], "last") == 0.0
    assert picked_right(flow, [row._replace(answers=())], "last") == 0.0  # imported: any leaf
    flow[tree.nodes[right_leaf].parent] = -1.0
    both_low = flow.copy()
    both_low[tree.nodes[wrong_leaf].parent] = -1.0
    assert picked_right(both_low, [row], "product") == 1.0


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["monte_carlo", "bootstrap"])
def test_it_learns_what_is_right_from_outcomes_alone(base: Path, tmp_path: Path, target: Any) -> None:
    """On problems never seen: far below the best constant, and close to log R at the ends, where the path decides."""
    trees = letter_trees(100)
    settings = TrainSettings(
        objective=RFM(target=target),
        num_epochs=6,
        batch_trees=8,
        learning_rate=1e-2,
        validation_share=0.2,
        evaluations_per_epoch=1,
    )
    result = run(base, tmp_path, settings, trees=trees, dropout=0.0).result
    verifier = load_verifier(tmp_path)
    examples = prepare(verifier, trees, settings)
    validation = {one.problem_id for one in split_by_problem(examples, settings.validation_share)[1]}
    unseen = [tree for tree in FlowScorer(verifier).score(trees).trees if tree.problem.id in validation]
    facts = [TreeFacts.of(tree) for tree in unseen]
    flows = np.concatenate([[node.log_flow for node in tree.nodes] for tree in unseen])
    observed = np.log(np.concatenate([settings.objective.targets(one, settings.rewards)["target"] for one in facts]))
    is_terminal = np.concatenate([one.is_terminal for one in facts])
    errors = (flows - observed) ** 2
    assert errors.mean() < 0.4 * observed.var()
    assert errors[is_terminal].mean() < 0.1 * observed[is_terminal].var()
    assert result.best.picked_right == 1.0
    assert len(unseen) == result.num_validation_trees > 10


def test_trees_cut_into_parts_train_like_whole_ones(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = build_verifier(base, dtype=torch.float64)
    whole_trees = prepare(verifier, TREES[:4], SETTINGS)
    monkeypatch.setattr(scorer_module, "MAX_PACKED_TOKENS", 30)
    cut = prepare(verifier, TREES[:4], SETTINGS)
    assert all(len(one.parts) == 1 for one in whole_trees)
    assert all(len(one.parts) > 1 for one in cut)
    flows, gradients = [], []
    for examples in (whole_trees, cut):
        verifier.zero_grad()
        output_NK, targets = predict(verifier, examples)
        SETTINGS.objective.loss(output_NK, targets, SETTINGS.rewards).mean.backward()
        flows.append(output_NK.detach())
        gradients.append([parameter.grad.clone() for parameter in verifier.parameters() if parameter.grad is not None])
    np.testing.assert_allclose(flows[0], flows[1], rtol=0, atol=1e-12)
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("objective", [MeanFlow(), RFM(), Outcome(), McValue()], ids=lambda objective: objective.name)
def test_a_share_of_forks_keeps_main_trajectories_and_the_targets_of_all(base: Path, objective: Objective) -> None:
    verifier = build_verifier(base, dtype=torch.float64)
    rewards = SETTINGS.rewards
    whole = prepare_for(verifier, TREES, rewards, objective).examples
    sizes = []
    for share in (0.0, 0.5, 1.0):
        sizes.append(0)
        for tree, full, thin in zip(
            TREES, whole, prepare_for(verifier, TREES, rewards, objective, fork_share=share).examples, strict=True
        ):
            kept = without_forks(tree, share)
            assert {node for leaf in tree.trunks for node in path_to(tree, leaf)} <= set(kept)
            assert np.array_equal(thin.targets["target"], full.targets["target"][kept])
            assert np.array_equal(thin.targets["weight"], full.targets["weight"][kept])
            assert [thin.facts.is_right[leaf] for leaf in thin.answers] == [
                full.facts.is_right[a] for a in full.answers
            ]
            output_NK, _ = predict(verifier.eval(), [thin])
            np.testing.assert_allclose(
                output_NK.detach(), predict(verifier, [full])[0].detach()[kept], rtol=0, atol=1e-12
            )
            sizes[-1] += thin.num_tokens
    assert sizes[0] < sizes[1] < sizes[2] == sum(example.num_tokens for example in whole)


def path_to(tree: ReasoningTree, leaf: int) -> list[int]:
    return [*(path_to(tree, tree.nodes[leaf].parent) if leaf else []), leaf]


def test_a_share_of_forks_is_refused_where_steps_are_compared(base: Path) -> None:
    verifier = build_verifier(base)
    for objective in (RFM(target="bootstrap"), build_objective("pairwise_rm", {}), build_objective("subtb", {})):
        with pytest.raises(ValueError, match=f"objective {objective.name}, as it is set, compares steps"):
            prepare_for(verifier, TREES, SETTINGS.rewards, objective, fork_share=0.5)


# --- unusual collections ----------------------------------------------------------------------------------------------


def chains(correct: Callable[[int], bool]) -> list[ReasoningTree]:
    """Twenty problems with one solution of one step each: a tree with a single leaf."""
    trees = []
    for index in range(20):
        rollout = letter_rollout(0, "abc"[index % 3])
        judge = lambda text, index=index: Verdict(correct(index), text)  # noqa: E731
        trees.append(build_tree(Problem(f"chain {index}", "p"), [rollout], judge=judge))
    return trees


@pytest.mark.parametrize(
    ("correct", "picked"), [(lambda _: True, 1.0), (lambda _: False, 0.0)], ids=["all right", "all wrong"]
)
def test_trees_with_one_leaf_all_right_or_all_wrong(
    base: Path, tmp_path: Path, correct: Callable[[int], bool], picked: float
) -> None:
    settings = replace(SETTINGS, num_epochs=10, learning_rate=1e-2, patience=100, checkpoint_every_s=60.0)
    trees = chains(correct)
    assert all(len(tree.nodes) == 2 for tree in trees)
    result = run(base, tmp_path, settings, trees=trees, dropout=0.0).result
    assert result.best.picked_right == picked
    assert result.best.loss < 0.05  # one target for all: log 10 or log 0.1
    assert result.skipped_batches == 0


def test_one_tree_alone_leaves_nothing_to_validate_with(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1 trees leave . to train on and . to validate with; collect more problems"):
        run(base, tmp_path, trees=TREES[:1])


@pytest.mark.parametrize("trees", [[], [build_tree(Problem("p", "p"), [])]], ids=["no tree", "no step"])
def test_empty_collection_is_refused(base: Path, tmp_path: Path, trees: list[ReasoningTree]) -> None:
    with pytest.raises(ValueError, match="not one tree with a step to train on; collect some with `arts collect`"):
        run(base, tmp_path / "out", trees=trees)
    assert not (tmp_path / "out").exists()


def test_failed_and_unfinished_draws_do_not_disturb_training(base: Path, tmp_path: Path) -> None:
    ends = [Step("", (), None, StopReason.ERROR), Step("x", (1,), -1.0, StopReason.LENGTH)]
    trees = [
        build_tree(Problem(f"p{index}", "p"), [Rollout(0, 0, 0, (ends[index % 2],)), letter_rollout(1, "ab")])
        for index in range(16)
    ]
    trees += [build_tree(Problem(f"q{index}", "q"), [Rollout(0, 0, 0, (ends[0],))]) for index in range(8)]
    result = run(base, tmp_path, trees=trees).result
    assert math.isfinite(result.best.loss)
    assert result.skipped_batches == 0


# --- the card ---------------------------------------------------------------------------------------------------------


def test_card_holds_settings_and_result(base: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, learning_rate=None, num_epochs=1)
    for tuning, learning_rate in (("full", 3e-4), ("lora", 2e-4)):
        result = run(base, tmp_path / tuning, settings, tuning=tuning).result
        card = json.loads((tmp_path / tuning / "verifier.json").read_text())
        assert card["objective"] == {
            "name": "rfm",
            "target": "monte_carlo",
            "stop_gradient": True,
            "leaf_weight": 1.0,
            "inner_weight": 1.0,
            "weigh": "nodes",
            "regression": "squared_log",
            "count_draws": True,
        }
        assert card["rewards"] == {"right": 10.0, "wrong": 0.1}
        assert card["training"]["learning_rate"] == learning_rate
        assert card["training"]["batch_trees"] == 4
        assert card["result"]["best"] == result.best._asdict()
        assert card["result"]["num_steps"] == result.num_steps == 5
        assert card["result"]["num_trained_trees"] + card["result"]["num_validation_trees"] == len(TREES)
