"""Functions by name, in a process of their own that can be killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT

from arts.functions import CallError, Predicate

CHECKS = """
import os, sys, time

def equal(one, other):
    return one == other

def hang(text):
    while text == "hang":
        pass
    return True

def power(text):
    return 9 ** 9 ** 9 > 0 if text == "hang" else True

def sleep(text):
    time.sleep(60 if text == "hang" else 0)
    return True

def die(text):
    if text == "hang":
        os._exit(3)
    return True

def leave(text):
    return sys.exit(4) if text == "hang" else True

def fail(text):
    return [][int(text)]

def eat(text):
    return len(bytearray(1 << int(text))) > 0

def chatter(text):
    print("on standard output", flush=True)
    return text == "yes"

def number(text):
    return os.getpid() == int(text)
"""


@pytest.fixture
def checks(tmp_path: Path) -> str:
    path = tmp_path / "checks.py"
    path.write_text(CHECKS)
    return str(path)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3] if Path("/proc").is_dir() else True


def wait_for(condition: object, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


def test_it_answers_with_any_text(checks: str) -> None:
    equal = Predicate(f"{checks}:equal", limit_s=5)
    assert equal("a", "a") is True and equal("a", "b") is False
    for text in ("", "\0", "é\n\"'", "\ud800", "x" * 3_000_000):
        assert equal(text, text), text[:10]


@pytest.mark.parametrize(("function", "kind", "message"), [
    ("hang", "time", "within 0.3 s of computing"),
    ("power", "time", "within 0.3 s of computing"),
    ("sleep", "time", "no answer within 1.5 s"),
    ("die", "died", "ended with status 3"),
    ("leave", "died", "ended with status 4"),
])  # fmt: skip
def test_a_call_that_overruns_or_dies_is_named_and_the_next_one_is_answered(
    checks: str, function: str, kind: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if function == "sleep":
        monkeypatch.setattr("arts.functions._WALL_S", 0.0)
    predicate = Predicate(f"{checks}:{function}", limit_s=0.3)
    assert predicate("go on")
    with pytest.raises(CallError, match=message) as caught:
        predicate("hang")
    assert caught.value.kind == kind
    assert predicate("go on")


def test_an_exception_and_a_full_memory_leave_the_process_alive(checks: str) -> None:
    fail = Predicate(f"{checks}:fail", limit_s=5)
    with pytest.raises(CallError, match="IndexError") as caught:
        fail("7")
    assert caught.value.kind == "raised"
    eat = Predicate(f"{checks}:eat", limit_s=5, memory_bytes=1 << 30)
    assert eat("20")
    with pytest.raises(CallError, match="MemoryError"):
        eat("31")
    assert eat("20")


def test_what_a_function_prints_is_not_taken_for_its_answer(checks: str, capfd: pytest.CaptureFixture[str]) -> None:
    chatter = Predicate(f"{checks}:chatter", limit_s=5)
    assert chatter("yes") and not chatter("no")
    assert capfd.readouterr() == ("", "on standard output\n" * 2)


def test_many_threads_get_their_own_answers(checks: str) -> None:
    equal, wrong = Predicate(f"{checks}:equal", limit_s=5), []

    def ask(number: int) -> None:
        wrong.extend(step for step in range(100) if equal(str(number), str(step)) != (number == step))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_interrupted_call_leaves_no_answer_for_the_next(checks: str) -> None:
    sleep = Predicate(f"{checks}:sleep", limit_s=20)
    sleep.start()
    main = threading.get_ident()
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # workers of a test run ignore it
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            sleep("hang")
    finally:
        signal.signal(signal.SIGINT, before)
    assert sleep("go on")


def test_functions_that_cannot_be_loaded_are_named(checks: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no function 'nothing'; it has .*equal"):
        Predicate(f"{checks}:nothing", limit_s=1).start()
    (tmp_path / "dies.py").write_text("import os; os._exit(5)")
    with pytest.raises(ValueError, match="its process ended with 5"):
        Predicate(f"{tmp_path / 'dies.py'}:f", limit_s=1)("x")
    with pytest.raises(ValueError, match="must be above 0"):
        Predicate(f"{checks}:equal", limit_s=0)


@pytest.mark.parametrize("ending", ["close", "forget", "exit", "kill"])
def test_the_process_ends_with_what_started_it(checks: str, ending: str) -> None:
    program = f"""
import os, signal, sys
from arts.functions import Predicate
one = Predicate({checks + ":number"!r}, limit_s=5)
one.start()
print(one._child.process.pid, flush=True)
if {ending == "close"}: one.close()
if {ending == "forget"}: del one
if {ending in ("close", "forget")}: sys.stdin.readline()
if {ending == "kill"}: os.kill(os.getpid(), signal.SIGKILL)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        pid = int(process.stdout.readline())  # type: ignore[union-attr]
        assert wait_for(lambda: not alive(pid))


def test_a_forked_process_has_a_child_of_its_own(checks: str) -> None:
    number = Predicate(f"{checks}:number", limit_s=5)
    number.start()
    assert number._child is not None
    ours = str(number._child.process.pid)
    assert number(ours)
    forked = os.fork()
    if forked == 0:
        os._exit(number(ours))
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0
    assert number(ours)
