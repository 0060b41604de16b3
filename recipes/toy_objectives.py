"""What every objective estimates, on a toy tree where the exact answer is known: a table and one figure.

    python recipes/toy_objectives.py            # a minute on one core; needs the extras `local` and `report`
    python recipes/toy_objectives.py --num-samples 64 --out many.svg

Trees of one toy problem are drawn as Sparse Deep Fork draws them, and a table of free numbers, one for each state, is
fitted to each objective (`arts/verifier/tabular.py`). So differences come from the objective, not from a network. The
samples and the exact values here are also what `tests/test_acceptance.py` works with.

Shapes: S states of the toy tree.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from arts.lm.load import use_threads
from arts.proposers.table import TableProposer
from arts.protocols import Request
from arts.sparse_deep_fork import CollectSettings, Pivots, choose_pivots, rollout_seed
from arts.tasks.toy import Array, ToyTask, ToyTree, toy_problem
from arts.tree import ReasoningTree, Rollout, Step, build_tree
from arts.verifier.objectives import OBJECTIVES, LogMeanExp, RestValue, RewardSettings, TemperedFlow, TreeFacts
from arts.verifier.objectives.base import Bounds
from arts.verifier.tabular import fit_tabular

FIGURE = Path(__file__).resolve().parent.parent / "docs" / "toy_objectives.svg"
REWARDS = RewardSettings()
DEPTH_COLORS = ("#17191e", "#2563eb", "#c2620a", "#848b97")
INK, MUTED, LINE = "#17191e", "#636a76", "#d9dbd7"


def _ends(chance: float) -> dict[str, tuple[float, bool]]:
    return {"a": (chance, True), "b": (round(1 - chance, 1), False)}


# Below every inner node lie right and wrong ends, so that all logits are finite; the likeliest first step is the worst;
# all probabilities are tenths, so that 1000 draws can show the law exactly.
MIXED = ToyTree.nested(
    {
        "a": (0.5, {"a": (0.6, _ends(0.2)), "b": (0.3, _ends(0.5)), "c": (0.1, _ends(0.9))}),
        "b": (0.3, {"a": (0.5, _ends(0.7)), "b": (0.4, _ends(0.3)), "c": (0.1, _ends(0.1))}),
        "c": (0.2, {"a": (0.2, _ends(0.8)), "b": (0.3, _ends(0.4)), "c": (0.5, _ends(0.6))}),
    }
)


# --- trees ------------------------------------------------------------------------------------------------------------


def sample_trees(
    toy: ToyTree, num_trees: int, num_samples: int, *, pivots: Pivots = "auto", merge: bool = True, seed: int = 0
) -> list[ReasoningTree]:
    """Independent trees of one toy problem, each with `num_samples` trunks and forks from pivots."""
    task, proposer, problem = ToyTask(), TableProposer(), toy_problem(toy)
    settings = CollectSettings(num_samples=num_samples, pivots=pivots, merge=merge, seed=seed)
    problems = [replace(problem, id=f"{problem.id} {number}") for number in range(num_trees)]

    def draw(prefix: tuple[Step, ...], places: Sequence[tuple[int, int]]) -> tuple[tuple[Step, ...], ...]:
        """Rollout `index` of tree `number`, for every place (number, index). One request: it costs a toy tree."""
        seeds = tuple(rollout_seed(seed, problems[number], index) for number, index in places)
        [reply] = proposer.propose([Request(problem, prefix, seeds, 1000)])
        return reply.draws

    rollouts: list[dict[int, Rollout]] = [{} for _ in problems]
    trunks = [(number, index) for number in range(num_trees) for index in range(num_samples)]
    for (number, index), steps in zip(trunks, draw((), trunks), strict=True):
        rollouts[number][index] = Rollout(index, index, 0, steps)
    forks = defaultdict(list)
    next_index = [num_samples] * num_trees
    for number, trunk in trunks:
        steps = rollouts[number][trunk].steps
        for depth in choose_pivots(settings, problems[number], trunk, [step.stop for step in steps]):
            forks[steps[:depth]].append((trunk, (number, next_index[number])))
            next_index[number] += 1
    for prefix, jobs in forks.items():
        for (trunk, (number, index)), steps in zip(jobs, draw(prefix, [place for _, place in jobs]), strict=True):
            rollouts[number][index] = Rollout(index, trunk, len(prefix), steps)
    verdicts = {toy.text(leaf): task.judge(problem, toy.text(leaf)) for leaf in toy.leaves}
    return [
        build_tree(one, list(own.values()), merge=merge, judge=verdicts.__getitem__)
        for one, own in zip(problems, rollouts, strict=True)
    ]


def proportional_tree(toy: ToyTree, num_draws: int) -> ReasoningTree:
    """One tree whose draws are exactly `num_draws` times pi_0: every estimate of it is free of chance.

    Raises:
        ValueError: `num_draws` times the probability of some path is no whole number.
    """
    rollouts = []
    for leaf, prior in zip(toy.leaves, toy.prior_law(), strict=True):
        count = num_draws * prior
        if abs(count - round(count)) > 1e-6:
            raise ValueError(f"{num_draws} draws cannot show a path of probability {prior:g} exactly")
        steps = tuple(map(toy.step, toy.path(leaf)))
        rollouts += [Rollout(len(rollouts) + copy, len(rollouts) + copy, 0, steps) for copy in range(round(count))]
    problem = toy_problem(toy)
    return build_tree(problem, rollouts, judge=lambda text: ToyTask().judge(problem, text))


# --- exact values -----------------------------------------------------------------------------------------------------


class Claim(NamedTuple):
    """What an objective says it estimates."""

    formula: str
    exact: Callable[[ToyTree], Array]
    "[S], in the scorer's own log, or NaN where nothing is claimed"
    scale: str = "flow"
    "how it is drawn: `flow` on logarithmic axes, `chance` in 0..1, `difference` of log-odds, with a free offset"


def _log_chance(toy: ToyTree) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(toy.success_probabilities)


def _log_odds(toy: ToyTree) -> Array:
    """NaN at leaves: -inf or inf."""
    chance = np.where(toy.rewards > 0, np.nan, toy.success_probabilities)
    return np.log(chance) - np.log1p(-chance)


def self_normalised_flow(toy: ToyTree, alpha: float) -> Array:
    """E[R w | s] / E[w | s] with w = pi_0(tau | s)^-alpha: the mean reward under pi_0^(1 - alpha)."""
    ones = replace(toy, right=tuple(not children for children in toy.children), reward_right=1.0, reward_wrong=0.5)
    return toy.tempered_flows(alpha) / ones.tempered_flows(alpha)


def _progress(toy: ToyTree) -> Array:
    """Of the tree with every path once."""
    problem = toy_problem(toy)
    tree = build_tree(problem, toy.rollouts(), judge=lambda text: ToyTask().judge(problem, text))
    progress = RestValue().node_targets(TreeFacts.of(tree), Bounds(1.0, 0.0))
    exact = np.zeros(len(toy.parents))
    exact[[toy.find(tree.text(node.id)) or 0 for node in tree.nodes]] = progress
    with np.errstate(divide="ignore"):
        return np.log(exact)


CLAIMS: Mapping[str, Claim] = {
    "rfm": Claim("sum of R over all paths", lambda toy: np.log(toy.flows)),
    "mean_flow": Claim("V = E[R | s]", lambda toy: np.log(toy.values)),
    "debiased_flow": Claim("V = E[R | s]", lambda toy: np.log(toy.values)),
    "log_mean_exp": Claim(
        "E[exp(λr) | s], λ = 2",
        lambda toy: LogMeanExp().inverse_temperature * toy.log_mean_exp(LogMeanExp().inverse_temperature),
    ),
    "tempered_flow": Claim(
        "mean of R under π₀^(1-α), α = ¼", lambda toy: np.log(self_normalised_flow(toy, TemperedFlow().alpha))
    ),
    "subtb": Claim("V = E[R | s]", lambda toy: np.log(toy.values)),
    "sibling_rank": Claim("log-odds against siblings", _log_odds, "difference"),
    "pointwise_prm": Claim("P(right | s)", _log_chance, "chance"),
    "pairwise_rm": Claim("log-odds at one depth", _log_odds, "difference"),
    "outcome": Claim(
        "right or wrong, at the ends", lambda toy: np.where(toy.rewards > 0, _log_chance(toy), np.nan), "chance"
    ),
    "mc_value": Claim("P(right | s)", _log_chance, "chance"),
    "rest_value": Claim("progress to the nearest right end", _progress, "chance"),
}


# --- comparison -------------------------------------------------------------------------------------------------------


def ranks(values: Array) -> Array:
    """1 to n, ties at their mean rank."""
    return np.array([(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values])


def spearman(one: Array, other: Array) -> float:
    """Rank correlation; NaN where one side is constant or not known everywhere."""
    if np.isnan(one).any() or np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def inner_steps(toy: ToyTree) -> list[int]:
    """Inner nodes without the root."""
    return [node for node, children in enumerate(toy.children) if children and node > 0]


def sibling_spearman(toy: ToyTree, log_flow_S: Array) -> float:
    """Rank correlation with V inside each group of inner siblings, averaged over groups."""
    inner = set(inner_steps(toy))
    groups = [sorted(inner & set(children)) for children in toy.children]
    return float(np.mean([spearman(log_flow_S[group], toy.values[group]) for group in groups if len(group) > 1]))


def depth_spearman(toy: ToyTree, log_flow_S: Array) -> float:
    """Rank correlation with V over the inner nodes of all depths."""
    inner = inner_steps(toy)
    return spearman(log_flow_S[inner], toy.values[inner])


def offset_groups(toy: ToyTree, name: str) -> list[list[int]]:
    """Inner nodes whose scores share a free offset under a ranking objective."""
    if name == "sibling_rank":
        inner = set(inner_steps(toy))
        return [sorted(group) for group in (inner & set(children) for children in toy.children) if group]
    depths = [len(toy.path(node)) for node in range(len(toy.parents))]
    return [[node for node in inner_steps(toy) if depths[node] == depth] for depth in sorted(set(depths))[1:-1]]


def without_offset(toy: ToyTree, name: str, log_flow_S: Array) -> Array:
    """Scores against the mean of their group; NaN elsewhere."""
    centred = np.full(len(log_flow_S), np.nan)
    for group in offset_groups(toy, name):
        centred[group] = log_flow_S[group] - log_flow_S[group].mean()
    return centred


@dataclass(frozen=True)
class Panel:
    name: str
    claim: Claim
    exact: Array
    "[S], as drawn: flow, chance, or difference of log-odds"
    estimated: Array
    sibling: float
    depth: float

    @property
    def worst_error(self) -> float:
        """Largest difference, of logarithms where the scale is a flow; over inner nodes, or the ends if only they."""
        exact, estimated = self.exact, self.estimated
        if self.claim.scale == "flow":
            exact, estimated = np.log(exact), np.log(estimated)
        return float(np.nanmax(np.abs(exact - estimated)))


def compare(toy: ToyTree, trees: Sequence[ReasoningTree]) -> list[Panel]:
    panels = []
    for name, objective_class in OBJECTIVES.items():
        claim = CLAIMS[name]
        log_flow = fit_tabular(objective_class(), toy, trees, REWARDS)
        exact, estimated = claim.exact(toy), log_flow
        if claim.scale == "difference":
            exact, estimated = (without_offset(toy, name, values) for values in (exact, estimated))
        else:
            exact, estimated = np.exp(exact), np.exp(estimated)
        shown = ~np.isnan(exact)
        panels.append(
            Panel(
                name,
                claim,
                exact,
                np.where(shown, estimated, np.nan),
                sibling_spearman(toy, log_flow),
                depth_spearman(toy, log_flow),
            )
        )
    return panels


def table(panels: Sequence[Panel]) -> str:
    lines = [f"{'objective':14} {'estimates':34} {'siblings':>9} {'depths':>7}  worst error"]
    for panel in panels:
        unit = "in log F" if panel.claim.scale == "flow" else "" if panel.claim.scale == "chance" else "in log-odds"
        lines.append(
            f"{panel.name:14} {panel.claim.formula:34} {_number(panel.sibling):>9} {_number(panel.depth):>7}  "
            f"{panel.worst_error:.2f} {unit}".rstrip()
        )
    return "\n".join(lines)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


# --- figure -----------------------------------------------------------------------------------------------------------


def draw_figure(toy: ToyTree, panels: Sequence[Panel], title: str, out: Path) -> None:
    """One panel an objective, estimate over exact value, coloured by depth."""
    import matplotlib
    import matplotlib.figure

    settings = {
        "svg.fonttype": "none", "svg.hashsalt": "toy-objectives", "font.size": 9, "font.family": "sans-serif",
        "text.color": INK, "axes.edgecolor": LINE, "axes.labelcolor": MUTED,
        "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
        "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "white",
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        figure = matplotlib.figure.Figure(figsize=(10.4, 9.4))
        figure.subplots_adjust(left=0.09, right=0.985, bottom=0.075, top=0.86, hspace=0.52, wspace=0.28)
        grid = figure.subplots(3, 4)
        for axes, panel in zip(grid.flat, panels, strict=True):
            _draw_panel(axes, toy, panel)
        figure.supxlabel("exact", color=MUTED, fontsize=10)
        figure.supylabel("estimated", color=MUTED, fontsize=10)
        figure.legend(
            *grid.flat[0].get_legend_handles_labels(), loc="upper center", ncols=4, frameon=False, title=title
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None, dpi=110)


def _draw_panel(axes: Any, toy: ToyTree, panel: Panel) -> None:
    depths = np.array([len(toy.path(node)) for node in range(len(toy.parents))])
    is_leaf = toy.rewards > 0
    low, high, ticks = _limits(panel)
    if panel.claim.scale == "flow":
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.plot([low, high], [low, high], color=LINE, linewidth=1.2, zorder=0)
    for depth in range(int(depths.max()) + 1):
        here = (depths == depth) & ~np.isnan(panel.exact) & ~np.isnan(panel.estimated)
        ends = bool(is_leaf[depths == depth].all())
        label = "root" if depth == 0 else "ends" if ends else f"step {depth}"
        color = DEPTH_COLORS[depth % len(DEPTH_COLORS)]
        axes.plot(
            panel.exact[here], panel.estimated[here], linestyle="none", marker="D" if depth == 0 else "o",
            markersize=5, color=color, markerfacecolor="none" if ends else color, alpha=0.85, label=label,
        )  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_ticks([], minor=True)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_title(panel.name, loc="left", fontsize=11, fontweight="bold", pad=28)
    below = f"{panel.claim.formula}\nrank correlation {_number(panel.sibling)} | {_number(panel.depth)}"
    axes.annotate(below, (0, 1), xycoords="axes fraction", xytext=(0, 4), textcoords="offset points", color=MUTED,
                  fontsize=8.5, linespacing=1.35)  # fmt: skip


def _limits(panel: Panel) -> tuple[float, float, list[float]]:
    """Both axes from, to, and their ticks."""
    if panel.claim.scale == "chance":
        return -0.05, 1.05, [0, 0.5, 1]
    both = np.concatenate([panel.exact, panel.estimated])
    low, high = float(np.nanmin(both)), float(np.nanmax(both))
    if panel.claim.scale == "difference":
        return low - 0.4, high + 0.4, [-2, 0, 2]
    low, high = low / 1.4, high * 1.4
    return low, high, [tick for tick in ((1, 2, 5) if high / low < 20 else (0.1, 1, 10, 100)) if low < tick < high]


def main() -> None:
    parser = argparse.ArgumentParser(description="Estimated against exact values of every objective on a toy tree.")
    parser.add_argument("--num-trees", type=int, default=400)
    parser.add_argument("--num-samples", type=int, default=16, help="trunks a tree; forks come on top")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=FIGURE, help="the figure, .svg or .png")
    args = parser.parse_args()
    use_threads(1)
    panels = compare(MIXED, sample_trees(MIXED, args.num_trees, args.num_samples, seed=args.seed))
    print(table(panels))
    title = f"{args.num_trees} trees of {args.num_samples} samples and forks; rank correlation with V: siblings | all"
    draw_figure(MIXED, panels, title, args.out)
    print(f"figure: {args.out}")


if __name__ == "__main__":
    main()
