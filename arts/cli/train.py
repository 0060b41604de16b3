"""`arts train`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arts.cli.shared import BASE, DEVICE, THREADS, choice, say_if_unfinished, use_torch_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arts.tree import ReasoningTree
    from arts.verifier.train import TrainResult


def _list_objectives(wanted: bool) -> None:
    if wanted:
        from arts.verifier.objectives import OBJECTIVES

        for name, kind in OBJECTIVES.items():
            print(f"{name:15s}{kind.paper}")
        raise typer.Exit


def train_command(
    trees: Annotated[list[Path], typer.Argument(help="collections to train on")],
    out: Annotated[Path, typer.Option(help="folder of the verifier; an interrupted run there goes on")],
    backbone: Annotated[str, typer.Option(help="countdown (shipped) or hf:FOLDER")] = "countdown",
    tuning: Annotated[str, typer.Option(help="lora, full for backbones of a few million weights, or frozen")] = "",
    head: Annotated[
        str, typer.Option(help="mlp (the paper's), or linear, which `arts export-verifier` can give to a server")
    ] = "mlp",
    objective: Annotated[
        str | None,
        typer.Option(help="what is learned; --list-objectives names them. Default: mean_flow, leaf_weight=4"),
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option("--set", help="option of the objective, KEY=VALUE; repeat for several")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="paper: objective, rewards and network exactly as published")
    ] = None,
    validation: Annotated[
        list[Path] | None, typer.Option(help="collections to validate on, instead of a share of the problems")
    ] = None,
    keep: Annotated[str, typer.Option(help="the weights with the best validation loss or picked_right")] = "loss",
    list_objectives: Annotated[
        bool, typer.Option("--list-objectives", is_eager=True, callback=_list_objectives, help="print them and stop")
    ] = False,
    reward_right: Annotated[float, typer.Option(help="R of a right answer")] = 10.0,
    reward_wrong: Annotated[float, typer.Option(help="R of a wrong one, above 0")] = 0.1,
    epochs: int = 2,
    batch_trees: Annotated[int, typer.Option(help="problems a step")] = 4,
    learning_rate: Annotated[float | None, typer.Option(help="peak; default: by tuning and size")] = None,
    patience: Annotated[int, typer.Option(help="evaluations without progress before it stops")] = 6,
    fork_share: Annotated[float, typer.Option(help="share of the forks whose steps are trained on")] = 1.0,
    validation_share: Annotated[float, typer.Option(help="of the problems, kept from training")] = 0.05,
    checkpoint_every_s: Annotated[float, typer.Option(help="seconds between checkpoints of an unfinished run")] = 60.0,
    precision: Annotated[str, typer.Option(help="of matrix products: fp32, or bf16, for GPUs")] = "fp32",
    accumulate: Annotated[int, typer.Option(help="passes to cut a batch into, to save memory")] = 1,
    checkpoint_activations: Annotated[
        bool, typer.Option("--checkpoint-activations", help="compute activations again instead of keeping them")
    ] = False,
    seed: int = 0,
    device: DEVICE = "cpu",
    threads: THREADS = 1,
) -> None:
    """Train a flow verifier on collected trees; on several processes under `accelerate launch -m arts train`."""
    from arts.build import build_new_verifier
    from arts.console import progress

    use_torch_threads(threads)
    from arts.options import parse_options
    from arts.verifier.model import VerifierSettings
    from arts.verifier.objectives import DEFAULT_OBJECTIVE, RFM, RewardSettings, build_objective, describe_objective
    from arts.verifier.train import ComputeSettings, Processes, TrainProgress, TrainSettings, train

    if preset is not None:
        _check_preset(preset, objective, options, (reward_right, reward_wrong), tuning)
        tuning = "lora"
    base = RFM() if preset else DEFAULT_OBJECTIVE if objective is None else build_objective(objective)
    described = describe_objective(base) | parse_options(type(base), options or [], of=f"objective {base.name}")
    chosen = build_objective(described.pop("name"), described)
    settings = TrainSettings(
        objective=chosen,
        rewards=RewardSettings(right=reward_right, wrong=reward_wrong),
        num_epochs=epochs,
        batch_trees=batch_trees,
        learning_rate=learning_rate,
        patience=patience,
        fork_share=fork_share,
        validation_share=validation_share,
        keep=choice("keep", keep, ("loss", "picked_right")),  # type: ignore[arg-type]
        checkpoint_every_s=checkpoint_every_s,
        seed=seed,
    )
    compute = ComputeSettings(
        precision=choice("precision", precision, ("fp32", "bf16")),  # type: ignore[arg-type]
        accumulate=accumulate,
        checkpoint_activations=checkpoint_activations,
    )
    processes = Processes(device)
    trees_to_train = _stream(trees, talk=processes.is_main)
    trees_to_validate = _stream(validation, talk=processes.is_main) if validation else None
    shape = VerifierSettings(
        tuning=tuning or ("full" if backbone == "countdown" else "lora"), num_outputs=chosen.num_outputs, head=head
    )
    verifier = build_new_verifier(backbone, shape, device=device, precision=precision, seed=seed)
    if processes.is_main:
        together = f" on {processes.count} processes" if processes.count > 1 else ""
        print(f"packing trees{together} …", file=sys.stderr)
    with progress("training", 1000, shown=processes.is_main) as tell:
        note = ""

        def watch(state: TrainProgress) -> None:
            nonlocal note
            if state.validation is not None:
                note = f"validation loss {state.validation.loss:.3f}, picks right {state.validation.picked_right:.1%}"
            tell(round(1000 * state.step / state.num_steps), f"step {state.step} loss {state.loss:.3f} {note}")

        result = train(
            verifier,
            trees_to_train,
            settings,
            out,
            validation=trees_to_validate,
            compute=compute,
            processes=processes,
            watch=watch,
        )
    processes.close()
    if processes.is_main:
        _say_result(out, result)


def _say_result(out: Path, result: "TrainResult") -> None:
    print(
        f"{out}: trained on {result.num_trained_trees} trees in {result.num_steps} steps, {result.seconds:.0f} s; "
        f"validation ({result.num_validation_trees} problems): loss {result.best.loss:.3f}, "
        f"best-of-N picks right {result.best.picked_right:.1%}"
    )
    for line in result.notes:
        print(line)
    if result.skipped_batches:
        print(f"{result.skipped_batches} batches were left out: their loss or gradient was not finite")


def _check_preset(
    preset: str, objective: str | None, options: list[str] | None, rewards: tuple[float, float], tuning: str
) -> None:
    """`paper` is Reasoning Flow Matching with rewards 10 and 0.1 on a LoRA verifier; nothing may contradict it."""
    choice("preset", preset, ("paper",))
    if objective not in (None, "rfm") or options or rewards != (10.0, 0.1) or tuning not in ("", "lora"):
        raise ValueError(
            "--preset paper fixes the objective (rfm without --set), the rewards (10 and 0.1) and the tuning (lora); "
            "drop the preset or the options that differ from it"
        )


def _stream(folders: list[Path], *, talk: bool = True) -> "Iterator[ReasoningTree]":
    """The trees of several collections, one after another; a folder without any is refused at once."""
    from itertools import chain

    from arts.store import open_collection

    collections = [open_collection(folder) for folder in folders]
    for collection in collections:
        if not collection.finished_shards():
            raise ValueError(
                f"{str(collection.folder)!r} holds no finished trees; run its `arts collect` command again"
            )
        if talk:
            say_if_unfinished(collection)
    return chain.from_iterable(collection.trees() for collection in collections)


def export_verifier_command(
    verifier: Annotated[Path, typer.Argument(help="folder of a verifier that was trained with --head linear")],
    out: Annotated[Path, typer.Option(help="folder to write")],
    kind: Annotated[str, typer.Option(help="token: a score for every token; sequence: for the last one")] = "token",
    backbone: BASE = None,
) -> None:
    """Write a verifier as a plain classification folder, which vLLM serves with `--runner pooling`."""
    use_torch_threads(1)
    from arts.build import build_verifier
    from arts.verifier.export import export_verifier

    built = build_verifier(str(verifier), base=backbone)
    export_verifier(built, out, kind=choice("kind", kind, ("token", "sequence")))  # type: ignore[arg-type]
    print(f"{out}: serve it with `vllm serve {out} --runner pooling --served-model-name verifier`, then")
    print(f"--verifier 'http://127.0.0.1:8000/v1#verifier?folder={out}'")
