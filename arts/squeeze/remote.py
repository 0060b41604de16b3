"""Log-likelihood of given paths from a server: `/completions` that echoes a prompt with its log-probabilities.

    arts squeeze --base "http://HOST:PORT/v1#BASE?tokenizer=FOLDER" --tuned ... --trees DIR

The whole path goes there as token ids, so that what was drawn is what is scored; ids come from the model's tokenizer on
this machine. vLLM's protocol has it; most hosted services have not, which is found out with one short request before
any work. Knows ids and answers; no trees beyond their paths.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from arts.net.client import Client, RequestFailed
from arts.proposers.capabilities import LocalTokenizer, chat_messages
from arts.squeeze.paths import finished_paths
from arts.tree import Problem, ReasoningTree

_INSTEAD = (
    "score local folders instead, or compare two sets of rollouts, which need no log-probabilities: "
    "--base-trees A --tuned-trees B"
)


class TreeTokenizer(LocalTokenizer, Protocol):
    """A tokenizer on this machine that also knows the ids of a tree's steps."""

    def node_ids(self, tree: ReasoningTree) -> Sequence[Sequence[int]]: ...


class RemoteLikelihood:
    """`Likelihood` of a model behind a server, at temperature 1.

    Raises:
        ValueError: there is no tokenizer, or the server does not score given text.
    """

    def __init__(
        self, client: Client, model: str, tokenizer: TreeTokenizer | None, *, name: str, system: str | None = None
    ) -> None:
        if tokenizer is None:
            raise ValueError(
                f"{name}: to score given paths their token ids are needed; name the folder of the model's tokenizer: "
                "URL#MODEL?tokenizer=FOLDER"
            )
        self.client, self.model, self.tokenizer, self.name, self.system = client, model, tokenizer, name, system
        self.tokenizer_fingerprint = tokenizer.fingerprint
        ids = tokenizer.prompt_ids(chat_messages(Problem("?", "1 2 3"), system))
        client.in_a_hurry = True
        try:
            client.run(self._check([*ids, *ids]))
        finally:
            client.in_a_hurry = False

    async def _check(self, ids: list[int]) -> None:
        """One short request."""
        try:
            await self._ask(ids, 1)
        except RequestFailed as failure:
            raise ValueError(
                f"{self.client.base_url} does not score given text ({failure}): its /completions would have to take "
                f"token ids and echo them with log-probabilities, as vLLM's does; {_INSTEAD}"
            ) from None

    def score(self, trees: Sequence[ReasoningTree], watch: Callable[[int], None] = lambda _: None) -> list[list[float]]:
        """log pi of the finished paths of each tree.

        Raises:
            ValueError: the server failed at a path, after all retries.
        """
        try:
            return self.client.run(self._score_all(trees, watch))
        except RequestFailed as failure:
            raise ValueError(f"{self.name} gave no log-likelihood of a path: {failure}") from None

    async def _score_all(self, trees: Sequence[ReasoningTree], watch: Callable[[int], None]) -> list[list[float]]:
        num_done = 0

        async def one(tree: ReasoningTree) -> list[float]:
            nonlocal num_done
            node_ids = self.tokenizer.node_ids(tree)
            prompt = self.tokenizer.prompt_ids(chat_messages(tree.problem, self.system))
            paths = [[node.id for node in tree.path(leaf.id)] for leaf in finished_paths(tree)]
            rows = [[*prompt, *(token for node in path for token in node_ids[node])] for path in paths]
            scores = await asyncio.gather(*(self._ask(row, len(prompt)) for row in rows))
            num_done += 1
            watch(num_done)
            return list(scores)

        return list(await asyncio.gather(*map(one, trees)))

    async def _ask(self, ids: Sequence[int], num_given: int) -> float:
        """Sum of the log-probabilities of all tokens behind the first `num_given`."""

        def read(answer: Any) -> float:
            found = answer["choices"][0].get("logprobs")
            if not found or not found.get("token_logprobs"):
                raise ValueError("no log-probabilities")
            values = found["token_logprobs"]
            # The one token that had to be generated comes last; some servers leave it out.
            if len(values) not in (len(ids), len(ids) + 1):
                raise ValueError(f"log-probabilities of {len(values)} tokens for a prompt of {len(ids)}")
            return math.fsum(map(float, values[num_given : len(ids)]))

        # One token is generated, as several servers take no limit of 0.
        body = {
            "model": self.model,
            "prompt": list(ids),
            "echo": True,
            "logprobs": 1,
            "max_tokens": 1,
            "temperature": 1.0,
        }
        total, _ = await self.client.post("completions", body, read)
        return total
