"""Best-of-N by terminal flow: what is chosen, what is billed, and that an unfinished path is never an answer."""

from collections.abc import Sequence

from arts.proposers.table import TableProposer
from arts.protocols import Reply, Request, ScoredTrees
from arts.solve import solve
from arts.tasks.toy import ToyTask
from arts.tree import ReasoningTree, Step, StopReason, Usage


class LastLetterScorer:
    """log F = the place of a node's last letter in the alphabet."""

    def score(self, trees: Sequence[ReasoningTree]) -> ScoredTrees:
        scored = [
            tree.with_log_flows([float(ord(tree.text(node.id).rstrip(";")[-1:] or "a") - 97) for node in tree.nodes])
            for tree in trees
        ]
        return ScoredTrees(scored, 7, 7)


class CutProposer:
    """Draws `b;` and stops at the token limit, except with the seeds in `finishing`, which draw a finished `a`."""

    log_prior_law = "raw"
    tokenizer_fingerprint = None
    fingerprint = "cut"
    batch_invariant = True

    def __init__(self, finishing: frozenset[int]) -> None:
        self.finishing = finishing

    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        done, cut = Step("a", (0, 27), -1.0, StopReason.EOS), Step("z;", (25, 26), -1.0, StopReason.LENGTH)
        draws = tuple((done if seed in self.finishing else cut,) for seed in requests[0].seeds)
        return [Reply(draws, Usage(3, 2 * len(draws), 1))]


def test_highest_terminal_flow_is_chosen_and_reported_with_its_rivals() -> None:
    task = ToyTask(3, 2)
    problem = next(task.problems("test", 0))
    solution = solve(task, TableProposer(), LastLetterScorer(), problem, num_samples=32)
    assert solution.text is not None
    assert solution.text.endswith("c"), "32 draws reach all 9 paths' last letters; c has the highest flow"
    assert solution.correct == task.judge(problem, solution.text).correct
    shown = "\n".join(solution.lines())
    assert f"chosen       {solution.text}" in shown
    assert ("agrees" if solution.correct else "disagrees") in shown
    assert solution.proposer_usage.requests == 1
    assert solution.verifier_tokens == 7


def test_same_seed_same_solution_other_seed_other_draws() -> None:
    task = ToyTask(3, 3)
    problem = next(task.problems("test", 0))
    trees = [solve(task, TableProposer(), LastLetterScorer(), problem, seed=seed).tree for seed in (0, 0, 1)]
    assert trees[0] == trees[1]
    assert trees[0] != trees[2]


def test_unfinished_path_is_never_the_answer_however_high_its_flow() -> None:
    task = ToyTask(3, 2)
    problem = next(task.problems("test", 0))
    solution = solve(task, CutProposer(frozenset({3})), LastLetterScorer(), problem, num_samples=8)
    assert solution.text == "a", "z; has more flow, but was cut off"
    nothing = solve(task, CutProposer(frozenset()), LastLetterScorer(), problem, num_samples=8)
    assert nothing.text is None
    assert not nothing.correct
    assert "none of 8 draws finished" in next(nothing.lines())
