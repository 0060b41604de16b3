"""Python functions named as `package.module:function` or `FILE.py:function`: loaded here, or called in a process of
their own that can be killed.

Text of a model can make a checker run for ever, eat all memory or die. A time limit inside the process is a signal,
which works in the main thread only and not within a long call into C; so `Predicate` puts the function into a child,
and the kernel counts its time (POSIX systems). Knows no task and no verifier.
"""

import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from arts.functions import serve; serve(sys.argv[2:])"
)
_START_S = 120.0  # a function's module may import a lot, on a busy machine
_WALL_S, _WALL_PER_CPU = 10.0, 5.0  # how long a busy machine may leave a process waiting before it counts as stuck


class CallError(Exception):
    """A call came back without an answer.

    Args:
        kind: `time` (over the limit, and killed), `died` (the process ended by itself) or `raised` (an exception).
    """

    def __init__(self, kind: Literal["time", "died", "raised"], message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Child(NamedTuple):
    process: "subprocess.Popen[bytes]"
    connection: "Connection[bytes, bytes]"
    owner: int
    "process that started it; one forked from there must not use it"


class Predicate:
    """A function of texts that says yes or no, called in a process of its own. May be used from many threads.

    The process starts with the first call, takes one call at a time, is killed where a call overruns, and starts anew
    with the next one. It ends with this object, or with the program. What the function prints goes to standard error.

    Args:
        name: `package.module:function` or `FILE.py:function`; its module is imported in the child only.
        limit_s: processor seconds of one call, counted and enforced by the kernel, so that a busy machine changes no
            answer. A call that waits instead of computing is killed after five times as long, and ten seconds.
        memory_bytes: limit of the child's address space; a call that wants more raises MemoryError there.
    """

    def __init__(self, name: str, *, limit_s: float, memory_bytes: int | None = None) -> None:
        if limit_s <= 0:
            raise ValueError(f"the time limit of {name!r} is {limit_s:g} s; it must be above 0")
        self.name, self.limit_s, self.memory_bytes = name, limit_s, memory_bytes
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._stop: weakref.finalize[[_Child], Any] | None = None

    def __call__(self, *texts: str) -> bool:
        """The function's answer.

        Raises:
            CallError: there is none.
            ValueError: the function cannot be loaded.
        """
        with self._lock:
            child = self._started()
            try:
                child.connection.send_bytes(json.dumps(texts).encode())
                reply = _receive(child.connection, self._wall_s())
            except TimeoutError:
                self._close()
                raise CallError("time", f"no answer within {self._wall_s():g} s") from None
            except (EOFError, OSError):
                with suppress(subprocess.TimeoutExpired):
                    child.process.wait(1)  # an interpreter that is leaving closes its files first
                self._close()
                status = child.process.returncode
                if status == -signal.SIGPROF:
                    raise CallError("time", f"no answer within {self.limit_s:g} s of computing") from None
                raise CallError("died", f"its process ended with status {status}") from None
            except BaseException:  # Ctrl-C: the answer still to come must not be taken for that of the next call
                self._close()
                raise
        if "raised" in reply:
            raise CallError("raised", reply["raised"])
        return bool(reply["answer"])

    def _wall_s(self) -> float:
        return _WALL_S + _WALL_PER_CPU * self.limit_s

    def start(self) -> None:
        """Start the process now. Raises ValueError where the function cannot be loaded."""
        with self._lock:
            self._started()

    def close(self) -> None:
        """End the process. The next call starts a new one."""
        with self._lock:
            self._close()

    def _started(self) -> _Child:
        if self._child is not None and self._child.owner != os.getpid():
            self._child = None
        if self._child is None:
            self._child = _start_child(self.name, self.limit_s, self.memory_bytes)
            self._stop = weakref.finalize(self, _end_child, self._child)
        return self._child

    def _close(self) -> None:
        if self._stop is not None:
            self._stop()
        self._child = self._stop = None


def _start_child(name: str, limit_s: float, memory_bytes: int | None) -> _Child:
    """A process that has loaded the function."""
    ours, theirs = Pipe()
    arguments = [str(theirs.fileno()), name, str(limit_s), str(memory_bytes or 0)]
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD, json.dumps(sys.path), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=2,  # what the function prints must not mix with our own output
        pass_fds=[theirs.fileno()],
        start_new_session=True,  # Ctrl-C is for us, and what the function starts can be ended with it
    )
    theirs.close()
    child = _Child(process, ours, os.getpid())
    try:
        reply = _receive(ours, _START_S)
    except (EOFError, OSError) as error:  # TimeoutError is an OSError
        _end_child(child)
        raise ValueError(f"{name!r} could not be loaded: its process ended with {process.returncode}") from error
    if "refused" in reply:
        _end_child(child)
        raise ValueError(reply["refused"])
    return child


def _end_child(child: _Child) -> None:
    if child.owner == os.getpid():
        child.connection.close()
        with suppress(ProcessLookupError):  # it ended by itself
            os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()


def _receive(connection: "Connection[bytes, bytes]", timeout_s: float) -> dict[str, Any]:
    if not connection.poll(timeout_s):
        raise TimeoutError
    reply: dict[str, Any] = json.loads(connection.recv_bytes())
    return reply


def serve(arguments: list[str]) -> None:
    """The child's side: load the function, then answer calls until the other end is closed."""
    import resource

    descriptor, name, limit_s, memory_bytes = arguments
    connection: Connection[bytes, bytes] = Connection(int(descriptor))
    if int(memory_bytes):
        resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    try:
        function = load_function(name)
    except ValueError as error:
        connection.send_bytes(json.dumps({"refused": str(error)}).encode())
        return
    connection.send_bytes(b"{}")
    while True:
        try:
            texts = json.loads(connection.recv_bytes())
        except EOFError:
            return
        # The default action of SIGPROF ends the process, whatever Python is doing and whoever else is still alive.
        signal.setitimer(signal.ITIMER_PROF, float(limit_s))
        try:
            reply: dict[str, Any] = {"answer": bool(function(*texts))}
        except Exception as error:
            reply = {"raised": f"{type(error).__name__}: {str(error)[:200]}"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send_bytes(json.dumps(reply).encode())


def load_function(name: str) -> Callable[..., Any]:
    """The function that `package.module:function` or `FILE.py:function` names. Its module is run, as by `import`."""
    module_name, colon, function_name = name.rpartition(":")
    if not colon or not module_name or not function_name:
        raise ValueError(f"{name!r} names no function; write 'package.module:function' or 'FILE.py:function'")
    try:
        module = _load_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
    except Exception as error:
        hint = "" if module_name.endswith(".py") else "; a module that is not installed is named as FILE.py:function"
        raise ValueError(f"{module_name!r} could not be imported ({type(error).__name__}: {error}){hint}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        own = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        what = "has no function" if function is None else f"has {function!r} for"
        raise ValueError(f"{module_name!r} {what} {function_name!r}; it has {', '.join(own[:8]) or 'none at all'}")
    return function  # type: ignore[no-any-return]


def _load_file(path: Path) -> ModuleType:
    """Import a file under a name of its own; modules beside it are not found, as for any import by path."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    name = f"_arts_function_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # a file that ends in .py always has them
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and annotations look there
    spec.loader.exec_module(module)
    return module
