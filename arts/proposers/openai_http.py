"""A model behind an OpenAI-compatible server as proposer: `http://HOST:PORT/v1#MODEL`.

Requests are answered as they come, as many at once as the server takes. Where it makes several choices of one request,
siblings are drawn together and their prompt is read once. Paths go on by ids where the server takes them, so that what
was drawn is what is continued; otherwise by text. Knows no task and no file.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from arts.net.client import Client, RequestFailed, ServerUnavailable
from arts.net.flow_control import Patience
from arts.proposers.capabilities import (
    CONTINUE_FLAGS,
    EXTRA_FIELDS,
    PATHS,
    Capabilities,
    LocalTokenizer,
    chat_messages,
)
from arts.proposers.openai_reply import Choice, Completion, read_completion, steps_of, without_leading_blanks
from arts.proposers.probe import tokenize
from arts.proposers.sampling import Sampling
from arts.protocols import FAILED_DRAW, Reply, Request, answer_all
from arts.tree import LogPriorLaw, Problem, Step, StopReason, Usage

_MOST_BLANKS = 4  # steps of blanks alone that are drawn again for one step that says something
_MOST_SHORT = 3  # answers with too few choices, before fewer are asked for
_PROMPTS_KEPT = 4096


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Options of a server, given behind its model: `URL#MODEL?max_in_flight=128&timeout_s=60`."""

    max_in_flight: int = 64
    "requests at once; `arts doctor` says how many still gain"
    timeout_s: float = 600.0
    "for one request, from its start to the last byte of its answer"
    give_up_s: float = 300.0
    "without one good answer the run stops; what it has is kept"
    max_attempts: int = 6
    "of one request"
    n: int = 16
    "choices asked for at once, where the server gives several"
    system: str | None = None
    "system message"
    tokenizer: str | None = None
    "folder of the model's tokenizer, for servers that do not tell token ids"
    key_env: str | None = None
    "environment variable that holds the key; default: ARTS_API_KEY"
    key_file: str | None = None
    "file that holds the key"

    def __post_init__(self) -> None:
        for name in ("max_in_flight", "n", "max_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"server option {name} is {getattr(self, name)}; it must be at least 1")
        for name in ("timeout_s", "give_up_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"server option {name} is {getattr(self, name)}; it must be above 0")

    @property
    def patience(self) -> Patience:
        return Patience(max_attempts=self.max_attempts, give_up_s=self.give_up_s)


class OpenAIProposer:
    """Proposer over a server.

    Args:
        client: of the server.
        capabilities: from `arts.proposers.probe.probe`.
        tokenizer: the model's own, where the server tells no ids or a verifier is to share them.
    """

    batch_invariant = True  # a draw that is there is kept; what the server's own batches do to rounding nobody can tell

    def __init__(
        self,
        client: Client,
        capabilities: Capabilities,
        *,
        step_separator: str,
        sampling: Sampling | None = None,
        settings: ServerSettings | None = None,
        tokenizer: LocalTokenizer | None = None,
    ) -> None:
        self.client, self.capabilities, self.step_separator = client, capabilities, step_separator
        self.settings = settings or ServerSettings()
        self.max_in_flight = self.settings.max_in_flight
        self.draws_at_once = self.settings.n if capabilities.n else 1
        plain = Sampling(
            temperature=sampling.temperature if sampling else 1.0,
            top_p=sampling.top_p if sampling else 1.0,
            log_prior_law=capabilities.log_prior_law,
        )
        self.sampling = plain
        self.log_prior_law: LogPriorLaw = plain.law
        # Log-probabilities of nobody knows what are worse than none.
        self._law_is_known = plain.is_plain or capabilities.log_prior_law is not None
        by_ids = capabilities.continuing == "token_ids"  # which come with the log-probabilities' tokens
        self._asks_log_probs = capabilities.log_probs and (self._law_is_known or by_ids)
        self._tokenizer = tokenizer
        # Ids of the server's own tokenizer mean nothing to others, unless that tokenizer is at hand.
        shares_ids = tokenizer is not None and capabilities.continuing == "token_ids"
        self.tokenizer_fingerprint = tokenizer.fingerprint if tokenizer is not None and shares_ids else None
        self._prompt_ids: dict[str, asyncio.Future[list[int]]] = {}
        self._num_short = 0
        # Readable, so that a run that is refused to go on says what is different now.
        self.fingerprint = (
            f"server model={capabilities.model} route={capabilities.route} chat={capabilities.chat} "
            f"system={self.settings.system!r} temperature={plain.temperature:g} top_p={plain.top_p:g} "
            f"separator={step_separator!r}"
        )

    def close(self) -> None:
        self.client.close()

    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        """All replies. `submit` gives each as soon as it is there."""
        return answer_all(self, requests)

    def submit(self, request: Request) -> Future[Reply]:
        if request.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens {request.max_new_tokens}; it must be at least 1")
        if request.prefix and self.capabilities.continuing == "none":
            raise ValueError(
                f"{self.client.base_url} cannot go on from the middle of an answer: neither by token ids nor by an "
                "assistant's message. Give the folder of the model's tokenizer (URL#MODEL?tokenizer=FOLDER) so that "
                "its /completions can be asked, or use only what draws whole solutions (--pivots none, best-of-n)"
            )
        return self.client.start(self._answer(request, request.seeds))

    async def _answer(self, request: Request, seeds: Sequence[int]) -> Reply:
        size = self.draws_at_once
        groups = [seeds[start : start + size] for start in range(0, len(seeds), size)]
        if len(groups) == 1:
            return await self._draw_group(request, groups[0])
        parts = await asyncio.gather(*(self._draw_group(request, seeds) for seeds in groups))
        usage, failures = Usage(), [part.failure for part in parts if part.failure]
        for part in parts:
            usage = usage.plus(part.usage)
        return Reply(tuple(draw for part in parts for draw in part.draws), usage, failures[0] if failures else "")

    async def _draw_group(self, request: Request, seeds: Sequence[int]) -> Reply:
        """Draws of one request to the server; those that it left out are asked for again, one by one."""
        try:
            completion, failed = await self._complete(request.problem, request.prefix, seeds, request)
        except RequestFailed as failure:
            if failure.kind == "refused" and len(seeds) > 1:  # so many choices may be what it does not like
                self.draws_at_once = max(1, min(self.draws_at_once, len(seeds) // 2))
                return await self._answer(request, seeds)
            return Reply((FAILED_DRAW,) * len(seeds), Usage(failed_requests=failure.num_sent), str(failure))
        usage = self._usage(request.prefix, request.problem, completion)._replace(failed_requests=failed)
        if self.capabilities.trims and request.prefix:
            # The model has said the blank line behind the step above once more, which the path has already.
            completion = replace(completion, choices=tuple(map(without_leading_blanks, completion.choices)))
        by_index = {choice.index: choice for choice in completion.choices}
        if len(seeds) == 1:
            by_index = {0: completion.choices[0]}
        left_out = [seed for index, seed in enumerate(seeds) if index not in by_index]
        if left_out:
            self._num_short += 1
            if self._num_short >= _MOST_SHORT:  # not an accident: this is as many as it gives
                self.draws_at_once = min(self.draws_at_once, len(by_index))
        again = iter(await asyncio.gather(*(self._draw_again(request, seed) for seed in left_out)))
        draws: list[tuple[Step, ...]] = []
        why = ""
        for index, seed in enumerate(seeds):
            part = self._reply(request, by_index[index]) if index in by_index else next(again)
            if not request.whole and _is_blank(part.draws[0][0], self.step_separator):
                part = await self._past_blanks(request, seed, part.draws[0][0])
            draws.append(part.draws[0])
            usage, why = usage.plus(part.usage), why or part.failure
        return Reply(tuple(draws), usage, why)

    async def _draw_again(self, request: Request, seed: int) -> Reply:
        """One draw. Where no request makes sense any more, what came with it must not be lost."""
        try:
            return await self._draw_group(request, (seed,))
        except ServerUnavailable as error:
            return Reply((FAILED_DRAW,), Usage(), f"connection: {error}")

    def _reply(self, request: Request, choice: Choice) -> Reply:
        """One draw of an answer that is billed already."""
        try:
            return Reply((self._steps_of(choice, request),), Usage())
        except ValueError as error:
            return Reply((FAILED_DRAW,), Usage(), f"malformed: {error}")

    async def _past_blanks(self, request: Request, seed: int, step: Step) -> Reply:
        """A server stops at separators that nothing was said before; the step goes on behind them."""
        usage = Usage()
        for round_number in range(_MOST_BLANKS):
            left = request.max_new_tokens - step.num_tokens
            if left < 1:
                return Reply(((step._replace(stop=StopReason.LENGTH),),), usage)
            prefix, seeds = (*request.prefix, step), (_next_seed(seed, round_number),)
            again = Request(request.problem, prefix, seeds, left, whole=False)
            try:
                completion, failed = await self._complete(again.problem, prefix, seeds, again)
            except RequestFailed as failure:
                return Reply((FAILED_DRAW,), usage.plus(Usage(failed_requests=failure.num_sent)), str(failure))
            usage = usage.plus(self._usage(prefix, again.problem, completion)._replace(failed_requests=failed))
            part = self._reply(again, completion.choices[0])
            if part.failure:
                return part._replace(usage=usage)
            more = part.draws[0][0]
            log_prior = None if step.log_prior is None or more.log_prior is None else step.log_prior + more.log_prior
            step = Step(step.text + more.text, step.token_ids + more.token_ids, log_prior, more.stop)
            if not _is_blank(more, self.step_separator):
                break
        return Reply(((step,),), usage)

    # --- one request to the server ------------------------------------------------------------------------------------

    async def _complete(
        self, problem: Problem, prefix: Sequence[Step], seeds: Sequence[int], request: Request
    ) -> tuple[Completion, int]:
        can, prompt = self.capabilities, await self._prompt(problem, prefix)
        body: dict[str, Any] = {
            "model": can.model,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            can.limit_field: _within_context(request.max_new_tokens, prompt, can.max_context),
            "seed": _server_seed(seeds[0]),
            **(EXTRA_FIELDS if can.extra_fields else {}),
            **_own_fields(request.problem),
            **prompt,
        }
        if len(seeds) > 1:
            body["n"] = len(seeds)
        if self._asks_log_probs:
            body["logprobs"] = 1 if can.route == "completions" else True
        if not request.whole and can.says_stop:
            body["stop"] = [self.step_separator]

        def read(answer: Any) -> Completion:
            completion = read_completion(answer, can.route, request.max_new_tokens, len(seeds))
            if not any(_says_anything(choice, completion) for choice in completion.choices):
                raise ValueError("an empty text without a token")
            if can.continuing == "token_ids" and self._asks_log_probs and not all(map(_has_ids, completion.choices)):
                raise ValueError("token ids are missing, by which this server goes on")
            return completion

        return await self.client.post(PATHS[can.route], body, read, subject=problem.id)

    async def _prompt(self, problem: Problem, prefix: Sequence[Step]) -> dict[str, Any]:
        """The part of a request's body that says what is to be continued."""
        can, messages = self.capabilities, chat_messages(problem, self.settings.system)
        begun = "".join(step.text for step in prefix)
        if can.continuing == "token_ids":
            if any(step.text and not step.token_ids for step in prefix):
                raise RequestFailed("refused", "a step of this path has no token ids, by which this server goes on")
            ids = await self._ids(problem, messages)
            return {"prompt": [*ids, *(token for step in prefix for token in step.token_ids)]}
        if can.continuing == "text":
            start = self._tokenizer.prompt_text(messages) if self._tokenizer and can.chat else problem.prompt
            template_only = {"add_special_tokens": False} if can.extra_fields and can.chat else {}
            return {"prompt": start + begun, **template_only}
        if not begun:
            return {"messages": messages}
        return {
            "messages": [*messages, {"role": "assistant", "content": begun}],
            **(CONTINUE_FLAGS if can.continuing == "continue_final_message" else {}),
        }

    async def _ids(self, problem: Problem, messages: list[dict[str, Any]]) -> list[int]:
        """Ids of a prompt; siblings that ask at the same time share one request."""
        if problem.id not in self._prompt_ids:
            while len(self._prompt_ids) >= _PROMPTS_KEPT:
                del self._prompt_ids[next(iter(self._prompt_ids))]
            self._prompt_ids[problem.id] = asyncio.ensure_future(self._ask_ids(messages))
        try:
            return await asyncio.shield(self._prompt_ids[problem.id])
        except (RequestFailed, ServerUnavailable):
            self._prompt_ids.pop(problem.id, None)
            raise

    async def _ask_ids(self, messages: list[dict[str, Any]]) -> list[int]:
        if self._tokenizer:
            return self._tokenizer.prompt_ids(messages)
        ids = await tokenize(self.client, self.capabilities.model, messages)
        if not ids:
            raise RequestFailed("malformed", "/tokenize gave no ids for a prompt")
        return ids

    def _steps_of(self, choice: Choice, request: Request) -> tuple[Step, ...]:
        steps = steps_of(choice, self.step_separator, whole=request.whole)
        law_is_known = self._law_is_known and not _own_fields(request.problem)
        return steps if law_is_known else tuple(step._replace(log_prior=None) for step in steps)

    def _usage(self, prefix: Sequence[Step], problem: Problem, completion: Completion) -> Usage:
        """What the server says it took, or an estimate from the texts where it says nothing of use."""
        prompt, generated = completion.prompt_tokens, completion.generated_tokens
        estimated = prompt is None or generated is None
        if prompt is None:
            known = self._prompt_ids.get(problem.id)
            prompt = len(known.result()) if known and known.done() else _estimate(problem.prompt)
            prompt += sum(step.num_tokens for step in prefix)
        if generated is None:
            generated = sum(len(choice.tokens) or _estimate(choice.text) for choice in completion.choices)
        return Usage(prompt, generated, 1, int(estimated))


def _own_fields(problem: Problem) -> Mapping[str, Any]:
    """Fields of a request that the problem brings along, as a conversation does that came with its own temperature."""
    fields: Mapping[str, Any] = problem.metadata.get("fields", {})
    return fields


def _says_anything(choice: Choice, completion: Completion) -> bool:
    """A model may end its solution at once, but that takes a token."""
    return bool(choice.text or choice.tokens or completion.generated_tokens)


def _has_ids(choice: Choice) -> bool:
    return len(choice.token_ids) == len(choice.tokens) and (bool(choice.token_ids) or not choice.text)


def _is_blank(step: Step, separator: str) -> bool:
    return step.stop is StopReason.STOP and not step.text.replace(separator, "").strip()


def _estimate(text: str) -> int:
    """Tokens of a text that nobody counted: four characters each."""
    return -(-len(text) // 4)


def _within_context(max_new_tokens: int, prompt: Mapping[str, Any], max_context: int | None) -> int:
    """Servers refuse a limit that the context has no room for. With no room at all they refuse, and say why."""
    if max_context is None:
        return max_new_tokens
    ids = prompt.get("prompt")
    return max(1, min(max_new_tokens, max_context - (len(ids) if isinstance(ids, list) else 0)))


def _server_seed(seed: int) -> int:
    """Some servers take 32 bits with a sign only."""
    return seed & 0x7FFFFFFF


def _next_seed(seed: int, round_number: int) -> int:
    return random.Random(f"blank {seed} {round_number}").getrandbits(63)
