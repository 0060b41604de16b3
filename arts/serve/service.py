"""What the routes call: one search or one call of the verifier, from admission to the answer.

Holds the engine, the gate and the counts of one server. Knows no route and no form of answers.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, TypeVar

from arts.net.flow_control import Patience
from arts.proposers.openai_http import OpenAIProposer
from arts.protocols import Proposer, ScoreReply, ScoreRequest, ScoreScale, StepScorer
from arts.search.budget import Budget
from arts.search.engine import Engine, Ticket
from arts.search.path_scores import PathScores
from arts.search.program import Search
from arts.search.running import Program
from arts.search.whole_path import RemotePathScorer
from arts.serve.answer import Answer, Row, answer_of, usage_of
from arts.serve.errors import ApiError, closing, late, of_stop
from arts.serve.events import KEEP_ALIVE, EventStream, comment
from arts.serve.gate import Gate, Place
from arts.serve.metrics import Metrics
from arts.serve.passthrough import PassThrough
from arts.serve.plan import Offer, Plan
from arts.serve.progress import Progress
from arts.serve.schema import Body

P = TypeVar("P", bound=Program)
KEEP_ALIVE_S = 10.0
_GRACE_S = 30.0
"""Beyond its deadline: what a batch of a local model may take that is on its way when the deadline comes."""
LASTING = {"give_up_s": 20.0, "longest_wait_s": 5.0, "again_after_s": 2.0}
"""Patience of a program whose clients wait, and which does not end when the server behind it does."""


class Service:
    """One server's searches.

    Args:
        scorer: None: only strategies that look at no scores.
    """

    def __init__(self, offer: Offer, proposer: Proposer, scorer: StepScorer | None) -> None:
        self.offer, self.scorer = offer, scorer
        self.metrics = Metrics()
        self.gate = Gate(offer.limits)
        self.engine = Engine(proposer, scorer)
        self.pass_through: PassThrough | None = None
        self._proposer = proposer
        self._clients = []
        if isinstance(proposer, OpenAIProposer):
            self.pass_through = PassThrough(proposer.client, proposer.capabilities.model)
            self._clients.append(proposer.client)
        if isinstance(scorer, RemotePathScorer):
            self._clients.append(scorer.client)
        for one in self._clients:
            mine = {**LASTING, "give_up_s": min(LASTING["give_up_s"], one.patience.give_up_s)}
            one.use(Patience(max_attempts=one.patience.max_attempts, **mine))  # type: ignore[arg-type]
        self.metrics.running.set_function(lambda: self.gate.num_inside)
        self.metrics.waiting.set_function(lambda: self.gate.num_waiting)

    def close(self) -> None:
        """End all searches, each with the best answer it has, and let go of the servers behind us."""
        self.engine.close()
        for one in self._clients:
            one.close()

    @property
    def scale(self) -> ScoreScale:
        return self.scorer.scale if self.scorer else ScoreScale()

    async def answer(self, plan: Plan) -> Answer:
        """Search, and nothing in between. Raises ApiError."""
        started = time.monotonic()
        with self.gate.join() as place:
            search = await self._search(plan, place, Progress("none", _nobody, checks=False, most_nodes=self._most))
        return self._answer(search, plan, started)

    async def stream(self, plan: Plan, place: Place) -> AsyncGenerator[bytes | Answer | ApiError, None]:
        """The same with what there is to tell meanwhile; the answer, or why there is none, comes last."""
        started = time.monotonic()
        told: asyncio.Queue[Row] = asyncio.Queue()
        ours = asyncio.get_running_loop()
        checks = self.offer.checks

        def tell(row: Row) -> None:
            with suppress(RuntimeError):  # the event loop is gone: so is whoever listened
                ours.call_soon_threadsafe(told.put_nowait, row)

        progress = Progress(plan.events, tell, checks=checks, most_nodes=self._most)
        with place:
            if plan.events != "none":
                yield comment({"event": "waiting" if place.waits else "started"})
            searching = asyncio.ensure_future(self._search(plan, place, progress))
            try:
                async for part in _until(searching, told):
                    yield part
                search = searching.result()
                if plan.events == "tree":
                    yield comment(progress.event(search))
                yield self._answer(search, plan, started)
            except ApiError as error:
                yield error
            finally:
                searching.cancel()
                with suppress(asyncio.CancelledError, ApiError):
                    await searching

    async def pass_whole(self, path: str, body: Body) -> Body:
        """An answer of the server behind us, in its turn and in time. Raises ApiError."""
        assert self.pass_through is not None
        limit = self.offer.limits.deadline_s
        with self.gate.join() as place:
            await place.enter(limit)
            try:
                async with asyncio.timeout(limit):
                    return await self.pass_through.whole(path, body)
            except TimeoutError as error:
                raise late(limit) from error

    async def pass_stream(self, path: str, body: Body) -> EventStream:
        """The same as a stream, which keeps its place until it is over; the deadline is for its beginning."""
        assert self.pass_through is not None
        limit, place = self.offer.limits.deadline_s, self.gate.join()
        try:
            await place.enter(limit)
            async with asyncio.timeout(limit):
                return await self.pass_through.stream(path, body, place.leave)
        except TimeoutError as error:
            place.leave()
            raise late(limit) from error
        except BaseException:
            place.leave()
            raise

    async def score(self, requests: list[ScoreRequest]) -> tuple[ScoreReply, ...]:
        """Scores of paths by the verifier. Raises ApiError."""
        limit = self.offer.limits.deadline_s
        with self.gate.join() as place:
            await place.enter(limit)
            program = await self._over(self._submit(PathScores(requests, Budget(seconds=limit))), limit)
        if program.stopped != "complete":
            raise late(limit) if program.stopped == "budget" else _why(str(program.stopped))
        self.metrics.tokens.labels("verifier").inc(sum(reply.computed_tokens for reply in program.replies))
        return program.replies

    @property
    def _most(self) -> int:
        return self.offer.limits.max_nodes

    async def _search(self, plan: Plan, place: Place, progress: Progress) -> Search:
        """A search that is over. Where nobody waits for it any more it is cancelled."""
        seconds, since = plan.budget.seconds or 0.0, time.monotonic()
        await place.enter(seconds)
        left = max(0.001, seconds - (time.monotonic() - since))
        task, scorer = self.offer.task, self.scorer if plan.strategy.scores != "none" else None
        search = Search(
            plan.problem,
            plan.strategy,
            Budget(generated_tokens=plan.budget.generated_tokens, seconds=left),
            judge=lambda text: task.judge(plan.problem, text),
            max_new_tokens=plan.max_new_tokens,
            scale=scorer.scale if scorer else None,
            seed=plan.seed,
            verifier_caches=scorer is not None and scorer.caches,
        )
        return await self._over(self._submit(search, progress), left)

    def _submit(self, program: P, watch: Progress | None = None) -> Ticket[P]:
        try:
            return self.engine.submit(program, watch=watch)
        except ValueError as error:
            raise closing() from error

    async def _over(self, ticket: Ticket[P], seconds: float) -> P:
        try:
            async with asyncio.timeout(seconds + _GRACE_S):
                return await asyncio.wrap_future(ticket.done)
        except TimeoutError as error:
            raise late(seconds) from error
        finally:
            if not ticket.done.done():
                self.engine.cancel(ticket)

    def _answer(self, search: Search, plan: Plan, started: float) -> Answer:
        usage = usage_of(search)
        for kind, count in zip(("prompt", "generated"), ("prompt_tokens", "completion_tokens"), strict=True):
            self.metrics.tokens.labels(kind).inc(usage[count])
        self.metrics.tokens.labels("verifier").inc(usage["verifier_tokens"])
        self.metrics.draws.inc(search.bill.draws)
        self.metrics.failed_draws.inc(search.tree.counts["failed"])
        self.metrics.searches.labels(plan.strategy.id, str(search.stopped).partition(":")[0]).inc()
        return answer_of(search, plan, checks=self.offer.checks, elapsed_s=time.monotonic() - started)


def _nobody(row: Row) -> None:
    """Nobody is told."""


def _why(stopped: str) -> ApiError:
    return of_stop(stopped) if stopped.startswith("failed") else closing()


async def _until(searching: "asyncio.Future[Search]", told: "asyncio.Queue[Row]") -> AsyncGenerator[bytes, None]:
    """What is told until a search is over, and a sign of life where nothing is."""
    while True:
        getting = asyncio.ensure_future(told.get())
        both: set[asyncio.Future[Any]] = {getting, searching}
        try:
            await asyncio.wait(both, timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            getting.cancel()
        if getting.done() and not getting.cancelled():
            yield comment(getting.result())
        elif searching.done():
            return
        else:
            yield KEEP_ALIVE
