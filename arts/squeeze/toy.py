"""`arts squeeze --toy`: the law, the high-pass curve and the coupling of problems, exact or simulated, in seconds.

Computes what is to be shown and prints it; `figure` draws it. Every number follows from the seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from arts.squeeze.advantages import mean_centred
from arts.squeeze.cures import Cure, grpo_rule
from arts.squeeze.sweep import (
    PASS_AT,
    HighPass,
    Interval,
    Outcome,
    before_training,
    coupled_pass,
    high_pass,
    random_trees,
    sweep,
)
from arts.squeeze.tabular import PathSpace, alpha, cutoff
from arts.squeeze.training import Problems, Training
from arts.tasks.toy import ToyTree

GRPO = Cure("GRPO", grpo_rule)
COUPLED = Training(learning_rate=0.03, updates=200)
COUPLINGS = (0.0, 0.2, 0.5, 1.0)
SHORT = Training(updates=50)
SWEPT = {"updates": (50, 10, 200), "group_size": (4, 64), "temperature": (0.6, 1.5), "learning_rate": (0.1,)}


@dataclass(frozen=True)
class Law:
    """The squeeze law on random groups."""

    num_groups: int
    worst_error: float
    "largest relative difference between both sides, over all unsampled paths"
    share_negative: float
    "of groups with alpha < 0, where unsampled paths gain"
    alpha_range: tuple[float, float]


@dataclass(frozen=True)
class ToySqueeze:
    """All that `arts squeeze --toy` shows."""

    law: Law
    cutoffs: tuple[float, ...]
    "of each tree, before training"
    by_group: dict[int, HighPass]
    by_temperature: dict[float, HighPass]
    base: Outcome
    swept: dict[tuple[str, float], Outcome]
    coupled: dict[float, dict[int, Interval]]
    "coupling -> k -> pass@k after GRPO"
    coupled_base: dict[int, float]

    def to_json(self) -> dict[str, Any]:
        return {
            "law": vars(self.law),
            "cutoffs": self.cutoffs,
            "high_pass": {
                name: {str(key): _curve(one) for key, one in curves.items()}
                for name, curves in (("group_size", self.by_group), ("temperature", self.by_temperature))
            },
            "before": _outcome(self.base),
            "swept": {f"{name}={value:g}": _outcome(one) for (name, value), one in self.swept.items()},
            "coupled": {
                "base": self.coupled_base,
                **{f"{kappa:g}": {k: one.to_json() for k, one in at.items()} for kappa, at in self.coupled.items()},
            },
        }


def _outcome(one: Outcome) -> dict[str, list[float]]:
    return {name: value.to_json() for name, value in one._asdict().items()}


def _curve(curve: HighPass) -> dict[str, Any]:
    return {
        "log10_likelihood": [round(x, 3) for x in curve.log10_likelihood],
        "survival": [one.to_json() for one in curve.survival],
        "never_drawn": [round(x, 5) for x in curve.never_drawn],
    }


def coupled_problems(seed: int = 0) -> Problems:
    """24 problems on one tree of 64 paths: 8 easy ones, and 16 with two right paths, usual ones or any."""
    return Problems.drawn(ToyTree.random(1, 4, 3), num_easy=8, num_usual=8, num_rare=8, seed=seed)


def check_law(toy: ToyTree, *, num_groups: int, group_size: int, learning_rate: float, seed: int) -> Law:
    """Both sides of the law: the softmax of the moved logits, and the old policy over 1 + alpha."""
    rng = np.random.default_rng(seed)
    space, policy, right = PathSpace.of_paths(toy), toy.prior_law(), Problems.of(toy).right_PL[0]
    worst, found = 0.0, []
    for _ in range(num_groups):
        paths = rng.choice(len(policy), size=group_size, p=policy)
        advantages = mean_centred(right[paths].astype(np.float64))
        delta = learning_rate * space.gradient(space.log_prior_S, space.credit(paths, advantages))
        weights = policy * np.exp(delta)
        after = weights / weights.sum()
        found.append(alpha(policy, paths, advantages, learning_rate))
        unsampled = np.setdiff1d(np.arange(len(policy)), paths)
        predicted = policy[unsampled] / (1 + found[-1])
        worst = max(worst, float(np.abs(after[unsampled] / predicted - 1).max()))
    values = np.array(found)
    return Law(num_groups, worst, float((values < 0).mean()), (float(values.min()), float(values.max())))


def toy_squeeze(*, num_trees: int = 10, num_runs: int = 8, seed: int = 0) -> ToySqueeze:
    wide, narrow = random_trees(num_trees, depth=4), random_trees(num_trees)
    problems = coupled_problems(seed)
    base = np.log(problems.toy.prior_law())
    chance = (np.exp(base) * problems.right_PL).sum(axis=-1)
    by_group = {
        size: high_pass(wide, replace(SHORT, group_size=size), num_runs=num_runs, seed=seed) for size in (4, 16, 64)
    }
    by_temperature = {
        warmth: high_pass(wide, replace(SHORT, temperature=warmth), num_runs=num_runs, seed=seed)
        for warmth in (0.6, 1.5)
    }
    return ToySqueeze(
        law=check_law(narrow[0], num_groups=1000, group_size=8, learning_rate=1.0, seed=seed),
        cutoffs=tuple(cutoff(toy.prior_law(), Problems.of(toy).right_PL[0]) for toy in narrow),
        by_group=by_group,
        by_temperature={0.6: by_temperature[0.6], 1.0: by_group[SHORT.group_size], 1.5: by_temperature[1.5]},
        base=before_training(narrow),
        swept=sweep(narrow, SWEPT, base=SHORT, num_runs=num_runs),
        coupled={
            kappa: coupled_pass(
                problems, GRPO, replace(COUPLED, problem_coupling=kappa), num_runs=max(2, num_runs // 2), seed=seed
            )
            for kappa in COUPLINGS
        },
        coupled_base={k: float((1 - (1 - chance) ** k).mean()) for k in PASS_AT},
    )


# --- printing ---------------------------------------------------------------------------------------------------------


def print_toy(found: ToySqueeze, console: Console) -> None:
    for line in law_lines(found):
        console.print(line, highlight=False)
    for table in (_survival_table(found), _sweep_table(found), _coupled_table(found)):
        console.print()
        console.print(table)


def law_lines(found: ToySqueeze) -> Iterator[str]:
    law = found.law
    low, high = law.alpha_range
    yield (
        f"Squeeze law, {law.num_groups} groups: pi' = pi / (1 + alpha) for each unsampled path, largest relative error "
        f"{law.worst_error:.1e}; alpha from {low:.3f} to {high:.3f}, below 0 in {law.share_negative:.0%} of the groups."
    )
    negative = sum(one < 0 for one in found.cutoffs)
    yield (
        f"Cut-off likelihood in expectation, before the first update: {min(found.cutoffs):.4f} to "
        f"{max(found.cutoffs):.4f}; below 0, so that no right path falls, in {negative} of {len(found.cutoffs)} trees."
    )


def _survival_table(found: ToySqueeze) -> Table:
    table = Table(
        title=f"Right paths at least as likely as before, after {SHORT.updates} updates of GRPO", title_justify="left"
    )
    table.add_column("likelihood before")
    curves = {f"G = {size}": curve for size, curve in found.by_group.items()} | {
        f"T = {warmth:g}": curve for warmth, curve in found.by_temperature.items() if warmth != 1.0
    }
    for name in curves:
        table.add_column(name, justify="right")
    table.add_column("never drawn, G = 16", justify="right")
    shown = found.by_group[16]
    for place, middle in enumerate(shown.log10_likelihood):
        cells = [f"{curve.survival[place].value:.0%}" for curve in curves.values()]
        table.add_row(f"{10**middle:.1e}", *cells, f"{shown.never_drawn[place]:.0%}")
    return table


def _sweep_table(found: ToySqueeze) -> Table:
    table = Table(title="One factor at a time (G 16, T 1, eta 1, 50 updates); rare: pi_0 < 1/64", title_justify="left")
    for name in ("", "pass@1", "mass of rare right paths", "of them found by 64 draws", "likelier than before"):
        table.add_column(name, justify="right" if name else "left")
    rows = {"before": found.base} | {f"{name} {value:g}": one for (name, value), one in found.swept.items()}
    for name, one in rows.items():
        table.add_row(name.replace("_", " "), *(f"{cell.value:.3f}" for cell in one))
    return table


def _coupled_table(found: ToySqueeze) -> Table:
    table = Table(title="24 problems that share a part of their logits: pass@k after GRPO", title_justify="left")
    table.add_column("")
    for k in PASS_AT:
        table.add_column(f"k = {k}", justify="right")
    table.add_row("base", *(f"{found.coupled_base[k]:.3f}" for k in PASS_AT))
    for kappa, at in found.coupled.items():
        table.add_row(f"coupling {kappa:g}", *(f"{at[k].value:.3f}" for k in PASS_AT))
    return table
