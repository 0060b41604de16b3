"""A search over one tree that does no input or output: it asks, and is told.

    search = Search(problem, strategy, budget, ...)
    while (ask := search.ask()) is not None:
        search.tell([answer(one) for one in ask.requests])     # draws or scores, in the order asked
    search.result()

Replies are taken in the order of the requests, so it does not matter when they arrive. The budget holds whatever the
draws turn out to be: a draw reserves the most it may cost, is cut to what is left, and waits until it is known what
those before it cost. Stopping at any time (`cancel`) gives the best answer so far.
"""

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from arts.protocols import Reply, Request, ScoreReply, ScoreRequest, ScoreScale
from arts.search.budget import Bill, Budget, longest_draw, reserve
from arts.search.replies import checked_draws, checked_scores
from arts.search.result import CurvePoint, SearchResult
from arts.search.strategy import Expand, Strategy
from arts.search.tree import SearchTree
from arts.tree import LogPriorLaw, Problem, StopReason, Usage, Verdict

_MOST_AT_ONCE = 256  # draws of one ask, however many a strategy wishes for


class DrawAsk(NamedTuple):
    """Wanted from the proposer."""

    requests: tuple[Request, ...]


class ScoreAsk(NamedTuple):
    """Wanted from the verifier."""

    requests: tuple[ScoreRequest, ...]


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
        prompt_tokens: of the problem, as the verifier reads it; 0: learnt from its first bill, so that this one only is
            not sure to stay within the budget.
        verifier_caches: the verifier keeps what it has read, so that a path costs it the new tokens only and the prompt
            once. False: a path may cost all its tokens and the prompt every time, and that much is reserved for it.
        keep_curve: note after every reply what stopping there would give.
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
        verifier_caches: bool = False,
        keep_curve: bool = False,
    ) -> None:
        self.problem, self.strategy, self.budget = problem, strategy, budget
        self._scored = strategy.scores != "none"
        self.tree = SearchTree(problem, scale=scale, judge=judge, max_new_tokens=max_new_tokens, scored=self._scored)
        self.bill, self._paid = Bill(), Usage()
        self.stopped: str | None = None
        self.last_failure = ""
        self._seed, self._verifier_caches = seed, verifier_caches
        self._prompt_tokens, self._prompt_is_known = prompt_tokens, prompt_tokens > 0
        self._rng = random.Random(f"search {seed} {problem.id}")
        self._waves = strategy.grow(self.tree, self._rng)
        self._wave: list[_Open] = []
        self._replies: list[list[int]] = []
        self._started = False
        self._left_at_start = self._left_at_round = budget.left(self.bill)
        self._asked: DrawAsk | ScoreAsk | None = None
        self._served: list[_Open] = []
        self._is_cut = False
        self._unscored: list[list[int]] = []
        self._waiting: set[int] = set()
        self._num_drawn: dict[tuple[int, bool], int] = {}
        self._curve = [CurvePoint(0, 0, None, False, False)] if keep_curve else []
        if strategy.scores == "all":
            self._wait_for_score(0)

    # --- the loop -----------------------------------------------------------------------------------------------------

    def ask(self) -> DrawAsk | ScoreAsk | None:
        """What is wanted now; the same again until it is told. None once the search is over.

        Raises:
            ValueError: the strategy does what it must not; the search has then failed, as for any error of its own.
        """
        with self._failing():
            while self._asked is None and self.stopped is None:
                if self._unscored:
                    self._asked = self._scores()
                elif self._wave:
                    self._asked = self._draws()
                else:
                    self._next_wave()
        return self._asked

    def tell(self, replies: Sequence[Reply] | Sequence[ScoreReply]) -> None:
        """Answer the last `ask`, request by request, in its order.

        Raises:
            ValueError: these are no replies to it; nothing is taken of them, and it may be told again.
        """
        asked = self._asked
        if asked is None or len(replies) != len(asked.requests):
            wanted = 0 if asked is None else len(asked.requests)
            raise ValueError(f"{len(replies)} replies to {wanted} requests; answer every request of the last ask")
        if isinstance(asked, DrawAsk):
            draws = [checked_draws(*pair) for pair in zip(asked.requests, replies, strict=True)]
            take = partial(self._take_draws, draws)
        else:
            scores = [checked_scores(*pair) for pair in zip(asked.requests, replies, strict=True)]
            take = partial(self._take_scores, scores)
        self._asked = None
        with self._failing():
            take()
            if self._curve:
                self._note()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """An error of the strategy or the judge ends the search, which keeps what it had."""
        try:
            yield
        except Exception as error:
            self.cancel(failure(error))
            raise

    def cancel(self, reason: str = "cancelled") -> None:
        """Stop now. What was told so far counts; what was asked and not told does not."""
        if self.stopped is None:
            self.stopped = reason
            self._asked = None
            self._waves.close()

    def result(self, *, log_prior_law: LogPriorLaw = "raw", tokenizer: str | None = None) -> SearchResult:
        """The best finished answer so far; at any time. What still lacks its score is no answer yet."""
        stopped = self.stopped or "running"
        try:
            answer = self._answer()
        except Exception as error:
            answer, stopped = None, failure(error)
        return SearchResult(
            self.tree.frozen(log_prior_law=log_prior_law, tokenizer=tokenizer, usage=self._paid),
            answer,
            self.bill,
            stopped,
            dict(self.tree.counts),
            tuple(self._curve),
            self.last_failure,
        )

    def _answer(self) -> int | None:
        node = self.strategy.answer(self.tree)
        if node is not None and not self.tree.is_answer(node):
            raise ValueError(f"strategy {self.strategy.id} answered with node {node}, which is not finished")
        return node

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
        if not wave:
            self._end_of_round()
            return
        for expand in wave:
            known = 0 <= expand.node < len(self.tree)
            if expand.count < 1 or not known or not self.tree.is_open(expand.node):
                raise ValueError(f"strategy {self.strategy.id} yielded {expand}: not a draw from a path that can go on")
        self._replies = [[] for _ in wave]
        self._wave = [_Open(expand, expand.count, ends) for expand, ends in zip(wave, self._replies, strict=True)]

    def _end_of_round(self) -> None:
        """A rule that would go on with what it knows does so, unless the round used up none of the budget.

        It would go round for ever where all draws fail and tokens are counted, or where no node is new and nodes are.
        """
        left = self.budget.left(self.bill)
        if left == self._left_at_round:
            self.cancel("complete")
        self._left_at_round, self._replies = left, []

    def _end_of_strategy(self, reason: str | None) -> None:
        """A rule that came to its end starts again, unless it used up none of the budget since it started."""
        left = self.budget.left(self.bill)
        if reason is None and left != self._left_at_start:
            self._left_at_start = self._left_at_round = left
            self._waves = self.strategy.grow(self.tree, self._rng)
            self._started = False
        else:
            self.stopped = reason or "complete"

    # --- draws --------------------------------------------------------------------------------------------------------

    def _draws(self) -> DrawAsk | None:
        """As much of the wave as is sure to stay within the budget; the rest waits for what this costs."""
        left = self._left()
        requests: list[Request] = []
        self._served, self._is_cut = [], False
        room = _MOST_AT_ONCE
        for piece in self._wave:
            wanted, count = self.tree.tokens_left(piece.expand.node), 0
            extra = self._tokens_to_read(piece.expand.node)
            while count < min(piece.left, room):
                rest = reserve(left, wanted, whole=piece.expand.whole, scored=self._scored, extra_scored=extra)
                if rest is None:
                    break
                left, count = rest, count + 1
            if count:
                requests.append(self._request(piece, count, wanted))
            room -= count
            if count < piece.left:
                break
        if not requests:
            # Not one more draw is sure to fit, and all before it are paid: one that is cut to what is left.
            piece = self._wave[0]
            wanted = self.tree.tokens_left(piece.expand.node)
            extra = self._tokens_to_read(piece.expand.node)
            tokens = longest_draw(left, wanted, scored=self._scored, extra_scored=extra)
            if tokens < 1:
                self.cancel("budget")
                return None
            self._is_cut = tokens < wanted
            requests.append(self._request(piece, 1, tokens))
        return DrawAsk(tuple(requests))

    def _left(self) -> dict[str, int]:
        """What is left of the budget, without the prompt where a verifier that caches has yet to read it."""
        left = self.budget.left(self.bill)
        if self._verifier_caches and self._scored and self.bill.verifier_tokens == 0:
            for name in left.keys() & {"verifier_tokens", "total_tokens"}:
                left[name] -= self._prompt_tokens
        return left

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
        path: list[int] = []
        for piece, reply in zip(self._served, replies, strict=True):
            for steps in reply.draws:
                room = None if self.budget.nodes is None else self.budget.nodes + 1 - len(self.tree)
                path = self.tree.add(piece.expand.node, steps, room=room)
                if path:
                    piece.ends.append(path[-1])
                    self._wait_for_score(path[-1])
            piece.left -= len(reply.draws)
            paid = reply.usage
            more = Bill(paid.generated_tokens, 0, len(reply.draws), 0, paid.prompt_tokens, paid.requests)
            self.bill, self._paid = self.bill.plus(more), self._paid.plus(paid)
            self.last_failure = reply.failure or self.last_failure
        self.bill = self.bill._replace(nodes=len(self.tree) - 1)
        self._wave = [piece for piece in self._wave if piece.left > 0]
        if self._is_cut and path and self.tree.stop(path[-1]) is StopReason.LENGTH:
            # A budget that only finished solutions are paid from would be there for ever.
            self.cancel("budget")

    # --- scores -------------------------------------------------------------------------------------------------------

    def _wait_for_score(self, end: int) -> None:
        """Queue the nodes of a path that have no score, where they are looked at; not those of a dead end."""
        tree, scores = self.tree, self.strategy.scores
        while not (tree.is_answer(end) or tree.is_open(end)):
            end = tree.parent[end]
        if scores == "all" or (scores == "ends" and tree.is_answer(end)):
            path = tree.path(end) or [0]
            new = [node for node in path if tree.log_score[node] is None and node not in self._waiting]
            if new:
                self._unscored.append(new)
                self._waiting.update(new)

    def _tokens_to_read(self, node: int) -> int:
        """The most that the verifier reads to score the path down to a node, besides a prompt that it keeps."""
        tree = self.tree
        if not self._verifier_caches:
            return self._prompt_tokens + tree.num_tokens[node]
        known = node
        while known and tree.log_score[known] is None:
            known = tree.parent[known]
        return tree.num_tokens[node] - tree.num_tokens[known]

    def _scores(self) -> ScoreAsk | None:
        """Those that wait for a score and fit. Draws have reserved what theirs may cost; the problem's own is new."""
        left = self._left()
        room = min(left.get("verifier_tokens", math.inf), left.get("total_tokens", math.inf))
        requests: list[ScoreRequest] = []
        for new in self._unscored:
            room -= self._tokens_to_read(new[-1])
            if room < 0 or (requests and room < math.inf and not self._prompt_is_known):
                break
            # The new nodes of a path hang together: what lies above them is scored, or asked for before.
            requests.append(ScoreRequest(self.problem, self.tree.steps(new[-1]), len(new)))
        if not requests:
            self.cancel("budget")
            return None
        return ScoreAsk(tuple(requests))

    def _take_scores(self, replies: Sequence[ScoreReply]) -> None:
        taken, self._unscored = self._unscored[: len(replies)], self._unscored[len(replies) :]
        for new, reply in zip(taken, replies, strict=True):
            self.tree.set_scores(new, reply.log_scores)
            self.bill = self.bill.plus(Bill(verifier_tokens=reply.computed_tokens))
            above = reply.computed_tokens - self.tree.num_tokens[new[-1]]
            self._prompt_tokens = max(self._prompt_tokens, above)
            self._waiting.difference_update(new)
        self._prompt_is_known = True

    def _note(self) -> None:
        answer = self._answer()
        point = CurvePoint(
            self.bill.generated_tokens,
            self.bill.verifier_tokens,
            answer,
            answer is not None and self.tree.is_correct(answer),
            self.tree.num_correct > 0,
        )
        if point[2:] != self._curve[-1][2:]:
            self._curve.append(point)


def failure(error: BaseException) -> str:
    """Why a search stopped that failed."""
    return f"failed: {type(error).__name__}: {error}"


def _seed(key: str, index: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{key}\0{index}".encode()).digest()[:8], "big")
