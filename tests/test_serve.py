"""`arts serve` before a fake model server: OpenAI's client works unchanged, streams are live, leaving frees all."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from fake_server import Settings
from servers import Running
from serving import HTTP, TASK, client, exact_value, local_service, served, sums_scorer, toy_message, wait_until

from arts.proposers.table import TableProposer
from arts.search.strategies import STRATEGIES
from arts.search.strategies.pool import Majority
from arts.serve.errors import ApiError
from arts.serve.names import listed_models, strategy_of_model
from arts.serve.plan import _fields as plan_fields
from arts.serve.service import Service
from arts.tasks.conversation import ConversationTask
from arts.tree import text_of

Served = tuple[Running, Service, str]
EVENT = ": arts "


@pytest.fixture(scope="module")
def toy() -> Iterator[Served]:
    with served() as parts:
        yield parts


@pytest.fixture(scope="module")
def chat() -> Iterator[Served]:
    """Conversations of any kind, before a server that adds up sums."""
    with served(Settings(model="sums", token_ids=False), task=ConversationTask(), scorer=sums_scorer()) as parts:
        yield parts


SUM = "What is 12 + 5 - 3 + 8?\n\nReason step by step, and put your final answer within \\boxed{}."


def about(value: Any) -> dict[str, Any]:
    """Our own field of an answer of OpenAI's client."""
    return dict(value.model_extra["arts"])


def lines(url: str, body: dict[str, Any]) -> Iterator[str]:
    with HTTP.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=30) as answer:
        assert answer.status_code == 200, answer.read()
        yield from (line for line in answer.iter_lines() if line)


def events(found: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix(EVENT)) for line in found if line.startswith(EVENT)]


# --- models and answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "strategy", "size"),
    [
        ("arts-search", "arts", ("n", 64)),
        ("arts-best-of-16", "best-of-n", ("n", 16)),
        ("arts-best-of-3", "best-of-n", ("n", 3)),
        ("arts-best-of-n-5", "best-of-n", ("n", 5)),
        ("arts-majority-32", "majority", ("n", 32)),
        ("arts-beam", "beam", ("width", 4)),
        ("arts-beam-7", "beam", ("width", 7)),
        ("arts-dvts-2", "dvts", ("subtrees", 2)),
        ("arts-flow-sampling-3", "flow-sampling", ("paths", 3)),
        ("arts-dts-star", "dts-star", ("n", 64)),
    ],
)
def test_a_models_name_chooses_strategy_and_size(name: str, strategy: str, size: tuple[str, int]) -> None:
    chosen = strategy_of_model(name)
    assert chosen is not None and (chosen.id, getattr(chosen, size[0])) == (strategy, size[1])


@pytest.mark.parametrize("name", ["gpt-5", "arts", "arts-", "arts-nonesuch", "arts-nonesuch-3", "arts-best-of-many"])
def test_other_names_choose_none(name: str) -> None:
    assert strategy_of_model(name) is None


def test_every_strategy_has_a_name_that_is_listed(toy: Served) -> None:
    names = [model.id for model in client(toy[2]).models.list()]
    assert names == ["toy", *listed_models()]
    chosen = {strategy.id for name in names[1:] if (strategy := strategy_of_model(name)) is not None}
    assert chosen == set(STRATEGIES)


def test_a_model_can_be_looked_up_by_its_name(toy: Served) -> None:
    for name in ("toy", "arts-search", "arts-best-of-32"):
        assert client(toy[2]).models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError, match=r"no such model here; try toy, arts-search, .*, arts-weighted-vote"):
        client(toy[2]).models.retrieve("openai/gpt-5")
    with pytest.raises(openai.NotFoundError, match="n is 999; at most 256 here"):
        client(toy[2]).models.retrieve("arts-best-of-999")
    with served(scorer=None) as (_, _, url), pytest.raises(openai.NotFoundError, match="beam needs a verifier"):
        client(url).models.retrieve("arts-beam")


@pytest.mark.parametrize("name", ["arts-best-of-8", "arts-search", *sorted(set(listed_models()) - {"arts-search"})])
def test_openais_client_gets_a_finished_answer_of_every_strategy(toy: Served, name: str) -> None:
    answer = client(toy[2]).chat.completions.create(model=name, messages=toy_message(), seed=1)
    choice, said = answer.choices[0], about(answer)
    assert (choice.finish_reason, choice.message.role, answer.model) == ("stop", "assistant", name)
    assert choice.message.content
    exact_value("toy 3x3 seed 1", choice.message.content)  # it is a path of the tree
    assert said["finished"] and not said["cut_short"]
    assert said["verdict"]["correct"] is TASK.judge(TASK.parse("toy 3x3 seed 1"), choice.message.content).correct
    assert answer.usage is not None and answer.usage.completion_tokens > 0
    assert 0 <= said["confidence"] <= 1


def test_confidence_is_what_the_verifier_says_of_the_chosen_answer(toy: Served) -> None:
    for seed in range(5):
        answer = client(toy[2]).chat.completions.create(
            model="arts-best-of-4", messages=toy_message(seed), seed=seed, extra_body={"arts": {"tree": True}}
        )
        said, text = about(answer), answer.choices[0].message.content
        assert said["confidence_is"] == "value"
        assert said["confidence"] == pytest.approx(exact_value(f"toy 3x3 seed {seed}", text or ""), abs=1e-9)
        nodes, scores = said["tree"]["nodes"], []
        for node in nodes:
            assert node["parent"] < node["id"]
            if node["stop"] == "eos":
                scores.append(node["log_flow"])
        assert said["log_flow"] == max(scores) == nodes[said["tree"]["answer"]]["log_flow"]


def test_votes_have_their_share_as_confidence(toy: Served) -> None:
    answer = client(toy[2]).chat.completions.create(
        model="arts-majority-16", messages=toy_message(), seed=3, extra_body={"arts": {"tree": True}}
    )
    said = about(answer)
    ends = [node for node in said["tree"]["nodes"] if node["stop"] == "eos"]
    assert said["confidence_is"] == "share of votes"
    assert said["confidence"] == max(node["draws"] for node in ends) / sum(node["draws"] for node in ends)
    assert answer.usage is not None and answer.usage.model_extra == {"verifier_tokens": 0}


def test_equal_seeds_give_equal_answers_and_the_seed_is_told(toy: Served) -> None:
    def ask(**options: Any) -> Any:
        return client(toy[2]).chat.completions.create(model="arts-best-of-8", messages=toy_message(), **options)

    first = ask()
    again = ask(seed=about(first)["seed"])
    assert again.choices == first.choices and again.usage == first.usage
    assert len({about(ask())["seed"] for _ in range(3)}) == 3


def test_usage_is_the_bill_of_the_server_behind(toy: Served) -> None:
    upstream, _, url = toy
    upstream.app.rows.clear()
    answer = client(url).chat.completions.create(model="arts-best-of-16", messages=toy_message(9))
    assert answer.usage is not None
    assert answer.usage.completion_tokens == sum(sum(row["tokens"]) for row in upstream.app.rows)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert about(answer)["requests"] == len(upstream.app.rows)


def test_strategy_and_budget_come_in_our_own_field_too(toy: Served) -> None:
    body = {"arts": {"strategy": "self-consistency:n=64,window=2", "budget_tokens": 40}}
    answer = client(toy[2]).chat.completions.create(model="arts-search", messages=toy_message(), extra_body=body)
    said = about(answer)
    assert said["strategy"] == "self-consistency"
    assert answer.usage is not None and answer.usage.completion_tokens <= 40


def test_completions_take_the_prompt_as_the_problem(toy: Served) -> None:
    ask = client(toy[2]).completions.create
    answer = ask(model="arts-best-of-4", prompt="toy 3x3 seed 1", seed=1)
    assert answer.object == "text_completion" and answer.choices[0].finish_reason == "stop"
    assert ask(model="arts-best-of-4", prompt=["toy 3x3 seed 1"], seed=1).choices == answer.choices
    pieces = list(ask(model="arts-best-of-4", prompt="toy 3x3 seed 1", seed=1, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == answer.choices[0].text


def test_an_answer_that_no_draw_finished_is_marked_as_cut(toy: Served) -> None:
    answer = client(toy[2]).chat.completions.create(model="arts-best-of-4", messages=toy_message(), max_tokens=2)
    said = about(answer)
    assert answer.choices[0].finish_reason == "length"
    assert (said["finished"], said["confidence"], said["verdict"]) == (False, None, None)


# --- conversations ----------------------------------------------------------------------------------------------------


def test_a_conversation_reaches_the_server_as_it_is(chat: Served) -> None:
    upstream, _, url = chat
    seen: list[dict[str, Any]] = []
    read = upstream.app._read

    def keep(body: dict[str, Any], chat: bool) -> tuple[str, str]:
        seen.append(body)
        return read(body, chat)

    upstream.app._read = keep  # type: ignore[method-assign]
    messages: list[Any] = [
        {"role": "system", "content": "Be brief.", "name": "boss"},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": SUM},
    ]
    try:
        answer = client(url).chat.completions.create(
            model="arts-majority-4",
            messages=messages,
            temperature=0.7,
            presence_penalty=0.1,
            response_format={"type": "json_object"},
        )
    finally:
        upstream.app._read = read  # type: ignore[method-assign]
    assert seen and all(body["messages"] == messages for body in seen)
    given = {(body["temperature"], body["presence_penalty"], body["response_format"]["type"]) for body in seen}
    assert given == {(0.7, 0.1, "json_object")}
    assert about(answer)["verdict"] is None  # nobody can check it, and nobody says so
    assert "\\boxed{" in (answer.choices[0].message.content or "")


def test_steps_of_a_conversation_go_on_where_they_were_cut(chat: Served) -> None:
    answer = client(chat[2]).chat.completions.create(
        model="arts-beam", messages=[{"role": "user", "content": SUM}], extra_body={"arts": {"tree": True}}
    )
    nodes = about(answer)["tree"]["nodes"]
    assert max(len(node["text"]) for node in nodes) < 40  # single steps
    assert {node["text"][-2:] for node in nodes[1:] if node["stop"] == "stop"} == {"\n\n"}
    assert all(node["verdict"] is None for node in nodes)


def test_images_go_to_strategies_that_vote_and_no_others(chat: Served) -> None:
    parts: Any = [
        {"type": "text", "text": SUM},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
    ]
    with pytest.raises(openai.BadRequestError, match="reads text only"):
        client(chat[2]).chat.completions.create(model="arts-beam", messages=[{"role": "user", "content": parts}])
    assert text_of(parts) == SUM


# --- passing through --------------------------------------------------------------------------------------------------


def test_the_base_model_is_passed_through_untouched(toy: Served) -> None:
    upstream, _, url = toy
    seen: list[dict[str, Any]] = []
    choices = upstream.app._choices

    async def instead(path: str, body: dict[str, Any], fault: str | None, answer: Any) -> None:
        seen.append({"path": path, **body})
        await answer.json(
            200, {"id": "theirs", "object": "chat.completion", "created": 1, "model": "toy", "choices": []}
        )

    upstream.app._choices = instead  # type: ignore[method-assign]
    given: dict[str, Any] = {
        "model": "toy",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {}}]}
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "n": 3,
        "response_format": {"type": "json_object"},
        "max_tokens": 5,
        "top_logprobs": 2,
    }
    try:
        answer = client(url).chat.completions.create(**given)
    finally:
        upstream.app._choices = choices  # type: ignore[method-assign]
    assert answer.id == "theirs"
    assert seen == [{"path": "/v1/chat/completions", **given}]


def test_the_stream_of_the_base_model_is_the_servers_own(toy: Served) -> None:
    upstream, service, url = toy
    choices = upstream.app._choices
    may_end = asyncio.Event()

    async def instead(path: str, body: dict[str, Any], fault: str | None, answer: Any) -> None:
        await answer.start(200, {"Content-Type": "text/event-stream"})
        piece = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "toy", "choices": []}
        await answer.part(f"data: {json.dumps(piece)}\n\n".encode(), more=True)
        await may_end.wait()
        await answer.part(b"data: [DONE]\n\n")

    upstream.app._choices = instead  # type: ignore[method-assign]
    try:
        stream = client(url).chat.completions.create(model="toy", messages=toy_message(), max_tokens=4, stream=True)
        assert next(stream).id == "1"  # before the server has ended
        assert upstream.app.in_flight == 1
        stream.close()
        wait_until(lambda: service._proposer.client._in_flight == 0, "it did not let go")  # type: ignore[attr-defined]
    finally:
        upstream.app._choices = choices  # type: ignore[method-assign]


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_server_refuses_is_the_clients_to_mend(toy: Served, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match="max_tokens is above max_model_len"):
        client(toy[2]).chat.completions.create(model="toy", messages=toy_message(), max_tokens=10**6, stream=stream)


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_gives_the_winner_step_by_step_and_openais_client_sees_nothing_else(toy: Served) -> None:
    ask = client(toy[2]).chat.completions.create
    whole = ask(model="arts-best-of-8", messages=toy_message(), seed=5)
    pieces = list(
        ask(model="arts-best-of-8", messages=toy_message(), seed=5, stream=True, stream_options={"include_usage": True})
    )
    texts = [piece.choices[0].delta.content for piece in pieces if piece.choices]
    text = whole.choices[0].message.content or ""
    steps = [f"{step};" for step in text.split(";")[:-1]] + [text.rpartition(";")[2]]
    assert [one for one in texts if one] == [step for step in steps if step]
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[-2].choices[0].finish_reason == "stop"
    mine, theirs = (
        {name: value for name, value in about(one).items() if name != "elapsed_s"} for one in (pieces[-2], whole)
    )
    assert mine == theirs
    assert pieces[-1].usage == whole.usage and not pieces[-1].choices
    assert len({piece.id for piece in pieces}) == 1


def test_the_first_progress_comes_before_the_servers_last_reply() -> None:
    with served(Settings(n=False, capacity=4), then={"latency_s": 0.1}) as (upstream, _, url):
        upstream.app.rows.clear()
        body = {"model": "arts-best-of-16", "messages": toy_message(), "stream": True}
        seen = [(len(upstream.app.rows), line) for line in lines(url, body)]
    first = next(replies for replies, line in seen if '"progress"' in line)
    assert 1 <= first < 16 == len(upstream.app.rows)
    progress = events([line for _, line in seen])
    draws = [event["draws"] for event in progress if event["event"] == "progress"]
    assert draws == sorted(draws) and 0 < draws[0] < 16
    assert progress[0] == {"event": "started"}
    assert seen[-1][1] == "data: [DONE]"


def test_tree_events_add_up_to_the_tree(toy: Served) -> None:
    options = {"events": "tree", "tree": True}
    body = {"model": "arts-beam", "messages": toy_message(), "stream": True, "seed": 4, "arts": options}
    found = list(lines(toy[2], body))
    grown: dict[int, dict[str, Any]] = {}
    for event in events(found):
        for node in event.get("nodes", ()):
            assert node["id"] == len(grown)
            grown[node["id"]] = node
        for change in event.get("changes", ()):
            grown[change["id"]] |= change
    last = json.loads(found[-2].removeprefix("data: "))
    assert list(grown.values()) == last["arts"]["tree"]["nodes"]
    assert len([event for event in events(found) if event.get("nodes")]) > 1


def test_no_events_where_none_are_wanted(toy: Served) -> None:
    body = {"model": "arts-beam", "messages": toy_message(), "stream": True, "arts": {"events": "none"}}
    assert all(line.startswith("data: ") for line in lines(toy[2], body))


# --- clients that leave -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_requests_and_frees_its_place(stream: bool) -> None:
    slow = {"latency_s": 0.1}
    with served(Settings(n=False, capacity=2), then=slow, options="&max_in_flight=2") as (upstream, service, url):
        body = {"model": "arts-best-of-64", "messages": toy_message(), "stream": stream}

        async def leave() -> None:
            async with httpx.AsyncClient() as http:
                asking = asyncio.ensure_future(http.post(f"{url}/v1/chat/completions", json=body, timeout=30))
                while len(upstream.app.rows) < 3:
                    await asyncio.sleep(0.01)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)

        asyncio.run(leave())
        wait_until(lambda: service.gate.num_inside == 0, "its place is still taken")
        wait_until(lambda: not service.engine._tickets, "the search still runs")
        wait_until(lambda: upstream.app.in_flight == 0, "requests are still in flight")
        time.sleep(0.3)  # the fake server goes on with what it was sent before
        sent = len(upstream.app.rows)
        time.sleep(0.3)
        assert len(upstream.app.rows) == sent < 16
        assert service.engine._loop._flying == {}  # type: ignore[attr-defined]
        answer = client(url).chat.completions.create(model="arts-best-of-1", messages=toy_message())
        assert answer.choices[0].message.content  # and others are served


def test_closing_a_stream_of_openais_client_cancels_the_search() -> None:
    with served(Settings(n=False, capacity=2), then={"latency_s": 0.1}) as (upstream, service, url):
        stream = client(url).chat.completions.create(model="arts-best-of-64", messages=toy_message(), stream=True)
        reading = threading.Thread(target=lambda: next(stream, None), daemon=True)
        wait_until(lambda: len(upstream.app.rows) >= 2, "nothing was asked for")
        stream.close()
        wait_until(lambda: service.gate.num_inside == 0, "its place is still taken")
        assert not reading.is_alive() and len(upstream.app.rows) < 64


def test_fields_of_zero_reach_the_server_and_empty_ones_of_other_forms_do_not() -> None:
    body = {"temperature": 0, "top_k": 0, "enable_thinking": False, "min_p": 0.1, "tools": [], "logprobs": False}
    upstream = replace(local_service(TableProposer()).offer, upstream=True)
    here = local_service(TableProposer()).offer
    wanted = plan_fields(body, Majority(n=2), upstream)
    assert wanted == {"temperature": 0, "top_k": 0, "enable_thinking": False, "min_p": 0.1}
    with pytest.raises(ApiError, match="temperature is 1 on this server"):
        plan_fields({"temperature": 0}, Majority(n=2), here)
    # its_hub sends an empty `extra_body` with every request
    assert plan_fields({"presence_penalty": 0, "logit_bias": {}, "extra_body": {}}, Majority(n=2), here) == {}
