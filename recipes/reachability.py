"""Do inner scores know what can still be reached? Ranks of drawn steps against the exact solver of Countdown.

    python recipes/reachability.py --verifier countdown --verifier runs/countdown/verifier-1

For each problem whole solutions are drawn; the different first steps, and the different first two steps, are ranked by
the verifier. A pair counts where the target can be reached from one of the two only, and is right where that one has
the higher score. Values are means over problems that have such pairs, with 95% bootstrap intervals over them. Steps are
those the proposer draws: harder to tell apart than all legal moves.
"""

import argparse
from collections.abc import Sequence
from itertools import islice, pairwise

import numpy as np
from solver_score import reach

from arts.build import build_proposer, build_step_scorer, build_task
from arts.evaluate.metrics import paired_bootstrap
from arts.evaluate.searches import shown
from arts.lm.load import quiet, use_threads
from arts.protocols import Request, ScoreRequest
from arts.tree import Problem, Step

Path = tuple[Step, ...]
DEPTHS = (1, 2)


def share_of_pairs(scores: np.ndarray, is_reachable: np.ndarray) -> float | None:
    """Share of pairs in the right order; equal scores count a half."""
    above, below = scores[is_reachable][:, None], scores[~is_reachable][None]
    return float(np.mean((above > below) + 0.5 * (above == below))) if above.size and below.size else None


def drawn_paths(draws: Sequence[Path], depth: int) -> list[Path]:
    """The different inner paths of `depth` steps."""
    return list(
        {tuple(step.text for step in draw[:depth]): draw[:depth] for draw in draws if len(draw) > depth}.values()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verifier", action="append", required=True, help="countdown or a folder; repeat")
    parser.add_argument("--num-problems", type=int, default=200)
    parser.add_argument("--first-problem", type=int, default=900)
    parser.add_argument("--num-samples", type=int, default=24)
    options = parser.parse_args()
    use_threads(1)
    quiet()
    task = build_task("countdown")
    proposer = build_proposer("countdown", task)
    stream = task.problems("validation", 0)
    problems = list(islice(stream, options.first_problem, options.first_problem + options.num_problems))
    ends = range(0, options.num_samples * (len(problems) + 1), options.num_samples)
    replies = proposer.propose(
        [
            Request(problem, (), tuple(range(start, end)), task.max_new_tokens, whole=True)
            for problem, (start, end) in zip(problems, pairwise(ends), strict=True)
        ]
    )
    cases = {
        depth: [(one, paths, reached(one, paths)) for one, paths in zip(problems, own, strict=True)]
        for depth, own in ((depth, [drawn_paths(reply.draws, depth) for reply in replies]) for depth in DEPTHS)
    }
    for name in options.verifier:
        scorer = build_step_scorer(name, proposer)
        for depth, own in cases.items():
            shares = []
            for problem, paths, is_reachable in own:
                asked = [ScoreRequest(problem, path) for path in paths]
                scores = np.array([reply.log_scores[-1] for reply in scorer.score_steps(asked)])
                share = share_of_pairs(scores, is_reachable)
                shares += [] if share is None else [share]
            estimate = paired_bootstrap(len(shares), seed=0)(np.array(shares), np.ones(len(shares)))
            print(f"{name}: {depth} step{'s' * (depth > 1)}, {len(shares)} problems, {shown(estimate)}", flush=True)


def reached(problem: Problem, paths: Sequence[Path]) -> np.ndarray:
    return np.array([reach(problem, [step.text for step in path]) > 0 for path in paths], dtype=bool)


if __name__ == "__main__":
    main()
