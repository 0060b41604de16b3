"""One line a problem with every draw's outcome, answer and flow: the raw material of every table, small enough to keep.

From these rows the evaluation can be made again without a model, and other selectors can be tried on the same draws. A
best-of-N pool is a tree of depth one, and that is what the rows become when they are read back.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from arts.protocols import ScoredTrees
from arts.store import dump, write_atomically
from arts.tree import Node, Problem, ReasoningTree, StopReason, Usage, Verdict


def write_rows(trees: Sequence[ReasoningTree], verifiers: Mapping[str, ScoredTrees], folder: Path) -> Path:
    """Write `draws.jsonl` into a folder."""
    path = folder / "draws.jsonl"
    rows = []
    for index, tree in enumerate(trees):
        leaves = [tree.nodes[leaf] for leaf in tree.trunks]
        rows.append(
            {
                "problem": tree.problem.id,
                "right": [int(leaf.verdict.correct) if leaf.verdict else 0 for leaf in leaves],
                "answers": [leaf.verdict.answer if leaf.verdict else None for leaf in leaves],
                "stops": [leaf.stop for leaf in leaves],
                "log_flow": {
                    name: [round(scored.trees[index].nodes[leaf].log_flow or 0.0, 4) for leaf in tree.trunks]
                    for name, scored in verifiers.items()
                },
                "usage": tree.usage,
                "distinct_tokens": tree.num_distinct_tokens(),
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(dump(row) + "\n" for row in rows))
    return path


def read_rows(path: Path) -> tuple[list[ReasoningTree], dict[str, ScoredTrees]]:
    """The pool as trees of depth one, and the same trees as each verifier scored them.

    Token bills of the verifiers are not in the rows; they come back as 0.

    Raises:
        ValueError: a line is damaged; names file and line.
    """
    trees: list[ReasoningTree] = []
    scored: dict[str, list[ReasoningTree]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            tree = _tree(row)
            flows = {name: tree.with_log_flows([0.0, *flow]) for name, flow in row["log_flow"].items()}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} line {number} is damaged: {error}") from error
        trees.append(tree)
        for name, flowing in flows.items():
            scored.setdefault(name, []).append(flowing)
    return trees, {name: ScoredTrees(list_of_trees, 0, 0) for name, list_of_trees in scored.items()}


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
