"""The table of verifiers on real rollouts: every set over all of its test folds, as Markdown.

python recipes/real_text_table.py --from runs/text        # after recipes/real_text.sh
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from arts.evaluate.rows import read_rows
from arts.evaluate.run import PAPER, Evaluation, evaluate_trees
from arts.evaluate.table import interval, label, percent
from arts.protocols import ScoredTrees, ScoreScale
from arts.store import load_trees, open_collection
from arts.tree import ReasoningTree


class Row(NamedTuple):
    """Which verifiers of which test folds are put together."""

    set: str
    verifier: str
    "tuning and seed, as in the folders' names"
    folds: tuple[int, ...]


ROWS = (
    Row("game24", "frozen-0", (0, 1, 2, 3, 4)),
    Row("game24", "frozen-1", (0, 1, 2, 3, 4)),
    Row("game24", "full-0", (0, 1, 2, 3, 4)),
    Row("game24", "verdict", (0, 1, 2, 3, 4)),
    Row("gym", "frozen-0", (0,)),
    Row("gym", "frozen-1", (0,)),
    Row("amc23", "frozen-0", (4,)),
    Row("gsm8k", "frozen-0", (0,)),
)
VERIFIER, RULES = ("arts", "flow_vote"), ("majority", "random", "has_answer", "shortest", "longest", "oracle")
POLICIES_OF = {"gym": "gym-policies"}
"""Where a pool's policies lie alone: their draws get the scores that the pool's have."""


def with_scores(tree: ReasoningTree, scored: ReasoningTree) -> ReasoningTree:
    """A tree with the scores of its draws, which the rows hold as a pool of depth one."""
    nodes = list(tree.nodes)
    for leaf, own in zip(tree.trunks, scored.trunks, strict=True):
        nodes[leaf] = replace(nodes[leaf], log_flow=scored.nodes[own].log_flow)
    return replace(tree, nodes=tuple(nodes))


def read_folds(folder: Path, row: Row) -> tuple[list[ReasoningTree], ScoreScale]:
    """The trees of the test folds with a score on every draw."""
    scored: list[ReasoningTree] = []
    for fold in row.folds:
        own = load_trees(folder / row.set / f"fold-{fold}")
        _, verifiers = read_rows(folder / f"evaluation-{row.set}-{fold}-{row.verifier}" / "draws.jsonl")
        scored += [with_scores(*pair) for pair in zip(own, verifiers["arts"].trees, strict=True)]
        scale = verifiers["arts"].scale
    return scored, scale


def of_policy(folder: Path, pool: Sequence[ReasoningTree]) -> list[ReasoningTree]:
    """One policy's trees of the pool's problems; its draws are told by problem and text, and so are their scores."""
    scores = {(tree.problem.id, tree.text(leaf)): tree.nodes[leaf].log_flow for tree in pool for leaf in tree.trunks}
    problems = {tree.problem.id for tree in pool}
    found = []
    for tree in (tree for fold in sorted(folder.glob("fold-*")) for tree in load_trees(fold)):
        if tree.problem.id in problems:
            nodes = list(tree.nodes)
            for leaf in tree.trunks:
                nodes[leaf] = replace(nodes[leaf], log_flow=scores[tree.problem.id, tree.text(leaf)])
            found.append(replace(tree, nodes=tuple(nodes)))
    return found


def evaluate(trees: Sequence[ReasoningTree], scale: ScoreScale, *, is_pool: bool) -> Evaluation:
    scored = {"arts": ScoredTrees(list(trees), 0, 0, scale)}
    return evaluate_trees(trees, scored, comparison=replace(PAPER, is_pool=is_pool))


def cells(name: str, row: Row, found: Evaluation, selector: str) -> str:
    last, rare = found.num_samples, found.subsets["rare"]
    estimate, own = found.selectors[selector].at[last], rare.selectors[selector]
    paired = found.differences["arts-random"][last] if selector == "arts" else None
    against = f"{100 * paired.value:+.1f} {interval(paired)}" if paired and paired.value is not None else ""
    verifier = row.verifier if selector in VERIFIER else ""
    return (
        f"| {name} | {found.num_problems} x {last} | {label(found, selector)} {verifier} "
        f"| {percent(estimate.value)} {interval(estimate)} | {against} | {rare.num_problems} "
        f"| {percent(own.value)} {interval(own)} |"
    )


def lines(folder: Path) -> Iterator[str]:
    yield "| set | problems x draws | way to choose | right | minus random, points | rare problems | right there |"
    yield "|" + " --- |" * 7
    done = set[str]()
    for row in ROWS:
        trees, scale = read_folds(folder, row)
        is_pool = bool(open_collection(folder / row.set / f"fold-{row.folds[0]}").header["pool"])
        found = evaluate(trees, scale, is_pool=is_pool)
        selectors = VERIFIER + (() if row.set in done else RULES)
        yield from (cells(row.set, row, found, one) for one in selectors if one in found.selectors)
        if row.set in POLICIES_OF and row.set not in done:
            for policy in sorted((folder / POLICIES_OF[row.set]).iterdir()):
                found = evaluate(of_policy(policy, trees), scale, is_pool=False)
                if found.num_samples > 1:
                    shown = ("arts", "majority", "random", "oracle")
                    yield from (cells(policy.name, row, found, one) for one in shown)
        done.add(row.set)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="folder", type=Path, required=True)
    print("\n".join(lines(parser.parse_args().folder)))


if __name__ == "__main__":
    main()
