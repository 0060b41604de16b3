"""The high-pass curve, sweeps and coupling on toy trees, and `arts squeeze --toy`."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from arts.cli import main
from arts.squeeze.cures import Cure, grpo_rule
from arts.squeeze.figure import draw_toy
from arts.squeeze.sweep import before_training, coupled_pass, expected_training, high_pass, outcome, random_trees
from arts.squeeze.toy import COUPLED, check_law, coupled_problems, law_lines, print_toy, toy_squeeze
from arts.squeeze.training import EASY, RARE, Problems, Training, found_in, pass_at_k, rare_paths, right_mass, train
from arts.tasks.toy import ToyTree

GRPO = Cure("GRPO", grpo_rule)


def test_law_holds_to_rounding_on_groups_of_both_signs() -> None:
    law = check_law(ToyTree.random(1, 4, 3), num_groups=300, group_size=8, learning_rate=1.0, seed=0)
    assert law.worst_error < 1e-12
    assert law.alpha_range[0] < 0 < law.alpha_range[1] and 0.1 < law.share_negative < 0.9


def test_survival_rises_with_likelihood() -> None:
    curve = high_pass(random_trees(6), Training(updates=50), num_runs=6)
    survival = [one.value for one in curve.survival]
    assert max(survival[:3]) < 0.05 < 0.25 < survival[-1]
    assert list(curve.never_drawn) == sorted(curve.never_drawn, reverse=True)


def test_larger_groups_do_not_save_rare_paths() -> None:
    """The squeeze is in the expected update: with G = 64, paths of 1/300 are drawn again and again, and still fall."""
    trees = random_trees(6)
    for size in (16, 64):
        curve = high_pass(trees, Training(updates=50, group_size=size), num_runs=4)
        drawn_but_rare = [
            one.value
            for x, one, missed in zip(curve.log10_likelihood, curve.survival, curve.never_drawn, strict=True)
            if x < -2.3 and missed < 0.1
        ]
        assert drawn_but_rare and max(drawn_but_rare) < 0.25


def test_expected_dynamics_squeeze_too() -> None:
    for toy in random_trees(4):
        problems = Problems.of(toy)
        before, after = toy.prior_law(), expected_training(toy, Training(updates=50))
        assert after.sum() == pytest.approx(1) and after[problems.right_PL[0]].sum() > 0.95
        rare = rare_paths(problems)[0]
        assert after[rare].sum() < before[rare].sum()


def test_a_single_right_path_is_not_squeezed_however_rare() -> None:
    """What rare right paths lose to is other right paths."""
    problems = Problems.of(ToyTree.random(1, 4, 3, rare=True))
    before, after = (one for one in train(problems, grpo_rule, Training(), num_runs=20))
    assert right_mass(before, problems.right_PL)[0] == pytest.approx(0.008)
    assert right_mass(after, problems.right_PL).min() > 0.95


def test_curves_cross_only_where_problems_share_logits() -> None:
    problems = coupled_problems()
    base = np.log(problems.toy.prior_law())[None, None]
    before = {k: float(pass_at_k(base, problems.right_PL, k)[0]) for k in (1, 64)}
    found = {
        kappa: coupled_pass(
            problems, GRPO, Training(learning_rate=COUPLED.learning_rate, problem_coupling=kappa), num_runs=4
        )
        for kappa in (0.0, 0.5)
    }
    assert all(at[1].low > before[1] for at in found.values())
    assert found[0.5][64].high < before[64] < found[0.0][64].low


def test_problems_are_of_three_kinds() -> None:
    toy = ToyTree.random(1, 4, 3)
    problems = Problems.drawn(toy, num_easy=3, num_usual=3, num_rare=3, seed=1)
    chance = (toy.prior_law() * problems.right_PL).sum(axis=1)
    assert (chance[:3] >= EASY).all() and (problems.right_PL[3:].sum(axis=1) == 2).all()
    assert (toy.prior_law()[rare_paths(problems)[0]] < RARE).all()
    np.testing.assert_array_equal(
        problems.right_PL, Problems.drawn(toy, num_easy=3, num_usual=3, num_rare=3, seed=1).right_PL
    )


def test_measures_by_hand() -> None:
    log_policy = np.log(np.array([[[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]]]))
    right = np.array([[True, False, True], [False, True, False]])
    assert pass_at_k(log_policy, right, 2)[0] == pytest.approx((1 - 0.25**2 + 1 - 0.9**2) / 2)
    assert right_mass(log_policy, right)[0] == pytest.approx((0.75 + 0.1) / 2)
    assert found_in(log_policy, right, 2)[0] == pytest.approx((1 - 0.5**2 + 1 - 0.75**2 + 1 - 0.9**2) / 3)


def test_before_training_is_the_base() -> None:
    trees = random_trees(3)
    chances = [toy.success_probabilities[0] for toy in trees]
    assert before_training(trees).pass_1.value == pytest.approx(np.mean(chances))
    assert outcome(trees, GRPO, Training(updates=20), num_runs=3).pass_1.value > np.mean(chances)


def test_report_prints_draws_and_keeps_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = toy_squeeze(num_trees=3, num_runs=2)
    print_toy(found, Console(width=150))
    shown = capsys.readouterr().out
    assert "Squeeze law, 1000 groups" in shown and "coupling 0.5" in shown and "never drawn" in shown
    assert len(list(law_lines(found))) == 2
    svg = draw_toy(found, tmp_path / "new" / "squeeze.svg").read_text("utf-8")
    assert svg.count("<svg") == 1 and "pass@k over 24 problems" in svg
    assert draw_toy(found, tmp_path / "again.svg").read_text("utf-8") == svg
    kept = json.loads(json.dumps(found.to_json()))
    assert kept["law"]["worst_error"] < 1e-12 and set(kept["coupled"]) == {"base", "0", "0.2", "0.5", "1"}


@pytest.mark.slow
def test_command_takes_less_than_twenty_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["arts", "squeeze", "--toy", "--out", str(tmp_path)])
    started = time.process_time()
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code and time.process_time() - started < 20
    assert {path.name for path in tmp_path.iterdir()} == {"squeeze-toy.json", "squeeze-toy.svg"}
