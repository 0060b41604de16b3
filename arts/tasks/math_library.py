"""math-verify's word on two formulas. Imported only in the process that `arts.tasks.math_answer` starts for it: the
library takes a second to import, and text of a model can make it run for ever.
"""

import logging
import warnings

from math_verify import LatexExtractionConfig, parse, verify

_FORMULA = [LatexExtractionConfig()]

logging.disable(logging.CRITICAL)  # it logs the texts that it fails at
warnings.simplefilter("ignore")


def same_formula(gold: str, answer: str) -> bool:
    """Is the answer the gold formula? Not symmetric: `x = 5` answers 5, and not the other way round.

    The library's own time limits are signals, and off: the caller's limit holds.
    """
    expected, found = (parse(rf"\boxed{{{text}}}", _FORMULA, parsing_timeout=None) for text in (gold, answer))
    return bool(verify(expected, found, timeout_seconds=None))


same_formula("x^2 + 1", r"\frac{2}{2} + x^2")  # whatever is loaded on first use is loaded before a limit counts
