"""One of several processes that tune a model by GRPO together: `accelerate launch ... tests/grpo_processes.py OUT`.

Its draws are fixed, whoever asks for them, so that processes have the same to learn from as one.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from trl import GRPOTrainer

from arts.baselines.grpo import GRPOResult, GRPOSettings, train_grpo
from arts.baselines.runs import join_processes
from arts.build.proposers import proposer_folder
from arts.lm.load import LanguageModel, load_causal_lm
from arts.proposers.hf import HFProposer
from arts.protocols import Request
from arts.tasks.countdown import CountdownTask

SETTINGS = GRPOSettings(
    group_size=4,
    problems_per_update=4,
    max_updates=6,
    num_problems=24,
    validation_problems=4,
    validation_draws=2,
    validate_every=3,
    draws_per_batch=8,
)
TASK = CountdownTask()


def shipped() -> LanguageModel:
    return load_causal_lm(proposer_folder("countdown"))


@cache
def fixed_draws() -> dict[tuple[int, ...], list[list[int]]]:
    """Four solutions of each problem, by the ids of its prompt; the untuned model's."""
    model = shipped()
    proposer = HFProposer(model, step_separator=TASK.step_separator)
    problems = [
        *islice(TASK.problems("train", 0), SETTINGS.num_problems),
        *islice(TASK.problems("validation", 0), SETTINGS.validation_problems),
    ]
    replies = proposer.propose([Request(problem, (), tuple(range(4)), 48) for problem in problems])
    ids = [[[token for step in draw for token in step.token_ids] for draw in reply.draws] for reply in replies]
    return {tuple(model.prompt_ids(one.prompt)): draws for one, draws in zip(problems, ids, strict=True)}


class FixedDraws(GRPOTrainer):  # type: ignore[misc]
    def _generate_single_turn(self, prompt_ids: Sequence[Sequence[int]], *_: Any, **__: Any) -> tuple[Any, None]:
        numbers: Counter[tuple[int, ...]] = Counter()
        draws = []
        for ids in map(tuple, prompt_ids):
            draws.append(fixed_draws()[ids][numbers[ids]])
            numbers[ids] += 1
        return draws, None


def tune(out: Path, settings: GRPOSettings = SETTINGS) -> GRPOResult:
    return train_grpo(shipped(), TASK, settings, out, trainer_class=FixedDraws)


if __name__ == "__main__":
    processes = join_processes("cpu")
    tune(Path(sys.argv[1]))
    with pytest.raises(ValueError, match="holds a run with another learning_rate"):  # on every process
        tune(Path(sys.argv[1]), replace(SETTINGS, learning_rate=1e-3))
    processes.destroy_process_group()
