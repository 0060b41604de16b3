"""Options and checks that several commands share. Nothing here imports torch before it is asked for."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from arts.protocols import Proposer
    from arts.store import Collection

SCORERS = (
    "countdown (shipped), a folder written by `arts train`, rm:FOLDER?OPTION=VALUE&... (a Hugging Face reward model), "
    "http://HOST:PORT/v1#MODEL?folder=FOLDER (served, see `arts export-verifier`), python:MODULE:FUNCTION"
)
TASK = Annotated[
    str, typer.Option("--task", help="countdown, countdown:N (N numbers, 3 to 6), toy, or FILE.jsonl?OPTION=VALUE&...")
]
PROPOSER = Annotated[
    str,
    typer.Option(
        "--proposer",
        help="countdown (shipped), hf:FOLDER, http://HOST:PORT/v1#MODEL?OPTION=VALUE&... (an OpenAI-compatible server; "
        "`arts doctor` shows what it can do), or table (toy task)",
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
    wanted, found = collection.header["settings"]["num_problems"], collection.num_trees()
    if 0 < found < wanted:
        print(
            f"note: {collection.folder} holds {found} of {wanted} trees; its `arts collect` command finishes it",
            file=sys.stderr,
        )


def needs_torch_to_draw(proposer: str) -> bool:
    """False where `build_proposer` gets along without torch."""
    return proposer != "table" and not (proposer.startswith(("http://", "https://")) and "tokenizer=" not in proposer)


def say_advice(proposer: "Proposer") -> None:
    """What a user should know of the server that answers."""
    from arts.proposers.openai_http import OpenAIProposer

    if isinstance(proposer, OpenAIProposer):
        for line in proposer.capabilities.advice():
            print(f"note: {line}", file=sys.stderr)


def say_failures(collection: "Collection") -> None:
    """Draws that a server failed at; the same command tries them again."""
    from arts.collect_report import failed_draws

    failed = failed_draws(collection)
    if failed:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(failed.items()))
        print(
            f"note: {sum(failed.values()):,} draws failed ({kinds}); they are in the trees as failed, and the same "
            "command tries them again",
            file=sys.stderr,
        )


def use_torch_threads(num_threads: int, *, needed: bool = True) -> None:
    """Set the number of threads before torch starts any."""
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if needed:
        from arts.lm.load import quiet, use_threads

        use_threads(num_threads)
        quiet()
