"""A measured squeeze in the terminal, as `squeeze.json` and as sections of a page. Computes nothing."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from arts.evaluate.metrics import Estimate
from arts.evaluate.table import decimal, interval, percent
from arts.files import dump, write_atomically
from arts.pages.charts import Series, Spread, Style, line_chart, spread_chart
from arts.pages.html import Markup, element, page, section, table
from arts.pages.links import Group, group_link, made_by
from arts.squeeze.paths import Bin, LikelihoodReport
from arts.squeeze.rollouts import RolloutReport, Side
from arts.tree import ReasoningTree

SCHEMA_VERSION = 1
_STYLES = {"base": Style("majority"), "tuned": Style("arts")}
_TEXT_SHOWN = 90


@dataclass(frozen=True)
class Measured:
    """What `arts squeeze` found: either part, or both."""

    likelihoods: LikelihoodReport | None = None
    rollouts: RolloutReport | None = None

    def to_json(self) -> dict[str, Any]:
        parts = {"likelihoods": self.likelihoods, "rollouts": self.rollouts}
        return {name: part.to_json() for name, part in parts.items() if part is not None}


def write_measured(
    measured: Measured, folder: Path, *, command: Sequence[str] = (), about: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """Write `squeeze.json`, and `paths.jsonl` with every scored path; yields what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {"schema": SCHEMA_VERSION, "command": list(command), **measured.to_json(), "about": dict(about or {})}
    write_atomically(folder / "squeeze.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    yield folder / "squeeze.json"
    if measured.likelihoods is not None:
        rows = measured.likelihoods.paths.rows()
        write_atomically(folder / "paths.jsonl", "".join(dump(row) + "\n" for row in rows))
        yield folder / "paths.jsonl"


def write_page(
    measured: Measured,
    folder: Path,
    *,
    title: str = "Normalization squeeze",
    command: Sequence[str] = (),
    groups: Mapping[str, Group] | None = None,
) -> Path:
    """Write `squeeze.html`; needs matplotlib.

    Args:
        groups: of `rollout_groups`, where the base's trees are in a tree viewer's page beside this one.
    """
    path = folder / "squeeze.html"
    made = made_by(command) if command else Markup("")
    write_atomically(path, page(title, element("h1", title), made, *sections(measured, groups=groups)))
    return path


def rollout_groups(found: RolloutReport, trees: Sequence[ReasoningTree]) -> dict[str, Group]:
    """Problems that were lost and gained, as the tree viewer's page of these trees shows them."""
    places = {tree.problem.id: place for place, tree in enumerate(trees)}
    return {
        name: Group(title, [places[one] for one in problems])
        for name, title, problems in (
            ("lost", "Lost: solved by the base only", found.lost_problems),
            ("gained", "Gained: solved by the tuned model only", found.gained_problems),
        )
    }


def sections(measured: Measured, *, groups: Mapping[str, Group] | None = None) -> Iterator[Markup]:
    """The parts of a page, for a page of one's own too.

    Args:
        groups: as for `write_page`.
    """
    if measured.rollouts is not None:
        yield from _rollout_sections(measured.rollouts, groups or {})
    if measured.likelihoods is not None:
        yield from _likelihood_sections(measured.likelihoods)


# --- rollouts ---------------------------------------------------------------------------------------------------------


def _facts(found: RolloutReport) -> list[tuple[str, Estimate]]:
    """Shares of problems."""
    common, half = found.common, max(1, found.common // 2)
    return [
        (f"lost: base solves it in {common} draws, tuned does not", found.lost),
        (f"gained: tuned solves it in {common} draws, base does not", found.gained),
        ("lost, of problems with 1 or 2 right draws of the base", found.lost_rare),
        (f"lost at {half} draws", found.lost_half),
        (f"lost at {half} draws by other draws of the base itself", found.lost_by_chance),
        (f"extinct: tuned solves it in none of its {found.tuned.num_samples} draws", found.extinct),
    ]


def _diversity(found: RolloutReport) -> list[tuple[str, Estimate, Estimate]]:
    def both(name: str, of: str) -> tuple[str, Estimate, Estimate]:
        return name, getattr(found.base, of), getattr(found.tuned, of)

    return [
        both(f"distinct solutions in {found.common} draws", "distinct"),
        both("of them right", "distinct_right"),
        both("entropy of answers", "answer_entropy"),
        both("entropy of paths", "path_entropy"),
    ]


def _crossing(found: RolloutReport) -> str:
    if found.crossing is None:
        return "The curves do not cross."
    difference = _points(found.difference[found.crossing])
    return f"The tuned model falls behind at k = {found.crossing} (difference {difference})."


def _points(estimate: Estimate) -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "–"
    value, low, high = (f"{100 * x:+.1f}".replace("-", "−") for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def _number(estimate: Estimate) -> str:
    return decimal(estimate.value)


def _linked(number: int, name: str, groups: Mapping[str, Group]) -> str:
    return group_link(str(number), name) if name in groups and groups[name].members else str(number)


def _rollout_sections(found: RolloutReport, groups: Mapping[str, Group]) -> Iterator[Markup]:
    sides: dict[str, Side] = {"base": found.base, "tuned": found.tuned}
    series = [
        Series(
            name,
            _STYLES[name],
            list(side.pass_at_k),
            [one.value or 0.0 for one in side.pass_at_k.values()],
            [one.low or 0.0 for one in side.pass_at_k.values()],
            [one.high or 0.0 for one in side.pass_at_k.values()],
        )
        for name, side in sides.items()
    ]
    left_out = f" {found.num_left_out} problems that only one set has are left out." if found.num_left_out else ""
    yield section(
        "pass@k",
        line_chart("squeeze-pass", series, x_label="draws, k", y_label="solved, % of problems"),
        element("p", _crossing(found)),
        note=f"{found.num_problems} problems; bands are 95% intervals over problems.{left_out}",
    )
    rows = [[name, percent(one.value), interval(one)] for name, one in _facts(found)]
    yield section(
        "Problems lost and gained",
        table(["share of problems", "", "95%"], rows),
        element(
            "p",
            "In all their draws: ",
            _linked(len(found.lost_problems), "lost", groups),
            " problems that only the base solves, ",
            _linked(len(found.gained_problems), "gained", groups),
            " that only the tuned model does.",
        ),
        note="Expected over subsets of the draws. What is lost by chance is what other draws of the base itself would "
        "lose: only more than that is the tuned model's doing.",
    )
    diversity = [[name, _number(base), _number(tuned)] for name, base, tuned in _diversity(found)]
    yield section("Diversity", table(["", "base", "tuned"], diversity))


# --- likelihoods ------------------------------------------------------------------------------------------------------


def _likelihood_sections(found: LikelihoodReport) -> Iterator[Markup]:
    yield element("div", *_change_charts(found), class_="charts")
    yield section(
        "What became of the base's paths",
        _bin_table(found),
        note=f"{len(found.paths.texts):,} distinct finished paths of {found.num_problems} problems, drawn by the base. "
        f"They fall by KL(base | tuned) = {_number(found.kl)} {interval_of(found.kl)} a draw on average, whatever was "
        "trained; compare right with wrong and rare with likely.",
    )
    rows = found.paths.rows()
    falls = [
        [
            rows[index]["problem"],
            _short(rows[index]["text"]),
            *(_log(rows[index][name]) for name in ("log_base", "log_tuned")),
            _log(rows[index]["log_tuned"] - rows[index]["log_base"]),
        ]
        for index in found.falls
    ]
    yield section(
        "Right paths that fell furthest", table(["problem", "path", "log π base", "log π tuned", "change"], falls)
    )


def _change_charts(found: LikelihoodReport) -> Iterator[Markup]:
    """One half of the page for right paths, the other for wrong ones."""
    for kind, style in (("right", Style("arts")), ("wrong", Style("majority"))):
        there = [(place, one) for place, one in enumerate(found.bins[kind], start=1) if one is not None]
        if not there:
            continue
        tenth, quarter, half, three, nine = (
            list(column) for column in zip(*(one.quantiles for _, one in there), strict=True)
        )
        spread = Spread(kind, style, [float(place) for place, _ in there], half, (quarter, three), (tenth, nine))
        yield section(
            f"{kind.capitalize()} paths",
            spread_chart(
                f"squeeze-{kind}", [spread], x_label="tenth by likelihood under the base", y_label="change of log π"
            ),
            note="log π tuned − log π base: median, middle half and middle four fifths. Least likely tenth first.",
        )


def _log(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def interval_of(estimate: Estimate) -> str:
    return "" if estimate.low is None else f"[{decimal(estimate.low)}, {decimal(estimate.high)}]"


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _TEXT_SHOWN else flat[: _TEXT_SHOWN - 1] + "…"


def _bin_rows(found: LikelihoodReport, *, intervals: bool = True) -> Iterator[list[str]]:
    def cells(one: Bin | None) -> list[str]:
        if one is None:
            return ["0", "–", "–"]
        range_ = f" {interval_of(one.change)}" if intervals else ""
        return [str(one.num_paths), f"{_number(one.change)}{range_}", percent(one.fallen.value)]

    for place in range(len(found.bins["right"])):
        right, wrong = found.bins["right"][place], found.bins["wrong"][place]
        lows = [one.low for one in (right, wrong) if one is not None]
        highs = [one.high for one in (right, wrong) if one is not None]
        span = f"{min(lows):.1f} to {max(highs):.1f}".replace("-", "−") if lows else "–"
        yield [f"{place + 1}", span, *cells(right), *cells(wrong)]
    yield ["all", "", *cells(found.overall.get("right")), *cells(found.overall.get("wrong"))]


_BIN_HEADER = ["tenth", "log π base", "right", "change", "fell", "wrong", "change", "fell"]


def _bin_table(found: LikelihoodReport) -> Markup:
    return table(_BIN_HEADER, list(_bin_rows(found)))


# --- terminal ---------------------------------------------------------------------------------------------------------


def print_measured(measured: Measured, console: Console) -> None:
    if measured.rollouts is not None:
        _print_rollouts(measured.rollouts, console)
    if measured.likelihoods is not None:
        _print_likelihoods(measured.likelihoods, console)


def _print_rollouts(found: RolloutReport, console: Console) -> None:
    sizes = sorted({*found.base.pass_at_k, *found.tuned.pass_at_k})
    printed = _plain_table(f"pass@k, {found.num_problems} problems", *(f"@{k}" for k in sizes))
    for name, side in (("base", found.base), ("tuned", found.tuned)):
        cells = [percent(side.pass_at_k[k].value) if k in side.pass_at_k else "–" for k in sizes]
        printed.add_row(name, *cells)
    values = [found.difference[k].value if k in found.difference else None for k in sizes]
    printed.add_row("difference, points", *("–" if value is None else f"{100 * value:+.1f}" for value in values))
    console.print(printed)
    console.print(_crossing(found).replace("[", r"\["), highlight=False)
    console.print(
        f"difference at k = {found.common}: {_points(found.difference[found.common])} points".replace("[", r"\["),
        highlight=False,
    )
    if found.num_left_out:
        console.print(f"left out: {found.num_left_out} problems that only one collection has", highlight=False)
    facts = _plain_table("share of problems", "", "95%")
    for name, one in _facts(found):
        facts.add_row(name, percent(one.value), interval(one).replace("[", r"\["))
    console.print(facts)
    diversity = _plain_table("diversity", "base", "tuned")
    for name, base, tuned in _diversity(found):
        diversity.add_row(name, _number(base), _number(tuned))
    console.print(diversity)


def _print_likelihoods(found: LikelihoodReport, console: Console) -> None:
    console.print(
        f"{len(found.paths.texts):,} distinct finished paths of {found.num_problems} problems, drawn by {found.base}; "
        f"KL(base | tuned) {_number(found.kl)} {interval_of(found.kl)} a draw".replace("[", r"\["),
        highlight=False,
    )
    printed = _plain_table(*_BIN_HEADER)
    for cells in _bin_rows(found, intervals=False):
        printed.add_row(*cells)
    console.print(printed)
    rows = found.paths.rows()
    console.print("right paths that fell furthest:", highlight=False)
    for index in found.falls[:5]:
        row = rows[index]
        console.print(
            f"  {row['log_tuned'] - row['log_base']:+.2f}  {row['problem']}: {_short(row['text'])}",
            highlight=False,
            markup=False,
        )


def _plain_table(first: str, *columns: str) -> Table:
    printed = Table(box=None, header_style="dim", padding=(0, 1))
    printed.add_column(first)
    for column in columns:
        printed.add_column(column, justify="right")
    return printed
