"""The shipped models behind OpenAI's client: search beats the bare proposer, and scores are the model's own."""

import asyncio
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import openai
import pytest
from serving import HTTP, client, running

from arts.build import build_task
from arts.cli.serve import build_service
from arts.proposers.sampling import Sampling
from arts.serve.app import build_app
from arts.serve.limits import Limits
from arts.tasks.countdown import CountdownTask

TASK = CountdownTask()
NUM_PROBLEMS = 40


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    service = build_service("countdown", "countdown", build_task("countdown"), sampling=Sampling(), limits=Limits())
    with running(build_app(service), service) as address:
        yield address


def ask_all(url: str, model: str, problems: list[str]) -> list[Any]:
    """All at the same time, as a server is asked."""

    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=100) as asking:
            return await asyncio.gather(
                *(
                    asking.chat.completions.create(
                        model=model, messages=[{"role": "user", "content": one}], seed=number
                    )
                    for number, one in enumerate(problems)
                )
            )

    return asyncio.run(ask())


@pytest.mark.timeout(300)  # half a minute on a free core, nearly all of it the model's
def test_best_of_16_answers_better_than_the_bare_proposer(url: str) -> None:
    """The same client, the same problems, another model's name; 95% interval of the paired difference."""
    problems = [problem.prompt for problem in islice(TASK.problems("test", 5), NUM_PROBLEMS)]
    right = {}
    for model in ("countdown", "arts-best-of-16"):
        answers = ask_all(url, model, problems)
        texts = [answer.choices[0].message.content for answer in answers]
        verdicts = [TASK.judge(TASK.parse(one), text) for one, text in zip(problems, texts, strict=True)]
        right[model] = np.array([verdict.correct for verdict in verdicts], dtype=float)
        assert [answer.model_extra["arts"]["verdict"]["correct"] for answer in answers] == right[model].tolist()
    gain = right["arts-best-of-16"] - right["countdown"]
    rng = np.random.default_rng(0)
    means = gain[rng.integers(0, NUM_PROBLEMS, (10_000, NUM_PROBLEMS))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    means_of = {model: round(float(values.mean()), 3) for model, values in right.items()}
    print(means_of, f"gain {gain.mean():.3f} [{low:.3f}, {high:.3f}]")
    assert low > 0.1


def test_a_local_model_that_is_asked_by_itself_gives_a_plain_sample(url: str) -> None:
    answer = client(url).chat.completions.create(
        model="countdown", messages=[{"role": "user", "content": "3 5 7 11 > 24"}], seed=1
    )
    said = dict((answer.model_extra or {})["arts"])
    assert (said["strategy"], said["draws"], said["confidence"]) == ("sample", 1, None)
    assert answer.usage is not None and (answer.usage.model_extra or {})["verifier_tokens"] == 0
    cut = client(url).chat.completions.create(
        model="countdown", messages=[{"role": "user", "content": "3 5 7 11 > 24"}], seed=1, max_tokens=5
    )
    assert cut.choices[0].finish_reason == "length"
    whole, part = answer.choices[0].message.content or "", cut.choices[0].message.content or ""
    assert whole.startswith(part) and len(part) < len(whole)


def test_sampling_of_a_local_model_is_as_the_server_was_started(url: str) -> None:
    ask = client(url).chat.completions.create
    message: Any = [{"role": "user", "content": "3 5 7 11 > 24"}]
    assert ask(model="arts-best-of-2", messages=message, temperature=1.0, top_p=1.0).choices
    with pytest.raises(openai.BadRequestError, match="temperature is 1 on this server"):
        ask(model="arts-best-of-2", messages=message, temperature=0.5)
    with pytest.raises(openai.BadRequestError, match="presence_penalty is not known to the local model"):
        ask(model="arts-best-of-2", messages=message, presence_penalty=0.5)


def test_scores_are_those_that_the_search_saw(url: str) -> None:
    """Texts of steps that a search drew, scored on their own: their tokens are cut anew, and are the same."""
    message = [{"role": "user", "content": "3 5 7 11 > 24"}]
    found = client(url).chat.completions.create(
        model="arts-beam",
        messages=message,
        seed=1,
        extra_body={"arts": {"tree": True}},  # type: ignore[arg-type]
    )
    tree = dict((found.model_extra or {})["arts"])["tree"]["nodes"]
    prefixes, expected = [], []
    for node in tree[1:]:
        path = [node]
        while path[0]["parent"]:
            path.insert(0, tree[path[0]["parent"]])
        if all(one["log_flow"] is not None for one in path):
            prefixes.append({"steps": [one["text"] for one in path], "finished": node["stop"] == "eos"})
            expected.append([one["log_flow"] for one in path])
    answer = HTTP.post(f"{url}/v1/score", json={"messages": message, "prefixes": prefixes}).json()
    assert len(answer["data"]) == len(prefixes) > 10
    for row, flows in zip(answer["data"], expected, strict=True):
        assert [step["log_flow"] for step in row["steps"]] == pytest.approx(flows, abs=1e-4)
        assert row["log_flow"] == row["steps"][-1]["log_flow"]
        assert row["value"] == pytest.approx((math.exp(row["log_flow"]) - 0.1) / 9.9, abs=1e-6)


def test_a_text_is_cut_into_the_steps_that_it_has(url: str) -> None:
    message = [{"role": "user", "content": "3 5 7 11 > 24"}]
    text = "11-5=6|3 6 7;7-3=4|4 6;6*4=24|24"
    prefixes: list[Any] = ["", "11-5=6|3 6 7;", {"text": text, "finished": True}, {"text": text}]
    answer = HTTP.post(f"{url}/v1/score", json={"messages": message, "prefixes": prefixes}).json()
    assert [[step["text"] for step in row["steps"]] for row in answer["data"]] == [
        [],
        ["11-5=6|3 6 7;"],
        ["11-5=6|3 6 7;", "7-3=4|4 6;", "6*4=24|24"],
        ["11-5=6|3 6 7;", "7-3=4|4 6;", "6*4=24|24"],
    ]
    assert answer["data"][2]["value"] > 0.5
    assert answer["usage"]["verifier_tokens"] >= 0
    assert answer["scale"]["kind"] == "log_flow"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prefixes": []}, "at least 1 item"),
        ({"prefixes": ["x"] * 300}, "at most 256 prefixes"),
        ({"prefixes": [{"finished": True}]}, "either text or steps"),
        ({"prefixes": ["1" * 5000]}, "the verifier's context is"),
        ({"messages": [{"role": "user", "content": "hello"}]}, "not a Countdown problem"),
        ({"more": 1}, "not permitted"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_advice(url: str, change: dict[str, Any], message: str) -> None:
    body = {"messages": [{"role": "user", "content": "3 5 7 11 > 24"}], "prefixes": ["x"], **change}
    answer = HTTP.post(f"{url}/v1/score", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and message in error["message"], answer.text
    assert (error["code"] == "context_length_exceeded") is ("context" in message)
