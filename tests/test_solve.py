"""Solving one problem: what is chosen and billed, what the report says, and that no unfinished path is an answer."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from arts.proposers.table import TableProposer
from arts.protocols import Reply, Request, ScoredTrees, ScoreReply, ScoreRequest, ScoreScale
from arts.search.budget import Budget
from arts.search.program import Search
from arts.search.strategies import parse_strategy
from arts.search.strategies.adaptive import Adaptive
from arts.search.strategies.pool import BestOfN
from arts.search.strategy import Strategy
from arts.solve import solve
from arts.tasks.toy import ToyTask
from arts.tree import ReasoningTree, Step, StopReason, Usage

TASK = ToyTask(3, 2)
PROBLEM = next(TASK.problems("test", 0))


def place(text: str) -> float:
    """Of the last letter in the alphabet."""
    return float(ord(text.rstrip(";")[-1:] or "a") - 97)


class LastLetterScorer:
    """log F = the place of a node's last letter in the alphabet."""

    def score(self, trees: Sequence[ReasoningTree]) -> ScoredTrees:
        scored = [tree.with_log_flows([place(tree.text(node.id)) for node in tree.nodes]) for tree in trees]
        return ScoredTrees(scored, 7, 7)


class StepwiseScorer:
    """The same, asked step by step. It bills one token a step."""

    caches = False

    def __init__(self, scale: ScoreScale = ScoreScale()) -> None:
        self.scale = scale

    def score_steps(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        replies = []
        for request in requests:
            paths = ["".join(step.text for step in request.steps[:count]) for count in range(len(request.steps) + 1)]
            replies.append(ScoreReply(tuple(map(place, paths[-request.num_new :])), request.num_new))
        return replies

    def forget(self) -> None:
        pass


class CutProposer:
    """Draws `z;` and stops at the token limit; the draws in `finishing` are a finished `a`, or what is given."""

    log_prior_law = "raw"
    tokenizer_fingerprint = None
    fingerprint = "cut"
    batch_invariant = True

    def __init__(self, finishing: frozenset[int], *texts: str) -> None:
        self.finishing, self.texts = finishing, texts or ("a",)

    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        cut = Step("z;", (25, 26), -1.0, StopReason.LENGTH)
        done = [Step(text, (number, 27), -1.0, StopReason.EOS) for number, text in enumerate(self.texts)]
        numbers = range(len(requests[0].seeds))
        draws = tuple((done[number % len(done)] if number in self.finishing else cut,) for number in numbers)
        return [Reply(draws, Usage(3, 2 * len(draws), 1))]


class FailingProposer(TableProposer):
    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        raise ConnectionError("the server is gone")


def report(*arguments: object, **options: object) -> str:
    return "\n".join(solve(TASK, TableProposer(), *arguments, PROBLEM, **options).lines())  # type: ignore[arg-type]


# --- best of N --------------------------------------------------------------------------------------------------------


def test_highest_terminal_flow_is_chosen_and_reported_with_its_rivals() -> None:
    solution = solve(TASK, TableProposer(), LastLetterScorer(), PROBLEM, num_samples=32)
    assert solution.text is not None
    assert solution.text.endswith("c"), "32 draws reach all 9 paths' last letters; c has the highest flow"
    assert solution.correct == TASK.judge(PROBLEM, solution.text).correct
    shown = "\n".join(solution.lines())
    assert f"chosen       {solution.text}" in shown
    assert ("agrees" if solution.correct else "disagrees") in shown
    assert "of the flow of all 32 finished draws" in shown
    assert (solution.bill.draws, solution.bill.requests) == (32, 1)
    assert solution.bill.verifier_tokens == 7
    assert "tokens       128 generated in 32 draws, 7 read by the verifier" in shown
    assert shown.endswith("stopped      complete")


def test_same_seed_same_solution_other_seed_other_draws() -> None:
    trees = [solve(TASK, TableProposer(), LastLetterScorer(), PROBLEM, seed=seed).tree for seed in (0, 0, 1)]
    assert trees[0] == trees[1]
    assert trees[0] != trees[2]


def test_unfinished_path_is_never_the_answer_however_high_its_flow() -> None:
    solution = solve(TASK, CutProposer(frozenset({3})), LastLetterScorer(), PROBLEM, num_samples=8)
    assert solution.text == "a", "z; has more flow, but was cut off"
    lines = list(solution.lines())
    assert "flow         1.00, the only solution found" in lines
    assert lines[-1] == "stopped      complete, 7 draws unfinished"
    nothing = solve(TASK, CutProposer(frozenset()), LastLetterScorer(), PROBLEM, num_samples=8)
    assert nothing.text is None
    assert not nothing.correct
    assert "none of 8 draws finished; draw more samples" in next(nothing.lines())


# --- any strategy and budget ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, BestOfN(n=16)),
        ({"num_samples": 3}, BestOfN(n=3)),
        ({"budget": Budget()}, BestOfN(n=16)),
        ({"budget": Budget(generated_tokens=30)}, Adaptive()),
        ({"budget": Budget(generated_tokens=30), "num_samples": 3}, BestOfN(n=3)),
        ({"budget": Budget(generated_tokens=30), "strategy": BestOfN(n=5)}, BestOfN(n=5)),
    ],
)
def test_within_a_budget_the_default_is_arts(given: dict[str, Any], wanted: Strategy) -> None:
    seen: set[Strategy] = set()
    solve(TASK, TableProposer(), StepwiseScorer(), PROBLEM, watch=lambda search: seen.add(search.strategy), **given)
    assert seen == {wanted}


def test_strengths_are_no_chances_to_stop_by() -> None:
    seen: set[Strategy] = set()
    scorer, budget = StepwiseScorer(ScoreScale(kind="log_strength")), Budget(generated_tokens=30)
    solve(TASK, TableProposer(), scorer, PROBLEM, budget=budget, watch=lambda search: seen.add(search.strategy))
    assert seen == {BestOfN(n=16)}


@pytest.mark.parametrize("strategy", ["best-of-n:n=6", "beam:width=2,expand=2", "mcts:n=6", "arts"])
def test_strategies_spend_within_the_budget_and_are_billed_for_it(strategy: str) -> None:
    budget = Budget(generated_tokens=20)
    solution = solve(TASK, TableProposer(), StepwiseScorer(), PROBLEM, strategy=parse_strategy(strategy), budget=budget)
    assert solution.leaf is not None and solution.leaf.log_flow is not None
    finished = [node.log_flow for node in solution.tree.leaves() if node.is_answer and node.log_flow is not None]
    assert solution.leaf.log_flow == max(finished)
    assert 16 < solution.bill.generated_tokens <= 20
    assert solution.bill.generated_tokens == solution.tree.usage.generated_tokens
    assert solution.bill.verifier_tokens == sum(node.log_flow is not None for node in solution.tree.nodes)
    assert solution.stopped == "budget"


def test_a_scorer_of_trees_and_one_of_steps_find_the_same() -> None:
    for strategy in map(parse_strategy, ("best-of-n", "rebase:n=6", "flow-sampling")):
        trees, steps = (
            solve(TASK, TableProposer(), scorer, PROBLEM, strategy=strategy)
            for scorer in (LastLetterScorer(), StepwiseScorer())
        )
        assert (trees.tree, trees.leaf) == (steps.tree, steps.leaf)


def test_a_strategy_without_scores_shows_no_flow_and_needs_no_verifier() -> None:
    strategy = parse_strategy("majority:n=12")
    with_verifier = solve(TASK, TableProposer(), StepwiseScorer(), PROBLEM, strategy=strategy)
    solution = solve(TASK, TableProposer(), None, PROBLEM, strategy=strategy)
    assert solution == with_verifier
    lines = list(solution.lines())
    assert not [line for line in lines if "flow" in line or "verifier" in line]
    assert solution.leaf is not None
    counts = [solution.leaf.num_draws, *(int(line.split("  x")[1].split()[0]) for line in lines if "against" in line)]
    assert counts == sorted(counts, reverse=True), "votes come in the order of their numbers"
    assert "tokens       48 generated in 12 draws" in lines


def test_an_empty_solution_is_no_rival() -> None:
    solution = solve(TASK, CutProposer(frozenset({0, 1}), "b", " "), StepwiseScorer(), PROBLEM, num_samples=2)
    lines = list(solution.lines())
    assert "flow         2.72, the only solution found" in lines
    assert not [line for line in lines if "against" in line]
    assert lines[-1] == "stopped      complete, 1 draws empty"


def test_a_strategy_that_looks_at_scores_fails_without_a_verifier() -> None:
    solution = solve(TASK, TableProposer(), None, PROBLEM)
    assert solution.text is None
    assert "failed: ValueError: the strategy looks at scores" in next(solution.lines())


def test_a_failed_search_says_why() -> None:
    solution = solve(TASK, FailingProposer(), LastLetterScorer(), PROBLEM)
    assert list(solution.lines()) == [
        f"{PROBLEM.prompt}: none of 0 draws finished; failed: ConnectionError: the server is gone"
    ]


def test_the_share_of_flow_counts_every_draw() -> None:
    solution = solve(TASK, TableProposer(), StepwiseScorer(), PROBLEM, num_samples=20)
    assert solution.leaf is not None and solution.leaf.log_flow is not None
    flows = [math.exp(leaf.log_flow or 0.0) * leaf.num_draws for leaf in solution.tree.leaves()]
    share = math.exp(solution.leaf.log_flow) * solution.leaf.num_draws / sum(flows)
    assert f", {share:.0%} of the flow of all 20 finished draws" in "\n".join(solution.lines())


@pytest.mark.parametrize(("kind", "line"), [("log_value", "value        7.39"), ("log_strength", "strength     2.00")])
def test_scores_that_are_no_flows_are_called_what_they_are(kind: str, line: str) -> None:
    shown = report(StepwiseScorer(ScoreScale(kind=kind)), num_samples=32)  # type: ignore[arg-type]
    assert line in shown.splitlines()
    assert "flow" not in shown


def test_who_watches_sees_the_tree_grow_to_the_end() -> None:
    sizes: list[int] = []

    def watch(search: Search) -> None:
        sizes.append(len(search.tree))

    solution = solve(TASK, TableProposer(), StepwiseScorer(), PROBLEM, strategy=parse_strategy("mcts:n=5"), watch=watch)
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == len(solution.tree.nodes)
