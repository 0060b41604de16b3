"""Countdown: combine numbers with + - * / until one is left, and that one is the target.

A solution is a chain of steps, each with the Markov state behind it: `15-13=2|2 2 11;` says that 15 and 13 were
replaced by 2, and that 2, 2 and 11 are left. `;` stands between steps; the last step ends with the end of the text.
This module knows the law problems are drawn from, the grammar, the exact checker and the exact solver. It knows no
model, tokenizer or file. Nothing that a model wrote is ever evaluated: numbers are read by a regular expression of
bounded length and combined with exact integers.
"""

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from arts.protocols import Split
from arts.tree import Problem, Verdict

STEP_SEPARATOR = ";"
MAX_INPUT = 15  # numbers of a problem are drawn from 1..15
MAX_RESULT = 99  # every intermediate result lies in 1..99
_MOST_IN_VAIN = 50_000
MIN_TARGET, MAX_TARGET = 10, 60
MAX_NUMBERS = 6  # more would make the exact solver slow, and no model here was shown them

_NUMBER = r"(?:0|[1-9]\d{0,3})"  # no leading zeros: one way to write a number
_STEP = re.compile(rf"({_NUMBER})([-+*/])({_NUMBER})=({_NUMBER})\|({_NUMBER}(?: {_NUMBER})*)", re.ASCII)
_PROBLEM = re.compile(r"\s*(\d{1,4}(?:[\s,]+\d{1,4})*)\s*>\s*(\d{1,4})\s*", re.ASCII)


class Move(NamedTuple):
    """Replace `left` and `right` by `result = left operator right`."""

    left: int
    operator: str
    right: int
    result: int


@dataclass(frozen=True)
class CountdownProblem:
    """Numbers (kept sorted: the order they were typed in does not matter) and the target to reach with all of them."""

    numbers: tuple[int, ...]
    target: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", tuple(sorted(self.numbers)))

    @cached_property
    def text(self) -> str:
        return f"{' '.join(map(str, self.numbers))} > {self.target}"

    @property
    def split(self) -> Split:
        """The split this problem belongs to for ever: 80% train, 10% validation, 10% test, by hash of its text."""
        bucket = int.from_bytes(hashlib.sha256(self.text.encode()).digest()[:8], "big") % 10
        return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def parse_problem(text: str) -> CountdownProblem:
    """Read `3 5 7 11 > 24`.

    Raises:
        ValueError: says what was received and what is allowed.
    """
    match = _PROBLEM.fullmatch(text)
    if match is None:
        raise ValueError(
            f"not a Countdown problem: {text[:80]!r}; write the numbers, '>' and the target, like '3 5 7 11 > 24'"
        )
    numbers = tuple(int(number) for number in re.split(r"[\s,]+", match[1]))
    target = int(match[2])
    if not 2 <= len(numbers) <= MAX_NUMBERS:
        raise ValueError(f"{len(numbers)} numbers in {text.strip()[:80]!r}; Countdown takes 2 to {MAX_NUMBERS}")
    if not all(1 <= number <= MAX_RESULT for number in (*numbers, target)):
        raise ValueError(f"a number of {text.strip()!r} lies outside 1..{MAX_RESULT}")
    return CountdownProblem(numbers, target)


def legal_moves(state: Sequence[int]) -> list[tuple[Move, tuple[int, ...]]]:
    """All moves from a sorted state, each with the sorted state behind it, one entry per pair of positions.

    The larger number is written first; results stay in 1..99, division is exact and differences are positive.
    """
    moves = []
    for i in range(len(state)):
        for j in range(i):
            small, large = state[j], state[i]
            rest = [number for k, number in enumerate(state) if k != i and k != j]
            candidates = [("+", large + small), ("*", large * small)]
            if large > small:
                candidates.append(("-", large - small))
            if large % small == 0:
                candidates.append(("/", large // small))
            for operator, result in candidates:
                if result <= MAX_RESULT:
                    moves.append((Move(large, operator, small, result), tuple(sorted([*rest, result]))))
    return moves


def step_text(move: Move, state: Sequence[int]) -> str:
    return f"{move.left}{move.operator}{move.right}={move.result}|{' '.join(map(str, state))}"


def sample_trace(rng: random.Random, num_numbers: int) -> tuple[CountdownProblem, str]:
    """Draw a problem together with one solution of it.

    The problem law: `num_numbers` numbers from 1..15, then uniformly random legal moves until one number is left; that
    number is the target, and the whole draw is repeated unless it lies in 10..60.
    """
    while True:
        numbers = tuple(sorted(rng.randint(1, MAX_INPUT) for _ in range(num_numbers)))
        state, steps = numbers, []
        while len(state) > 1:
            moves = legal_moves(state)
            if not moves:
                break
            move, state = moves[rng.randrange(len(moves))]
            steps.append(step_text(move, state))
        if len(state) == 1 and MIN_TARGET <= state[0] <= MAX_TARGET:
            return CountdownProblem(numbers, state[0]), STEP_SEPARATOR.join(steps)


def sample_problems(seed: int, split: Split, num_numbers: int = 4) -> Iterator[CountdownProblem]:
    """Stream of distinct problems of one split; the first n are the same for every n.

    A problem is drawn with its solution, so those with many solutions come early and later ones are harder. The stream
    ends when `_MOST_IN_VAIN` draws in a row bring nothing new: with 3 numbers after some hundreds of test problems.
    """
    rng = random.Random(f"countdown-{split}-{num_numbers}-{seed}")
    seen: set[str] = set()
    in_vain = 0
    while in_vain < _MOST_IN_VAIN:
        problem, _ = sample_trace(rng, num_numbers)
        in_vain += 1
        if problem.split == split and problem.text not in seen:
            seen.add(problem.text)
            in_vain = 0
            yield problem


def parse_steps(solution: str) -> list[tuple[Move, tuple[int, ...]]] | None:
    """The claimed moves and states of a solution, or None where the text is not in the grammar. Nothing is checked."""
    steps = []
    for text in solution.split(STEP_SEPARATOR):
        match = _STEP.fullmatch(text)
        if match is None:
            return None
        state = tuple(int(number) for number in match[5].split(" "))
        steps.append((Move(int(match[1]), match[2], int(match[3]), int(match[4])), state))
    return steps


def _move_is_exact(move: Move) -> bool:
    left, operator, right, result = move
    match operator:
        case "+":
            return left + right == result
        case "-":
            return left - right == result
        case "*":
            return left * right == result
        case _:
            return right != 0 and left == right * result


def check(problem: CountdownProblem, solution: str) -> str:
    """What is wrong with a solution, or "" where it is right: grammar, arithmetic, each number once, states, target."""
    steps = parse_steps(solution)
    if steps is None:
        return "not in the grammar"
    state = list(problem.numbers)
    for index, (move, claimed_state) in enumerate(steps, start=1):
        for operand in (move.left, move.right):
            if operand not in state:
                return f"step {index} uses {operand}, which is not there"
            state.remove(operand)
        if not _move_is_exact(move):
            return f"step {index} is wrong: {move.left}{move.operator}{move.right}={move.result}"
        if not 1 <= move.result <= MAX_RESULT:
            return f"step {index} leaves 1..{MAX_RESULT}"
        state.append(move.result)
        if sorted(claimed_state) != sorted(state):
            return f"step {index} states the wrong numbers"
    if len(state) > 1:
        return f"{len(state)} numbers are left"
    if state[0] != problem.target:
        return f"reaches {state[0]}, not {problem.target}"
    return ""


def answer_key(problem: CountdownProblem, solution: str) -> str | None:
    """What majority voting counts: the final expression up to commutativity, right or wrong; None outside the grammar.

    The key only follows what the text claims (a step's result stands for its expression), so it leaks nothing that the
    checker knows. Many right expressions share the votes, which makes voting a weak baseline on this task.
    """
    steps = parse_steps(solution)
    if steps is None:
        return None
    pool = [(number, str(number)) for number in problem.numbers]
    expression = ""
    for move, _ in steps:
        left, right = _take(pool, move.left), _take(pool, move.right)
        expression = _commutative(left, move.operator, right)
        pool.append((move.result, expression))
    return expression


def _take(pool: list[tuple[int, str]], number: int) -> str:
    """Remove `number` from the pool and give its expression; a number that is not there stands for itself.

    Where several expressions have this value the text does not say which is meant. The greatest string is taken (a
    given number before any result), so that the key does not depend on the order of independent steps.
    """
    candidates = [entry for entry in pool if entry[0] == number]
    if not candidates:
        return str(number)
    pool.remove(max(candidates))
    return max(candidates)[1]


def _commutative(left: str, operator: str, right: str) -> str:
    if operator in "+*":
        left, right = sorted((left, right))
    return f"({left}{operator}{right})"


@lru_cache(maxsize=4096)
def solutions(problem: CountdownProblem) -> frozenset[str]:
    """All solutions, exactly: the distinct expressions, up to commutativity, that reach the target with every number.

    The search follows the same moves as the law of the problems (results in 1..99). Empty when there is none.
    """
    seen: set[tuple[tuple[int, str], ...]] = set()
    found: set[str] = set()

    def explore(pool: tuple[tuple[int, str], ...]) -> None:
        if pool in seen:
            return
        seen.add(pool)
        if len(pool) == 1:
            if pool[0][0] == problem.target:
                found.add(pool[0][1])
            return
        for i in range(len(pool)):
            for j in range(i):
                (small, right), (large, left) = pool[j], pool[i]
                rest = [item for k, item in enumerate(pool) if k != i and k != j]
                for move, _ in legal_moves((small, large)):
                    explore(tuple(sorted([*rest, (move.result, _commutative(left, move.operator, right))])))

    explore(tuple(sorted((number, str(number)) for number in problem.numbers)))
    return frozenset(found)


@lru_cache(maxsize=1 << 16)
def reachable(state: tuple[int, ...], target: int) -> bool:
    """Can `target` still be reached from a sorted state? The exact value that a perfect guide would know."""
    if len(state) == 1:
        return state[0] == target
    return any(reachable(behind, target) for _, behind in legal_moves(state))


DIFFICULTIES = ("1-2 solutions", "3-9 solutions", "10-29 solutions", "30+ solutions")


def difficulty(problem: CountdownProblem) -> str:
    """A class of `DIFFICULTIES`, by the number of distinct solutions: the fewer, the harder."""
    count = len(solutions(problem))
    return DIFFICULTIES[(count > 2) + (count > 9) + (count > 29)]


class CountdownTask:
    """Countdown as a `Task`: `num_numbers` numbers a problem."""

    step_separator = STEP_SEPARATOR

    def __init__(self, num_numbers: int = 4) -> None:
        if not 3 <= num_numbers <= MAX_NUMBERS:
            raise ValueError(f"Countdown with {num_numbers} numbers; problems are drawn with 3 to {MAX_NUMBERS}")
        self.num_numbers = num_numbers
        self.name = "countdown" if num_numbers == 4 else f"countdown:{num_numbers}"
        self.max_new_tokens = 12 * num_numbers + 8  # a right solution takes at most 10 tokens a step

    def problems(self, split: Split, seed: int) -> Iterator[Problem]:
        for problem in sample_problems(seed, split, self.num_numbers):
            yield Problem(id=problem.text, prompt=problem.text)

    def parse(self, text: str) -> Problem:
        problem = parse_problem(text)
        if not solutions(problem):
            raise ValueError(f"{problem.text!r} has no solution with results in 1..{MAX_RESULT}; try another target")
        return Problem(id=problem.text, prompt=problem.text)

    def judge(self, problem: Problem, solution: str) -> Verdict:
        countdown = parse_problem(problem.prompt)
        reason = check(countdown, solution)
        return Verdict(correct=not reason, answer=answer_key(countdown, solution), reason=reason)

    def difficulty(self, problem: Problem) -> str | None:
        """Class by number of solutions. The classes are made for up to 4 numbers; more would take long to count."""
        countdown = parse_problem(problem.prompt)
        return difficulty(countdown) if len(countdown.numbers) <= 4 else None
