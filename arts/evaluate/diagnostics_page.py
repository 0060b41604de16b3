"""Sections of the page about scores themselves: reliability, errors, conservation, order of inner nodes."""

from collections.abc import Iterator, Mapping, Sequence

from arts.evaluate.calibration import AS_SCORED, Calibration
from arts.evaluate.conservation import ResidualRow
from arts.evaluate.diagnostics import Diagnostics
from arts.evaluate.metrics import Estimate
from arts.evaluate.ranks import RankQuality
from arts.evaluate.reliability import Quality
from arts.evaluate.table import GROUP_NAMES, decimal, fit_label, interval, percent, verifier_label
from arts.pages.charts import Series, Spread, Style, reliability_chart, spread_chart
from arts.pages.html import Markup, element, join, section, table

SHOWN_FIT = "platt"  # beside the scores as they are; the table has all fits
MAX_DEPTHS = 12  # rows of the conservation table; the chart has all
_PLACES = {"answers": "finished solutions", "inner": "inner nodes"}
_LAWS = {"sum": Style("majority"), "mean": Style("arts")}
_CALIBRATION_NOTE = (
    "Does a stated chance of 70% mean right seven times in ten? ECE is the mean distance of stated chance and share "
    "right over bins of equal weight, which chance alone makes larger than 0; its interval allows for that and may lie "
    "below the estimate. Brier and log loss (in nats) also reward telling right from wrong. Fits are made on "
    "validation problems and keep the order, so they choose the same draws."
)
_CONSERVATION_NOTE = (
    "log F of a node minus what its children make of it, in nats: lines are medians, bands the middle half and the "
    "middle four fifths of the nodes. Sums keep the one law, means (values) the other; a verifier keeps at most one."
)
_RANKS_NOTE = (
    "Scores of inner nodes against the share of new rollouts from there that end right. Pairs right: of two nodes with "
    "different shares, how often the better one has the higher score; 50% is a coin."
)


def diagnostics_parts(diagnostics: Diagnostics, looks: Mapping[str, Style]) -> Iterator[Markup]:
    """Sections for what was measured.

    Args:
        looks: colour of each verifier.
    """
    if diagnostics.calibrations:
        yield section("Calibration", _calibration_table(diagnostics.calibrations), note=_CALIBRATION_NOTE)
        charts = [
            section(f"{verifier_label(name)}, {_PLACES[calibration.where]}", _reliability(number, calibration, look))
            for number, (name, calibration, look) in enumerate(
                (name, one, looks[name]) for name, some in diagnostics.calibrations.items() for one in some
            )
            if calibration.num_outcomes > 0
        ]
        yield element("div", *charts, class_="charts")
    for number, (name, rows) in enumerate(diagnostics.residuals.items()):
        if rows:
            yield section(
                f"Conservation, {verifier_label(name)}",
                element("div", _conservation_chart(number, rows), _conservation_table(rows), class_="charts"),
                note=_CONSERVATION_NOTE,
            )
    if diagnostics.ranks:
        yield section("Order of inner nodes", _ranks_table(diagnostics.ranks), note=_RANKS_NOTE)


def _calibration_table(calibrations: Mapping[str, Sequence[Calibration]]) -> Markup:
    def row(name: str, calibration: Calibration, fit: str, quality: Quality) -> list[str]:
        what = f"{verifier_label(name)}, {_PLACES[calibration.where]}, {fit_label(fit)}"
        errors = [_decimals(estimate) for estimate in (quality.brier, quality.log_loss)]
        return [what, f"{calibration.num_outcomes:,.0f}", _percents(quality.ece_mass), *errors]

    rows = [
        row(name, calibration, fit, quality)
        for name, some in calibrations.items()
        for calibration in some
        for fit, quality in calibration.quality.items()
    ]
    return table(["", "n", "ECE", "Brier", "log loss"], rows)


def _reliability(number: int, calibration: Calibration, look: Style) -> Markup:
    shown = [name for name in (AS_SCORED, SHOWN_FIT) if name in calibration.quality]
    series = []
    for name in shown:
        points = [point for point in calibration.quality[name].points if point.right.value is not None]
        series.append(
            Series(
                fit_label(name),
                Style(look.role, dashed=name == AS_SCORED),
                [point.chance for point in points],
                [point.right.value or 0.0 for point in points],
                [point.right.low or 0.0 for point in points],
                [point.right.high or 0.0 for point in points],
            )
        )
    return reliability_chart(f"reliability{number}", series, x_label="stated chance", y_label="right")


def _conservation_chart(number: int, rows: Sequence[ResidualRow]) -> Markup:
    spreads = []
    for law, look in _LAWS.items():
        of_law = [row for row in rows if row.law == law]
        spreads.append(
            Spread(
                f"{law} of the children",
                look,
                [row.depth for row in of_law],
                [row.median for row in of_law],
                ([row.p25 for row in of_law], [row.p75 for row in of_law]),
                ([row.p10 for row in of_law], [row.p90 for row in of_law]),
            )
        )
    return spread_chart(f"conservation{number}", spreads, x_label="steps above the node", y_label="residual, nats")


def _conservation_table(rows: Sequence[ResidualRow]) -> Markup:
    by_depth: dict[int, dict[str, ResidualRow]] = {}
    for row in rows:
        by_depth.setdefault(row.depth, {})[row.law] = row
    cells = [
        [str(depth), f"{laws['sum'].count:,}", *(_quantiles(laws[law]) for law in _LAWS)]
        for depth, laws in sorted(by_depth.items())[:MAX_DEPTHS]
    ]
    title = "depth" if len(by_depth) <= MAX_DEPTHS else f"depth, first {MAX_DEPTHS}"
    return table([title, "nodes", *(f"{law}, median" for law in _LAWS)], cells)


def _quantiles(row: ResidualRow) -> Markup:
    low_high = f"[{row.p10:z.2f}, {row.p90:z.2f}]".replace("-", "−")
    return join(f"{row.median:+z.2f}".replace("-", "−"), element("span", low_high, class_="range below"))


def _ranks_table(ranks: Mapping[str, Mapping[str, RankQuality]]) -> Markup:
    rows = [
        [
            f"{verifier_label(name)}, {GROUP_NAMES[group]}",
            _percents(quality.pair_accuracy),
            f"{quality.num_pairs:,}",
            _decimals(quality.spearman),
            f"{quality.num_groups:,}",
        ]
        for name, groups in ranks.items()
        for group, quality in groups.items()
    ]
    return table(["", "pairs right", "pairs", "Spearman", "groups"], rows)


def _percents(estimate: Estimate) -> Markup:
    return join(percent(estimate.value), " ", element("span", interval(estimate), class_="range"))


def _decimals(estimate: Estimate) -> Markup:
    if estimate.low is None or estimate.high is None:
        return join(decimal(estimate.value))
    low_high = f"[{estimate.low:.3f}, {estimate.high:.3f}]".replace("-", "−")
    return join(decimal(estimate.value), " ", element("span", low_high, class_="range"))
