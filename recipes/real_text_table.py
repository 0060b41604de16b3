"""The table of verifiers on real rollouts: every set over all of its test folds, as Markdown.

python recipes/real_text_table.py --from runs/text        # after recipes/real_text.sh
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from arts.evaluate.rows import read_rows
from arts.evaluate.run import PAPER, Evaluation, evaluate_trees
from arts.evaluate.table import interval, label, percent
from arts.protocols import ScoredTrees
from arts.store import load_trees
from arts.tree import ReasoningTree

# set, tuning, test folds
ROWS = (
    ("game24", "frozen", (0, 1, 2, 3, 4)),
    ("game24", "lora", (0,)),
    ("amc23", "frozen", (4,)),
    ("gsm8k", "frozen", (0,)),
    ("gym", "frozen", (0,)),
)
SELECTORS = ("arts", "flow_vote", "majority", "random", "has_answer", "shortest", "longest", "oracle")


def with_scores(tree: ReasoningTree, scored: ReasoningTree) -> ReasoningTree:
    """A tree with the scores of its draws, which the rows hold as a pool of depth one."""
    nodes = list(tree.nodes)
    for leaf, own in zip(tree.trunks, scored.trunks, strict=True):
        nodes[leaf] = replace(nodes[leaf], log_flow=scored.nodes[own].log_flow)
    return replace(tree, nodes=tuple(nodes))


def evaluate_folds(folder: Path, name: str, tuning: str, folds: Sequence[int]) -> Evaluation:
    trees: list[ReasoningTree] = []
    scored: list[ReasoningTree] = []
    for fold in folds:
        own = load_trees(folder / name / f"fold-{fold}")
        _, verifiers = read_rows(folder / f"evaluation-{name}-{fold}-{tuning}" / "draws.jsonl")
        trees += own
        scored += [with_scores(tree, row) for tree, row in zip(own, verifiers["arts"].trees, strict=True)]
        scale = verifiers["arts"].scale
    return evaluate_trees(trees, {"arts": ScoredTrees(scored, 0, 0, scale)}, comparison=PAPER)


def lines(folder: Path) -> Iterator[str]:
    yield "| set | tuning | n | draws | way to choose | right | minus random, points | rare problems | right there |"
    yield "|" + " --- |" * 9
    for name, tuning, folds in ROWS:
        found = evaluate_folds(folder, name, tuning, folds)
        last, rare = found.num_samples, found.subsets["rare"]
        for selector in SELECTORS:
            if selector not in found.selectors or (tuning != "frozen" and selector not in ("arts", "random")):
                continue
            estimate = found.selectors[selector].at[last]
            paired = found.differences["arts-random"][last] if selector == "arts" else None
            against = f"{100 * paired.value:+.1f} {interval(paired)}" if paired and paired.value is not None else ""
            own = rare.selectors[selector]
            yield (
                f"| {name} | {tuning} | {found.num_problems} | {last} | {label(found, selector)} "
                f"| {percent(estimate.value)} {interval(estimate)} | {against} | {rare.num_problems} "
                f"| {percent(own.value)} {interval(own)} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="folder", type=Path, required=True)
    print("\n".join(lines(parser.parse_args().folder)))


if __name__ == "__main__":
    main()
