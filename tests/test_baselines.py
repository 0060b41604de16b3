"""GRPO and fine-tuning through TRL: same prompts and checker as everywhere, complete bills, runs that go on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("trl", reason='needs pip install "arts-llm[grpo]"')

from arts.baselines.finetune import FinetuneSettings, finetune, right_solutions
from arts.baselines.grpo import GRPOResult, GRPOSettings, build_config, reward_by, train_grpo
from arts.build.proposers import proposer_folder
from arts.cli import app
from arts.collect import collect
from arts.lm.load import LanguageModel, load_causal_lm
from arts.proposers.hf import HFProposer
from arts.sparse_deep_fork import CollectSettings
from arts.store import load_trees
from arts.tasks.countdown import CountdownTask
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, Verdict, build_tree

SMALL = GRPOSettings(
    group_size=4,
    problems_per_update=4,
    max_updates=4,
    num_problems=40,
    validation_problems=4,
    validation_draws=2,
    validate_every=2,
)


def shipped() -> LanguageModel:
    return load_causal_lm(proposer_folder("countdown"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_causal_lm(folder).model.state_dict())


def differ(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GRPOResult]:
    out = tmp_path_factory.mktemp("grpo") / "whole"
    return out, train_grpo(shipped(), CountdownTask(), SMALL, out)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"group_size": 1}, "at least 2"),
        ({"max_updates": 0}, "max_updates is 0"),
        ({"draws_per_batch": 5}, "must divide the 384 draws"),
        ({"tuning": "partly"}, "'full' and 'lora'"),
        ({"extra": {"learning_speed": 1}}, "no field learning_speed"),
        ({"extra": {"num_generations": 3, "max_steps": 1}}, "group_size, max_updates; set those"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GRPOSettings(**change)  # type: ignore[arg-type]


def test_a_draw_is_rewarded_by_the_task_and_a_cut_one_is_wrong(tmp_path: Path) -> None:
    task = CountdownTask()
    problems = [Problem(id=text, prompt=text) for text in ("2 3 4 5 > 14", "1 2 3 4 > 10")]
    config = build_config(shipped(), task, SMALL, tmp_path, num_validation=0)
    seen: dict[str, float] = {}
    right = "4+3=7|2 5 7;7+5=12|2 12;12+2=14|14"
    conversation = [{"role": "assistant", "content": right}]
    limit = config.max_completion_length or 0
    rewards = reward_by(task, problems, config, frozenset({9}))(
        completions=[right, right, "14", conversation, right, right],
        completion_ids=[[1] * 27, [1] * 27, [1, 2], [1] * 27, [1] * limit, [1] * (limit - 1) + [9]],
        index=[0, 1, 0, 0, 0, 0],
        log_metric=seen.__setitem__,
    )
    assert rewards == [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    assert seen["generated_tokens"] == 3 * 27 + 2 + 2 * limit


def test_a_run_that_could_not_learn_is_refused(tmp_path: Path) -> None:
    few = GRPOSettings(num_problems=8, validation_problems=0)
    with pytest.raises(ValueError, match="takes 48 problems, and task countdown gave 8"):
        train_grpo(shipped(), CountdownTask(), few, tmp_path / "few")
    assert not (tmp_path / "few").exists()  # so that the mended command may use it
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "collection.json").write_text("{}")
    with pytest.raises(ValueError, match="holds something else"):
        train_grpo(shipped(), CountdownTask(), SMALL, tmp_path / "other")


def test_the_bill_counts_every_prompt_and_every_token(run: tuple[Path, GRPOResult]) -> None:
    out, result = run
    history = json.loads((out / "grpo.json").read_text())["history"]
    updates = [row for row in history if "generated_tokens" in row]
    assert [row["step"] for row in updates] == [1, 2, 3, 4]
    assert result.bill.draws == 4 * 16
    assert result.bill.generated_tokens == sum(row["generated_tokens"] for row in updates)
    assert result.bill.generated_tokens == round(sum(16 * row["completions/mean_length"] for row in updates))
    assert result.bill.prompt_tokens == 64 * len(shipped().prompt_ids("2 3 4 5 > 14"))  # all have one length here
    assert [step for step, _ in result.validation] == [0, 2, 4]
    assert result.best_update in (2, 4)


def test_the_saved_model_is_a_proposer_and_has_learned_something(run: tuple[Path, GRPOResult]) -> None:
    _, result = run
    tuned = load_causal_lm(result.model)
    assert tuned.tokenizer_fingerprint == shipped().tokenizer_fingerprint
    assert 0 < differ(dict(tuned.model.state_dict()), dict(shipped().model.state_dict())) < 1e-2
    assert HFProposer(tuned, step_separator=";").fingerprint


def test_the_prompt_is_the_one_that_is_collected_from() -> None:
    from arts.baselines.grpo import _dataset

    model = shipped()
    row = _dataset(model, [Problem(id="a", prompt="2 3 4 5 > 14")], first=0)[0]
    ids = model.tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=True)["input_ids"]
    assert list(ids) == model.prompt_ids("2 3 4 5 > 14")
    model.tokenizer.chat_template = None
    row = _dataset(model, [Problem(id="a", prompt="2 3 4 5 > 14")], first=0)[0]
    assert list(model.tokenizer(row["prompt"])["input_ids"]) == model.prompt_ids("2 3 4 5 > 14")


def test_an_interrupted_run_goes_on_to_the_same_weights_and_bill(run: tuple[Path, GRPOResult], tmp_path: Path) -> None:
    _, whole = run

    def stop(update: int, note: str) -> None:
        if update == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_grpo(shipped(), CountdownTask(), SMALL, tmp_path / "run", watch=stop)
    again = train_grpo(shipped(), CountdownTask(), SMALL, tmp_path / "run")
    assert differ(weights(whole.model), weights(again.model)) == 0
    assert again.bill == whole.bill
    assert again.validation == whole.validation
    assert train_grpo(shipped(), CountdownTask(), SMALL, tmp_path / "run") == again  # finished: nothing is done again
    (tmp_path / "run" / "grpo.json").unlink()  # as if stopped between the last checkpoint and the result
    assert train_grpo(shipped(), CountdownTask(), SMALL, tmp_path / "run") == again
    with pytest.raises(ValueError, match="another group_size"):
        train_grpo(shipped(), CountdownTask(), GRPOSettings(group_size=2), tmp_path / "run")


def test_groups_without_contrast_teach_nothing(tmp_path: Path) -> None:
    class Never(CountdownTask):
        def judge(self, problem: Problem, solution: str) -> Verdict:
            return Verdict(False, None)

    settings = GRPOSettings(group_size=4, problems_per_update=2, max_updates=2, num_problems=8, validation_problems=0)
    result = train_grpo(shipped(), Never(), settings, tmp_path)
    assert differ(weights(result.model), dict(shipped().model.state_dict())) == 0


def test_an_interrupted_run_waits_no_longer_than_a_whole_one(tmp_path: Path) -> None:
    """Nothing is ever right, so validation never rises: two more after the first, and the run is over."""

    class Never(CountdownTask):
        def judge(self, problem: Problem, solution: str) -> Verdict:
            return Verdict(False, None)

    def stop(update: int, note: str) -> None:
        if update == 3:
            raise KeyboardInterrupt

    settings = replace(SMALL, max_updates=8, validate_every=1, patience=2, problems_per_update=2)
    whole = train_grpo(shipped(), Never(), settings, tmp_path / "whole")
    assert whole.num_updates == 3
    with pytest.raises(KeyboardInterrupt):
        train_grpo(shipped(), Never(), settings, tmp_path / "run", watch=stop)
    again = train_grpo(shipped(), Never(), settings, tmp_path / "run")
    assert replace(again, model=whole.model) == whole
    (tmp_path / "run" / "grpo.json").unlink()  # as if stopped between the last checkpoint and the result
    for number, state in ((5, None), (6, "{")):  # as if killed while it was written
        (tmp_path / "run" / "checkpoints" / f"checkpoint-{number}").mkdir()
        if state:
            (tmp_path / "run" / "checkpoints" / f"checkpoint-{number}" / "trainer_state.json").write_text(state)
    again = train_grpo(shipped(), Never(), settings, tmp_path / "run")
    assert replace(again, model=whole.model) == whole


def test_an_update_in_parts_is_the_update_as_a_whole(tmp_path: Path) -> None:
    def tuned(name: str, batch: int) -> dict[str, torch.Tensor]:
        settings = GRPOSettings(
            group_size=4,
            problems_per_update=4,
            max_updates=1,
            num_problems=8,
            validation_problems=0,
            draws_per_batch=batch,
            learning_rate=1.0,
            extra={"optim": "sgd"},
        )
        return weights(train_grpo(shipped(), CountdownTask(), settings, tmp_path / name).model)

    whole, parts = tuned("whole", 16), tuned("parts", 8)
    assert differ(whole, dict(shipped().model.state_dict())) > 1e-4
    assert differ(whole, parts) < 1e-6


def shipped_ids(text: str) -> tuple[int, ...]:
    return tuple(shipped().tokenizer(text)["input_ids"])


def test_right_solutions_are_taken_once_and_not_more_than_wanted() -> None:
    model, problem = shipped(), Problem(id="a", prompt="3 4 5 > 12")
    texts = ["5+3=8|4 8;8+4=12|12", "5+3=8|4 8;8+4=13|13", "5+4=9|3 9;9+3=12|12", "5+3=8|4 8;8+4=12|12"]
    rollouts = [
        Rollout(
            index, index, 0, (Step(text, (*shipped_ids(text), model.tokenizer.eos_token_id), -1.0, StopReason.EOS),)
        )
        for index, text in enumerate(texts)
    ]
    tree = build_tree(
        problem,
        rollouts,
        judge=lambda text: CountdownTask(3).judge(problem, text),
        log_prior_law="raw",
        tokenizer=model.tokenizer_fingerprint,
    )
    found = right_solutions([tree, tree], model.text, 4)
    assert [model.tokenizer.decode(one.solution_ids, skip_special_tokens=True) for one in found] == [texts[0], texts[2]]
    assert all(one.solution_ids[-1] == model.tokenizer.eos_token_id for one in found)
    assert {one.prompt_ids for one in found} == {tuple(model.prompt_ids("3 4 5 > 12"))}
    assert len(right_solutions([tree], model.text, 1)) == 1


def test_fine_tuning_makes_what_was_right_likelier(tmp_path: Path) -> None:
    model = shipped()
    settings = CollectSettings(num_problems=16, num_samples=4, pivots="none")
    collect(CountdownTask(), HFProposer(model, step_separator=";"), settings, tmp_path / "trees")
    trees = load_trees(tmp_path / "trees")
    before = mean_log_likelihood(model, trees)
    result = finetune(shipped(), trees, FinetuneSettings(num_epochs=4, batch_size=8), tmp_path / "tuned")
    assert mean_log_likelihood(load_causal_lm(result.model), trees) > before + 0.1
    examples = right_solutions(trees, model.text, 4)
    assert result.trained_tokens == 4 * sum(len(one.prompt_ids) + len(one.solution_ids) for one in examples)
    assert result.num_problems == sum(any(n.verdict and n.verdict.correct for n in tree.nodes) for tree in trees)
    assert finetune(shipped(), trees, FinetuneSettings(num_epochs=4, batch_size=8), tmp_path / "tuned") == result
    with pytest.raises(ValueError, match="no right solution"):
        finetune(model, [], FinetuneSettings(), tmp_path / "none")


def mean_log_likelihood(model: LanguageModel, trees: list[ReasoningTree]) -> float:
    """Of the right solutions, nats each."""
    total, examples = 0.0, right_solutions(trees, model.text, 4)
    for one in examples:
        ids = torch.tensor([[*one.prompt_ids, *one.solution_ids]])
        with torch.no_grad():
            log_p = model.model(ids).logits[0, :-1].log_softmax(-1)
        total += float(log_p.gather(1, ids[0, 1:, None])[len(one.prompt_ids) - 1 :].sum())
    return total / len(examples)


def test_the_commands_print_what_was_spent_and_where_the_model_is(tmp_path: Path) -> None:
    options = "--updates 1 --group-size 2 --problems-per-update 2 --num-problems 4 --validation-problems 0"
    told = CliRunner().invoke(app, ["grpo", "--out", str(tmp_path / "run"), *options.split()], catch_exceptions=False)
    assert told.exit_code == 0
    assert "4 draws" in told.stdout
    assert str(tmp_path / "run" / "model") in told.stdout.replace("\n", "")


def test_fine_tuning_is_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="start arts finetune as one"):
        finetune(shipped(), [], FinetuneSettings(), tmp_path / "two")
