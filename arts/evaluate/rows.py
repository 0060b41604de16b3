"""One line a problem with every draw's outcome, answer and flow: the raw material of every table, small enough to keep.

From these rows the evaluation can be made again without a model, and other selectors can be tried on the same draws. A
best-of-N pool is a tree of depth one, and that is what the rows become when they are read back. A draw's `log_flow` is
the score of its whole path, so on such a tree every aggregation gives the one that the rows were written with.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from arts.evaluate.metrics import chosen_aggregation, path_score
from arts.files import dump, write_atomically
from arts.protocols import Aggregation, ScoredTrees, ScoreScale
from arts.tree import Node, Problem, ReasoningTree, StopReason, Usage, Verdict


def write_rows(
    trees: Sequence[ReasoningTree],
    verifiers: Mapping[str, ScoredTrees],
    folder: Path,
    *,
    aggregation: Aggregation | None = None,
) -> Path:
    """Write `draws.jsonl` into a folder.

    Args:
        aggregation: how the scores of a path's steps become one, for every verifier; None: as its scale says.
    """
    path = folder / "draws.jsonl"
    scales = {
        name: replace(scored.scale, aggregation=chosen_aggregation(scored.scale, aggregation))
        for name, scored in verifiers.items()
    }
    shared = {name: asdict(scale) for name, scale in scales.items() if scale != ScoreScale()}
    lines = []
    for index, tree in enumerate(trees):
        leaves = [tree.nodes[leaf] for leaf in tree.trunks]
        row = {
            "problem": tree.problem.id,
            "right": [int(leaf.verdict.correct) if leaf.verdict else 0 for leaf in leaves],
            "answers": [leaf.verdict.answer if leaf.verdict else None for leaf in leaves],
            "stops": [leaf.stop for leaf in leaves],
            "log_flow": {
                name: [
                    _rounded(path_score(scored.trees[index], leaf, scales[name].aggregation)) for leaf in tree.trunks
                ]
                for name, scored in verifiers.items()
            },
            "usage": tree.usage,
            "distinct_tokens": tree.num_distinct_tokens(),
        }
        lines.append(dump(row | ({"scale": shared} if shared else {})) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(lines))
    return path


def _rounded(score: float) -> float:
    """Four decimals; 0 for a path without a score, which no answer that was evaluated is."""
    return 0.0 if math.isnan(score) else round(score or 0.0, 4)


def read_rows(path: Path) -> tuple[list[ReasoningTree], dict[str, ScoredTrees]]:
    """The pool as trees of depth one, and the same trees as each verifier scored them.

    Token bills of the verifiers are not in the rows; they come back as 0.

    Raises:
        ValueError: a line is damaged; names file and line.
    """
    trees: list[ReasoningTree] = []
    scored: dict[str, list[ReasoningTree]] = {}
    scales: dict[str, ScoreScale] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            tree = _tree(row)
            flows = {name: tree.with_log_flows([0.0, *flow]) for name, flow in row["log_flow"].items()}
            scales.update({name: ScoreScale(**scale) for name, scale in row.get("scale", {}).items()})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} line {number} is damaged: {error}") from error
        trees.append(tree)
        for name, flowing in flows.items():
            scored.setdefault(name, []).append(flowing)
    return trees, {
        name: ScoredTrees(list_of_trees, 0, 0, scales.get(name, ScoreScale())) for name, list_of_trees in scored.items()
    }


def _tree(row: Mapping[str, Any]) -> ReasoningTree:
    def leaves() -> Iterator[Node]:
        draws = zip(row["right"], row["answers"], row["stops"], strict=True)
        for index, (right, answer, stop) in enumerate(draws, start=1):
            finished = StopReason(stop) is StopReason.EOS
            verdict = Verdict(bool(right), answer) if finished else None
            yield Node(id=index, parent=0, stop=StopReason(stop), verdict=verdict)

    nodes = (Node(id=0, parent=-1), *leaves())
    return ReasoningTree(
        problem=Problem(row["problem"], row["problem"]),
        nodes=nodes,
        trunks=tuple(range(1, len(nodes))),
        usage=Usage(*row["usage"]),
    )
