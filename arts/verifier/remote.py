"""A verifier behind a server: an exported folder (`arts export-verifier`) that vLLM serves with `--runner pooling`.

    --verifier "http://HOST:PORT/v1#MODEL?folder=FOLDER"

The folder's tokenizer and card are read here, its weights there. A `token` folder is asked about every leaf and gives
the scores of all steps above it; a `sequence` folder is asked about every node. Paths travel together, many a request.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from arts.lm.load import TokenizerFolder, load_tokenizer
from arts.net.client import Client, RequestFailed
from arts.protocols import ScoredTrees
from arts.tree import ReasoningTree
from arts.verifier.objectives import RewardSettings, build_objective

PATHS_A_REQUEST = 64  # what a request costs a server, whatever it holds, is shared by so many
TOKENS_A_REQUEST = 16_384  # at most, so that a request of long paths has the time that one path has


@dataclass(frozen=True, kw_only=True)
class RemoteSettings:
    """Options of a verifier behind a server."""

    folder: str = ""
    "the exported folder, for its tokenizer and card"
    max_in_flight: int = 32
    timeout_s: float = 120.0
    key_env: str | None = None
    key_file: str | None = None


class RemoteFlowScorer:
    """`Scorer` over a pooling endpoint.

    Raises:
        ValueError: the folder is no exported verifier.
        ServerUnavailable: the server did not answer.
    """

    def __init__(self, client: Client, model: str, folder: Path) -> None:
        self.client, self.model = client, model
        try:
            card = json.loads((folder / "verifier.json").read_text(encoding="utf-8"))
            self.kind = str(card["exported"])
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{str(folder)!r} is no exported verifier ({error}); make one with `arts export-verifier V --out "
                "FOLDER` and name it: http://HOST:PORT/v1#MODEL?folder=FOLDER"
            ) from error
        self.text: TokenizerFolder = load_tokenizer(folder)
        described = dict(card["objective"])
        self.objective = build_objective(described.pop("name"), described)
        self.rewards = RewardSettings(**card["rewards"])
        self.scale = self.objective.scale(self.rewards)

    def score(self, trees: Sequence[ReasoningTree]) -> ScoredTrees:
        """Raises RequestFailed or ServerUnavailable, both ValueErrors."""
        return self.client.run(self.ascore(trees))

    async def ascore(self, trees: Sequence[ReasoningTree]) -> ScoredTrees:
        """The same on the client's own loop."""
        rows: list[tuple[int, list[int], list[int], list[int]]] = []
        distinct = 0
        for index, tree in enumerate(trees):
            ids = self.text.node_ids(tree)
            distinct += sum(map(len, ids))
            ends = [node.id for node in (tree.nodes if self.kind == "sequence" else tree.leaves())]
            for end in ends:
                path = [0, *(node.id for node in tree.path(end))]
                tokens = [token for node in path for token in ids[node]]
                places = list(accumulate(len(ids[node]) for node in path))
                rows.append((index, path, tokens, places))
        try:
            answers = await asyncio.gather(*(self._ask(part) for part in _parts([tokens for _, _, tokens, _ in rows])))
            outputs = [output for answer in answers for output in answer]
        except RequestFailed as failure:
            reason = str(failure).removeprefix(f"{failure.kind}: ")
            raise RequestFailed(failure.kind, f"the verifier gave no score: {reason}") from None
        flows = [[0.0] * len(tree.nodes) for tree in trees]
        for (index, path, _, places), output in zip(rows, outputs, strict=True):
            read = {path[-1]: output[-1]}
            if self.kind == "token":
                read = {node: output[place - 1] for node, place in zip(path, places, strict=True)}
            log_flows = self.objective.log_flow(torch.tensor(list(read.values()))[:, None], self.rewards).tolist()
            for node, log_flow in zip(read, log_flows, strict=True):
                flows[index][node] = log_flow
        scored = [tree.with_log_flows(flow) for tree, flow in zip(trees, flows, strict=True)]
        return ScoredTrees(scored, sum(len(tokens) for _, _, tokens, _ in rows), distinct, self.scale)

    async def _ask(self, paths: list[list[int]]) -> list[list[float]]:
        """Of each path, scores of every token, or of the last one. What is too much for one request is halved."""
        try:
            return await self._ask_together(paths)
        except RequestFailed as failure:
            if len(paths) == 1 or failure.kind not in ("timeout", "refused"):
                raise
        half = len(paths) // 2
        return [*await self._ask(paths[:half]), *await self._ask(paths[half:])]

    async def _ask_together(self, paths: list[list[int]]) -> list[list[float]]:

        def read(answer: Any) -> list[list[float]]:
            numbered = {one.get("index", place): one["data"] for place, one in enumerate(answer["data"])}
            data = [numbered[place] for place in sorted(numbered)]
            if len(data) != len(paths):
                raise ValueError(f"scores of {len(data)} texts for {len(paths)}")
            values = [[float(one[0] if isinstance(one, list) else one) for one in own] for own in data]
            for tokens, own in zip(paths, values, strict=True):
                if len(own) != (len(tokens) if self.kind == "token" else 1):
                    raise ValueError(f"{len(own)} scores for {len(tokens)} tokens")
            return values

        task = "token_classify" if self.kind == "token" else "classify"
        body = {"model": self.model, "input": paths, "task": task, "use_activation": False}
        values, _ = await self.client.post("/pooling", body, read)
        return values


def _parts(paths: list[list[int]]) -> list[list[list[int]]]:
    """Paths that are asked about together, in their order."""
    parts: list[list[list[int]]] = []
    room = 0
    for path in paths:
        if not parts or len(parts[-1]) == PATHS_A_REQUEST or len(path) > room:
            parts.append([])
            room = TOKENS_A_REQUEST
        parts[-1].append(path)
        room -= len(path)
    return parts
