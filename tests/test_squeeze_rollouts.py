"""pass@k, crossing, lost and gained problems of two sets of rollouts, against counting by hand."""

import gzip
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from pools import RIGHT, UNFINISHED, WRONG, Draw, pool_tree

from arts.cli import main
from arts.evaluate.metrics import read_draws, trunk_leaves
from arts.squeeze.paths import join_scores, report_likelihoods
from arts.squeeze.report import Measured, print_measured, write_measured, write_page
from arts.squeeze.rollouts import _missed_by_others, compare_rollouts
from arts.store import create_collection
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, Verdict, build_tree


def pool(right: dict[str, int], num_draws: int = 4) -> list[ReasoningTree]:
    """Problems with so many right draws of four."""
    return [pool_tree([RIGHT] * count + [WRONG] * (num_draws - count), problem=name) for name, count in right.items()]


BASE = pool({"often": 2, "rare": 1, "never": 0, "other": 1})
TUNED = pool({"often": 4, "rare": 0, "never": 1, "alien": 4})


def test_problems_lost_and_gained() -> None:
    found = compare_rollouts(BASE, TUNED)
    assert (found.num_problems, found.num_left_out, found.common) == (3, 2, 4)
    assert found.lost_problems == ("rare",) and found.gained_problems == ("never",)
    assert found.lost.value == found.gained.value == pytest.approx(1 / 3)
    assert found.extinct.value == pytest.approx(1 / 3)
    assert found.lost_rare.value == pytest.approx(1.0)  # `rare` alone: half of four draws are no rarity
    # At two draws: often 5/6 against 1, rare 1/2 against 0, never 0 against 1/2.
    assert found.lost_half.value == pytest.approx(1 / 2 / 3)
    assert found.base.pass_at_k[2].value == pytest.approx((5 / 6 + 1 / 2) / 3)


def test_lost_by_chance_is_what_the_base_loses_to_itself() -> None:
    """By counting all ways to split four draws into two halves."""
    draws = read_draws(BASE)
    expected = []
    for correct in draws.correct_PN:
        splits = [(first, set(range(4)) - set(first)) for first in itertools.combinations(range(4), 2)]
        expected.append(
            np.mean([any(correct[i] for i in one) and not any(correct[i] for i in two) for one, two in splits])
        )
    np.testing.assert_allclose(_missed_by_others(draws, 2), expected)
    assert compare_rollouts(pool({"a": 1}, 1), pool({"a": 0}, 1)).lost_by_chance.value == 0.0  # nothing to split


def test_curves_cross_where_the_tuned_model_falls_behind() -> None:
    """Tuned: one of two problems always, the other never. Base: each with one of four draws."""
    base, tuned = pool({"a": 1, "b": 1}), pool({"a": 4, "b": 0})
    found = compare_rollouts(base, tuned)
    assert {k: one.value for k, one in found.difference.items()} == pytest.approx({1: 0.25, 2: 0.0, 4: -0.5})
    assert found.crossing == 4
    assert compare_rollouts(tuned, base).crossing is None  # behind from the start is no crossing
    assert compare_rollouts(base, base).crossing is None


def test_different_numbers_of_draws_are_compared_at_the_smaller() -> None:
    found = compare_rollouts(pool({"a": 2}, 8), pool({"a": 1}, 4))
    assert found.common == 4 and sorted(found.difference) == [1, 2, 4]
    assert list(found.base.pass_at_k) == [1, 2, 4, 8] and list(found.tuned.pass_at_k) == [1, 2, 4]


def test_diversity_counts_distinct_texts_and_answers() -> None:
    varied = [pool_tree([Draw("a", True), Draw("a", True), Draw("b", True), Draw("c")], problem="p")]
    found = compare_rollouts(varied, [pool_tree([RIGHT, RIGHT, RIGHT, UNFINISHED], problem="p")])
    assert found.base.distinct.value == pytest.approx(3) and found.base.distinct_right.value == pytest.approx(2)
    assert found.tuned.distinct.value == pytest.approx(1)  # the unfinished draw is no solution
    assert found.base.answer_entropy.value == pytest.approx(1.5 * np.log(2))
    assert found.tuned.answer_entropy.value == 0.0
    assert found.base.path_entropy.value == pytest.approx(1.0)  # two steps of -0.5


def test_collections_of_other_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="share no problem"):
        compare_rollouts(BASE, pool({"alien": 1}))


def test_page_and_results_hold_both_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    text = "<b>bold</b> [link]"
    tree = pool_tree([Draw(text, True), WRONG], problem="<i>")
    likelihoods = report_likelihoods(join_scores([tree], [[-1.0, -2.0]], [[-2.0, -1.0]]), base="one", tuned="two")
    measured = Measured(likelihoods, compare_rollouts(BASE, TUNED))
    print_measured(measured, Console(width=120))
    shown = capsys.readouterr().out
    assert "lost: base solves it in 4 draws, tuned does not" in shown and text in shown
    written = list(write_measured(measured, tmp_path, command=["arts"]))
    results = json.loads(written[0].read_text("utf-8"))
    assert results["rollouts"]["lost_problems"] == ["rare"] and results["likelihoods"]["num_paths"] == 2
    assert [json.loads(line)["right"] for line in written[1].read_text("utf-8").splitlines()] == [True, False]
    page = write_page(measured, tmp_path).read_text("utf-8")
    assert "<b>bold" not in page and "&lt;b&gt;bold" in page and page.count("<svg") == 3


# --- command ----------------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["arts", "squeeze", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code


def fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["arts", "squeeze", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_command_compares_two_collections_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, trees in (("base", BASE), ("tuned", TUNED)):
        collection = create_collection(tmp_path / name, {"task": "p", "settings": {"num_problems": len(trees)}})
        collection.finish_shard(0, trees)
    out = tmp_path / "out"
    run(
        monkeypatch, "--base-trees", str(tmp_path / "base"), "--tuned-trees", str(tmp_path / "tuned"), "--out", str(out)
    )  # fmt: skip
    assert "difference at k = 4" in capsys.readouterr().out
    assert json.loads((out / "squeeze.json").read_text())["rollouts"]["common_draws"] == 4
    assert (out / "squeeze.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing to look at"),
        (("--base", "countdown"), "missing: --tuned, --trees"),
        (("--base-trees", "x"), "missing: --tuned-trees"),
        (("--toy", "--base-trees", "x", "--tuned-trees", "y"), "--toy needs no model"),
        (("--base-trees", "x", "--tuned-trees", "y"), "give --out"),
    ],
)
def test_command_says_what_is_missing(
    arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in fail(monkeypatch, capsys, *arguments)


# --- real rollouts ----------------------------------------------------------------------------------------------------


def imported(file: Path, policy: str) -> list[ReasoningTree]:
    """One policy's completions as trees of one step, with the labels of their source."""
    trees = []
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            samples = [sample for sample in row["samples"] if sample["policy"] == policy]
            verdicts = {sample["text"]: Verdict(sample["score"] >= 1.0, sample["answer"] or None) for sample in samples}
            rollouts = [
                Rollout(index, index, 0, (Step(sample["text"], (), None, StopReason.EOS),))
                for index, sample in enumerate(samples)
            ]
            problem = Problem(row["problem_id"], row["problem"])
            trees.append(build_tree(problem, rollouts, judge=verdicts.__getitem__))
    return trees


@pytest.mark.parametrize("policy", ["rl_algorithmic500", "rl_games500"])
@pytest.mark.parametrize("subject", ["algebra", "geometry"])
def test_rollouts_of_real_models_before_and_after_reinforcement_learning(
    arts_data: Path, subject: str, policy: str
) -> None:
    file = arts_data / "rollouts" / f"rg_{subject}_qwen2.5-3b_base_vs_rl_x3.jsonl.gz"
    base, tuned = imported(file, "base"), imported(file, policy)
    found = compare_rollouts(base, tuned)
    rates = [
        sum(leaf.verdict.correct for tree in trees for leaf in trunk_leaves(tree) if leaf.verdict)
        for trees in (base, tuned)
    ]
    assert found.common == 3 and found.num_left_out == 0
    assert [found.base.pass_at_k[1].value, found.tuned.pass_at_k[1].value] == pytest.approx(
        [rate / (3 * len(base)) for rate in rates]
    )
    gap = found.difference[3].value or 0.0
    assert (found.gained.value or 0.0) - (found.lost.value or 0.0) == pytest.approx(gap)
