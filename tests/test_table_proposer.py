"""The table proposer draws from the stated probabilities, and a draw depends on its seed, problem and prefix only."""

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest

from arts.proposers.table import TableProposer
from arts.protocols import Proposer, Request
from arts.tasks.toy import TOKENIZER, ToyTree, toy_problem
from arts.tree import Problem, Rollout, Step, StopReason, Usage, build_tree, path_log_prior

TOY = ToyTree.nested(
    {
        "a": (0.5, True),
        "b": (0.3, {"a": (0.2, {"c": (1.0, True)}), "b": (0.8, False)}),
        "c": (0.2, {"a": (0.6, False), "d": (0.4, True)}),
    }
)
PROBLEM = toy_problem(TOY)
NUM_DRAWS = 5000
# 99.9% points of the chi-square law, by degrees of freedom. Seeds are fixed, so a test passes always or never.
CHI_SQUARE_999 = {1: 10.83, 2: 13.82, 4: 18.47, 26: 54.05}


def request(
    seeds: Iterable[int] = (0,),
    *,
    problem: Problem = PROBLEM,
    prefix: tuple[Step, ...] = (),
    max_new_tokens: int = 100,
    whole: bool = True,
) -> Request:
    return Request(problem, prefix, tuple(seeds), max_new_tokens, whole)


def prefix_of(text: str) -> tuple[Step, ...]:
    node = TOY.find(text)
    assert node is not None
    return tuple(TOY.step(step) for step in TOY.path(node))


def text_of(steps: Iterable[Step]) -> str:
    return "".join(step.text for step in steps)


def draw(proposer: Proposer, asked: Request) -> list[tuple[Step, ...]]:
    return list(proposer.propose([asked])[0].draws)


def chi_square(counts: Counter[str], law: dict[str, float]) -> float:
    assert set(counts) <= set(law)
    total = sum(counts.values())
    return sum((counts[text] - total * p) ** 2 / (total * p) for text, p in law.items())


def tempered_path_law(toy: ToyTree, temperature: float) -> dict[str, float]:
    """Product over steps of p^(1/T) / sum over siblings of p^(1/T): written again here, apart from the proposer."""
    law = {}
    for leaf in toy.leaves:
        probability = 1.0
        for node in toy.path(leaf):
            siblings = toy.children[toy.parents[node]]
            total = sum(toy.probabilities[sibling] ** (1 / temperature) for sibling in siblings)
            probability *= toy.probabilities[node] ** (1 / temperature) / total
        law[toy.text(leaf)] = probability
    return law


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_rollouts_follow_the_tempered_law(temperature: float) -> None:
    draws = draw(TableProposer(temperature=temperature), request(range(NUM_DRAWS)))
    law = tempered_path_law(TOY, temperature)
    assert sum(law.values()) == pytest.approx(1.0)
    assert chi_square(Counter(map(text_of, draws)), law) < CHI_SQUARE_999[len(law) - 1]
    if temperature != 1.0:  # the test can tell the laws apart
        assert chi_square(Counter(map(text_of, draws)), tempered_path_law(TOY, 1.0)) > 10 * CHI_SQUARE_999[4]


def test_rollouts_of_a_random_problem_follow_its_exact_law() -> None:
    toy = ToyTree.random(3, 3, 3)
    draws = draw(TableProposer(), request(range(NUM_DRAWS), problem=Problem("any id", "toy 3x3 seed 3")))
    law = {toy.text(leaf): float(p) for leaf, p in zip(toy.leaves, toy.prior_law(), strict=True)}
    assert chi_square(Counter(map(text_of, draws)), law) < CHI_SQUARE_999[26]


def test_single_steps_follow_the_law_below_their_prefix() -> None:
    for prefix, law in [("", {"a": 0.5, "b;": 0.3, "c;": 0.2}), ("c;", {"a": 0.6, "d": 0.4})]:
        draws = draw(TableProposer(), request(range(NUM_DRAWS), prefix=prefix_of(prefix), whole=False))
        assert all(len(steps) == 1 for steps in draws)
        assert chi_square(Counter(map(text_of, draws)), law) < CHI_SQUARE_999[len(law) - 1]


def test_draws_of_different_seeds_prefixes_and_problems_are_independent() -> None:
    """Pairs of one-step draws must follow the product law: neighbouring seeds, two prefixes, two problems."""
    proposer, seeds = TableProposer(), range(NUM_DRAWS)
    other = Problem("another id", PROBLEM.prompt, PROBLEM.metadata)
    at_c = [text_of(steps) for steps in draw(proposer, request(seeds, prefix=prefix_of("c;"), whole=False))]
    at_b = [text_of(steps) for steps in draw(proposer, request(seeds, prefix=prefix_of("b;"), whole=False))]
    elsewhere = draw(proposer, request(seeds, problem=other, prefix=prefix_of("c;"), whole=False))
    for one, two in [
        (at_c[::2], at_c[1::2]),
        (at_c, at_b),
        (at_c, [text_of(steps) for steps in elsewhere]),
    ]:
        first, second = np.array(one) == "a", np.array([text in ("a", "a;") for text in two])
        assert abs(np.corrcoef(first, second)[0, 1]) < 3.3 / math.sqrt(len(first))


def test_draws_do_not_depend_on_batch_order_or_company() -> None:
    proposer = TableProposer()
    asked = [
        request(range(20)),
        request(range(5), prefix=prefix_of("b;")),
        request([3, 1], prefix=prefix_of("c;"), whole=False),
        request(range(20), problem=Problem("x", "toy 4x2 rare seed 5")),
    ]
    together = proposer.propose(asked)
    assert [reply.draws for reply in reversed(proposer.propose(asked[::-1]))] == [reply.draws for reply in together]
    for one, reply in zip(asked, together, strict=True):
        for seed, steps in zip(one.seeds, reply.draws, strict=True):
            alone = request([seed], problem=one.problem, prefix=one.prefix, whole=one.whole)
            assert draw(TableProposer(), alone) == [steps]


def test_a_whole_draw_is_the_chain_of_one_step_draws_with_its_seed() -> None:
    proposer = TableProposer(temperature=0.7)
    for seed in range(30):
        whole = draw(proposer, request([seed]))[0]
        chain: tuple[Step, ...] = ()
        while not chain or chain[-1].stop is StopReason.STOP:
            chain += draw(proposer, request([seed], prefix=chain, whole=False))[0]
        assert chain == whole


def test_log_priors_name_their_law() -> None:
    plain, cool = TableProposer(), TableProposer(temperature=0.5)
    assert (plain.log_prior_law, cool.log_prior_law) == ("raw", "sampling")
    for proposer, temperature in [(plain, 1.0), (cool, 0.5)]:
        law = tempered_path_law(TOY, temperature)
        rollouts = [Rollout(i, i, 0, steps) for i, steps in enumerate(draw(proposer, request(range(50))))]
        tree = build_tree(PROBLEM, rollouts)
        assert len(tree.leaves()) >= 4
        for leaf in tree.leaves():
            assert path_log_prior(tree.path(leaf.id)) == pytest.approx(math.log(law[tree.text(leaf.id)]))


def test_mean_flow_of_drawn_trees_estimates_the_exact_value() -> None:
    draws = draw(TableProposer(), request(range(NUM_DRAWS)))
    tree = build_tree(PROBLEM, [Rollout(index, index, 0, steps) for index, steps in enumerate(draws)])
    flows, num_leaves = TOY.observed(tree)
    for node in tree.nodes:
        exact = TOY.values[TOY.find(tree.text(node.id))]
        assert flows[node.id] / num_leaves[node.id] == pytest.approx(exact, abs=4 * 5 / math.sqrt(num_leaves[node.id]))


def test_a_path_over_the_token_limit_is_cut_and_unfinished() -> None:
    proposer = TableProposer()
    seed = next(seed for seed in range(1000) if text_of(draw(proposer, request([seed]))[0]) == "b;a;c")
    whole = draw(proposer, request([seed]))[0]
    assert [step.stop for step in whole] == [StopReason.STOP, StopReason.STOP, StopReason.EOS]
    assert [len(step.token_ids) for step in whole] == [2, 2, 2]
    for limit, text in enumerate(["b", "b;", "b;a", "b;a;", "b;a;c"], start=1):
        reply = proposer.propose([request([seed], max_new_tokens=limit)])[0]
        cut = reply.draws[0]
        assert text_of(cut) == text
        assert cut[-1].stop is StopReason.LENGTH  # at 5 tokens the end of sequence is missing: still no answer
        assert all(step.stop is StopReason.STOP for step in cut[:-1])
        assert all(step.token_ids for step in cut)  # no empty step behind a separator
        assert sum(len(step.token_ids) for step in cut) == reply.usage.generated_tokens == limit
    assert draw(proposer, request([seed], max_new_tokens=6))[0] == whole


def test_one_step_within_its_limit_is_not_cut() -> None:
    proposer = TableProposer()
    seed = next(seed for seed in range(100) if text_of(draw(proposer, request([seed], whole=False))[0]) == "b;")
    assert draw(proposer, request([seed], whole=False, max_new_tokens=2))[0] == (TOY.step(2),)
    assert draw(proposer, request([seed], whole=False, max_new_tokens=1))[0][0].stop is StopReason.LENGTH


def test_failing_seeds_give_error_steps_and_leave_the_other_draws_alone() -> None:
    sound, faulty = TableProposer(), TableProposer(failing_seeds=[1, 3])
    reply = faulty.propose([request(range(5))])[0]
    whole = draw(sound, request(range(5)))
    for seed, steps in enumerate(reply.draws):
        if seed in (1, 3):
            assert steps == (Step("", (), None, StopReason.ERROR),)
        else:
            assert steps == whole[seed]
    assert reply.usage.generated_tokens == sum(len(step.token_ids) for i in (0, 2, 4) for step in whole[i])
    assert faulty.fingerprint == sound.fingerprint  # an accident of the run, so a resumed run may use the sound one


def test_usage_counts_prompt_once_a_request_and_every_generated_token() -> None:
    replies = TableProposer().propose([request(range(7)), request([0, 1], prefix=prefix_of("b;"), whole=False)])
    for reply, prompt_tokens in zip(
        replies, [3, 3 + 2], strict=True
    ):  # `toy explicit 1a2b..` and one step of two tokens
        generated = sum(len(step.token_ids) for steps in reply.draws for step in steps)
        assert reply.usage == Usage(prompt_tokens, generated, 1)
    assert replies[1].usage.generated_tokens == 4


def test_fingerprints_name_the_settings() -> None:
    proposer = TableProposer()
    assert proposer.fingerprint == TableProposer(temperature=1).fingerprint
    assert proposer.fingerprint != TableProposer(temperature=0.9).fingerprint
    assert proposer.batch_invariant
    assert proposer.tokenizer_fingerprint == TOKENIZER


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (request(prefix=(TOY.step(1),)), "give a path to an inner node"),
        (request(prefix=(Step("z;", (25, 26), 0.0, StopReason.STOP),)), "give a path to an inner node"),
        (request(max_new_tokens=0), "at least 1"),
        (request(problem=Problem("p", "3 5 > 8")), "not a toy problem"),
    ],
)
def test_impossible_requests_are_refused(asked: Request, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TableProposer().propose([asked])


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_impossible_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        TableProposer(temperature=temperature)
