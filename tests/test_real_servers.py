"""The HTTP proposer against real servers: vLLM and `transformers serve`, both with the shipped model.

make test-servers          # sets both up, vLLM in an environment of its own; ten minutes on two CPU cores

The same weights run here too, so every claim has an exact answer: log-priors, the law of the draws, what was paid for.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from countdown_law import (
    FOLDER,
    LEFT,
    PROBLEM,
    TASK,
    check_log_priors,
    check_trees,
    chi_square,
    exact_log_priors,
    first_step,
    one_step,
    overlap,
    seeds_of,
    share_right,
    shown,
    sum_usage,
    texts,
    whole,
)
from servers import free_port
from test_kill import State, kill

from arts.build import build_proposer, open_server
from arts.cli import main
from arts.collect import collect
from arts.evaluate.metrics import Estimate
from arts.evaluate.searches import read_rows, summarize
from arts.lm.load import LanguageModel, load_causal_lm
from arts.proposers.capabilities import Capabilities
from arts.proposers.openai_http import OpenAIProposer, ServerSettings
from arts.proposers.probe import probe
from arts.proposers.sampling import Sampling
from arts.protocols import Request
from arts.sparse_deep_fork import CollectSettings
from arts.store import load_trees, open_collection
from arts.tree import ReasoningTree, StopReason

pytestmark = [pytest.mark.servers, pytest.mark.timeout(400)]

START_S = 180.0
MOST_PROBED = 400  # tokens that `probe` may draw, at most


# --- servers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    port: int
    model: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1#{self.model}"

    def counted(self, name: str) -> float:
        """A counter of vLLM, once nothing is on its way any more."""
        deadline = time.monotonic() + 30
        while True:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
                rows = re.findall(r"^(vllm:\w+)\{.*?\} ([0-9.e+]+)$", answer.read().decode(), re.MULTILINE)
            found = {name: float(value) for name, value in rows}
            if not found["vllm:num_requests_running"] and not found["vllm:num_requests_waiting"]:
                return found[name]
            assert time.monotonic() < deadline, "the server has not come to rest"
            time.sleep(0.1)


@contextmanager
def running(command: Sequence[str | Path], model: str, folder: Path, **environment: str) -> Iterator[Running]:
    """A server as long as it is needed; its processes are a group of their own, which ends as a whole."""
    port, log = free_port(), folder / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*map(str, command), "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_S
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the server did not start:\n{log.read_text('utf-8', 'replace')[-6000:]}")
            time.sleep(0.2)
        yield Running(port, model)
    finally:
        end_group(process)


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Also those that outlive their parent, which vLLM's workers may do."""
    for sign, wait_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, sign)
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def vllm(folder: Path, *options: str) -> AbstractContextManager[Running]:
    # Kept as it was given: the link in an environment's bin/ is what makes it that environment.
    python = ROOT / os.environ.get("ARTS_SERVERS_PYTHON", ".venv-servers/bin/python")
    if not python.exists():
        pytest.fail(f"no {python}: `make test-servers` makes it, or name the servers' Python in ARTS_SERVERS_PYTHON")
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", FOLDER, "--served-model-name"]
    command += ["countdown", "--dtype", "float32", "--enforce-eager", "--max-model-len", "256", "--max-num-seqs", "64"]
    return running(
        [*command, "--disable-uvicorn-access-log", *options],
        "countdown",
        folder,
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_NO_USAGE_STATS="1",
    )


@pytest.fixture(scope="module")
def raw_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with vllm(tmp_path_factory.mktemp("vllm")) as server:
        yield server


@pytest.fixture(scope="module")
def processed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with vllm(tmp_path_factory.mktemp("processed"), "--logprobs-mode", "processed_logprobs") as server:
        yield server


@pytest.fixture(scope="module")
def transformers_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("transformers")
    (folder / "home" / "hub").mkdir(parents=True)  # without it, /v1/models answers 500
    command = [Path(sys.executable).with_name("transformers"), "serve", FOLDER, "--device", "cpu"]
    with running(command, str(FOLDER), folder, HF_HOME=str(folder / "home")) as server:
        yield server


def ask(server: Running) -> Capabilities:
    opened = open_server(server.url)
    try:
        return opened.client.run(probe(opened.client, opened.model, PROBLEM.prompt))
    finally:
        opened.client.close()


@pytest.fixture(scope="module")
def raw(raw_server: Running) -> Capabilities:
    return ask(raw_server)


@pytest.fixture(scope="module")
def processed(processed_server: Running) -> Capabilities:
    return ask(processed_server)


@contextmanager
def proposer_of(
    server: Running, found: Capabilities, *, temperature: float = 1.0, n: int = 16
) -> Iterator[OpenAIProposer]:
    settings = ServerSettings(n=n)
    proposer = OpenAIProposer(
        open_server(server.url).client,
        found,
        step_separator=TASK.step_separator,
        sampling=Sampling(temperature=temperature),
        settings=settings,
    )
    try:
        yield proposer
    finally:
        proposer.close()


# --- what is true, by the same weights in this process ----------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_causal_lm(FOLDER, dtype=torch.float64)


def say(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with capsys.disabled():
        print(f"\n    {text}", end="")


# --- vLLM: what it can do ---------------------------------------------------------------------------------------------


def test_probe_finds_what_vllm_can_do(raw: Capabilities) -> None:
    assert raw == Capabilities(
        model="countdown",
        server="vllm",
        continuing="token_ids",
        n=True,
        log_probs=True,
        log_prior_law="raw",
        stop_strings=True,
        says_stop=True,
        seed=True,
        usage=True,
        extra_fields=True,
        max_context=256,
    )
    assert raw.advice() == []


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_raw_log_priors_are_those_of_the_model(
    raw_server: Running,
    raw: Capabilities,
    model: LanguageModel,
    temperature: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with proposer_of(raw_server, raw, temperature=temperature) as proposer:
        assert proposer.log_prior_law == "raw"
        difference = check_log_priors(proposer, model, 1.0)
    say(capsys, f"raw log-priors at T={temperature}: {difference:.1e} at most")


# --- vLLM: the law of its draws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("below", "n"),
    [
        ("the problem", 16),
        ("a first step", 1),
        pytest.param("the problem", 1, marks=pytest.mark.slow),
        pytest.param("a first step", 16, marks=pytest.mark.slow),
    ],
)
def test_steps_are_drawn_by_the_exact_law(
    raw_server: Running,
    raw: Capabilities,
    model: LanguageModel,
    n: int,
    below: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prefix = () if below == "the problem" else (first_step(model),)
    with proposer_of(raw_server, raw, n=n) as proposer:
        # As many requests as there are draws of one request that come together: a request a task, as a collection does.
        seeds = seeds_of(f"law {n} {below}", 2048)
        parts = [seeds[start : start + n] for start in range(0, len(seeds), n)]
        replies = proposer.propose([Request(PROBLEM, prefix, part, 48, whole=False) for part in parts])
    steps = [draw[0] for reply in replies for draw in reply.draws]
    assert len(steps) == 2048
    statistic, freedom, p_value = chi_square(model, steps, prefix, LEFT if prefix else (6, 11, 14, 15))
    say(capsys, f"below {below}, n={n}: chi-square {statistic:.1f} with {freedom} degrees of freedom, p={p_value:.3f}")
    assert p_value > 1e-3


def test_chi_square_finds_another_law(raw_server: Running, raw: Capabilities, model: LanguageModel) -> None:
    """The test above is one that can fail: at temperature .6 it does."""
    with proposer_of(raw_server, raw, temperature=0.6) as proposer:
        steps = one_step(proposer, (), seeds_of("other law", 2048))
    assert chi_square(model, steps, (), (6, 11, 14, 15))[2] < 1e-6


def test_going_on_by_an_assistants_message_is_the_same_law(
    raw_server: Running, raw: Capabilities, model: LanguageModel
) -> None:
    first, seeds = first_step(model), seeds_of("message", 64)
    with proposer_of(raw_server, raw) as by_ids:
        ids = one_step(by_ids, (first,), seeds)
    with proposer_of(raw_server, replace(raw, continuing="continue_final_message")) as by_message:
        messages = one_step(by_message, (first,), seeds)
    assert [step.text for step in messages] == [step.text for step in ids], "equal seeds, equal prompts"
    exact = exact_log_priors(model, first.token_ids, [step.token_ids for step in ids])
    for log_priors in ([step.log_prior for step in ids], [step.log_prior for step in messages]):
        assert log_priors == pytest.approx(exact, abs=1e-3)


# --- vLLM: seeds, ends, limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 16])
def test_equal_seeds_give_equal_draws_also_beside_other_requests(
    raw_server: Running, raw: Capabilities, n: int
) -> None:
    seeds = seeds_of("repeat", 32)
    with proposer_of(raw_server, raw, n=n) as proposer:
        alone = whole(proposer, seeds)
        load = [proposer.submit(Request(PROBLEM, (), (seed,), 48)) for seed in seeds_of("load", 192)]
        beside = whole(proposer, seeds)
        for future in load:
            assert not future.result().failure
    assert [texts(draw) for draw in beside] == [texts(draw) for draw in alone]
    assert len({texts(draw) for draw in alone}) > 8


def test_a_step_is_the_first_one_of_the_whole_draw(raw_server: Running, raw: Capabilities) -> None:
    seeds = seeds_of("stop", 32)
    with proposer_of(raw_server, raw, n=1) as proposer:
        steps, draws = one_step(proposer, (), seeds), whole(proposer, seeds)
    for step, draw in zip(steps, draws, strict=True):
        assert step._replace(log_prior=None) == draw[0]._replace(log_prior=None)
        assert step.log_prior == pytest.approx(draw[0].log_prior, abs=1e-3)
    assert {step.stop for step in steps} == {StopReason.STOP}


def test_several_draws_of_one_request_differ_and_all_come(raw_server: Running, raw: Capabilities) -> None:
    with proposer_of(raw_server, raw) as proposer:
        before = raw_server.counted("vllm:generation_tokens_total")
        (reply,) = proposer.propose([Request(PROBLEM, (), seeds_of("several", 40), 48)])
        counted = raw_server.counted("vllm:generation_tokens_total") - before
    assert len(reply.draws) == 40
    assert reply.usage.requests == 3, "16, 16 and 8 choices"
    assert reply.usage.generated_tokens == counted == sum(len(step.token_ids) for draw in reply.draws for step in draw)
    assert len({texts(draw) for draw in reply.draws}) > 8


def test_limits_cut_draws_and_too_long_paths_fail_with_a_reason(
    raw_server: Running, raw: Capabilities, model: LanguageModel
) -> None:
    first = first_step(model)
    with proposer_of(raw_server, raw) as proposer:
        cut = one_step(proposer, (), seeds_of("limit", 8), max_new_tokens=3)
        assert {(step.stop, len(step.token_ids)) for step in cut} == {(StopReason.LENGTH, 3)}
        longest = len(first.token_ids)
        on_the_end = one_step(proposer, (), seeds_of("limit", 64), max_new_tokens=longest)
        assert any(step.stop is StopReason.STOP and len(step.token_ids) == longest for step in on_the_end)
        # More than the context holds is cut there; no room at all is a failed draw that says why, and ends no run.
        roomy = Request(PROBLEM, (first,), (5,), 4096)
        crowded = Request(PROBLEM, (first,) * 40, (5,), 48)
        fits, fails = proposer.propose([roomy, crowded])
    assert fits.draws[0][-1].stop is StopReason.EOS
    assert fails.draws[0][-1].stop is StopReason.ERROR
    assert fails.failure.startswith("refused")
    assert "maximum context length is 256" in fails.failure


# --- vLLM: through the command line -----------------------------------------------------------------------------------


def arts(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["arts", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> list[ReasoningTree]:
    """Trees of the model in this process."""
    settings = CollectSettings(split="validation", num_problems=48, num_samples=8)
    return load_trees(
        collect(TASK, build_proposer("countdown", TASK), settings, tmp_path_factory.mktemp("local")).folder
    )


def test_a_killed_collection_from_vllm_is_finished_and_as_good_as_a_local_one(
    raw_server: Running,
    model: LanguageModel,
    local: list[ReasoningTree],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "trees"
    options = ["--proposer", raw_server.url, "--split", "validation", "--num-problems", "48", "--num-samples", "8"]
    assert kill(out, options, State(0, 40_000)).num_shards == 0
    kept = sum_usage([row.usage for row in open_collection(out).read_journal(0)])
    before = raw_server.counted("vllm:generation_tokens_total")
    arts(monkeypatch, "collect", "--out", out, *options)
    counted = raw_server.counted("vllm:generation_tokens_total") - before
    trees = load_trees(out)
    usage = sum_usage([tree.usage for tree in trees])
    check_trees(trees, model, 8, with_ids=True)
    assert not (usage.estimated_requests or usage.failed_requests)
    assert 0 < kept.generated_tokens < usage.generated_tokens
    # The server counts what `probe` asked, too.
    assert 0 <= counted - (usage.generated_tokens - kept.generated_tokens) <= MOST_PROBED
    right, right_here = share_right(trees), share_right(local)
    say(capsys, f"right: {shown(right)} by vLLM, {shown(right_here)} here; {usage.generated_tokens:,} tokens")
    assert len(trees) == 48
    assert overlap(right, right_here)


def test_what_trees_cost_is_what_the_server_counted(raw_server: Running, raw: Capabilities, tmp_path: Path) -> None:
    settings = CollectSettings(split="validation", num_problems=16, num_samples=8)
    with proposer_of(raw_server, raw) as proposer:
        before = raw_server.counted("vllm:generation_tokens_total")
        trees = load_trees(collect(TASK, proposer, settings, tmp_path / "trees").folder)
    usage = sum_usage([tree.usage for tree in trees])
    assert usage.generated_tokens == raw_server.counted("vllm:generation_tokens_total") - before


def test_searches_through_vllm_are_as_good_as_local_ones(
    raw_server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--num-problems", "24", "--strategy", "arts", "--strategy", "best-of-n", "--budget-tokens", "300"]
    for name, proposer in (("served", raw_server.url), ("local", "countdown")):
        arts(monkeypatch, "search", "--out", tmp_path / name, "--proposer", proposer, *options)
    served, local = (summarize(read_rows(tmp_path / name)) for name in ("served", "local"))
    for one, other in zip(served, local, strict=True):
        tokens = f"{one.generated_tokens:.0f} and {other.generated_tokens:.0f} tokens a problem"
        say(capsys, f"{one.strategy}: {shown(one.accuracy)} by vLLM, {shown(other.accuracy)} here; {tokens}")
        assert one.strategy == other.strategy
        assert one.failed == 0
        assert overlap(one.accuracy, other.accuracy)
        assert 0 < one.generated_tokens <= 300


# --- transformers serve -----------------------------------------------------------------------------------------------


def test_probe_finds_what_transformers_serve_lacks(transformers_server: Running) -> None:
    found = ask(transformers_server)
    assert not (found.n or found.log_probs or found.says_stop or found.extra_fields)
    assert (found.continuing, found.repeats_prompt, found.usage, found.samples) == ("none", True, True, True)
    said = "\n".join(found.advice())
    for missing in ("middle of an answer", "repeats the prompt", "no log-probabilities"):
        assert missing in said


@pytest.mark.parametrize("with_tokenizer", [False, True], ids=["chat", "text"])
def test_whole_solutions_of_transformers_serve_are_collected(
    transformers_server: Running,
    model: LanguageModel,
    local: list[ReasoningTree],
    with_tokenizer: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    proposer = transformers_server.url + (f"?tokenizer={FOLDER}" if with_tokenizer else "")
    num_samples = 4 if with_tokenizer else 2
    options = ["--split", "validation", "--num-problems", "16", "--num-samples", str(num_samples), "--pivots", "none"]
    arts(monkeypatch, "collect", "--out", tmp_path / "trees", "--proposer", proposer, *options)
    said = capsys.readouterr().err
    assert "note: the server returns no log-probabilities" in said
    assert with_tokenizer != ("note: the server repeats the prompt" in said)
    trees = load_trees(tmp_path / "trees")
    check_trees(trees, model, num_samples, with_ids=False)
    usage = sum_usage([tree.usage for tree in trees])
    assert usage.requests == 16 * num_samples, "one draw a request"
    assert usage.generated_tokens > 20 * usage.requests
    assert not usage.estimated_requests
    if with_tokenizer:
        right, right_here = share_right(trees), share_right(local[:16])
        say(capsys, f"right: {shown(right)} by transformers serve, {shown(right_here)} here")
        assert overlap(right, right_here)


# --- vLLM with log-probabilities of what was drawn from ---------------------------------------------------------------


@pytest.mark.slow  # a server of its own takes a minute to start
def test_probe_finds_the_law_of_processed_log_probabilities(processed: Capabilities, raw: Capabilities) -> None:
    assert processed == replace(raw, log_prior_law="sampling")


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_processed_log_priors_are_those_of_the_law_drawn_from(
    processed_server: Running,
    processed: Capabilities,
    model: LanguageModel,
    temperature: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with proposer_of(processed_server, processed, temperature=temperature) as proposer:
        assert proposer.log_prior_law == ("raw" if temperature == 1 else "sampling")
        difference = check_log_priors(proposer, model, temperature)
    say(capsys, f"processed log-priors at T={temperature}: {difference:.1e} at most")


# --- the use of it all ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_verifier_learns_as_well_from_served_trees(
    raw_server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half an hour on two busy cores: `make test-servers PYTEST_OPTIONS="-m slow -k verifier"`."""
    pool = tmp_path / "pool"
    size = ["--num-problems", "300", "--num-samples", "8", "--pivots", "none"]
    arts(monkeypatch, "collect", "--out", pool, "--split", "validation", *size)
    picked: dict[str, Estimate] = {}
    for name, proposer in (("served", raw_server.url), ("local", "countdown")):
        folder, started = tmp_path / name, time.monotonic()
        size = ["--num-problems", "1500", "--num-samples", "8"]
        arts(monkeypatch, "collect", "--out", folder / "trees", "--proposer", proposer, *size)
        collected = time.monotonic()
        training = ["--tuning", "full", "--epochs", "1", "--validation", pool]
        arts(monkeypatch, "train", folder / "trees", "--out", folder / "verifier", *training)
        trained = time.monotonic()
        options = ["--verifier", f"arts={folder / 'verifier'}", "--out", folder / "evaluation", "--no-report"]
        arts(monkeypatch, "evaluate", "--trees", pool, *options)
        found = json.loads((folder / "evaluation" / "results.json").read_text("utf-8"))["selectors"]["arts"]["at"]["8"]
        picked[name] = Estimate(**found)
        tokens = sum_usage([tree.usage for tree in load_trees(folder / "trees")]).generated_tokens
        took = f"{collected - started:.0f} s to collect {tokens:,} tokens, {trained - collected:.0f} s to train"
        say(capsys, f"{name}: picks right {shown(picked[name])}; {took}")
    assert picked["served"].low > share_right(load_trees(pool)).value, "better than a random pick"
    assert overlap(picked["served"], picked["local"])
