"""What a server can do is found out by asking it, and draws are the same whichever way is left to ask for them."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from fake_server import Answer, Model, Settings
from servers import Running, fake_server

from arts.net.client import Client, ServerUnavailable
from arts.net.flow_control import Patience
from arts.proposers.capabilities import Capabilities
from arts.proposers.openai_http import OpenAIProposer, ServerSettings
from arts.proposers.probe import find_model, measure_load, probe
from arts.proposers.sampling import Sampling
from arts.proposers.table import TableProposer
from arts.protocols import Reply, Request
from arts.tasks.toy import STEP_SEPARATOR, ToyTask, toy_tree
from arts.tree import Problem, Step, StopReason, Usage

TASK = ToyTask(3, 3)
PROBLEM = TASK.parse("toy 3x3 seed 5")
PATIENCE = Patience(first_wait_s=0.01, longest_wait_s=0.05, first_contact_s=0.5, max_attempts=4)
SEEDS = tuple(1 << 62 | seed * 0x9E3779B97F4A7C15 % (1 << 62) for seed in range(1, 21))
"as a program draws them: 63 bits"


class Letters:
    """The fake server's tokenizer, as if it were on this machine."""

    fingerprint = "letters"

    def prompt_text(self, messages: list[dict[str, str]]) -> str:
        return messages[-1]["content"]

    def prompt_ids(self, messages: list[dict[str, str]]) -> list[int]:
        return Model().prompt_ids(self.prompt_text(messages))


Serve = Callable[..., AbstractContextManager[Running]]


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    """A server of these settings; the next test that asks for the same gets the same one, as if it were new."""
    servers: dict[str, Running] = {}

    @contextmanager
    def serve(settings: Settings | None = None) -> Iterator[Running]:
        settings = settings or Settings()
        if repr(settings) not in servers:
            servers[repr(settings)] = stack.enter_context(fake_server(settings))
        running = servers[repr(settings)]
        plain = vars(running.app).copy(), vars(running.app.model).copy()
        try:
            yield running
        finally:
            for changed, was in zip((running.app, running.app.model), plain, strict=True):
                vars(changed).clear()
                vars(changed).update(was)
            running.app.rows.clear()

    with ExitStack() as stack:
        yield serve


@contextmanager
def client_of(running: Running, **options: Any) -> Iterator[Client]:
    client = Client(running.url, **{"patience": PATIENCE, "timeout_s": 8.0, **options})
    try:
        yield client
    finally:
        client.close()


def capabilities_of(running: Running, *, model: str | None = None, tokenizer: Letters | None = None) -> Capabilities:
    with client_of(running, key=running.app.settings.key) as client:
        return client.run(probe(client, model, PROBLEM.prompt, tokenizer=tokenizer))


def change_choices(running: Running, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Make the server say something else. Called with the request and each choice of its answer."""
    plain = running.app._choice

    def choice(body: dict[str, Any], *rest: Any) -> dict[str, Any]:
        found = plain(body, *rest)
        change(body, found)
        return found

    running.app._choice = choice  # type: ignore[method-assign]


def change_answers(running: Running, path: str, status: int, said: Any) -> None:
    """Make it answer one path in one way."""
    plain = running.app._answer

    async def answer(asked: str, headers: dict[str, str], body: dict[str, Any], answer: Answer) -> None:
        if asked == path:
            return await answer.json(status, said)
        await plain(asked, headers, body, answer)

    running.app._answer = answer  # type: ignore[method-assign]


def script(running: Running, *faults: str | None) -> None:
    left = list(faults)
    running.app._fault = lambda: left.pop(0) if left else None  # type: ignore[method-assign]


# --- probing ----------------------------------------------------------------------------------------------------------

FULL = Capabilities(
    model="toy",
    server="fake",
    continuing="token_ids",
    chat=True,
    n=True,
    log_probs=True,
    log_prior_law="raw",
    stop_strings=True,
    says_stop=True,
    seed=True,
    samples=True,
    usage=True,
    extra_fields=True,
    max_context=4096,
)
BARE = Settings(
    n=False, log_probs=False, token_ids=False, says_stop=False, extra_fields=False, continues=False, usage=False
)
BY_MESSAGE = replace(FULL, continuing="continue_final_message")
TABLE: dict[str, tuple[Settings, Capabilities]] = {
    "all": (Settings(), FULL),
    "one choice": (Settings(n=False), replace(FULL, n=False)),
    # ids are of use only with the tokens that they belong to
    "no log-probabilities": (Settings(log_probs=False), replace(BY_MESSAGE, log_probs=False, log_prior_law=None)),
    "no ids": (Settings(token_ids=False), BY_MESSAGE),
    "no stop reason": (Settings(says_stop=False), replace(FULL, says_stop=False)),
    "strict": (Settings(extra_fields=False), replace(FULL, extra_fields=False, continuing="prefill")),
    "newer than max_tokens": (
        Settings(extra_fields=False, limit_field="max_completion_tokens"),
        replace(FULL, extra_fields=False, continuing="prefill", limit_field="max_completion_tokens"),
    ),
    "no chat of the middle": (Settings(continues=False), FULL),  # ids do
    "no way to go on": (Settings(continues=False, token_ids=False), replace(FULL, continuing="none")),
    "no usage": (Settings(usage=False), replace(FULL, usage=False)),
    "short": (Settings(max_model_len=99), replace(FULL, max_context=99)),
    "with a key": (Settings(key="sk-right"), FULL),
    "bare": (BARE, Capabilities(model="toy", server="fake", stop_strings=True, seed=True, max_context=4096)),
}


@pytest.mark.parametrize("name", TABLE)
def test_capabilities_are_those_of_the_server(serve: Serve, name: str) -> None:
    settings, expected = TABLE[name]
    with serve(settings) as running:
        assert capabilities_of(running) == expected
        assert len(running.app.rows) < 25  # questions are few


def test_a_tokenizer_at_hand_makes_up_for_what_a_server_does_not_tell(serve: Serve) -> None:
    with serve(Settings(token_ids=False, continues=False)) as running:
        assert capabilities_of(running, tokenizer=Letters()).continuing == "text"
    with serve() as running:
        change_answers(running, "/tokenize", 404, {})
        assert capabilities_of(running).continuing == "continue_final_message"
        assert capabilities_of(running, tokenizer=Letters()).continuing == "token_ids"


def test_faults_of_a_server_are_not_taken_for_what_it_can_do(serve: Serve) -> None:
    faults = {"429": 0.05, "500": 0.05, "truncated": 0.05, "reset": 0.05, "wrong count": 0.05}
    for seed in range(1, 4):
        with fake_server(Settings(faults=faults, seed=seed)) as running:
            assert capabilities_of(running) == FULL
            assert {row["fault"] for row in running.app.rows} > {None}


def test_one_answer_with_too_few_choices_proves_nothing(serve: Serve) -> None:
    with serve() as running:
        choices, left = running.app._choices, ["wrong count"] * 2

        async def few(path: str, body: dict[str, Any], fault: str | None, answer: Answer) -> None:
            await choices(path, body, left.pop() if body.get("n") == 4 and left else fault, answer)

        running.app._choices = few  # type: ignore[method-assign]
        assert capabilities_of(running) == FULL
        assert left == []


def test_a_server_that_begins_anew_does_not_go_on(serve: Serve) -> None:
    with serve(Settings(token_ids=False)) as running:
        running.app._read = lambda body, chat: (body["messages"][0]["content"], "")  # type: ignore[method-assign]
        assert capabilities_of(running) == replace(FULL, continuing="none")


def ignore_temperature(running: Running) -> None:
    draw = running.app.model.draw
    running.app.model.draw = lambda prompt, begun, seed, temperature: draw(prompt, begun, seed, 0)  # type: ignore[method-assign]


def ignore_seeds(running: Running) -> None:
    draw, seeds = running.app.model.draw, iter(range(1000))
    running.app.model.draw = lambda prompt, begun, seed, heat: draw(prompt, begun, next(seeds), heat)  # type: ignore[method-assign]


def ignore_stops(running: Running) -> None:
    plain = running.app._choice
    running.app._choice = lambda body, *rest: plain({**body, "stop": None}, *rest)  # type: ignore[method-assign]


def scale_log_probs(power: float) -> Callable[[Running], None]:
    """Log-probabilities of another law: those of T = 1 divided by T^power."""

    def change(body: dict[str, Any], choice: dict[str, Any]) -> None:
        temperature = body.get("temperature", 1.0) or 1.0
        found = choice.get("logprobs") or {}
        for row in found.get("content") or ():
            for one in [row, *row["top_logprobs"]]:
                one["logprob"] /= temperature**power
        if "token_logprobs" in found:
            found["token_logprobs"] = [value / temperature**power for value in found["token_logprobs"]]

    return lambda running: change_choices(running, change)


def forget_top_log_probs(running: Running) -> None:
    def change(body: dict[str, Any], choice: dict[str, Any]) -> None:
        for row in (choice.get("logprobs") or {}).get("content") or ():
            del row["top_logprobs"]

    change_choices(running, change)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (ignore_temperature, {"samples": False, "seed": False, "n": False}),
        (ignore_seeds, {"seed": False}),
        (ignore_stops, {"stop_strings": False, "says_stop": False}),
        (scale_log_probs(0.0), {}),
        (scale_log_probs(1.0), {"log_prior_law": "sampling"}),
        (scale_log_probs(0.5), {"log_prior_law": None}),
        (forget_top_log_probs, {"log_prior_law": None}),
    ],
)
def test_capabilities_of_servers_that_ignore_what_they_are_asked(
    serve: Serve, change: Callable[[Running], None], expected: dict[str, Any]
) -> None:
    with serve() as running:
        change(running)
        assert capabilities_of(running) == replace(FULL, **expected)


def test_a_base_model_has_no_chat(serve: Serve) -> None:
    with serve() as running:
        change_answers(running, "/v1/chat/completions", 400, {"error": {"message": "no chat template"}})
        found = capabilities_of(running)
        assert found == replace(FULL, chat=False, continuing="text", log_prior_law=None)
        assert found.route == "completions"


@pytest.mark.parametrize("status", [400, 500])
def test_a_server_that_answers_nothing_is_said_with_its_words(serve: Serve, status: int) -> None:
    with serve() as running:
        for path in ("/v1/chat/completions", "/v1/completions"):
            change_answers(running, path, status, {"error": {"message": f"no {path}"}})
        words = f"HTTP {status}: no /v1/chat"
        if status == 400:
            words = f"answers no request for model 'toy': .*{words}.*; .*no /v1/completions"
        with pytest.raises(ValueError, match=words):
            capabilities_of(running)


def test_a_wrong_key_is_no_capability(serve: Serve) -> None:
    with (
        serve(Settings(key="sk-right")) as running,
        client_of(running, key="sk-wrong") as client,
        pytest.raises(ServerUnavailable, match="the key was not accepted"),
    ):
        client.run(probe(client, None, PROBLEM.prompt))


@pytest.mark.parametrize(
    ("row", "context"),
    [
        ({"max_model_len": 77}, 77),
        ({"meta": {"n_ctx_train": 88}}, 88),
        ({"max_model_len": None, "meta": None}, None),
        ({"max_model_len": "many"}, None),
        ({"max_model_len": -1}, None),
    ],
)
def test_the_longest_context_is_what_the_server_lists(serve: Serve, row: dict[str, Any], context: int | None) -> None:
    with serve() as running:
        change_answers(running, "/v1/models", 200, {"data": [{"id": "toy", **row}]})
        assert capabilities_of(running).max_context == context


# --- finding the model ------------------------------------------------------------------------------------------------

ROWS = [{"id": "a", "owned_by": "vllm"}, {"id": "b", "owned_by": "vllm", "root": "org/b"}]


@pytest.mark.parametrize(
    ("status", "rows", "wanted", "found"),
    [
        (200, ROWS[:1], None, ROWS[0]),
        (200, ROWS, "b", ROWS[1]),
        (200, ROWS, "org/b", ROWS[1]),
        (200, [{"id": "a"}], "b", {"id": "b"}),  # some list only what they have loaded
        (200, [], "b", {"id": "b"}),
        (200, [{"id": "b@main", "owned_by": "vllm"}], "b", {"id": "b"}),
        (200, [{"id": 7}], None, {"id": "7"}),
        (404, [], "b", {"id": "b"}),
        (200, "none", "b", {"id": "b"}),
        (200, None, "b", {"id": "b"}),
        (200, [{"name": "a"}, "a"], "b", {"id": "b"}),
    ],
)
def test_a_model_is_found(serve: Serve, status: int, rows: Any, wanted: str | None, found: dict[str, str]) -> None:
    with serve() as running, client_of(running) as client:
        change_answers(running, "/v1/models", status, {"data": rows})
        assert client.run(find_model(client, wanted)) == found


@pytest.mark.parametrize(
    ("status", "rows", "wanted", "said"),
    [
        (200, ROWS, None, r"has the models a, b; name one: URL#MODEL"),
        (200, [], None, r"has the models none; name one"),
        (200, ROWS, "c", r"has no model 'c'; it has a, b"),
        (404, [], None, r"lists no models \(refused: HTTP 404.*\); name one: http.*/v1#MODEL"),
        (200, "none", None, r"has the models none; name one"),
        (200, [{"name": "a"}, {"id": "b"}, {"id": "c"}], None, r"has the models b, c; name one"),
    ],
)
def test_a_model_that_is_not_there_is_said(serve: Serve, status: int, rows: Any, wanted: str | None, said: str) -> None:
    with serve() as running, client_of(running) as client:
        change_answers(running, "/v1/models", status, {"data": rows})
        with pytest.raises(ValueError, match=said):
            client.run(find_model(client, wanted))


def test_models_may_be_a_bare_list(serve: Serve) -> None:
    with serve() as running, client_of(running) as client:
        change_answers(running, "/v1/models", 200, ROWS)
        assert client.run(find_model(client, "b")) == ROWS[1]


# --- load -------------------------------------------------------------------------------------------------------------


def test_load_is_measured_up_to_what_the_server_can_take(serve: Serve) -> None:
    settings = Settings(latency_s=0.05, capacity=4)
    with fake_server(settings) as running, client_of(running) as client:
        loads = client.run(measure_load(client, FULL, PROBLEM.prompt, most=64, max_tokens=6))
        assert [load.in_flight for load in loads[:4]] == [1, 2, 4, 8]
        assert loads[-1].in_flight < 64
        assert loads[2].requests_per_s > 2 * loads[0].requests_per_s
        assert all(load.requests_per_s <= 4 / settings.latency_s for load in loads)
        assert running.app.most_in_flight == loads[-1].in_flight


def test_load_is_measured_with_no_more_than_is_allowed(serve: Serve) -> None:
    with fake_server(Settings(latency_s=0.2)) as running, client_of(running) as client:  # long beside a busy machine's
        loads = client.run(measure_load(client, FULL, PROBLEM.prompt, most=4, max_tokens=6))
        assert [load.in_flight for load in loads] == [1, 2, 4]
        assert running.app.most_in_flight == 4


# --- draws ------------------------------------------------------------------------------------------------------------


@contextmanager
def proposing(
    running: Running,
    can: Capabilities | None = None,
    *,
    temperature: float = 1.0,
    tokenizer: Letters | None = None,
    **options: Any,
) -> Iterator[OpenAIProposer]:
    """Asks the server what it can do where that is not known."""
    found = can or capabilities_of(running, tokenizer=tokenizer)
    running.app.rows.clear()
    with client_of(running, key=running.app.settings.key) as client:
        yield OpenAIProposer(
            client,
            found,
            step_separator=STEP_SEPARATOR,
            sampling=Sampling(temperature=temperature),
            settings=ServerSettings(**options),
            tokenizer=tokenizer,
        )


def path_to(problem: Problem, text: str) -> tuple[Step, ...]:
    toy = toy_tree(problem)
    node = toy.find(text)
    assert node is not None
    return tuple(toy.step(one) for one in toy.path(node))


def table_draws(request: Request, draws_at_once: int, temperature: float = 1.0) -> list[tuple[Step, ...]]:
    """What the fake server's model draws: of the first seed of each group, in 31 bits, and its place in the group."""
    seeds = [
        (request.seeds[start] & 0x7FFFFFFF) + index
        for start in range(0, len(request.seeds), draws_at_once)
        for index in range(len(request.seeds[start : start + draws_at_once]))
    ]
    (reply,) = TableProposer(temperature=temperature).propose([replace(request, seeds=tuple(seeds))])
    return list(reply.draws)


def plain(draws: Sequence[tuple[Step, ...]], *, ids: bool = True, log_priors: bool = True) -> list[list[Step]]:
    """For comparing: without what a server does not tell, and with log-priors in the digits that are kept."""
    return [
        [
            step._replace(
                token_ids=step.token_ids if ids else (),
                log_prior=None if step.log_prior is None or not log_priors else round(step.log_prior, 6),
            )
            for step in steps
        ]
        for steps in draws
    ]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", TABLE)
def test_draws_are_those_of_the_model_from_the_seeds(serve: Serve, name: str, whole: bool) -> None:
    settings, can = TABLE[name]
    with serve(settings) as running, proposing(running, can) as proposer:
        prefixes = [()] if can.continuing == "none" else [(), path_to(PROBLEM, "b;"), path_to(PROBLEM, "c;a;")]
        requests = [Request(PROBLEM, prefix, SEEDS, 99, whole) for prefix in prefixes]
        requests.append(Request(TASK.parse("toy 3x3 seed 6"), (), SEEDS[:5], 99, whole))
        replies = proposer.propose(requests)
        with_ids = can.log_probs and settings.token_ids and can.extra_fields
        for request, reply in zip(requests, replies, strict=True):
            expected = table_draws(request, 16 if can.n else 1)
            wanted = plain(expected, ids=with_ids, log_priors=can.log_probs)
            assert plain(reply.draws) == wanted
            assert reply.failure == ""
        assert proposer.propose(requests[-1:])[0].draws == replies[-1].draws
        assert {row["begun"] for row in running.app.rows} == {"".join(s.text for s in prefix) for prefix in prefixes}


def test_siblings_are_drawn_by_one_request_where_the_server_can(serve: Serve) -> None:
    for n, at_once, sent in [(True, 16, [16, 4]), (True, 5, [5, 5, 5, 5]), (False, 16, [1] * 20)]:
        with serve(Settings(n=n)) as running, proposing(running, n=at_once) as proposer:
            (reply,) = proposer.propose([Request(PROBLEM, (), SEEDS, 99)])
            assert sorted(row["n"] for row in running.app.rows) == sorted(sent)
            assert proposer.draws_at_once == max(sent)
            assert reply.usage.requests == len(sent)
            expected = sorted(seed & 0x7FFFFFFF for seed in SEEDS[:: max(sent)])
            assert sorted(row["seed"] for row in running.app.rows) == expected


@pytest.mark.parametrize("says_stop", [True, False])
def test_one_step_ends_at_the_separator_whether_or_not_the_server_stops_there(serve: Serve, says_stop: bool) -> None:
    with serve(Settings(says_stop=says_stop)) as running, proposing(running) as proposer:
        (reply,) = proposer.propose([Request(PROBLEM, (), SEEDS, 99, whole=False)])
        assert all(len(steps) == 1 and steps[0].text in ("a;", "b;", "c;") for steps in reply.draws)
        assert {len(text) for row in running.app.rows for text in row["served"]} == ({2} if says_stop else {5})
        # what is drawn and thrown away is paid all the same
        assert reply.usage.generated_tokens == 20 * (2 if says_stop else 6)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("settings", [Settings(), Settings(says_stop=False), Settings(extra_fields=False)])
def test_token_limits_end_draws_as_with_a_local_model(serve: Serve, settings: Settings, whole: bool) -> None:
    with serve(settings) as running, proposing(running) as proposer:
        for prefix in ((), path_to(PROBLEM, "a;")):
            requests = [Request(PROBLEM, prefix, SEEDS[:4], limit, whole) for limit in range(1, 9)]
            for request, reply in zip(requests, proposer.propose(requests), strict=True):
                wanted = plain(table_draws(request, 16), ids=settings.extra_fields)
                assert plain(reply.draws) == wanted, request.max_new_tokens
        with pytest.raises(ValueError, match="max_new_tokens 0; it must be at least 1"):
            proposer.submit(Request(PROBLEM, (), (1,), 0))


@pytest.mark.parametrize("settings", [Settings(token_ids=False, continues=False), BARE])
def test_a_server_that_cannot_go_on_is_said_before_it_is_asked(serve: Serve, settings: Settings) -> None:
    with serve(settings) as running, proposing(running) as proposer:
        request = Request(PROBLEM, path_to(PROBLEM, "a;"), (1,), 99)
        for ask in (proposer.submit, lambda request: proposer.propose([request])):
            with pytest.raises(ValueError, match="cannot go on from the middle of an answer: neither by token ids nor"):
                ask(request)
        assert running.app.rows == []


@pytest.mark.parametrize("law_is_known", [True, False])
def test_a_path_is_never_left_out_where_its_ids_are_not_known(law_is_known: bool, serve: Serve) -> None:
    """As of steps that were drawn by text, or without log-probabilities, as nobody knows of what law they are."""
    with serve() as running:
        scale_log_probs(0.0 if law_is_known else 0.5)(running)
        with proposing(running, temperature=0.5) as proposer:
            assert proposer.capabilities.continuing == "token_ids"
            path: tuple[Step, ...] = (Step("b;", (), None, StopReason.STOP),)
            if not law_is_known:
                path = proposer.propose([Request(PROBLEM, (), (1,), 99)])[0].draws[0][:1]
            running.app.rows.clear()
            with suppress(ValueError):
                proposer.propose([Request(PROBLEM, path, (1,), 99)])
            assert {row["begun"] for row in running.app.rows} <= {path[0].text}


def test_a_tokenizer_lets_it_go_on_as_text(serve: Serve) -> None:
    settings = Settings(token_ids=False, continues=False)
    with serve(settings) as running, proposing(running, tokenizer=Letters()) as proposer:
        request = Request(PROBLEM, path_to(PROBLEM, "b;a;"), SEEDS, 99)
        (reply,) = proposer.propose([request])
        assert plain(reply.draws) == plain(table_draws(request, 16), ids=False)
        assert {row["begun"] for row in running.app.rows} == {"b;a;"}
        assert proposer.tokenizer_fingerprint is None  # it goes on by text, so that ids are nobody's


def test_ids_have_a_name_only_with_the_tokenizer_at_hand(serve: Serve) -> None:
    with serve() as running:
        with proposing(running) as proposer:
            assert proposer.tokenizer_fingerprint is None
        with proposing(running, tokenizer=Letters()) as proposer:
            assert proposer.tokenizer_fingerprint == "letters"


def test_fingerprints_name_what_draws_depend_on(serve: Serve) -> None:
    with serve() as running, client_of(running) as client:

        def fingerprint(can: Capabilities = FULL, temperature: float = 1.0, **options: Any) -> str:
            sampling = Sampling(temperature=temperature)
            settings = ServerSettings(**options)
            return OpenAIProposer(client, can, step_separator=";", sampling=sampling, settings=settings).fingerprint

        same = [fingerprint(), fingerprint(max_in_flight=3), fingerprint(timeout_s=1.0), fingerprint(max_attempts=1)]
        assert len(set(same)) == 1
        others = [
            fingerprint(replace(FULL, model="other")),
            fingerprint(BY_MESSAGE),
            fingerprint(temperature=0.5),
            fingerprint(system="Think."),
        ]
        assert len({*same, *others}) == 5


# --- the law of log-priors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("power", "law", "scale"),
    [(0.0, "raw", 1.0), (1.0, "sampling", 2.0), (0.5, "sampling", None)],
)
def test_log_priors_at_another_temperature_are_of_the_law_that_was_found(
    serve: Serve, power: float, law: str, scale: float | None
) -> None:
    """Those of nobody knows what are left out."""
    with serve(Settings(token_ids=False)) as running:
        scale_log_probs(power)(running)
        with proposing(running, temperature=0.5) as proposer:
            assert proposer.log_prior_law == law
            request = Request(PROBLEM, (), SEEDS, 99)
            (reply,) = proposer.propose([request])
            toy = toy_tree(PROBLEM)
            for steps, expected in zip(reply.draws, table_draws(request, 16, temperature=0.5), strict=True):
                assert [step.text for step in steps] == [step.text for step in expected]
                node = toy.find("".join(step.text for step in steps))
                assert node is not None
                for step, own in zip(steps, toy.path(node), strict=True):
                    raw = math.log(toy.probabilities[own])
                    assert step.log_prior == (None if scale is None else pytest.approx(scale * raw, abs=1e-5))
            assert {row["logprobs"] for row in running.app.rows} == {scale is not None}


def test_log_priors_at_temperature_one_need_no_law(serve: Serve) -> None:
    with serve() as running:
        scale_log_probs(0.5)(running)
        with proposing(running) as proposer:
            assert (proposer.capabilities.log_prior_law, proposer.log_prior_law) == (None, "raw")
            request = Request(PROBLEM, (), SEEDS, 99)
            assert plain(proposer.propose([request])[0].draws) == plain(table_draws(request, 16))


# --- usage ------------------------------------------------------------------------------------------------------------


def test_usage_is_what_the_server_counted(serve: Serve) -> None:
    with serve() as running, proposing(running, FULL) as proposer:
        (reply,) = proposer.propose([Request(PROBLEM, path_to(PROBLEM, "b;"), SEEDS, 99)])
        prompt = len(PROBLEM.prompt) + len("b;")
        assert reply.usage == Usage(2 * prompt, 20 * 4, requests=2)


@pytest.mark.parametrize("log_probs", [True, False])
def test_usage_that_the_server_does_not_tell_is_estimated_and_marked(serve: Serve, log_probs: bool) -> None:
    settings = Settings(usage=False, token_ids=False, log_probs=log_probs)
    with serve(settings) as running, proposing(running) as proposer:
        (reply,) = proposer.propose([Request(PROBLEM, path_to(PROBLEM, "b;"), SEEDS, 99)])
        prompt = math.ceil(len(PROBLEM.prompt) / 4) + 2  # as the path is known by its tokens
        generated = 20 * (4 if log_probs else 1)  # tokens, or a quarter of the characters
        assert reply.usage == Usage(2 * prompt, generated, requests=2, estimated_requests=2)


@pytest.mark.parametrize("fault", ["no usage", "wrong usage"])
def test_usage_is_marked_for_those_requests_only_that_lack_it(serve: Serve, fault: str) -> None:
    with serve() as running, proposing(running, FULL) as proposer:
        script(running, fault)
        (reply,) = proposer.propose([Request(PROBLEM, (), SEEDS, 99)])
        assert reply.usage.requests == 2
        assert reply.usage.estimated_requests == 1
        assert reply.usage.generated_tokens == 20 * 6  # tokens are known one by one


# --- failures ---------------------------------------------------------------------------------------------------------


def test_draws_that_a_server_left_out_are_asked_for_again(serve: Serve) -> None:
    with serve() as running, proposing(running, FULL) as proposer:
        script(running, "wrong count")
        request = Request(PROBLEM, (), SEEDS[:6], 99)
        (reply,) = proposer.propose([request])
        assert [row["n"] for row in running.app.rows] == [6, 1, 1, 1]
        expected = [*table_draws(request, 6)[:3], *table_draws(replace(request, seeds=SEEDS[3:6]), 1)]
        assert plain(reply.draws) == plain(expected)
        assert reply.usage == Usage(4 * len(PROBLEM.prompt), 6 * 6, requests=4)
        assert reply.failure == ""


@pytest.mark.parametrize("fault", ["duplicate", "empty", "429", "truncated", "not utf-8"])
def test_a_fault_changes_no_draw(serve: Serve, fault: str) -> None:
    with serve() as running, proposing(running, FULL) as proposer:
        script(running, fault)
        request = Request(PROBLEM, (), SEEDS[:6], 99)
        (reply,) = proposer.propose([request])
        assert plain(reply.draws) == plain(table_draws(request, 6))
        assert reply.usage.failed_requests == (0 if fault == "duplicate" else 1)


def test_a_single_draw_takes_the_first_of_two_choices(serve: Serve) -> None:
    with serve(Settings(n=False)) as running, proposing(running) as proposer:
        script(running, "wrong count")
        request = Request(PROBLEM, (), SEEDS[:1], 99)
        assert plain(proposer.propose([request])[0].draws) == plain(table_draws(request, 1))


def test_draws_that_come_to_nothing_are_errors_with_a_reason(serve: Serve) -> None:
    failed = (Step("", (), None, StopReason.ERROR),)
    with serve() as running, proposing(running, FULL) as proposer:
        script(running, *["500"] * 4)
        (reply,) = proposer.propose([Request(PROBLEM, (), SEEDS[:3], 99)])
        assert reply == Reply((failed,) * 3, Usage(failed_requests=4), "server: HTTP 500: internal error")

        def filter_second(body: dict[str, Any], choice: dict[str, Any]) -> None:
            if choice["index"] == 1:
                choice["finish_reason"] = "content_filter"

        change_choices(running, filter_second)
        request = Request(PROBLEM, (), SEEDS[:3], 99)
        (reply,) = proposer.propose([request])
        expected = table_draws(request, 3)
        assert plain(reply.draws) == plain([expected[0], failed, expected[2]])
        assert reply.failure == "malformed: finish_reason is 'content_filter', which ends no solution"
        assert reply.usage == Usage(len(PROBLEM.prompt), 18, requests=1)  # it was paid for


def test_a_server_that_is_gone_is_an_exception_and_no_draw(serve: Serve) -> None:
    with serve(Settings(key="sk-right")) as running, proposing(running) as proposer:
        running.app.settings = replace(running.app.settings, key="sk-new")
        futures = [proposer.submit(Request(PROBLEM, (), (seed,), 99)) for seed in range(5)]
        for future in futures:
            with pytest.raises(ServerUnavailable, match="the key was not accepted"):
                future.result(5)


def test_a_cancelled_draw_is_stopped_at_the_server(serve: Serve) -> None:
    with serve(Settings(latency_s=0.1)) as running, client_of(running, max_in_flight=1) as client:
        proposer = OpenAIProposer(client, FULL, step_separator=";")
        first, second, third = (proposer.submit(Request(PROBLEM, (), (seed,), 99)) for seed in range(3))
        second.cancel()
        assert len(first.result(5).draws) == len(third.result(5).draws) == 1
        assert [row["seed"] for row in running.app.rows] == [0, 2]


# --- blank steps ------------------------------------------------------------------------------------------------------


def begin_with_blanks(running: Running, count: int) -> None:
    """The model says so many separators before anything else."""
    plain_draw, plain_read = running.app.model.draw, running.app.model.read

    def draw(prompt: str, begun: str, seed: int, temperature: float) -> list[tuple[str, int, float]]:
        said = len(begun) - len(begun.lstrip(";"))
        blanks = [(";", 26, -0.5)] * (count - said)
        return [*blanks, *plain_draw(prompt, begun.lstrip(";"), seed, temperature)]

    def read(prompt: str | list[int]) -> tuple[str, str]:
        if isinstance(prompt, str):
            return plain_read(prompt)
        blanks = sum(one == 26 and prompt[place - 1] in (26, *range(1000, 2000)) for place, one in enumerate(prompt))
        start = next(place for place, one in enumerate(prompt) if one < 1000) if min(prompt) < 1000 else len(prompt)
        head, begun = plain_read([*prompt[:start], *prompt[start + blanks :]])
        return head, ";" * blanks + begun

    running.app.model.draw, running.app.model.read = draw, read  # type: ignore[method-assign]


def test_a_step_goes_on_behind_separators_that_nothing_was_said_before(serve: Serve) -> None:
    with serve() as running, client_of(running) as client:
        begin_with_blanks(running, 2)
        proposer = OpenAIProposer(client, FULL, step_separator=";")
        (reply,) = proposer.propose([Request(PROBLEM, (), SEEDS[:3], 99, whole=False)])
        toy = toy_tree(PROBLEM)
        for (step,) in reply.draws:
            node = toy.find(step.text[2:])
            assert node is not None
            assert step.text == f";;{toy.letters[node]};"
            assert step.token_ids == (26, 26, *toy.step(node).token_ids)
            assert step.log_prior == pytest.approx(-1.0 + math.log(toy.probabilities[node]), abs=1e-5)
            assert step.stop is StopReason.STOP
        assert reply.usage.requests == 1 + 3 * 2
        assert reply.usage.generated_tokens == 3 * 4
        # and a limit holds for all of it together
        for limit, expected in [(1, ";"), (2, ";;"), (3, ";;b"), (4, ";;b;")]:
            (reply,) = proposer.propose([Request(PROBLEM, (), (4,), limit, whole=False)])
            ((step,),) = reply.draws
            assert len(step.text) == len(expected)
            assert step.stop is (StopReason.STOP if limit == 4 else StopReason.LENGTH)


def test_a_model_that_says_nothing_but_separators_is_left_in_time(serve: Serve) -> None:
    with serve() as running, client_of(running) as client:
        begin_with_blanks(running, 50)
        proposer = OpenAIProposer(client, FULL, step_separator=";")
        (reply,) = proposer.propose([Request(PROBLEM, (), (1,), 99, whole=False)])
        assert reply.usage.requests == len(running.app.rows) == 5
        assert reply.draws[0][0].text == ";" * 5
