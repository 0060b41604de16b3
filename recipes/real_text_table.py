"""The table of verifiers on real rollouts: every set over all of its test folds, as Markdown.

python recipes/real_text_table.py --from runs/text        # after recipes/real_text.sh
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from arts.evaluate.rows import read_rows
from arts.evaluate.run import PAPER, evaluate_trees
from arts.evaluate.table import interval, label, percent
from arts.protocols import ScoredTrees
from arts.store import load_trees, open_collection
from arts.tree import ReasoningTree

TEST_FOLDS = {"game24": (0, 1, 2, 3, 4), "gym": (0, 5, 10, 15), "amc23": (0, 1, 2, 3, 4), "gsm8k": (0,)}
RULES = ("majority", "random", "has_answer", "shortest", "longest", "oracle")
_PAPER_DRAWS = 16
_BASES = ("random", "majority")
POLICIES_OF = {"gym": "gym-policies"}
"""Where a pool's policies lie alone: their draws get the scores that the pool's have."""


class Scored(NamedTuple):
    """Test problems of a set, as every verifier scored them; each was trained on the other folds."""

    trees: list[ReasoningTree]
    verifiers: dict[str, ScoredTrees]


def read_folds(folder: Path, name: str) -> Scored:
    trees: list[ReasoningTree] = []
    verifiers: dict[str, ScoredTrees] = {}
    for fold in TEST_FOLDS[name]:
        own = load_trees(folder / name / f"fold-{fold}")
        _, read = read_rows(folder / f"evaluation-{name}-{fold}" / "draws.jsonl")
        for verifier, scored in read.items():
            there = verifiers.setdefault(verifier, ScoredTrees([], 0, 0, scored.scale)).trees
            there.extend(with_scores(*pair) for pair in zip(own, scored.trees, strict=True))
        trees += own
    return Scored(trees, verifiers)


def with_scores(tree: ReasoningTree, scored: ReasoningTree) -> ReasoningTree:
    """A tree with the scores of its draws, which the rows hold as a pool of depth one."""
    flows = dict(zip(tree.trunks, (scored.nodes[own].log_flow for own in scored.trunks), strict=True))
    return tree.with_log_flows([flows.get(node.id, 0.0) for node in tree.nodes])


def of_policy(folder: Path, pool: Scored) -> Scored:
    """One policy's trees of the pool's problems; its draws are told by problem and text, and so are their scores."""
    own = {tree.problem.id: tree for fold in sorted(folder.glob("fold-*")) for tree in load_trees(fold)}
    trees = [own[tree.problem.id] for tree in pool.trees if tree.problem.id in own]
    verifiers = {}
    for name, scored in pool.verifiers.items():
        flows = {
            (tree.problem.id, tree.text(leaf)): tree.nodes[leaf].log_flow
            for tree in scored.trees
            for leaf in tree.trunks
        }
        found = [
            tree.with_log_flows([flows.get((tree.problem.id, tree.text(node.id)), 0.0) for node in tree.nodes])
            for tree in trees
        ]
        verifiers[name] = ScoredTrees(found, 0, 0, scored.scale)
    return Scored(trees, verifiers)


def rows(name: str, scored: Scored, selectors: Sequence[str], *, is_pool: bool) -> Iterator[str]:
    found = evaluate_trees(scored.trees, scored.verifiers, comparison=replace(PAPER, is_pool=is_pool))
    last, rare = found.num_samples, found.subsets["rare"]
    for selector in (*scored.verifiers, *selectors):
        if selector not in found.selectors:
            continue
        for k in sorted({_PAPER_DRAWS, last} & set(found.selectors[selector].at)):
            estimate = found.selectors[selector].at[k]
            against = [
                f"{100 * paired.value:+.1f} {interval(paired)}" if paired and paired.value is not None else ""
                for paired in (found.differences.get(f"{selector}-{other}", {}).get(k) for other in _BASES)
            ]
            on_rare = f"{rare.num_problems}: {percent(rare.selectors[selector].value)}" if k == last else ""
            yield (
                f"| {name} | {found.num_problems} | {k} of {last} | {label(found, selector)} | "
                f"{percent(estimate.value)} {interval(estimate)} | {' | '.join(against)} | {on_rare} |"
            )


def lines(folder: Path) -> Iterator[str]:
    yield "| set | n | draws | way to choose | right | minus random, points | minus majority | right on rare |"
    yield "|" + " --- |" * 8
    for name, folds in TEST_FOLDS.items():
        if not (folder / f"evaluation-{name}-{folds[0]}" / "draws.jsonl").exists():
            continue
        scored = read_folds(folder, name)
        header = open_collection(folder / name / f"fold-{folds[0]}").header
        yield from rows(name, scored, RULES, is_pool=bool(header["pool"]))
        for policy in sorted((folder / POLICIES_OF[name]).iterdir()) if name in POLICIES_OF else ():
            alone = of_policy(policy, scored)
            if len(alone.trees[0].trunks) > 1:
                yield from rows(policy.name, alone, RULES, is_pool=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="folder", type=Path, required=True)
    print("\n".join(lines(parser.parse_args().folder)))


if __name__ == "__main__":
    main()
