"""How good are scores before the end? Scores of inner nodes against the chance to end right from there.

That chance is estimated by rollouts: the proposer goes on from each chosen node many times, and the task judges the
ends. The rollouts are new, so no score has seen them. `ranks.py` compares scores with them. Knows the protocols; no
model and no score.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from arts.files import dump, write_atomically
from arts.protocols import Proposer, Reply, Request, Task
from arts.tree import Node, ReasoningTree, Step, StopReason, Usage

_NODES_AT_ONCE = 64  # prefixes in one call of the proposer


@dataclass(frozen=True)
class InnerValue:
    """The chance to end right from one node, as estimated."""

    problem_id: str
    node: int
    text: str
    "the solution down to the node: the same node in any tree of the problem, merged or not"
    value_01: float
    "share of the rollouts that ended right; unfinished ones are wrong"
    num_rollouts: int
    "rollouts that did not fail"
    usage: Usage = Usage()  # noqa: RUF009 (a tuple: no state is shared)
    "what they cost"


# --- values by rollouts -----------------------------------------------------------------------------------------------


def draw_inner_values(
    task: Task,
    proposer: Proposer,
    trees: Sequence[ReasoningTree],
    *,
    nodes_per_problem: int = 8,
    num_rollouts: int = 32,
    max_new_tokens: int | None = None,
    seed: int = 0,
    journal: Path | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> list[InnerValue]:
    """Estimate the chance to end right from some inner nodes of every tree.

    Args:
        max_new_tokens: limit of a whole solution, prefix included, as in collecting; None: the task's.
        journal: file that keeps what was drawn after every call of the proposer. Where it exists, the run that wrote it
            goes on, with the same result as if it had not stopped.
        watch: told after every call of the proposer how many nodes are done, and of how many.

    Returns:
        One value a node; nodes whose rollouts all failed are left out.

    Raises:
        ValueError: the journal is that of another run (other trees, proposer or settings).
    """
    if nodes_per_problem < 1 or num_rollouts < 1:
        raise ValueError(f"{nodes_per_problem} nodes and {num_rollouts} rollouts; both must be at least 1")
    limit = max_new_tokens or task.max_new_tokens
    jobs = [
        (tree, node, _request(tree, node, num_rollouts, limit, seed))
        for tree in trees
        for node in choose_inner_nodes(tree, nodes_per_problem, seed=seed, max_new_tokens=limit)
    ]
    run = hashlib.sha256(repr((proposer.fingerprint, [request for _, _, request in jobs])).encode()).hexdigest()
    blocks = _read_journal(journal, run) if journal else []
    # Whole blocks, since a float32 model rounds by what it computes together.
    for start in range(_NODES_AT_ONCE * len(blocks), len(jobs), _NODES_AT_ONCE):
        block = jobs[start : start + _NODES_AT_ONCE]
        replies = proposer.propose([request for _, _, request in block])
        blocks.append(
            [value for job, reply in zip(block, replies, strict=True) for value in _judged(task, *job, reply)]
        )
        if journal:
            _append_to_journal(journal, run, blocks[-1], first=start == 0)
        if watch:
            watch(start + len(block), len(jobs))
    return [value for block in blocks for value in block]


def _judged(task: Task, tree: ReasoningTree, node: int, request: Request, reply: Reply) -> Iterator[InnerValue]:
    """The value of one node; none where all rollouts failed."""
    prefix = "".join(step.text for step in request.prefix)
    ends = [right for steps in reply.draws if (right := _ends_right(task, tree, prefix, steps)) is not None]
    if ends:
        yield InnerValue(tree.problem.id, node, prefix, sum(ends) / len(ends), len(ends), reply.usage)


def _request(tree: ReasoningTree, node: int, num_rollouts: int, limit: int, seed: int) -> Request:
    prefix = tuple(_step(one) for one in tree.path(node))
    key = f"inner {seed}\0{tree.problem.id}\0{tree.text(node)}"
    seeds = [hashlib.sha256(f"{key}\0{index}".encode()).digest()[:8] for index in range(num_rollouts)]
    left = limit - sum(step.num_tokens for step in prefix)
    return Request(tree.problem, prefix, tuple(int.from_bytes(one, "big") for one in seeds), left)


def _step(node: Node) -> Step:
    assert node.stop is not None  # only the root has none, and it is in no path
    return Step(node.text, node.token_ids, node.log_prior, node.stop)


def _ends_right(task: Task, tree: ReasoningTree, prefix: str, steps: Sequence[Step]) -> bool | None:
    """None where the draw failed: nothing is known of it."""
    if steps[-1].stop is StopReason.ERROR:
        return None
    if steps[-1].stop is not StopReason.EOS:
        return False
    return task.judge(tree.problem, prefix + "".join(step.text for step in steps)).correct


def choose_inner_nodes(
    tree: ReasoningTree, num_nodes: int, *, seed: int = 0, max_new_tokens: int | None = None
) -> list[int]:
    """Inner nodes of one tree, families of siblings first, the same every time.

    First two children of each parent that has as many, in random order of the parents; then, in turn, nodes without
    siblings and further siblings. Equal paths of an unmerged tree are one node here.

    Args:
        max_new_tokens: nodes that leave no token for going on are not chosen.
    """
    rng = random.Random(f"inner nodes {seed} {tree.problem.id}")
    families: dict[str, list[int]] = {}
    for node_id in _distinct_inner_nodes(tree, max_new_tokens):
        families.setdefault(tree.text(tree.nodes[node_id].parent), []).append(node_id)
    large = [family for family in families.values() if len(family) > 1]
    alone = [family[0] for family in families.values() if len(family) == 1]
    rng.shuffle(large)
    rng.shuffle(alone)
    for family in large:
        rng.shuffle(family)
    pairs = [node for family in large for node in family[:2]]
    further = [node for family in large for node in family[2:]]
    # Half of the rest from elsewhere: in a pool without forks nearly all siblings are first steps.
    rest = [node for both in zip_longest(alone, further) for node in both if node is not None]
    return sorted((pairs + rest)[:num_nodes])


def _distinct_inner_nodes(tree: ReasoningTree, max_new_tokens: int | None) -> Iterator[int]:
    """Nodes behind which the path goes on, each solution so far once."""
    seen = set()
    num_tokens, texts = [0], [""]
    for node in tree.nodes[1:]:
        num_tokens.append(num_tokens[node.parent] + node.num_tokens)
        texts.append(texts[node.parent] + node.text)
        room = max_new_tokens is None or num_tokens[node.id] < max_new_tokens
        if node.stop is StopReason.STOP and room and texts[node.id] not in seen:
            seen.add(texts[node.id])
            yield node.id


# --- on disk ----------------------------------------------------------------------------------------------------------


def save_inner_values(path: Path, values: Sequence[InnerValue]) -> None:
    """Write one value a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(dump(_value_to_json(value)) + "\n" for value in values))


def load_inner_values(path: Path) -> list[InnerValue]:
    """Raises ValueError where a line is damaged; names file and line."""
    if not path.is_file():
        raise ValueError(
            f"{str(path)!r} is no file of inner values; make one with `arts values --trees DIR --out {path}`"
        )
    values = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            values.append(_value_from_json(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} line {number} is damaged: {error}") from error
    return values


def _append_to_journal(path: Path, run: str, values: Sequence[InnerValue], *, first: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    line = dump({"run": run, "values": [_value_to_json(value) for value in values]}) + "\n"
    with path.open("w" if first else "a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _read_journal(path: Path, run: str) -> list[list[InnerValue]]:
    """The blocks that are on disk. A last line that was cut off is dropped there as well."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    rows = [json.loads(line) for line in whole]
    if any(row["run"] != run for row in rows):
        raise ValueError(
            f"{path} is the journal of another run (other trees, proposer or settings); delete it or use them"
        )
    if len(whole) < len(lines):
        write_atomically(path, "".join(whole))
    return [[_value_from_json(value) for value in row["values"]] for row in rows]


def _value_to_json(value: InnerValue) -> dict[str, Any]:
    return {
        "problem": value.problem_id,
        "node": value.node,
        "text": value.text,
        "value_01": value.value_01,
        "rollouts": value.num_rollouts,
        "usage": value.usage,
    }


def _value_from_json(row: Mapping[str, Any]) -> InnerValue:
    usage = Usage(*row["usage"])
    return InnerValue(row["problem"], row["node"], row["text"], row["value_01"], row["rollouts"], usage)
