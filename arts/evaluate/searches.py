"""Strategies side by side on the same problems and budgets: rows that resume, means over seeds, paired intervals.

A row is one problem searched once. Its key is all that decides the result, so a run that was stopped goes on, and a
later one adds strategies, budgets and seeds to the same file.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from arts.evaluate.metrics import Estimate, paired_bootstrap
from arts.files import append_lines, dump, only_writer, read_lines, write_atomically, writing_to
from arts.protocols import Proposer, StepScorer, Task
from arts.search.budget import Bill, Budget
from arts.search.driver import run_searches
from arts.search.program import Search
from arts.search.result import SearchResult
from arts.search.strategies import parse_strategy
from arts.search.strategy import Strategy
from arts.tree import Problem

if TYPE_CHECKING:
    from arts.evaluate.search_trees import TreeFile

ROWS, HEADER = "searches.jsonl", "search.json"


@dataclass(frozen=True)
class SearchSpec:
    """One column of a comparison."""

    strategy: str
    "ID or ID:KEY=VALUE,KEY=VALUE"
    budget_tokens: int | None = None
    "of the proposer, a problem; None: what the strategy takes by itself"
    seed: int = 0

    def build(self) -> tuple[Strategy, Budget]:
        """Raises ValueError where the strategy or its options are not known."""
        return parse_strategy(self.strategy), Budget(generated_tokens=self.budget_tokens)


class SearchRow(NamedTuple):
    spec: SearchSpec
    problem: str
    correct: bool
    covered: bool
    "a right solution was found, chosen or not"
    bill: Bill
    stopped: str
    counts: dict[str, int]
    curve: tuple[tuple[int, int, bool, bool], ...] = ()
    "(proposer tokens, verifier tokens, correct, covered) whenever one of the last two changed"

    @property
    def failed(self) -> bool:
        return self.stopped.startswith("failed")


Wanted = Sequence[tuple[SearchSpec, Sequence[Problem]]]
"""Each spec with the problems that it is still to be searched on."""
Searched = tuple[SearchRow, SearchResult | None]
"""A row, and what was found; None where nobody keeps trees."""


def run_specs(
    folder: Path,
    specs: Sequence[SearchSpec],
    problems: Sequence[Problem],
    task: Task,
    proposer: Proposer,
    scorer: StepScorer | None,
    *,
    header: dict[str, Any],
    keep_curves: bool = False,
    keep_trees: "TreeFile | None" = None,
    watch: Callable[[int, int], None] | None = None,
) -> list[SearchRow]:
    """Search here what has no row yet, or one that failed: `complete_rows` on this machine.

    Args:
        scorer: None where no strategy looks at scores.
    """

    return complete_rows(
        folder,
        specs,
        problems,
        lambda wanted: search_all(wanted, task, proposer, scorer, keep_curves=keep_curves),
        header=header,
        keep_curves=keep_curves,
        keep_trees=keep_trees,
        watch=watch,
    )


def complete_rows(
    folder: Path,
    specs: Sequence[SearchSpec],
    problems: Sequence[Problem],
    search: Callable[[Wanted], Iterator[Searched]],
    *,
    header: dict[str, Any],
    keep_curves: bool = False,
    keep_trees: "TreeFile | None" = None,
    watch: Callable[[int, int], None] | None = None,
) -> list[SearchRow]:
    """Search what has no row yet, or one that failed, and return the rows of all specs and problems.

    Args:
        search: searches what it is given, here or elsewhere, in any order.
        header: what else decides the results: task, proposer, verifier. A folder holds rows of one header.
        keep_curves: rows without their curve are searched again; `search` has to note them.
        keep_trees: where the trees go, too.
        watch: called with the number of rows that are there, and that of all.

    Returns:
        Rows spec by spec, in the order of `specs` and `problems`, whatever their order in the file.

    Raises:
        ValueError: the folder's rows were made with another header, or another process is adding to them; or a strategy
            or its options are not known.
    """
    specs = list(dict.fromkeys(specs))
    for spec in specs:
        spec.build()  # mistakes are said before any work
    with only_writer(folder):
        _check_header(folder / HEADER, header)
        # A search that failed is tried again, and so is one without the curve or the tree that is asked for now.
        rows = {
            (row.spec, row.problem): row
            for row in read_rows(folder, repair=True)
            if not row.failed
            and (row.curve or not keep_curves)
            and (keep_trees is None or keep_trees.has(row.spec, row.problem))
        }
        keys = [(spec, problem.id) for spec in specs for problem in problems]
        num_done = sum(key in rows for key in keys)
        wanted = [(spec, [one for one in problems if (spec, one.id) not in rows]) for spec in specs]
        for row, result in search([(spec, left) for spec, left in wanted if left]):
            if keep_trees is not None and result is not None:
                keep_trees.append(row.spec, result)  # before the row, which says that all is there
            rows[row.spec, row.problem] = row
            append_lines(folder / ROWS, [dump(_to_json(row))], sync=False)
            num_done += 1
            if watch:
                watch(num_done, len(keys))
        append_lines(folder / ROWS, [])
    return [rows[key] for key in keys]


def search_all(
    wanted: Wanted, task: Task, proposer: Proposer, scorer: StepScorer | None, *, keep_curves: bool
) -> Iterator[Searched]:
    """Search here, spec after spec."""
    for spec, problems in wanted:
        yield from search_problems(spec, problems, task, proposer, scorer, keep_curves=keep_curves)


def search_problems(
    spec: SearchSpec,
    problems: Sequence[Problem],
    task: Task,
    proposer: Proposer,
    scorer: StepScorer | None,
    *,
    keep_curves: bool,
) -> Iterator[Searched]:
    """Search problems in one way, side by side; rows come as searches end."""
    if scorer:
        scorer.forget()  # no strategy pays less for what another one had scored
    scale = None if scorer is None else scorer.scale

    def prepared(problem: Problem) -> Search:
        strategy, budget = spec.build()
        return Search(
            problem,
            strategy,
            budget,
            judge=lambda text: task.judge(problem, text),
            max_new_tokens=task.max_new_tokens,
            scale=scale,
            verifier_caches=scorer is not None and scorer.caches,
            seed=spec.seed,
            keep_curve=keep_curves,
        )

    for place, result in run_searches(map(prepared, problems), proposer, scorer):
        yield _row(spec, problems[place], result), result


def read_rows(folder: Path, *, repair: bool = False) -> list[SearchRow]:
    """The rows of a folder, of equal keys the last one.

    Args:
        repair: as in `arts.store.read_lines`.

    Raises:
        ValueError: a line is damaged.
    """
    rows = read_lines(folder / ROWS, _from_json, repair=repair)
    return list({(row.spec, row.problem): row for row in rows}.values())


class SpecSummary(NamedTuple):
    """One strategy at one budget: means over seeds, 95% intervals over problems."""

    strategy: str
    budget_tokens: int | None
    num_seeds: int
    num_problems: int
    accuracy: Estimate
    coverage: Estimate
    difference: Estimate | None
    "accuracy minus that of the first strategy at the same budget, problem by problem"
    generated_tokens: float
    verifier_tokens: float
    failed: int


def summarize(rows: Sequence[SearchRow], *, only: Callable[[str], bool] | None = None) -> list[SpecSummary]:
    """In the order in which strategies and budgets first appear.

    Args:
        only: ids of the problems to look at.
    """
    chosen = [row for row in rows if only is None or only(row.problem)]
    problems = list(dict.fromkeys(row.problem for row in chosen))
    if not problems:
        return []
    groups: dict[tuple[str, int | None], list[SearchRow]] = {}
    for row in chosen:
        groups.setdefault((row.spec.strategy, row.spec.budget_tokens), []).append(row)
    estimate, ones_P = paired_bootstrap(len(problems), seed=0), np.ones(len(problems))
    correct = {key: _by_problem(own, problems, "correct") for key, own in groups.items()}
    first: dict[int | None, tuple[str, int | None]] = {}
    for strategy, budget in groups:
        first.setdefault(budget, (strategy, budget))
    summaries = []
    for key, own in groups.items():
        base = correct[first[key[1]]]
        summaries.append(
            SpecSummary(
                *key,
                len({row.spec.seed for row in own}),
                len(problems),
                estimate(correct[key], ones_P),
                estimate(_by_problem(own, problems, "covered"), ones_P),
                None if first[key[1]] == key else estimate(correct[key] - base, ones_P),
                float(np.mean([row.bill.generated_tokens for row in own])),
                float(np.mean([row.bill.verifier_tokens for row in own])),
                sum(row.failed for row in own),
            )
        )
    return summaries


def table_lines(summaries: Sequence[SpecSummary]) -> Iterator[str]:
    """The table of `arts search`, for a terminal."""
    header = ("strategy", "budget", "seeds", "accuracy", "covered", "- first, points", "proposer", "verifier")
    cells = [header, *(_cells(summary) for summary in summaries)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cells(summary: SpecSummary) -> tuple[str, ...]:
    return (
        summary.strategy,
        "–" if summary.budget_tokens is None else str(summary.budget_tokens),
        str(summary.num_seeds),
        shown(summary.accuracy),
        shown(summary.coverage),
        "–" if summary.difference is None else shown(summary.difference, 100, "+.1f"),
        f"{summary.generated_tokens:.0f}",
        f"{summary.verifier_tokens:.0f}" + (f"  {summary.failed} FAILED" if summary.failed else ""),
    )


def shown(estimate: Estimate, times: float = 1.0, form: str = ".3f") -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "–"
    return f"{times * estimate.value:{form}} [{times * estimate.low:{form}}, {times * estimate.high:{form}}]"


def _by_problem(rows: Sequence[SearchRow], problems: Sequence[str], field: str) -> np.ndarray:
    """Mean over seeds of every problem [P]."""
    total: dict[str, list[float]] = {problem: [] for problem in problems}
    for row in rows:
        total[row.problem].append(float(getattr(row, field)))
    missing = [problem for problem, values in total.items() if not values]
    if missing:
        spec = rows[0].spec
        raise ValueError(f"{spec.strategy} at {spec.budget_tokens} lacks {len(missing)} problems; run it again")
    return np.array([np.mean(values) for values in total.values()])


def _row(spec: SearchSpec, problem: Problem, result: SearchResult) -> SearchRow:
    curve: list[tuple[int, int, bool, bool]] = []
    for point in result.curve:
        if not curve or curve[-1][2:] != (point.correct, point.covered):
            curve.append((point.generated_tokens, point.verifier_tokens, point.correct, point.covered))
    return SearchRow(
        spec, problem.id, result.correct, result.covered, result.bill, result.stopped, result.counts, tuple(curve)
    )


def _to_json(row: SearchRow) -> dict[str, Any]:
    return row._asdict() | {"spec": asdict(row.spec), "bill": row.bill._asdict()}


def _from_json(row: dict[str, Any]) -> SearchRow:
    curve = tuple((int(a), int(b), bool(c), bool(d)) for a, b, c, d in row["curve"])
    return SearchRow(**row | {"spec": SearchSpec(**row["spec"]), "bill": Bill(**row["bill"]), "curve": curve})


def _check_header(path: Path, header: dict[str, Any]) -> None:
    if not path.exists():
        if (path.parent / ROWS).exists():
            raise ValueError(
                f"{path.parent} holds searches ({ROWS}), but no {HEADER} that says how they were made; "
                "put that back, or choose another --out"
            )
        with writing_to(path.parent):
            write_atomically(path, dump(header) + "\n")
        return
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    other = sorted(key for key in found.keys() | header.keys() if found.get(key) != header.get(key))
    if other:
        was = ", ".join(f"{key} {found.get(key)!r} (now {header.get(key)!r})" for key in other)
        raise ValueError(f"{path.parent} holds searches with {was}; choose another --out, or delete it")
