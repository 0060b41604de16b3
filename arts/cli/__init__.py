"""The command line: a thin layer over the public calls. Models are imported inside commands, so `--help` is quick.

A user's mistake ends with one sentence on standard error and exit status 2.
"""

import os
import sys

import typer

from arts.build import LOCAL_HINT
from arts.cli.baselines import finetune_command, grpo_command
from arts.cli.collect import collect_command
from arts.cli.data import leakage_command, steps_command
from arts.cli.doctor import doctor_command
from arts.cli.evaluate import evaluate_command, values_command
from arts.cli.import_rollouts import import_command
from arts.cli.search import search_command
from arts.cli.serve import serve_command
from arts.cli.solve import demo_command, solve_command
from arts.cli.squeeze import squeeze_command
from arts.cli.train import export_verifier_command, train_command
from arts.cli.view import view_command

app = typer.Typer(
    help="Make a frozen language model better at problems whose answers can be checked.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # rich would double the time that --help takes
)

app.command("collect")(collect_command)
app.command("doctor")(doctor_command)
app.command("import")(import_command)
app.command("train")(train_command)
app.command("export-verifier")(export_verifier_command)
app.command("evaluate")(evaluate_command)
app.command("values")(values_command)
app.command("search")(search_command)
app.command("leakage")(leakage_command)
app.command("steps")(steps_command)
app.command("view")(view_command)
app.command("squeeze")(squeeze_command)
app.command("grpo")(grpo_command)
app.command("finetune")(finetune_command)
app.command("solve")(solve_command)
app.command("serve")(serve_command)
app.command("demo")(demo_command)

_INTERRUPTED = 130  # what typer makes of Ctrl-C


def main() -> None:
    """Entry point of `arts` and `python -m arts`."""
    try:
        app()
    except (ValueError, FloatingPointError) as error:
        if os.environ.get("ARTS_DEBUG"):
            raise
        print(f"arts: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if os.environ.get("ARTS_DEBUG") or error.name not in ("torch", "transformers", "peft", "safetensors"):
            raise
        print(f"arts: {LOCAL_HINT}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            print("arts: interrupted; the same command goes on from here", file=sys.stderr)
        raise
