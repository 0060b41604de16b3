"""Results in words, and as tables for the terminal. Everything comes from an `Evaluation`; nothing is measured here."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from arts.evaluate.diagnostics import Diagnostics
from arts.evaluate.metrics import Estimate
from arts.evaluate.run import Evaluation, Subset, compared, flow_vote_name

BASELINES = {"random": "random pick", "majority": "majority vote", "oracle": "oracle"}
RULES = {"has_answer": "has an answer", "shortest": "shortest", "longest": "longest", "log_prior": "log-prior"}
GROUP_NAMES = {"siblings": "among siblings", "depth": "at one depth", "problem": "across depths"}
_UNDEFINED = "–"
_MOST_SIZES = 6  # columns that fit into a terminal
_MOST_VALUES = 40  # of a field that problems are grouped by


def label(evaluation: Evaluation, selector: str) -> str:
    """Name of a selector as people read it."""
    if selector in BASELINES or selector in RULES:
        return (BASELINES | RULES)[selector]
    for name in evaluation.verifiers:
        aggregation = evaluation.scales[name].aggregation
        shown = verifier_label(name) + ("" if aggregation == "last" else f" ({aggregation} over steps)")
        if selector == flow_vote_name(evaluation.verifiers, name):
            return f"{shown} flow vote"
        if selector == name:
            return shown
    return verifier_label(selector)


def verifier_label(name: str) -> str:
    """`arts_trained_here` -> `ARTS trained here`."""
    return " ".join("ARTS" if word == "arts" else word for word in name.replace("_", " ").split(" "))


def percent(value: float | None) -> str:
    return _UNDEFINED if value is None else f"{100 * value:.1f}%"


def interval(estimate: Estimate) -> str:
    """`[70.1, 74.3]`, in percent."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]".replace("-", "−")


def headline(evaluation: Evaluation) -> str:
    """The result in one line: the first verifier against the two ways to choose without one."""

    def says(selector: str) -> str:
        estimate = evaluation.selectors[selector].at[evaluation.num_samples]
        return f"{label(evaluation, selector)} {percent(estimate.value)} {interval(estimate)}"

    first = [*evaluation.verifiers, "oracle"][0]
    of = f"best of {evaluation.num_samples}, n = {evaluation.num_problems} problems"
    return f"{says(first)} vs {says('random')} and {says('majority')} ({of})"


def print_table(evaluation: Evaluation, console: Console) -> None:
    """Print all figures: selectors at every k, differences, subsets and both bills."""
    console.print(headline(evaluation), style="bold", markup=False, highlight=False, soft_wrap=True)
    sizes = list(evaluation.pass_at_k)
    shown_sizes = sizes if len(sizes) <= _MOST_SIZES else [*sizes[: _MOST_SIZES - 1], sizes[-1]]
    # Two tables, as one would be wider than the 80 columns of a terminal.
    accuracy = _rich_table("right, % of problems", *(f"@{k}" for k in shown_sizes), f"95% @{sizes[-1]}")
    gaps = _rich_table(f"best of {sizes[-1]}", "gap closed", "95%", "rare", "95%")
    for name, selector in evaluation.selectors.items():
        shown, gap = _plain(label(evaluation, name)), selector.gap_closed
        rare = evaluation.subsets["rare"].selectors[name]
        cells = [percent(selector.at[k].value) for k in shown_sizes]
        accuracy.add_row(shown, *cells, _plain(interval(selector.at[sizes[-1]])))
        gaps.add_row(shown, percent(gap.value), _plain(interval(gap)), percent(rare.value), _plain(interval(rare)))
    console.print(accuracy)
    console.print(gaps)
    if evaluation.differences:
        paired = "; ".join(" ".join(difference) for difference in differences(evaluation))
        console.print(f"paired differences in points: {paired}", markup=False, highlight=False)
    columns = [*evaluation.verifiers, "majority", "random", "oracle"]  # all of them are in results.json
    subsets = _rich_table(f"best of {sizes[-1]} on", "n", *(label(evaluation, name) for name in columns))
    shown_subsets, left_out = largest_subsets(evaluation)
    for name, subset in shown_subsets.items():
        cells = [percent(subset.selectors[column].value) for column in columns]
        subsets.add_row(_plain(name.removeprefix("difficulty: ")), str(subset.num_problems), *cells)
    console.print(subsets)
    for line in left_out:
        console.print(line, markup=False, highlight=False)
    for bill, amounts in bills(evaluation):
        console.print(f"{bill}: {amounts}", markup=False, highlight=False)


def largest_subsets(evaluation: Evaluation) -> tuple[dict[str, Subset], list[str]]:
    """Subsets to show: of a field with more values than a table is read for the largest, and a line on the others."""
    by_field: dict[str, list[str]] = {}
    for name in evaluation.subsets:
        by_field.setdefault(name.partition(": ")[0], []).append(name)
    shown, lines = set[str](), []
    for field, names in by_field.items():
        largest = sorted(names, key=lambda name: -evaluation.subsets[name].num_problems)
        shown.update(largest[:_MOST_VALUES])
        if rest := largest[_MOST_VALUES:]:
            num_problems = sum(evaluation.subsets[name].num_problems for name in rest)
            lines.append(f"and {len(rest):,} more values of {field} ({num_problems:,} problems): results.json has them")
    return {name: subset for name, subset in evaluation.subsets.items() if name in shown}, lines


def print_diagnostics(diagnostics: Diagnostics, console: Console) -> None:
    """Print calibration before and after each fit, and the agreement of scores and values at inner nodes."""
    if diagnostics.calibrations:
        errors = _rich_table("stated chances", "ECE", "95%", "Brier", "log loss")
        for name, calibrations in diagnostics.calibrations.items():
            for calibration in calibrations:
                for fit, quality in calibration.quality.items():
                    errors.add_row(
                        _plain(f"{verifier_label(name)}, {calibration.where}, {fit_label(fit)}"),
                        percent(quality.ece_mass.value),
                        _plain(interval(quality.ece_mass)),
                        decimal(quality.brier.value),
                        decimal(quality.log_loss.value),
                    )
        console.print(errors)
    if diagnostics.ranks:
        ranks = _rich_table("scores of inner nodes", "pairs right", "95%", "pairs", "Spearman")
        for name, groups in diagnostics.ranks.items():
            for group, agreement in groups.items():
                ranks.add_row(
                    _plain(f"{verifier_label(name)}, {GROUP_NAMES[group]}"),
                    percent(agreement.pair_accuracy.value),
                    _plain(interval(agreement.pair_accuracy)),
                    f"{agreement.num_pairs:,}",
                    decimal(agreement.spearman.value),
                )
        console.print(ranks)


def fit_label(name: str) -> str:
    return name.replace("platt", "Platt")


def decimal(value: float | None) -> str:
    return _UNDEFINED if value is None else f"{value:.3f}".replace("-", "−")


def _rich_table(first: str, *columns: str) -> Table:
    printed = Table(box=None, header_style="dim", padding=(0, 1))
    printed.add_column(_plain(first), no_wrap=True)
    for column in columns:
        printed.add_column(_plain(column), justify="right", no_wrap=column[:1] in "@9", overflow="fold")
    return printed


def _plain(text: str) -> str:
    """Keep rich from reading brackets as markup."""
    return text.replace("[", r"\[")


def differences(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """Name, value and interval of each paired difference at k = N, in points."""
    found = []
    for left, right in compared(evaluation.verifiers):
        estimate = evaluation.differences[f"{left}-{right}"][evaluation.num_samples]
        name = f"{label(evaluation, left)} − {label(evaluation, right)}"
        found.append((name, _points(estimate.value), interval(estimate)))
    return found


def _points(value: float | None) -> str:
    return _UNDEFINED if value is None else f"{100 * value:+.1f}".replace("-", "−")


def bills(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    """Who was paid, and how much."""
    usage = evaluation.proposer_usage
    yield (
        "proposer",
        f"{usage.prompt_tokens:,} prompt + {usage.generated_tokens:,} generated tokens, {usage.requests:,} requests",
    )
    for name, tokens in evaluation.verifier_tokens.items():
        ratio = f" ({tokens.computed / tokens.distinct:.2f} x)" if tokens.distinct else ""
        amounts = f"{tokens.computed:,} tokens computed, {tokens.distinct:,} distinct tree tokens{ratio}"
        yield f"verifier {verifier_label(name)}", amounts
    yield "wall clock", f"{evaluation.wall_s:,.1f} s"
