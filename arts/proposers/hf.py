"""A local Hugging Face causal model as proposer: `hf:FOLDER`, and the shipped Countdown model.

Each prefix is run once and shared by its draws, and by those that go on from it later; finished rows leave the batch.
Sampling is our own (top_k is never applied), with a random stream per draw, so a draw depends on its seed and prefix;
in float32 its rounding still depends on the batch, hence `batch_invariant` is False there. Knows no task and no file.

Shapes: R requests, B draws, T tokens, V vocabulary.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch

from arts.lm.decode import Parts, build_decoder
from arts.lm.load import LanguageModel, end_ids
from arts.proposers.sampling import Sampling
from arts.proposers.steps import StepSplitter
from arts.protocols import FAILED_DRAW, Reply, Request
from arts.tree import Step, StopReason, Usage


@dataclass
class _Row:
    """One draw on its way."""

    request: int
    seed: int
    limit: int
    ids: list[int] = field(default_factory=list)
    log_priors: list[float] = field(default_factory=list)
    stop: StopReason = StopReason.LENGTH


class HFProposer:
    """Proposer over a loaded causal model.

    Args:
        language_model: from `load_causal_lm`.
        step_separator: the task's text between steps.
        max_rows: draws that run in one batch; more are done one batch after another.
        keep_tokens: tokens whose keys and values are kept between calls, so that a search that goes on below a path
            does not run it again. The rounding of a draw then depends on what was drawn before; collecting keeps none.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        step_separator: str,
        sampling: Sampling | None = None,
        max_rows: int = 1024,
        keep_tokens: int = 0,
    ) -> None:
        self.language_model = language_model
        self.sampling = sampling or Sampling()
        self.log_prior_law = self.sampling.law
        self.max_rows = max_rows
        self.tokenizer_fingerprint: str | None = language_model.tokenizer_fingerprint
        model, tokenizer = language_model.model, language_model.tokenizer
        self.batch_invariant = model.dtype == torch.float64
        self._eos_ids = end_ids(model.generation_config, tokenizer, language_model.folder)
        self.decoder = build_decoder(language_model, keep_tokens=keep_tokens)
        self._context = getattr(model.config, "max_position_embeddings", 1 << 30)
        self.splitter = StepSplitter(language_model.text.decode, step_separator, self._eos_ids)
        settings = (
            f"{language_model.fingerprint} {language_model.tokenizer_fingerprint} {tokenizer.chat_template!r} "
            f"{sorted(self._eos_ids)} {self._context} {model.dtype} {self.sampling} {step_separator!r} {max_rows}"
        )
        self.fingerprint = hashlib.sha256(settings.encode()).hexdigest()[:16]

    @torch.inference_mode()
    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        """Draw for every request, at most `max_rows` draws at a time; those of one prefix share its prefill.

        A prefix that leaves no room in the model's context gives failed draws, so that one long problem ends no run.
        """
        prefixes = [self._prefix_parts(request) for request in requests]
        lengths = [sum(map(len, parts)) for parts in prefixes]
        rows = [
            _Row(index, seed, min(request.max_new_tokens, self._context - lengths[index]))
            for index, request in enumerate(requests)
            for seed in request.seeds
            if lengths[index] < self._context
        ]
        for start in range(0, len(rows), self.max_rows):
            self._draw(rows[start : start + self.max_rows], requests, prefixes)
        by_request: list[list[_Row]] = [[] for _ in requests]
        for row in rows:
            by_request[row.request].append(row)
        return [
            Reply(
                tuple(self._steps(row, request) for row in members) or (FAILED_DRAW,) * len(request.seeds),
                Usage(length, sum(len(row.ids) for row in members), 1) if members else Usage(),
            )
            for request, length, members in zip(requests, lengths, by_request, strict=True)
        ]

    def _prefix_parts(self, request: Request) -> list[Sequence[int]]:
        if request.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens {request.max_new_tokens}; it must be at least 1")
        prompt = self.language_model.text.prompt_ids(request.problem.messages)
        return [prompt, *(step.token_ids for step in request.prefix)]

    def _draw(self, rows: list[_Row], requests: Sequence[Request], prefixes: Sequence[Parts]) -> None:
        wanted = sorted({row.request for row in rows})
        place = {request: index for index, request in enumerate(wanted)}
        logits_BV = self.decoder.start(
            [prefixes[request] for request in wanted],
            [place[row.request] for row in rows],
            max(row.limit for row in rows),
        )
        alive = list(rows)
        while True:
            tokens, log_priors = self._sample(logits_BV, alive)
            kept = []
            for position, (row, token, log_prior) in enumerate(zip(alive, tokens, log_priors, strict=True)):
                if not self._append(row, token, log_prior, whole=requests[row.request].whole):
                    kept.append(position)
            if not kept:
                break
            alive = [alive[position] for position in kept]
            logits_BV = self.decoder.advance([row.ids[-1] for row in alive], kept)
        self.decoder.finish([(self._parts(row), row.stop is StopReason.STOP) for row in rows])

    def _parts(self, row: _Row) -> Parts:
        ends = [0, *self.splitter.split(row.ids)]
        return [row.ids[start:end] for start, end in pairwise(ends)]

    def _sample(self, logits_BV: torch.Tensor, rows: Sequence[_Row]) -> tuple[list[int], list[float]]:
        """Draw one token a row by inverting the cumulative law at the row's own random number, in float64."""
        raw_BV = logits_BV.double()
        law_BV = torch.log_softmax(raw_BV / self.sampling.temperature, dim=-1)
        if self.sampling.top_p < 1:
            law_BV = _nucleus(law_BV, self.sampling.top_p)
        cumulative_BV = law_BV.exp().cumsum(-1)
        uniform_B = torch.from_numpy(random_numbers([row.seed for row in rows], [len(row.ids) for row in rows]))
        threshold_B1 = (uniform_B.to(logits_BV.device) * cumulative_BV[:, -1])[:, None]
        tokens_B = torch.searchsorted(cumulative_BV, threshold_B1, right=True)[:, 0].clamp(max=logits_BV.shape[-1] - 1)
        reported_BV = law_BV if self.log_prior_law == "sampling" else torch.log_softmax(raw_BV, dim=-1)
        log_priors_B = reported_BV.gather(1, tokens_B[:, None])[:, 0]
        return tokens_B.tolist(), log_priors_B.tolist()

    def _append(self, row: _Row, token: int, log_prior: float, *, whole: bool) -> bool:
        """Add a token to a draw; True when the draw is finished."""
        row.ids.append(token)
        row.log_priors.append(log_prior)
        if token in self._eos_ids:
            row.stop = StopReason.EOS
        elif not whole and self.splitter.ends(row.ids):
            row.stop = StopReason.STOP
        else:
            return len(row.ids) >= row.limit
        return True

    def _steps(self, row: _Row, request: Request) -> tuple[Step, ...]:
        before = [token for step in request.prefix for token in step.token_ids]
        return self.splitter.steps(before, row.ids, row.log_priors, row.stop)


def _nucleus(log_law_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the fewest most likely tokens whose mass reaches top_p, and renormalise."""
    sorted_BV, order_BV = log_law_BV.sort(dim=-1, descending=True)
    mass_before_BV = sorted_BV.exp().cumsum(-1) - sorted_BV.exp()
    cut_BV = torch.zeros_like(log_law_BV, dtype=torch.bool).scatter(1, order_BV, mass_before_BV >= top_p)
    return torch.log_softmax(log_law_BV.masked_fill(cut_BV, -torch.inf), dim=-1)


def random_numbers(seeds: Sequence[int], positions: Sequence[int]) -> np.ndarray:
    """Uniform numbers in [0, 1): a pure function of each draw's seed and token position (SplitMix64, Steele 2014)."""
    with np.errstate(over="ignore"):
        state = np.asarray(seeds, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95)
        state += (np.asarray(positions, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        for _ in range(2):  # a second round, as neighbouring seeds must not give neighbouring streams
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
