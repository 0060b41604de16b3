"""Exact checkers of our own for 27 tasks of reasoning-gym and for the Game of 24.

The package's own scorers are never given text of a model: some of them execute it, hang on it or accept what is wrong.
Each checker gets the problem's text, the answer in the file, and the answer of a model; all that it needs to know it
reads from those. Knows no file and not the package.
"""

import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal, DecimalException
from fractions import Fraction

from arts.tasks.answers import find_tagged, to_number
from arts.tasks.arithmetic import derivative_is, exact_value, numbers_in, parse_expression
from arts.tree import Verdict

Check = Callable[[str, str, str], bool]
"""(problem, answer of the file, answer of the model) -> right?"""

_CLOSE = Fraction(1, 1000) + Fraction(1, 10**9)  # what the package calls equal where decimals are rounded
_LONGEST = 1000  # characters
_DAY = 86_400_000  # milliseconds
_INTEGERS = re.compile(r"\d+")


def judge_gym(task: str, problem: str, gold: str, solution: str, *, credit: bool = False) -> Verdict:
    """The verdict on a solution of a reasoning-gym problem; only what stands in `<answer>` tags is an answer.

    Args:
        task: its name; `algebra/simple_equations` is `simple_equations`.
        credit: in the two tasks where the package gives credit for being near, right is what gets 0.99 of it: roots
            within 0.001 and times within 1%. For comparisons with stored scores; 65 days are not 64.

    Raises:
        ValueError: there is no checker for the task, or the problem is none of the task.
    """
    check = gym_check(task)
    if credit:
        check = _CREDITED.get(task.rpartition("/")[2], check)
    answer = find_tagged(solution)
    if answer is None or len(answer) > _LONGEST:
        return Verdict(False, None, "no answer in it" if answer is None else "the answer is too long")
    right = check(problem, gold, answer)
    return Verdict(right, _key(answer), "" if right else f"not {gold}")


def gym_check(task: str) -> Check:
    name = task.rpartition("/")[2]
    if name not in GYM_CHECKS:
        raise ValueError(f"no checker for the task {task!r}; there are checkers for {', '.join(sorted(GYM_CHECKS))}")
    return GYM_CHECKS[name]


def _key(answer: str) -> str | None:
    number = to_number(answer)
    return str(number) if number is not None else "".join(answer.split()) or None


def judge_game24(puzzle: str, solution: str) -> Verdict:
    """The verdict on a Game of 24, `4 5 6 10`: the expression in the last line must use its numbers, each once, for 24.

    The line may begin with `Answer:` and go on with `= 24` (layout of Yao et al. 2023, arXiv 2305.10601).
    """
    line = solution.strip().rpartition("\n")[2]
    text = re.sub(r"^answer:", "", line.strip(), flags=re.IGNORECASE).partition("=")[0].strip()
    reason = _why_not(text, puzzle, 24)
    return Verdict(not reason, "".join(text.split()) or None, reason)


def _why_not(text: str, numbers: str, target: int) -> str:
    """Why an expression does not make the target out of all the numbers; empty where it does."""
    expression = parse_expression(text)
    value = None if expression is None else exact_value(expression)
    if expression is None or value is None:
        return "not an arithmetic expression"
    if sorted(numbers_in(expression)) != sorted(map(Fraction, _INTEGERS.findall(numbers))):
        return "not the given numbers, each once"
    return "" if value == target else f"its value is {value}"


def _countdown(problem: str, gold: str, answer: str) -> bool:
    """`Calculate 237 using all of these numbers: 95, 98, ...` and its other wordings."""
    first = problem.strip().partition("\n")[0]
    numbers = re.search(r"\d+(?:, \d+)+", first)
    targets = _INTEGERS.findall(first.replace(numbers[0], "")) if numbers else []
    if numbers is None or len(targets) != 1:
        raise ValueError(f"not a countdown problem: {first[:80]!r}")
    return not _why_not(answer, numbers[0], int(targets[0]))


def _puzzle24(problem: str, gold: str, answer: str) -> bool:
    """`Make 24 using 5, 5, 10, 4. ...`"""
    match = re.match(r"\D*24 using ([\d, ]+)\.", problem)
    if match is None:
        raise ValueError(f"not a puzzle of 24: {problem[:80]!r}")
    return not _why_not(answer, match[1], 24)


def _same_number(problem: str, gold: str, answer: str) -> bool:
    number = to_number(answer)
    return number is not None and number == to_number(gold)


def _same_text(problem: str, gold: str, answer: str) -> bool:
    return answer.strip() == gold.strip()


def _near(tolerance: Fraction) -> Check:
    def check(problem: str, gold: str, answer: str) -> bool:
        one, other = to_number(gold), to_number(answer)
        return one is not None and other is not None and abs(one - other) <= tolerance

    return check


def _hexadecimal(problem: str, gold: str, answer: str) -> bool:
    match = re.fullmatch(r"([+-]?)(?:0x)?([0-9a-f]{1,64})", answer.strip(), re.IGNORECASE | re.ASCII)
    if match is None or ("0x" not in answer.lower() and not match[2].isdecimal()):
        return False
    base = 16 if "0x" in answer.lower() else 10
    return int(match[1] + match[2], base) == int(gold, 16)


def _yes_no_day_or_number(problem: str, gold: str, answer: str) -> bool:
    return _same_number(problem, gold, answer) or answer.strip().casefold() == gold.strip().casefold()


def _complex(problem: str, gold: str, answer: str) -> bool:
    one, other = _complex_parts(gold), _complex_parts(answer)
    return one is not None and other is not None and all(abs(a - b) <= _CLOSE for a, b in zip(one, other, strict=True))


def _complex_parts(text: str) -> tuple[Fraction, Fraction] | None:
    """`-3.0 - 3.0i`, `19i`, `(2 + i)`: real and imaginary part."""
    plain = "".join(text.split()).lower().replace("j", "i")
    while plain.startswith("(") and plain.endswith(")"):
        plain = plain[1:-1]
    number = r"[+-]?\d{1,30}(?:\.\d{0,30})?"
    match = re.fullmatch(rf"({number}(?!i|\d|\.))?(?:({number}|[+-]?)\*?(i))?", plain, re.ASCII)
    if match is None or not plain:
        return None
    imaginary = {"": "1", "+": "1", "-": "-1"}.get(match[2], match[2]) if match[3] else "0"
    return Fraction(match[1] or 0), Fraction(imaginary)


def _roots(tolerance: Fraction) -> Check:
    """As many numbers, each near enough; where there is no root, no number."""

    def check(problem: str, gold: str, answer: str) -> bool:
        if not gold.strip():
            return not re.search(r"\d", answer)
        numbers = [to_number(part.rpartition("=")[2]) for part in answer.strip("\"' ").split(",")]
        roots = sorted(Fraction(part.strip()) for part in gold.split(","))
        found = sorted(number for number in numbers if number is not None)
        return len(numbers) == len(found) == len(roots) and all(
            abs(one - other) <= tolerance for one, other in zip(found, roots, strict=True)
        )

    return check


def _integral(problem: str, gold: str, answer: str) -> bool:
    """Its derivative is the integrand; whatever is constant may be added."""
    match = re.search(r"∫ (.+) d(\w+)$", problem.partition("\n")[0])
    integrand = parse_expression(match[1]) if match else None
    if match is None or integrand is None:
        raise ValueError(f"not a problem of integration: {problem[:80]!r}")
    names = {str(node.value) for node in integrand.walk() if node.kind == "name"} - {"E", "pi"}
    variable = names.pop() if names else match[2]  # they write dx for X too
    expression = parse_expression(answer)
    return expression is not None and derivative_is(expression, integrand, variable)


def _fraction(problem: str, gold: str, answer: str) -> bool:
    """The same numerator and denominator: 2/4 is not 1/2 simplified."""
    return _two_integers(answer) is not None and _two_integers(answer) == _two_integers(gold)


def _two_integers(text: str) -> tuple[int, int] | None:
    plain = text.strip().strip("$").strip()
    latex = re.match(r"\\d?frac\s*\{\s*(\d{1,40})\s*\}\s*\{\s*(\d{1,40})\s*\}", plain, re.ASCII)
    match = latex or re.fullmatch(r"(\d{1,40})\s*/\s*(\d{1,40})", plain, re.ASCII)
    return (int(match[1]), int(match[2])) if match else None


def _three_digits(problem: str, gold: str, answer: str) -> bool:
    """Equal when both are rounded to three significant digits."""
    context = Context(prec=3, rounding=ROUND_HALF_UP)
    try:
        one, other = (Decimal(text.strip()[:60]) for text in (gold, answer))
        return one.is_finite() and other.is_finite() and context.plus(one) == context.plus(other)
    except DecimalException:
        return False


def _factors(problem: str, gold: str, answer: str) -> bool:
    parts = [re.fullmatch(r"\d{1,30}", part.strip(), re.ASCII) for part in re.split(r"×|\*|\\times", answer)]
    factors = [int(part[0]) for part in parts if part]
    return len(factors) == len(parts) and sorted(factors) == sorted(map(int, _INTEGERS.findall(gold)))


def _duration(problem: str, gold: str, answer: str) -> bool:
    """The same time to a millisecond: answers in the files are cut off there, not rounded."""
    one, other = _milliseconds(gold), _milliseconds(answer)
    return one is not None and other is not None and abs(one - other) <= 1


def _near_duration(problem: str, gold: str, answer: str) -> bool:
    """Off by 1% of a day, in answers of days by a whole one: what the package gives 0.99 for."""
    one, other = _milliseconds(gold), _milliseconds(answer)
    return one is not None and other is not None and abs(one - other) <= (_DAY if "days" in gold else _DAY // 100)


def _milliseconds(text: str) -> int | None:
    clock = r"(\d{1,6}):(\d{1,2})(?::(\d{1,2})(?:\.(\d{1,3}))?)?"
    match = re.fullmatch(rf"(?:(-?\d{{1,6}})(?: D)?(?:$| days?(?:, |$)))?(?:{clock})?", text.strip(), re.ASCII)
    if match is None or not match[0]:
        return None
    days, hours, minutes, seconds, fraction = (match[group] or "0" for group in range(1, 6))
    return (
        ((int(days) * 24 + int(hours)) * 60 + int(minutes)) * 60_000 + int(seconds) * 1000 + int(fraction.ljust(3, "0"))
    )


def _geometry(problem: str, gold: str, answer: str) -> bool:
    """An angle to two digits, coordinates to three, a radius as it is written."""
    if "°" in gold:
        one, other = (to_number(text.replace("°", "")) for text in (gold, answer))
        return one is not None and other is not None and round(other, 2) == round(one, 2)
    if gold.startswith("("):
        points = [[to_number(part) for part in text.strip().strip("()").split(",")] for text in (gold, answer)]
        if len(points[1]) != 2 or None in points[1]:
            return False
        return all(round(a, 3) == round(b, 3) for a, b in zip(*points, strict=True) if a is not None and b is not None)
    return answer.strip() == gold.strip()


GYM_CHECKS: dict[str, Check] = {
    "advanced_geometry": _geometry,
    "basic_arithmetic": _same_number,
    "bitwise_arithmetic": _hexadecimal,
    "calendar_arithmetic": _yes_no_day_or_number,
    "chain_sum": _same_number,
    "complex_arithmetic": _complex,
    "count_bits": _same_number,
    "countdown": _countdown,
    "decimal_arithmetic": _near(_CLOSE),
    "decimal_chain_sum": _same_number,
    "dice": _fraction,
    "fraction_simplification": _fraction,
    "gcd": _same_number,
    "gsm_symbolic": _same_number,
    "intermediate_integration": _integral,
    "lcm": _same_number,
    "leg_counting": _same_number,
    "number_format": _near(Fraction(1, 100)),
    "polynomial_equations": _roots(Fraction(1, 20_000)),  # four decimals are asked for
    "power_function": _three_digits,
    "prime_factorization": _factors,
    "products": _same_number,
    "puzzle24": _puzzle24,
    "simple_equations": _same_number,
    "simple_geometry": _same_text,
    "simple_integration": _integral,
    "time_intervals": _duration,
}
_CREDITED: dict[str, Check] = {"polynomial_equations": _roots(_CLOSE), "time_intervals": _near_duration}
