"""A server that fails in every way, and a program that is killed at any instant: nothing is lost, nothing is doubled.

The full counts (10,000 rollouts, each fault at least 100 times, 50 kills) carry the marker `kill`: `make test-kills`.
"""

from pathlib import Path

import pytest
from fake_server import FAULTS
from faults import check_faults, check_kills


@pytest.mark.parametrize("n", [False, True], ids=["a request a draw", "n > 1"])
def test_faults_lose_and_double_nothing(n: bool, tmp_path: Path) -> None:
    report = check_faults(tmp_path, num_problems=16, num_samples=16, share=0.3, n=n)
    assert (report.lost, report.doubled, report.failed, report.token_difference) == (0, 0, 0, 0)
    assert report.rollouts > 16 * 24
    assert len(report.faults) >= len(FAULTS) - 3
    assert report.estimated >= report.faults["wrong usage"], "bills that were estimated say so"


def test_killed_runs_keep_what_they_have_and_end_the_same(tmp_path: Path) -> None:
    report = check_kills(tmp_path, kills=2, before_a_row=1)
    assert report.kills >= 1
    assert (report.asked_again, report.same) == (0, True)


@pytest.mark.kill
@pytest.mark.timeout(900)
def test_ten_thousand_rollouts_with_a_fifth_of_all_requests_failing(tmp_path: Path) -> None:
    report = check_faults(tmp_path, num_problems=320, num_samples=16)
    assert report.rollouts >= 10_000
    assert (report.lost, report.doubled, report.failed, report.token_difference) == (0, 0, 0, 0)
    assert min(report.faults[fault] for fault in FAULTS) >= 100


@pytest.mark.kill
@pytest.mark.timeout(900)
def test_fifty_kills(tmp_path: Path) -> None:
    report = check_kills(tmp_path, kills=50, before_a_row=10)
    assert report.kills >= 45, "the others came when the run had just ended"
    assert (report.asked_again, report.same) == (0, True)
