"""The local-model proposer against a plain full forward: no cache, no padding, no batch.

Tiny random models of three architectures and tokenizers; see tests/tiny_models.py.
"""

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import CONTEXT

from arts.lm.decode import CacheDecoder, PoolDecoder
from arts.lm.load import LanguageModel, load_causal_lm
from arts.proposers import hf, steps
from arts.proposers.hf import HFProposer, Sampling, random_numbers
from arts.protocols import Reply, Request
from arts.tree import Problem, Rollout, Step, StopReason, Usage, Verdict, build_tree

NAMES = ["qwen2", "gpt2", "llama"]
COOL = Sampling(temperature=0.6, top_p=0.9)
STOP, EOS, LENGTH, ERROR = StopReason.STOP, StopReason.EOS, StopReason.LENGTH, StopReason.ERROR
Law = dict[int, float]
"token id -> log-probability; tokens that cannot be drawn are left out"


@dataclass
class Tiny:
    """A tiny model with what the tests need to know about it."""

    name: str
    language_model: LanguageModel

    @property
    def separator(self) -> str:
        return ";" if self.name == "qwen2" else "\n\n"

    def proposer(self, sampling: Sampling | None = None, **options: Any) -> HFProposer:
        return HFProposer(self.language_model, step_separator=self.separator, sampling=sampling, **options)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Written again here: a chat template that adds a newline, nothing, or a first token."""
        tokenizer = self.language_model.tokenizer
        plain = tokenizer.encode(prompt + "\n" * (self.name == "qwen2"), add_special_tokens=False)
        return [1, *plain] if self.name == "llama" else plain

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.language_model.tokenizer.decode(ids, skip_special_tokens=True))

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Of every token given the ones before it, from one forward of the whole sequence."""
        output = self.language_model.model(input_ids=torch.tensor([list(ids)]), use_cache=False)
        return output.logits[0].double().numpy()

    def laws(self, request: Request, drawn: Sequence[int], sampling: Sampling) -> list[Law]:
        """The law that each drawn token was drawn from."""
        before = self.prompt_ids(request.problem.prompt) + [id for step in request.prefix for id in step.token_ids]
        rows = self.logits([*before, *drawn])[len(before) - 1 : -1]
        return [slow_law(row, sampling.temperature, sampling.top_p) for row in rows]


def slow_law(logits: np.ndarray, temperature: float, top_p: float) -> Law:
    """softmax(logits / T), cut to the fewest likeliest tokens whose mass reaches top_p, renormalised."""
    weights = np.exp((logits - logits.max()) / temperature)
    law = weights / weights.sum()
    kept: list[int] = []
    mass = 0.0
    for token in np.argsort(-law).tolist():
        if mass >= top_p:
            break
        kept.append(token)
        mass += float(law[token])
    return {token: math.log(law[token] / mass) for token in kept if law[token] > 0}


@pytest.fixture(params=NAMES)
def tiny(request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path]) -> Tiny:
    return load(request.param, tiny_folder)


@cache
def load(name: str, tiny_folder: Callable[[str], Path], dtype: torch.dtype = torch.float64) -> Tiny:
    return Tiny(name, load_causal_lm(tiny_folder(name), dtype=dtype))


def ask(
    prompt: str = "abc",
    seeds: Sequence[int] = tuple(range(8)),
    *,
    prefix: Sequence[Step] = (),
    max_new_tokens: int = 12,
    whole: bool = True,
) -> Request:
    return Request(Problem(prompt, prompt), tuple(prefix), tuple(seeds), max_new_tokens, whole)


def ids_of(steps: Sequence[Step]) -> list[int]:
    return [id for step in steps for id in step.token_ids]


def some_requests(proposer: HFProposer) -> list[Request]:
    """Prompts and prefixes of different lengths; the prefixes are steps drawn before, at temperature 1."""
    plain = HFProposer(proposer.language_model, step_separator=proposer.splitter.separator)
    drawn = [draw for draw in plain.propose([ask("c", range(50))])[0].draws if len(draw) > 1]
    drawn.sort(key=lambda draw: len(ids_of(draw[:-1])))
    return [
        ask("abc", range(7)),
        ask("a", range(6)),
        ask("cb a b a a a", range(7)),
        ask("c", [7, 8, 9], prefix=drawn[0][:1]),
        ask("c", [7, 8, 9], prefix=drawn[-1][:-1], whole=False),
    ]


# --- probabilities ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampling", "law", "dtype"),
    [
        (Sampling(), Sampling(), torch.float64),
        (Sampling(), Sampling(), torch.float32),
        (COOL, COOL, torch.float64),
        (COOL, COOL, torch.float32),
        (replace(COOL, log_prior_law="raw"), Sampling(), torch.float64),
        (Sampling(temperature=1.7), Sampling(temperature=1.7), torch.float64),
        (Sampling(top_p=0.5), Sampling(top_p=0.5), torch.float64),
    ],
    ids=["raw", "raw float32", "cool", "cool float32", "raw of cool draws", "hot", "nucleus"],
)
def test_log_priors_equal_a_full_forward(
    tiny: Tiny,
    sampling: Sampling,
    law: Sampling,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    tiny_folder: Callable[[str], Path],
) -> None:
    tiny = load(tiny.name, tiny_folder, dtype)
    proposer = tiny.proposer(sampling)
    assert proposer.log_prior_law == ("raw" if law == Sampling() else "sampling")
    requests = some_requests(proposer)
    rounded = proposer.propose(requests)
    monkeypatch.setattr(steps, "round", lambda value, digits: value, raising=False)
    precision = 1e-9 if dtype == torch.float64 else 1e-5  # a token
    num_steps = 0
    for request, reply, reply_rounded in zip(requests, proposer.propose(requests), rounded, strict=True):
        for draw, draw_rounded in zip(reply.draws, reply_rounded.draws, strict=True):
            laws = iter(tiny.laws(request, ids_of(draw), law))
            for step, step_rounded in zip(draw, draw_rounded, strict=True):
                exact = math.fsum(next(laws)[token] for token in step.token_ids)
                assert step.log_prior == pytest.approx(exact, abs=precision * len(step.token_ids), rel=0)
                assert step_rounded == step._replace(log_prior=round(step.log_prior or 0.0, 6))
                num_steps += 1
    assert num_steps >= 26  # as many as draws


def chi_square(counts: Counter[int], law: Law, num_draws: int) -> tuple[float, int]:
    """Statistic and degrees of freedom; tokens expected fewer than five times are one class."""
    expected = {token: num_draws * math.exp(log_p) for token, log_p in law.items()}
    rare = [token for token, count in expected.items() if count < 5]
    classes = [(counts[token], expected[token]) for token in expected if token not in rare]
    classes += [(sum(counts[token] for token in rare), sum(expected[token] for token in rare))] if rare else []
    return sum((seen - mean) ** 2 / mean for seen, mean in classes), len(classes) - 1


@pytest.mark.parametrize("sampling", [Sampling(), COOL], ids=["T=1", "T=0.6 top_p=0.9"])
def test_first_tokens_follow_the_exact_law(tiny: Tiny, sampling: Sampling) -> None:
    proposer, num_draws = tiny.proposer(sampling), 3000
    drawn = next(draw for draw in tiny.proposer().propose([ask("a", range(100))])[0].draws if len(draw) > 1)
    requests = [ask(prompt, range(num_draws), max_new_tokens=1) for prompt in ("a", "b", "c", "bb", "cab", "a a")]
    requests.append(ask("a", range(num_draws), prefix=drawn[:1], max_new_tokens=1))
    requests.sort(key=lambda request: len(likely(tiny.laws(request, [0], sampling)[0])))
    for request in requests[-2:]:  # those with most to draw from
        law = tiny.laws(request, [0], sampling)[0]
        counts = Counter(draw[0].token_ids[0] for draw in proposer.propose([request])[0].draws)
        assert set(counts) <= set(law), "nothing outside the nucleus"
        statistic, freedom = chi_square(counts, law, num_draws)
        assert freedom >= 3
        critical = (
            freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3
        )  # 99.9%, Wilson-Hilferty
        assert statistic < critical
        other = replace(sampling, temperature=sampling.temperature * 1.5)  # the test can tell laws apart
        assert chi_square(counts, tiny.laws(request, [0], other)[0], num_draws)[0] > 2 * critical


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53], ids=["lowest", "highest"])
def test_extreme_random_numbers_draw_the_ends_of_the_nucleus(
    tiny: Tiny, number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens outside it lie before its first and behind its last one, with no probability between."""
    monkeypatch.setattr(hf, "random_numbers", lambda seeds, positions: np.full(len(seeds), number))
    for prompt in ("a", "b", "c", "bb", "cab", "a a"):
        request = ask(prompt, [0], max_new_tokens=1)
        nucleus = tiny.laws(request, [0], COOL)[0]
        assert len(nucleus) < len(tiny.logits(tiny.prompt_ids(prompt))[0])
        drawn = tiny.proposer(COOL).propose([request])[0].draws[0][0].token_ids[0]
        assert drawn == (max if number else min)(nucleus)


def likely(law: Law) -> list[int]:
    return [token for token, log_p in law.items() if log_p > math.log(0.002)]


def test_second_tokens_follow_the_law_given_the_first(tiny_folder: Callable[[str], Path]) -> None:
    tiny = load("gpt2", tiny_folder)
    request = ask("a", range(4000), max_new_tokens=2)
    pairs = [ids_of(draw) for draw in tiny.proposer().propose([request])[0].draws]
    first, num_first = Counter(ids[0] for ids in pairs if len(ids) == 2).most_common(1)[0]
    assert num_first > 300
    law = tiny.laws(request, [first, 0], Sampling())[1]
    counts = Counter(ids[1] for ids in pairs if ids[0] == first)
    statistic, freedom = chi_square(counts, law, num_first)
    assert freedom >= 4
    assert statistic < 32.9  # 99.9% at 12 degrees of freedom, the most there can be


def test_low_temperature_is_greedy(tiny: Tiny) -> None:
    proposer = tiny.proposer(Sampling(temperature=0.01))
    num_compared = 0
    for prompt in ("cab", "a", "bb", "c a"):
        draws = [ids_of(draw) for draw in proposer.propose([ask(prompt, range(5))])[0].draws]
        ids = tiny.prompt_ids(prompt)
        greedy: list[int] = []
        while len(greedy) < 12 and proposer.splitter.eos_ids.isdisjoint(greedy):
            second, first = np.sort(tiny.logits([*ids, *greedy])[-1])[-2:]
            if first - second < 0.2:  # at this temperature the second token still has a chance of e^-20
                break
            greedy.append(int(tiny.logits([*ids, *greedy])[-1].argmax()))
        assert [draw[: len(greedy)] for draw in draws] == [greedy] * 5
        num_compared += len(greedy)
    assert num_compared > 10


# --- batches ----------------------------------------------------------------------------------------------------------


def test_company_padding_and_order_change_no_draw(tiny: Tiny) -> None:
    sampling = COOL if tiny.name == "gpt2" else Sampling()
    proposer = tiny.proposer(sampling)
    assert proposer.batch_invariant
    requests = some_requests(proposer)
    lengths = {len(tiny.prompt_ids(request.problem.prompt)) + len(ids_of(request.prefix)) for request in requests}
    assert len(lengths) >= 3
    together = proposer.propose(requests)
    assert proposer.propose(requests[::-1])[::-1] == together
    assert tiny.proposer(sampling, max_rows=3).propose(requests) == together
    for request, reply in zip(requests, together, strict=True):
        for seed, draw in list(zip(request.seeds, reply.draws, strict=True))[:3]:
            alone = ask(request.problem.prompt, [seed], prefix=request.prefix, max_new_tokens=12, whole=request.whole)
            assert proposer.propose([alone])[0].draws == (draw,)


def test_each_prefix_is_prefilled_once_and_finished_rows_leave_the_batch(tiny: Tiny) -> None:
    requests = [ask("abc", range(20)), ask("a", range(10))]
    shapes: list[tuple[int, int]] = []

    def watch(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        shapes.append(tuple(inputs["input_ids"].shape))

    hook = tiny.language_model.model.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        replies = tiny.proposer().propose(requests)
    finally:
        hook.remove()
    lengths = [len(ids_of(draw)) for reply in replies for draw in reply.draws]
    longest = max(len(tiny.prompt_ids(request.problem.prompt)) for request in requests)
    alive = [sum(length > position for length in lengths) for position in range(1, max(lengths))]
    assert shapes == [(2, longest)] + [(count, 1) for count in alive]
    assert alive[-1] < 30


@pytest.mark.parametrize("keep_tokens", [40, 5000])
def test_kept_tokens_change_no_draw_and_are_not_run_again(
    tiny: Tiny, keep_tokens: int, tiny_folder: Callable[[str], Path]
) -> None:
    """Step by step below what was drawn before, with room for everything and with room for little."""
    tiny = load(tiny.name, tiny_folder, torch.float64)
    plain, kept = tiny.proposer(), tiny.proposer(keep_tokens=keep_tokens)
    assert isinstance(plain.decoder, CacheDecoder) and isinstance(kept.decoder, PoolDecoder)
    pool = kept.decoder.cache
    requests = [replace(ask(prompt, range(6)), whole=False) for prompt in ("abc", "a", "b b")]
    drawn = 0
    for level in range(3):
        before = kept.decoder.computed_tokens
        replies = kept.propose(requests)
        assert same_draws(replies, plain.propose(requests))
        drawn += sum(len(ids_of(draw)) for reply in replies for draw in reply.draws)
        computed = kept.decoder.computed_tokens - before
        prompts = sum(len(tiny.prompt_ids(request.problem.prompt)) for request in requests)
        # Of a draw every token but the last is run on the way; that one is run when somebody goes on below it.
        new = sum(len(ids_of(draw)) - 1 for reply in replies for draw in reply.draws)
        if keep_tokens == 5000:
            assert computed == new + (prompts if level == 0 else len(requests))
        assert pool.pool.capacity - pool.pool.num_free <= keep_tokens
        requests = [
            replace(request, prefix=(*request.prefix, *draw), seeds=tuple(range(level, level + 4)))
            for request, reply in zip(requests, replies, strict=True)
            for draw in dict.fromkeys(reply.draws)
            if draw[-1].stop is STOP
        ][:6]
    assert drawn > 40
    rollouts = [replace(request, whole=True) for request in requests]
    assert same_draws(kept.propose(rollouts), plain.propose(rollouts))
    inner = [replace(rollouts[0], prefix=(*rollouts[0].prefix, *draw[:1])) for draw in kept.propose(rollouts)[0].draws]
    inner = [request for request in inner if request.prefix[-1].stop is STOP]
    assert same_draws(kept.propose(inner), plain.propose(inner))


def same_draws(replies: Sequence[Reply], others: Sequence[Reply]) -> bool:
    return [reply.draws for reply in replies] == [reply.draws for reply in others]


def test_usage_counts_the_prefix_once_a_request_and_every_drawn_token(tiny: Tiny) -> None:
    proposer = tiny.proposer()
    requests = some_requests(proposer)
    for request, reply in zip(requests, proposer.propose(requests), strict=True):
        prefix = tiny.prompt_ids(request.problem.prompt) + ids_of(request.prefix)
        assert reply.usage == Usage(len(prefix), sum(len(ids_of(draw)) for draw in reply.draws), 1)
    assert proposer.propose([]) == []


def test_draws_depend_on_the_seed_and_on_nothing_that_came_before(tiny: Tiny) -> None:
    proposer = tiny.proposer()
    (first,) = proposer.propose([ask("abc", [5, 6, 5, 2**64 - 1, 7])])
    assert first.draws[0] == first.draws[2]
    assert len({tuple(ids_of(draw)) for draw in first.draws}) == 4
    torch.manual_seed(123)
    assert tiny.proposer().propose([ask("abc", [5, 6, 5, 2**64 - 1, 7])]) == [first]


# --- steps ------------------------------------------------------------------------------------------------------------


def test_steps_are_those_of_the_splitter_and_only_the_last_one_ends_the_draw(tiny: Tiny) -> None:
    proposer = tiny.proposer()
    draws = proposer.propose([ask("abc", range(60), max_new_tokens=20)])[0].draws
    eos = tiny.language_model.tokenizer.eos_token_id
    num_steps, stops = set(), set()
    for draw in draws:
        ids = ids_of(draw)
        ends = np.cumsum([len(step.token_ids) for step in draw]).tolist()
        assert proposer.splitter.split(ids) == ends
        assert "".join(step.text for step in draw) == tiny.decode(ids)
        assert all(step.stop is STOP and tiny.separator in step.text for step in draw[:-1])
        assert draw[-1].stop is (EOS if ids[-1] == eos else LENGTH)
        assert eos not in ids[:-1]
        assert len(ids) == 20 or draw[-1].stop is EOS
        num_steps.add(len(draw))
        stops.add(draw[-1].stop)
    assert len(num_steps) >= 3
    assert stops == {EOS, LENGTH}


def test_forks_go_on_from_the_very_ids_and_text_of_their_prefix(tiny: Tiny) -> None:
    """Decoders that drop a first blank or split characters must not change what a fork says."""
    proposer = tiny.proposer()
    trunks = [draw for draw in proposer.propose([ask("c", range(60), max_new_tokens=20)])[0].draws if len(draw) > 2]
    assert len(trunks) >= 3
    requests = [ask("c", range(6), prefix=trunk[:kept]) for trunk in trunks for kept in range(1, len(trunk))]
    num_blanks = 0
    for request, reply in zip(requests, proposer.propose(requests), strict=True):
        for draw in reply.draws:
            path = [*request.prefix, *draw]
            assert "".join(step.text for step in path) == tiny.decode(ids_of(path))
            num_blanks += draw[0].text.startswith(" ")
    assert num_blanks > 0 or tiny.name != "llama", "the blanks that its decoder drops in front of a text"


def test_drawing_step_by_step_gives_the_steps_of_the_whole(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the random numbers of the whole: ids, texts, log-priors and stop reasons are equal, step after step."""
    skipped: Counter[int] = Counter()  # tokens that a seed has drawn in earlier requests

    def shifted(seeds: Sequence[int], positions: Sequence[int]) -> np.ndarray:
        return random_numbers(
            seeds, [position + skipped[seed] for seed, position in zip(seeds, positions, strict=True)]
        )

    monkeypatch.setattr(hf, "random_numbers", shifted)
    proposer, seeds, limit = tiny.proposer(), range(40), 18
    whole = proposer.propose([ask("ab", seeds, max_new_tokens=limit)])[0].draws
    paths: dict[int, list[Step]] = {seed: [] for seed in seeds}
    growing = list(seeds)
    while growing:
        requests = [
            ask("ab", [seed], prefix=paths[seed], max_new_tokens=limit - len(ids_of(paths[seed])), whole=False)
            for seed in growing
        ]
        for seed, reply in zip(growing, proposer.propose(requests), strict=True):
            (steps,) = reply.draws
            assert len(steps) == 1
            paths[seed].append(steps[0])
            skipped[seed] += len(steps[0].token_ids)
        # A step that ends just at the limit ends with STOP, as nobody knows that no more will be asked for.
        growing = [seed for seed in growing if paths[seed][-1].stop is STOP and skipped[seed] < limit]
    for draw, path in zip(whole, paths.values(), strict=True):
        if path[-1].stop is STOP:
            path[-1] = path[-1]._replace(stop=LENGTH)
        assert tuple(path) == draw
    assert max(map(len, whole)) >= 3


# --- ends -------------------------------------------------------------------------------------------------------------


def test_a_draw_cut_by_its_limit_is_unfinished_and_never_an_answer(tiny: Tiny) -> None:
    proposer, seeds = tiny.proposer(), range(30)
    whole = [ids_of(draw) for draw in proposer.propose([ask("b", seeds, max_new_tokens=14)])[0].draws]
    judged: list[str] = []

    def judge(text: str) -> Verdict:
        judged.append(text)
        return Verdict(True, text)

    num_cut = num_finished = 0
    for limit in (1, 2, 5, 13):
        request = ask("b", seeds, max_new_tokens=limit)
        draws = proposer.propose([request])[0].draws
        finished = [len(ids) <= limit and draw[-1].stop is EOS for ids, draw in zip(whole, draws, strict=True)]
        assert [ids_of(draw) for draw in draws] == [ids[:limit] for ids in whole]
        assert [draw[-1].stop for draw in draws] == [EOS if ended else LENGTH for ended in finished]
        rollouts = [Rollout(index, index, 0, draw) for index, draw in enumerate(draws)]
        judged.clear()
        tree = build_tree(request.problem, rollouts, merge=False, judge=judge)
        assert [tree.nodes[leaf].is_answer for leaf in tree.trunks] == finished
        assert [tree.nodes[leaf].verdict is not None for leaf in tree.trunks] == finished
        assert len(judged) == sum(finished)
        num_cut += finished.count(False)
        num_finished += sum(finished)
    assert num_cut > 10
    assert num_finished > 2


def test_a_draw_stops_at_the_end_of_the_context(tiny: Tiny) -> None:
    proposer, token = tiny.proposer(), tiny.language_model.tokenizer.encode("a", add_special_tokens=False)[0]
    prompt_size = len(tiny.prompt_ids("b"))
    alone = proposer.propose([ask("abc", range(5))])[0]
    for room in (6, 1, 0):
        filler = Step("a" * (CONTEXT - prompt_size - room), (token,) * (CONTEXT - prompt_size - room), -1.0, STOP)
        request = ask("b", range(20), prefix=[filler], max_new_tokens=50)
        assert len(tiny.prompt_ids("b") + ids_of(request.prefix)) == CONTEXT - room
        beside, reply = proposer.propose([ask("abc", range(5)), request])
        assert beside == alone
        if room == 0:
            assert reply.draws == ((Step("", (), None, ERROR),),) * 20
            assert reply.usage.generated_tokens == 0
            continue
        lengths = [len(ids_of(draw)) for draw in reply.draws]
        assert max(lengths) == room
        assert all(draw[-1].stop is EOS or length == room for draw, length in zip(reply.draws, lengths, strict=True))
        assert {draw[-1].stop for draw in reply.draws} >= {LENGTH}


def changed(folder: Path, target: Path, file: str, **values: Any) -> Path:
    """A copy of a model folder with other values in one of its JSON files; None removes the key."""
    shutil.copytree(folder, target)
    content = json.loads((target / file).read_text()) | values
    kept = {key: value for key, value in content.items() if value is not None}
    (target / file).write_text(json.dumps(kept))
    return target


def test_every_end_token_of_the_generation_config_ends_a_draw(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    folder = changed(tiny_folder("gpt2"), tmp_path / "two", "generation_config.json", eos_token_id=[0, 3])
    tiny = Tiny("gpt2", load_causal_lm(folder, dtype=torch.float64))
    ends = Counter()
    for draw in tiny.proposer().propose([ask("abc", range(60))])[0].draws:
        ids = ids_of(draw)
        assert not {0, 3} & set(ids[:-1])
        assert draw[-1].stop is (EOS if ids[-1] in (0, 3) else LENGTH)
        ends[ids[-1]] += 1
    assert ends[0] > 3
    assert ends[3] > 3


def test_the_tokenizer_names_the_end_where_the_generation_config_does_not(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    folder = changed(tiny_folder("gpt2"), tmp_path / "no", "generation_config.json", eos_token_id=None)
    silent = changed(folder, tmp_path / "none", "config.json", eos_token_id=None)
    plain = load("gpt2", tiny_folder).proposer().propose([ask()])
    assert Tiny("gpt2", load_causal_lm(silent, dtype=torch.float64)).proposer().propose([ask()]) == plain
    mute = changed(silent, tmp_path / "mute", "tokenizer_config.json", eos_token=None)
    with pytest.raises(ValueError, match="names no end-of-sequence token; set eos_token_id in generation_config"):
        Tiny("gpt2", load_causal_lm(mute)).proposer()


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0.0}, "temperature 0.0; allowed is 0 < temperature <= 100"),
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"temperature": 101.0}, "temperature 101.0"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"top_p": 0.0}, "top_p 0.0; allowed is 0 < top_p <= 1"),
        ({"top_p": 1.1}, "top_p 1.1"),
        ({"top_p": math.nan}, "top_p nan"),
    ],
)
def test_impossible_sampling_is_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**wrong)


def test_impossible_requests_and_separators_are_refused(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="max_new_tokens 0; it must be at least 1"):
        tiny.proposer().propose([ask(max_new_tokens=0)])
    with pytest.raises(ValueError, match="the step separator is empty"):
        HFProposer(tiny.language_model, step_separator="")


def test_the_law_is_named_raw_where_raw_and_sampling_coincide() -> None:
    assert Sampling().law == Sampling(log_prior_law="sampling").law == "raw"
    assert Sampling(temperature=0.5).law == Sampling(top_p=0.5).law == "sampling"
    assert Sampling(temperature=0.5, log_prior_law="raw").law == "raw"


def test_fingerprints_name_all_that_decides_a_draw_and_nothing_else(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    folder = tiny_folder("gpt2")
    tiny = Tiny("gpt2", load_causal_lm(folder))
    shutil.copytree(folder, tmp_path / "copy")
    assert Tiny("gpt2", load_causal_lm(tmp_path / "copy")).proposer().fingerprint == tiny.proposer().fingerprint
    import tiny_models

    edited = [
        tiny_models.save_gpt2(tmp_path / "seed", seed=1),
        changed(folder, tmp_path / "eos", "generation_config.json", eos_token_id=[0, 3]),
        changed(folder, tmp_path / "template", "tokenizer_config.json", chat_template="{{ messages[0]['content'] }}!"),
    ]
    proposers = [
        tiny.proposer(),
        tiny.proposer(COOL),
        tiny.proposer(Sampling(temperature=0.6, top_p=0.9, log_prior_law="raw")),
        tiny.proposer(max_rows=7),
        HFProposer(tiny.language_model, step_separator=";"),
        load("gpt2", tiny_folder, torch.float64).proposer(),
        *(Tiny("gpt2", load_causal_lm(path)).proposer() for path in edited),
    ]
    assert len({proposer.fingerprint for proposer in proposers}) == len(proposers)
    assert proposers[0].tokenizer_fingerprint == proposers[-1].tokenizer_fingerprint
    assert load("llama", tiny_folder).proposer().tokenizer_fingerprint != proposers[0].tokenizer_fingerprint


# --- random numbers ---------------------------------------------------------------------------------------------------


def kolmogorov_smirnov(numbers: np.ndarray) -> float:
    """sqrt(n) times the largest gap to the uniform law; above 1.95 in one of a thousand samples."""
    size = len(numbers)
    ordered, rank = np.sort(numbers), np.arange(1, size + 1) / size
    return float(max((rank - ordered).max(), (ordered - rank + 1 / size).max()) * math.sqrt(size))


def pair_statistic(one: np.ndarray, other: np.ndarray) -> float:
    """Chi-square of pairs on a grid of 10 x 10 cells of equal chance: 99 degrees of freedom."""
    cells = np.bincount((one * 10).astype(int) * 10 + (other * 10).astype(int), minlength=100)
    return float(((cells - len(one) / 100) ** 2 / (len(one) / 100)).sum())


@pytest.mark.parametrize("first_seed", [0, 1 << 40, (1 << 64) - 20_000])
def test_random_numbers_are_uniform_and_independent_between_neighbours(first_seed: int) -> None:
    seeds = list(range(first_seed, first_seed + 20_000))
    by_seed = random_numbers(seeds, [0] * len(seeds))
    next_position = random_numbers(seeds, [1] * len(seeds))
    by_position = random_numbers([first_seed] * 20_000, range(20_000))
    for numbers in (by_seed, next_position, by_position):
        assert numbers.min() >= 0
        assert numbers.max() < 1
        assert len(set(numbers.tolist())) == 20_000
        assert kolmogorov_smirnov(numbers) < 1.95
    for one, other in [
        (by_seed[:-1], by_seed[1:]),  # neighbouring seeds
        (by_position[:-1], by_position[1:]),  # neighbouring positions
        (by_seed, next_position),
        (by_seed[1:], next_position[:-1]),
    ]:
        assert pair_statistic(one, other) < 148.2  # 99.9%


def test_random_numbers_are_the_same_on_every_machine() -> None:
    """SplitMix64's mixing, twice, in whole numbers of any size."""
    seeds, positions = [0, 1, 2**64 - 1, 12345678901234567890], [0, 7, 1000, 3]
    expected = []
    for seed, position in zip(seeds, positions, strict=True):
        state = (seed * 0xD1342543DE82EF95 + (position + 1) * 0x9E3779B97F4A7C15) % 2**64
        for _ in range(2):
            state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
            state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
            state ^= state >> 31
        expected.append((state >> 11) / 2**53)
    assert random_numbers(seeds, positions).tolist() == expected
