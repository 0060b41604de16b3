"""Likelihoods of given paths are those they were drawn with, packed or not, local or served, or the server says no."""

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_server import Answer, Settings
from pools import RIGHT, UNFINISHED, WRONG, Draw, pool_tree
from servers import Running, fake_server
from tiny_models import LetterTask

from arts.build import build_likelihood
from arts.cli import main
from arts.collect import collect
from arts.lm.load import LanguageModel, load_causal_lm
from arts.lm.tree_attention import attends_to_all_above
from arts.models import shipped_folder
from arts.proposers.hf import HFProposer
from arts.sparse_deep_fork import CollectSettings
from arts.squeeze.measure import LocalLikelihood
from arts.squeeze.paths import finished_paths, join_scores, report_likelihoods
from arts.squeeze.remote import RemoteLikelihood
from arts.tasks.countdown import CountdownTask
from arts.tree import ReasoningTree, path_log_prior


def drawn_by(language_model: LanguageModel, folder: Path, separator: str) -> list[ReasoningTree]:
    proposer = HFProposer(language_model, step_separator=separator)
    settings = CollectSettings(num_problems=6, num_samples=8, pivots="none", split="test")
    return list(collect(LetterTask(step_separator=separator), proposer, settings, folder).trees())


@pytest.fixture(scope="module", params=["qwen2", "gpt2", "llama"])
def tiny(
    request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[LanguageModel, list[ReasoningTree]]:
    model = load_causal_lm(tiny_folder(request.param), dtype=torch.float64)
    separator = ";" if request.param == "qwen2" else "\n\n"
    return model, drawn_by(model, tmp_path_factory.mktemp("trees"), separator)


def log_priors(trees: list[ReasoningTree]) -> list[list[float]]:
    return [[path_log_prior(tree.path(leaf.id)) for leaf in finished_paths(tree)] for tree in trees]


def assert_close(one: list[list[float]], other: list[list[float]], atol: float = 1e-5) -> None:
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=atol)


def test_likelihoods_are_the_log_priors_of_the_model_that_drew(tiny: tuple[LanguageModel, list[ReasoningTree]]) -> None:
    model, trees = tiny
    found = LocalLikelihood(model, name="tiny").score(trees)
    assert sum(map(len, found)) >= 5
    assert_close(found, log_priors(trees))  # priors are kept with six decimals


def test_neither_batches_nor_parts_nor_rows_change_a_likelihood(
    tiny: tuple[LanguageModel, list[ReasoningTree]],
) -> None:
    model, trees = tiny
    whole = LocalLikelihood(model, name="tiny").score(trees)
    heard: list[int] = []
    assert_close(LocalLikelihood(model, name="tiny", max_tokens=20).score(trees, heard.append), whole, atol=1e-9)
    assert heard == sorted(heard) and heard[-1] == len(trees)
    by_rows = LocalLikelihood(model, name="tiny")
    by_rows._by_trees = False
    assert_close(by_rows.score(trees), whole, atol=1e-9)


def test_models_with_windows_are_run_row_by_row(tiny_folder: Callable[[str], Path]) -> None:
    config = load_causal_lm(tiny_folder("llama")).model.config
    assert attends_to_all_above(config)
    config.sliding_window = 16
    assert not attends_to_all_above(config)


def test_paths_longer_than_the_context_are_named(tiny: tuple[LanguageModel, list[ReasoningTree]]) -> None:
    model, trees = tiny
    limit = model.model.config.max_position_embeddings
    model.model.config.max_position_embeddings = 3
    try:
        with pytest.raises(ValueError, match="the context of tiny is 3"):
            LocalLikelihood(model, name="tiny").score(trees)
    finally:
        model.model.config.max_position_embeddings = limit


def test_shipped_proposer_scores_its_own_rollouts(tmp_path: Path) -> None:
    model = load_causal_lm(shipped_folder("countdown-proposer"))
    settings = CollectSettings(num_problems=3, num_samples=4, pivots="none", split="test")
    trees = list(collect(CountdownTask(), HFProposer(model, step_separator=";"), settings, tmp_path / "c").trees())
    assert_close(build_likelihood("countdown").score(trees, lambda _: None), log_priors(trees), atol=1e-4)


# --- summary ----------------------------------------------------------------------------------------------------------


def test_falls_are_counted_by_the_bases_likelihood() -> None:
    """Two problems with a right and a wrong path each; the rarer right one falls by 2, the likelier one rises by 1."""
    trees = [
        pool_tree([Draw("x", True), Draw("x", True), Draw("y"), UNFINISHED], problem="one"),
        pool_tree([Draw("x", True), Draw("y"), Draw("y"), Draw("y")], problem="two"),
    ]
    assert [len(finished_paths(tree)) for tree in trees] == [2, 2]
    paths = join_scores(trees, [[-1.0, -2.0], [-4.0, -3.0]], [[0.0, -3.0], [-6.0, -3.0]])
    np.testing.assert_array_equal(paths.num_draws_N, [2, 1, 1, 3])
    found = report_likelihoods(paths, base="a", tuned="b")
    right = found.overall["right"]
    assert (right.num_paths, right.change.value, right.fallen.value) == (2, -0.5, 0.5)
    assert found.overall["wrong"].change.value == -0.5
    assert [paths.problem_ids[paths.problem_N[index]] for index in found.falls] == ["two"]
    placed = [[one is not None for one in found.bins[kind]] for kind in ("right", "wrong")]
    assert placed[0][0] and placed[0][-1] and sum(placed[0]) == sum(placed[1]) == 2
    # By draws: -(2 * 1 - 1 - 2 + 0) / 7 and (2 * 1 + 2 + 4 + 3 * 3) / 7.
    assert found.kl.value == pytest.approx(1 / 7) and found.entropy_base.value == pytest.approx(17 / 7)
    assert found.to_json()["falls"][0]["log_tuned"] == -6.0


def test_equal_models_change_nothing(tiny: tuple[LanguageModel, list[ReasoningTree]]) -> None:
    model, trees = tiny
    scores = LocalLikelihood(model, name="tiny").score(trees)
    found = report_likelihoods(join_scores(trees, scores, scores), base="a", tuned="a")
    assert found.kl.value == 0 and found.falls == ()
    assert all(one.change.value == 0 and one.fallen.value == 0 for one in found.overall.values())


def test_trees_without_a_finished_or_judged_path_are_refused() -> None:
    with pytest.raises(ValueError, match="no path of these trees is finished"):
        join_scores([pool_tree([UNFINISHED])], [[]], [[]])
    tree = pool_tree([RIGHT, WRONG])
    unjudged = ReasoningTree(
        problem=tree.problem,
        nodes=tuple(type(node)(id=node.id, parent=node.parent, text=node.text, stop=node.stop) for node in tree.nodes),
        trunks=tree.trunks,
    )
    with pytest.raises(ValueError, match="has no verdict"):
        join_scores([unjudged], [[0.0, 0.0]], [[0.0, 0.0]])


# --- servers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def echoing(tiny_folder: Callable[[str], Path]) -> Iterator[tuple[Running, LanguageModel]]:
    """A server that scores prompts with a tiny model, as vLLM does."""
    model = load_causal_lm(tiny_folder("qwen2"), dtype=torch.float64)

    async def score(path: str, body: dict[str, Any], fault: str | None, answer: Answer) -> None:
        ids = torch.tensor([body["prompt"]])
        with torch.inference_mode():
            log_law = torch.log_softmax(model.model(input_ids=ids).logits[0], dim=-1)
        values = log_law[:-1].gather(1, ids[0, 1:, None])[:, 0].tolist()
        log_probs = {"tokens": ["?"] * (len(values) + 2), "token_logprobs": [None, *values, -0.1]}
        choice = {"index": 0, "text": "?", "finish_reason": "length", "logprobs": log_probs}
        await answer.json(200, {"choices": [choice]})

    with fake_server(Settings()) as running:
        running.app._choices = score  # type: ignore[method-assign]
        yield running, model


def test_served_likelihoods_are_those_of_the_folder(
    echoing: tuple[Running, LanguageModel], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    running, model = echoing
    trees = drawn_by(model, tmp_path / "c", ";")
    likelihood = build_likelihood(f"{running.url}#toy?tokenizer={tiny_folder('qwen2')}")
    assert isinstance(likelihood, RemoteLikelihood)
    try:
        heard: list[int] = []
        assert_close(likelihood.score(trees, heard.append), LocalLikelihood(model, name="tiny").score(trees), atol=1e-6)
        assert heard == list(range(1, len(trees) + 1))
    finally:
        likelihood.client.close()


@pytest.mark.parametrize("settings", [Settings(), Settings(extra_fields=False), Settings(log_probs=False)])
def test_servers_that_do_not_score_given_text_are_told_apart(
    settings: Settings, tiny_folder: Callable[[str], Path]
) -> None:
    """One ignores `echo`, one refuses it, one has no log-probabilities at all."""
    with fake_server(settings) as running:
        folder = tiny_folder("qwen2")
        with pytest.raises(ValueError, match=r"does not score given text .* --base-trees A --tuned-trees B"):
            build_likelihood(f"{running.url}#toy?tokenizer={folder}&max_attempts=2&give_up_s=2")
        with pytest.raises(ValueError, match=r"name the folder of the model's tokenizer"):
            build_likelihood(f"{running.url}#toy")


def test_command_scores_a_collection_with_two_folders(
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of two tokenizers, the one that did not draw is said to cut texts anew."""
    drawn_by(load_causal_lm(tiny_folder("gpt2")), tmp_path / "trees", "\n\n")
    models = [f"hf:{tiny_folder(name)}" for name in ("gpt2", "qwen2")]
    arguments = ["--base", models[0], "--tuned", models[1], "--trees", str(tmp_path / "trees")]
    monkeypatch.setattr(sys, "argv", ["arts", "squeeze", *arguments, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    said = capsys.readouterr()
    assert said.err.count("another tokenizer") == 1 and f"note: {models[1]}" in said.err
    assert "right paths that fell furthest" in said.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"squeeze.json", "paths.jsonl", "squeeze.html"}


def test_likelihoods_are_finite(tiny: tuple[LanguageModel, list[ReasoningTree]]) -> None:
    model, trees = tiny
    assert all(math.isfinite(one) and one < 0 for row in LocalLikelihood(model, name="t").score(trees) for one in row)
