"""`arts serve`."""

import ipaddress
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arts.build import is_server, needs_torch
from arts.cli.shared import (
    BASE,
    DEVICE,
    SCORERS,
    THREADS,
    advice_on,
    needs_torch_to_draw,
    say_advice,
    say_who_is_asked,
    use_torch_threads,
)
from arts.models import SHIPPED_PROPOSERS, SHIPPED_VERIFIERS

if TYPE_CHECKING:
    import socket

    from arts.proposers.sampling import Sampling
    from arts.protocols import Proposer, Task
    from arts.serve.limits import Limits
    from arts.serve.service import Service

KEYS = "ARTS_SERVE_KEYS"


def serve_command(
    proposer: Annotated[
        str, typer.Option(help="countdown (shipped), hf:FOLDER, vllm:FOLDER, or http://HOST:PORT/v1#MODEL?...")
    ],
    verifier: Annotated[
        str | None, typer.Option(help=f"{SCORERS}. Without one: only strategies that look at no scores")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="messages are problems of this task, and answers are checked. Default: countdown for the "
            "shipped proposer, else conversations of any kind"
        ),
    ] = None,
    host: Annotated[str, typer.Option(help=f"other than this machine only with keys in ${KEYS}")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    backbone: BASE = None,
    separator: Annotated[
        str, typer.Option(help="what ends a step of a conversation, with \\n for a line end")
    ] = "\\n\\n",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="limit of one answer in a conversation")] = 1024,
    temperature: Annotated[float, typer.Option(help="sampling temperature")] = 1.0,
    top_p: Annotated[float, typer.Option(help="nucleus sampling mass")] = 1.0,
    max_active: Annotated[int, typer.Option(min=1, help="searches at a time")] = 64,
    max_waiting: Annotated[int, typer.Option(min=0, help="requests in line; one more is answered 429")] = 256,
    deadline_s: Annotated[
        float, typer.Option(help="seconds for a request: the default, and the most it may ask")
    ] = 120,
    max_budget_tokens: Annotated[int, typer.Option(min=1, help="the most tokens a request may ask for")] = 100_000,
    max_body_bytes: Annotated[int, typer.Option(min=1, help="the largest request")] = 4 * 2**20,
    allow_origin: Annotated[list[str] | None, typer.Option(help="web page that may ask (CORS); repeat")] = None,
    ui: Annotated[bool, typer.Option("--ui", help="a page at / where people search and watch the tree grow")] = False,
    shutdown_s: Annotated[int, typer.Option(min=0, help="seconds for running searches when the server ends")] = 30,
    device: DEVICE = "cpu",
    threads: THREADS = 1,
) -> None:
    """Serve searches behind OpenAI's protocol: the model's name chooses the strategy, as in arts-best-of-16.

    See docs/serve.md. Keys that clients must send are read from the environment variable ARTS_SERVE_KEYS, separated by
    blanks or commas.
    """
    check_installed()
    from arts.proposers.sampling import Sampling
    from arts.serve.limits import Limits
    from arts.serve.run import bind

    keys = read_keys()
    local = check_host(host, keys)
    limits = Limits(
        max_active=max_active,
        max_waiting=max_waiting,
        deadline_s=deadline_s,
        max_budget_tokens=max_budget_tokens,
        max_body_bytes=max_body_bytes,
    )
    sampling = Sampling(temperature=temperature, top_p=top_p)
    scorer = verifier or (proposer if proposer in SHIPPED_VERIFIERS else None)
    chosen = task_of(task, proposer, separator=separator, max_new_tokens=max_new_tokens)
    use_torch_threads(threads, needed=needs_torch_to_draw(proposer) or (scorer is not None and needs_torch(scorer)))
    sockets = bind(host, port)  # before models are loaded, which may take minutes
    service = build_service(
        proposer, scorer, chosen, sampling=sampling, limits=limits, backbone=backbone, device=device
    )
    origins = allow_origin or ()
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    run(service, sockets, address, keys=keys, origins=origins, local=local, shutdown_s=shutdown_s, with_page=ui)


def check_installed() -> None:
    """Raises ValueError where the libraries of the extra `serve` are not there."""
    try:
        import arts.serve.run  # noqa: F401 (and all that it imports)
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "starlette", "prometheus_client", "pydantic", "anyio"):
            raise
        raise ValueError('`arts serve` needs more libraries: pip install "arts-llm[serve]"') from error


def task_of(name: str | None, proposer: str, *, separator: str, max_new_tokens: int) -> "Task":
    """The task that was named, that of a shipped proposer, or conversations."""
    from arts.build import build_task
    from arts.tasks.conversation import ConversationTask

    if name is None and proposer in SHIPPED_PROPOSERS:
        name = proposer
    if name is not None:
        return build_task(name)
    return ConversationTask(step_separator=separator.replace("\\n", "\n"), max_new_tokens=max_new_tokens)


def run(
    service: "Service",
    sockets: "list[socket.socket]",
    address: str,
    *,
    keys: Sequence[str],
    origins: Sequence[str],
    local: bool,
    shutdown_s: int,
    with_page: bool,
) -> None:
    """Answer requests until the process is told to end."""
    import uvicorn

    from arts.serve.app import build_app
    from arts.serve.run import GracefulServer, listen

    limits = service.offer.limits
    config = uvicorn.Config(
        build_app(service, keys=keys, origins=origins, local_only=local and not keys, with_page=with_page),
        access_log=False,  # ours has request ids
        log_level="warning",
        server_header=False,
        limit_concurrency=2 * (limits.max_active + limits.max_waiting) + 64,
    )
    start_log()
    listen(sockets, config.backlog)
    print(f"serving {service.offer.base_model} on {address}/v1", file=sys.stderr, flush=True)
    if with_page:
        print(f"the page: {address}/", file=sys.stderr, flush=True)
    GracefulServer(config, service, shutdown_s).run(sockets)


def build_service(
    proposer: str,
    verifier: str | None,
    task: "Task",
    *,
    sampling: "Sampling",
    limits: "Limits",
    backbone: str | None = None,
    device: str = "cpu",
) -> "Service":
    """From names to a service that runs."""
    from arts.build import build_proposer, build_step_scorer
    from arts.serve.plan import Offer
    from arts.serve.service import Service

    say_who_is_asked(proposer)
    built = build_proposer(
        proposer, task, temperature=sampling.temperature, top_p=sampling.top_p, device=device, keep_tokens=1 << 15
    )
    say_advice(advice_on(built))
    scorer = build_step_scorer(verifier, built, base=backbone, device=device) if verifier else None
    offer = Offer(
        task=task,
        base_model=base_model(proposer, built),
        upstream=is_server(proposer),
        sampling=sampling,
        scored=scorer is not None,
        limits=limits,
    )
    return Service(offer, built, scorer)


def base_model(name: str, proposer: "Proposer") -> str:
    """What the bare proposer is called: a server's own name of its model, a folder's last part, or as it is named."""
    from arts.proposers.openai_http import OpenAIProposer

    if isinstance(proposer, OpenAIProposer):
        return proposer.capabilities.model
    return Path(name.partition("?")[0].removeprefix("hf:").removeprefix("vllm:")).name


def read_keys() -> list[str]:
    """Keys of clients, from the environment; never from the command line, which others can see."""
    keys = os.environ.get(KEYS, "").replace(",", " ").split()
    if short := [key for key in keys if len(key) < 16 or not key.isascii()]:
        raise ValueError(
            f"{len(short)} of the keys in {KEYS} are shorter than 16 letters, or not ASCII; make longer ones"
        )
    return keys


def check_host(host: str, keys: list[str]) -> bool:
    """Is this machine alone served? Raises ValueError where others would be, without a key."""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local and not keys:
        raise ValueError(
            f"host {host} lets other machines in, so keys are needed: set {KEYS} (at least 16 letters each), or leave "
            "--host out"
        )
    return local


def start_log() -> None:
    """A line for every request, on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("arts.serve")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
