"""`arts doctor`."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from arts.cli.shared import PROPOSER, TASK


def doctor_command(
    proposer: PROPOSER,
    task: TASK = "countdown",
    prompt: Annotated[str | None, typer.Option(help="what to ask; default: a problem of the task")] = None,
    load: Annotated[bool, typer.Option(help="measure how many requests at once still gain")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Ask a server what it really supports, and say what ARTS will do with it. Costs a few hundred short requests."""
    from arts.build import any_problem, build_task, is_server, open_server
    from arts.proposers.probe import measure_load, probe

    if not is_server(proposer):
        raise ValueError(f"--proposer is {proposer!r}; `arts doctor` asks servers: http://HOST:PORT/v1#MODEL")
    server = open_server(proposer)
    text = prompt or any_problem(build_task(task)).prompt
    settings = server.settings
    print(f"asking {server.client.base_url} ...", file=sys.stderr, flush=True)
    found = server.client.run(
        probe(server.client, server.model, text, system=settings.system, tokenizer=server.tokenizer)
    )
    loads = []
    if load:
        print("measuring ...", file=sys.stderr, flush=True)
        loads = server.client.run(measure_load(server.client, found, text, most=settings.max_in_flight))
    troubles = {kind: count for kind, count in server.client.sent.items() if kind != "good"}
    server.client.close()
    if as_json:
        print(json.dumps({**asdict(found), "loads": [one._asdict() for one in loads], "troubles": troubles}, indent=2))
        return
    for name, can, use in found.table():
        print(f"{name:<18} {can:<26} {use}".rstrip())
    if loads:
        best = max(loads, key=lambda one: one.requests_per_s)
        enough = next(one for one in loads if one.requests_per_s >= 0.9 * best.requests_per_s)
        print(
            f"{'requests a second':<18} " + ", ".join(f"{one.requests_per_s:.1f} with {one.in_flight}" for one in loads)
        )
        asked = f"{enough.in_flight} of {settings.max_in_flight} asked for"
        print(f"{'in flight':<18} {asked:<26} ?max_in_flight={enough.in_flight}")
    if troubles:
        print(f"{'troubles':<18} " + ", ".join(f"{kind} {count}" for kind, count in sorted(troubles.items())))
    for line in found.advice():
        print(f"note: {line}")
