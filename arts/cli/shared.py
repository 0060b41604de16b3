"""Options and checks that several commands share. Nothing here imports torch before it is asked for."""

import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from arts.build import is_server

if TYPE_CHECKING:
    from arts.protocols import Proposer
    from arts.store import Collection

SCORERS = (
    "countdown (shipped), a folder written by `arts train`, rm:FOLDER?OPTION=VALUE&... (a Hugging Face reward model), "
    "http://HOST:PORT/v1#MODEL?folder=FOLDER (served, see `arts export-verifier`), python:MODULE:FUNCTION"
)
TASK = Annotated[
    str,
    typer.Option(
        "--task",
        help="countdown, countdown:N (N numbers, 3 to 6), toy, FILE.jsonl?OPTION=VALUE&... (.gz too), hub:OWNER/NAME, "
        "math, math500, gsm8k, aime24, amc23, or gym:NAME,NAME (docs/tasks.md)",
    ),
]
PROPOSER = Annotated[
    str,
    typer.Option(
        "--proposer",
        help="countdown (shipped), hf:FOLDER, vllm:FOLDER?OPTION=VALUE&... (vLLM in this process), "
        "http://HOST:PORT/v1#MODEL?OPTION=VALUE&... (an OpenAI-compatible server; `arts doctor` shows what it can do), "
        "or table (toy task)",
    ),
]
VERIFIER = Annotated[str, typer.Option("--verifier", help=f"{SCORERS}")]
DEVICE = Annotated[str, typer.Option(help="where models run: cpu, cuda, cuda:1, ...")]
THREADS = Annotated[int, typer.Option(min=1, help="torch threads; more than one rarely helps on a CPU")]
BASE = Annotated[str | None, typer.Option("--backbone", help="base model of a LoRA verifier, which does not carry it")]


def choice(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"--{name} is {value!r}; allowed are {', '.join(allowed)}")
    return value


def say_if_unfinished(collection: "Collection") -> None:
    if "settings" not in collection.header:  # imported: whole, or not there
        return
    wanted, found = collection.header["settings"]["num_problems"], collection.num_trees()
    if 0 < found < wanted:
        print(
            f"note: {collection.folder} holds {found} of {wanted} trees; its `arts collect` command finishes it",
            file=sys.stderr,
        )


def say_what_it_is(header: Mapping[str, Any]) -> None:
    """What imported rollouts are where they are not draws of one policy."""
    if header.get("pool"):
        print("note: a pool of several policies is no law: only choosing among all of it is shown", file=sys.stderr)
    if header.get("selected"):
        print(
            "note: these solutions were picked among many draws already: they are no draws of a policy", file=sys.stderr
        )


def needs_torch_to_draw(proposer: str) -> bool:
    """False where `build_proposer` gets along without torch."""
    return proposer != "table" and not (is_server(proposer) and "tokenizer=" not in proposer)


def say_who_is_asked(proposer: str) -> None:
    """Before a server is asked what it can do, which may take seconds."""
    if is_server(proposer):
        print(f"asking {proposer.partition('#')[0]} what it can do …", file=sys.stderr, flush=True)


def advice_on(proposer: "Proposer") -> list[str]:
    """What a user should know of the server that answers."""
    from arts.proposers.openai_http import OpenAIProposer

    return list(proposer.capabilities.advice()) if isinstance(proposer, OpenAIProposer) else []


def say_advice(lines: Iterable[str]) -> None:
    for line in lines:
        print(f"note: {line}", file=sys.stderr)


def check_forks(proposer: "Proposer", pivots: str) -> None:
    """Raises ValueError where forks are wanted of a server that cannot go on from the middle of an answer."""
    from arts.proposers.openai_http import OpenAIProposer

    if isinstance(proposer, OpenAIProposer) and proposer.capabilities.continuing == "none" and pivots != "none":
        raise ValueError(
            "this server cannot go on from the middle of an answer, so there can be no forks: give --pivots none, or "
            "the folder of the model's tokenizer (URL#MODEL?tokenizer=FOLDER)"
        )


def say_failures(collection: "Collection") -> None:
    """Draws that a server failed at, and why; the same command tries them again.

    Raises:
        ValueError: there is not one that it did not fail at.
    """
    from arts.collect_report import failed_draws, failure_lines

    failed = failed_draws(collection)
    if not failed:
        return
    lines = "; ".join(failure_lines(failed))
    if not any(node.is_answer for tree in collection.trees() for node in tree.nodes):
        raise ValueError(f"no draw came to an end: {lines}")
    print(f"note: {lines}. They are in the trees as failed; the same command tries them again", file=sys.stderr)


def can_draw() -> bool:
    """False, and a note, where charts cannot be drawn: a report is not worth losing results for."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        print('note: no report.html: charts need matplotlib; run: pip install "arts-llm[report]"', file=sys.stderr)
        return False
    return True


def use_torch_threads(num_threads: int, *, needed: bool = True) -> None:
    """Set the number of threads before torch starts any."""
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if needed:
        from arts.lm.load import quiet, use_threads

        use_threads(num_threads)
        quiet()
