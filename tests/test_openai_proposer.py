"""Draws from servers that do less than they say: what has come is kept, and what is asked for next fits the server."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_server import Answer, Settings
from faults import environment, server_process
from servers import Running, fake_server

from arts.build import any_problem, build_proposer, build_task
from arts.collect import collect
from arts.net.client import Client
from arts.net.flow_control import Patience
from arts.proposers.openai_http import OpenAIProposer
from arts.protocols import Request
from arts.sparse_deep_fork import CollectSettings
from arts.store import load_trees, open_collection
from arts.tasks.toy import ToyTask
from arts.tree import StopReason

TASK = ToyTask(3, 3)
PROBLEM = next(TASK.problems("train", 0))
SEEDS = tuple(range(100, 116))
Change = Callable[[dict[str, Any]], tuple[int, dict[str, Any]] | None]


@contextmanager
def changed(change: Change, settings: Settings | None = None) -> Iterator[tuple[Running, OpenAIProposer]]:
    """A proposer whose server starts to behave otherwise once it has been asked what it can do."""
    with fake_server(settings or Settings()) as running:
        proposer = build_proposer(f"{running.url}#toy?max_attempts=2&give_up_s=2", TASK)
        assert isinstance(proposer, OpenAIProposer)
        choices = running.app._choices

        async def instead(path: str, body: dict[str, Any], fault: str | None, answer: Answer) -> None:
            reply = change(body)
            if reply is None:
                await choices(path, body, fault, answer)
            else:
                await answer.json(*reply)

        running.app._choices = instead  # type: ignore[method-assign]
        running.app.rows.clear()
        try:
            yield running, proposer
        finally:
            proposer.close()


def asked_for(running: Running) -> list[int]:
    return [row["n"] for row in running.app.rows]


# --- several choices --------------------------------------------------------------------------------------------------


def test_fewer_choices_are_asked_for_where_so_many_are_refused() -> None:
    def at_most_four(body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        return (400, {"error": {"message": "n must be at most 4"}}) if body.get("n", 1) > 4 else None

    with changed(at_most_four) as (running, proposer):
        (reply,) = proposer.propose([Request(PROBLEM, (), SEEDS, 9)])
        assert not reply.failure
        assert all(draw[-1].stop is StopReason.EOS for draw in reply.draws)
        assert proposer.draws_at_once == 4
        running.app.rows.clear()
        proposer.propose([Request(PROBLEM, (), SEEDS, 9)])
        assert asked_for(running) == [4, 4, 4, 4]


def test_a_server_that_gives_fewer_than_asked_for_is_soon_asked_for_fewer() -> None:
    with changed(lambda body: body.update(n=min(body.get("n", 1), 4))) as (running, proposer):
        for _ in range(3):
            (reply,) = proposer.propose([Request(PROBLEM, (), SEEDS, 9)])
            assert all(draw[-1].stop is StopReason.EOS for draw in reply.draws)
        assert proposer.draws_at_once == 4
        running.app.rows.clear()
        proposer.propose([Request(PROBLEM, (), SEEDS, 9)])
        assert asked_for(running) == [4, 4, 4, 4]


def test_a_server_that_gives_the_same_choice_again_and_again_gives_one() -> None:
    with fake_server() as running:
        choice = running.app._choice

        def same(body: Any, prompt: str, begun: str, seed: int, index: int, chat: bool) -> dict[str, Any]:
            return {**choice(body, prompt, begun, seed, 0, chat), "index": index}

        running.app._choice = same  # type: ignore[method-assign]
        proposer = build_proposer(f"{running.url}#toy", TASK)
        assert not proposer.capabilities.n  # type: ignore[attr-defined]
        (reply,) = proposer.propose([Request(PROBLEM, (), SEEDS, 9)])
        assert len({draw[0].text for draw in reply.draws}) > 1


def test_what_came_before_the_key_was_taken_back_is_stored(tmp_path: Path) -> None:
    state = {"closed": False}

    def half(body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        if state["closed"]:
            return 401, {"error": {"message": "expired"}}
        state["closed"] = True
        body["n"] = 8
        return None

    with changed(half) as (_, proposer):
        collect(TASK, proposer, CollectSettings(num_problems=1, num_samples=16), tmp_path)
        with pytest.raises(ValueError, match="wants a key"):
            proposer.propose([Request(PROBLEM, (), SEEDS, 9)])
    (row,) = open_collection(tmp_path).read_journal(0)
    assert sum(rollout.steps[-1].stop is StopReason.EOS for rollout in row.rollouts) == 8
    with fake_server() as running:
        again = build_proposer(f"{running.url}#toy", TASK)
        running.app.rows.clear()
        collect(TASK, again, CollectSettings(num_problems=1, num_samples=16), tmp_path)
        assert sum(asked_for(running)) >= 8
        assert [row["n"] for row in running.app.rows if not row["begun"]] == [8], "only the others are asked for"


# --- answers that cannot be used --------------------------------------------------------------------------------------


def test_halves_of_characters_are_no_reason_to_stop(tmp_path: Path) -> None:
    with changed(lambda body: None, Settings(n=False, token_ids=False, log_probs=False)) as (_, proposer):
        body = {"choices": [{"index": 0, "message": {"content": "a;\ud83d"}, "finish_reason": "stop"}]}
        proposer.client.post = _always(body)  # type: ignore[method-assign]
        collect(TASK, proposer, CollectSettings(num_problems=1, num_samples=2, pivots="none"), tmp_path)
    (tree,) = load_trees(tmp_path)
    assert tree.text(tree.trunks[0]) == "a;?"


def _always(body: dict[str, Any]) -> Any:
    async def post(path: str, sent: Any, read: Callable[[Any], Any], **_: Any) -> tuple[Any, int]:
        return read(json.loads(json.dumps(body))), 0

    return post


def test_answers_without_the_ids_it_goes_on_by_are_tried_again() -> None:
    left = ["without"]

    def forgetful(body: dict[str, Any]) -> None:
        if left:
            left.pop()
            body["return_token_ids"] = False

    with changed(forgetful) as (running, proposer):
        (reply,) = proposer.propose([Request(PROBLEM, (), SEEDS[:1], 9)])
        assert reply.usage.failed_requests == 1 and len(running.app.rows) == 2
        assert all(step.token_ids for step in reply.draws[0])


def test_one_problem_that_is_refused_does_not_end_the_run(tmp_path: Path) -> None:
    problems = [problem for problem, _ in zip(TASK.problems("train", 0), range(3), strict=False)]

    def too_long(body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        said = json.dumps(body.get("messages")) + running_text(body)
        return (400, {"error": {"message": "too long"}}) if problems[0].prompt in said else None

    def running_text(body: dict[str, Any]) -> str:
        return "".join(chr(one - 1000) for one in body.get("prompt", ()) if isinstance(one, int) and one >= 1000)

    with changed(too_long, Settings(n=False)) as (_, proposer):
        collect(TASK, proposer, CollectSettings(num_problems=3, num_samples=120, pivots="none"), tmp_path)
    trees = load_trees(tmp_path)
    assert [sum(leaf.is_answer for leaf in tree.leaves()) > 0 for tree in trees] == [False, True, True]


def test_a_template_that_trims_messages_doubles_no_blank_line(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"problem": "What is 19 + 29 - 30 + 7?", "answer": 25}) + "\n")
    task = build_task(str(path))
    problem = any_problem(task)
    replies = []
    for trims in (False, True):
        with fake_server(Settings(model="sums", token_ids=False, trims=trims)) as running:
            proposer = build_proposer(f"{running.url}#sums", task)
            assert proposer.capabilities.trims == trims  # type: ignore[attr-defined]
            trunk = proposer.propose([Request(problem, (), (1,), 200)])[0].draws[0]
            prefix = trunk[:1]
            replies.append(proposer.propose([Request(problem, prefix, SEEDS, 200)])[0].draws)
    for draws in replies:
        assert all(not step.text.startswith("\n") and step.text.strip() for draw in draws for step in draw)
        assert {len(draw) for draw in draws} == {3}
        assert all(draw[0].text.startswith(f"{prefix[0].text.split()[-1].rstrip('.')} - 30 = ") for draw in draws)


# --- too much ---------------------------------------------------------------------------------------------------------


def test_a_rate_limit_that_names_no_time_fails_no_draw(tmp_path: Path) -> None:
    """Twenty requests a second, however few are in flight at once."""
    taken: list[float] = []

    def limited(body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        now = time.monotonic()
        taken[:] = [one for one in taken if now - one < 0.5]
        if len(taken) >= 10:
            return 429, {"error": {"message": "slow down"}}
        taken.append(now)
        return None

    with fake_server(Settings(n=False)) as running:
        proposer = build_proposer(f"{running.url}#toy?max_attempts=3", TASK)
        choices = running.app._choices

        async def instead(path: str, body: dict[str, Any], fault: str | None, answer: Answer) -> None:
            reply = limited(body)
            await (choices(path, body, fault, answer) if reply is None else answer.json(*reply))

        running.app._choices = instead  # type: ignore[method-assign]
        collect(TASK, proposer, CollectSettings(num_problems=4, num_samples=12, pivots="none"), tmp_path)
        sent = proposer.client.sent  # type: ignore[attr-defined]
    assert all(leaf.is_answer for tree in load_trees(tmp_path) for leaf in tree.leaves())
    assert 0 < sent["overloaded"] < 4 * sent["good"]


# --- secrets of a proxy, and Ctrl-C -----------------------------------------------------------------------------------


def test_the_password_of_a_proxy_is_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_server(Settings()) as running:
        port = running.port
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://user:secretpw@127.0.0.1:{port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        running.app._answer = _refuse  # type: ignore[method-assign]
        client = Client("http://model.invalid/v1", patience=Patience(max_attempts=1, first_contact_s=0.1))
        with pytest.raises(ValueError) as caught:
            client.run(client.get("models", lambda body: body))
        client.close()
    assert "secretpw" not in str(caught.value)


async def _refuse(path: str, headers: dict[str, str], body: dict[str, Any], answer: Answer) -> None:
    await answer.json(407, {"error": {"message": "http://user:secretpw@127.0.0.1 is not allowed"}})


def test_ctrl_c_is_heard_while_answers_are_checked(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ndef check(*_):\n    time.sleep(0.3)\n    return True\n")
    rows = [{"problem": f"What is {one} + 1?", "answer": one + 1, "split": "train"} for one in range(24)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = f"{tmp_path / 'problems.jsonl'}?check=python:{tmp_path / 'slow.py'}:check"
    with server_process(tmp_path / "log.jsonl", {"model": "sums", "token_ids": False}) as url:
        command = [sys.executable, "-m", "arts", "collect", "--task", task, "--proposer", f"{url}#sums"]
        command += ["--out", str(tmp_path / "out"), "--num-problems", "24", "--num-samples", "4", "--pivots", "none"]

        def listen() -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)

        with subprocess.Popen(
            command,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=listen,
        ) as process:
            deadline = time.monotonic() + 60
            while not (tmp_path / "out").exists() or len(open_journal(tmp_path / "out")) < 24:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(0.5)  # all answers are there; now they are checked
            asked = time.monotonic()
            os.kill(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=30)
            assert time.monotonic() - asked < 4.0, "it waits for one tree at most"
            assert process.returncode == 130, errors


def open_journal(folder: Path) -> set[str]:
    if not (folder / "collection.json").exists():
        return set()
    return {row.problem_id for row in open_collection(folder).read_journal(0, repair=False)}


def test_a_changed_file_of_problems_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    rows = [{"problem": f"What is {one} + 1?", "answer": one + 1, "split": "train"} for one in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:8]))
    settings = CollectSettings(num_problems=4, num_samples=2, pivots="none")
    with fake_server(Settings(model="sums", token_ids=False)) as running:
        task = build_task(str(path))
        proposer = build_proposer(f"{running.url}#sums", task)
        collect(task, proposer, settings, tmp_path / "out")
        before = [tree.problem.id for tree in load_trees(tmp_path / "out")]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[4:]))
        with pytest.raises(ValueError, match=r"problems: '.*' there, '.*' asked for"):
            collect(build_task(str(path)), proposer, settings, tmp_path / "out")
        path.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows[:8])))
        collect(build_task(str(path)), proposer, settings, tmp_path / "out")
        assert [tree.problem.id for tree in load_trees(tmp_path / "out")] == before
