"""How often is a rare right path seen: by a full tree of K draws a step, or by independent samples?

    python recipes/visibility.py                       # exact on a toy tree, measured on Countdown; about 2 minutes

The paper counts K^H pi_0(path) discoveries in a tree with K draws at each of H steps. That is an expected count, and
the same for K^H independent samples. The chance to see the path at all is q(s) = 1 - (1 - p q(child))^K, below
1 - (1 - pi_0)^(K^H): draws that share a prefix miss together. What the tree saves is the shared prefix.
"""

import argparse
import random
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np

from arts.build import build_proposer, build_task
from arts.evaluate.metrics import paired_bootstrap
from arts.evaluate.searches import shown
from arts.lm.load import quiet, use_threads
from arts.protocols import Proposer, Task
from arts.search.budget import Budget
from arts.search.driver import run_batched
from arts.search.program import Search
from arts.search.result import SearchResult
from arts.search.strategies.pool import Majority
from arts.search.strategy import Expand, Scores, Strategy, Waves
from arts.search.tree import SearchTree
from arts.tasks.toy import ToyTask, sample_visibility, toy_tree, tree_visibility
from arts.tree import Problem


@dataclass(frozen=True, kw_only=True)
class FullTree(Strategy):
    """K draws below every drawn step, equal ones included: K^H leaves at depth H."""

    id: ClassVar[str] = "full-tree"
    paper: ClassVar[str] = "ARTS (arXiv 2602.12846), visibility amplification"
    scores: ClassVar[Scores] = "none"
    k: int = 2

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        nodes = [0]
        while open_ := [node for node in nodes if tree.is_open(node)]:
            ends = yield [Expand(node, self.k) for node in open_]
            nodes = [node for drawn in ends for node in drawn]
        return "complete"

    def answer(self, tree: SearchTree) -> int | None:
        return None


def exact_lines(num_draws: int, num_steps: int) -> list[str]:
    """The formulas for one path whose steps have chance p each, and what a toy tree's best right path has."""
    lines = ["p a step   pi_0(path)   expected count, both   seen by tree   seen by as many samples"]
    for chance in (0.5, 0.3, 0.2, 0.1):
        prior, leaves = chance**num_steps, num_draws**num_steps
        seen = tree_visibility([chance] * num_steps, num_draws), sample_visibility(prior, leaves)
        lines.append(f"{chance:<10} {prior:<12.4f} {leaves * prior:<22.3f} {seen[0]:<14.3f} {seen[1]:.3f}")
    return lines


def measured(task: Task, proposer: Proposer, problems: list[Problem], strategy: Strategy) -> list[SearchResult]:
    def search(problem: Problem) -> Search:
        judge = lambda text: task.judge(problem, text)  # noqa: E731
        return Search(problem, strategy, Budget(), judge=judge, max_new_tokens=task.max_new_tokens)

    finished = run_batched(map(search, problems), proposer, None)
    return [result for _, result in sorted(finished, key=lambda one: one.place)]


def measured_lines(task: Task, proposer: Proposer, problems: list[Problem], k: int) -> list[str]:
    """A full tree, as many independent samples, and as many tokens in independent samples."""
    estimate, ones_P = paired_bootstrap(len(problems), seed=0), np.ones(len(problems))
    tree = measured(task, proposer, problems, FullTree(k=k))
    leaves = round(float(np.mean([sum(node.num_draws for node in one.tree.leaves()) for one in tree])))
    same_leaves = measured(task, proposer, problems, Majority(n=leaves))
    tokens = [float(np.mean([one.bill.generated_tokens for one in side])) for side in (tree, same_leaves)]
    count = max(1, round(leaves * tokens[0] / tokens[1]))
    same_tokens = measured(task, proposer, problems, Majority(n=count))
    seen = {
        f"full tree, {k} draws a step": tree,
        f"{leaves} independent samples (equal leaves)": same_leaves,
        f"{count} independent samples (equal tokens)": same_tokens,
    }
    covered = {name: np.array([float(one.covered) for one in side]) for name, side in seen.items()}
    lines = []
    for name, side in seen.items():
        spent = np.mean([one.bill.generated_tokens for one in side])
        difference = estimate(100 * (covered[name] - covered[next(iter(covered))]), ones_P)
        lines.append(f"{name:<42} {spent:6.0f} tokens   solved {shown(estimate(covered[name], ones_P))}")
        if side is not tree:
            lines[-1] += f"   - tree, points {shown(difference, form='+.1f')}"
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-problems", type=int, default=300)
    parser.add_argument("--draws", type=int, nargs="+", default=[2, 3, 4], help="K")
    options = parser.parse_args()
    use_threads(1)
    quiet()
    print("Exact, K = 4 draws at each of 3 steps\n" + "\n".join(exact_lines(4, 3)))
    toy = ToyTask(3, 3)
    problem = next(toy.problems("test", 0))
    print(f"\nToy tree {problem.id}: {len(toy_tree(problem).children)} nodes, measured on 300 of its kind")
    print("\n".join(measured_lines(toy, build_proposer("table", toy), list(islice(toy.problems("test", 0), 300)), 2)))
    task = build_task("countdown")
    proposer = build_proposer("countdown", task)
    problems = list(islice(task.problems("validation", 0), 500, 500 + options.num_problems))
    for k in options.draws:
        print(f"\nCountdown, 4 numbers, {len(problems)} validation problems, K = {k}")
        print("\n".join(measured_lines(task, proposer, problems, k)))


if __name__ == "__main__":
    main()
