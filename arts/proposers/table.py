"""Draws from the explicit step probabilities of a toy problem: exact, fast, and the same in every batch.

How seeds map to draws: the step below a prefix is chosen by one uniform number, the hash of (seed, problem id, text of
the prefix), set against the cumulative step probabilities. It does not depend on the batch, the order or the token
limit. A whole draw with seed s is therefore the chain of one-step draws with the same s, and a fork that goes on with
the seed of its trunk repeats the trunk: give every fork a seed of its own. This module knows toy trees and no model.
"""

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import accumulate

from arts.protocols import FAILED_DRAW, Proposer, Reply, Request
from arts.tasks.toy import TOKENIZER, ToyTree, toy_tree
from arts.tree import LogPriorLaw, Step, StopReason, Usage


class TableProposer(Proposer):
    """Draws the steps of toy problems.

    Args:
        temperature: steps are drawn with probability proportional to pi_0(step | prefix)^(1/temperature).
        failing_seeds: draws with these seeds fail, for tests. As with a server's outage, this is an accident of a run
            and no setting of the law, so the fingerprint does not hold it.
    """

    batch_invariant = True
    tokenizer_fingerprint: str | None = TOKENIZER

    def __init__(self, *, temperature: float = 1.0, failing_seeds: Collection[int] = ()) -> None:
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature {temperature}; it must be a number above 0")
        self.temperature = temperature
        self.failing_seeds = frozenset(failing_seeds)
        self.log_prior_law: LogPriorLaw = "raw" if temperature == 1.0 else "sampling"
        settings = json.dumps({"proposer": "table", "version": 1, "temperature": float(temperature)})
        self.fingerprint = f"table-{hashlib.sha256(settings.encode()).hexdigest()[:16]}"

    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        return [self._reply(request) for request in requests]

    def _reply(self, request: Request) -> Reply:
        if request.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens {request.max_new_tokens}; it must be at least 1")
        toy = toy_tree(request.problem)
        prefix = "".join(step.text for step in request.prefix)
        start = toy.find(prefix)
        if start is None or not toy.children[start]:
            raise ValueError(
                f"no steps below prefix {prefix[:80]!r} of {request.problem.id!r}; give a path to an inner node"
            )
        draws = tuple(self._draw(toy, request, start, seed) for seed in request.seeds)
        # A prompt has no tokens of its own here; its words stand in for them, so that bills have both parts.
        prompt_tokens = len(request.problem.prompt.split()) + sum(len(step.token_ids) for step in request.prefix)
        generated_tokens = sum(len(step.token_ids) for steps in draws for step in steps)
        return Reply(draws, Usage(prompt_tokens, generated_tokens, requests=1))

    def _draw(self, toy: ToyTree, request: Request, node: int, seed: int) -> tuple[Step, ...]:
        """The steps from `node` down to a leaf, or one step of them.

        A step that the token limit cuts is kept in part. A rollout that the limit ends just behind a separator has
        LENGTH on that step, so that only the last step of a rollout tells whether it was finished.
        """
        if seed in self.failing_seeds:
            return FAILED_DRAW
        steps: list[Step] = []
        tokens_left = request.max_new_tokens
        while True:
            node, log_prior = self._pick(toy, node, f"{seed}\n{request.problem.id}\n{toy.text(node)}")
            step = toy.step(node)._replace(log_prior=log_prior)
            goes_on = request.whole and step.stop is StopReason.STOP
            if len(step.token_ids) + goes_on > tokens_left:  # every token but the last has one character
                cut = step._replace(text=step.text[:tokens_left], token_ids=step.token_ids[:tokens_left])
                return (*steps, cut._replace(stop=StopReason.LENGTH))
            steps.append(step)
            if not goes_on:
                return tuple(steps)
            tokens_left -= len(step.token_ids)

    def _pick(self, toy: ToyTree, node: int, key: str) -> tuple[int, float]:
        """A child of `node` and the log of its probability under p^(1/T) / sum p^(1/T)."""
        children = toy.children[node]
        weights = [toy.probabilities[child] ** (1.0 / self.temperature) for child in children]
        cumulative = list(accumulate(weights))
        # With `right`, a threshold of exactly 0 takes the first child; it is always below the last sum.
        chosen = bisect_right(cumulative, _uniform(key) * cumulative[-1], hi=len(children) - 1)
        return children[chosen], math.log(weights[chosen] / cumulative[-1])


def _uniform(key: str) -> float:
    """A number in [0, 1) that is a fixed function of the key, with the 53 bits a float holds."""
    return (int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 11) / (1 << 53)
