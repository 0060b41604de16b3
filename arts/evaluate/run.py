"""Evaluate a pool of judged trees: every selector at every k, Gap Closed, subsets, intervals and both bills.

Knows the protocols' values and `metrics`; draws and scores nothing itself, and does not know how results are shown.
The rows of the paper's tables 1-3 (BoN@k, by level, rare subset) are fields of `Evaluation`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from arts.evaluate.metrics import (
    Draws,
    Estimate,
    Floats,
    Rule,
    argmax_accuracy,
    chosen_aggregation,
    draw_subsets,
    oracle_accuracy,
    paired_bootstrap,
    random_accuracy,
    read_draws,
    read_log_flows,
    rule_scores,
    sample_sizes,
    trunk_leaves,
    vote_accuracy,
)
from arts.evaluate.subsets import Difficulty, subset_masks
from arts.files import write_atomically
from arts.protocols import Aggregation, ScoredTrees, ScoreScale
from arts.tree import ReasoningTree, Usage

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class SelectorResult:
    """How often a selector's choice among k draws is right (`at[k]`), and what that closes of the gap at k = N."""

    at: Mapping[int, Estimate]
    gap_closed: Estimate
    "(acc - pass@1) / (oracle@N - pass@1): 0 for a random pick, 1 for the oracle; undefined where those two are equal"


@dataclass(frozen=True)
class Subset:
    """Some of the problems, and every selector on them at k = N."""

    num_problems: int
    selectors: Mapping[str, Estimate]
    members: tuple[int, ...] = ()
    "places of the problems among the trees"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared besides verifiers, and on which problems."""

    rules: tuple[Rule, ...] = ()
    "ways to choose that need no verifier"
    groups: tuple[str, ...] = ()
    "fields of the problems' metadata: a subset for each of their values, and the rare problems of each subject"
    is_pool: bool = False
    "draws of several policies, which are no law: only choosing among all of them means something"


PAPER = Comparison(
    rules=("has_answer", "shortest", "longest", "log_prior"),
    groups=("level", "subject", "task", "dataset"),
)
"""The tables of arXiv 2602.12846, section 4: BoN@1 to 16, Gap Closed, levels, subjects, the rare subset."""


@dataclass(frozen=True)
class VerifierTokens:
    """Bill of one verifier: what it computed, and the least it could have (each distinct tree token once)."""

    computed: int = 0
    distinct: int = 0

    def to_json(self) -> dict[str, int]:
        return {"computed_tokens": self.computed, "distinct_tokens": self.distinct}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The results. Rates are fractions 0..1; `to_json` gives what `results.schema.json` describes."""

    command: tuple[str, ...]
    seed: int
    fingerprint: str
    "hash of the problems and of the verdicts on their draws: equal for evaluations of the same pool"
    num_problems: int
    num_samples: int
    verifiers: tuple[str, ...]
    scales: Mapping[str, ScoreScale]
    "what each verifier's scores are, with the aggregation that was used"
    pass_at_k: Mapping[int, Estimate]
    selectors: Mapping[str, SelectorResult]
    differences: Mapping[str, Mapping[int, Estimate]]
    "`a-b`: accuracy of a minus that of b on the same draws, at every k"
    subsets: Mapping[str, Subset]
    chances: Mapping[str, tuple[float, ...]]
    "of each selector to be right at k = N, problem by problem"
    proposer_usage: Usage
    verifier_tokens: Mapping[str, VerifierTokens]
    wall_s: float

    def to_json(self) -> dict[str, Any]:
        headline_tokens = self.verifier_tokens[self.verifiers[0]] if self.verifiers else VerifierTokens()
        return {
            "schema": SCHEMA_VERSION,
            "command": list(self.command),
            "seed": self.seed,
            "trees": self.fingerprint,
            "num_problems": self.num_problems,
            "num_samples": self.num_samples,
            "verifiers": list(self.verifiers),
            "scales": {name: scale_to_json(scale) for name, scale in self.scales.items()},
            "pass_at_k": _by_k(self.pass_at_k),
            "selectors": {
                name: {"at": _by_k(selector.at), "gap_closed": selector.gap_closed.to_json()}
                for name, selector in self.selectors.items()
            },
            "differences": {name: _by_k(at) for name, at in self.differences.items()},
            "subsets": {
                name: {
                    "num_problems": subset.num_problems,
                    "selectors": {selector: estimate.to_json() for selector, estimate in subset.selectors.items()},
                }
                for name, subset in self.subsets.items()
            },
            "cost": {
                "proposer": self.proposer_usage._asdict(),
                "verifier": headline_tokens.to_json(),
                "verifiers": {name: tokens.to_json() for name, tokens in self.verifier_tokens.items()},
                "wall_s": self.wall_s,
            },
        }


def scale_to_json(scale: ScoreScale) -> dict[str, Any]:
    """Rewards only where they mean something."""
    rewards = {"reward_right": scale.reward_right, "reward_wrong": scale.reward_wrong}
    return {"kind": scale.kind, "aggregation": scale.aggregation} | (rewards if scale.kind == "log_flow" else {})


def _by_k(at: Mapping[int, Estimate]) -> dict[str, dict[str, float | None]]:
    return {str(k): estimate.to_json() for k, estimate in at.items()}


def evaluate_trees(
    trees: Sequence[ReasoningTree],
    verifiers: Mapping[str, ScoredTrees] | None = None,
    *,
    aggregation: Aggregation | None = None,
    difficulty: Difficulty | None = None,
    comparison: Comparison | None = None,
    against: Sequence[ReasoningTree] | None = None,
    command: Sequence[str] = (),
    seed: int = 0,
    wall_s: float = 0.0,
) -> Evaluation:
    """Evaluate every way to choose among the draws of a pool.

    Args:
        trees: one judged tree a problem, all with the same number of main trajectories; forks do not count.
        verifiers: the same trees in the same order as each verifier scored them. The first one also weighs votes as
            `flow_vote`, a further one as `<name>_flow_vote`.
        aggregation: how the scores of a path's steps become one, for every verifier; None: as its scale says.
        difficulty: names the class of a problem; problems without one are in no class.
        against: another policy's draws on these problems, for the extinction zone: those it never solves.
        seed: of the bootstrap and of the subsets votes are averaged over.

    Raises:
        ValueError: the trees cannot be compared, or a verifier scored other ones.
    """
    verifiers, comparison = verifiers or {}, comparison or Comparison()
    _check_names(tuple(verifiers), comparison.rules)
    draws = read_draws(trees)
    for name, scored in verifiers.items():
        _check_same_pool(name, trees, scored.trees)
    sizes = [draws.num_samples] if comparison.is_pool else sample_sizes(draws.num_samples)
    scales = {
        name: replace(scored.scale, aggregation=chosen_aggregation(scored.scale, aggregation))
        for name, scored in verifiers.items()
    }
    log_flows = {name: read_log_flows(scored.trees, scales[name].aggregation) for name, scored in verifiers.items()}
    rules: dict[str, Floats] = {
        rule: score_PN for rule in comparison.rules if (score_PN := rule_scores(trees, rule)) is not None
    }
    accuracy = {k: _accuracies(draws, log_flows, rules, k, seed) for k in sizes}

    estimate = paired_bootstrap(len(trees), seed)
    ones_P = np.ones(len(trees))

    def estimate_at(value: Callable[[Mapping[str, Floats]], Floats]) -> dict[int, Estimate]:
        return {k: estimate(value(accuracy[k]), ones_P) for k in sizes}

    final = accuracy[draws.num_samples]
    gap_P = final["oracle"] - final["random"]
    selectors = {
        name: SelectorResult(
            at=estimate_at(lambda values, name=name: values[name]),  # type: ignore[misc]
            gap_closed=estimate(final[name] - final["random"], gap_P),
        )
        for name in final
    }
    masks = subset_masks(trees, draws, difficulty=difficulty, groups=comparison.groups, against=against)
    return Evaluation(
        command=tuple(command),
        seed=seed,
        fingerprint=fingerprint(trees),
        num_problems=len(trees),
        num_samples=draws.num_samples,
        verifiers=tuple(verifiers),
        scales=scales,
        pass_at_k=selectors["oracle"].at,
        selectors=selectors,
        differences={
            f"{left}-{right}": estimate_at(lambda values, a=left, b=right: values[a] - values[b])  # type: ignore[misc]
            for left, right in compared(tuple(verifiers))
        },
        subsets={
            name: Subset(
                int(mask_P.sum()),
                {selector: estimate(final[selector] * mask_P, mask_P.astype(np.float64)) for selector in final},
                tuple(np.flatnonzero(mask_P).tolist()),
            )
            for name, mask_P in masks.items()
        },
        chances={name: tuple(chance_P.tolist()) for name, chance_P in final.items()},
        proposer_usage=reduce(Usage.plus, (tree.usage for tree in trees)),
        verifier_tokens={
            name: VerifierTokens(scored.computed_tokens, scored.distinct_tokens) for name, scored in verifiers.items()
        },
        wall_s=wall_s,
    )


def flow_vote_name(verifiers: Sequence[str], name: str) -> str:
    """Name of the flow-weighted vote of a verifier: plain `flow_vote` for the first one."""
    return "flow_vote" if name == verifiers[0] else f"{name}_flow_vote"


def _accuracies(
    draws: Draws, log_flows: Mapping[str, Floats], rules: Mapping[str, Floats], k: int, seed: int
) -> dict[str, Floats]:
    """Every selector's chance to be right on every problem, shape (P,), in the order of the tables."""
    member_SN = draw_subsets(draws.num_samples, k, seed)
    accuracy = {name: argmax_accuracy(draws, log_flow_PN, k) for name, log_flow_PN in log_flows.items()}
    for name, log_flow_PN in log_flows.items():
        accuracy[flow_vote_name(tuple(log_flows), name)] = vote_accuracy(draws, log_flow_PN, member_SN)
    accuracy |= {name: argmax_accuracy(draws, score_PN, k) for name, score_PN in rules.items()}
    accuracy["majority"] = vote_accuracy(draws, np.zeros(draws.correct_PN.shape), member_SN)
    accuracy["random"] = random_accuracy(draws)
    accuracy["oracle"] = oracle_accuracy(draws, k)
    return accuracy


def compared(verifiers: tuple[str, ...]) -> list[tuple[str, str]]:
    """Each verifier against majority and random, and the first one against the others."""
    against_base = [(name, base) for name in verifiers for base in ("majority", "random")]
    return against_base + [(verifiers[0], other) for other in verifiers[1:]]


def _check_names(names: tuple[str, ...], rules: tuple[str, ...] = ()) -> None:
    votes = [flow_vote_name(names, name) for name in names]
    taken = [*names, *votes, *rules, "random", "majority", "oracle"]
    clashes = sorted({name for name in taken if taken.count(name) > 1})
    if clashes:
        raise ValueError(f"verifier names {list(names)} clash with the selectors {clashes}; rename the verifier")


def _check_same_pool(name: str, trees: Sequence[ReasoningTree], scored: Sequence[ReasoningTree]) -> None:
    if len(scored) != len(trees):
        raise ValueError(
            f"verifier {name!r} scored {len(scored)} trees, but there are {len(trees)}; score the same ones"
        )
    for tree, other in zip(trees, scored, strict=True):
        if tree.problem.id != other.problem.id or tree.trunks != other.trunks:
            raise ValueError(
                f"verifier {name!r} scored the tree of problem {other.problem.id!r} where problem {tree.problem.id!r} "
                "was drawn, or other draws of it; score the same trees, in the same order"
            )


def fingerprint(trees: Sequence[ReasoningTree]) -> str:
    """Short hash of the problems, and of how each draw ended and was judged."""
    digest = hashlib.sha256()
    for tree in trees:
        ends = [(leaf.is_answer, *(leaf.verdict[:2] if leaf.verdict else ())) for leaf in trunk_leaves(tree)]
        digest.update(json.dumps([tree.problem.id, ends]).encode())
    return digest.hexdigest()[:16]


def write_results(evaluation: Evaluation, folder: Path, *, about: Mapping[str, Any] | None = None) -> Path:
    """Write `results.json` into a folder, which is made where it is missing.

    Args:
        about: versions, commit and date of the run, kept beside the figures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    write_atomically(path, json.dumps(evaluation.to_json() | ({"about": about} if about else {}), indent=2) + "\n")
    return path
