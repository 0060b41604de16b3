"""Adapter of ThinkBooster 0.1.1: offline best-of-N and beam search, over an OpenAI-compatible server.

    .peers/thinkbooster/bin/python benchmarks/peers/thinkbooster_runs.py < job.json

Runs in ThinkBooster's own environment and imports nothing of ours but `served`. Its strategies take all problems at
once and go through them in lockstep: all draws of a level, then all scores of a level. Steps of a beam search come from
streams that its client cuts at a boundary.
"""

import logging
import random
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from served import Job, Solved, Verifier, chance, read_job, run
from thinkbooster.early_stopping import BoundaryEarlyStopping
from thinkbooster.generators.api import StepCandidateGeneratorThroughAPI
from thinkbooster.models.blackboxmodel_with_streaming import BlackboxModelWithStreaming
from thinkbooster.step_boundary_detectors.non_thinking.structured import StructuredStepDetector
from thinkbooster.strategies.strategy_beam_search import StrategyBeamSearch
from thinkbooster.strategies.strategy_offline_best_of_n import StrategyOfflineBestOfN

NEVER = "<end of response>"  # its own pattern of an end: our proposer never writes it, and a list may not be empty

BATCH = 16  # texts of one request to the verifier
MOST_STEPS = 6  # of a path; right ones have three
STEP_TOKENS = 100  # it takes no path on that is within 200 tokens of MOST_STEPS times this


class Detector(StructuredStepDetector):  # type: ignore[misc]
    """Steps that end with the task's separator, which stays in the text.

    Its own `extract_step_text` keeps whatever a stream brought behind the separator; here the step ends there.
    """

    def __init__(self, separator: str, max_step_tokens: int) -> None:
        super().__init__(
            step_patterns=[separator],
            answer_patterns=[NEVER],
            eos_patterns=[NEVER],
            min_step_tokens=1,
            max_step_tokens=max_step_tokens,
        )
        self.separator = separator

    def extract_step_text(self, generated_text: str) -> str:
        return first_step(generated_text, self.separator)

    def detect_steps(self, text: str, **_: Any) -> list[str]:
        return split_steps(text, self.separator)

    def get_vllm_stop_tokens(self) -> list[str]:
        return [self.separator]


def first_step(text: str, separator: str) -> str:
    """Up to the first separator, with it."""
    step, found, _ = text.partition(separator)
    return step + found


def split_steps(text: str, separator: str) -> list[str]:
    """Each with its separator, the last one as it is."""
    *whole, last = text.split(separator)
    return [step + separator for step in whole] + ([last] if last else [])


class Scorer:
    """What its strategies take for a process reward model: scores of each trajectory, of which they read the last."""

    prm_model = True

    def __init__(self, verifier: Verifier, in_flight: int) -> None:
        self.verifier = verifier
        self.pool = ThreadPoolExecutor(max(1, in_flight // BATCH))

    def score_trajectories_batch(
        self, chats: Sequence[Any], trajectories: Sequence[Sequence[Any]], **_: Any
    ) -> list[list[float]]:
        """Whole texts so far. Steps are its `StepCandidate` in beam search and plain texts in best-of-N."""
        texts = ["".join(getattr(step, "text", step) for step in steps) for steps in trajectories]
        pairs = [(chat[-1]["content"], text) for chat, text in zip(chats, texts, strict=True)]
        parts = [pairs[start : start + BATCH] for start in range(0, len(pairs), BATCH)]
        return [[chance(logit)] for part in self.pool.map(self.verifier.logits, parts) for logit in part]

    def reset_prm_stats(self) -> None:
        """Nothing is counted here: the server does."""

    def get_prm_stats_for(self, sample_id: Any) -> dict[str, Any]:
        return {"prm_input_tokens": 0, "prm_tflops": 0.0}


def strategy_of(job: Job) -> Any:
    detector = Detector(job.separator, max_step_tokens=STEP_TOKENS)
    model = BlackboxModelWithStreaming(
        openai_api_key="none",
        model_path=job.model,
        base_url=job.proposer_url,
        early_stopping=BoundaryEarlyStopping(detector),
    )
    generator = StepCandidateGeneratorThroughAPI(
        model,
        detector=detector,
        answer_patterns=[NEVER],
        max_new_tokens=job.max_new_tokens,
        temperature=job.temperature,
        top_p=1.0,
        prefill_mode=True,
        supports_logprobs=False,
        max_concurrent_requests=job.in_flight,
    )
    scorer = Scorer(Verifier(job.verifier_url, job.model, job.separator), job.in_flight)
    if job.method == "best-of-n":
        return StrategyOfflineBestOfN(
            scorer, int(job.options["n"]), MOST_STEPS, generator, score_aggregation="last", batch_generation=True
        )
    if job.method == "beam":
        return StrategyBeamSearch(
            generator,
            scorer,
            beam_size=int(job.options["width"]),
            candidates_per_beam=int(job.options["expand"]),
            max_steps=MOST_STEPS,
            aggregation=job.options["aggregation"],
        )
    raise ValueError(f"thinkbooster has no method {job.method!r} here")


def solve_all(job: Job, strategy: Any) -> Iterable[Solved]:
    requests = [[{"role": "user", "content": problem}] for problem in job.problems]
    for place, result in enumerate(strategy.generate_trajectories_batch(requests)):
        yield Solved(place, result["trajectory"])


def main() -> None:
    logging.disable(logging.WARNING)  # it logs every step of every candidate
    job = read_job()
    random.seed(job.seed)
    strategy = strategy_of(job)
    run(job, "thinkbooster", lambda: solve_all(job, strategy))


if __name__ == "__main__":
    main()
