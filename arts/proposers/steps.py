"""Cut a stream of tokens into steps. Knows a decoder and a separator; no model and no torch.

A step ends with the first token that completes the separator after something other than blanks, and keeps it. Ends are
counted in tokens, never searched for in the joined text, so a step's ids do not depend on what follows.
"""

from collections.abc import Callable, Sequence
from functools import cache


class StepSplitter:
    """Finds step ends for one tokenizer and one separator."""

    def __init__(self, decode: Callable[[Sequence[int]], str], separator: str, eos_ids: frozenset[int]) -> None:
        if not separator:
            raise ValueError("the step separator is empty; give the text that ends a step, like ';' or a blank line")
        self.separator = separator
        self.eos_ids = eos_ids
        self._decode = decode
        # Only a token that shows the separator's last character can complete it: the rest need no look at the text.
        self._may_end = cache(lambda token_id: separator[-1] in decode([token_id]))

    def ends(self, step_ids: Sequence[int]) -> bool:
        """Does the last token of `step_ids` end this step?"""
        if step_ids[-1] in self.eos_ids:
            return True
        if not self._may_end(step_ids[-1]):
            return False
        text = self._decode(step_ids)
        return self.separator in text and bool(text.replace(self.separator, "").strip())

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

    def texts(self, token_ids: Sequence[int], ends: Sequence[int]) -> list[str]:
        """Text of each step. Joined they are the text of the whole: characters split over tokens stay whole."""
        texts, done = [], ""
        for end in ends:
            text = self._decode(token_ids[:end])
            texts.append(text[len(done) :])
            done = text
        return texts
