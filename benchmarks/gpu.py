"""How fast is one card? Training a verifier, scoring in a search and drawing, against what the card can do.

    python benchmarks/gpu.py --out gpu.json                       # one H200-class card: 0.5 B and 1.5 B shapes
    python benchmarks/gpu.py --size qwen2.5-0.5b --part train --block-size 128 --block-size 256
    python benchmarks/gpu.py --size tiny --device cpu             # everything, in a minute, on a CPU core
    python benchmarks/gpu.py --size small --device cpu --part train --batch-trees 1    # the same forests, small model

Weights are random, in the shapes of Qwen2.5; nothing is downloaded. `train`: forests of 16 trunks of 400 tokens and a
fork each, one step as `arts train --precision bf16` makes it. *Tokens* are distinct tokens. The share of the peak is
the arithmetic they need (2 operations a weight and token, forth and twice back, and attention to visible keys) over
that of a large matrix product in the same run. The other side is one right-padded row a path, by torch's causal kernel.
`search`: beams of all problems in step, keys and values kept against whole prefixes. `draw`: whole solutions from the
local proposer. A part that fails (memory, a compiler) is a row that says so. Each result is written as it is there.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from packing import SHAPES, Forest, forest, packed_losses, path_losses
from rich.console import Console
from rich.table import Table
from search_cost import BEAM, FixedPrompt, RowScorer, in_order
from search_overhead import FixedSteps, fixed_search
from transformers import AutoModel, AutoModelForCausalLM, Qwen2Config

from arts.build import about
from arts.files import dump, write_atomically
from arts.lm.load import LanguageModel, quiet, use_threads
from arts.lm.tree_attention import use_tree_attention
from arts.proposers.hf import HFProposer
from arts.protocols import Request, StepScorer
from arts.search.budget import Budget
from arts.search.driver import run_batched
from arts.search.result import SearchResult
from arts.search.whole_path import WholePathScorer
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, build_tree
from arts.verifier.model import FlowVerifier, VerifierSettings
from arts.verifier.processes import arithmetic
from arts.verifier.step_scorer import CachedFlowScorer

Row = dict[str, Any]
Way = Callable[[Forest], Iterator[torch.Tensor]]
PARTS = ("train", "search", "draw")


@dataclass(frozen=True, kw_only=True)
class Load:
    """How much is done; tokens are those of one step, solution or prompt."""

    prompt_tokens: int = 100
    num_trunks: int = 16
    num_steps: int = 8
    step_tokens: int = 50
    batch_trees: int = 2
    num_batches: int = 2
    num_problems: int = 32
    "searched, or drawn for, at one time"
    search_steps: int = 20
    draws: int = 8
    "of each problem"
    drawn_tokens: int = 200
    matrix: int = 8192
    "rows and columns of the matrices that show the card's peak"


TINY = Load(
    prompt_tokens=20,
    num_trunks=4,
    num_steps=4,
    step_tokens=8,
    num_problems=2,
    search_steps=4,
    draws=2,
    drawn_tokens=12,
    matrix=512,
)


class Bench(NamedTuple):
    size: str
    device: str
    tuning: str
    load: Load
    repetitions: int

    @property
    def precision(self) -> str:
        return "fp32" if self.device == "cpu" else "bf16"

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.device == "cpu" else torch.bfloat16

    def median(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds that it takes, and what it returns. Two more go before, for kernels to be chosen and compiled."""
        # On a CPU one thread works; its own seconds leave out what other programs take from a busy machine.
        clock = time.process_time if self.device == "cpu" else time.perf_counter
        seconds = []
        for _ in range(self.repetitions + 2):
            self.wait()
            started = clock()
            found = work()
            self.wait()
            seconds.append(clock() - started)
        return statistics.median(seconds[2:]), found

    def wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()


def matrix_peak(bench: Bench) -> float:
    """Operations a second of a large matrix product of random numbers."""
    size = bench.load.matrix
    left, right = (torch.randn(size, size, device=bench.device, dtype=bench.dtype) for _ in range(2))
    seconds, _ = bench.median(lambda: [left @ right for _ in range(10)])
    return 10 * 2 * size**3 / seconds


# --- training ---------------------------------------------------------------------------------------------------------


def random_model(bench: Bench, dtype: torch.dtype, *, causal_lm: bool = False) -> LanguageModel:
    torch.manual_seed(0)
    kind = AutoModelForCausalLM if causal_lm else AutoModel
    config = Qwen2Config(
        **SHAPES[bench.size], tie_word_embeddings=True, max_position_embeddings=4096, eos_token_id=1, pad_token_id=None
    )
    with torch.device(bench.device):
        model = kind.from_config(config, dtype=dtype)
    return LanguageModel(model.eval(), _Letters(), "random", "random", "")  # type: ignore[arg-type]


class _Letters(FixedPrompt):
    """A tokenizer that writes an `x` for every token."""

    def decode(self, ids: list[int], **_options: object) -> str:
        return "x" * len(ids)


def random_forest(load: Load, seed: int, vocabulary: int) -> Forest:
    """Trees with a fork behind a random step of each trunk: the paper's budget of 1.5 trunks."""
    rng = np.random.default_rng(seed)
    trees, ids = [], []
    for name in range(load.batch_trees):
        tree = _random_tree(f"{seed} {name}", load, rng)
        sizes = [load.prompt_tokens, *[load.step_tokens] * (len(tree.nodes) - 1)]
        trees.append(tree)
        ids.append([rng.integers(2, vocabulary, size).tolist() for size in sizes])
    return forest(trees, ids)


def _random_tree(name: str, load: Load, rng: np.random.Generator) -> ReasoningTree:
    ends = [StopReason.STOP] * (load.num_steps - 1) + [StopReason.EOS]
    rollouts = []
    for index in range(2 * load.num_trunks):
        trunk = index % load.num_trunks
        num_shared = 0 if index < load.num_trunks else int(rng.integers(1, load.num_steps))
        steps = tuple(Step(f"{index} {depth};", (0,), -1.0, end) for depth, end in enumerate(ends))
        rollouts.append(Rollout(index, trunk, num_shared, steps[num_shared:]))
    return build_tree(Problem(name, name), rollouts)


def needed_operations(verifier: FlowVerifier, trees: Forest) -> float:
    """Of one training step: what distinct tokens and visible keys need, nothing that is masked or done twice."""
    config = verifier.language_model.model.config
    hidden, key_values = (
        config.hidden_size,
        config.hidden_size // config.num_attention_heads * config.num_key_value_heads,
    )
    weights = config.num_hidden_layers * hidden * (2 * hidden + 2 * key_values + 3 * config.intermediate_size)
    tokens = sum(len(tree.token_ids) for tree in trees.packed)
    keys = sum(int((tree.positions + 1).sum()) for tree in trees.packed)
    attention = 4 * config.num_hidden_layers * hidden * keys
    # Back: gradients of what went in, and of the weights where these are trained (those of LoRA are few).
    return 2 * weights * tokens * (3 if verifier.settings.tuning == "full" else 2) + 3 * attention


class Training:
    """A step on each of some forests, as `arts train` makes it, computed in one way or another."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        dtype = torch.float32 if bench.tuning == "full" else bench.dtype
        self.verifier = FlowVerifier(random_model(bench, dtype), VerifierSettings(tuning=bench.tuning, dropout=0.0))
        self.verifier.train()
        vocabulary = SHAPES[bench.size]["vocab_size"]
        self.forests = [random_forest(bench.load, seed, vocabulary) for seed in range(bench.load.num_batches)]
        self.operations = sum(needed_operations(self.verifier, trees) for trees in self.forests)
        self.distinct_tokens = sum(len(tree.token_ids) for trees in self.forests for tree in trees.packed)
        self.path_tokens = sum(len(path) for trees in self.forests for path in trees.paths)
        self.parameters = list(self.verifier.trained_parameters().values())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.0)  # all ways train the same weights

    def ways(self, block_sizes: Sequence[int]) -> Iterator[tuple[str, Way]]:
        """Names, and how the losses of a forest are computed; the model is set up as each is asked for."""
        packed = partial(packed_losses, self.verifier, block_size=None)
        yield "paths", partial(path_losses, self.verifier, rows_tokens=16384)
        yield "packed", packed
        for size in block_sizes:
            yield f"packed, blocks of {size}", partial(packed_losses, self.verifier, block_size=size)
        if self.bench.device != "cpu":  # FlexAttention has no way back on a CPU
            use_tree_attention(self.verifier.language_model.model, flex=True)
            yield "packed, flex", packed
            use_tree_attention(self.verifier.language_model.model)
        self.verifier.checkpoint_activations()
        yield "packed, activations again", packed

    def measure(self, way: Way, peak: float) -> Row:
        seconds, losses = self.bench.median(lambda: [self._step(way(trees)) for trees in self.forests])
        return {
            "seconds": seconds / len(self.forests),
            "tokens_per_s": self.distinct_tokens / seconds,
            "peak_share": self.operations / seconds / peak,
            "losses": losses,
        }

    def _step(self, losses: Iterator[torch.Tensor]) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.bench.device)
        while (loss := self._next(losses)) is not None:
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return float(total)

    def _next(self, losses: Iterator[torch.Tensor]) -> torch.Tensor | None:
        """The way forth in the precision of training; the way back is outside of it, as torch wants it."""
        with arithmetic(self.bench.precision, torch.device(self.bench.device)):
            return next(losses, None)


def train(bench: Bench, peak: float, block_sizes: Sequence[int]) -> Iterator[Row]:
    """A row for each way to compute the same steps, and the losses that it comes to."""
    training = Training(bench)
    tokens = {"distinct_tokens": training.distinct_tokens, "path_tokens": training.path_tokens}
    bound = training.path_tokens / training.distinct_tokens
    paths_s = None
    for name, way in training.ways(block_sizes):
        row = {"part": "train", "way": name, **tokens} | _attempt(bench, partial(training.measure, way, peak))
        paths_s = row.get("seconds") if name == "paths" else paths_s
        if paths_s is not None and "seconds" in row:
            row["faster_than_paths"] = paths_s / row["seconds"]
            row["share_of_bound"] = row["faster_than_paths"] / bound
        yield row


def _attempt(bench: Bench, measure: Callable[[], Row]) -> Row:
    if bench.device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        row = measure()
    except RuntimeError as error:  # of memory or a compiler; the other ways are worth their time all the same
        return {"failed": " ".join(str(error).split())[:300]}
    if bench.device != "cpu":
        row["gib"] = torch.cuda.max_memory_allocated() / 2**30
    return row


# --- searching and drawing --------------------------------------------------------------------------------------------


def search(bench: Bench) -> Iterator[Row]:
    """Both sides score the same beams; the search itself and its made-up proposer are in both times."""
    verifier = FlowVerifier(random_model(bench, bench.dtype), VerifierSettings(tuning="full")).eval()
    sides: dict[str, StepScorer] = {
        "whole prefixes": WholePathScorer(RowScorer(verifier), tokenizer="random"),
        "keys and values kept": CachedFlowScorer(verifier, tokenizer="random", capacity=1 << 20),
    }
    for name, scorer in sides.items():
        yield {"part": "search", "way": name} | _attempt(bench, partial(_search, bench, scorer))


def _search(bench: Bench, scorer: StepScorer) -> Row:
    load = bench.load
    proposer = FixedSteps(load.search_steps, load.step_tokens)

    def once() -> list[SearchResult]:
        scorer.forget()
        most = load.search_steps * load.step_tokens
        searches = [fixed_search(BEAM, Budget(), most, scorer.scale) for _ in range(load.num_problems)]
        return in_order(run_batched(searches, proposer, scorer))

    seconds, results = bench.median(once)
    distinct = sum(result.tree.num_distinct_tokens() for result in results)
    read = sum(result.bill.verifier_tokens for result in results)
    return {"seconds": seconds, "read_tokens": read, "distinct_tokens": distinct, "tokens_per_s": distinct / seconds}


def draw(bench: Bench) -> Iterator[Row]:
    """Whole solutions of random tokens, from transformers' cache and from our pool."""
    for name, keep_tokens in (("transformers' cache", 0), ("our pool", 1 << 16)):
        yield {"part": "draw", "way": name} | _attempt(bench, partial(_draw, bench, keep_tokens))


def _draw(bench: Bench, keep_tokens: int) -> Row:
    load = bench.load
    language_model = random_model(bench, bench.dtype, causal_lm=True)
    proposer = HFProposer(language_model, step_separator="\n", keep_tokens=keep_tokens)
    seeds = [tuple(range(first, first + load.draws)) for first in range(0, load.num_problems * load.draws, load.draws)]
    requests = [Request(Problem(str(index), str(index)), (), own, load.drawn_tokens) for index, own in enumerate(seeds)]
    seconds, replies = bench.median(lambda: proposer.propose(requests))
    drawn = sum(reply.usage.generated_tokens for reply in replies)
    return {"seconds": seconds, "drawn_tokens": drawn, "tokens_per_s": drawn / seconds}


# --- the table --------------------------------------------------------------------------------------------------------


def show(rows: list[Row], peak: dict[str, float]) -> None:
    title = "; ".join(f"matrix peak {name}: {value / 1e12:.3g} TFLOP/s" for name, value in peak.items())
    table = Table(title=title)
    columns = ["size", "part", "way", "tokens a second", "ms", "share of peak", "against paths", "of the bound", "GiB"]
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index > 2 else "left")
    for row in rows:
        names = [row["size"], row["part"], row["way"]]
        if "failed" in row:
            table.add_row(*names, "failed:", row["failed"][:40])
            continue
        shares = (row.get(key) for key in ("peak_share", "faster_than_paths", "share_of_bound", "gib"))
        cells = ("–" if share is None else f"{share:.3g}" for share in shares)
        table.add_row(*names, f"{row['tokens_per_s']:,.0f}", f"{1e3 * row['seconds']:.1f}", *cells)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def main(
    size: Annotated[list[str] | None, typer.Option(help=f"of {', '.join(SHAPES)}; default: both of Qwen2.5")] = None,
    device: str = "cuda",
    part: Annotated[list[str] | None, typer.Option(help=f"of {', '.join(PARTS)}; repeat. Default: all")] = None,
    tuning: Annotated[str, typer.Option(help="full or lora")] = "full",
    block_size: Annotated[list[int] | None, typer.Option(help="of packed attention, tried besides our choice")] = None,
    batch_trees: Annotated[int | None, typer.Option(help="trees a training step")] = None,
    repetitions: int = 5,
    out: Annotated[Path | None, typer.Option(help="JSON file to write")] = None,
) -> None:
    """Time training, scoring and drawing on one device."""
    use_threads(1)
    quiet()
    rows: list[Row] = []
    peak: dict[str, float] = {}
    card = "CPU" if device == "cpu" else torch.cuda.get_device_name()
    for name in size or ("qwen2.5-0.5b", "qwen2.5-1.5b"):
        load = TINY if name == "tiny" else Load()
        load = replace(load, batch_trees=batch_trees or load.batch_trees)
        bench = Bench(name, device, tuning, load, repetitions)
        peak[name] = matrix_peak(bench)
        parts: dict[str, Callable[[Bench], Iterator[Row]]] = {
            "train": lambda bench: train(bench, peak[bench.size], block_size or [128, 256]),
            "search": search,
            "draw": draw,
        }
        for chosen in part or PARTS:
            for row in parts[chosen](bench):
                rows.append({"size": name, "tuning": tuning, "precision": bench.precision} | row)
                print(f"{name} {row['part']} {row['way']}: done", file=sys.stderr, flush=True)
                if out is not None:
                    found = {"device": card, "matrix_peak": peak, "load": asdict(load), "rows": rows, "about": about()}
                    write_atomically(out, dump(found) + "\n")
    show(rows, peak)


if __name__ == "__main__":
    typer.run(main)
