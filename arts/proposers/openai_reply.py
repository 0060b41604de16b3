"""What an OpenAI-compatible server says, as steps. Knows the forms of answers; sends nothing.

Servers differ: some return no log-probabilities, no ids, no usage, or one choice where several were asked for. What is
missing is None here, and what contradicts itself is a ValueError.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Literal

from arts.proposers.steps import ends_of_steps, is_complete
from arts.tree import Step, StopReason

Route = Literal["completions", "chat"]
_BROKEN = "\N{REPLACEMENT CHARACTER}"  # what servers show for a part of a character


@dataclass(frozen=True)
class Choice:
    """One choice of an answer."""

    index: int
    text: str
    finish: str
    "finish_reason: stop, length, ..."
    matched_stop: str | None
    "the stop string that ended it, where the server says so"
    says_stop: bool
    "the server says which stop string ended a text, and None where none did"
    token_ids: tuple[int, ...]
    "empty where the server does not return them"
    tokens: tuple[str, ...]
    "texts of the tokens, empty without log-probabilities"
    log_probs: tuple[float, ...]


@dataclass(frozen=True)
class Completion:
    """A whole answer."""

    choices: tuple[Choice, ...]
    "in the order of their index, each index once"
    prompt_tokens: int | None
    generated_tokens: int | None
    "of all choices; None where the server does not say, or says what cannot be"


def read_completion(body: Any, route: Route, max_new_tokens: int, num_choices: int = 1) -> Completion:
    """Read an answer to a request for so many choices of at most `max_new_tokens` each; more than that are left out.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it has no choices, or one that makes no sense.
    """
    read = {int(choice.get("index", place)): choice for place, choice in reversed(list(enumerate(body["choices"])))}
    choices = tuple(_choice(index, read[index], route) for index in sorted(read)[:num_choices])
    if not choices:
        raise ValueError("an answer without choices")
    usage = body.get("usage")
    # Tokens of a hidden chain of thought count too, so that there may be more than we see.
    least = sum(max(len(choice.token_ids), len(choice.tokens), bool(choice.text)) for choice in choices)
    most = max(least, (max_new_tokens + 1) * len(choices))
    return Completion(
        choices, _count(usage, "prompt_tokens", 1, 1 << 30), _count(usage, "completion_tokens", least, most)
    )


def _count(usage: Any, name: str, least: int, most: int) -> int | None:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most else None


def _choice(index: int, choice: Mapping[str, Any], route: Route) -> Choice:
    text = choice["message"]["content"] if route == "chat" else choice["text"]
    finish = choice.get("finish_reason")
    if not isinstance(finish, str):
        raise ValueError(f"finish_reason is {finish!r}")
    if text is None:
        text = ""
    if not isinstance(text, str):
        raise TypeError(f"the text is {type(text).__name__}")
    tokens, log_probs = _log_probs(choice.get("logprobs"), route)
    ids = choice.get("token_ids")
    # SGLang calls it matched_stop, which is an id where a token ended the text.
    stop = choice.get("stop_reason", choice.get("matched_stop"))
    return Choice(
        index,
        _whole(text),
        finish,
        stop if isinstance(stop, str) else None,
        "stop_reason" in choice or "matched_stop" in choice,
        tuple(map(int, ids)) if ids else (),
        tokens,
        log_probs,
    )


def _whole(text: str) -> str:
    """Text that can be written: JSON may hold halves of characters, which servers send that cut them."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


def _log_probs(found: Any, route: Route) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Tokens and their log-probabilities; empty where there are none."""
    if not found:
        return (), ()
    if route == "chat" or "content" in found:  # llama.cpp has it on both routes
        rows = found.get("content") or ()
        tokens, values = [_whole(str(row["token"])) for row in rows], [float(row["logprob"]) for row in rows]
    else:
        tokens, values = (
            [_whole(str(token)) for token in found["tokens"]],
            list(map(float, found.get("token_logprobs") or ())),
        )
        if len(tokens) != len(values):
            raise ValueError(f"{len(tokens)} tokens, and {len(values)} log-probabilities")
    if not values:
        return (), ()
    # 0.01: float16 sums may exceed 1. Servers cut -inf to a large negative number.
    if max(values) > 0.01 or math.isnan(math.fsum(values)):
        raise ValueError("a log-probability that is none")
    if max(values) > 0.0 or min(values) < -1e4:
        values = [min(0.0, max(value, -1e4)) for value in values]
    return tuple(tokens), tuple(values)


def without_leading_blanks(choice: Choice) -> Choice:
    """A choice without the blanks that it begins with, and without their tokens."""
    count = 0
    while count < len(choice.tokens) and choice.tokens[count].isspace():
        count += 1
    return replace(
        choice,
        text=choice.text.lstrip(),
        tokens=choice.tokens[count:],
        log_probs=choice.log_probs[count:],
        token_ids=choice.token_ids[count:],
    )


def steps_of(choice: Choice, separator: str, *, whole: bool) -> tuple[Step, ...]:
    """The steps of a choice: those of a rollout, or the first one where one step was asked for.

    Cuts fall between tokens, and each step keeps its separator. Without log-probabilities nothing is known about
    tokens: cuts fall behind separators, and log-priors are None.

    Raises:
        ValueError: it has no text and no end, or ended in a way that is no end of a solution, as by a content filter.
    """
    text, last = choice.text, _stop_of(choice)
    if choice.matched_stop is not None and not text.endswith(choice.matched_stop):
        text += choice.matched_stop  # most servers leave the stop string out
    places = _token_ends(text, choice.tokens) if choice.tokens else list(range(1, len(text) + 1))
    ids = choice.token_ids if len(choice.token_ids) == len(choice.tokens) else ()
    if choice.matched_stop is not None and choice.tokens:
        # Servers cut a text behind the stop string, which may end inside the last token; all of that token was drawn.
        seen = text[places[-2] if len(places) > 1 else 0 :]
        if seen and choice.tokens[-1].startswith(seen):
            text += choice.tokens[-1][len(seen) :]
            places[-1] = len(text)
    cuts = [0, *ends_of_steps(text, places, separator)] if places else [0]
    last_step = text[places[cuts[-2] - 1] if len(cuts) > 1 and cuts[-2] else 0 :]
    if last is StopReason.EOS and (len(cuts) == 1 or is_complete(last_step, separator)):
        cuts.append(cuts[-1])  # the model stopped behind a separator, which is a step of its own as with local models
    if len(cuts) == 1:
        raise ValueError("an empty text that did not end")
    steps = []
    for number, (start, end) in enumerate(pairwise(cuts), start=2):
        own_text = text[places[start - 1] if start else 0 : places[end - 1]] if end > start else ""
        log_prior = round(math.fsum(choice.log_probs[start:end]), 6) if choice.tokens and end > start else None
        stop = last if number == len(cuts) else StopReason.STOP
        steps.append(Step(own_text, ids[start:end], log_prior, stop))
    if whole:
        return tuple(steps)
    first = steps[0]
    ended = first.stop is StopReason.LENGTH and is_complete(first.text, separator)  # the limit fell on its end
    return (first._replace(stop=StopReason.STOP) if ended else first,)


def _stop_of(choice: Choice) -> StopReason:
    if choice.matched_stop is not None:
        return StopReason.STOP
    if choice.finish in ("stop", "eos", "end_turn"):
        return StopReason.EOS
    if choice.finish in ("length", "max_tokens"):
        return StopReason.LENGTH
    raise ValueError(f"finish_reason is {choice.finish[:40]!r}, which ends no solution")


def _token_ends(text: str, tokens: Sequence[str]) -> list[int]:
    """Where each token ends in the text: characters up to and with it.

    An end-of-sequence token has no place in the text. One that is a part of a character shows as something else; the
    character then belongs to a neighbour. The last token may go on behind the end of the text.
    """
    if "".join(tokens).startswith(text):  # the common case, quickly
        return [min(end, len(text)) for end in accumulate(map(len, tokens))]
    ends, place, num_unplaced, heir = [], 0, 0, 0
    for position, token in enumerate(tokens):
        whole, start = token.strip(_BROKEN), place
        if text.startswith(token, place):
            place, num_unplaced = place + len(token), 0
        elif place < len(text) and token.startswith(text[place:]):
            place = len(text)
        elif whole and (found := text.find(whole, place, place + len(whole) + 8 + num_unplaced)) >= 0:
            place, num_unplaced = found + len(whole), 0
        else:
            num_unplaced += 1  # each may have hidden a character
        ends.append(place)
        if place > start or _BROKEN in token:
            heir = position
    # What no token accounted for belongs to the last one that has text, or a part of a character.
    return [end if position < heir else len(text) for position, end in enumerate(ends)]
