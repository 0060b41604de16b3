"""Searches on toy trees for tests: a proposer without chance, scores by text, and a fast loop without a `Search`."""

import math
import random
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from arts.protocols import FAILED_DRAW, Proposer, Reply, Request, ScoreReply, ScoreRequest, ScoreScale, StepScorer
from arts.search.budget import Budget
from arts.search.program import DrawAsk, Search
from arts.search.strategy import Expand, Strategy
from arts.search.tree import SearchTree
from arts.tasks.toy import ToyTree, toy_problem
from arts.tree import Step, StopReason, Usage, Verdict

VALUES = ScoreScale(kind="log_value", inner_is_value=True)
FLOWS = ScoreScale(kind="log_flow", inner_is_value=True)
NOTHING = -1e300  # the log of a value that is 0 for all we can tell; a search takes finite scores only


class Fake(Proposer):
    """A proposer for tests."""

    log_prior_law = "raw"
    tokenizer_fingerprint = None
    fingerprint = "fake"
    batch_invariant = True

    @abstractmethod
    def draw(self, request: Request, seed: int) -> tuple[Step, ...]:
        """One draw."""

    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        replies = [Reply(tuple(self.draw(one, seed) for seed in one.seeds), Usage()) for one in requests]
        return [
            reply._replace(usage=Usage(0, sum(len(step.token_ids) for steps in reply.draws for step in steps), 1))
            for reply in replies
        ]


class Chance(Fake):
    """Draws from a toy tree by its probabilities, as the table proposer does, but builds the tree once."""

    def __init__(self, toy: ToyTree) -> None:
        self.toy = toy

    def draw(self, request: Request, seed: int) -> tuple[Step, ...]:
        node = self.toy.find("".join(step.text for step in request.prefix))
        assert node is not None
        rng = random.Random(f"{seed} {node}")
        steps: list[Step] = []
        while self.toy.children[node] and (request.whole or not steps):
            node = self.turn(node, rng)
            steps.append(self.toy.step(node))
        return tuple(steps)

    def turn(self, node: int, rng: random.Random) -> int:
        children = self.toy.children[node]
        return rng.choices(children, [self.toy.probabilities[child] for child in children])[0]


class Rotor(Chance):
    """Every node of a toy tree hands out its steps in turn, first to last; a rollout turns all nodes it passes.

    How often each step is drawn then depends only on how often its parent was drawn from, in whatever order.
    """

    def __init__(self, toy: ToyTree) -> None:
        super().__init__(toy)
        self.turns: Counter[int] = Counter()

    def turn(self, node: int, rng: random.Random) -> int:
        self.turns[node] += 1
        return self.toy.children[node][(self.turns[node] - 1) % len(self.toy.children[node])]


class Failing(Fake):
    def draw(self, request: Request, seed: int) -> tuple[Step, ...]:
        return FAILED_DRAW


class SameStep(Fake):
    """Never comes to an end."""

    def draw(self, request: Request, seed: int) -> tuple[Step, ...]:
        step = Step("x;", (1, 2), -0.5, StopReason.STOP)
        if not request.whole:
            return (step,)
        return (*[step] * 4, step._replace(stop=StopReason.LENGTH))


class Scores(StepScorer):
    """The log score of a path is a function of its text."""

    caches = False

    def __init__(self, log_score: Callable[[str], float], scale: ScoreScale = VALUES) -> None:
        self.log_score, self.scale = log_score, scale

    def forget(self) -> None:
        """Nothing is kept."""

    def score_steps(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        replies = []
        for request in requests:
            texts = ["", *accumulate(step.text for step in request.steps)][-request.num_new :]
            replies.append(ScoreReply(tuple(map(self.log_score, texts)), len(texts)))
        return replies


def value_table(values: Mapping[str, float]) -> Scores:
    return Scores(lambda text: math.log(values[text]) if values[text] else NOTHING)


class Piece(NamedTuple):
    path: str
    count: int
    whole: bool


class Run(NamedTuple):
    pieces: list[list[Piece]]
    "what was drawn, wave by wave"
    answer: str | None
    stopped: str
    tree: SearchTree

    @property
    def waves(self) -> list[str]:
        """Like `a;*3, b;*1`: draws from paths, with `!` for rollouts."""
        return [", ".join(f"{path}*{count}{'!' * whole}" for path, count, whole in wave) for wave in self.pieces]

    @property
    def draws(self) -> Counter[tuple[str, bool]]:
        """What was drawn how often, in whatever order."""
        draws: Counter[tuple[str, bool]] = Counter()
        for path, count, whole in (piece for wave in self.pieces for piece in wave):
            draws[path, whole] += count
        return draws


def run(
    strategy: Strategy,
    toy: ToyTree,
    scorer: StepScorer,
    proposer: Proposer | None = None,
    *,
    budget: Budget | None = None,
    seed: int = 0,
) -> Run:
    """One search from start to end."""

    def judge(text: str) -> Verdict:
        node = toy.find(text)
        return Verdict(correct=node is not None and toy.right[node], answer=text, reason="")

    search = Search(
        toy_problem(toy), strategy, budget or Budget(), judge=judge, max_new_tokens=100, scale=scorer.scale, seed=seed
    )
    proposer = proposer or Chance(toy)
    pieces: list[list[Piece]] = []
    while (ask := search.ask()) is not None:
        assert len(pieces) < 2000, "the search does not end"
        if isinstance(ask, DrawAsk):
            pieces.append(
                [Piece("".join(step.text for step in one.prefix), len(one.seeds), one.whole) for one in ask.requests]
            )
            search.tell(proposer.propose(ask.requests))
        else:
            search.tell(scorer.score_steps(ask.requests))
    result = search.result()
    return Run(pieces, result.text, result.stopped, search.tree)


class Grown(NamedTuple):
    tree: SearchTree
    places: list[int]
    "of each node in the toy tree"
    waves: list[list[Expand]]


def grow(
    strategy: Strategy, toy: ToyTree, log_scores: Sequence[float], *, scale: ScoreScale = VALUES, seed: int = 0
) -> Grown:
    """What the rule alone does, without a `Search`: fast enough for laws. Scores are those of the toy's nodes."""
    rng = random.Random(seed)
    tree = SearchTree(toy_problem(toy), scale=scale)
    tree.log_score[0] = log_scores[0]
    places, waves, ends = [0], [], []
    steps = [toy.step(node) for node in range(len(toy.parents))]
    laws = [list(accumulate(toy.probabilities[child] for child in children)) for children in toy.children]

    def draw(expand: Expand) -> int:
        place, path = places[expand.node], []
        while toy.children[place] and (expand.whole or not path):
            place = rng.choices(toy.children[place], cum_weights=laws[place])[0]
            path.append(place)
        nodes = tree.add(expand.node, [steps[one] for one in path])
        for node, one in zip(nodes, path, strict=True):
            if node == len(places):
                places.append(one)
                tree.log_score[node] = log_scores[one]
        return nodes[-1]

    rule = strategy.grow(tree, random.Random(f"rule {seed}"))
    wave = next(rule, None)
    while wave:  # not where the rule has come to its end, or to that of a round
        waves.append(wave)
        ends = [[draw(expand) for _ in range(expand.count)] for expand in wave]
        try:
            wave = rule.send(ends)
        except StopIteration:
            break
    assert waves, "the rule drew nothing"
    return Grown(tree, places, waves)


def chi_square_fits(counts: Sequence[float], law: Sequence[float]) -> bool:
    """Counts of independent draws could come from the law: Pearson's test at a level of 1 in 10,000."""
    total, freedom = sum(counts), len(law) - 1
    statistic = sum((count - total * p) ** 2 / (total * p) for count, p in zip(counts, law, strict=True))
    # Wilson-Hilferty: the cube root of chi-square / freedom is close to normal; 3.72 is its 0.9999 quantile.
    spread = 2 / (9 * freedom)
    return statistic < freedom * (1 - spread + 3.72 * math.sqrt(spread)) ** 3


def total_variation(law: Sequence[float], other: Sequence[float]) -> float:
    return sum(abs(p - q) for p, q in zip(law, other, strict=True)) / 2


def full_tree(
    toy: ToyTree, log_scores: Sequence[float], scale: ScoreScale = VALUES
) -> tuple[SearchTree, dict[str, int]]:
    """Every path of a toy tree drawn once, in the order of its leaves, and the node of each text."""
    tree = SearchTree(toy_problem(toy), scale=scale)
    for leaf in toy.leaves:
        tree.add(0, [toy.step(node) for node in toy.path(leaf)])
    nodes = {tree.text(node): node for node in range(len(tree))}
    for text, node in nodes.items():
        place = toy.find(text)
        assert place is not None
        tree.log_score[node] = log_scores[place]
    return tree, nodes
