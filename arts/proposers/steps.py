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
        signs = separator[-1] if separator[-1].isascii() else separator[-1] + _BROKEN
        self._may_end = cache(lambda token_id: any(sign in decode([token_id]) for sign in signs))

    def ends(self, step_ids: Sequence[int]) -> bool:
        """Does the last token of `step_ids` end this step?"""
        if step_ids[-1] in self.eos_ids:
            return True
        if not self._may_end(step_ids[-1]):
            return False
        return is_complete(self._decode(step_ids), self.separator)

    def split(self, token_ids: Sequence[int]) -> list[int]:
        """Where each step ends, as counts of tokens; the last one is `len(token_ids)` (an unfinished step counts)."""
        ends, start = [], 0
        for position in range(1, len(token_ids) + 1):
            if self.ends(token_ids[start:position]):
                ends.append(position)
                start = position
        if start < len(token_ids):
            ends.append(len(token_ids))
        return ends

    def texts(self, token_ids: Sequence[int], ends: Sequence[int], *, goes_on: bool = False) -> list[str]:
        """Text of each step. Joined they are the text of the whole.

        A character that an end splits belongs to the step that completes it.

        Args:
            goes_on: tokens are still to come behind the last end, so that a character may be split there too.
        """
        texts, done = [], ""
        for end in ends:
            text = self._decode(token_ids[:end])
            if goes_on or end < len(token_ids):
                text = text.rstrip(_BROKEN)
            texts.append(text[len(done) :])
            done = text
        return texts

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
        texts = self.texts([*before, *token_ids], [len(before) + end for end in ends], goes_on=stop is StopReason.STOP)
        # Six decimals are float32's own precision, and hide the last bits that depend on the batch.
        return tuple(
            Step(
                text,
                tuple(token_ids[start:end]),
                round(sum(log_priors[start:end]), 6),
                stop if end == len(token_ids) else StopReason.STOP,
            )
            for text, (start, end) in zip(texts[1:], pairwise(ends), strict=True)
        )
