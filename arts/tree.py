"""The one data structure: a tree of reasoning steps, as plain immutable values.

A chain is a tree with one path, a best-of-N pool a tree of depth one per step, a Sparse Deep Fork sample a tree. This
module knows how trees are put together from rollouts, walked and checked. It knows no model, no task and no file.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, NamedTuple

LogPriorLaw = Literal["raw", "sampling"]
"""`raw`: log-probabilities of the model itself (temperature 1, nothing cut off). `sampling`: of the law that was drawn
from, after temperature and top-p. The two coincide at temperature 1 and top-p 1, and are then called `raw`."""


class StopReason(StrEnum):
    """Why a step ended. Only EOS makes a path an answer."""

    EOS = "eos"  # the model ended its solution
    STOP = "stop"  # the step separator: the path goes on
    LENGTH = "length"  # the token limit: the path is unfinished
    ERROR = "error"  # the proposer failed: nothing is known about the path


@dataclass(frozen=True)
class Problem:
    """One problem. `prompt` is the user's message; `metadata` is JSON of the task's (gold answers, levels)."""

    id: str
    prompt: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What a chat model is asked: the conversation of the metadata, or the prompt as the user's only message."""
        return [*self.metadata.get("messages", ())] or [{"role": "user", "content": self.prompt}]


def text_of(content: Any) -> str:
    """The text of a message: it may come as parts, of which those that are no text (images) are left out."""
    if isinstance(content, str) or content is None:
        return content or ""
    return "".join(part["text"] for part in content if part.get("type") == "text")


class Usage(NamedTuple):
    """What a proposer was paid. Prompt tokens count once a request, as a server with `n` bills them."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    requests: int = 0
    estimated_requests: int = 0
    "of `requests`, those whose tokens the server did not say, or not sensibly: they were estimated from the texts"
    failed_requests: int = 0
    "besides `requests`: those without a usable answer, whose tokens nobody can tell"

    def plus(self, other: "Usage") -> "Usage":
        return Usage(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Verdict(NamedTuple):
    """What a checker says of a finished solution."""

    correct: bool
    answer: str | None
    "key that votes are counted by; None takes no part in votes"
    reason: str = ""
    "why it is wrong, in a few words"


class Step(NamedTuple):
    """One drawn step: `text` and `token_ids` both include the separator or end-of-sequence token that closed it."""

    text: str
    token_ids: tuple[int, ...]
    log_prior: float | None
    "natural log of the probability of this step given its prefix, under the tree's log-prior law"
    stop: StopReason

    @property
    def num_tokens(self) -> int:
        return _count_tokens(self.text, self.token_ids)


def _count_tokens(text: str, token_ids: tuple[int, ...]) -> int:
    """Tokens of a step; where the proposer reports no ids, four characters count as one."""
    return len(token_ids) or -(-len(text) // 4)


@dataclass(frozen=True, slots=True)
class Rollout:
    """A draw down to its end. Its first `num_shared` steps are those of trunk `trunk`; only the later ones were drawn.

    A main trajectory has `num_shared = 0` and is its own trunk. `index` is unique inside the problem.
    """

    index: int
    trunk: int
    num_shared: int
    steps: tuple[Step, ...]
    "the drawn steps only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A step and its place in the tree. The root (id 0) is the problem itself: no text, no parent, no stop reason."""

    id: int
    parent: int
    "-1 at the root; always smaller than `id`"
    text: str = ""
    token_ids: tuple[int, ...] = ()
    log_prior: float | None = None
    stop: StopReason | None = None
    num_draws: int = 1
    "how often this step was drawn from its parent (equal steps are merged)"
    verdict: Verdict | None = None
    "the checker's word on the path that ends here; only finished paths (stop EOS) have one"
    log_flow: float | None = None
    "log F(s) by the verifier that scored the tree last"

    @property
    def is_answer(self) -> bool:
        return self.stop is StopReason.EOS

    @property
    def num_tokens(self) -> int:
        return _count_tokens(self.text, self.token_ids)


@dataclass(frozen=True, kw_only=True)
class ReasoningTree:
    """Step nodes in an order where parents come before children, and the leaves that the main trajectories reached."""

    problem: Problem
    nodes: tuple[Node, ...]
    trunks: tuple[int, ...] = ()
    "leaf id of each main trajectory, in the order of drawing (repeats where equal paths were merged)"
    log_prior_law: LogPriorLaw = "raw"
    tokenizer: str | None = None
    "fingerprint of the tokenizer that `token_ids` belong to"
    usage: Usage = Usage(0, 0, 0)  # noqa: RUF009 (a tuple: no state is shared)
    "what drawing this tree cost"

    def __post_init__(self) -> None:
        if not self.nodes or self.nodes[0].parent != -1:
            raise ValueError(f"tree of problem {self.problem.id!r}: the first node must be the root, with parent -1")
        if not all(0 < leaf < len(self.nodes) for leaf in self.trunks):
            raise ValueError(f"tree of problem {self.problem.id!r}: trunks {self.trunks} are not ids of its step nodes")
        for index, node in enumerate(self.nodes):
            if node.id != index or (index > 0 and not 0 <= node.parent < index):
                raise ValueError(
                    f"tree of problem {self.problem.id!r}: node {index} has id {node.id} and parent {node.parent}; "
                    "ids must count from 0 and parents must come first"
                )

    def children(self) -> tuple[tuple[int, ...], ...]:
        """Child ids of every node, in order of id."""
        children: list[list[int]] = [[] for _ in self.nodes]
        for node in self.nodes[1:]:
            children[node.parent].append(node.id)
        return tuple(map(tuple, children))

    def leaves(self) -> list[Node]:
        parents = {node.parent for node in self.nodes}
        return [node for node in self.nodes if node.id not in parents]

    def path(self, node_id: int) -> tuple[Node, ...]:
        """The nodes from the first step down to `node_id`, without the root."""
        path = []
        while node_id > 0:
            path.append(self.nodes[node_id])
            node_id = self.nodes[node_id].parent
        return tuple(reversed(path))

    def text(self, node_id: int) -> str:
        """The solution so far: all step texts down to `node_id`."""
        return "".join(node.text for node in self.path(node_id))

    def depths(self) -> list[int]:
        """Number of steps above and including each node; 0 at the root."""
        depths = [0]
        for node in self.nodes[1:]:
            depths.append(depths[node.parent] + 1)
        return depths

    def num_distinct_tokens(self) -> int:
        """Generated tokens of the tree, each node's counted once (without the prompt)."""
        return sum(node.num_tokens for node in self.nodes)

    def with_log_flows(self, log_flows: Sequence[float]) -> "ReasoningTree":
        """The same tree with `log_flows[id]` on every node."""
        nodes = tuple(replace(node, log_flow=float(flow)) for node, flow in zip(self.nodes, log_flows, strict=True))
        return replace(self, nodes=nodes)


def build_tree(
    problem: Problem,
    rollouts: Sequence[Rollout],
    *,
    merge: bool = True,
    log_prior_law: LogPriorLaw = "raw",
    tokenizer: str | None = None,
    usage: Usage = Usage(),
    judge: Callable[[str], Verdict] | None = None,
) -> ReasoningTree:
    """Put rollouts together. The result depends on their set only, not on the order they arrived in.

    Args:
        merge: equal steps below one parent become one node that counts its draws. Otherwise every draw has nodes of its
            own, and two equal draws are siblings.
        judge: the checker, called with the text of each finished solution.

    Raises:
        ValueError: two rollouts share an index, or a fork has no trunk to hang on.
    """
    ordered = sorted(rollouts, key=lambda rollout: (rollout.num_shared > 0, rollout.index))
    if len({rollout.index for rollout in ordered}) < len(ordered):
        raise ValueError(f"problem {problem.id!r}: two rollouts have the same index")
    nodes: list[dict[str, Any]] = [{"id": 0, "parent": -1}]
    known: dict[tuple[int, tuple[int, ...], str, StopReason], int] = {}
    trunk_paths: dict[int, list[int]] = {}
    trunks = []
    for rollout in ordered:
        path = [0]
        if rollout.num_shared > 0:
            trunk_path = trunk_paths.get(rollout.trunk, [])
            if rollout.num_shared >= len(trunk_path) - 1:
                raise ValueError(
                    f"problem {problem.id!r}: rollout {rollout.index} shares {rollout.num_shared} steps with trunk "
                    f"{rollout.trunk}, which has {max(0, len(trunk_path) - 1)}; a fork leaves its trunk before the end"
                )
            path = trunk_path[: rollout.num_shared + 1]
        for step in rollout.steps:
            parent = path[-1]
            key = (parent, step.token_ids, step.text, step.stop)
            node_id = known.get(key) if merge else None
            if node_id is None:
                node_id = len(nodes)
                verdict = None
                if judge and step.stop is StopReason.EOS:
                    verdict = judge("".join(nodes[above]["text"] for above in path[1:]) + step.text)
                nodes.append({"id": node_id, "parent": parent, **step._asdict(), "num_draws": 0, "verdict": verdict})
                known[key] = node_id
            nodes[node_id]["num_draws"] += 1
            path.append(node_id)
        if rollout.num_shared == 0:
            trunk_paths[rollout.index] = path
            trunks.append(path[-1])
    return ReasoningTree(
        problem=problem,
        nodes=tuple(Node(**node) for node in nodes),
        trunks=tuple(trunks),
        log_prior_law=log_prior_law,
        tokenizer=tokenizer,
        usage=usage,
    )


def path_log_prior(path: Sequence[Node]) -> float:
    """log pi_0 of a path; NaN where a step's log-prior is unknown."""
    return math.fsum(math.nan if node.log_prior is None else node.log_prior for node in path)


def draw_tree(tree: ReasoningTree, *, max_nodes: int = 60) -> Iterator[str]:
    """Lines of a text drawing: step, draws, flow, and right or wrong at finished leaves."""
    children = tree.children()
    yield tree.problem.prompt
    stack = [(child, "", child == children[0][-1]) for child in reversed(children[0])]
    shown = 0
    while stack and shown < max_nodes:
        node_id, indent, last = stack.pop()
        shown += 1
        yield f"{indent}{'└─ ' if last else '├─ '}{_label(tree.nodes[node_id])}"
        below = indent + ("   " if last else "│  ")
        stack.extend((child, below, child == children[node_id][-1]) for child in reversed(children[node_id]))
    if shown < len(tree.nodes) - 1:
        yield f"   … {len(tree.nodes) - 1 - shown} more steps"


def _label(node: Node) -> str:
    parts = [" ".join(node.text.split())]
    if node.num_draws > 1:
        parts.append(f"×{node.num_draws}")
    if node.log_flow is not None:
        parts.append(f"F={math.exp(min(node.log_flow, 700.0)):.2f}")
    if node.verdict is not None:
        parts.append("✓" if node.verdict.correct else "✗")
    elif node.stop in (StopReason.LENGTH, StopReason.ERROR):
        parts.append(f"({node.stop})")
    return "  ".join(parts)
