"""`arts grpo` and `arts finetune`: models that are tuned where ours stays frozen."""

import sys
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from arts.cli.shared import DEVICE, TASK, THREADS, choice, use_torch_threads

_TUNING = Annotated[str, typer.Option(help="full, or lora, merged into the saved model")]
_MODEL = Annotated[str, typer.Option(help="countdown (shipped) or hf:FOLDER")]


def _need_trl() -> None:
    from importlib.util import find_spec

    if find_spec("trl") is None or find_spec("datasets") is None:
        raise ValueError('tuning needs TRL; run: pip install "arts-llm[local,grpo]"')


def grpo_command(
    out: Annotated[Path, typer.Option(help="folder of the run; an interrupted one there goes on")],
    task: TASK = "countdown",
    model: _MODEL = "countdown",
    updates: Annotated[int, typer.Option(help="at most; it stops where validation pass@1 stops rising")] = 300,
    group_size: Annotated[int, typer.Option(help="draws a problem")] = 8,
    problems_per_update: int = 48,
    learning_rate: Annotated[float | None, typer.Option(help="default: by the size of the model")] = None,
    temperature: float = 1.0,
    max_new_tokens: Annotated[int | None, typer.Option(help="limit of one solution; default: the task's")] = None,
    draws_per_batch: Annotated[int, typer.Option(help="run at once, to fit memory; 0: a whole update's")] = 0,
    tuning: _TUNING = "full",
    num_problems: Annotated[int, typer.Option(help="of the training split")] = 20_000,
    first_problem: int = 0,
    validation_problems: Annotated[int, typer.Option(help="0: no validation, no early end")] = 200,
    validation_draws: int = 4,
    validate_every: Annotated[int, typer.Option(help="updates")] = 25,
    patience: Annotated[int, typer.Option(help="validations without a better pass@1 before it stops")] = 4,
    keep_checkpoints: int = 2,
    options: Annotated[
        list[str] | None, typer.Option("--set", help="field of trl.GRPOConfig, KEY=VALUE; repeat for several")
    ] = None,
    seed: int = 0,
    device: DEVICE = "cpu",
    threads: THREADS = 1,
) -> None:
    """Tune a model by GRPO on a task's checker: what a frozen model with a verifier is compared to."""
    use_torch_threads(threads)
    from arts.build import build_task
    from arts.build.proposers import proposer_folder
    from arts.console import progress
    from arts.lm.load import load_causal_lm
    from arts.options import parse_options

    _need_trl()
    from trl import GRPOConfig

    from arts.baselines.grpo import RESULT, GRPOSettings, train_grpo
    from arts.baselines.runs import join_processes

    settings = GRPOSettings(
        group_size=group_size,
        problems_per_update=problems_per_update,
        max_updates=updates,
        learning_rate=learning_rate,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        draws_per_batch=draws_per_batch,
        tuning=choice("tuning", tuning, ("full", "lora")),
        num_problems=num_problems,
        first_problem=first_problem,
        validation_problems=validation_problems,
        validation_draws=validation_draws,
        validate_every=validate_every,
        patience=patience,
        keep_checkpoints=keep_checkpoints,
        seed=seed,
        extra=parse_options(GRPOConfig, options or [], of="trl.GRPOConfig"),
    )
    processes = join_processes(device)
    language_model = load_causal_lm(proposer_folder(model), device=device)
    if processes.is_main_process:
        print("drawing problems …", file=sys.stderr)
    was_finished = (out / RESULT).is_file()
    with progress("GRPO", updates, shown=processes.is_main_process) as tell:
        result = train_grpo(language_model, build_task(task), settings, out, watch=tell)
    is_main = processes.is_main_process
    processes.destroy_process_group()
    if not is_main:
        return
    bill = result.bill
    if was_finished:
        print(f"note: the run in {out} was finished before; nothing was trained", file=sys.stderr)
    print(f"{result.model}: the weights after {result.best_update} of {result.num_updates} updates")
    if result.validation:
        first, kept = result.validation[0][1], dict(result.validation)[result.best_update]
        print(f"validation pass@1 {first:.3f} -> {kept:.3f}")
        if kept <= first:
            print("note: no better than before; is there contrast in the groups, are there enough updates?")
    print(
        f"spent: {bill.draws:,} draws, {bill.generated_tokens:,} tokens generated, {bill.trained_tokens:,} trained on, "
        f"{bill.validation_tokens:,} to validate"
    )


def finetune_command(
    trees: Annotated[
        list[Path], typer.Argument(help="folders of `arts collect` or `arts search --keep-trees` to learn from")
    ],
    out: Annotated[Path, typer.Option(help="folder of the run; an interrupted one there goes on")],
    model: _MODEL = "countdown",
    most_per_problem: Annotated[int, typer.Option(help="right solutions of one problem that are learned")] = 4,
    epochs: int = 2,
    batch_size: int = 64,
    learning_rate: float = 1e-4,
    tuning: _TUNING = "full",
    seed: int = 0,
    device: DEVICE = "cpu",
    threads: THREADS = 1,
) -> None:
    """Fine-tune a model on the right solutions of trees, as expert iteration does after every search."""
    use_torch_threads(threads)
    from arts.build.proposers import proposer_folder
    from arts.console import progress
    from arts.evaluate.search_trees import TREES
    from arts.lm.load import load_causal_lm
    from arts.view.sources import read_source

    _need_trl()
    from arts.baselines.finetune import FinetuneSettings, finetune

    settings = FinetuneSettings(
        most_per_problem=most_per_problem,
        num_epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        tuning=choice("tuning", tuning, ("full", "lora")),
        seed=seed,
    )
    places = [path / TREES if (path / TREES).is_file() else path for path in trees]
    found = chain.from_iterable(read_source(path, first=0, most=sys.maxsize).trees for path in places)
    language_model = load_causal_lm(proposer_folder(model), device=device)
    with progress("fine-tuning", 1000) as tell:
        result = finetune(
            language_model,
            found,
            settings,
            out,
            watch=lambda step, num_steps, note: tell(round(1000 * step / num_steps), note),
        )
    print(
        f"{result.model}: learned {result.num_solutions} right solutions of {result.num_problems} problems, "
        f"{result.trained_tokens:,} tokens trained on, loss {result.loss:.3f}"
    )
