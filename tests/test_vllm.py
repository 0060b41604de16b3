"""vLLM in this process, with the shipped model: the claims that tests/test_real_servers.py makes of it as a server.

make test-servers          # runs this in the environment of the servers, where vLLM is installed

What the proposer does between the engine and its callers is in tests/test_vllm_proposer.py, without vLLM.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

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
from serving import client, local_service, running

from arts.build import build_proposer
from arts.collect import collect
from arts.lm.load import LanguageModel, load_causal_lm
from arts.proposers.vllm import VLLMProposer
from arts.protocols import Request
from arts.serve.app import build_app
from arts.sparse_deep_fork import CollectSettings
from arts.store import load_trees
from arts.tree import Problem, StopReason, Usage

pytestmark = [pytest.mark.servers, pytest.mark.timeout(400)]

BLOCK = 32  # tokens: the smallest block that vLLM takes on a CPU
NAME = f"vllm:{FOLDER}?enforce_eager=true&max_model_len=256&max_num_seqs=64&block_size={BLOCK}"


os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@pytest.fixture(scope="module")
def proposer(request: pytest.FixtureRequest) -> Iterator[VLLMProposer]:
    """At temperature 1 unless it is told another. There is one engine at a time."""
    proposer = build_proposer(NAME, TASK, temperature=getattr(request, "param", 1.0))
    assert isinstance(proposer, VLLMProposer)
    yield proposer
    proposer.close()


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_causal_lm(FOLDER, dtype=torch.float64)


def test_log_priors_are_those_of_the_model(proposer: VLLMProposer, model: LanguageModel) -> None:
    assert proposer.log_prior_law == "raw"
    check_log_priors(proposer, model, 1.0)


@pytest.mark.parametrize("below", ["the problem", "a first step"])
def test_steps_are_drawn_by_the_exact_law(proposer: VLLMProposer, model: LanguageModel, below: str) -> None:
    prefix = () if below == "the problem" else (first_step(model),)
    steps = one_step(proposer, prefix, seeds_of(f"law {below}", 2048))
    assert {step.stop for step in steps} <= {StopReason.STOP, StopReason.EOS}
    statistic, freedom, p_value = chi_square(model, steps, prefix, LEFT if prefix else (6, 11, 14, 15))
    assert p_value > 1e-3, f"chi-square {statistic:.1f} with {freedom} degrees of freedom"


def test_a_draw_depends_on_its_seed_alone(proposer: VLLMProposer) -> None:
    seeds = seeds_of("repeat", 32)
    together = whole(proposer, seeds)
    load = [proposer.submit(Request(PROBLEM, (), (seed,), 48)) for seed in seeds_of("load", 192)]
    apart = [whole(proposer, [seed])[0] for seed in reversed(seeds)][::-1]
    assert [texts(draw) for draw in apart] == [texts(draw) for draw in together]
    assert all(not future.result().failure for future in load)
    assert len({texts(draw) for draw in together}) > 8
    assert [texts([step]) for step in one_step(proposer, (), seeds)] == [texts(draw[:1]) for draw in together]


def test_siblings_read_their_prompt_once(proposer: VLLMProposer) -> None:
    """All whole blocks of a prompt but those of the first sibling come from the cache, as with `n`."""
    problem = Problem("long", PROBLEM.prompt + " 1" * 120)
    read, cached = proposer.num_prompt_tokens, proposer.num_cached_tokens
    (reply,) = proposer.propose([Request(problem, (), seeds_of("siblings", 16), 8)])
    length = reply.usage.prompt_tokens
    assert length > 3 * BLOCK
    assert proposer.num_prompt_tokens - read == 16 * length
    assert proposer.num_cached_tokens - cached == 15 * (length // BLOCK) * BLOCK
    assert reply.usage == Usage(length, sum(len(step.token_ids) for draw in reply.draws for step in draw), 1)


def test_a_path_that_goes_on_is_not_read_again(proposer: VLLMProposer) -> None:
    problem = Problem("longer", PROBLEM.prompt + " 2" * 60)
    (first,) = proposer.propose([Request(problem, (), (5,), 100)])
    path = first.draws[0]
    cached = proposer.num_cached_tokens
    (below,) = proposer.propose([Request(problem, path[:-1], (6,), 8)])
    in_front = first.usage.prompt_tokens + sum(len(step.token_ids) for step in path[:-1])
    assert below.usage.prompt_tokens == in_front
    assert proposer.num_cached_tokens - cached == (in_front - 1) // BLOCK * BLOCK


def test_limits_cut_draws_and_too_long_paths_fail(proposer: VLLMProposer, model: LanguageModel) -> None:
    first = first_step(model)
    cut = one_step(proposer, (), seeds_of("limit", 8), max_new_tokens=3)
    assert {(step.stop, len(step.token_ids)) for step in cut} == {(StopReason.LENGTH, 3)}
    longest = len(first.token_ids)
    on_the_end = one_step(proposer, (), seeds_of("limit", 64), max_new_tokens=longest)
    assert any(step.stop is StopReason.STOP and len(step.token_ids) == longest for step in on_the_end)
    fits, fails = proposer.propose([Request(PROBLEM, (first,), (5,), 4096), Request(PROBLEM, (first,) * 40, (5,), 48)])
    assert fits.draws[0][-1].stop is StopReason.EOS
    assert fails.draws[0][-1].stop is StopReason.ERROR


def test_cancelled_requests_leave_the_batch(proposer: VLLMProposer) -> None:
    futures = [proposer.submit(Request(PROBLEM, (), (seed,), 48)) for seed in seeds_of("cancel", 128)]
    for future in futures[::2]:
        future.cancel()  # some have ended already
    kept = [future.result() for future in futures[1::2]]
    again = proposer.propose([Request(PROBLEM, (), seeds_of("cancel", 128)[1::2], 48)])[0]
    assert [texts(reply.draws[0]) for reply in kept] == list(map(texts, again.draws))


def test_searches_of_many_users_share_the_engine(proposer: VLLMProposer) -> None:
    """`arts serve` in front of it: answers are those of users who come one by one, and calls from threads mix."""
    problems = [problem.prompt for problem in islice(TASK.problems("validation", 0), 12)]
    service = local_service(proposer, TASK)

    def ask(number: int) -> dict[str, Any]:
        message = [{"role": "user", "content": problems[number]}]
        model = "arts-self-consistency" if number % 2 else "arts-majority-8"
        answer = client(url).chat.completions.create(model=model, messages=message, seed=number)  # type: ignore[call-overload]
        assert answer.choices[0].finish_reason == "stop"
        return {"text": answer.choices[0].message.content, **answer.model_extra["arts"]}

    with running(build_app(service), service) as url, ThreadPoolExecutor(len(problems)) as users:
        together = list(users.map(ask, range(len(problems))))
        alone = [ask(number) for number in reversed(range(len(problems)))][::-1]
    for here, there in zip(together, alone, strict=True):
        assert (here["text"], here["verdict"], here["draws"]) == (there["text"], there["verdict"], there["draws"])
    assert any(one["verdict"]["correct"] for one in together)


def test_a_second_engine_is_refused(proposer: VLLMProposer) -> None:
    with pytest.raises(ValueError, match="there is a vLLM engine in this process already"):
        build_proposer(NAME, TASK)


@pytest.mark.parametrize("proposer", [0.6], indirect=True)
def test_log_priors_of_cool_draws_are_those_of_the_law_drawn_from(proposer: VLLMProposer, model: LanguageModel) -> None:
    assert proposer.log_prior_law == "sampling"
    check_log_priors(proposer, model, 0.6)
    steps = one_step(proposer, (), seeds_of("other law", 2048))
    assert chi_square(model, steps, (), (6, 11, 14, 15))[2] < 1e-6, "the test of the law is one that can fail"


# --- through the command line -----------------------------------------------------------------------------------------


def arts(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "arts", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("tensor_paralel_size=2", "no option 'tensor_paralel_size'"),
        pytest.param("max_model_len=100000", "could not start", marks=pytest.mark.slow),
    ],
)
def test_options_that_make_no_sense_are_refused_in_words(tmp_path: Path, options: str, said: str) -> None:
    ended = arts("collect", "--out", tmp_path, "--proposer", f"vllm:{FOLDER}?{options}")
    assert ended.returncode == 2
    assert said in ended.stderr
    assert options.partition("=")[0] in ended.stderr
    assert "Traceback" not in ended.stderr


def test_collections_are_as_good_as_local_ones(
    model: LanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--split", "validation", "--num-problems", "48", "--num-samples", "8")
    ended = arts("collect", "--out", tmp_path / "in-process", "--proposer", NAME, *options)
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended.stderr
    trees = load_trees(tmp_path / "in-process")
    check_trees(trees, model, 8, with_ids=True)
    settings = CollectSettings(split="validation", num_problems=48, num_samples=8)
    local = load_trees(collect(TASK, build_proposer("countdown", TASK), settings, tmp_path / "local").folder)
    right, right_here = share_right(trees), share_right(local)
    with capsys.disabled():
        print(f"\n    right: {shown(right)} by vLLM in process, {shown(right_here)} by the local model", end="")
    assert overlap(right, right_here)
    cost, cost_here = (sum_usage([tree.usage for tree in some]) for some in (trees, local))
    assert cost.requests == pytest.approx(cost_here.requests, rel=0.2)
    assert cost.generated_tokens == pytest.approx(cost_here.generated_tokens, rel=0.1)


@pytest.mark.slow
def test_engines_of_ray_workers_draw_what_one_engine_draws(tmp_path: Path) -> None:
    options = ("--proposer", NAME, "--num-problems", "24", "--num-samples", "4", "--block-size", "4")
    drawn: list[Counter[tuple[str, tuple[int, ...]]]] = []
    for folder, engine in ((tmp_path / "one", ()), (tmp_path / "ray", ("--engine", "ray", "--workers", "2"))):
        ended = arts("collect", "--out", folder, *options, *engine)
        assert ended.returncode == 0, ended.stderr
        drawn.append(Counter((tree.problem.id, node.token_ids) for tree in load_trees(folder) for node in tree.nodes))
    # The random numbers are the same; rounding depends on what else is in a batch, and may seldom turn a draw.
    assert drawn[0].total() > 24 * 4
    assert (drawn[0] & drawn[1]).total() >= 0.9 * max(one.total() for one in drawn)
