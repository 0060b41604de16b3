"""Ten lines: a frozen model, its flow verifier, and the best answer of 64. Runs in seconds on a laptop CPU."""

from arts.build import build_proposer, build_task, build_verifier
from arts.solve import solve
from arts.verifier.scorer import FlowScorer

task = build_task("countdown")
proposer = build_proposer("countdown", task)
scorer = FlowScorer(build_verifier("countdown"))
solution = solve(task, proposer, scorer, task.parse("3 5 7 11 > 24"), num_samples=64)
print("\n".join(solution.lines()))
