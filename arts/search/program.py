"""A search over one tree that does no input or output: it asks, and is told.

    search = Search(problem, strategy, budget, ...)
    while (ask := search.ask()) is not None:
        search.tell([answer(one) for one in ask.requests])     # draws or scores, in the order asked
    search.result()

Replies are taken in the order of the requests, so it does not matter when they arrive. The budget holds whatever the
proposer does: a draw reserves the most it may cost, is cut to what is left, and waits until it is known what those
before it cost. Stopping at any time (`cancel`) gives the best answer so far.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

from arts.protocols import Reply, Request, ScoreReply, ScoreRequest, ScoreScale
from arts.search.budget import Bill, Budget, longest_draw, reserve
from arts.search.strategy import Expand, Strategy
from arts.search.tree import SearchTree
from arts.tree import LogPriorLaw, Problem, ReasoningTree, Verdict

_MOST_AT_ONCE = 256  # draws of one ask, however many a strategy wishes for


class DrawAsk(NamedTuple):
    """Wanted from the proposer."""

    requests: tuple[Request, ...]


class ScoreAsk(NamedTuple):
    """Wanted from the verifier."""

    requests: tuple[ScoreRequest, ...]


class CurvePoint(NamedTuple):
    """The answer that stopping here would give, and what it cost."""

    generated_tokens: int
    verifier_tokens: int
    answer: int | None
    correct: bool
    covered: bool
    "a right solution is in the tree"


@dataclass(frozen=True)
class SearchResult:
    """What a search found. `answer` is a node of `tree`; None where nothing was finished."""

    tree: ReasoningTree
    answer: int | None
    bill: Bill
    stopped: str
    "budget, settled, complete, cancelled, or failed: ..."
    counts: dict[str, int]
    "draws that failed, did not finish, were empty or repeated themselves"
    curve: tuple[CurvePoint, ...] = ()

    @property
    def text(self) -> str | None:
        return None if self.answer is None else self.tree.text(self.answer)

    @property
    def correct(self) -> bool:
        verdict = None if self.answer is None else self.tree.nodes[self.answer].verdict
        return verdict is not None and verdict.correct

    @property
    def covered(self) -> bool:
        """A right solution is in the tree, chosen or not."""
        return any(node.verdict is not None and node.verdict.correct for node in self.tree.nodes)


class _Terms(TypedDict):
    """What a draw may cost besides its tokens."""

    whole: bool
    scored: bool
    extra_scored: int


@dataclass
class _Open:
    """An expansion of the running wave that is not served in full yet."""

    expand: Expand
    left: int
    ends: list[int]


class Search:
    """One problem, one strategy, one budget.

    Args:
        judge: the task's word on the text of a finished solution; strategies see its answer, never its verdict.
        scale: of the verifier's scores.
        max_new_tokens: limit of one solution.
        seed: equal seeds draw the same, whatever else runs beside it. Draws from the problem itself are the same for
            every strategy, so that strategies are compared on shared draws where they can be.
        prompt_tokens: of the problem, for the verifier's bill.
        keep_curve: note after every answer what stopping there would give.
    """

    def __init__(
        self,
        problem: Problem,
        strategy: Strategy,
        budget: Budget,
        *,
        judge: Callable[[str], Verdict],
        max_new_tokens: int,
        scale: ScoreScale | None = None,
        seed: int = 0,
        prompt_tokens: int = 0,
        keep_curve: bool = False,
    ) -> None:
        self.problem, self.strategy, self.budget = problem, strategy, budget
        self.tree = SearchTree(problem, scale=scale, judge=judge, max_new_tokens=max_new_tokens)
        self.bill = Bill()
        self.stopped: str | None = None
        self._seed, self._prompt_tokens = seed, prompt_tokens
        self._rng = random.Random(f"search {seed} {problem.id}")
        self._waves = strategy.grow(self.tree, self._rng)
        self._wave: list[_Open] = []
        self._replies: list[list[int]] = []
        self._started = False
        self._draws_at_start = 0
        self._asked: DrawAsk | ScoreAsk | None = None
        self._served: list[_Open] = []
        self._unscored: list[list[int]] = []
        self._waiting: set[int] = set()
        self._num_drawn: dict[tuple[int, bool], int] = {}
        self._keep_curve = keep_curve
        self._curve: list[CurvePoint] = []
        if strategy.scores == "all":
            self._wait_for_score([0])

    # --- the loop -----------------------------------------------------------------------------------------------------

    def ask(self) -> DrawAsk | ScoreAsk | None:
        """What is wanted now; the same again until it is told. None once the search is over."""
        while self._asked is None and self.stopped is None:
            if self._unscored:
                self._asked = ScoreAsk(tuple(map(self._score_request, self._unscored)))
            elif self._wave:
                self._asked = self._draws()
            else:
                self._next_wave()
        return self._asked

    def tell(self, replies: Sequence[Reply] | Sequence[ScoreReply]) -> None:
        """Answer the last `ask`, request by request, in its order."""
        asked, self._asked = self._asked, None
        if asked is None or len(replies) != len(asked.requests):
            wanted = 0 if asked is None else len(asked.requests)
            raise ValueError(f"{len(replies)} replies to {wanted} requests; answer every request of the last ask")
        if isinstance(asked, DrawAsk):
            self._take_draws([reply for reply in replies if isinstance(reply, Reply)])
        else:
            self._take_scores([reply for reply in replies if isinstance(reply, ScoreReply)])
        if self._keep_curve and not self._unscored:
            self._note()

    def cancel(self, reason: str = "cancelled") -> None:
        """Stop now. What was told so far counts; what was asked and not told does not."""
        if self.stopped is None:
            self.stopped = reason
            self._asked = None
            self._waves.close()

    def result(self, *, log_prior_law: LogPriorLaw = "raw", tokenizer: str | None = None) -> SearchResult:
        """The best finished answer so far; at any time."""
        return SearchResult(
            self.tree.frozen(log_prior_law=log_prior_law, tokenizer=tokenizer),
            self._answer(),
            self.bill,
            self.stopped or "running",
            dict(self.tree.counts),
            tuple(self._curve),
        )

    def _answer(self) -> int | None:
        # After a cut the newest ends may lack their score: they are no answers yet.
        if self.strategy.scores == "none" or all(self.tree.log_score[node] is not None for node in self.tree.answers):
            return self.strategy.answer(self.tree)
        return None if not self._curve else self._curve[-1].answer

    def _next_wave(self) -> None:
        try:
            if self._started:
                wave = self._waves.send(self._replies)
            else:
                self._started = True
                wave = next(self._waves)
        except StopIteration as end:
            self._end_of_strategy(end.value)
            return
        self._replies = [[] for _ in wave]
        self._wave = [_Open(expand, expand.count, ends) for expand, ends in zip(wave, self._replies, strict=True)]
        for expand in wave:
            if expand.count < 1 or not self.tree.is_open(expand.node):
                raise ValueError(f"strategy {self.strategy.id} yielded {expand}: not a draw from a path that can go on")
        if not wave:
            raise ValueError(f"strategy {self.strategy.id} yielded an empty wave; it must return to stop")

    def _end_of_strategy(self, reason: str | None) -> None:
        """A rule that came to its end starts again while that can still change anything."""
        if reason is None and self.budget.bounds and self.bill.draws > self._draws_at_start:
            self._draws_at_start = self.bill.draws
            self._waves = self.strategy.grow(self.tree, self._rng)
            self._started = False
        else:
            self.stopped = reason or "complete"

    # --- draws --------------------------------------------------------------------------------------------------------

    def _draws(self) -> DrawAsk | None:
        """As much of the wave as is sure to stay within the budget; the rest waits for what this costs."""
        left = self.budget.left(self.bill)
        requests: list[Request] = []
        self._served = []
        room = _MOST_AT_ONCE
        for piece in self._wave:
            wanted, count = self.tree.tokens_left(piece.expand.node), 0
            terms = self._terms(piece.expand)
            while count < min(piece.left, room) and longest_draw(left, wanted, **terms) == wanted:
                left = reserve(left, wanted, **terms)
                count += 1
            if count:
                requests.append(self._request(piece, count, wanted))
            room -= count
            if count < piece.left:
                break
        if not requests:
            # Not one more draw is sure to fit, and all before it are paid: one that is cut to what is left.
            piece = self._wave[0]
            wanted = self.tree.tokens_left(piece.expand.node)
            tokens = longest_draw(left, wanted, **self._terms(piece.expand))
            if tokens < 1:
                self.cancel("budget")
                return None
            requests.append(self._request(piece, 1, tokens))
        return DrawAsk(tuple(requests))

    def _terms(self, expand: Expand) -> _Terms:
        scored = self.strategy.scores != "none"
        prompt = self._prompt_tokens if scored and self.bill.verifier_tokens == 0 else 0
        return {"whole": expand.whole, "scored": scored, "extra_scored": prompt}

    def _request(self, piece: _Open, count: int, max_new_tokens: int) -> Request:
        node, whole = piece.expand.node, piece.expand.whole
        first = self._num_drawn.get((node, whole), 0)
        self._num_drawn[node, whole] = first + count
        self._served.append(piece)
        # Of the text above it: a path that another search draws in another order has the same draws below it.
        key = f"{'rollout' if whole else 'step'} {self._seed}\0{self.problem.id}\0{self.tree.text(node)}"
        seeds = tuple(_seed(key, index) for index in range(first, first + count))
        return Request(self.problem, self.tree.steps(node), seeds, max_new_tokens, whole=whole)

    def _take_draws(self, replies: Sequence[Reply]) -> None:
        num_nodes = len(self.tree)
        for piece, reply in zip(self._served, replies, strict=True):
            for steps in reply.draws:
                path = self.tree.add(piece.expand.node, steps)
                if path:
                    piece.ends.append(path[-1])
                    self._wait_for_score(path)
            piece.left -= len(reply.draws)
            usage = reply.usage
            self.bill = self.bill.plus(
                Bill(
                    generated_tokens=usage.generated_tokens,
                    draws=len(reply.draws),
                    prompt_tokens=usage.prompt_tokens,
                    requests=usage.requests,
                )
            )
        self.bill = self.bill._replace(nodes=self.bill.nodes + len(self.tree) - num_nodes)
        self._wave = [piece for piece in self._wave if piece.left > 0]

    # --- scores -------------------------------------------------------------------------------------------------------

    def _wait_for_score(self, path: list[int]) -> None:
        """Queue the new nodes of a path, where its end is looked at. An end that is no answer gets no score."""
        tree, scores = self.tree, self.strategy.scores
        if not (tree.is_answer(path[-1]) or tree.is_open(path[-1])):
            path = path[:-1]
        wanted = scores == "all" or (scores == "ends" and path and tree.is_answer(path[-1]))
        new = [node for node in path if tree.log_score[node] is None and node not in self._waiting]
        if wanted and new:
            self._unscored.append(new)
            self._waiting.update(new)

    def _score_request(self, new: list[int]) -> ScoreRequest:
        """New nodes of one path hang together: what lies above them is scored, or asked for before."""
        return ScoreRequest(self.problem, self.tree.steps(new[-1]), len(new))

    def _take_scores(self, replies: Sequence[ScoreReply]) -> None:
        for new, reply in zip(self._unscored, replies, strict=True):
            if len(reply.log_scores) != len(new):
                raise ValueError(f"{len(reply.log_scores)} scores for {len(new)} steps of problem {self.problem.id!r}")
            for node, score in zip(new, reply.log_scores, strict=True):
                self.tree.log_score[node] = score
            self.bill = self.bill.plus(Bill(verifier_tokens=reply.computed_tokens))
        self._unscored = []
        self._waiting.clear()

    def _note(self) -> None:
        answer = self._answer()
        point = CurvePoint(
            self.bill.generated_tokens,
            self.bill.verifier_tokens,
            answer,
            answer is not None and self.tree.is_correct(answer),
            self.tree.num_correct > 0,
        )
        if not self._curve or point[2:] != self._curve[-1][2:]:
            self._curve.append(point)


def _seed(key: str, index: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{key}\0{index}".encode()).digest()[:8], "big")
