"""Cut a stream of tokens into steps. Knows a decoder and a separator; no model and no torch.

A step ends with the first token that completes the separator after something other than blanks, and keeps it. Ends are
counted in tokens, never searched for in the joined text, so a step's ids do not depend on what follows.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

from arts.tree import Step, StopReason

_BROKEN = "\N{REPLACEMENT CHARACTER}"  # what decoders show for a part of a character
_CONTEXT = 32  # tokens in front of a step that it is read behind; more where these begin inside a character
_SLACK = 8  # tokens in front of the last one that are read for a separator, besides one for each of its characters


def ends_of_steps(text: str, token_ends: Sequence[int], separator: str) -> list[int]:
    """The same for a text whose tokens are known by where they end: how many tokens each step ends with.

    Args:
        token_ends: characters of `text` up to and with each token; never falling.

    Returns:
        Counts of tokens; the last is `len(token_ends)`, where the text goes on behind the last separator.
    """
    ends, start = [], 0
    for position, end in enumerate(token_ends, start=1):
        token = text[(token_ends[position - 2] if position > 1 else 0) : end]
        # Only a token with the separator's last character can have completed it.
        if separator[-1] in token and is_complete(text[start:end], separator):
            ends.append(position)
            start = end
    if not ends or ends[-1] < len(token_ends):
        ends.append(len(token_ends))
    return ends


def is_complete(step: str, separator: str) -> bool:
    """Has the text of a step come to its separator, behind something other than blanks?"""
    return separator in step[_blanks(separator).match(step).end() :]  # type: ignore[union-attr]


@cache
def _blanks(separator: str) -> re.Pattern[str]:
    """What may stand in front of a step: separators and blanks do not make one by themselves."""
    return re.compile(rf"(?:{re.escape(separator)}|\s)*")


class StepSplitter:
    """Finds step ends for one tokenizer and one separator."""

    def __init__(self, decode: Callable[[Sequence[int]], str], separator: str, eos_ids: frozenset[int]) -> None:
        if not separator:
            raise ValueError("the step separator is empty; give the text that ends a step, like ';' or a blank line")
        self.separator = separator
        self.eos_ids = eos_ids
        self._decode = decode
        # Only a token that shows the separator's last character can complete it: the rest need no look at the text. One
        # outside ASCII may be split over tokens, each of which shows a replacement character.
        self._signs = separator[-1] if separator[-1].isascii() else separator[-1] + _BROKEN
        self._alone = cache(lambda token_id: decode([token_id]))

    def ends(self, step_ids: Sequence[int]) -> bool:
        """Does the last token of `step_ids` end this step, which none before has ended?"""
        return self._ends(step_ids, 0, len(step_ids))

    def _ends(self, ids: Sequence[int], start: int, end: int) -> bool:
        if ids[end - 1] in self.eos_ids:
            return True
        last = self._alone(ids[end - 1])
        if not any(sign in last for sign in self._signs):
            return False
        # The last token must have completed the separator: the last few show that, if they do not begin in a character.
        tail = max(start, end - _SLACK - len(self.separator))
        text = self._decode(ids[tail:end])
        is_short = len(text) < len(last) + len(self.separator)
        if tail > start and (self.separator in text or is_short or text[0] == _BROKEN):
            text = self._decode(ids[start:end])
        return is_complete(text, self.separator)

    def split(self, token_ids: Sequence[int]) -> list[int]:
        """Where each step ends, as counts of tokens; the last one is `len(token_ids)` (an unfinished step counts)."""
        ends, start = [], 0
        for position in range(1, len(token_ids) + 1):
            if self._ends(token_ids, start, position):
                ends.append(position)
                start = position
        if start < len(token_ids):
            ends.append(len(token_ids))
        return ends

    def texts(
        self, token_ids: Sequence[int], ends: Sequence[int], *, start: int = 0, goes_on: bool = False
    ) -> list[str]:
        """Text of each step. Joined they are the text of the whole.

        A character that an end splits belongs to the step that completes it.

        Args:
            start: tokens in front of the first step.
            goes_on: tokens are still to come behind the last end, so that a character may be split there too.
        """
        texts = []
        for begin, end in pairwise((start, *ends)):
            first, before = self._before(token_ids, begin)
            text = self._decode(token_ids[first:end])
            if goes_on or end < len(token_ids):
                text = text.rstrip(_BROKEN)
            texts.append(text[len(before) :])
        return texts

    def _before(self, ids: Sequence[int], start: int) -> tuple[int, str]:
        """Where to begin to read what stands behind `start`, and the text up to there, without a split character."""
        reach = _CONTEXT
        while True:
            first = max(0, start - reach)
            text = self._decode(ids[first:start])
            if not first or (text and text[0] != _BROKEN):
                return first, text.rstrip(_BROKEN)
            reach *= 2

    def steps(
        self, before: Sequence[int], token_ids: Sequence[int], log_priors: Sequence[float], stop: StopReason
    ) -> tuple[Step, ...]:
        """The steps of a draw.

        Args:
            before: tokens of the steps that it goes on from. Texts are read in their context: some decoders drop the
                blank in front of a text's first word.
            log_priors: of each token.
            stop: how the last step ended.
        """
        ends = [0, *self.split(token_ids)]
        texts = self.texts(
            [*before, *token_ids],
            [len(before) + end for end in ends[1:]],
            start=len(before),
            goes_on=stop is StopReason.STOP,
        )
        # Six decimals are float32's own precision, and hide the last bits that depend on the batch.
        return tuple(
            Step(
                text,
                tuple(token_ids[start:end]),
                round(sum(log_priors[start:end]), 6),
                stop if end == len(token_ids) else StopReason.STOP,
            )
            for text, (start, end) in zip(texts, pairwise(ends), strict=True)
        )
