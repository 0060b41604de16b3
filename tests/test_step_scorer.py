"""Scores while a tree grows: equal to those of whole paths, every token computed once, the cache within its bounds."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import save_gpt2, save_llama
from tiny_verifier import build_verifier, letter_step, letter_trees, save_backbone

from arts.lm.node_cache import CachedNode, NodeCache
from arts.protocols import ScoreRequest
from arts.tree import Node, Problem, ReasoningTree, Step, StopReason
from arts.verifier.model import FlowVerifier
from arts.verifier.scorer import FlowScorer
from arts.verifier.step_scorer import CachedFlowScorer

TREES = letter_trees(4, seed=3)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def exact(base: Path) -> FlowVerifier:
    """In float64, where equal means equal."""
    return build_verifier(base, dtype=torch.float64)


def asks(trees: Sequence[ReasoningTree], *, num_new: int = 1) -> list[tuple[int, int, ScoreRequest]]:
    """One request a node, or one for several nodes at the end of each leaf's path."""
    found = []
    for index, tree in enumerate(trees):
        for node in tree.nodes if num_new == 1 else tree.leaves():
            steps = tuple(
                Step(one.text, one.token_ids, one.log_prior, one.stop)
                for one in tree.path(node.id)
                if one.stop is not None
            )
            found.append((index, node.id, ScoreRequest(tree.problem, steps, min(num_new, len(steps)) or 1)))
    return found


def distinct_tokens(verifier: FlowVerifier, trees: Sequence[ReasoningTree]) -> int:
    return sum(len(ids) for tree in trees for ids in verifier.node_token_ids(tree))


def path_tokens(verifier: FlowVerifier, trees: Sequence[ReasoningTree]) -> int:
    """What scoring every node by its whole path would compute."""
    total = 0
    for tree in trees:
        ids = verifier.node_token_ids(tree)
        total += sum(len(ids[0]) + sum(len(ids[one.id]) for one in tree.path(node.id)) for node in tree.nodes)
    return total


def expected(verifier: FlowVerifier) -> list[list[float]]:
    return [[float(node.log_flow or 0.0) for node in tree.nodes] for tree in FlowScorer(verifier).score(TREES).trees]


# --- scores -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6), capacity=st.sampled_from([60, 100, 4096]), batch_tokens=st.sampled_from([1, 30, 8192])
)
def test_any_order_and_any_batches_give_the_scores_of_whole_trees(
    exact: FlowVerifier, seed: int, capacity: int, batch_tokens: int
) -> None:
    scorer = CachedFlowScorer(exact, capacity=capacity, batch_tokens=batch_tokens)
    rng = random.Random(seed)
    wanted = asks(TREES)
    rng.shuffle(wanted)
    whole = expected(exact)
    while wanted:
        count = rng.randint(1, 7)
        batch, wanted = wanted[:count], wanted[count:]
        for (tree, node, _), reply in zip(batch, scorer.score_steps([ask for *_, ask in batch]), strict=True):
            assert reply.log_scores == pytest.approx((whole[tree][node],), abs=1e-9)
    assert scorer.cache.pool.num_free == capacity - held(scorer.cache)


def held(cache: NodeCache) -> int:
    """Tokens of nodes whose keys and values are there, which nothing else may hold."""
    stack: list[CachedNode] = list(cache.roots.values())
    slots: list[int] = []
    while stack:
        node = stack.pop()
        stack.extend(node.children.values())
        if node.slots is not None:
            assert node.parent is None or node.parent.slots is not None
            slots += node.slots.tolist()
    assert len(set(slots)) == len(slots) and 0 not in slots
    return len(slots)


@pytest.mark.parametrize("num_new", [2, 3])
def test_several_new_steps_of_a_path_are_scored_together(exact: FlowVerifier, num_new: int) -> None:
    wanted = asks(TREES, num_new=num_new)
    replies = CachedFlowScorer(exact).score_steps([ask for *_, ask in wanted])
    whole = expected(exact)
    for (index, leaf, ask), reply in zip(wanted, replies, strict=True):
        path = [node.id for node in TREES[index].path(leaf)][-ask.num_new :]
        assert reply.log_scores == pytest.approx([whole[index][node] for node in path], abs=1e-9)


@pytest.mark.parametrize("save", [save_gpt2, save_llama])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_other_architectures_and_adapters_agree(save: Callable[[Path], Path], tuning: str, tmp_path: Path) -> None:
    if save is save_gpt2 and tuning == "lora":
        pytest.skip("GPT-2's projections have other names than LORA_TARGETS")
    verifier = build_verifier(save(tmp_path / "model"), tuning=tuning)
    wanted = asks(TREES)
    replies = CachedFlowScorer(verifier, batch_tokens=40).score_steps([ask for *_, ask in wanted])
    whole = expected(verifier)
    for (index, node, _), reply in zip(wanted, replies, strict=True):
        assert reply.log_scores == pytest.approx((whole[index][node],), abs=1e-4)


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_every_token_goes_through_the_backbone_once(exact: FlowVerifier) -> None:
    seen: Counter[str] = Counter()
    hook = exact.backbone.embed_tokens.register_forward_hook(  # type: ignore[union-attr, operator]
        lambda module, args, output: seen.update(tokens=args[0].numel())
    )
    scorer = CachedFlowScorer(exact)
    bill = 0
    for *_, ask in asks(TREES):
        bill += scorer.score_steps([ask])[0].computed_tokens
    hook.remove()
    assert seen["tokens"] == bill == scorer.cache.computed_tokens == distinct_tokens(exact, TREES)
    assert scorer.cache.dropped_tokens == 0
    assert path_tokens(exact, TREES) > 1.5 * bill
    again = scorer.score_steps([ask for *_, ask in asks(TREES)])
    assert {reply.computed_tokens for reply in again} == {0}


def test_a_small_cache_computes_dropped_steps_again_and_says_so(exact: FlowVerifier) -> None:
    scorer = CachedFlowScorer(exact, capacity=60)
    for *_, ask in asks(TREES):
        scorer.score_steps([ask])
    first = scorer.cache.computed_tokens
    assert first >= distinct_tokens(exact, TREES)
    deeper = [ScoreRequest(ask.problem, (*ask.steps, letter_step("b", last=True))) for *_, ask in asks(TREES)[:5]]
    replies = [scorer.score_steps([ask])[0] for ask in deeper]
    assert scorer.cache.dropped_tokens >= scorer.cache.computed_tokens - 60
    assert sum(reply.computed_tokens for reply in replies) == scorer.cache.computed_tokens - first
    large = CachedFlowScorer(exact).score_steps(deeper)
    assert [reply.log_scores for reply in replies] == [pytest.approx(reply.log_scores, abs=1e-9) for reply in large]


def test_leaves_go_first_and_the_least_recently_used_of_them() -> None:
    cache = NodeCache(10)
    first, second = cache.path([[1, 2, 3], [4, 5]]), cache.path([[1, 2, 3], [6, 7]])
    cache.bring_in([first])
    cache.bring_in([second])
    cache.touch(first)
    third = cache.path([[1, 2, 3], [8, 9, 10, 11]])
    cache.bring_in([third])  # 3 + 2 + 2 + 4 = 11 > 10: the second path's end goes, though the prompt came before it
    assert [path[-1].slots is not None for path in (first, second, third)] == [True, False, True]
    assert cache.dropped_tokens == 2 and cache.computed_tokens == 11
    cache.bring_in([second])  # a path that somebody still holds comes back, and is the one that is found
    assert cache.computed_tokens == 13 and cache.path([[1, 2, 3], [6, 7]])[-1] is second[-1]


def test_runs_see_what_lies_above_them() -> None:
    cache = NodeCache(20)
    path = cache.path([[1, 2], [], [3], [4, 5]])
    runs = cache.bring_in([path])
    assert [node for node, _ in runs] == [path[0], path[2], path[3]]  # a node without tokens has nothing to compute
    slots = np.concatenate([node.slots for node in path if node.slots is not None])
    for (_, run), start in zip(runs, (0, 2, 3), strict=True):
        assert run.above.tolist() == slots[:start].tolist()


# --- what is refused, and odd steps -----------------------------------------------------------------------------------


def test_a_step_without_tokens_has_the_score_of_the_step_above(exact: FlowVerifier) -> None:
    steps = (letter_step("a", last=False), Step("", (), None, StopReason.STOP), letter_step("b", last=True))
    problem = Problem("odd", "letters odd")
    replies = CachedFlowScorer(exact).score_steps([ScoreRequest(problem, steps, 3), ScoreRequest(problem, steps[:1])])
    assert replies[0].log_scores[0] == replies[0].log_scores[1] == replies[1].log_scores[0]
    nodes = (Node(id=0, parent=-1), *(Node(id=i, parent=i - 1, **step._asdict()) for i, step in enumerate(steps, 1)))
    (tree,) = FlowScorer(exact).score([ReasoningTree(problem=problem, nodes=nodes)]).trees
    assert replies[0].log_scores[2] == pytest.approx(tree.nodes[3].log_flow, abs=1e-9)


def test_paths_beyond_the_context_or_the_cache_are_refused_in_words(exact: FlowVerifier) -> None:
    long = ScoreRequest(Problem("long", "letters " + "a" * 130), ())
    with pytest.raises(ValueError, match=r"problem 'long': a path takes \d+ tokens and the verifier's context is 128"):
        CachedFlowScorer(exact).score_steps([long])
    with pytest.raises(ValueError, match=r"more tokens do not fit into a cache of 8 tokens"):
        CachedFlowScorer(exact, capacity=8).score_steps([asks(TREES)[0][2]])


def test_attention_that_cannot_be_exchanged_is_refused(base: Path) -> None:
    verifier = build_verifier(base)
    verifier.backbone.set_attn_implementation("eager")  # type: ignore[operator]
    with pytest.raises(ValueError, match="uses attention that cannot be exchanged"):
        CachedFlowScorer(verifier)


def test_nothing_asked_nothing_done(exact: FlowVerifier) -> None:
    scorer = CachedFlowScorer(exact)
    assert scorer.score_steps([]) == [] and scorer.cache.computed_tokens == 0
