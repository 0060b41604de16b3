"""What does a search cost? Tokens of both models, against whole-prefix scoring, and the time of the search itself.

    python benchmarks/search_cost.py                                   # all three parts: minutes on a CPU core
    python benchmarks/search_cost.py --part countdown --num-problems 8 --strategy mcts:preset=x1 --out cost.jsonl
    python benchmarks/search_cost.py --part paths --num-steps 100 --step-tokens 16
    python benchmarks/search_cost.py --part overhead --num-nodes 1000000 --overhead-strategy beam

`countdown`: the shipped models on real problems. With keys and values kept, every token of the tree should go through
the verifier once (1.000), and through the proposer about once a token drawn. The other side reads every path as a whole
and prefills every prefix anew. Tokens are counted by hooks on the models' embeddings, and compared with what the
library counts and bills. `paths`: a beam over steps of a fixed length, on random weights; what whole-prefix scoring
reads grows with the square of the number of steps. Both sides run in turn, in processor time. `overhead`: proposer and
verifier are instant and their time is taken off, so what is left is the search; a node should cost the same in every
tree. A tree is left out where the next smaller one says that it takes more than half a minute.
"""

import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from search_overhead import VOCABULARY, FixedSteps, fixed_search, overhead
from transformers import AutoModel, Qwen2Config

from arts.build import about, build_task, build_verifier, proposer_folder
from arts.files import dump
from arts.lm.load import LanguageModel, load_causal_lm, quiet, use_threads
from arts.proposers.hf import HFProposer
from arts.protocols import ScoredTrees, StepScorer
from arts.search.budget import Budget
from arts.search.driver import Finished, run_batched
from arts.search.program import Search
from arts.search.result import SearchResult
from arts.search.strategies import parse_strategy
from arts.search.whole_path import WholePathScorer
from arts.tree import ReasoningTree
from arts.verifier.model import FlowVerifier, VerifierSettings
from arts.verifier.scorer import FlowScorer
from arts.verifier.step_scorer import CachedFlowScorer

Row = dict[str, Any]
PAD = 0  # no step of ours holds it
KEPT_TOKENS = 1 << 16  # so many that nothing is dropped
STRATEGIES = (
    "beam",
    "dvts",
    "rebase",
    "best-first",
    "mcts",
    "flow-sampling",
    "particle-filter",
    "value-augmented",
    "arts:settled=1.01",  # it never stops before its budget
)
BEAM = "beam:width=2,expand=2"  # of `paths`: four new steps at every level
PROMPT_TOKENS = 32  # of `paths`
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 2048,
}


@contextmanager
def counted(model: Any) -> Iterator[dict[str, int]]:
    """Tokens that go through a model, padding left out, by a hook."""
    count = {"tokens": 0}

    def add(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        count["tokens"] += int((inputs[0] != PAD).sum())

    hook = model.get_input_embeddings().register_forward_pre_hook(add)
    try:
        yield count
    finally:
        hook.remove()


def in_order(finished: Iterable[Finished]) -> list[SearchResult]:
    results = [result for _, result in sorted(finished, key=lambda one: one.place)]
    for result in results:
        if result.stopped.startswith("failed"):
            raise RuntimeError(result.stopped)
    return results


def scored_tokens(verifier: FlowVerifier, result: SearchResult) -> int:
    """Tokens of the nodes that have a score, each node's once: the least that the verifier could read."""
    ids = verifier.node_token_ids(result.tree)
    return sum(len(ids[node.id]) for node in result.tree.nodes if node.log_flow is not None)


# --- countdown: tokens of both models ---------------------------------------------------------------------------------


def countdown(strategies: Sequence[str], num_problems: int, budget_tokens: int) -> Iterator[Row]:
    """Counts of each strategy, with keys and values kept and without."""
    task = build_task("countdown")
    problems = list(islice(task.problems("validation", 0), num_problems))
    verifier = build_verifier("countdown")
    models = {side: load_causal_lm(proposer_folder("countdown")) for side in ("kept", "whole")}
    for strategy in strategies:
        row: Row = {"part": "countdown", "strategy": strategy}
        trees = []
        for side, model in models.items():
            kept_tokens = KEPT_TOKENS if side == "kept" else 0
            proposer = HFProposer(model, step_separator=task.step_separator, keep_tokens=kept_tokens)
            tokenizer = proposer.tokenizer_fingerprint
            scorer: StepScorer = WholePathScorer(FlowScorer(verifier), tokenizer=tokenizer)
            if side == "kept":
                scorer = CachedFlowScorer(verifier, tokenizer=tokenizer, capacity=KEPT_TOKENS)
            searches = [
                Search(
                    problem,
                    parse_strategy(strategy),
                    Budget(generated_tokens=budget_tokens),
                    judge=lambda text, problem=problem: task.judge(problem, text),  # type: ignore[misc]
                    max_new_tokens=task.max_new_tokens,
                    scale=scorer.scale,
                )
                for problem in problems
            ]
            with counted(verifier.language_model.model) as read, counted(model.model) as run:
                results = in_order(run_batched(searches, proposer, scorer))
            trees.append([result.tree.num_distinct_tokens() for result in results])
            row |= {
                f"{side}_verifier_tokens": read["tokens"],
                f"{side}_verifier_billed": sum(result.bill.verifier_tokens for result in results),
                f"{side}_distinct_tokens": sum(scored_tokens(verifier, result) for result in results),
                f"{side}_proposer_tokens": run["tokens"],
                f"{side}_proposer_counted": proposer.decoder.computed_tokens,
                f"{side}_drawn_tokens": sum(result.bill.generated_tokens for result in results),
            }
            row[f"{side}_verifier_ratio"] = row[f"{side}_verifier_tokens"] / row[f"{side}_distinct_tokens"]
            row[f"{side}_proposer_ratio"] = row[f"{side}_proposer_tokens"] / row[f"{side}_drawn_tokens"]
        yield row | {"same_trees": trees[0] == trees[1]}


# --- paths: long ones, read once or again and again -------------------------------------------------------------------


class FixedPrompt:
    """A tokenizer that knows one prompt."""

    chat_template = None

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": list(range(1, PROMPT_TOKENS + 1))}


class RowScorer:
    """Whole paths as rows with plain causal attention: faster here than packing, which has nothing to share."""

    def __init__(self, verifier: FlowVerifier) -> None:
        self.verifier = verifier

    @torch.inference_mode()
    def score(self, trees: Sequence[ReasoningTree]) -> ScoredTrees:
        ids = [self.verifier.node_token_ids(tree) for tree in trees]
        device = self.verifier.language_model.device
        rows = torch.tensor(
            [[token for part in parts for token in part] for parts in ids], device=device
        )  # equally long
        hidden_BLH = self.verifier.backbone(input_ids=rows, use_cache=False).last_hidden_state
        scored = []
        for tree, parts, hidden_LH in zip(trees, ids, hidden_BLH, strict=True):
            ends = torch.tensor([len(part) for part in parts]).cumsum(0) - 1
            scored.append(tree.with_log_flows(self.verifier.read(hidden_LH[ends.to(device)])[:, 0].tolist()))
        return ScoredTrees(scored, rows.numel(), rows.numel())


def random_verifier() -> FlowVerifier:
    torch.manual_seed(0)
    config = Qwen2Config(**SHAPE, tie_word_embeddings=True, pad_token_id=None)
    model = AutoModel.from_config(config, dtype=torch.float32)
    language_model = LanguageModel(model, FixedPrompt(), "random", "random", "")  # type: ignore[arg-type]
    return FlowVerifier(language_model, VerifierSettings(tuning="full")).eval()


def paths(num_steps: int, step_tokens: int, repetitions: int) -> Row:
    """Counts and times of one search over steps of a fixed length; the first repetition is left out."""
    verifier, proposer = random_verifier(), FixedSteps(num_steps, step_tokens)
    sides: dict[str, StepScorer] = {
        "kept": CachedFlowScorer(verifier, tokenizer="random", capacity=KEPT_TOKENS),
        "whole": WholePathScorer(RowScorer(verifier), tokenizer="random"),
    }
    row: Row = {"part": "paths", "num_steps": num_steps, "step_tokens": step_tokens}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repetitions + 1):
        for side, scorer in sides.items():
            scorer.forget()
            search = fixed_search(BEAM, Budget(), num_steps * step_tokens, scorer.scale)
            with counted(verifier.language_model.model) as read:
                # One thread works; its own seconds leave out what other programs take from a busy machine.
                started = time.process_time()
                (result,) = in_order(run_batched([search], proposer, scorer))
                seconds[side].append(time.process_time() - started)
            row |= {
                f"{side}_verifier_tokens": read["tokens"],
                f"{side}_verifier_billed": result.bill.verifier_tokens,
                f"{side}_distinct_tokens": scored_tokens(verifier, result),
                f"{side}_scores": [node.log_flow for node in result.tree.nodes],
            }
    ratios = [whole / kept for kept, whole in zip(seconds["kept"][1:], seconds["whole"][1:], strict=True)]
    return row | {
        "token_ratio": row["whole_verifier_tokens"] / row["kept_verifier_tokens"],
        "kept_s": statistics.median(seconds["kept"][1:]),
        "whole_s": statistics.median(seconds["whole"][1:]),
        "time_ratio": statistics.median(ratios),
        "time_ratio_quartiles": np.quantile(ratios, [0.25, 0.75]).tolist(),
    }


# --- tables -----------------------------------------------------------------------------------------------------------


def show(rows: Sequence[Row]) -> None:
    for part, table in (("countdown", countdown_table), ("paths", paths_table), ("overhead", overhead_table)):
        if own := [row for row in rows if row["part"] == part]:
            Console(width=None if sys.stdout.isatty() else 160).print(table(own))


def empty_table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def countdown_table(rows: Sequence[Row]) -> Table:
    title = "Countdown: tokens through the models, keys and values kept (whole paths)"
    columns = ("tree tokens", "verifier", "a tree token", "drawn tokens", "proposer", "a drawn token")
    table = empty_table(title, "strategy", *columns, "bills as counted", "same trees")
    for row in rows:
        agree = all(row[f"{side}_verifier_tokens"] == row[f"{side}_verifier_billed"] for side in ("kept", "whole"))
        agree &= all(row[f"{side}_proposer_tokens"] == row[f"{side}_proposer_counted"] for side in ("kept", "whole"))
        table.add_row(
            row["strategy"],
            f"{row['kept_distinct_tokens']:,}",
            f"{row['kept_verifier_tokens']:,} ({row['whole_verifier_tokens']:,})",
            f"{row['kept_verifier_ratio']:.3f} ({row['whole_verifier_ratio']:.2f})",
            f"{row['kept_drawn_tokens']:,}",
            f"{row['kept_proposer_tokens']:,} ({row['whole_proposer_tokens']:,})",
            f"{row['kept_proposer_ratio']:.2f} ({row['whole_proposer_ratio']:.2f})",
            "yes" if agree else "NO",
            "yes" if row["same_trees"] else "no",
        )
    return table


def paths_table(rows: Sequence[Row]) -> Table:
    title = "Long paths on random weights: whole-prefix scoring / keys and values kept"
    table = empty_table(title, "steps", "verifier tokens", "ratio", "processor time, s", "ratio (quartiles)")
    for row in rows:
        low, high = row["time_ratio_quartiles"]
        table.add_row(
            f"{row['num_steps']} of {row['step_tokens']} tokens",
            f"{row['whole_verifier_tokens']:,} / {row['kept_verifier_tokens']:,}",
            f"{row['token_ratio']:.2f}",
            f"{row['whole_s']:.2f} / {row['kept_s']:.2f}",
            f"{row['time_ratio']:.2f} ({low:.2f}-{high:.2f})",
        )
    return table


def overhead_table(rows: Sequence[Row]) -> Table:
    sizes = sorted({row["size"] for row in rows})
    title = "The search itself: microseconds of processor time a node"
    table = empty_table(title, "strategy", *(f"{size:,} nodes" for size in sizes))
    for strategy in dict.fromkeys(row["strategy"] for row in rows):
        cells = {row["size"]: f"{row['us_per_node']:.0f}" for row in rows if row["strategy"] == strategy}
        table.add_row(strategy, *(cells.get(size, "–") for size in sizes))
    return table


def main(
    part: Annotated[list[str] | None, typer.Option(help="countdown, paths or overhead; repeat. Default: all")] = None,
    strategy: Annotated[list[str] | None, typer.Option(help="of `countdown`; repeat")] = None,
    num_problems: Annotated[int, typer.Option(help="of `countdown`")] = 4,
    budget_tokens: Annotated[int, typer.Option(help="of `countdown`: drawn tokens a problem")] = 600,
    num_steps: Annotated[list[int] | None, typer.Option(help="of `paths`; repeat. Default: 5, 20, 50")] = None,
    step_tokens: Annotated[int, typer.Option(help="of `paths`")] = 32,
    repetitions: Annotated[int, typer.Option(help="of `paths`; one more goes before and is left out")] = 5,
    overhead_strategy: Annotated[list[str] | None, typer.Option(help="of `overhead`; repeat")] = None,
    num_nodes: Annotated[list[int] | None, typer.Option(help="of `overhead`; repeat. Default: 100 to 100,000")] = None,
    out: Annotated[Path | None, typer.Option(help="JSONL file to append rows to")] = None,
) -> None:
    """Count and time what searches cost."""
    use_threads(1)
    quiet()
    parts: dict[str, Iterable[Row]] = {
        "countdown": countdown(strategy or STRATEGIES, num_problems, budget_tokens),
        "paths": (paths(count, step_tokens, repetitions) for count in num_steps or (5, 20, 50)),
        "overhead": (
            row
            for name in overhead_strategy or ("best-of-n", *STRATEGIES)
            for row in overhead(name, num_nodes or (100, 1_000, 10_000, 100_000))
        ),
    }
    rows = []
    for row in (row for name in part or parts for row in parts[name]):
        rows.append(row)
        if out is not None:
            with out.open("a", encoding="utf-8") as file:
                file.write(dump(row | {"about": about()}) + "\n")
    show(rows)


if __name__ == "__main__":
    typer.run(main)
