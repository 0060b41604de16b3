"""Side by side with other libraries: the same servers, verifier, problems and judge; every tool in its own environment.

    bash benchmarks/peers/environments.sh                     # .peers/NAME, versions pinned
    python benchmarks/peers/compare.py validation             # the grid of settings
    python benchmarks/peers/compare.py test --block 0         # the chosen ones, then ours at equal cost
    python benchmarks/peers/peers_table.py                    # the table of docs/peers.md

Needs `.venv-servers` (`make test-servers`) and a verifier with a linear head (README.md beside this file). A run that
has a row is not run again. What a run cost is what the servers counted between its start and its end.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from methods import OURS, PEERS, Run, at_equal_cost, beside, planned, run_of
from served import Job
from servers import MODEL, Server, serving

from arts.build.about import about
from arts.files import dump
from arts.models import shipped_folder
from arts.protocols import Split
from arts.tasks.countdown import CountdownTask
from arts.tree import Problem

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FIRST = {"validation": 2000, "test": 3500, "test-weak": 3500}  # in the stream of Countdown: nothing else uses these
BLOCK = {"validation": 50, "test": 100, "test-weak": 100}
IN_FLIGHT = 64
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """Everything a run needs."""

    proposer: Server
    verifier: Server
    places: Mapping[str, str]
    environments: Path
    logs: Path

    def measure(self, run: Run, task: CountdownTask) -> Row:
        """Run it, count what it cost at the servers, judge what it chose.

        Raises:
            RuntimeError: the tool failed, or left problems without an answer line.
        """
        problems = problems_of(task, run)
        job = Job(
            method=run.method,
            options=run.options,
            problems=[problem.prompt for problem in problems],
            seed=run.block,
            proposer_url=self.proposer.url,
            verifier_url=self.verifier.root,
            model=MODEL,
            separator=task.step_separator,
            num_steps=task.num_numbers - 1,
            max_new_tokens=task.max_new_tokens,
            in_flight=IN_FLIGHT,
            places=dict(self.places) if run.tool == OURS else {},
        )
        before = self.proposer.counters(), self.verifier.counters()
        with adapter(run, job, self.environments, self.logs) as lines:
            ready = next(lines)
            started = time.monotonic()
            solved = [line for line in lines if "place" in line]
            seconds = time.monotonic() - started
        after = self.proposer.counters(), self.verifier.counters()
        texts = {line["place"]: line["text"] for line in solved}
        if sorted(texts) != list(range(len(problems))):
            raise RuntimeError(f"{run} answered {len(texts)} of {len(problems)} problems")
        verdicts = [task.judge(problem, texts[place]) for place, problem in enumerate(problems)]
        own = [line["bill"] for line in solved if line["bill"]]
        return {
            **asdict(run),
            "version": ready["version"],
            "in_flight": IN_FLIGHT,
            "seconds": round(seconds, 2),
            "load": round(os.getloadavg()[0], 1),
            "proposer": after[0].minus(before[0])._asdict(),
            "verifier": after[1].minus(before[1])._asdict(),
            "bill": {name: sum(bill[name] for bill in own) for name in (own[0] if own else ())},
            "correct": "".join(str(int(verdict.correct)) for verdict in verdicts),
            "texts": [texts[place] for place in range(len(problems))],
        }


def problems_of(task: CountdownTask, run: Run) -> list[Problem]:
    first, size = FIRST[run.problems], BLOCK[run.problems]
    start = first + run.block * size
    split: Split = "validation" if run.problems == "validation" else "test"
    return list(islice(task.problems(split, 0), start, start + size))


@contextmanager
def adapter(run: Run, job: Job, environments: Path, logs: Path) -> Iterator[Iterator[Row]]:
    """A tool's own process at work: what it writes, line by line, up to `done`."""
    python = sys.executable if run.tool == OURS else environments / run.tool / "bin" / "python"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if run.tool == OURS:
        environment["PYTHONPATH"] = str(ROOT)
    log = logs / f"{run.tool}.log"
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [str(python), str(HERE / f"{run.tool}_runs.py")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(asdict(job)))
        process.stdin.close()
        try:
            yield until_done(process.stdout, f"{run} failed; see {log}")
        finally:
            process.terminate()
            process.wait()


def until_done(lines: Iterator[str], complaint: str) -> Iterator[Row]:
    """The JSON objects among the lines; libraries print other things too.

    Raises:
        RuntimeError: they ended before `done` came.
    """
    for line in lines:
        if not line.startswith("{"):
            continue
        found = json.loads(line)
        if "done" in found:
            return
        yield found
    raise RuntimeError(complaint)


def read_rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def main(
    problems: Annotated[str, typer.Argument(help="validation, test or test-weak")],
    tool: Annotated[list[str] | None, typer.Option(help="a peer; repeat. Default: all")] = None,
    block: Annotated[list[int] | None, typer.Option(help="of 100 test problems; repeat. Default: 0")] = None,
    out: Annotated[Path, typer.Option(help="folder of rows and logs")] = Path("runs/peers"),
    verifier: Annotated[Path, typer.Option(help="trained folder, with a linear head")] = Path("runs/peers/verifier"),
    backbone: Annotated[Path | None, typer.Option(help="of a verifier that is a head alone")] = None,
    exported: Annotated[Path, typer.Option(help="the same by arts export-verifier")] = Path("runs/peers/exported"),
    environments: Annotated[Path, typer.Option(help="of the peers")] = ROOT / ".peers",
    servers_python: Annotated[Path, typer.Option(help="with vLLM")] = ROOT / ".venv-servers/bin/python",
    others: Annotated[bool, typer.Option(help="strategies of ours besides `arts`, too")] = True,
    ports: Annotated[tuple[int, int] | None, typer.Option(help="of the two servers, where they run already")] = None,
) -> None:
    """Run what has no row yet: the peers, then ours at what they cost."""
    tools = tuple(tool or PEERS)
    out.mkdir(parents=True, exist_ok=True)
    rows_file = out / "rows.jsonl"
    rows = {run_of(row).key: row for row in read_rows(rows_file)}
    task = CountdownTask()
    places = {
        "exported": str(exported.resolve()),
        "trained": str(verifier.resolve()),
        "backbone": f"hf:{backbone.resolve()}" if backbone else "",
    }
    with ExitStack() as stack:
        if ports:
            proposer, scorer = map(Server, ports)
        else:
            start = partial(serving, servers_python)
            proposer = stack.enter_context(start(shipped_folder("countdown-proposer"), out.resolve() / "proposer.log"))
            pooling = ["--runner", "pooling"]
            scorer = stack.enter_context(start(exported.resolve(), out.resolve() / "verifier.log", pooling))
        bench = Bench(proposer, scorer, places, environments.absolute(), out)
        file = stack.enter_context(rows_file.open("a", encoding="utf-8"))

        def complete(run: Run) -> Row:
            if run.key not in rows:
                row = bench.measure(run, task)
                rows[run.key] = row
                file.write(dump({**row, "date": about()["date"]}) + "\n")
                file.flush()
                print(said(row), flush=True)
            return rows[run.key]

        for one in block or [0]:
            done = [complete(run) for run in planned(tools, problems, one)]
            if problems == "validation":
                continue
            for own in (at_equal_cost, beside) if others else (at_equal_cost,):
                for row in done:
                    for run in own(row):
                        complete(run)


def said(row: Row) -> str:
    count = len(row["correct"])
    right = row["correct"].count("1") / count
    proposer, scorer = row["proposer"], row["verifier"]
    options = ",".join(f"{key}={value}" for key, value in row["options"].items())
    return (
        f"{row['problems']} {row['block']} {row['tool']} {row['method']} {options}: {right:.3f} right, "
        f"{proposer['generated_tokens'] / count:.0f} tokens, {scorer['prompt_tokens'] / count:.0f} of the verifier, "
        f"{proposer['requests'] / count:.1f} + {scorer['requests'] / count:.1f} requests, {row['seconds']:.0f} s"
    )


if __name__ == "__main__":
    typer.run(main)
