"""From a request to a search: which problem, strategy and budget it asks for, and what it asks in vain.

Fields of OpenAI's protocol fall into four groups. Some decide the search (`max_tokens`, `seed`, `arts`). Some say
nothing about the answer and are dropped (`user`, `metadata`). Some ask for another form of answer than a search gives
(`tools`, `n`, `logprobs`, `stop`) and are refused, with advice. All others are the model's business: a server behind us
gets them as they came, and a local model, which would not obey them, refuses them.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from arts.proposers.sampling import Sampling
from arts.protocols import Task
from arts.search.budget import Budget
from arts.search.strategies.pool import Majority, Pool, SelfConsistency
from arts.search.strategy import Strategy
from arts.serve.errors import ApiError, invalid
from arts.serve.limits import Limits
from arts.serve.names import check_size, listed_models, named_strategy, strategy_of_model
from arts.serve.schema import ArtsOptions, Body, ChatRequest, CompletionRequest
from arts.tasks.conversation import ConversationTask, conversation
from arts.tree import Problem, text_of

_OURS = frozenset(
    {"model", "messages", "prompt", "stream", "stream_options", "max_tokens", "max_completion_tokens", "seed", "arts"}
)
_SAY_NOTHING = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"}
)
_OTHER_FORM = frozenset(
    {"n", "tools", "tool_choice", "functions", "function_call", "logprobs", "top_logprobs", "stop", "audio",
     "modalities", "prediction", "web_search_options", "echo", "suffix", "best_of"}
)  # fmt: skip
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "tool_choice": ("none", "auto"),
    "top_logprobs": (0,),
}
_NEUTRAL_HERE = frozenset({"presence_penalty", "frequency_penalty", "logit_bias"})
"""Fields that a local model does not know, and need not where they are 0 or empty."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What this server can do: decided once, when it starts."""

    task: Task
    base_model: str
    "name under which the bare proposer answers"
    upstream: bool
    "the proposer is a server, which is passed on what we do not read"
    sampling: Sampling
    scored: bool
    "there is a verifier"
    limits: Limits

    @property
    def checks(self) -> bool:
        """Answers can be told right or wrong."""
        return not isinstance(self.task, ConversationTask)

    @property
    def models(self) -> list[str]:
        """Names that /v1/models shows."""
        return [self.base_model, *listed_models(scored=self.scored)]

    @property
    def instead(self) -> str:
        """Advice where a search cannot give what is asked for."""
        if self.upstream:
            return f"ask model {self.base_model!r} for it"
        return "the local model of this server does not know it either; leave it out"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One search, ready to start."""

    model: str
    problem: Problem
    strategy: Strategy
    budget: Budget
    max_new_tokens: int
    seed: int
    plain: bool
    "one sample of the base model: it is given as it is, finished or not"
    tree: bool
    events: Literal["progress", "tree", "none"]


def is_passed_through(request: ChatRequest | CompletionRequest, offer: Offer) -> bool:
    """The base model of a server, asked for without a search: everything goes there untouched."""
    options = request.arts or ArtsOptions()
    return offer.upstream and request.model == offer.base_model and options.strategy is None


def plan(request: ChatRequest | CompletionRequest, body: Body, offer: Offer) -> Plan:
    """Args:
        body: the request as it came.

    Raises:
        ApiError: it asks for what cannot be had; says what can.
    """
    options = request.arts or ArtsOptions()
    try:
        strategy, plain = _strategy(request.model, options, offer)
    except ValueError as error:
        raise invalid(str(error), "arts.strategy" if options.strategy else "model") from error
    if strategy.scores != "none" and not offer.scored:
        raise invalid(_no_verifier(strategy, offer), "model")
    fields = _fields(body, strategy, offer)
    if isinstance(request, ChatRequest):
        most = request.max_completion_tokens or request.max_tokens
        problem = _problem(body["messages"], fields, strategy, offer)
    else:
        most, problem = request.max_tokens, _prompted(request.prompt, fields, offer)
    limits, deadline = offer.limits, options.deadline_s or offer.limits.deadline_s
    if plain and options.budget_tokens:
        raise invalid(f"a budget is for a search; choose a model like {offer.models[1]}", "arts.budget_tokens")
    if (options.budget_tokens or 0) > limits.max_budget_tokens:
        raise invalid(f"budget_tokens is at most {limits.max_budget_tokens} here", "arts.budget_tokens")
    if deadline > limits.deadline_s:
        raise invalid(f"deadline_s is at most {limits.deadline_s:g} here", "arts.deadline_s")
    return Plan(
        model=request.model,
        problem=problem,
        strategy=strategy,
        budget=Budget(generated_tokens=options.budget_tokens, seconds=deadline),
        max_new_tokens=min(offer.task.max_new_tokens, most or offer.task.max_new_tokens),
        seed=random.getrandbits(53) if request.seed is None else request.seed,
        plain=plain,
        tree=options.tree,
        events=options.events,
    )


def check_model(name: str, offer: Offer) -> None:
    """Raises ApiError 404 where a request for this model would be refused whatever it says."""
    try:
        strategy, _ = _strategy(name, ArtsOptions(), offer)
    except ValueError as error:
        raise _no_such_model(offer, f": {error}") from error
    if strategy.scores != "none" and not offer.scored:
        raise _no_such_model(offer, f": {_no_verifier(strategy, offer)}")


def _strategy(model: str, options: ArtsOptions, offer: Offer) -> tuple[Strategy, bool]:
    """The strategy, and whether it is a plain sample."""
    most = offer.limits.max_draws
    chosen = strategy_of_model(model)
    if chosen is None and model != offer.base_model:
        raise _no_such_model(offer)
    if options.strategy is not None:
        return named_strategy(options.strategy, most), False
    return (Majority(n=1), True) if chosen is None else (check_size(chosen, most), False)


def _no_such_model(offer: Offer, why: str = "") -> ApiError:
    names = ", ".join(offer.models)
    return ApiError(404, f"there is no such model here{why}; try {names}", code="model_not_found", param="model")


def _no_verifier(strategy: Strategy, offer: Offer) -> str:
    instead = offer.models[1]
    return f"strategy {strategy.id} needs a verifier, and this server was started without one; {instead} needs none"


def _fields(body: Mapping[str, Any], strategy: Strategy, offer: Offer) -> Body:
    """Fields for the server behind us."""
    given = {
        name: value
        for name, value in body.items()
        if value is not None and name not in _OURS | _SAY_NOTHING and not _is_neutral(name, value)
    }
    refused = sorted(given.keys() & _OTHER_FORM)
    if refused:
        raise invalid(f"{refused[0]} does not go with a search; {offer.instead}", refused[0])
    if offer.upstream and "response_format" in given and not isinstance(strategy, Pool | SelfConsistency):
        raise invalid(
            f"strategy {strategy.id} draws step by step, which response_format does not go with; "
            f"use one that draws whole answers, such as {'best-of-n' if offer.scored else 'majority'}",
            "response_format",
        )
    if offer.upstream:
        return given
    same = {"temperature": offer.sampling.temperature, "top_p": offer.sampling.top_p}
    for name, value in given.items():
        if (name in _NEUTRAL_HERE and not value) or value in ({}, []):
            continue
        if name not in same:
            raise invalid(f"{name[:60]} is not known to the local model of this server; leave it out", name[:60])
        if value != same[name]:
            raise invalid(f"{name} is {same[name]:g} on this server, as it was started; leave it out", name)
    return {}


def _is_neutral(name: str, value: Any) -> bool:
    """It asks for what is done anyway."""
    if name in _OTHER_FORM and isinstance(value, bool | list | dict) and not value:
        return True
    if name == "response_format":
        return isinstance(value, dict) and value.get("type") == "text"
    return value in _NEUTRAL.get(name, ()) or (name == "modalities" and value == ["text"])


def _problem(messages: Sequence[Body], fields: Body, strategy: Strategy, offer: Offer) -> Problem:
    has_images = any(
        part.get("type") != "text" for one in messages for part in one.get("content") or () if isinstance(part, dict)
    )
    if has_images and (not offer.upstream or strategy.scores != "none"):
        if not offer.upstream:
            raise invalid("the local model of this server reads text only", "messages")
        raise invalid(
            f"the verifier reads text only; ask model {offer.base_model!r}, or a strategy that votes", "messages"
        )
    if any(one.get("tool_calls") or one["role"] in ("tool", "function") for one in messages):
        raise invalid(f"calls of tools do not go with a search; {offer.instead}", "messages")
    if messages[-1]["role"] == "assistant":
        raise invalid("the last message is the assistant's; a search answers a user", "messages")
    if not offer.checks:
        return conversation(messages, fields)
    if len(messages) != 1 or messages[0]["role"] != "user":
        raise invalid(
            f"this server solves problems of {offer.task.name}: send one user message that is the problem", "messages"
        )
    return parse_problem(text_of(messages[0].get("content")), fields, offer.task)


def _prompted(prompt: str | Sequence[Any], fields: Body, offer: Offer) -> Problem:
    """The problem of a plain completion: its one text is what a user would have said."""
    texts = [prompt] if isinstance(prompt, str) else prompt
    if len(texts) != 1 or not isinstance(texts[0], str):
        what = f"a list of {len(texts)}" if all(isinstance(text, str) for text in texts) else "token ids"
        raise invalid(f"prompt is {what}; a search answers one text, so send a request for each", "prompt")
    if offer.checks:
        return parse_problem(texts[0], fields, offer.task, "prompt")
    return conversation([{"role": "user", "content": texts[0]}], fields)


def parse_problem(text: str, fields: Body, task: Task, source: str = "messages") -> Problem:
    """Raises ApiError for a text that is no problem of the task.

    Args:
        source: field that it came in.
    """
    try:
        problem = task.parse(text)
    except ValueError as error:
        raise invalid(str(error), source) from error
    return replace(problem, metadata={**problem.metadata, "fields": fields}) if fields else problem
