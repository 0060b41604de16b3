"""`report.html` of compared searches: accuracy against the tokens spent, table, and links to the trees where kept.

Everything comes from the rows and their summaries; nothing is measured here.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from arts.evaluate.metrics import Estimate
from arts.evaluate.search_trees import SearchedTree
from arts.evaluate.searches import SpecSummary
from arts.evaluate.table import interval, percent
from arts.files import write_atomically
from arts.pages.charts import Series, Style, line_chart
from arts.pages.html import Markup, element, join, page, section, table
from arts.pages.links import Group, command_line, group_link

_ROLES = ("arts", "majority", "second", "fourth", "third", "fifth", "sixth", "oracle")
_MEASURES = {
    "accuracy": ("Accuracy for its price", "right, % of problems"),
    "coverage": ("Coverage for its price", "a right solution found, % of problems"),
}


def search_groups(searched: Sequence[SearchedTree]) -> dict[str, Group]:
    """Groups of kept trees: all of a strategy at a budget, its wrong answers, and the right ones that it missed."""
    groups: dict[str, Group] = {}
    for key in dict.fromkeys((one.spec.strategy, one.spec.budget_tokens) for one in searched):
        name, places = _spec_name(*key), [
            place for place, one in enumerate(searched) if (one.spec.strategy, one.spec.budget_tokens) == key
        ]  # fmt: skip
        wrong = [place for place in places if not _is_right(searched[place])]
        covered = [place for place in wrong if _is_covered(searched[place])]
        groups[name] = Group(name, places)
        groups[f"wrong: {name}"] = Group(f"{name}: wrong", wrong)
        groups[f"missed: {name}"] = Group(f"{name}: right one missed", covered)
    return groups


def search_notes(searched: Sequence[SearchedTree]) -> list[str]:
    """What to say beside each tree."""
    several = len({one.spec.seed for one in searched}) > 1
    return [
        _spec_name(one.spec.strategy, one.spec.budget_tokens) + (f", seed {one.spec.seed}" if several else "")
        for one in searched
    ]


def write_search_report(
    summaries: Sequence[SpecSummary],
    folder: Path,
    *,
    header: Mapping[str, Any],
    command: Sequence[str],
    groups: Mapping[str, Group] | None = None,
) -> Path:
    """Write `report.html` into a folder.

    Args:
        header: task, proposer, verifier and split of the searches.
        groups: of `search_groups`, where the trees are in a viewer's page beside the report. None: there is none.
    """
    best = max(summaries, key=lambda one: one.accuracy.value or 0.0)
    title = f"{_name(best)}: {percent(best.accuracy.value)} right"
    path = folder / "report.html"
    write_atomically(path, page(title, *_page_parts(summaries, best, header, command, groups or {})))
    return path


def _page_parts(
    summaries: Sequence[SpecSummary],
    best: SpecSummary,
    header: Mapping[str, Any],
    command: Sequence[str],
    groups: Mapping[str, Group],
) -> Iterator[Markup]:
    looks = _looks(summaries)
    num_seeds = max(one.num_seeds for one in summaries)
    seeds = f" · {num_seeds} seeds" if num_seeds > 1 else ""
    yield element("p", f"Search · {header.get('task')} · {best.num_problems} problems{seeds}", class_="eyebrow")
    yield element(
        "h1",
        f"{_name(best)} is right on {percent(best.accuracy.value)}, for {best.generated_tokens:,.0f} tokens a problem",
    )
    yield element("div", *(_tile(one, looks, groups) for one in _largest_budgets(summaries)), class_="tiles")
    yield element("p", "Every figure here was made by ", element("code", command_line(command)), class_="made")
    note = "Each point is a strategy at a budget; x is what it spent of it. Bands are 95% intervals."
    for measure, (heading, y_label) in _MEASURES.items():
        series = _series(summaries, looks, measure)
        x_label = "tokens of the proposer, a problem"
        chart = line_chart(measure, series, x_label=x_label, y_label=y_label, x_name="{:.0f} tokens")
        yield section(heading, chart, note=note)
    yield section("All figures", _table(summaries, looks, groups), note=_table_note(summaries, groups))
    parts = ", ".join(f"{name} {value}" for name, value in header.items())
    how = (
        "Means over seeds; 95% percentile intervals of 2,000 resamples of the problems, the same ones for every figure."
    )
    yield element("footer", element("p", f"{how} Made with {parts}."))


def _looks(summaries: Sequence[SpecSummary]) -> dict[str, Style]:
    """One colour a strategy; dashed when the colours start over."""
    names = dict.fromkeys(one.strategy for one in summaries)
    return {
        name: Style(_ROLES[number % len(_ROLES)], dashed=number >= len(_ROLES)) for number, name in enumerate(names)
    }


def _largest_budgets(summaries: Sequence[SpecSummary]) -> list[SpecSummary]:
    """Each strategy where it may spend most, the best four."""
    last = {one.strategy: one for one in sorted(summaries, key=lambda one: one.generated_tokens)}
    return sorted(last.values(), key=lambda one: -(one.accuracy.value or 0.0))[:4]


def _tile(summary: SpecSummary, looks: Mapping[str, Style], groups: Mapping[str, Group]) -> Markup:
    value = percent(summary.accuracy.value)
    return element(
        "div",
        element("div", _name(summary), class_="label"),
        element("div", group_link(value, _name(summary)) if groups else value, class_="value"),
        element("div", interval(summary.accuracy), class_="range"),
        class_="tile",
        style=f"--tone:var(--{looks[summary.strategy].role})",
    )


def _series(summaries: Sequence[SpecSummary], looks: Mapping[str, Style], measure: str) -> list[Series]:
    series = []
    for strategy, look in looks.items():
        own = sorted((one for one in summaries if one.strategy == strategy), key=lambda one: one.generated_tokens)
        estimates: list[Estimate] = [getattr(one, measure) for one in own]
        series.append(
            Series(
                strategy,
                look,
                [max(1.0, one.generated_tokens) for one in own],
                [estimate.value or 0.0 for estimate in estimates],
                [estimate.low or 0.0 for estimate in estimates],
                [estimate.high or 0.0 for estimate in estimates],
            )
        )
    return series


def _table(summaries: Sequence[SpecSummary], looks: Mapping[str, Style], groups: Mapping[str, Group]) -> Markup:
    rows = []
    for one in summaries:
        look, name = looks[one.strategy], _name(one)
        kind = "swatch hollow" if look.dashed else "swatch"
        row = [
            join(element("span", class_=kind, style=f"--tone:var(--{look.role})"), name),
            _with_interval(one.accuracy, groups, name),
            _with_interval(one.coverage, {}, name),
            _points(one.difference),
            f"{one.generated_tokens:,.0f}",
            f"{one.verifier_tokens:,.0f}",
        ]
        rows.append([*row, _missed(groups, name)] if groups else row)
    columns = ["", "right", "covered", "− first, points", "proposer tokens", "verifier tokens"]
    return table([*columns, *(["missed"] if groups else [])], rows)


def _table_note(summaries: Sequence[SpecSummary], groups: Mapping[str, Group]) -> str:
    """How to read the table, and what went wrong."""
    failed = sum(one.failed for one in summaries)
    return (
        "Covered: a right solution is in the tree, chosen or not. Differences are to the first strategy at the same "
        "budget, on the same problems."
        + (" Missed: searches that found a right solution and chose another." if groups else "")
        + (f" {failed} searches failed and count as wrong." if failed else "")
    )


def _missed(groups: Mapping[str, Group], name: str) -> str:
    members = groups[f"missed: {name}"].members if f"missed: {name}" in groups else []
    return group_link(str(len(members)), f"missed: {name}") if members else "0"


def _with_interval(estimate: Estimate, groups: Mapping[str, Group], name: str) -> Markup:
    shown = percent(estimate.value)
    linked = group_link(shown, name) if name in groups else shown
    return join(linked, element("span", interval(estimate), class_="range below"))


def _points(estimate: Estimate | None) -> Markup:
    if estimate is None or estimate.value is None:
        return Markup("–")
    value = f"{100 * estimate.value:+.1f}".replace("-", "−")
    return join(value, element("span", interval(estimate), class_="range below"))


def _name(summary: SpecSummary) -> str:
    return _spec_name(summary.strategy, summary.budget_tokens)


def _spec_name(strategy: str, budget_tokens: int | None) -> str:
    return strategy if budget_tokens is None else f"{strategy}, {budget_tokens} tokens"


def _is_right(searched: SearchedTree) -> bool:
    verdict = None if searched.answer is None else searched.tree.nodes[searched.answer].verdict
    return verdict is not None and verdict.correct


def _is_covered(searched: SearchedTree) -> bool:
    return any(node.verdict is not None and node.verdict.correct for node in searched.tree.nodes)
