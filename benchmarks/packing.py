"""How much time does packing save? Tree-packed training against one padded row per path, in one run.

    python benchmarks/packing.py                              # Countdown, N = 8, 16 and 32, and 160-token prompts
    python benchmarks/packing.py --case countdown:8 --trees runs/countdown/trees --out packing.jsonl
    python benchmarks/packing.py --case prompt:160:32 --model qwen2.5-0.5b --device cuda --dtype bfloat16

Both sides train on the same trees with the same loss, step by step in turn, so that a busy machine slows both. The
other side is as fast as we can make it: a row for every draw, right padded, in batches of similar length, and plain
causal attention without a mask. Tokens computed are counted by a hook on the model's embedding. The bound on the time
ratio is path tokens / distinct tokens; the share of it that is reached comes with its quartiles over repetitions.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, Qwen2Config

from arts.build import about, build_new_verifier, build_proposer, build_task
from arts.collect import collect
from arts.files import dump
from arts.lm.load import LanguageModel, use_threads
from arts.lm.packing import PackedTree, join_packed, pack_tree
from arts.sparse_deep_fork import CollectSettings
from arts.store import open_collection
from arts.tree import ReasoningTree
from arts.verifier.model import FlowVerifier, VerifierSettings

PAD = 0  # no step of ours holds it
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    },
    "small": {  # 13 M weights: what one CPU core can train on solutions of 400 tokens
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    },
    "qwen2.5-0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "qwen2.5-1.5b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One measurement."""

    case: str
    model: str
    tuning: str
    device: str
    dtype: str
    batch_trees: int
    num_batches: int
    repetitions: int
    rows_tokens: int
    block_size: int | None


class Forest(NamedTuple):
    """The trees of one training step, in both forms."""

    packed: list[PackedTree]
    num_paths_N: list[int]
    "draws that pass through each node of the packed trees, in packed order: its weight in the loss"
    paths: list[list[int]]
    "token ids of every draw"
    path_ends: list[list[int]]
    "places in a draw's ids where the nodes of its path end"


class Times(NamedTuple):
    packed: list[float]
    paths: list[float]

    def ratios(self) -> list[float]:
        return [paths / packed for packed, paths in zip(self.packed, self.paths, strict=True)]


# --- trees ------------------------------------------------------------------------------------------------------------


def countdown_trees(num_samples: int, num_trees: int, folder: Path | None) -> list[ReasoningTree]:
    """Trees of a folder, or drawn now with the shipped model: N main trajectories and their forks."""
    if folder is not None:
        return list(islice(open_collection(folder).trees(), num_trees))
    task = build_task("countdown")
    settings = CollectSettings(num_problems=num_trees, num_samples=num_samples)
    with tempfile.TemporaryDirectory() as scratch:
        return list(collect(task, build_proposer("countdown", task), settings, Path(scratch) / "trees").trees())


def forest(trees: Sequence[ReasoningTree], node_ids: Sequence[Sequence[Sequence[int]]]) -> Forest:
    result = Forest([], [], [], [])
    for tree, ids in zip(trees, node_ids, strict=True):
        packed = pack_tree([node.parent for node in tree.nodes], ids)
        result.packed.append(packed)
        num_paths = [0] * len(tree.nodes)
        for leaf in tree.leaves():
            on_path = [0, *(node.id for node in tree.path(leaf.id))]
            for node in on_path:
                num_paths[node] += leaf.num_draws
            path = [token for node in on_path for token in ids[node]]
            ends = (np.cumsum([len(ids[node]) for node in on_path]) - 1).tolist()
            result.paths.extend([path] * leaf.num_draws)
            result.path_ends.extend([ends] * leaf.num_draws)
        result.num_paths_N.extend(num_paths[node] for node in packed.nodes)
    return result


def prepare(settings: Settings, folder: Path | None) -> tuple[FlowVerifier, list[Forest]]:
    """The model and the trees of every step: `countdown:N`, or `prompt:LENGTH:N` with random ids and those shapes."""
    kind, *numbers = settings.case.split(":")
    trees = countdown_trees(int(numbers[-1]), settings.batch_trees * settings.num_batches, folder)
    shape = VerifierSettings(tuning=settings.tuning)
    if kind == "countdown" and settings.model == "tiny":
        verifier = build_new_verifier("countdown", shape, device=settings.device)
        ids = [verifier.node_token_ids(tree) for tree in trees]
    else:
        verifier = FlowVerifier(_random_model(settings), shape)
        length = int(numbers[0]) if kind == "prompt" else 10
        vocabulary = verifier.language_model.model.config.vocab_size
        draw = np.random.default_rng(0).integers
        ids = [
            [draw(1, vocabulary, len(node.token_ids) if node.id else length).tolist() for node in tree.nodes]
            for tree in trees
        ]
    size = settings.batch_trees
    return verifier, [
        forest(trees[start : start + size], ids[start : start + size]) for start in range(0, len(trees), size)
    ]


def _random_model(settings: Settings) -> LanguageModel:
    torch.manual_seed(0)
    config = Qwen2Config(**SHAPES[settings.model], tie_word_embeddings=True, pad_token_id=None)
    model = AutoModel.from_config(config, dtype=getattr(torch, settings.dtype)).to(settings.device)
    return LanguageModel(model, None, "random", "", "")  # ids are made here: no tokenizer


# --- the two sides ----------------------------------------------------------------------------------------------------


def packed_losses(verifier: FlowVerifier, trees: Forest, block_size: int | None) -> Iterator[torch.Tensor]:
    """Square of every node's output, merged draws counted."""
    output_N = verifier(join_packed(trees.packed, block_size=block_size))[:, 0].float()
    weight_N = torch.tensor(trees.num_paths_N, device=output_N.device)
    yield (weight_N * output_N.square()).sum() / weight_N.sum()


def path_losses(verifier: FlowVerifier, trees: Forest, rows_tokens: int) -> Iterator[torch.Tensor]:
    """The same loss from one row a draw; rows of similar length share a batch, and gradients add up over batches."""
    total = sum(map(len, trees.path_ends))
    order = sorted(range(len(trees.paths)), key=lambda index: len(trees.paths[index]))
    batches: list[list[int]] = [[]]
    for index in order:
        if batches[-1] and len(trees.paths[index]) * (len(batches[-1]) + 1) > rows_tokens:
            batches.append([])
        batches[-1].append(index)
    device = verifier.language_model.device
    for batch in batches:
        ids = np.full((len(batch), len(trees.paths[batch[-1]])), PAD, dtype=np.int64)
        for row, index in enumerate(batch):
            ids[row, : len(trees.paths[index])] = trees.paths[index]
        # What is padded comes last, so causal attention needs no mask: the kernel's own causal path is taken.
        hidden_BLH = verifier.backbone(input_ids=torch.from_numpy(ids).to(device), use_cache=False).last_hidden_state
        rows = [row for row, index in enumerate(batch) for _ in trees.path_ends[index]]
        columns = [end for index in batch for end in trees.path_ends[index]]
        ends_NH = hidden_BLH[torch.tensor(rows, device=device), torch.tensor(columns, device=device)]
        yield verifier.read(ends_NH)[:, 0].float().square().sum() / total


@contextmanager
def counted(verifier: FlowVerifier) -> Iterator[dict[str, int]]:
    """Tokens that go through the model, and padding, by a hook."""
    count = {"tokens": 0, "padding": 0}

    def add(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        padding = int((inputs[0] == PAD).sum())
        count["padding"] += padding
        count["tokens"] += inputs[0].numel() - padding

    hook = verifier.language_model.model.get_input_embeddings().register_forward_pre_hook(add)
    try:
        yield count
    finally:
        hook.remove()


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(settings: Settings, folder: Path | None = None) -> dict[str, Any]:
    """Counts and times of one case."""
    verifier, forests = prepare(settings, folder)
    sides: dict[str, Callable[[Forest], Iterator[torch.Tensor]]] = {
        "packed": lambda trees: packed_losses(verifier, trees, settings.block_size),
        "paths": lambda trees: path_losses(verifier, trees, settings.rows_tokens),
    }
    row: dict[str, Any] = {
        "trees": sum(len(trees.packed) for trees in forests),
        "path_tokens": sum(len(path) for trees in forests for path in trees.paths),
        "distinct_tokens": sum(len(tree.token_ids) for trees in forests for tree in trees.packed),
    }
    row["path_per_distinct"] = row["path_tokens"] / row["distinct_tokens"]
    verifier.eval()
    for name, side in sides.items():
        with torch.inference_mode(), counted(verifier) as count:
            losses = [float(sum(side(trees))) for trees in forests]
        row |= {f"{name}_tokens": count["tokens"], f"{name}_padding": count["padding"], f"{name}_loss": losses}
    parameters = list(verifier.trained_parameters().values())
    optimizer = torch.optim.AdamW(parameters, lr=0.0)  # all repetitions train the same weights

    def train_step(losses: Iterator[torch.Tensor]) -> None:
        optimizer.zero_grad(set_to_none=True)
        for loss in losses:
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    def infer(losses: Iterator[torch.Tensor]) -> None:
        with torch.inference_mode():
            list(losses)

    for name, step in (("train", train_step), ("infer", infer)):
        verifier.train(name == "train")
        times = _in_turn(sides, step, forests, settings)
        shares = [ratio / row["path_per_distinct"] for ratio in times.ratios()]
        row |= {
            f"{name}_packed_s": statistics.median(times.packed) / len(forests),
            f"{name}_paths_s": statistics.median(times.paths) / len(forests),
            f"{name}_ratio": statistics.median(times.ratios()),
            f"{name}_share": statistics.median(shares),
            f"{name}_share_quartiles": np.quantile(shares, [0.25, 0.75]).tolist(),
        }
    return row


def _in_turn(
    sides: dict[str, Callable[[Forest], Iterator[torch.Tensor]]],
    step: Callable[[Iterator[torch.Tensor]], None],
    forests: Sequence[Forest],
    settings: Settings,
) -> Times:
    """Seconds of all steps of each repetition; the sides take turns at every step, the first repetition is left out."""
    # On a CPU one thread works; its own seconds leave out what other programs take from a busy machine.
    on_cpu = settings.device == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter

    def now() -> float:
        if not on_cpu:
            torch.cuda.synchronize()
        return clock()

    seconds = {name: [0.0] * (settings.repetitions + 1) for name in sides}
    for repetition in range(settings.repetitions + 1):
        for trees in forests:
            for name, side in sides.items():
                started = now()
                step(side(trees))
                seconds[name][repetition] += now() - started
    return Times(seconds["packed"][1:], seconds["paths"][1:])


def show(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(title="Training and inference: packed trees against one padded row per path")
    columns = ["case", "path / distinct tokens", "computed, packed", "computed, paths", "train step, ms", "time ratio"]
    for column in [*columns, "share of the bound", "inference ratio", "share"]:
        table.add_column(column, justify="right")
    for row in rows:
        low, high = row["train_share_quartiles"]
        table.add_row(
            f"{row['case']} {row['model']}",
            f"{row['path_tokens']:,} / {row['distinct_tokens']:,} = {row['path_per_distinct']:.2f}",
            f"{row['packed_tokens']:,} + {row['packed_padding']:,} padding",
            f"{row['paths_tokens']:,} + {row['paths_padding']:,} padding",
            f"{1e3 * row['train_packed_s']:.0f} / {1e3 * row['train_paths_s']:.0f}",
            f"{row['train_ratio']:.2f}",
            f"{row['train_share']:.2f} ({low:.2f}-{high:.2f})",
            f"{row['infer_ratio']:.2f}",
            f"{row['infer_share']:.2f}",
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def main(
    case: Annotated[
        list[str] | None, typer.Option(help="countdown:N or prompt:LENGTH:N; may be given several times")
    ] = None,
    trees: Annotated[
        Path | None, typer.Option(help="collection to take the trees from instead of drawing them")
    ] = None,
    model: Annotated[str, typer.Option(help=f"one of {', '.join(SHAPES)}; Countdown with tiny: the shipped model")] = (
        "tiny"
    ),
    tuning: Annotated[str, typer.Option(help="full or lora")] = "full",
    device: str = "cpu",
    dtype: Annotated[str, typer.Option(help="of random weights: float32 or bfloat16")] = "float32",
    batch_trees: Annotated[int, typer.Option(help="trees a training step")] = 4,
    num_batches: Annotated[int, typer.Option(help="steps a repetition")] = 2,
    repetitions: int = 5,
    rows_tokens: Annotated[int, typer.Option(help="padded tokens of one batch of rows on the other side")] = 4096,
    block_size: Annotated[
        int | None, typer.Option(help="of packed attention; the cost model's choice otherwise")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSONL file to append a row per case to")] = None,
) -> None:
    """Time packed training and inference against one padded row per path."""
    use_threads(1)
    settings = Settings(
        case="",
        model=model,
        tuning=tuning,
        device=device,
        dtype=dtype,
        batch_trees=batch_trees,
        num_batches=num_batches,
        repetitions=repetitions,
        rows_tokens=rows_tokens,
        block_size=block_size,
    )
    rows = []
    for name in case or ["countdown:8", "countdown:16", "countdown:32", "prompt:160:32"]:
        one = replace(settings, case=name)
        rows.append(asdict(one) | measure(one, trees))
        if out is not None:
            with out.open("a", encoding="utf-8") as file:
                file.write(dump(rows[-1] | {"about": about()}) + "\n")
    show(rows)


if __name__ == "__main__":
    typer.run(main)
