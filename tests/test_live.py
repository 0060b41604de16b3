"""The tree in the terminal while it grows: steps, flows and what of the budget is spent; nothing without a terminal."""

import io
import math
import re
import sys
from collections.abc import Sequence

import pytest
from rich.console import Console

from arts.cli import main
from arts.cli.live import watch_search
from arts.proposers.table import TableProposer
from arts.protocols import ScoreReply, ScoreRequest, ScoreScale
from arts.search.budget import Budget
from arts.search.strategies import parse_strategy
from arts.solve import Solution, solve
from arts.tasks.toy import ToyTask

TASK = ToyTask(3, 3)
PROBLEM = TASK.parse("toy 3x3 seed 7")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class DepthScorer:
    """F of a path is its number of steps, and a half."""

    scale = ScoreScale()
    caches = False

    def score_steps(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        return [
            ScoreReply(
                tuple(math.log(len(one.steps) + 0.5 - back) for back in reversed(range(one.num_new))), one.num_new
            )
            for one in requests
        ]

    def forget(self) -> None:
        pass


def terminal(*, height: int = 60) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, height=height)


def watched(strategy: str, budget: Budget, console: Console, *, shown: bool = True) -> Solution:
    with watch_search(budget, shown=shown, console=console, every_s=0) as watch:
        return solve(
            TASK, TableProposer(), DepthScorer(), PROBLEM, strategy=parse_strategy(strategy), budget=budget, watch=watch
        )


def frames(console: Console) -> list[list[str]]:
    """The lines of every picture that was drawn."""
    assert isinstance(console.file, io.StringIO)
    # A new picture starts where the cursor has gone back to the first line of the one before.
    pictures = re.split(r"\r\x1b\[2K(?:\x1b\[1A\x1b\[2K)*", console.file.getvalue())
    return [lines for picture in pictures if (lines := CONTROL.sub("", picture).strip("\r\n").splitlines())]


def test_tree_flows_and_budget_are_shown() -> None:
    console = terminal()
    budget = Budget(generated_tokens=40, draws=30)
    solution = watched("beam:width=2,expand=3", budget, console)
    last = [line.rstrip() for line in frames(console)[-1]]
    bill = solution.bill
    answers = len({node.id for node in solution.tree.leaves() if node.is_answer})
    assert last[0] == (
        f"{bill.generated_tokens} of 40 generated tokens, {bill.draws} of 30 draws; {bill.draws} draws, "
        f"{answers} different answers"
    )
    assert last[1] == "toy 3x3 seed 7"
    assert any(re.fullmatch(r"[├└]─ [abc];  ×\d  F=1\.50", line) for line in last)
    assert any(re.fullmatch(r"[│ ].*─ [abc](  ×\d)?  F=3\.50  [✓✗]", line) for line in last)
    assert len(last) == 2 + len(solution.tree.nodes) - 1


def test_every_picture_shows_more_of_the_tree() -> None:
    console = terminal()
    solution = watched("beam:width=2,expand=3", Budget(), console)
    sizes = [len(lines) for lines in frames(console)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == 2 + len(solution.tree.nodes) - 1


def test_without_a_budget_tokens_are_counted() -> None:
    console = terminal()
    watched("best-of-n:n=3", Budget(), console)
    assert re.match(r"18 tokens generated; 3 draws, \d different answers", frames(console)[-1][0])


def test_a_tree_that_is_too_high_for_the_terminal_leaves_room_for_the_budget() -> None:
    console = terminal(height=10)
    watched("best-of-n:n=40", Budget(generated_tokens=500), console)
    last = frames(console)[-1]
    assert " of 500 generated tokens; " in last[0]
    assert re.match(r"   … \d+ more steps", last[-1])
    assert len(last) < 10


@pytest.mark.parametrize("shown", [True, False])
def test_nothing_is_shown_without_a_terminal_or_unasked(shown: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=not shown)
    with watch_search(Budget(), shown=shown, console=console) as watch:
        assert watch is None
    solution = watched("best-of-n:n=4", Budget(), console, shown=shown)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""
    assert solution.text is not None


def test_solve_with_live_prints_its_report_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["solve", "toy 3x3 seed 7", "--task", "toy", "--proposer", "table", "--strategy", "majority", "--live"]
    monkeypatch.setattr(sys, "argv", ["arts", *arguments, "--budget-tokens", "60"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    said = capsys.readouterr()
    assert said.out.startswith("problem      toy 3x3 seed 7\nchosen       ")
    assert "60 generated in 10 draws" in said.out
    assert said.err == "loading models …\n"
