"""`report.html`: one file that shows an evaluation with tables, charts and a few trees.

Everything comes from an `Evaluation`, its trees and, where given, `Diagnostics`; nothing is measured here. The page
shows a few problems as trees: one where a rare right path was picked, one that voting gets wrong, and one that the
verifier gets wrong. Beside a tree viewer's page, numbers link to the problems behind them.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from arts.evaluate.diagnostics import Diagnostics
from arts.evaluate.diagnostics_page import diagnostics_parts
from arts.evaluate.examples import choose_examples
from arts.evaluate.metrics import Estimate
from arts.evaluate.run import Evaluation, Subset, flow_vote_name
from arts.evaluate.table import (
    BASELINES,
    RULES,
    bills,
    differences,
    headline,
    interval,
    label,
    largest_subsets,
    percent,
    verifier_label,
)
from arts.files import write_atomically
from arts.pages.charts import Bar, Series, Style, bar_chart, line_chart
from arts.pages.html import Markup, element, join, page, section, table
from arts.pages.links import Group, group_link, made_by, tree_link, unique_keys
from arts.pages.tree import tree_markup
from arts.tree import ReasoningTree

_VERIFIER_ROLES = ("arts", "second", "third")  # colours; a fourth verifier starts over


def write_report(
    evaluation: Evaluation,
    trees: Sequence[ReasoningTree],
    folder: Path,
    *,
    diagnostics: Diagnostics | None = None,
    groups: Mapping[str, Group] | None = None,
    more: Sequence[Markup] = (),
) -> Path:
    """Write `report.html` into a folder.

    Args:
        trees: the evaluated trees, with the first verifier's flows where there is one.
        diagnostics: of the verifiers of the evaluation; shown as sections of their own.
        groups: of `problem_groups`, where the same trees are in a tree viewer's page beside the report: numbers then
            link to them. None: there is no such page.
        more: sections that another part made, such as the comparison with another policy; below the charts.
    """
    parts = _page_parts(evaluation, trees, diagnostics or Diagnostics(), groups or {}, more)
    text = page(headline(evaluation), *parts)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    write_atomically(path, text)
    return path


def style(evaluation: Evaluation, selector: str) -> Style:
    """One colour a verifier, dashed where it only weighs votes."""
    if selector in BASELINES or selector in RULES:
        return Style(selector if selector in BASELINES else "third", dashed=selector in RULES)
    for index, name in enumerate(evaluation.verifiers):
        role = _VERIFIER_ROLES[index % len(_VERIFIER_ROLES)]
        if selector in (name, flow_vote_name(evaluation.verifiers, name)):
            return Style(role, dashed=selector != name)
    raise ValueError(f"no selector {selector!r} in this evaluation; there are {list(evaluation.selectors)}")


def _page_parts(
    evaluation: Evaluation,
    trees: Sequence[ReasoningTree],
    diagnostics: Diagnostics,
    groups: Mapping[str, Group],
    more: Sequence[Markup],
) -> Iterator[Markup]:
    yield from _header(evaluation, groups)
    yield section(
        "Choosing among k draws",
        _main_table(evaluation, groups),
        note="Share of problems on which the choice is right; in brackets 95% intervals, by resampling problems. "
        "Gap closed is (accuracy − pass@1) / (oracle − pass@1)."
        + (" Missed: problems with a right draw that was not chosen." if groups else ""),
    )
    yield section("Accuracy against k", _accuracy_chart(evaluation), note="Bands are 95% intervals.")
    yield element("div", *_bar_charts(evaluation, groups), class_="charts")
    if len(evaluation.subsets) > 1:
        yield section(
            "By difficulty",
            _difficulty_table(evaluation, groups),
            note=f"Best of {evaluation.num_samples} on each class of problems.",
        )
    yield from more
    yield from diagnostics_parts(diagnostics, {name: style(evaluation, name) for name in evaluation.verifiers})
    yield section(
        "A few problems, as trees",
        *_examples(evaluation, trees, linked=bool(groups)),
        note="A line is a step; the bar is its flow F beside the largest in the tree. Chosen by rule, not by hand.",
    )
    yield section("What it cost", _cost_table(evaluation))
    yield _footer(evaluation)


def _linked(text: str, name: str, groups: Mapping[str, Group]) -> str:
    """A number as a link to the problems behind it, where they can be looked at."""
    return group_link(text, name) if name in groups and groups[name].members else text


def _header(evaluation: Evaluation, groups: Mapping[str, Group]) -> Iterator[Markup]:
    sizes = evaluation.num_samples
    at_n = {name: selector.at[sizes] for name, selector in evaluation.selectors.items()}
    first = [*evaluation.verifiers, "oracle"][0]
    yield element("p", f"Best of {sizes} · {evaluation.num_problems} problems", class_="eyebrow")
    yield element(
        "h1",
        f"{label(evaluation, first)} {percent(at_n[first].value)} vs random {percent(at_n['random'].value)} "
        f"and majority {percent(at_n['majority'].value)}",
    )
    paired = [
        element("li", f"{name} ", element("b", f"{value} points"), f" {low_high}")
        for name, value, low_high in differences(evaluation)
    ]
    yield element("ul", *paired, class_="pairs")
    tiles = [*evaluation.verifiers, "majority", "random", "oracle"]
    drawn = []
    for name in tiles:
        value = _linked(percent(at_n[name].value), f"right:{name}", groups)
        drawn.append(_tile(label(evaluation, name), style(evaluation, name), value, at_n[name]))
    yield element("div", *drawn, class_="tiles")
    if evaluation.command:
        yield made_by(evaluation.command)


def _tile(name: str, look: Style, value: str, estimate: Estimate) -> Markup:
    return element(
        "div",
        element("div", name, class_="label"),
        element("div", value, class_="value"),
        element("div", interval(estimate), class_="range"),
        class_="tile",
        style=f"--tone:var(--{look.role})",
    )


def _with_interval(estimate: Estimate, shown: str | None = None) -> Markup:
    return join(shown or percent(estimate.value), " ", element("span", interval(estimate), class_="range"))


def _above_interval(estimate: Estimate) -> Markup:
    return join(percent(estimate.value), element("span", interval(estimate), class_="range below"))


def _named(evaluation: Evaluation, selector: str) -> Markup:
    look = style(evaluation, selector)
    kind = "swatch hollow" if look.dashed else "swatch"
    return join(element("span", class_=kind, style=f"--tone:var(--{look.role})"), label(evaluation, selector))


def _main_table(evaluation: Evaluation, groups: Mapping[str, Group]) -> Markup:
    sizes = list(evaluation.pass_at_k)
    rows = []
    for name, selector in evaluation.selectors.items():
        final = selector.at[sizes[-1]]
        row = [
            _named(evaluation, name),
            *(percent(selector.at[k].value) for k in sizes[:-1]),
            _with_interval(final, _linked(percent(final.value), f"right:{name}", groups)),
            _with_interval(selector.gap_closed),
        ]
        missed = f"missed:{name}"
        count = str(len(groups[missed].members)) if missed in groups else ""
        rows.append([*row, _linked(count, missed, groups)] if groups else row)
    marked = frozenset(index for index, name in enumerate(evaluation.selectors) if name in evaluation.verifiers[:1])
    return table(["", *(f"k = {k}" for k in sizes), "Gap closed", *(["missed"] if groups else [])], rows, marked=marked)


def _accuracy_chart(evaluation: Evaluation) -> Markup:
    series = [
        Series(
            label(evaluation, name),
            style(evaluation, name),
            list(selector.at),
            [estimate.value or 0.0 for estimate in selector.at.values()],
            [estimate.low or 0.0 for estimate in selector.at.values()],
            [estimate.high or 0.0 for estimate in selector.at.values()],
        )
        for name, selector in evaluation.selectors.items()
    ]
    return line_chart("accuracy", series, x_label="draws to choose from, k", y_label="right, % of problems")


def _bar_charts(evaluation: Evaluation, groups: Mapping[str, Group]) -> Iterator[Markup]:
    rare = evaluation.subsets["rare"]
    sizes = evaluation.num_samples
    gaps = {
        name: result.gap_closed for name, result in evaluation.selectors.items() if name not in ("random", "oracle")
    }
    rares = {name: estimate for name, estimate in rare.selectors.items() if name != "oracle"}
    num_rare = group_link(f"{rare.num_problems} problems", "rare") if groups else f"{rare.num_problems} problems"
    for name, title, estimates, x_label, note in (
        ("gap", "Gap closed", gaps, "0 = random pick, 100% = oracle", f"Of what choosing can gain at k = {sizes}."),
        (
            "rare", "Rare subset", rares, f"right, % of {rare.num_problems} problems",
            join(num_rare, f" on which 1 or 2 of {sizes} draws are right. The oracle is at 100%."),
        ),
    ):  # fmt: skip
        bars = [
            Bar(label(evaluation, selector), style(evaluation, selector), estimate.value, estimate.low, estimate.high)
            for selector, estimate in estimates.items()
            if estimate.value is not None and estimate.low is not None and estimate.high is not None
        ]
        drawn = (
            bar_chart(name, bars, x_label=x_label)
            if bars
            else element("p", "Undefined on these problems.", class_="note")
        )
        yield section(title, drawn, note=note)


def _difficulty_table(evaluation: Evaluation, groups: Mapping[str, Group]) -> Markup:
    columns = list(evaluation.selectors)

    def row(name: str, subset: Subset) -> list[str]:
        count = _linked(str(subset.num_problems), name, groups)
        intervals = (_above_interval(subset.selectors[column]) for column in columns)
        return [name.removeprefix("difficulty: "), count, *intervals]

    shown, left_out = largest_subsets(evaluation)
    rows = [row(name, subset) for name, subset in shown.items() if name != "rare"]
    found = table(["", "n", *(label(evaluation, c) for c in columns)], rows)
    return join(found, *(element("p", line, class_="note") for line in left_out))


def _cost_table(evaluation: Evaluation) -> Markup:
    return table(["", ""], [[bill, amounts] for bill, amounts in bills(evaluation)])


def _footer(evaluation: Evaluation) -> Markup:
    how = (
        "How: every figure at k is the expectation over the k-subsets of the same draws (exact for random, argmax and "
        "oracle; votes over at most 200 subsets). Intervals are 95% percentile intervals of 2,000 resamples of the "
        f"problems, the same ones for every figure. Seed {evaluation.seed}, pool {evaluation.fingerprint}."
    )
    return element("footer", element("p", how))


def _examples(evaluation: Evaluation, trees: Sequence[ReasoningTree], *, linked: bool) -> Iterator[Markup]:
    keys = unique_keys([tree.problem.id for tree in trees])
    for example in choose_examples(evaluation, trees):
        tree = trees[example.position]
        badges = {leaf.id: "fork, not counted" for leaf in tree.leaves() if leaf.id not in tree.trunks}
        if example.chosen is not None:
            badges[example.chosen] = f"picked by {verifier_label(evaluation.verifiers[0])}"
        yield element(
            "div",
            element(
                "h3", tree_link(example.title, keys[example.position], example.chosen) if linked else example.title
            ),
            element("div", tree.problem.prompt, class_="prompt"),
            tree_markup(tree, chosen=example.chosen, badges=badges),
            class_="example",
        )
