"""Made-up solutions of Game of 24, right and wrong, in the words of tree-of-thought-llm, with a verdict on every step.

Nobody wrote them: a puzzle is drawn, then steps that solve it or random ones, then the ways in which such solutions go
wrong (a false equation, a number that is not there, an answer that says something else than the steps did, giving up).
Whether a step is sound is computed, exactly. Knows no model and no file.
"""

import random
from fractions import Fraction
from functools import cache
from itertools import combinations
from typing import NamedTuple

from arts.tasks.arithmetic import exact_value, numbers_in, parse_expression

RIGHT, WRONG, NUMBERS = "<|right|>", "<|wrong|>", "<|numbers|>"
"""Sound so far; a false value or no answer; other numbers than were left."""
VERDICTS = (RIGHT, WRONG, NUMBERS)
GIVING_UP = ("There is no solution.", "Answer: no solution", "Answer: Not possible", "24 cannot be reached.")


class Chain(NamedTuple):
    prompt: str
    steps: tuple[str, ...]
    "joined they are the solution"
    verdicts: tuple[str, ...]
    "on each step; the last one says whether the answer is right, whatever the steps before it say"


class Equation(NamedTuple):
    first: int
    sign: str
    second: int
    value: int


Expression = int | tuple[str, "Expression", "Expression"]


def random_puzzle(rng: random.Random, left_out: frozenset[tuple[int, ...]]) -> tuple[int, ...]:
    """Four numbers, sorted; none of the puzzles that are left out."""
    while True:
        puzzle = tuple(sorted(rng.randint(1, 13) for _ in range(4)))
        if puzzle not in left_out:
            return puzzle


def made_up_chain(rng: random.Random, left_out: frozenset[tuple[int, ...]]) -> Chain:
    """Right in about two of five draws."""
    puzzle = random_puzzle(rng, left_out)
    found = solutions(puzzle)
    if found and rng.random() < 0.6:
        equations, is_true = list(rng.choice(found)), True
    else:
        equations, is_true = _walk(puzzle, rng), False
    if rng.random() < 0.12:  # somewhere a value is wrong, and what follows goes on from there or does not
        place = rng.randrange(3)
        old = equations[place]
        equations[place] = old._replace(value=max(0, old.value + rng.choice((-10, -3, -2, -1, 1, 2, 3, 10))))
    meant = list(equations)
    if not is_true and equations[-1].value != 24 and rng.random() < 0.75:
        equations[-1] = _claimed(equations[-1], rng)
        if rng.random() < 0.25:
            equations.insert(2, _walk(puzzle, rng)[2])
    expression = _expression_of(meant if rng.random() < 0.65 else equations, rng)
    if rng.random() < (0.5 if is_true else 0.4):
        for _ in range(rng.choice((1, 1, 2))):
            expression = _mutated(expression, puzzle, rng)
    if found and not is_true and rng.random() < 0.08:
        expression = _expression_of(rng.choice(found), rng)
    return _told(puzzle, equations, expression, rng)


@cache
def solutions(puzzle: tuple[int, ...]) -> list[tuple[Equation, ...]]:
    """All ways to 24 in whole numbers, none below zero."""
    if len(puzzle) == 1:
        return [()] if puzzle[0] == 24 else []
    return [
        (equation, *rest)
        for equation in dict.fromkeys(_equations(puzzle))
        for rest in solutions(_left(puzzle, equation))
    ]


def _equations(numbers: tuple[int, ...]) -> list[Equation]:
    made = []
    for pair in combinations(numbers, 2):
        low, high = sorted(pair)
        made += [Equation(low, "+", high, low + high), Equation(high, "-", low, high - low)]
        made += [Equation(low, "*", high, low * high), Equation(high, "+", low, low + high)]
        made.append(Equation(high, "*", low, low * high))
        if low and high % low == 0:
            made.append(Equation(high, "/", low, high // low))
    return made


def _left(numbers: tuple[int, ...], equation: Equation) -> tuple[int, ...]:
    """What is left behind an equation, sorted; numbers it takes that are not there are not taken."""
    left = list(numbers)
    for taken in (equation.first, equation.second):
        if taken in left:
            left.remove(taken)
    return tuple(sorted([*left, equation.value]))


def _walk(puzzle: tuple[int, ...], rng: random.Random) -> list[Equation]:
    numbers, walked = puzzle, []
    while len(numbers) > 1:
        walked.append(rng.choice([one for one in _equations(numbers) if one.value < 100] or _equations(numbers)))
        numbers = _left(numbers, walked[-1])
    return walked


def _claimed(equation: Equation, rng: random.Random) -> Equation:
    """24 out of an equation that does not give it: by a false value, or with a number that is not there."""
    if rng.random() < 0.5:
        return equation._replace(value=24)
    kept = rng.choice((equation.first, equation.second))
    made = [Equation(kept, "+", 24 - kept, 24)] if kept < 24 else [Equation(kept, "-", kept - 24, 24)]
    made += [Equation(kept, "*", 24 // kept, 24)] * 2 if kept and 24 % kept == 0 else []
    return rng.choice(made)


def _expression_of(equations: "list[Equation] | tuple[Equation, ...]", rng: random.Random) -> Expression:
    """The steps put together, as far as they hang together."""
    known: dict[int, list[Expression]] = {}
    expression: Expression = 0
    for equation in equations:
        parts = [known[one].pop() if known.get(one) else one for one in (equation.first, equation.second)]
        if equation.sign in "+*" and rng.random() < 0.2:
            parts.reverse()
        expression = (equation.sign, parts[0], parts[1])
        known.setdefault(equation.value, []).append(expression)
    return expression


def _mutated(expression: Expression, puzzle: tuple[int, ...], rng: random.Random) -> Expression:
    """One sign or number is another, comes in or drops out; or a part is what it does not amount to."""
    if isinstance(expression, int):
        return rng.choice((*puzzle, rng.randint(1, 13), rng.randint(1, 24)))
    sign, one, other = expression
    kind = rng.random()
    if kind < 0.45:
        return (
            (sign, _mutated(one, puzzle, rng), other)
            if rng.random() < 0.5
            else (sign, one, _mutated(other, puzzle, rng))
        )
    if kind < 0.6:
        return (rng.choice("+-*/"), one, other)
    if kind < 0.7:
        return (sign, other, one)
    if kind < 0.8:
        return rng.choice((one, other))
    if kind < 0.9 and not isinstance(one, int):  # (a - b) * c as a - (b * c)
        return (one[0], one[1], (sign, one[2], other))
    return (rng.choice("+-*/"), expression, rng.choice((*puzzle, rng.randint(1, 13))))


def _shown(expression: Expression, rng: random.Random, *, inside: str = "") -> str:
    """With all brackets, or without those that arithmetic does not need."""
    if isinstance(expression, int):
        return str(expression)
    sign, one, other = expression
    text = f"{_shown(one, rng, inside=sign + 'l')} {sign} {_shown(other, rng, inside=sign + 'r')}"
    needed = (inside[:1] in ("*", "/") and sign in "+-") or inside in ("-r", "/r") or (inside == "*r" and sign == "/")
    return f"({text})" if inside and (needed or rng.random() < 0.7) else text


def _told(puzzle: tuple[int, ...], equations: list[Equation], expression: Expression, rng: random.Random) -> Chain:
    left, lines, verdicts, so_far = puzzle, [], [], RIGHT
    for equation in equations:
        is_there = all(equation[:3:2].count(one) <= left.count(one) for one in equation[:3:2])
        is_true = exact_value(parse_expression(f"{equation.first}{equation.sign}{equation.second}")) == equation.value
        left = _left(left, equation) if len(left) > 1 else (equation.value,)
        told = left if len(lines) < 2 or is_there else (equation.value,)
        said = f"{equation.first} {equation.sign} {equation.second} = {equation.value}"
        lines.append(f"{said} (left: {' '.join(map(str, told))})\n")
        so_far = so_far if so_far != RIGHT else NUMBERS if not is_there else RIGHT if is_true else WRONG
        verdicts.append(so_far)
    lines[0] = "Steps:\n" + lines[0]
    text = _shown(expression, rng)
    parsed = parse_expression(text)
    value = exact_value(parsed)
    if equations[-1].value != 24 and rng.random() < 0.25:
        return _chain(puzzle, [*lines, rng.choice(GIVING_UP)], [*verdicts, WRONG])
    is_whole = value is not None and value.denominator == 1
    told_value = 24 if rng.random() < 0.85 or not is_whole else value
    has_numbers = sorted(numbers_in(parsed)) == list(map(Fraction, puzzle))
    verdict = NUMBERS if not has_numbers else RIGHT if value == 24 else WRONG
    return _chain(puzzle, [*lines, f"Answer: {text} = {told_value}"], [*verdicts, verdict])


def _chain(puzzle: tuple[int, ...], steps: list[str], verdicts: list[str]) -> Chain:
    prompt = f"Use the numbers {' '.join(map(str, puzzle))} and + - * / to reach 24."
    return Chain(prompt, tuple(steps), tuple(verdicts))
