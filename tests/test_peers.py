"""The comparison with other libraries: counters, costs, texts and tables. No peer is installed, nothing is asked."""

import importlib.util
import sys
from io import StringIO
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT

PEERS = ROOT / "benchmarks" / "peers"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the benchmark by its name; stand-ins for a library's classes where they are only derived from."""
    monkeypatch.syspath_prepend(str(PEERS))
    for name in ("served", "servers", "methods", "compare", "peers_table"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def load(name: str, **stubs: list[str]) -> ModuleType:
        for path, names in stubs.items():
            module = ModuleType(path)
            for one in names:
                setattr(module, one, type(one, (), {}))
            monkeypatch.setitem(sys.modules, path, module)
        spec = importlib.util.spec_from_file_location(name, PEERS / f"{name}.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


# --- counters ---------------------------------------------------------------------------------------------------------


def metrics(
    *, requests: int, stopped: int, aborted: int, prompt: int, cached: int, generated: int, running: int
) -> str:
    return f"""# HELP vllm:generation_tokens_total Number of generation tokens processed.
vllm:num_requests_running{{engine="0",model_name="m"}} {running}.0
vllm:num_requests_waiting{{engine="0",model_name="m"}} 0.0
vllm:prompt_tokens_total{{engine="0",model_name="m"}} {prompt}.0
vllm:prompt_tokens_created{{engine="0",model_name="m"}} 1.7953063994002998e+09
vllm:prompt_tokens_cached_total{{engine="0",model_name="m"}} {cached}.0
vllm:generation_tokens_total{{engine="0",model_name="m"}} {generated}.0
vllm:request_success_total{{engine="0",finished_reason="stop",model_name="m"}} {stopped}.0
vllm:request_success_total{{engine="0",finished_reason="abort",model_name="m"}} {aborted}.0
http_requests_total{{handler="/v1/models",method="GET",status="2xx"}} 77.0
http_requests_total{{handler="/v1/chat/completions",method="POST",status="2xx"}} {requests}.0
http_requests_total{{handler="/pooling",method="POST",status="2xx"}} 2.0
"""


def test_what_a_run_cost_is_the_difference_of_the_servers_counters(peers: Any) -> None:
    servers = peers("servers")
    before = servers.read_metrics(
        metrics(requests=3, stopped=5, aborted=1, prompt=70, cached=32, generated=11, running=1)
    )
    after = servers.read_metrics(
        metrics(requests=9, stopped=15, aborted=4, prompt=170, cached=64, generated=91, running=0)
    )
    assert (before.busy, after.busy) == (True, False)
    cost = after.counters.minus(before.counters)
    assert cost == servers.Counters(
        requests=6, sequences=13, prompt_tokens=100, cached_tokens=32, generated_tokens=80
    ), "questions about models do not count, choices that a client cut off do"


def test_a_server_without_the_counters_is_refused(peers: Any) -> None:
    with pytest.raises(ValueError, match="no vllm:request_success_total"):
        peers("servers").read_metrics("http_requests_total 3.0\n")


# --- what adapters share ----------------------------------------------------------------------------------------------


def test_the_verifier_reads_unfinished_and_finished_texts_as_it_was_trained(peers: Any) -> None:
    served = peers("served")
    verifier = served.Verifier("http://127.0.0.1:1", "m", ";")
    prompts = [verifier.prompt("1 2 3 > 6", text) for text in ("", "1+2=3|3 3;", "1+2=3|3 3;3+3=6|6")]
    assert prompts == ["1 2 3 > 6\n", "1 2 3 > 6\n1+2=3|3 3;", "1 2 3 > 6\n1+2=3|3 3;3+3=6|6<|end|>"]


@pytest.mark.parametrize("logit", [-800.0, -3.0, 0.0, 2.5, 800.0])
def test_scores_are_chances_and_flows(peers: Any, logit: float) -> None:
    import math

    served = peers("served")
    chance = served.chance(logit)
    assert 0 <= chance <= 1
    assert chance + served.chance(-logit) == pytest.approx(1)
    score = served.flow_as_score(logit)
    assert score / (1 - score) == pytest.approx(0.1 + 9.9 * chance), "odds of the score are F"
    if abs(logit) < 100:
        assert math.log(chance / (1 - chance)) == pytest.approx(logit)


@pytest.mark.parametrize(("data", "last"), [([0.5, -2.0], -2.0), ([[0.5], [-2.0]], -2.0)])
def test_the_last_token_is_read(peers: Any, data: list[Any], last: float) -> None:
    assert peers("served").last_number(data) == last


def test_rows_come_between_ready_and_done(peers: Any) -> None:
    served, file = peers("served"), StringIO()
    job = served.Job(
        method="m", options={}, problems=["a", "b"], seed=0, proposer_url="", verifier_url="", model="m", separator=";",
        num_steps=3, max_new_tokens=56, in_flight=64,
    )  # fmt: skip
    served.run(job, "numpy", lambda: [served.Solved(1, "x"), served.Solved(0, "", {"requests": 2})], file)
    lines = file.getvalue().splitlines()
    ready, *rows = peers("compare").until_done(iter(["Loading weights: 50%", *lines, "late"]), "failed")
    assert ready["ready"]
    assert rows == [
        {"problem": "b", "place": 1, "text": "x", "bill": {}},
        {"problem": "a", "place": 0, "text": "", "bill": {"requests": 2}},
    ]
    with pytest.raises(RuntimeError, match="failed"):
        list(peers("compare").until_done(iter(lines[:-1]), "failed"))


# --- adapters' texts --------------------------------------------------------------------------------------------------


THINKBOOSTER = {
    "thinkbooster": [],
    "thinkbooster.early_stopping": ["BoundaryEarlyStopping"],
    "thinkbooster.generators": [],
    "thinkbooster.generators.api": ["StepCandidateGeneratorThroughAPI"],
    "thinkbooster.models": [],
    "thinkbooster.models.blackboxmodel_with_streaming": ["BlackboxModelWithStreaming"],
    "thinkbooster.step_boundary_detectors": [],
    "thinkbooster.step_boundary_detectors.non_thinking": [],
    "thinkbooster.step_boundary_detectors.non_thinking.structured": ["StructuredStepDetector"],
    "thinkbooster.strategies": [],
    "thinkbooster.strategies.strategy_beam_search": ["StrategyBeamSearch"],
    "thinkbooster.strategies.strategy_offline_best_of_n": ["StrategyOfflineBestOfN"],
}


def test_steps_are_cut_behind_the_separator_and_nothing_is_lost(peers: Any) -> None:
    runs = peers("thinkbooster_runs", **THINKBOOSTER)
    text = "1+2=3|3 3;3+3=6|6"
    assert runs.first_step(text, ";") == "1+2=3|3 3;"
    assert runs.first_step("3+3=6|6", ";") == "3+3=6|6"
    assert runs.split_steps(text, ";") == ["1+2=3|3 3;", "3+3=6|6"]
    assert runs.split_steps("1+2=3|3 3;", ";") == ["1+2=3|3 3;"]


def test_thinkboosters_scorer_reads_whole_trajectories_in_their_order(peers: Any) -> None:
    runs = peers("thinkbooster_runs", **THINKBOOSTER)
    asked: list[tuple[str, str]] = []

    def logits(pairs: list[tuple[str, str]]) -> list[float]:
        asked.extend(pairs)
        return [float(len(text)) for _, text in pairs]

    scorer = runs.Scorer(SimpleNamespace(logits=logits), in_flight=16)
    steps = [SimpleNamespace(text="aa;"), SimpleNamespace(text="b")]
    chats = [[{"role": "user", "content": f"p{place}"}] for place in range(40)]
    scores = scorer.score_trajectories_batch(chats, [steps if place % 2 else ["aa;"] for place in range(40)])
    assert scores == [[runs.chance(4.0 if place % 2 else 3.0)] for place in range(40)]
    assert sorted(asked) == sorted((f"p{place}", "aa;b" if place % 2 else "aa;") for place in range(40))


def test_treequest_answers_with_the_best_finished_solution_and_never_a_partial_one(peers: Any) -> None:
    runs = peers("treequest_runs", treequest=[])
    states = [runs.State("a;", False, 0.99), runs.State("a;b", True, 0.3), runs.State("a;c", True, 0.6)]
    assert runs.chosen(states) == "a;c"
    assert runs.chosen(states[:1]) == ""
    job = SimpleNamespace(verifier_url="", model="m", separator=";")
    grow = runs.Grow(job, "p")
    assert grow(states[2]) == (states[2], 0.6)
    assert grow.calls == 0, "a finished parent asks for nothing"


# --- equal cost, and the tables ---------------------------------------------------------------------------------------


def row(tool: str, method: str, options: dict[str, Any], correct: str, **changed: Any) -> dict[str, Any]:
    count = len(correct)
    counters = {"requests": 4 * count, "sequences": 4 * count, "prompt_tokens": 40 * count, "cached_tokens": 0}
    return {
        "problems": "test",
        "block": 0,
        "tool": tool,
        "method": method,
        "options": options,
        "seconds": 2.0,
        "correct": correct,
        "proposer": counters | {"generated_tokens": 100 * count},
        "verifier": counters | {"generated_tokens": 0, "prompt_tokens": 250 * count},
        "bill": {},
        **changed,
    }


def test_ours_may_spend_what_the_servers_counted_for_a_peer_and_never_more(peers: Any) -> None:
    methods = peers("methods")
    peer = row("its_hub", "particle-filter", {"n": 16, "score": "value"}, "1100", block=3)
    served, here = methods.at_equal_cost(peer)
    assert (served.tool, served.method, served.block) == (here.tool, here.method, here.block) == ("arts", "arts", 3)
    assert served.options == {"generated_tokens": 96, "verifier": "served"}, "the rung below 100"
    assert here.options == {"verifier_tokens": 224, "verifier": "here"}, "the rung below 250"
    assert [methods.rung((96, 192), tokens) for tokens in (95.4, 95.6, 191.4, 192.0, 9e9)] == [0, 96, 96, 192, 192]
    others = list(methods.beside(peer))
    assert [run.method for run in others] == list(methods.BESIDE)
    assert all(run.options == served.options for run in others)
    assert list(methods.beside(row("its_hub", "best-of-n", {"n": 8}, "1100"))) == []
    nothing_read = row("its_hub", "self-consistency", {"n": 8}, "11")
    nothing_read["verifier"]["prompt_tokens"] = 0
    assert len(list(methods.at_equal_cost(nothing_read))) == 1


def test_every_setting_of_a_plan_is_a_run_of_its_own(peers: Any) -> None:
    methods = peers("methods")
    for problems in methods.GRIDS:
        runs = list(methods.planned(methods.PEERS, problems, 0))
        assert len({run.key for run in runs}) == len(runs) > 2
    for tool, tested in methods.TEST.items():
        tried = [(method, {**options, "n": 0, "width": 0, "expand": 0}) for method, options in methods.VALIDATION[tool]]
        for method, options in tested:
            same = [
                one
                for name, one in tried
                if name == method and one == {**one, **options, "n": 0, "width": 0, "expand": 0}
            ]
            assert same or method == "self-consistency", f"{tool} {method} was tested with what was not tried before"


def test_tables_set_ours_against_each_peer_problem_by_problem(peers: Any) -> None:
    peers("methods")
    tables = peers("peers_table")
    peer = row("its_hub", "best-of-n", {"n": 8}, "1100" * 25)
    bill = {"generated_tokens": 9000, "requests": 400, "verifier_tokens": 5000}
    served = row("arts", "arts", {"generated_tokens": 96, "verifier": "served"}, "1110" * 25, bill=bill, seconds=1.0)
    here = row("arts", "arts", {"verifier_tokens": 224, "verifier": "here"}, "1000" * 25, bill=bill)
    rows = {tables.run_of(one).key: one for one in (peer, served, here)}
    (line,) = tables.main_lines(rows)[2:]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:2] == ["its_hub", "best-of-n, n 8"]
    assert cells[2].startswith("0.500 [")
    assert cells[3:7] == ["100", "250", "8.0", "0.02"], "a problem"
    assert cells[7].startswith("+25.0 [") and cells[8] == "**ahead**"
    assert cells[9:13] == ["100", "250", "8.0", "0.01"]
    assert cells[13].startswith("-25.0 [") and cells[14] == "*behind*"
    assert cells[15:] == ["100", "50"], "with the verifier here, our bill is what counts"
    del rows[tables.run_of(here).key]
    assert "| – | – | – | – |" in tables.main_lines(rows)[2]
    page = "a\n<!-- peers: main -->\nold\n<!-- end of table -->\nb\n"
    filled = tables.filled(page, rows)
    assert "old" not in filled and filled.startswith("a\n") and filled.endswith("\nb\n")
    assert tables.filled(filled, rows) == filled


def test_blocks_count_together_and_a_missing_block_of_ours_leaves_the_place_empty(peers: Any) -> None:
    peers("methods")
    tables = peers("peers_table")
    own = [row("its_hub", "best-of-n", {"n": 8}, correct, block=block) for block, correct in enumerate(("11", "00"))]
    rows = {tables.run_of(one).key: one for one in own}
    (group,) = tables.settings_of(rows, "test", ("its_hub",))
    assert group.correct_P.tolist() == [1, 1, 0, 0]
    assert group.cost.generated == 100
    ours = row("arts", "arts", {"generated_tokens": 96, "verifier": "served"}, "11")
    rows[tables.run_of(ours).key] = ours
    assert tables.ours_for(group, rows, lambda run: "generated_tokens" in run.options) is None


def test_the_page_is_what_its_rows_say(peers: Any) -> None:
    peers("methods")
    tables = peers("peers_table")
    page = tables.PAGE.read_text(encoding="utf-8")
    assert tables.filled(page, tables.read_results()) == page, "run python benchmarks/peers/peers_table.py"
