"""What the vLLM proposer does between an engine and its callers, with an engine that says what it is told to.

The real one is in tests/test_vllm.py (`make test-servers`).
"""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from arts.build import build_proposer
from arts.models import shipped_folder
from arts.proposers import vllm
from arts.proposers.sampling import Sampling
from arts.proposers.vllm import VLLMProposer, read_options
from arts.protocols import FAILED_DRAW, Reply, Request
from arts.tasks.countdown import CountdownTask
from arts.tree import LogPriorLaw, Problem, Step, StopReason, Usage

FOLDER = shipped_folder("countdown-proposer")
TASK = CountdownTask()
PROBLEM = Problem("p", "1 2 3 > 6")
CONTEXT = 40
EOS = 1
WAIT_S = 20.0

Say = Callable[[list[int], Any], list[int]]
"""Tokens that the engine draws, from the prompt's ids and the parameters."""


class FakeEngine:
    """As much of vLLM's engine as the proposer uses. Each step ends the request that has waited longest."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.asked: list[tuple[list[int], Any]] = []
        self.aborted: list[str] = []
        self.waiting: dict[str, tuple[list[int], Any]] = {}
        self.may_step = threading.Event()
        self.may_step.set()
        self.has_ended = False
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=CONTEXT, dtype="float32"),
            scheduler_config=SimpleNamespace(max_num_seqs=8),
        )
        self.engine_core = SimpleNamespace(shutdown=self._shutdown)

    def _shutdown(self) -> None:
        self.has_ended = True

    def add_request(self, name: str, prompt: dict[str, list[int]], params: Any) -> None:
        if params.seed == 13:
            raise ValueError("13 brings bad luck")
        self.asked.append((prompt["prompt_token_ids"], params))
        self.waiting[name] = self.asked[-1]

    def abort_request(self, names: Sequence[str]) -> None:
        self.aborted += names
        for name in names:
            del self.waiting[name]

    def step(self) -> list[Any]:
        assert self.may_step.wait(WAIT_S)
        name = next(iter(self.waiting))
        prompt, params = self.waiting.pop(name)
        ids = self.say(prompt, params)
        rows = SimpleNamespace(logprobs=[-0.5] * len(ids), start_indices=range(len(ids)))
        choice = SimpleNamespace(token_ids=ids, logprobs=rows, finish_reason="stop" if ids else "abort")
        return [SimpleNamespace(request_id=name, outputs=[choice], prompt_token_ids=prompt, num_cached_tokens=2)]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[VLLMProposer, FakeEngine]]]:
    """A proposer over an engine that says what `say` says."""
    module = SimpleNamespace(SamplingParams=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "vllm", module)
    kinds = SimpleNamespace(RequestOutputKind=SimpleNamespace(FINAL_ONLY="final"))
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", kinds)
    opened: list[VLLMProposer] = []

    def start(say: Say, **options: Any) -> tuple[VLLMProposer, FakeEngine]:
        engine = FakeEngine(say)

        def begin(folder: str, given: dict[str, Any], logprobs_mode: str) -> FakeEngine:
            assert (folder, given) == (str(FOLDER), options.get("options", {}))
            engine.logprobs_mode = logprobs_mode  # type: ignore[attr-defined]
            return engine

        monkeypatch.setattr(vllm, "_start", begin)
        opened.append(VLLMProposer(FOLDER, step_separator=";", **options))
        return opened[-1], engine

    yield start
    for proposer in opened:
        proposer.close()


def ids_of(proposer: VLLMProposer, text: str) -> list[int]:
    return list(proposer._text.tokenizer(text)["input_ids"])


def ask(*seeds: int, prefix: tuple[Step, ...] = (), limit: int = 20, whole: bool = True) -> Request:
    return Request(PROBLEM, prefix, seeds, limit, whole)


def texts(reply: Reply) -> list[list[str]]:
    return [[step.text for step in draw] for draw in reply.draws]


def test_draws_are_cut_into_steps_and_billed_once_a_request(start: Callable[..., Any]) -> None:
    proposer, engine = start(lambda prompt, params: [*ids_of(proposer, f"{params.seed}+1=2;3"), EOS])
    (reply,) = proposer.propose([ask(5, 6)])
    prompt = proposer._text.prompt_ids(PROBLEM.messages)
    assert texts(reply) == [["5+1=2;", "3"], ["6+1=2;", "3"]]
    steps = reply.draws[0]
    assert [(step.log_prior, step.stop) for step in steps] == [
        (-0.5 * len(steps[0].token_ids), StopReason.STOP),
        (-0.5 * len(steps[1].token_ids), StopReason.EOS),
    ]
    assert steps[1].token_ids[-1] == EOS
    num_drawn = sum(len(step.token_ids) for draw in reply.draws for step in draw)
    assert reply.usage == Usage(len(prompt), num_drawn, 1)
    assert (proposer.num_prompt_tokens, proposer.num_cached_tokens) == (2 * len(prompt), 4)
    assert [asked for asked, _ in engine.asked] == [prompt, prompt]
    assert [params.seed for _, params in engine.asked] == [5, 6]


@pytest.mark.parametrize("whole", [True, False])
def test_what_the_engine_is_asked_for(start: Callable[..., Any], whole: bool) -> None:
    sampling = Sampling(temperature=0.7, top_p=0.9)
    proposer, engine = start(lambda prompt, params: [EOS], sampling=sampling)
    first = Step("1+2=3;", tuple(ids_of(proposer, "1+2=3;")), -1.0, StopReason.STOP)
    proposer.propose([ask(5, prefix=(first,), limit=100, whole=whole)])
    ((prompt, params),) = engine.asked
    assert prompt == [*proposer._text.prompt_ids(PROBLEM.messages), *first.token_ids]
    assert (params.temperature, params.top_p, params.logprobs) == (0.7, 0.9, 0)
    assert params.max_tokens == CONTEXT - len(prompt), "no more than there is room for"
    assert (params.ignore_eos, params.stop_token_ids) == (True, [EOS])
    assert (params.stop, params.detokenize) == ((None, False) if whole else ([";"], True))


@pytest.mark.parametrize(
    ("sampling", "law", "mode"),
    [
        (Sampling(), "raw", "raw_logprobs"),
        (Sampling(temperature=0.6), "sampling", "processed_logprobs"),
        (Sampling(temperature=0.6, log_prior_law="raw"), "raw", "raw_logprobs"),
    ],
)
def test_log_priors_are_of_the_law_that_is_reported(
    start: Callable[..., Any], sampling: Sampling, law: LogPriorLaw, mode: str
) -> None:
    proposer, engine = start(lambda prompt, params: [EOS], sampling=sampling)
    assert (proposer.log_prior_law, engine.logprobs_mode) == (law, mode)


def test_a_step_goes_on_behind_blanks(start: Callable[..., Any]) -> None:
    """A stop string that nothing was said before is no step: the draw goes on, with a seed that follows from it."""

    def say(prompt: list[int], params: Any) -> list[int]:
        return ids_of(proposer, ";" if len(prompt) == start_of_draw else "1+2=3;")

    proposer, engine = start(say)
    start_of_draw = len(proposer._text.prompt_ids(PROBLEM.messages))
    (reply,) = proposer.propose([ask(5, whole=False)])
    (again,) = proposer.propose([ask(5, whole=False)])
    assert texts(reply) == [[";1+2=3;"]]
    (step,) = reply.draws[0]
    assert step.stop is StopReason.STOP
    assert step.log_prior == -0.5 * len(step.token_ids)
    assert reply.usage == Usage(start_of_draw, len(step.token_ids), 1)
    (_, first), (prompt, second), _, (_, repeated) = engine.asked
    assert prompt[start_of_draw:] == ids_of(proposer, ";")
    assert (first.max_tokens, second.max_tokens) == (20, 20 - len(ids_of(proposer, ";")))
    assert second.seed == repeated.seed != first.seed
    assert again == reply


def test_limits_are_told_apart_from_ends(start: Callable[..., Any]) -> None:
    proposer, _ = start(lambda prompt, params: ids_of(proposer, "1+2=3;")[: params.max_tokens])
    length = len(ids_of(proposer, "1+2=3;"))
    cut, exact, whole = proposer.propose(
        [ask(1, limit=length - 1, whole=False), ask(1, limit=length, whole=False), ask(1, limit=length)]
    )
    assert [reply.draws[0][-1].stop for reply in (cut, exact, whole)] == [
        StopReason.LENGTH,
        StopReason.STOP,  # the limit fell on the end of the step
        StopReason.LENGTH,
    ]


def test_a_path_without_room_fails_and_asks_nothing(start: Callable[..., Any]) -> None:
    proposer, engine = start(lambda prompt, params: [EOS])
    long = Step("1;", tuple(ids_of(proposer, "1;")) * CONTEXT, -1.0, StopReason.STOP)
    (reply,) = proposer.propose([ask(1, 2, prefix=(long,))])
    assert reply == Reply((FAILED_DRAW, FAILED_DRAW), Usage())
    assert not engine.asked


def test_a_refused_draw_fails_alone(start: Callable[..., Any]) -> None:
    proposer, _ = start(lambda prompt, params: [*ids_of(proposer, "3"), EOS])
    (reply,) = proposer.propose([ask(12, 13, 14)])
    assert [draw == FAILED_DRAW for draw in reply.draws] == [False, True, False]
    assert reply.failure == "refused: 13 brings bad luck"
    assert reply.usage.generated_tokens == 4
    (reply,) = proposer.propose([ask(13)])
    assert reply.draws == (FAILED_DRAW,)


def test_cancelling_takes_the_draws_of_one_request_out(start: Callable[..., Any]) -> None:
    proposer, engine = start(lambda prompt, params: [EOS])
    engine.may_step.clear()
    kept, dropped = proposer.submit(ask(1)), proposer.submit(ask(2, 3))
    assert dropped.cancel()
    engine.may_step.set()
    assert kept.result(WAIT_S).draws[0][0].stop is StopReason.EOS
    assert proposer.submit(ask(4)).result(WAIT_S).usage.requests == 1  # the engine's thread has done all by now
    assert len(engine.aborted) == 2
    assert [params.seed for _, params in engine.asked] == [1, 2, 3, 4]


def test_no_seeds_no_draws_and_a_draw_without_a_token_fails(start: Callable[..., Any]) -> None:
    proposer, engine = start(lambda prompt, params: [])
    assert proposer.propose([ask()]) == [Reply((), Usage())]
    assert not engine.asked
    (reply,) = proposer.propose([ask(1)])
    assert reply.draws == (FAILED_DRAW,)
    assert reply.failure == "server: vLLM ended a draw without a token (abort)"


@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit("broken")], ids=repr)
@pytest.mark.parametrize("where", ["add_request", "step", "steps"])
def test_whatever_goes_wrong_somebody_who_waits_is_told(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    """Also while a request is taken in, or answered."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    proposer, engine = start(lambda prompt, params: [EOS])
    monkeypatch.setattr(proposer.splitter if where == "steps" else engine, where, fail)
    for seed in (1, 2):
        failed(proposer.submit(ask(seed)), rf"vLLM's engine stopped: {type(error).__name__}: broken")
    proposer.close()
    start(lambda prompt, params: [EOS])  # and there is room for another engine


@pytest.mark.parametrize("when", ["at a step", "closed"])
def test_an_engine_that_ends_tells_all_who_wait_and_all_who_ask(start: Callable[..., Any], when: str) -> None:
    def say(prompt: list[int], params: Any) -> list[int]:
        raise RuntimeError("out of\n memory")

    proposer, engine = start(say)
    engine.may_step.clear()
    waiting = [proposer.submit(ask(seed)) for seed in range(3)]
    said = "vLLM's engine stopped: RuntimeError: out of memory"
    if when == "closed":
        said = "the proposer was closed"
        threading.Timer(0.2, engine.may_step.set).start()
        engine.say = lambda prompt, params: ids_of(proposer, "1") * 3
        proposer.close()
    else:
        engine.may_step.set()
    for future in [*waiting[1:], proposer.submit(ask(9))]:
        failed(future, said)
    proposer.close()
    assert engine.has_ended
    failed(proposer.submit(ask(9)), said)


def failed(future: Future[Reply], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        future.result(WAIT_S)


def test_there_is_one_engine_at_a_time(start: Callable[..., Any]) -> None:
    first, _ = start(lambda prompt, params: [EOS])
    with pytest.raises(ValueError, match="there is a vLLM engine in this process already"):
        start(lambda prompt, params: [EOS])
    first.close()
    start(lambda prompt, params: [EOS])


def test_fingerprints_name_what_decides_the_law(start: Callable[..., Any]) -> None:
    def fingerprint(**options: Any) -> str:
        proposer, _ = start(lambda prompt, params: [EOS], **options)
        proposer.close()
        return str(proposer.fingerprint)

    plain = fingerprint()
    assert fingerprint(options={"gpu_memory_utilization": 0.5, "tensor_parallel_size": 2}) == plain
    others = [
        fingerprint(options={"quantization": "fp8"}),
        fingerprint(sampling=Sampling(temperature=0.5)),
        build_proposer("countdown", TASK).fingerprint,
    ]
    assert len({plain, *others}) == 4


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", {}),
        (
            "tensor_parallel_size=2&gpu_memory_utilization=0.5",
            {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.5},
        ),
        ("enforce_eager=true&dtype=float16", {"enforce_eager": True, "dtype": "float16"}),
        ("hf_overrides=%7B%22a%22%3A%201%7D", {"hf_overrides": {"a": 1}}),
    ],
)
def test_options_behind_a_folder(text: str, options: dict[str, Any]) -> None:
    assert read_options(text) == options


def test_complaints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'enforce_eager' is not of the form NAME=VALUE"):
        build_proposer("vllm:countdown?enforce_eager", TASK)
    with pytest.raises(ValueError, match="there is no model folder 'nowhere'"):
        build_proposer("vllm:nowhere", TASK)
    with pytest.raises(ValueError, match="holds no tokenizer"):
        build_proposer(f"vllm:{tmp_path}", TASK)
    monkeypatch.setitem(sys.modules, "vllm", None)  # as where it is not installed
    with pytest.raises(ValueError, match="needs vLLM in this environment"):
        build_proposer("vllm:countdown", TASK)
