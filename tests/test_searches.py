"""Comparing strategies: rows resume and keep to budgets, bills stand alone, means and paired intervals are exact."""

import errno
import json
from collections.abc import Iterable, Sequence
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from arts import files
from arts.evaluate.metrics import Estimate, percentile_interval, resample
from arts.evaluate.search_report import search_groups, search_notes, write_search_report
from arts.evaluate.search_trees import TREES, TreeFile, read_searched_trees
from arts.evaluate.searches import (
    HEADER,
    ROWS,
    SearchRow,
    SearchSpec,
    read_rows,
    run_specs,
    summarize,
    table_lines,
)
from arts.files import only_writer
from arts.pages.links import Group
from arts.proposers.table import TableProposer
from arts.protocols import Reply, Request, ScoreReply, ScoreRequest, ScoreScale
from arts.search.budget import Bill
from arts.search.strategies import STRATEGIES
from arts.tasks.toy import ToyTask

TASK = ToyTask(3, 3)
PROBLEMS = list(islice(TASK.problems("validation", 0), 6))
ABOUT = {"task": "toy", "proposer": "table", "verifier": "letters", "split": "validation"}
BEST, BEAM, MOST = "best-of-n:n=4", "beam:width=2,expand=2", "majority:n=4"
SPECS = [SearchSpec(BEST), SearchSpec(BEAM), SearchSpec(MOST)]


class CountingProposer(TableProposer):
    """Counts what it is asked to draw."""

    draws = 0

    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        self.draws += sum(len(request.seeds) for request in requests)
        return super().propose(requests)


class LetterScorer:
    """log F = the place of a path's last letter. It keeps the paths it read, and bills only what is new to it."""

    scale = ScoreScale()
    caches = True

    def __init__(self) -> None:
        self.read: set[tuple[str, str]] = set()

    def score_steps(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        return [self.reply(request) for request in requests]

    def reply(self, request: ScoreRequest) -> ScoreReply:
        paths = ["", *accumulate(step.text for step in request.steps)]
        sizes = [5, *(len(step.token_ids) for step in request.steps)]
        new = {(request.problem.id, path): size for path, size in zip(paths, sizes, strict=True)}
        bill = sum(size for key, size in new.items() if key not in self.read)
        self.read |= new.keys()
        return ScoreReply(tuple(float("abc".find(path.rstrip(";")[-1:])) for path in paths[-request.num_new :]), bill)

    def forget(self) -> None:
        self.read.clear()


def search(
    folder: Path,
    specs: Sequence[SearchSpec] = SPECS,
    *,
    proposer: TableProposer | None = None,
    scorer: Any = None,
    header: dict[str, Any] = ABOUT,
    **options: Any,
) -> list[SearchRow]:
    proposer, scorer = proposer or TableProposer(), scorer or LetterScorer()
    return run_specs(folder, specs, PROBLEMS, TASK, proposer, scorer, header=header, **options)


# --- rows that resume -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.02, 0.4, 0.97, 1.0], ids=lambda share: f"cut at {share:.0%}")
def test_a_run_that_was_cut_goes_on_and_searches_nothing_twice(tmp_path: Path, share: float) -> None:
    """The cut is in the middle of a line, or nowhere (1.0)."""
    whole = search(tmp_path)
    path = tmp_path / ROWS
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    there = {(row.spec, row.problem) for row in read_rows(tmp_path)}
    assert path.read_bytes() == content[: int(share * len(content))], "who only looks repairs nothing"
    assert len(there) == content[: int(share * len(content))].count(b"\n")
    proposer = CountingProposer()
    assert search(tmp_path, proposer=proposer) == whole
    assert proposer.draws == sum(row.bill.draws for row in whole if (row.spec, row.problem) not in there)
    assert sorted(path.read_bytes().splitlines()) == sorted(content.splitlines())


def test_searches_that_failed_are_tried_again_and_no_others(tmp_path: Path) -> None:
    class Down(CountingProposer):
        def propose(self, requests: Sequence[Request]) -> list[Reply]:
            if any(request.problem in PROBLEMS[:2] for request in requests):
                raise ConnectionError("no server")
            return super().propose(requests)

    specs = [SearchSpec(BEST)]
    rows = search(tmp_path, specs, proposer=Down())
    assert [row.failed for row in rows] == [True, True, False, False, False, False]
    proposer = CountingProposer()
    assert search(tmp_path, specs, proposer=proposer) == search(tmp_path / "other", specs)
    assert proposer.draws == 2 * 4
    assert summarize(read_rows(tmp_path))[0].failed == 0, "of equal keys the last row counts"


def test_two_processes_do_not_search_into_one_folder(tmp_path: Path) -> None:
    proposer = CountingProposer()
    with only_writer(tmp_path), pytest.raises(ValueError, match=f"another process is writing to {tmp_path}"):
        search(tmp_path, proposer=proposer)
    assert proposer.draws == 0
    assert search(tmp_path) == search(tmp_path / "other")


def test_strategies_budgets_and_seeds_are_added_to_the_rows_that_are_there(tmp_path: Path) -> None:
    search(tmp_path)
    more = [SearchSpec("rebase:n=4"), SearchSpec(BEST, 30), SearchSpec(BEST, None, seed=1)]
    proposer = CountingProposer()
    rows = search(tmp_path, [*more, *SPECS], proposer=proposer)
    assert proposer.draws == sum(row.bill.draws for row in rows if row.spec in more)
    assert [row.spec for row in rows[:: len(PROBLEMS)]] == [*more, *SPECS]  # not in the order of the file
    assert len(read_rows(tmp_path)) == len(rows) == 6 * len(PROBLEMS)
    assert summarize(rows)[0].difference is None, "the first that is asked for now is compared with"
    first, other = ([row._replace(spec=SPECS[0]) for row in rows if row.spec == spec] for spec in (SPECS[0], more[2]))
    assert first != other, "another seed draws others"
    alone = search(tmp_path / "alone", more)
    assert [row for row in rows if row.spec in more] == alone


def test_a_spec_given_twice_is_searched_once(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    rows = search(tmp_path, [SPECS[0], SPECS[0]], watch=lambda done, total: told.append((done, total)))
    assert len(rows) == len(PROBLEMS)
    assert told == [(count, len(PROBLEMS)) for count in range(1, len(PROBLEMS) + 1)]


def test_progress_counts_rows_that_were_there(tmp_path: Path) -> None:
    search(tmp_path, SPECS[:1])
    told: list[tuple[int, int]] = []
    search(tmp_path, SPECS[:2], watch=lambda done, total: told.append((done, total)))
    count = len(PROBLEMS)
    assert told == [(done, 2 * count) for done in range(count + 1, 2 * count + 1)]


def test_rows_of_another_header_are_refused_in_words(tmp_path: Path) -> None:
    search(tmp_path, SPECS[:1])
    with pytest.raises(
        ValueError, match=r"holds searches with split 'validation' \(now 'test'\); choose another --out"
    ):
        search(tmp_path, header=ABOUT | {"split": "test"})
    with pytest.raises(ValueError, match=r"holds searches with split 'validation' \(now None\)"):
        search(tmp_path, header={key: value for key, value in ABOUT.items() if key != "split"})
    with pytest.raises(ValueError, match=r"device None \(now 'cuda'\)"):
        search(tmp_path, header=ABOUT | {"device": "cuda"})


def test_rows_that_lost_their_header_are_refused(tmp_path: Path) -> None:
    search(tmp_path)
    (tmp_path / HEADER).unlink()
    with pytest.raises(ValueError, match=rf"holds searches \({ROWS}\), but no {HEADER}"):
        search(tmp_path)


def test_a_full_disk_is_said_and_costs_no_row_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = search(tmp_path / "whole")
    written: list[int] = []
    write = files.append_lines

    def fill_up(path: Path, lines: Iterable[str], *, sync: bool = True) -> None:
        written.append(1)
        if len(written) > 5:
            with files.writing_to(path.parent):
                raise OSError(errno.ENOSPC, "No space left on device")
        write(path, lines, sync=sync)

    with monkeypatch.context() as patch:
        patch.setattr("arts.evaluate.searches.append_lines", fill_up)
        with pytest.raises(ValueError, match=f"cannot write to {tmp_path}/cut: No space left on device"):
            search(tmp_path / "cut")
    assert len(read_rows(tmp_path / "cut")) == 5
    assert search(tmp_path / "cut") == whole


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    search(tmp_path, SPECS[:1])
    path = tmp_path / ROWS
    lines = path.read_text().splitlines(keepends=True)
    for damaged in ("{\n", "3\n", "{}\n", json.dumps(json.loads(lines[1]) | {"colour": "red"}) + "\n"):
        path.write_text("".join([lines[0], damaged, *lines[2:]]))
        with pytest.raises(ValueError, match=rf"{ROWS} line 2 is damaged "):
            search(tmp_path)
    (tmp_path / HEADER).write_text("[")
    with pytest.raises(ValueError, match=rf"{HEADER} is damaged: "):
        search(tmp_path)


@pytest.mark.parametrize("strategy", ["teleport", "beam:width=0", "beam:height=2"])
def test_an_unknown_strategy_or_option_is_refused_before_any_work(tmp_path: Path, strategy: str) -> None:
    with pytest.raises(ValueError, match=strategy.partition(":")[0]):
        search(tmp_path / "x", [*SPECS, SearchSpec(strategy)])
    assert not (tmp_path / "x").exists()


def test_a_search_that_fails_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    class Broken(LetterScorer):
        def reply(self, request: ScoreRequest) -> ScoreReply:
            if request.problem == PROBLEMS[2]:
                raise RuntimeError("out of → memory\u2028here")  # a line end that JSON leaves as it is
            return super().reply(request)

    first = search(tmp_path, SPECS[:1], scorer=Broken())
    failed = [row for row in first if row.stopped.startswith("failed")]
    assert [row.problem for row in failed] == [PROBLEMS[2].id]
    assert not failed[0].correct
    path = tmp_path / ROWS
    content = path.read_bytes()
    assert search(tmp_path, SPECS[:1], scorer=Broken()) == first
    path.write_bytes(content[: content.index("→".encode()) + 1])  # cut inside a character
    assert search(tmp_path, SPECS[:1], scorer=Broken()) == first
    (summary,) = summarize(first)
    assert summary.failed == 1
    assert list(table_lines([summary]))[1].endswith("1 FAILED")


# --- bills and budgets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 7, 20, 50])
def test_no_row_exceeds_its_budget(tmp_path: Path, tokens: int) -> None:
    specs = [SearchSpec(name, tokens) for name in STRATEGIES]
    rows = search(tmp_path, specs, keep_curves=True)
    assert max(row.bill.generated_tokens for row in rows) <= tokens
    assert all(point[0] <= tokens for row in rows for point in row.curve)
    if tokens >= 20:
        assert max(row.bill.generated_tokens for row in rows) > tokens - 6  # less than a solution is left over


def test_bills_do_not_depend_on_what_was_searched_before(tmp_path: Path) -> None:
    """A verifier that still knew the paths of another strategy would bill less."""
    scorer = LetterScorer()
    beside = search(tmp_path / "beside", [SearchSpec("rebase:n=8"), *SPECS], scorer=scorer)
    alone = [row for spec in SPECS for row in search(tmp_path / spec.strategy, [spec], scorer=scorer)]
    assert beside[len(PROBLEMS) :] == alone
    assert {row.bill.verifier_tokens for row in alone if row.spec.strategy == MOST} == {0}
    assert all(row.bill.verifier_tokens > 5 for row in alone if row.spec.strategy != MOST)


def test_strategies_without_scores_need_no_verifier(tmp_path: Path) -> None:
    rows = run_specs(tmp_path, [SearchSpec(MOST)], PROBLEMS, TASK, TableProposer(), None, header=ABOUT)
    assert {row.stopped for row in rows} == {"complete"}


def test_curves_end_where_the_row_does_and_hold_changes_only(tmp_path: Path) -> None:
    rows = search(tmp_path, [SearchSpec("mcts:n=8"), SearchSpec("arts")], keep_curves=True)
    for row in rows:
        assert row.curve[0] == (0, 0, False, False)
        assert row.curve[-1][2:] == (row.correct, row.covered)
        for before, after in pairwise(row.curve):
            assert before[0] <= after[0] <= row.bill.generated_tokens
            assert before[1] <= after[1] <= row.bill.verifier_tokens
            assert before[2:] != after[2:]
    assert max(len(row.curve) for row in rows) > 2
    assert {(row.problem, row.curve) for row in read_rows(tmp_path)} == {(row.problem, row.curve) for row in rows}


def test_rows_without_curves_are_made_again_where_curves_are_asked_for(tmp_path: Path) -> None:
    plain = search(tmp_path, SPECS[:1])
    assert {row.curve for row in plain} == {()}
    curved = search(tmp_path, SPECS[:1], keep_curves=True)
    assert all(row.curve for row in curved)
    assert [row._replace(curve=()) for row in curved] == plain
    proposer = CountingProposer()
    assert search(tmp_path, SPECS[:1], proposer=proposer) == curved, "and serve where they are not"
    assert proposer.draws == 0
    assert len(read_rows(tmp_path)) == len(PROBLEMS), "one row a search, though the file has two lines of each"


# --- summaries --------------------------------------------------------------------------------------------------------


def rows_of(
    strategy: str, budget: int | None, correct: str, covered: str | None = None, *, seed: int = 0, tokens: int = 10
) -> list[SearchRow]:
    """One row for each of the problems p0, p1, ...: `1` is right."""
    bill = Bill(generated_tokens=tokens, verifier_tokens=2 * tokens)
    return [
        SearchRow(SearchSpec(strategy, budget, seed), f"p{index}", right == "1", seen == "1", bill, "complete", {})
        for index, (right, seen) in enumerate(zip(correct, covered or correct, strict=True))
    ]


def interval(values: Sequence[float]) -> Estimate:
    """Percentiles of the mean over the resamples that all estimates share."""
    means = resample(len(values), 0) @ np.array(values) / len(values)
    return Estimate(sum(values) / len(values), *percentile_interval(means))


def test_summaries_are_those_of_a_calculation_by_hand() -> None:
    rows = [
        *rows_of("majority", 100, "1100", "1110", tokens=90),
        *rows_of("beam", 100, "1110", seed=0, tokens=70),
        *rows_of("beam", 100, "0110", "1111", seed=1, tokens=80),
        *rows_of("beam", 200, "1111"),
        *rows_of("majority", 200, "1101"),
    ]
    first, second, third, fourth = summarize(rows)
    assert (first.strategy, first.budget_tokens, first.num_seeds, first.num_problems) == ("majority", 100, 1, 4)
    assert first.accuracy == interval([1, 1, 0, 0])
    assert first.coverage == interval([1, 1, 1, 0])
    assert first.difference is None
    assert (first.generated_tokens, first.verifier_tokens, first.failed) == (90, 180, 0)
    assert (second.strategy, second.num_seeds) == ("beam", 2)
    assert second.accuracy == interval([0.5, 1, 1, 0])  # means over seeds
    assert second.coverage == interval([1, 1, 1, 0.5])
    assert second.difference == interval([-0.5, 0, 1, 0])
    assert (second.generated_tokens, second.verifier_tokens) == (75, 150)
    assert (third.strategy, third.budget_tokens, third.difference) == ("beam", 200, None)  # the first at its budget
    assert fourth.difference == interval([0, 0, -1, 0])


def test_differences_are_paired_by_problem() -> None:
    """One is right wherever the other is, and on one problem more: no resample turns that round."""
    rows = [*rows_of("majority", None, "0011"), *rows_of("beam", None, "0111")]
    difference = summarize(rows)[1].difference
    assert difference is not None and difference.low is not None
    assert difference.value == 0.25 and difference.low >= 0


def test_a_subset_of_problems_is_summarized_alone() -> None:
    rows = [*rows_of("majority", None, "1100"), *rows_of("beam", None, "1010")]
    first, second = summarize(rows, only=lambda problem: problem in ("p1", "p3"))
    assert first.num_problems == 2
    assert (first.accuracy, second.accuracy) == (interval([1, 0]), interval([0, 0]))
    assert second.difference == interval([-1, 0])
    assert summarize(rows, only=lambda problem: False) == summarize([]) == []


def test_a_spec_that_lacks_problems_is_named() -> None:
    rows = [*rows_of("majority", 50, "1100"), *rows_of("beam", 50, "101")]
    with pytest.raises(ValueError, match="beam at 50 lacks 1 problems; run it again"):
        summarize(rows)


def test_the_table_has_one_line_a_summary() -> None:
    lines = list(table_lines(summarize([*rows_of("majority", None, "11"), *rows_of("beam", 20, "00")])))
    assert [line.split()[:3] for line in lines] == [
        ["strategy", "budget", "seeds"],
        ["majority", "–", "1"],
        ["beam", "20", "1"],
    ]
    assert "1.000 [1.000, 1.000]" in lines[1]
    assert lines[1].endswith("20")


# --- trees and pages --------------------------------------------------------------------------------------------------


def test_trees_are_kept_beside_their_rows_and_a_run_that_was_cut_keeps_each_once(tmp_path: Path) -> None:
    rows = search(tmp_path, keep_trees=TreeFile(tmp_path, ScoreScale()))
    found = read_searched_trees(tmp_path)
    assert [one.key for one in found] == [
        (row.spec, row.problem) for row in sorted(rows, key=lambda row: SPECS.index(row.spec))
    ]
    for row, one in zip(rows, found, strict=True):
        verdict = None if one.answer is None else one.tree.nodes[one.answer].verdict
        assert (verdict is not None and verdict.correct) == row.correct
    content = (tmp_path / TREES).read_bytes()
    (tmp_path / TREES).write_bytes(cut := content[: len(content) * 2 // 3])
    there = len(read_searched_trees(tmp_path))
    assert there < len(found)
    assert (tmp_path / TREES).read_bytes() == cut, "who only looks repairs nothing: it may be written just now"
    assert search(tmp_path, keep_trees=TreeFile(tmp_path, ScoreScale())) == rows
    assert sorted((tmp_path / TREES).read_bytes().splitlines()) == sorted(content.splitlines())


def test_rows_without_trees_are_searched_again_where_trees_are_asked_for(tmp_path: Path) -> None:
    rows = search(tmp_path)
    assert not (tmp_path / TREES).exists()
    assert search(tmp_path, keep_trees=TreeFile(tmp_path, None)) == rows
    assert len(read_searched_trees(tmp_path)) == len(rows)
    proposer = CountingProposer()
    search(tmp_path, proposer=proposer, keep_trees=TreeFile(tmp_path, None))
    assert proposer.draws == 0


def test_damaged_lines_of_kept_trees_are_named(tmp_path: Path) -> None:
    (tmp_path / TREES).write_text("{}\n")
    with pytest.raises(ValueError, match=r"trees\.jsonl line 1 is damaged"):
        read_searched_trees(tmp_path)


def test_groups_of_searches_hold_what_their_titles_name(tmp_path: Path) -> None:
    rows = search(tmp_path, keep_trees=TreeFile(tmp_path, ScoreScale()))
    searched = read_searched_trees(tmp_path)
    groups = search_groups(searched)
    for spec in SPECS:
        own = {row.problem: row for row in rows if row.spec == spec}
        problems = {
            name: [searched[place].tree.problem.id for place in group.members] for name, group in groups.items()
        }
        assert problems[spec.strategy] == list(own)
        assert problems[f"wrong: {spec.strategy}"] == [problem for problem, row in own.items() if not row.correct]
        missed = [problem for problem, row in own.items() if row.covered and not row.correct]
        assert problems[f"missed: {spec.strategy}"] == missed
    assert search_notes(searched) == [one.spec.strategy for one in searched]


def test_report_of_searches_says_every_figure_with_its_interval_and_command(tmp_path: Path) -> None:
    specs = [SearchSpec(strategy, budget) for budget in (8, 40) for strategy in (BEST, "<b>&majority")]
    rows = [
        SearchRow(
            spec, f"p{number}", number % 4 < index, number % 2 == 0, Bill(generated_tokens=20 * index), "budget", {}
        )
        for index, spec in enumerate(specs, start=1)
        for number in range(12)
    ]
    groups = {f"{BEST}, 8 tokens": Group("g", [0]), f"missed: {BEST}, 8 tokens": Group("m", [0, 1])}
    command = ["/somewhere/arts", "search", "--out", "a b"]
    summaries = summarize(rows)
    path = write_search_report(summaries, tmp_path, header=ABOUT, command=command, groups=groups)
    text = path.read_text("utf-8")
    assert "arts search --out &#x27;a b&#x27;" in text and "/somewhere" not in text
    assert "<b>" not in text and "<script" not in text
    for one in summaries:
        assert f"{100 * (one.accuracy.value or 0):.1f}%" in text
    assert text.count('<svg class="chart"') == 2
    assert f'href="view.html#?group={quote(f"{BEST}, 8 tokens", safe="")}"' in text
    assert ">2</a>" in text  # the problems that were missed
    assert "Missed" not in write_search_report(summaries, tmp_path, header=ABOUT, command=command).read_text("utf-8")
