"""What servers say, read as steps: in every form of answer, cut between tokens, with nothing lost or counted twice."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arts.proposers.openai_reply import Choice, Completion, Route, read_completion, steps_of
from arts.proposers.steps import StepSplitter, ends_of_steps, is_complete
from arts.tree import Step, StopReason

EOS, STOP, LENGTH = StopReason.EOS, StopReason.STOP, StopReason.LENGTH


def log_probs_of(tokens: Sequence[str]) -> list[float]:
    """A different one for each token, so that a sum tells which were added: -1, -0.5, -0.25, ..."""
    return [-(0.5**place) for place in range(len(tokens))]


def completion(choices: list[dict[str, Any]], **rest: Any) -> dict[str, Any]:
    return {"id": "cmpl-1", "object": "text_completion", "choices": choices, **rest}


def as_answer(
    route: Route, text: str | None, tokens: Sequence[str] | None = None, *, finish: str | None = "stop", **rest: Any
) -> dict[str, Any]:
    """One choice, as a server writes it."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": None, **rest}
    if route == "chat":
        choice["message"] = {"role": "assistant", "content": text}
        if tokens is not None:
            rows = zip(tokens, log_probs_of(tokens), strict=True)
            choice["logprobs"] = {"content": [{"token": token, "logprob": value} for token, value in rows]}
    else:
        choice["text"] = text
        if tokens is not None:
            choice["logprobs"] = {"tokens": list(tokens), "token_logprobs": log_probs_of(tokens)}
    return completion([choice])


def read_one(
    text: str | None, tokens: Sequence[str] | None = None, *, route: Route = "completions", **rest: Any
) -> Choice:
    (choice,) = read_completion(as_answer(route, text, tokens, **rest), route, 100).choices
    return choice


def texts(steps: Sequence[Step]) -> list[str]:
    return [step.text for step in steps]


# --- forms of answers -------------------------------------------------------------------------------------------------

VLLM_CHAT = """{"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0,
 "message": {"role": "assistant", "reasoning_content": null, "content": "a;b", "tool_calls": []},
 "logprobs": {"content": [{"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []},
  {"token": ";", "logprob": -0.5, "bytes": [59], "top_logprobs": []},
  {"token": "b", "logprob": -0.25, "bytes": [98], "top_logprobs": []},
  {"token": "<|im_end|>", "logprob": -0.125, "bytes": [60], "top_logprobs": []}]},
 "finish_reason": "stop", "stop_reason": null, "token_ids": [5, 6, 7, 2]}], "prompt_token_ids": [1, 2, 3],
 "usage": {"prompt_tokens": 3, "total_tokens": 7, "completion_tokens": 4}, "prompt_logprobs": null}"""
VLLM_TEXT = """{"id": "cmpl-1", "object": "text_completion", "model": "m", "choices": [{"index": 0, "text": "a;b",
 "logprobs": {"text_offset": [0, 1, 2, 3], "token_logprobs": [-1.0, -0.5, -0.25, -0.125],
  "tokens": ["a", ";", "b", "<|im_end|>"], "top_logprobs": [{"a": -1.0}, {";": -0.5}, {"b": -0.25}, {}]},
 "finish_reason": "stop", "stop_reason": null, "token_ids": [5, 6, 7, 2], "prompt_logprobs": null}],
 "usage": {"prompt_tokens": 3, "total_tokens": 7, "completion_tokens": 4}}"""
OPENAI_CHAT = """{"id": "chatcmpl-1", "object": "chat.completion", "choices": [{"index": 0,
 "message": {"role": "assistant", "content": "a;b", "refusal": null, "annotations": []},
 "logprobs": {"content": [{"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []},
  {"token": ";", "logprob": -0.5, "bytes": [59], "top_logprobs": []},
  {"token": "b", "logprob": -0.25, "bytes": [98], "top_logprobs": []}], "refusal": null}, "finish_reason": "stop"}],
 "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "completion_tokens_details":
  {"reasoning_tokens": 0}}, "service_tier": "default", "system_fingerprint": null}"""
LLAMA_CPP_CHAT = """{"choices": [{"finish_reason": "stop", "index": 0, "message": {"role": "assistant",
 "content": "a;b"}, "logprobs": {"content": [{"id": 5, "token": "a", "bytes": [97], "logprob": -1.0,
  "top_logprobs": []}, {"id": 6, "token": ";", "bytes": [59], "logprob": -0.5, "top_logprobs": []},
  {"id": 7, "token": "b", "bytes": [98], "logprob": -0.25, "top_logprobs": []},
  {"id": 2, "token": "", "bytes": [], "logprob": -0.125, "top_logprobs": []}]}}], "created": 1, "model": "m",
 "object": "chat.completion", "usage": {"completion_tokens": 4, "prompt_tokens": 3, "total_tokens": 7},
 "timings": {"prompt_n": 3}}"""
LLAMA_CPP_TEXT = """{"choices": [{"text": "a;b", "index": 0, "logprobs": {"content": [
  {"id": 5, "token": "a", "logprob": -1.0}, {"id": 6, "token": ";", "logprob": -0.5},
  {"id": 7, "token": "b", "logprob": -0.25}]}, "finish_reason": "stop"}], "object": "text_completion",
 "usage": {"completion_tokens": 4, "prompt_tokens": 3, "total_tokens": 7}}"""
SGLANG_CHAT = """{"id": "1", "object": "chat.completion", "model": "m", "choices": [{"index": 0,
 "message": {"role": "assistant", "content": "a;b", "reasoning_content": null, "tool_calls": null},
 "logprobs": null, "finish_reason": "stop", "matched_stop": 151645}],
 "usage": {"prompt_tokens": 3, "total_tokens": 7, "completion_tokens": 4, "prompt_tokens_details": null}}"""
BARE = '{"choices": [{"message": {"content": "a;b"}, "finish_reason": "stop"}]}'

IDS = (5, 6, 7, 2)
FORMS: dict[str, tuple[str, Route, Choice, tuple[int | None, int | None]]] = {
    # index, text, finish, matched_stop, says_stop, token_ids, tokens, log_probs
    "vllm chat": (
        VLLM_CHAT,
        "chat",
        Choice(0, "a;b", "stop", None, True, IDS, ("a", ";", "b", "<|im_end|>"), (-1.0, -0.5, -0.25, -0.125)),
        (3, 4),
    ),
    "vllm text": (
        VLLM_TEXT,
        "completions",
        Choice(0, "a;b", "stop", None, True, IDS, ("a", ";", "b", "<|im_end|>"), (-1.0, -0.5, -0.25, -0.125)),
        (3, 4),
    ),
    "openai chat": (
        OPENAI_CHAT,
        "chat",
        Choice(0, "a;b", "stop", None, False, (), ("a", ";", "b"), (-1.0, -0.5, -0.25)),
        (3, 4),
    ),
    "llama.cpp chat": (
        LLAMA_CPP_CHAT,
        "chat",
        Choice(0, "a;b", "stop", None, False, (), ("a", ";", "b", ""), (-1.0, -0.5, -0.25, -0.125)),
        (3, 4),
    ),
    "llama.cpp text": (
        LLAMA_CPP_TEXT,
        "completions",
        Choice(0, "a;b", "stop", None, False, (), ("a", ";", "b"), (-1.0, -0.5, -0.25)),
        (3, 4),
    ),
    "sglang chat": (SGLANG_CHAT, "chat", Choice(0, "a;b", "stop", None, True, (), (), ()), (3, 4)),
    "bare": (BARE, "chat", Choice(0, "a;b", "stop", None, False, (), (), ()), (None, None)),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_answers(name: str) -> None:
    answer, route, choice, usage = FORMS[name]
    assert read_completion(json.loads(answer), route, 100) == Completion((choice,), *usage)
    steps = steps_of(choice, ";", whole=True)
    assert [(step.text, step.stop) for step in steps] == [("a;", STOP), ("b", EOS)]
    if choice.tokens:
        assert [step.log_prior for step in steps] == [-1.5, -0.375 if len(choice.tokens) == 4 else -0.25]
    else:
        assert [step.log_prior for step in steps] == [None, None]
    assert [step.token_ids for step in steps] == ([(5, 6), (7, 2)] if choice.token_ids else [(), ()])
    assert steps_of(choice, ";", whole=False) == steps[:1]


@pytest.mark.parametrize("route", ["chat", "completions"])
@pytest.mark.parametrize(
    ("said", "matched", "says"),
    [
        ({"stop_reason": ";"}, ";", True),
        ({"stop_reason": None}, None, True),
        ({"stop_reason": 151645}, None, True),  # the id of a token
        ({"matched_stop": ";"}, ";", True),
        ({"matched_stop": 151645}, None, True),
        ({}, None, False),
    ],
)
def test_which_stop_string_ended_it(route: Route, said: dict[str, Any], matched: str | None, says: bool) -> None:
    choice = read_one("a", route=route, **said)
    assert (choice.matched_stop, choice.says_stop) == (matched, says)
    (step,) = steps_of(choice, ";", whole=False)
    assert step == (Step("a;", (), None, STOP) if matched else Step("a", (), None, EOS))


def test_choices_are_read_by_their_index_each_index_once() -> None:
    def row(index: int | None, text: str) -> dict[str, Any]:
        return {"text": text, "finish_reason": "stop"} | ({} if index is None else {"index": index})

    def read(rows: list[dict[str, Any]]) -> list[tuple[int, str]]:
        return [(one.index, one.text) for one in read_completion(completion(rows), "completions", 9, 9).choices]

    assert read([row(2, "c"), row(0, "a"), row(1, "b")]) == [(0, "a"), (1, "b"), (2, "c")]
    assert read([row(None, "a"), row(None, "b")]) == [(0, "a"), (1, "b")]
    assert read([row(0, "a"), row(1, "b"), row(0, "again")]) == [(0, "a"), (1, "b")]  # the first one counts
    assert read([row(3, "d")]) == [(3, "d")]


def test_choices_that_nobody_asked_for_are_left_out() -> None:
    rows = [{"index": index, "text": "abc"[index], "finish_reason": "stop"} for index in range(3)]
    assert [one.text for one in read_completion(completion(rows), "completions", 9).choices] == ["a"]
    assert [one.text for one in read_completion(completion(rows), "completions", 9, 2).choices] == ["a", "b"]


@pytest.mark.parametrize(
    ("usage", "prompt", "generated"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, 3, 4),
        ({"prompt_tokens": 3, "completion_tokens": 11}, 3, 11),  # one token may close what is full
        ({"prompt_tokens": 3, "completion_tokens": 12}, 3, None),  # more than was allowed
        ({"prompt_tokens": 3, "completion_tokens": 2}, 3, None),  # fewer than are there
        ({"prompt_tokens": 0, "completion_tokens": 4}, None, 4),
        ({"prompt_tokens": -1, "completion_tokens": 0}, None, None),
        ({"prompt_tokens": 3.0, "completion_tokens": "4"}, None, None),
        ({"prompt_tokens": True, "completion_tokens": True}, None, None),
        ({"prompt_tokens": None}, None, None),
        ({"completion_tokens": 4}, None, 4),
        ({}, None, None),
        ("free of charge", None, None),
        ([3, 4], None, None),
        (None, None, None),
    ],
)
def test_usage_that_cannot_be_is_none(usage: Any, prompt: int | None, generated: int | None) -> None:
    answer = as_answer("completions", "abc", ["a", "b", "c"]) | {"usage": usage}
    read = read_completion(answer, "completions", 10)
    assert (read.prompt_tokens, read.generated_tokens) == (prompt, generated)


def test_usage_is_that_of_all_choices() -> None:
    rows = [{"index": index, "text": "abc", "finish_reason": "length"} for index in range(4)]
    for generated, found in [(12, 12), (16, 16), (17, None), (3, None)]:
        answer = completion(rows, usage={"prompt_tokens": 5, "completion_tokens": generated})
        assert read_completion(answer, "completions", 3, 4).generated_tokens == found


CHAT_ROWS = {"index": 0, "finish_reason": "stop", "message": {"content": "a"}}
TEXT_ROWS = {"index": 0, "finish_reason": "stop", "text": "a"}


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("chat", {}),
        ("chat", []),
        ("chat", None),
        ("chat", "a"),
        ("chat", {"choices": None}),
        ("chat", {"choices": []}),
        ("chat", {"choices": ["a"]}),
        ("chat", {"choices": [TEXT_ROWS]}),  # of the other route
        ("completions", {"choices": [CHAT_ROWS]}),
        ("chat", {"choices": [{**CHAT_ROWS, "message": {"content": 3}}]}),
        ("chat", {"choices": [{**CHAT_ROWS, "message": {"content": ["a"]}}]}),
        ("chat", {"choices": [{**CHAT_ROWS, "message": None}]}),
        ("chat", {"choices": [{**CHAT_ROWS, "finish_reason": None}]}),
        ("chat", {"choices": [{**CHAT_ROWS, "finish_reason": 3}]}),
        ("chat", {"choices": [{**CHAT_ROWS, "index": "first"}]}),
        ("chat", {"choices": [{**CHAT_ROWS, "index": None}]}),
        ("chat", {"choices": [{**CHAT_ROWS, "token_ids": ["a"]}]}),
        ("chat", {"choices": [{**CHAT_ROWS, "logprobs": {"content": [{"token": "a"}]}}]}),
        ("chat", {"choices": [{**CHAT_ROWS, "logprobs": {"content": [{"token": "a", "logprob": "low"}]}}]}),
        ("chat", {"choices": [{**CHAT_ROWS, "logprobs": {"content": [{"token": "a", "logprob": None}]}}]}),
        ("completions", {"choices": [{**TEXT_ROWS, "logprobs": {"tokens": ["a"], "token_logprobs": [-1.0, -2.0]}}]}),
        ("completions", {"choices": [{**TEXT_ROWS, "logprobs": {"tokens": ["a"], "token_logprobs": []}}]}),
        ("completions", {"choices": [{**TEXT_ROWS, "logprobs": {"tokens": ["a"], "token_logprobs": [None]}}]}),
        ("completions", {"choices": [{**TEXT_ROWS, "logprobs": {"token_logprobs": [-1.0]}}]}),
    ],
)
def test_answers_that_make_no_sense_are_refused(route: Route, body: Any) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError, IndexError)):
        read_completion(body, route, 10)


@pytest.mark.parametrize("route", ["chat", "completions"])
@pytest.mark.parametrize("value", ["NaN", "0.5", "Infinity", "1e9"])
def test_log_probabilities_that_are_none_are_refused(route: Route, value: str) -> None:
    answer = json.dumps(as_answer(route, "ab", ["a", "b"])).replace("-0.5", value)
    with pytest.raises(ValueError, match="a log-probability that is none"):
        read_completion(json.loads(answer), route, 10)


@pytest.mark.parametrize("route", ["chat", "completions"])
def test_log_probabilities_at_their_bounds(route: Route) -> None:
    for value, found in [("0.001", 0.0), ("0", 0.0), ("-9999.0", -9999.0), ("-Infinity", -1e4), ("-3.4e38", -1e4)]:
        answer = json.dumps(as_answer(route, "ab", ["a", "b"])).replace("-0.5", value)
        assert read_completion(json.loads(answer), route, 10).choices[0].log_probs == (-1.0, found)


@pytest.mark.parametrize("empty", [None, {}, {"content": None}, {"content": []}, {"tokens": [], "token_logprobs": []}])
@pytest.mark.parametrize("route", ["chat", "completions"])
def test_no_log_probabilities_in_any_form(route: Route, empty: Any) -> None:
    choice = read_one("a", route=route, logprobs=empty)
    assert (choice.tokens, choice.log_probs) == ((), ())


# --- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finish", "stop"),
    [("stop", EOS), ("eos", EOS), ("end_turn", EOS), ("length", LENGTH), ("max_tokens", LENGTH)],
)
def test_how_a_text_ended(finish: str, stop: StopReason) -> None:
    assert steps_of(read_one("a;b", finish=finish), ";", whole=True)[-1] == Step("b", (), None, stop)


@pytest.mark.parametrize("finish", ["content_filter", "tool_calls", "error", "abort", "", "x" * 10_000])
def test_an_end_that_is_no_end_of_a_solution_is_refused(finish: str) -> None:
    with pytest.raises(ValueError, match="which ends no solution") as caught:
        steps_of(read_one("a;b", finish=finish), ";", whole=True)
    assert len(str(caught.value)) < 200


def test_an_empty_text_is_an_answer_only_where_the_model_ended_it() -> None:
    assert steps_of(read_one(""), ";", whole=True) == (Step("", (), None, EOS),)
    assert steps_of(read_one(None, route="chat"), ";", whole=True) == (Step("", (), None, EOS),)
    assert steps_of(read_one("", ["<eos>"], token_ids=[2]), ";", whole=True) == (Step("", (2,), -1.0, EOS),)
    for whole in (True, False):
        with pytest.raises(ValueError, match="an empty text that did not end"):
            steps_of(read_one("", finish="length"), ";", whole=whole)


# --- steps ------------------------------------------------------------------------------------------------------------
# separator, text, tokens, finish reason, steps with the number of tokens of each
CASES: list[tuple[str, str, list[str], str, list[tuple[str, int, StopReason]]]] = [
    (";", "a;b;c", ["a", ";", "b", ";", "c"], "stop", [("a;", 2, STOP), ("b;", 2, STOP), ("c", 1, EOS)]),
    (";", "a;b;c", ["a", ";", "b", ";", "c"], "length", [("a;", 2, STOP), ("b;", 2, STOP), ("c", 1, LENGTH)]),
    # an end-of-sequence token without a place in the text, with one, and as an empty token
    (";", "a;b", ["a", ";", "b", "<eos>"], "stop", [("a;", 2, STOP), ("b", 2, EOS)]),
    (";", "a;b<eos>", ["a", ";", "b", "<eos>"], "stop", [("a;", 2, STOP), ("b<eos>", 2, EOS)]),
    (";", "a;b", ["a", ";", "b", ""], "stop", [("a;", 2, STOP), ("b", 2, EOS)]),
    # the model ends behind a separator: a step of its own, whether its token is shown or not
    (";", "a;", ["a", ";", "<eos>"], "stop", [("a;", 2, STOP), ("", 1, EOS)]),
    (";", "a;", ["a", ";", ""], "stop", [("a;", 2, STOP), ("", 1, EOS)]),
    (";", "a;", ["a", ";"], "stop", [("a;", 2, STOP), ("", 0, EOS)]),
    # the limit just behind a separator
    (";", "a;b;", ["a", ";", "b", ";"], "length", [("a;", 2, STOP), ("b;", 2, LENGTH)]),
    # nothing but an end, blanks or separators
    (";", "", ["<eos>"], "stop", [("", 1, EOS)]),
    (";", "; ;", [";", " ", ";"], "stop", [("; ;", 3, EOS)]),
    ("\n\n", "\n\n\n", ["\n\n", "\n"], "length", [("\n\n\n", 2, LENGTH)]),
    # blank steps belong to the step behind them
    (";", ";;a;b", [";", ";", "a", ";", "b"], "stop", [(";;a;", 4, STOP), ("b", 1, EOS)]),
    ("\n\n", "a\n\n\n\nb", ["a", "\n\n", "\n\n", "b"], "stop", [("a\n\n", 2, STOP), ("\n\nb", 2, EOS)]),
    # separators inside tokens and over several
    (";", "a; bc;d", ["a; b", "c", ";", "d"], "stop", [("a; b", 1, STOP), ("c;", 2, STOP), ("d", 1, EOS)]),
    (";", "a;b;c", ["a;b;", "c"], "stop", [("a;b;", 1, STOP), ("c", 1, EOS)]),
    ("\n\n", "a\n\nb", ["a", "\n", "\n", "b"], "stop", [("a\n\n", 3, STOP), ("b", 1, EOS)]),
    ("\n\n", "a.\n\n\nb", ["a", ".\n", "\n\n", "b"], "stop", [("a.\n\n\n", 3, STOP), ("b", 1, EOS)]),
    ("\nStep", "x\nStep 2\nStepy", ["x", "\n", "Step", " 2", "\nSt", "ep", "y"], "stop",
     [("x\nStep", 3, STOP), (" 2\nStep", 3, STOP), ("y", 1, EOS)]),
    # characters over several tokens, each of which shows as something else
    (";", "é;b", ["�", "�", ";", "b"], "stop", [("é;", 3, STOP), ("b", 1, EOS)]),
    (";", "a😀b;c", ["a", "�", "�", "�", "b", ";", "c"], "stop", [("a😀b;", 6, STOP), ("c", 1, EOS)]),
    (";", "é;é;é", ["�", "�", ";", "�", "�", ";", "�", "�"], "stop",
     [("é;", 3, STOP), ("é;", 3, STOP), ("é", 2, EOS)]),
    # many of them in a row, as with text that the tokenizer hardly knows
    (";", "好" * 40 + ";b;c", ["�"] * 120 + [";", "b", ";", "c"], "stop",
     [("好" * 40 + ";", 121, STOP), ("b;", 2, STOP), ("c", 1, EOS)]),
    # a separator in one token with a part of a character, which goes to the step that completes it
    (";", "a;éb;c", ["a", ";�", "�b", ";", "c"], "stop", [("a;", 2, STOP), ("éb;", 2, STOP), ("c", 1, EOS)]),
    # the text lacks a blank at its beginning that the first token has
    (";", "a;b", [" a", ";", "b"], "stop", [("a;", 2, STOP), ("b", 1, EOS)]),
    # bytes that never become a character are in text and tokens
    (";", "a�;b", ["a", "�", ";", "b"], "stop", [("a�;", 3, STOP), ("b", 1, EOS)]),
]  # fmt: skip


@pytest.mark.parametrize("route", ["chat", "completions"])
@pytest.mark.parametrize("number", range(len(CASES)))
def test_steps_of_a_rollout(number: int, route: Route) -> None:
    separator, text, tokens, finish, expected = CASES[number]
    ids = list(range(100, 100 + len(tokens)))
    choice = read_one(text, tokens, route=route, finish=finish, token_ids=ids)
    steps = steps_of(choice, separator, whole=True)
    start, values = 0, log_probs_of(tokens)
    for step, (own_text, size, stop) in zip(steps, expected, strict=True):
        assert (step.text, step.stop) == (own_text, stop)
        assert step.token_ids == tuple(ids[start : start + size])
        assert step.log_prior == (round(math.fsum(values[start : start + size]), 6) if size else None)
        start += size
    assert start == len(tokens)
    (first,) = steps_of(choice, separator, whole=False)
    assert first[:3] == steps[0][:3]
    if len(steps) > 1:
        assert first.stop is STOP


# separator, text, finish reason, steps
BARE_CASES: list[tuple[str, str, str, list[tuple[str, StopReason]]]] = [
    (";", "a;b;c", "stop", [("a;", STOP), ("b;", STOP), ("c", EOS)]),
    (";", "a;b;", "stop", [("a;", STOP), ("b;", STOP), ("", EOS)]),
    (";", "a;b;", "length", [("a;", STOP), ("b;", LENGTH)]),
    (";", "; ;a;b", "stop", [("; ;a;", STOP), ("b", EOS)]),
    (";", " ; ", "stop", [(" ; ", EOS)]),
    ("\n\n", "a\n\n\nb\nc\n\n", "stop", [("a\n\n", STOP), ("\nb\nc\n\n", STOP), ("", EOS)]),
    ("。", "好。吗", "length", [("好。", STOP), ("吗", LENGTH)]),
]


@pytest.mark.parametrize(("separator", "text", "finish", "expected"), BARE_CASES)
def test_steps_without_log_probabilities_are_cut_behind_separators(
    separator: str, text: str, finish: str, expected: list[tuple[str, StopReason]]
) -> None:
    steps = steps_of(read_one(text, finish=finish, token_ids=[1, 2, 3]), separator, whole=True)
    assert steps == tuple(Step(own_text, (), None, stop) for own_text, stop in expected)


def test_ids_that_do_not_match_the_tokens_are_left_out() -> None:
    steps = steps_of(read_one("a;b", ["a", ";", "b"], token_ids=[1, 2]), ";", whole=True)
    assert [(step.text, step.token_ids, step.log_prior) for step in steps] == [("a;", (), -1.5), ("b", (), -0.25)]


@pytest.mark.parametrize(
    ("separator", "text", "tokens", "stop", "step"),
    [
        # the server leaves the stop string out, or keeps it
        (";", "a", ["a", ";"], ";", Step("a;", (0, 1), -1.5, STOP)),
        (";", "a;", ["a", ";"], ";", Step("a;", (0, 1), -1.5, STOP)),
        (";", "a", [], ";", Step("a;", (), None, STOP)),
        ("\n\n", "a.", ["a", ".\n\n"], "\n\n", Step("a.\n\n", (0, 1), -1.5, STOP)),
        ("\n\n", "a", ["a", "\n", "\n"], "\n\n", Step("a\n\n", (0, 1, 2), -1.75, STOP)),
        # it cuts inside a token, all of which was drawn
        ("\n\n", "a", ["a", "\n\n\n"], "\n\n", Step("a\n\n\n", (0, 1), -1.5, STOP)),
        ("\n\n", "a\n\n", ["a", "\n\n\n"], "\n\n", Step("a\n\n\n", (0, 1), -1.5, STOP)),
        ("\n\n", "a", ["a", "\n", "\n\n"], "\n\n", Step("a\n\n\n", (0, 1, 2), -1.75, STOP)),
        (";", "a", ["a", "; b"], ";", Step("a; b", (0, 1), -1.5, STOP)),
        (";", "", ["a;b"], ";", Step(";", (0,), -1.0, STOP)),
        # blanks before the first separator: no step yet, which the caller sees
        (";", "", [";"], ";", Step(";", (0,), -1.0, STOP)),
    ],
)
def test_a_step_that_a_stop_string_ended(separator: str, text: str, tokens: list[str], stop: str, step: Step) -> None:
    choice = read_one(text, tokens or None, stop_reason=stop, token_ids=list(range(len(tokens))))
    assert steps_of(choice, separator, whole=False) == (step,)


def test_a_first_step_that_the_limit_met_at_its_end_is_complete() -> None:
    for tokens in (["a", ";"], None):
        choice = read_one("a;", tokens, finish="length")
        assert steps_of(choice, ";", whole=False)[0].stop is STOP
        assert steps_of(choice, ";", whole=True)[0].stop is LENGTH
    assert steps_of(read_one("a", finish="length"), ";", whole=False)[0].stop is LENGTH
    assert steps_of(read_one(" ;", finish="length"), ";", whole=False)[0].stop is LENGTH


@pytest.mark.parametrize(
    ("step", "separator", "complete"),
    [
        ("a;", ";", True),
        ("a", ";", False),
        (";", ";", False),
        (" ;\n;", ";", False),
        (";a;", ";", True),
        ("a\n\n", "\n\n", True),
        ("\n\na\n", "\n\n", False),
        ("\n\n\na\n\n", "\n\n", True),
        ("a; b", ";", True),
        ("a.", ".", True),
        ("...", ".", False),
        ("", ";", False),
    ],
)
def test_a_step_is_complete_with_a_separator_behind_more_than_blanks(step: str, separator: str, complete: bool) -> None:
    assert is_complete(step, separator) == complete


@pytest.mark.parametrize(
    ("text", "token_ends", "ends"),
    [
        ("a;b;c", [1, 2, 3, 4, 5], [2, 4, 5]),
        ("a;b;", [1, 2, 3, 4], [2, 4]),
        ("a;b;", [1, 2, 3, 4, 4], [2, 4, 5]),  # a token without text
        ("a;b;c", [4, 5], [1, 2]),
        ("a;b", [0, 0, 2, 2, 3], [3, 5]),
        ("", [0, 0], [2]),
        (";;a", [1, 2, 3], [3]),
    ],
)
def test_ends_are_counts_of_tokens(text: str, token_ends: list[int], ends: list[int]) -> None:
    assert ends_of_steps(text, token_ends, ";") == ends


# --- laws -------------------------------------------------------------------------------------------------------------

PIECES = [b"a", b"b", b" ", b";", b"\n", b"\n\n", b";\n", b"; a", b"\xc3\xa9", b"\xe2\x86\x92", b"ab", b"a;b;"]
BROKEN = [b"\xc3", b"\xa9", b"\xe2\x86", b"\x92", b";\xc3", b"\xf0\x9f", b"\x98\x80", b"\xa9;"]
CUT_CHARACTERS = [
    *([b"a"], [b";"], [b" "], [b"ab"], [b"\xc3\xa9"], [b"\xc3", b"\xa9"], [b"\xe2\x86", b"\x92"]),
    *([b"\xe5", b"\xa5", b"\xbd"], [b"a\xc3", b"\xa9"], [b";\xc3", b"\xa9"], [b"\xc3", b"\xa9;"]),
    *([b"\xc3", b"\xa9b"], [b"\xf0\x9f", b"\x98\x80"], [b"\xf0", b"\x9f", b"\x98", b"\x80"]),
]
"characters, some of them over several tokens"
SEPARATORS = [";", "\n\n", "é", "→", "; a", "b;"]


def drawn(ids: Sequence[int], *, finished: bool) -> tuple[str, list[str], Choice]:
    """The text of these tokens, the text of each by itself, and the choice that a server would make of them."""
    pieces = [*PIECES, *BROKEN]
    text = b"".join(pieces[id] for id in ids).decode("utf-8", errors="replace")
    tokens = [pieces[id].decode("utf-8", errors="replace") for id in ids] + ["<eos>"] * finished
    token_ids = [*ids, *[99] * finished]
    return text, tokens, read_one(text, tokens, finish="stop" if finished else "length", token_ids=token_ids)


@given(st.lists(st.integers(0, len(PIECES) + len(BROKEN) - 1), min_size=1, max_size=24), st.booleans(),
       st.sampled_from(SEPARATORS))  # fmt: skip
def test_steps_are_the_text_and_share_its_tokens(ids: list[int], finished: bool, separator: str) -> None:
    text, tokens, choice = drawn(ids, finished=finished)
    steps = steps_of(choice, separator, whole=True)
    assert "".join(step.text for step in steps) == text
    assert [id for step in steps for id in step.token_ids] == [*ids, *[99] * finished]
    log_priors = [step.log_prior for step in steps if step.log_prior is not None]
    assert math.fsum(log_priors) == pytest.approx(math.fsum(log_probs_of(tokens)), abs=1e-4)
    assert [step.stop for step in steps] == [STOP] * (len(steps) - 1) + [EOS if finished else LENGTH]
    for step in steps[:-1]:
        assert is_complete(step.text, separator)
    bare = steps_of(read_one(text, finish=choice.finish), separator, whole=True)
    assert "".join(texts(bare)) == text


@given(st.lists(st.integers(0, len(PIECES) - 1), min_size=1, max_size=24), st.booleans(), st.sampled_from(SEPARATORS))
def test_cuts_are_those_of_a_local_model(ids: list[int], finished: bool, separator: str) -> None:
    """Of tokens that cut no character, which are all that a server shows faithfully."""
    _, _, choice = drawn(ids, finished=finished)
    ids = [*ids, *[99] * finished]
    steps = steps_of(choice, separator, whole=True)

    def decode(some: Sequence[int]) -> str:
        return b"".join(PIECES[id] for id in some if id != 99).decode()

    splitter = StepSplitter(decode, separator, frozenset([99]))
    ends = splitter.split(ids)
    sizes = [len(step.token_ids) for step in steps]
    assert [sum(sizes[: place + 1]) for place in range(len(sizes))] == ends
    assert texts(steps) == splitter.texts(ids, ends)


@given(st.lists(st.sampled_from(CUT_CHARACTERS), min_size=1, max_size=16), st.booleans())
def test_cuts_are_those_of_a_local_model_where_tokens_cut_characters(groups: list[list[bytes]], finished: bool) -> None:
    """As long as the separator is not cut: whatever tokens hide, one that shows it ends the same step."""
    table = sorted({piece for group in CUT_CHARACTERS for piece in group})
    ids = [table.index(piece) for group in groups for piece in group]

    def decode(some: Sequence[int]) -> str:
        return b"".join(table[id] for id in some if id != 99).decode("utf-8", errors="replace")

    choice = read_one(
        decode(ids), [decode([id]) for id in ids] + ["<eos>"] * finished, finish="stop" if finished else "length"
    )
    splitter = StepSplitter(decode, ";", frozenset([99]))
    ids += [99] * finished
    ends = splitter.split(ids)
    assert texts(steps_of(choice, ";", whole=True)) == splitter.texts(ids, ends)
    sizes = steps_of(replace(choice, token_ids=tuple(ids)), ";", whole=True)
    assert [len(step.token_ids) for step in sizes] == [end - start for start, end in pairwise([0, *ends])]
