"""Rows of the comparison with GRPO (grpo.sh): what every pool of draws holds, and what every verifier picks from it.

    python recipes/grpo_rows.py        # every collection of runs/grpo/pools, into results/grpo.jsonl; rows are resumed

The first 16 draws of `base` and of `grpo-SEED` are chosen from: by majority, and by the verifiers of the objectives
experiment (objectives.sh), which learned from 2,400 problems and three seeds each. The other draws only count.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from arts.build import about, build_verifier
from arts.evaluate.metrics import (
    argmax_accuracy,
    chosen_aggregation,
    draw_subsets,
    read_draws,
    read_log_flows,
    vote_accuracy,
)
from arts.evaluate.searches import read_rows
from arts.files import dump
from arts.lm.load import quiet, use_threads
from arts.store import load_trees, open_collection
from arts.tree import ReasoningTree
from arts.verifier.scorer import FlowScorer

RUNS, POOLS, RESULTS = Path("runs/objectives"), Path("runs/grpo/pools"), Path("results/grpo.jsonl")
CHOSEN_FROM = 16
SEEDS = (0, 1, 2)
VERIFIERS = {
    "PRM": "pointwise_prm-2400",
    "RM": "pairwise_rm-2400",
    "outcome": "outcome-2400",
    "mean flow": "mean_flow-2400",
    "ARTS (RFM as published)": "rfm-2400",
    "ARTS (RFM, leaf_weight=4)": "rfm-leaf_weight=4.0-2400",
}
LARGER = {  # two seeds, of as many drawn tokens as GRPO takes
    "outcome, 8,000 problems": "outcome-8000",
    "ARTS (RFM as published), 8,000 problems": "rfm-8000",
}
SHIPPED = "ARTS (shipped)"
Row = dict[str, Any]


def verifier_folder(name: str, seed: int) -> str:
    return "countdown" if name == SHIPPED else str(RUNS / f"{(VERIFIERS | LARGER)[name]}-s{seed}-lr0.0003")


def pool_rows(name: str, trees: Sequence[ReasoningTree]) -> Iterator[Row]:
    draws = read_draws(trees)
    yield {
        "row": "draws",
        "pool": name,
        "num_draws": draws.num_samples,
        "right": " ".join(map(str, draws.num_correct_P)),
        f"right_of_{CHOSEN_FROM}": " ".join(map(str, draws.correct_PN[:, :CHOSEN_FROM].sum(axis=1))),
        "different": " ".join(map(str, (_different(tree) for tree in trees))),
        "tokens": sum(tree.usage.generated_tokens for tree in trees) / len(trees) / draws.num_samples,
    }


def _different(tree: ReasoningTree) -> int:
    """Right answers that differ, up to commutativity."""
    return len({node.verdict.answer for node in tree.nodes if node.verdict is not None and node.verdict.correct})


def first_draws(tree: ReasoningTree, number: int) -> ReasoningTree:
    """The tree of the first draws alone, so that a verifier reads no more than it would have to."""
    trunks = tree.trunks[:number]
    kept = [0, *sorted({node.id for leaf in trunks for node in tree.path(leaf)})]
    place = {old: new for new, old in enumerate(kept)} | {-1: -1}
    nodes = tuple(
        replace(node, id=place[node.id], parent=place[node.parent]) for node in map(tree.nodes.__getitem__, kept)
    )
    return replace(tree, nodes=nodes, trunks=tuple(place[leaf] for leaf in trunks))


def majority_row(pool: str, trees: Sequence[ReasoningTree]) -> Row:
    draws = read_draws(trees)
    everybody = draw_subsets(draws.num_samples, draws.num_samples, 0)
    picked = vote_accuracy(draws, np.zeros(draws.correct_PN.shape), everybody)
    return {"row": "picks", "pool": pool, "by": "majority", "seed": 0, "right": _packed(picked)}


def picks_row(pool: str, trees: Sequence[ReasoningTree], by: str, seed: int) -> Row:
    scored = FlowScorer(build_verifier(verifier_folder(by, seed))).score(trees)
    flows = read_log_flows(scored.trees, chosen_aggregation(scored.scale))
    picked = argmax_accuracy(read_draws(trees), flows, CHOSEN_FROM)
    return {
        "row": "picks",
        "pool": pool,
        "by": by,
        "seed": seed,
        "right": _packed(picked),
        "tokens": scored.computed_tokens / len(trees),
    }


def _packed(values: np.ndarray) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def bill_rows() -> Iterator[Row]:
    """What the roads cost before the first question: tokens drawn, and tokens through forward and backward."""
    for path in sorted(Path("runs/grpo").glob("*/grpo.json")):
        found = json.loads(path.read_text())
        bill, result = found["result"]["bill"], found["result"]
        yield {
            "row": "bill",
            "of": path.parent.name,
            "drawn": bill["generated_tokens"],
            "trained": bill["prompt_tokens"] + bill["generated_tokens"],
            "validation": bill["validation_tokens"],
            "updates": result["num_updates"],
            "kept": result["best_update"],
            "curve": result["validation"],
        }
    for path in sorted(Path("runs/grpo").glob("expert-*/finetune.json")):
        number = int(path.parent.name[-1])  # rounds so far: each searches 3,000 problems and learns from all rounds
        searches = [Path(f"runs/grpo/search-{search}") for search in range(1, number + 1)]
        rounds = [json.loads(Path(f"runs/grpo/expert-{one}/finetune.json").read_text()) for one in range(1, number + 1)]
        yield {
            "row": "bill",
            "of": path.parent.name,
            "drawn": sum(row.bill.generated_tokens for folder in searches for row in read_rows(folder)),
            "trained": sum(one["result"]["trained_tokens"] for one in rounds),
        }
    own = [_tree_bill(Path("runs/countdown") / name) for name in ("trees-a", "trees-b", "trees-3", "trees-5")]
    dense = [_tree_bill(Path("runs/countdown") / name) for name in ("deep-a", "deep-b", "deep-3")]
    drawn, distinct, number = own[0]
    for size, epochs in ((2400, 2), (8000, 1)):
        share = size / number
        yield {
            "row": "bill",
            "of": f"verifiers, {size:,} problems",
            "drawn": drawn * share,
            "trained": epochs * distinct * share,
        }
    yield {
        "row": "bill",
        "of": SHIPPED,
        "drawn": sum(one[0] for one in own + dense),
        "trained": 4 * sum(one[1] for one in own) + sum(one[1] for one in dense),
    }


def _tree_bill(folder: Path) -> tuple[int, int, int]:
    """Tokens generated, distinct tokens with prompts, trees."""
    drawn = distinct = number = 0
    for tree in open_collection(folder).trees():
        drawn += tree.usage.generated_tokens
        distinct += tree.num_distinct_tokens() + tree.usage.prompt_tokens // max(1, tree.usage.requests)
        number += 1
    return drawn, distinct, number


def main() -> None:
    use_threads(1)
    quiet()
    RESULTS.parent.mkdir(exist_ok=True)
    there = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    known = {_key(json.loads(line)) for line in there}
    made = {key: about()[key] for key in ("date", "commit")}

    def keep(row: Row) -> None:
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(dump(row | {"about": made}) + "\n")
        print(*(str(value)[:40] for value in row.values()), flush=True)

    for folder in sorted(path.parent for path in POOLS.glob("*/collection.json")):
        collection = open_collection(folder)
        if collection.num_trees() < collection.header["settings"]["num_problems"]:
            print(f"{folder}: not finished, left out")
            continue
        wanted: list[tuple[str, int]] = []
        if folder.name == "base" or re.fullmatch(r"grpo-\d", folder.name):
            seeds = SEEDS if folder.name == "base" else (int(folder.name[-1]),)
            wanted = [(by, seed) for by in VERIFIERS for seed in seeds] + [(SHIPPED, 0), ("majority", 0)]
            wanted += [(by, seed) for by in LARGER for seed in (0, 1)] if folder.name == "base" else []
        missing = [
            one
            for one in wanted
            if _key({"row": "picks", "pool": folder.name, "by": one[0], "seed": one[1]}) not in known
        ]
        new = _key({"row": "draws", "pool": folder.name}) not in known
        if not missing and not new:
            continue
        trees = load_trees(folder)
        for row in pool_rows(folder.name, trees) if new else ():
            keep(row)
        chosen_from = [first_draws(tree, CHOSEN_FROM) for tree in trees]
        for by, seed in missing:
            args = (folder.name, chosen_from)
            keep(majority_row(*args) if by == "majority" else picks_row(*args, by, seed))
    for row in bill_rows():
        if _key(row) not in known:
            keep(row)


def _key(row: Row) -> str:
    return json.dumps([row["row"], row.get("pool"), row.get("by"), row.get("seed"), row.get("of")])


if __name__ == "__main__":
    main()
