"""What is true of draws of the shipped model, by the same weights in this process: log-priors, laws, whole trees."""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch

from arts.evaluate.metrics import Estimate, paired_bootstrap, read_draws
from arts.lm.load import LanguageModel
from arts.models import shipped_folder
from arts.protocols import Proposer, Request
from arts.tasks.countdown import CountdownTask, legal_moves, step_text
from arts.tree import ReasoningTree, Step, StopReason, Usage

FOLDER = shipped_folder("countdown-proposer")
TASK = CountdownTask()
PROBLEM = TASK.parse("6 11 14 15 > 24")
FIRST = "14-11=3|3 6 15;"  # a first step, and the numbers that it leaves
LEFT = (3, 6, 15)


@torch.inference_mode()
def exact_log_priors(
    model: LanguageModel, prefix: Sequence[int], steps: Sequence[Sequence[int]], temperature: float = 1.0
) -> list[float]:
    """Log-probability of each step, going on from the problem and the same prefix, in float64."""
    start = [*model.prompt_ids(PROBLEM.prompt), *prefix]
    longest = max(map(len, steps))
    ids_BT = torch.tensor([[*start, *step, *[0] * (longest - len(step))] for step in steps])
    logits = model.model(input_ids=ids_BT).logits[:, len(start) - 1 : -1]  # padding behind a step changes nothing in it
    log_probs = torch.log_softmax(logits / temperature, dim=-1)
    drawn = log_probs.gather(2, ids_BT[:, len(start) :, None])[..., 0]
    return [float(row[: len(step)].sum()) for row, step in zip(drawn, steps, strict=True)]


def ids_of(model: LanguageModel, text: str) -> tuple[int, ...]:
    return tuple(model.tokenizer(text)["input_ids"])


def first_step(model: LanguageModel) -> Step:
    return Step(FIRST, ids_of(model, FIRST), None, StopReason.STOP)


def chi_square(
    model: LanguageModel, drawn: Sequence[Step], prefix: tuple[Step, ...], numbers: tuple[int, ...]
) -> tuple[float, int, float]:
    """Goodness of fit of drawn steps to the exact law: the statistic, its degrees of freedom, its p-value.

    A class for each legal move that is expected five times or more; all else, wrong steps among it, is one class. They
    are chosen without a look at the draws.
    """
    texts = sorted({step_text(move, state) + TASK.step_separator for move, state in legal_moves(sorted(numbers))})
    above = [token for step in prefix for token in step.token_ids]
    ids = [ids_of(model, text) for text in texts]
    chance = np.exp(exact_log_priors(model, above, ids))
    kept = chance * len(drawn) >= 5
    counts = Counter(step.token_ids for step in drawn)
    seen = np.array([counts[one] for one in ids])[kept]
    expected = np.append(chance[kept], 1 - chance[kept].sum()) * len(drawn)
    if expected[-1] < 5:  # too few to be a class of their own
        expected = np.append(expected[:-2], expected[-2:].sum())
        seen = seen[:-1]
    seen = np.append(seen, len(drawn) - seen.sum())
    statistic, freedom = float(((seen - expected) ** 2 / expected).sum()), len(seen) - 1
    p_value = torch.special.gammaincc(*torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64))
    return statistic, freedom, float(p_value)


def seeds_of(name: str, count: int) -> tuple[int, ...]:
    rng = random.Random(name)
    return tuple(rng.getrandbits(63) for _ in range(count))


def one_step(
    proposer: Proposer, prefix: tuple[Step, ...], seeds: Sequence[int], *, max_new_tokens: int = 48
) -> list[Step]:
    (reply,) = proposer.propose([Request(PROBLEM, prefix, tuple(seeds), max_new_tokens, whole=False)])
    assert not reply.failure
    return [draw[0] for draw in reply.draws]


def whole(proposer: Proposer, seeds: Sequence[int]) -> tuple[tuple[Step, ...], ...]:
    (reply,) = proposer.propose([Request(PROBLEM, (), tuple(seeds), 48)])
    assert not reply.failure
    return reply.draws


def check_log_priors(proposer: Proposer, model: LanguageModel, temperature: float) -> float:
    """Every step of 64 draws, whole ones and single steps below the first; the largest difference."""
    first = first_step(model)
    differences = []
    for draw in whole(proposer, seeds_of("log-priors", 48)):
        ends = [0, *accumulate(len(step.token_ids) for step in draw)]
        ids = [token for step in draw for token in step.token_ids]
        assert draw[-1].stop is StopReason.EOS
        for step, (start, _) in zip(draw, pairwise(ends), strict=True):
            (exact,) = exact_log_priors(model, ids[:start], [step.token_ids], temperature)
            differences.append(abs(step.log_prior - exact))
    steps = one_step(proposer, (first,), seeds_of("below", 16))
    exact = exact_log_priors(model, first.token_ids, [step.token_ids for step in steps], temperature)
    differences += [abs(step.log_prior - one) for step, one in zip(steps, exact, strict=True)]
    assert max(differences) < 1e-3
    return max(differences)


def texts(draw: Sequence[Step]) -> tuple[str, ...]:
    return tuple(step.text for step in draw)


def share_right(trees: Sequence[ReasoningTree]) -> Estimate:
    """Of the main trajectories, with an interval over problems."""
    draws = read_draws(trees)
    return paired_bootstrap(len(trees), 0)(draws.correct_PN.mean(axis=1), np.ones(len(trees)))


def overlap(one: Estimate, other: Estimate) -> bool:
    return one.low <= other.high and other.low <= one.high


def shown(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def check_trees(trees: Sequence[ReasoningTree], model: LanguageModel, num_samples: int, *, with_ids: bool) -> None:
    """Nothing failed, nothing is missing, and each text is that of its ids."""
    for tree in trees:
        assert len(tree.trunks) == num_samples
        parents = {node.parent for node in tree.nodes}
        for node in tree.nodes[1:]:
            assert node.stop in ((StopReason.EOS, StopReason.LENGTH) if node.id not in parents else (StopReason.STOP,))
            assert bool(node.token_ids) == (node.log_prior is not None) == with_ids
            if node.is_answer:
                assert node.verdict == TASK.judge(tree.problem, tree.text(node.id))
            if with_ids:
                ids = [token for one in tree.path(node.id) for token in one.token_ids]
                assert model.tokenizer.decode(ids, skip_special_tokens=True) == tree.text(node.id)


def sum_usage(usages: Sequence[Usage]) -> Usage:
    whole = Usage()
    for usage in usages:
        whole = whole.plus(usage)
    return whole
