"""Adapter of its_hub 1.2.0 (`its_hub[lm]`): best-of-N, self-consistency, beam search, particle filtering.

    .peers/its_hub/bin/python benchmarks/peers/its_hub_runs.py < job.json

Runs in its_hub's own environment and imports nothing of ours but `served`. Problems run side by side in one event loop.
its_hub sends all requests of a level of one problem together, so as many problems run at once as fit into `in_flight`.
"""

import asyncio
import logging
import random
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from its_hub import BestOfN, OpenAICompatibleLanguageModel, SelfConsistency, StepGeneration
from its_hub.api import AbstractOutcomeRewardModel, AbstractProcessRewardModel
from its_hub.core.algorithms.beam_search import BeamSearch
from its_hub.core.algorithms.particle_gibbs import ParticleFiltering
from its_hub.core.orchestrator import LMOrchestrator
from served import Job, Solved, Verifier, chance, flow_as_score, read_job, run

SCORES = {"value": chance, "flow": flow_as_score}


class OutcomeReward(AbstractOutcomeRewardModel):  # type: ignore[misc]
    """Finished solutions by the verifier's word on their last token; all of a problem in one request."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier

    def score(self, conversations: Any, **_: Any) -> list[float]:
        pairs = [(one[-2].content, one[-1].content) for one in conversations]
        return [chance(logit) for logit in self.verifier.logits(pairs)]

    async def ascore(self, conversations: Any, orchestrator: Any = None, **_: Any) -> list[float]:
        return await asyncio.to_thread(self.score, conversations)


class ProcessReward(AbstractProcessRewardModel):  # type: ignore[misc]
    """Solutions so far, each as a whole text, as its_hub hands them over."""

    def __init__(self, verifier: Verifier, score: str) -> None:
        self.verifier, self.score_of = verifier, SCORES[score]

    def score(self, prompt: Any, texts: list[str]) -> list[float]:
        problem = prompt if isinstance(prompt, str) else prompt[-1].content
        return [self.score_of(logit) for logit in self.verifier.logits([(problem, text) for text in texts])]

    async def ascore(self, prompt: Any, texts: list[str]) -> list[float]:
        return await asyncio.to_thread(self.score, prompt, texts)


def algorithm_of(job: Job) -> Any:
    """As its_hub's documentation sets them up.

    A path of its step searches ends at `max_steps` or a stop token, never at the end of the text. Every right solution
    has the same number of steps, and the check comes before the step is added, so one less is exactly that many.
    The separator stays in the text (`include_stop_str_in_output`), as the model and the verifier were trained with it.
    """
    verifier = Verifier(job.verifier_url, job.model, job.separator)
    orchestrator = LMOrchestrator(max_concurrency=-1)
    if job.method == "best-of-n":
        return BestOfN(OutcomeReward(verifier), orchestrator=orchestrator)
    if job.method == "self-consistency":
        return SelfConsistency(orchestrator=orchestrator)
    steps = StepGeneration(
        max_steps=job.num_steps - 1,
        step_token=job.separator,
        temperature=job.temperature,
        include_stop_str_in_output=True,
    )
    if job.method == "beam":
        return BeamSearch(steps, ProcessReward(verifier, "value"), beam_width=int(job.options["width"]))
    if job.method == "particle-filter":
        return ParticleFiltering(steps, ProcessReward(verifier, job.options["score"]))
    raise ValueError(f"its_hub has no method {job.method!r} here")


def solve_all(job: Job) -> Iterable[Solved]:
    model = OpenAICompatibleLanguageModel(
        job.proposer_url,
        "none",
        job.model,
        temperature=job.temperature,
        max_completion_tokens=job.max_new_tokens,
    )
    budget = int(job.options["n"])
    algorithm = algorithm_of(job)

    async def all_of_them() -> list[Solved]:
        gate = asyncio.Semaphore(max(1, job.in_flight // budget))

        async def one(place: int, problem: str) -> Solved:
            async with gate:
                chosen = await algorithm.ainfer(model, problem, budget)
            return Solved(place, chosen["content"])

        try:
            return await asyncio.gather(*(one(*numbered) for numbered in enumerate(job.problems)))
        finally:
            await model.close()

    return asyncio.run(all_of_them())


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    job = read_job()
    random.seed(job.seed)
    np.random.seed(job.seed)
    run(job, "its_hub", lambda: solve_all(job))


if __name__ == "__main__":
    main()
