"""How much of a server's capacity does a collection use? Ours, plain aiohttp and its_hub, on the same server in turn.

    python benchmarks/http_saturation.py                                     # 64 and 256 in flight: two minutes
    python benchmarks/http_saturation.py --its-hub its_hub/bin/python        # an environment with `its_hub[lm]`
    python benchmarks/http_saturation.py --in-flight 64 --seconds 60 --block-size 64 --sync-ms 10 --json rates.json

The server, a process of its own, has as many places as requests may be in flight, and every answer takes one of them
for `latency_s`: what it could do in the time from its first request to its last answer is known. *Share* is what it did
of that. Ours is `collect` as a whole: every reply is synced to disk before it counts, and trees are put together on the
way (one shard per eight blocks of problems). aiohttp is the floor: it parses the JSON and drops it; ratios are to its
run in the same round. Processor time is that of the client's process. Where *load*, the processes that want a core, is
above the number of cores, shares are those of a busy machine.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import aiohttp
import typer
from rich.console import Console
from rich.table import Table

from arts.build import about
from arts.collect import collect
from arts.files import dump
from arts.net.client import Client
from arts.proposers.capabilities import Capabilities, chat_messages
from arts.proposers.openai_http import OpenAIProposer, ServerSettings
from arts.sparse_deep_fork import CollectSettings
from arts.store import Collection, JournalRow
from arts.tasks.toy import ToyTask

Row = dict[str, Any]
MODEL = "fixed"
NUM_SAMPLES = 16  # solutions of a problem
STEP_TOKENS = 50
SLOT = "########"  # of an answer's template, for the number that makes it differ from all others


# --- the server -------------------------------------------------------------------------------------------------------


class Places:
    """A bounded number of places, each taken for a fixed time by one request; the others wait in line."""

    def __init__(self, num_places: int, latency_s: float) -> None:
        self.num_free, self.latency_s = num_places, latency_s
        self.line: deque[Callable[[], None]] = deque()
        self.first_at = self.last_at = 0.0
        self.served = self.here = self.most_here = self.connections = 0

    def take(self, answer: Callable[[], None]) -> None:
        self.first_at = self.first_at or time.monotonic()
        self.here += 1
        self.most_here = max(self.most_here, self.here)
        if self.num_free:
            self.num_free -= 1
            self._start(answer)
        else:
            self.line.append(answer)

    def _start(self, answer: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(self.latency_s, self._end, answer)

    def _end(self, answer: Callable[[], None]) -> None:
        answer()
        self.last_at = time.monotonic()
        self.served += 1
        self.here -= 1
        if self.line:
            self._start(self.line.popleft())
        else:
            self.num_free += 1


class Connection(asyncio.Protocol):
    """The little of HTTP and of OpenAI's protocol that clients need; as cheap as can be, so that it is no limit."""

    def __init__(self, places: Places, template: bytes) -> None:
        self.places, self.template = places, template
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.places.connections += 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(rest) < int(length or 0):
            return
        self.buffer = b""
        path = head.split(b" ", 2)[1]
        if path.endswith(b"/chat/completions"):
            self.places.take(self.answer)
        elif path.endswith(b"/models"):
            self.send(b"200 OK", dump({"data": [{"id": MODEL, "owned_by": "benchmark"}]}).encode())
        else:
            self.send(b"404 Not Found", b'{"error":{"message":"not found"}}')

    def answer(self) -> None:
        self.send(b"200 OK", self.template.replace(SLOT.encode(), b"%08d" % self.places.served))

    def send(self, status: bytes, body: bytes) -> None:
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
        if not self.transport.is_closing():
            self.transport.write(head + body)


def answer_template(num_tokens: int) -> str:
    """An answer with log-probabilities and ids, as vLLM gives it: steps of 50 tokens, each with a number of its own."""
    closers = [";" if place % STEP_TOKENS == STEP_TOKENS - 1 else "" for place in range(num_tokens)]
    tokens = [f" {SLOT if place % STEP_TOKENS == 0 else 'word'}{closer}" for place, closer in enumerate(closers)]
    tokens[-2:] = [" end", ""]  # not at a separator, as no step is empty
    shown = [*tokens[:-1], "<|im_end|>"]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(tokens)},
        "logprobs": {"content": [{"token": token, "logprob": -0.4375, "top_logprobs": []} for token in shown]},
        "finish_reason": "stop",
        "stop_reason": None,
        "token_ids": [1000 + place for place in range(num_tokens)],
    }
    return dump({"model": MODEL, "choices": [choice], "usage": {"prompt_tokens": 20, "completion_tokens": num_tokens}})


async def serve(num_places: int, latency_s: float, answer_tokens: int) -> None:
    """Print the port, serve until standard input ends, and print what happened."""
    loop = asyncio.get_running_loop()
    places, template = Places(num_places, latency_s), answer_template(answer_tokens).encode()
    server = await loop.create_server(lambda: Connection(places, template), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    cpu_s = time.process_time()
    await loop.run_in_executor(None, sys.stdin.read)
    found = {name: getattr(places, name) for name in ("served", "most_here", "connections")}
    print(dump(found | {"wall_s": places.last_at - places.first_at, "server_cpu_s": time.process_time() - cpu_s}))


@contextmanager
def server(num_places: int, latency_s: float, answer_tokens: int) -> Iterator[tuple[str, Row]]:
    """Its address, and a row that is filled when it ends."""
    command = [sys.executable, __file__, "--serve", f"{num_places} {latency_s} {answer_tokens}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout
        row: Row = {}
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1", row
            row |= json.loads(process.communicate()[0])
        finally:
            process.kill()


# --- the clients ------------------------------------------------------------------------------------------------------


class Work(NamedTuple):
    """What each client does."""

    in_flight: int
    num_problems: int
    answer_tokens: int
    block_size: int
    extra_sync_s: float

    @property
    def num_requests(self) -> int:
        return self.num_problems * NUM_SAMPLES

    def chats(self) -> list[list[dict[str, str]]]:
        """What `collect` asks for, in its order."""
        problems = islice(ToyTask().problems("train", 0), self.num_problems)
        return [chat_messages(problem, None) for problem in problems for _ in range(NUM_SAMPLES)]


@contextmanager
def counted_syncs(extra_s: float) -> Iterator[Counter[str]]:
    """Batches that are put on disk, and the seconds they take; `extra_s` each on top, as on a slower disk."""
    append, count = Collection.append, Counter[str]()

    def counting(self: Collection, shard: int, rows: Sequence[JournalRow]) -> None:
        started = time.perf_counter()
        append(self, shard, rows)
        time.sleep(extra_s)
        count.update(syncs=1, synced=len(rows), sync_s=time.perf_counter() - started)  # type: ignore[arg-type]

    Collection.append = counting  # type: ignore[method-assign]
    try:
        yield count
    finally:
        Collection.append = append  # type: ignore[method-assign]


def run_arts(url: str, work: Work) -> Row:
    task = ToyTask()
    client = Client(url, max_in_flight=work.in_flight)
    can = Capabilities(model=MODEL, log_probs=True, log_prior_law="raw", seed=True, usage=True, extra_fields=True)
    server_settings = ServerSettings(max_in_flight=work.in_flight)
    proposer = OpenAIProposer(client, can, step_separator=task.step_separator, settings=server_settings)
    settings = CollectSettings(
        num_problems=work.num_problems,
        num_samples=NUM_SAMPLES,
        pivots="none",
        max_new_tokens=work.answer_tokens,
        block_size=work.block_size,
    )
    try:
        with tempfile.TemporaryDirectory() as folder, counted_syncs(work.extra_sync_s) as count, clock() as row:
            collection = collect(task, proposer, settings, Path(folder))
            row["trees"] = collection.num_trees()
    finally:
        proposer.close()
    if client.sent != {"good": work.num_requests}:
        raise RuntimeError(f"requests came to nothing: {client.sent}")
    return row | dict(count)


def run_aiohttp(url: str, work: Work) -> Row:
    """One session and a semaphore."""

    async def all_of_them() -> list[Any]:
        gate = asyncio.Semaphore(work.in_flight)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def one(chat: list[dict[str, str]]) -> Any:
                body = {"model": MODEL, "messages": chat, "max_tokens": work.answer_tokens, "temperature": 1.0}
                async with gate, session.post(f"{url}/chat/completions", json=body) as answer:
                    return (await answer.json())["choices"][0]["finish_reason"]

            return await asyncio.gather(*map(one, work.chats()))

    with clock() as row:
        ends = asyncio.run(all_of_them())
    if ends != ["stop"] * work.num_requests:
        raise RuntimeError("aiohttp got other answers than it should")
    return row


ITS_HUB = """
import asyncio, json, sys, time, warnings
from importlib.metadata import version
from its_hub import OpenAICompatibleLanguageModel
from its_hub.api import ChatMessage

warnings.simplefilter("ignore")
url, model, in_flight, max_tokens, chats = json.load(sys.stdin)
batch = [[ChatMessage(**message) for message in chat] for chat in chats]
lm = OpenAICompatibleLanguageModel(url, "none", model, max_concurrency=in_flight, temperature=1.0)
started, cpu = time.perf_counter(), time.process_time()
answers = asyncio.run(lm.agenerate(batch, max_completion_tokens=max_tokens))
row = {"run_s": time.perf_counter() - started, "client_cpu_s": time.process_time() - cpu}
assert all(answer["content"].endswith(" end") for answer in answers)
print(json.dumps(row | {"version": version("its_hub")}))
"""


def run_its_hub(python: Path, url: str, work: Work) -> Row:
    """`agenerate` on the whole batch, with as many at once as allowed; its pool has no option."""
    asked = dump([url, MODEL, work.in_flight, work.answer_tokens, work.chats()])
    done = subprocess.run([python, "-c", ITS_HUB], input=asked, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"its_hub failed: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout))


@contextmanager
def clock() -> Iterator[Row]:
    """Seconds of the run and of this process."""
    row: Row = {}
    started, cpu_s = time.perf_counter(), time.process_time()
    yield row
    row |= {"run_s": time.perf_counter() - started, "client_cpu_s": time.process_time() - cpu_s}


def measure(client: str, run: Callable[[str, Work], Row], work: Work, latency_s: float) -> Row:
    with server(work.in_flight, latency_s, work.answer_tokens) as (url, seen):
        row = {"client": client, "latency_s": latency_s, **work._asdict(), **run(url, work)}
    row |= seen
    if row["served"] != work.num_requests:
        raise RuntimeError(f"{client}: {row['served']} answers, {work.num_requests} requests")
    return row | {
        "share": row["served"] * latency_s / (work.in_flight * row["wall_s"]),
        "cpu_ms": 1e3 * row["client_cpu_s"] / row["served"],
        "server_cpu_ms": 1e3 * row["server_cpu_s"] / row["served"],
        "load": os.getloadavg()[0],
    }


# --- table ------------------------------------------------------------------------------------------------------------


def rates_table(rows: Sequence[Row]) -> Table:
    title = f"Share of a server's capacity that is used; answers of {rows[0]['answer_tokens']} tokens"
    table = Table(title=title)
    columns = ("share, %", "/ aiohttp", "CPU ms a request", "/ aiohttp", "connections", "replies a sync", "load")
    for column in ("in flight", "requests", "client", *columns):
        table.add_column(column, justify="left" if column == "client" else "right")
    for in_flight, client in dict.fromkeys((row["in_flight"], row["client"]) for row in rows):
        own = [row for row in rows if (row["in_flight"], row["client"]) == (in_flight, client)]
        floor = [row for row in rows if (row["in_flight"], row["client"]) == (in_flight, "aiohttp")]
        cells = []
        for name, scale, digits in (("share", 100, 1), ("cpu_ms", 1, 2)):
            ratios = [one[name] / other[name] for one, other in zip(own, floor, strict=True)]
            cells += [median_and_range([scale * row[name] for row in own], digits), median_and_range(ratios, 2)]
        syncs = sum(row.get("syncs", 0) for row in own)
        cells.append(str(max(row["connections"] for row in own)))
        cells.append(f"{sum(row['synced'] for row in own) / syncs:.1f}" if syncs else "")
        load = f"{statistics.median(row['load'] for row in own):.1f}"
        table.add_row(str(in_flight), f"{own[0]['served']:,}", client, *cells, load)
    return table


def median_and_range(values: Sequence[float], digits: int) -> str:
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def main(
    in_flight: Annotated[
        list[int] | None, typer.Option(help="and places of the server; repeat. Default: 64, 256")
    ] = None,
    seconds: Annotated[float, typer.Option(help="of full load")] = 12.0,
    latency_s: Annotated[float, typer.Option(help="of an answer")] = 1.0,
    answer_tokens: Annotated[int, typer.Option(help="of an answer, with log-probabilities and ids")] = 200,
    block_size: Annotated[int, typer.Option(help="problems; eight blocks are a shard. `arts collect` has 64")] = 1,
    sync_ms: Annotated[float, typer.Option(help="that a sync takes longer, as on a slower disk")] = 0.0,
    repetitions: Annotated[int, typer.Option(help="each client in turn")] = 1,
    its_hub: Annotated[Path | None, typer.Option(help="Python of an environment with `its_hub[lm]`")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the rows")] = None,
    serve_as: Annotated[str | None, typer.Option("--serve", hidden=True)] = None,
) -> None:
    """Measure what share of a server's capacity is used."""
    if serve_as is not None:
        num_places, own_latency_s, num_tokens = serve_as.split()
        asyncio.run(serve(int(num_places), float(own_latency_s), int(num_tokens)))
        return
    clients: dict[str, Callable[[str, Work], Row]] = {"arts": run_arts, "aiohttp": run_aiohttp}
    if its_hub is not None:
        clients["its_hub"] = lambda url, work: run_its_hub(its_hub, url, work)
    rows = []
    for size in in_flight or (64, 256):
        num_problems = max(1, round(seconds / latency_s * size / NUM_SAMPLES))
        work = Work(size, num_problems, answer_tokens, block_size, sync_ms / 1e3)
        for _ in range(repetitions):
            rows += [measure(client, run, work, latency_s) for client, run in clients.items()]
    Console(width=None if sys.stdout.isatty() else 150).print(rates_table(rows))
    made_by = about()
    made_by["versions"] |= {"aiohttp": aiohttp.__version__}
    made_by["versions"] |= {row["client"]: row["version"] for row in rows if "version" in row}
    print(", ".join(f"{name} {version}" for name, version in made_by["versions"].items()), made_by["date"])
    if its_hub is None:
        print("its_hub is left out: give the Python of an environment that has it with --its-hub")
    if json_file is not None:
        json_file.write_text(dump({"about": made_by, "rows": rows}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
