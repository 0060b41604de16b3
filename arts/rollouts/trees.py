"""The samples of one problem as a tree: cut into steps, equal steps merged, judged. Knows no file and no collection.

Their tokens are not known (four characters count as one), and neither are log-priors.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from arts.rollouts.records import Record, Sample
from arts.tasks.answers import find_answer
from arts.tasks.checks import Checker
from arts.tasks.math_answer import answer_key, check_math
from arts.text_steps import LONGEST_STEP, cut_steps
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, Usage, Verdict, build_tree

_LEAST_SCORE = 1e-6  # whose logarithm stands for a score of 0


def tree_of(
    record: Record, samples: Sequence[Sample], *, max_step_chars: int = LONGEST_STEP, checker: Checker | None = None
) -> tuple[ReasoningTree, int]:
    """The tree of one problem, equal steps merged; its main trajectories are the draws.

    Step scores become log-flows: those of steps that are cut where they were, else the last one at the end.

    Returns:
        The tree, and how many draws have the text of another one but a different label.
    """
    problem = Problem(record.problem_id, record.prompt, _metadata(record))
    rollouts = [Rollout(index, index, 0, _steps(sample, max_step_chars)) for index, sample in enumerate(samples)]
    usage = Usage(
        prompt_tokens=-(-len(record.prompt) // 4) * len(samples),
        generated_tokens=sum(step.num_tokens for rollout in rollouts for step in rollout.steps),
        requests=len(samples),
        estimated_requests=len(samples),
    )
    tree = build_tree(problem, rollouts, usage=usage)
    nodes, conflicts = list(tree.nodes), 0
    for sample, leaf in zip(samples, tree.trunks, strict=True):
        path = [node.id for node in tree.path(leaf)]
        for node_id, log_score in zip(reversed(path), _log_scores(sample, len(path)), strict=False):
            nodes[node_id] = replace(nodes[node_id], log_flow=log_score)
        if nodes[leaf].is_answer:
            verdict = _verdict(record, sample, checker)
            there = nodes[leaf].verdict
            conflicts += there is not None and there.correct != verdict.correct
            nodes[leaf] = replace(nodes[leaf], verdict=there or verdict)
    trunks = tuple(leaf for sample, leaf in zip(samples, tree.trunks, strict=True) if sample.is_draw)
    return replace(tree, nodes=tuple(nodes), trunks=trunks), conflicts


def _metadata(record: Record) -> dict[str, Any]:
    return {**record.metadata, **({} if record.gold is None else {"answer": record.gold})}


def _steps(sample: Sample, max_step_chars: int) -> tuple[Step, ...]:
    texts = list(sample.steps) or _scored_steps(sample) or cut_steps(sample.text, max_chars=max_step_chars) or [""]
    last = StopReason.STOP if not sample.is_draw else StopReason.EOS if sample.is_finished else StopReason.LENGTH
    stops = [StopReason.STOP] * (len(texts) - 1) + [last]
    return tuple(Step(text, (), None, stop) for text, stop in zip(texts, stops, strict=True))


def _scored_steps(sample: Sample) -> list[str]:
    """The steps between blank lines, where there is a score for each of them."""
    steps = (
        cut_steps(sample.text, style="paragraphs", max_chars=len(sample.text)) if len(sample.step_scores) > 1 else []
    )
    return steps if len(steps) == len(sample.step_scores) else []


def _log_scores(sample: Sample, num_steps: int) -> list[float]:
    """From the last step upwards."""
    scores = sample.step_scores if len(sample.step_scores) == num_steps else sample.step_scores[-1:]
    return [math.log(max(score, _LEAST_SCORE)) for score in reversed(scores)]


def _verdict(record: Record, sample: Sample, checker: Checker | None) -> Verdict:
    """The checker's word, else the file's label, else the comparison with the gold answer."""
    if checker is not None and record.gold is not None:
        return checker.judge(record.prompt, record.gold, sample.text)
    answer = sample.answer if sample.answer is not None else find_answer(sample.text)
    if sample.correct is None:
        assert record.gold is not None  # others were left out
        return check_math(record.gold, answer)
    return Verdict(sample.correct, None if answer is None else answer_key(answer), "" if sample.correct else "label")
