"""Expressions as Python writes them, `3*(x + 1)**2/4`, read by a parser of our own: nothing is given to an interpreter.

Arithmetic is exact, over fractions. Expressions with a variable are compared at points of the complex plane, with their
derivatives. Knows no task.
"""

import cmath
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

_LONGEST = 1000  # characters
_DEEPEST = 40  # brackets, signs and powers inside each other
_TOKEN = re.compile(r"\s*(\d+\.?\d*(?:[eE][+-]?\d{1,2})?|\.\d+|[A-Za-z]\w*|\*\*|[-+*/(),])", re.ASCII)
_LONGEST_NUMBER = 40


class Node(NamedTuple):
    """An expression. `kind` is `number`, `name`, `call`, `-` (sign) or an operation."""

    kind: str
    value: Fraction | str = ""
    "of a number; or the name"
    parts: tuple["Node", ...] = ()

    def walk(self) -> Iterator["Node"]:
        yield self
        for part in self.parts:
            yield from part.walk()


def parse_expression(text: str) -> Node | None:
    """The expression that a text is; None where it is none, or too long or too deep to be meant."""
    if len(text) > _LONGEST:
        return None
    tokens, place, text = [], 0, text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or len(match[1]) > _LONGEST_NUMBER:
            return None
        tokens.append(match[1])
        place = match.end()
    parser = _Parser(tokens)
    try:
        node = parser.sum(0)
    except (_NotAnExpression, ZeroDivisionError):
        return None
    return node if parser.next() == "" else None


class _NotAnExpression(Exception):
    pass


class _Parser:
    """Recursive descent over tokens, with Python's precedence: `-2**2` is -4, and `2**3**2` is 512."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens, self._place = tokens, 0

    def next(self) -> str:
        return self._tokens[self._place] if self._place < len(self._tokens) else ""

    def _take(self) -> str:
        token = self.next()
        self._place += 1
        return token

    def sum(self, depth: int) -> Node:
        return self._chain(depth, ("+", "-"), self._product)

    def _product(self, depth: int) -> Node:
        return self._chain(depth, ("*", "/"), self._signed)

    def _chain(self, depth: int, signs: tuple[str, str], part: Callable[[int], Node]) -> Node:
        node = part(depth)
        while self.next() in signs:
            node = Node(self._take(), "", (node, part(depth)))
        return node

    def _signed(self, depth: int) -> Node:
        if depth > _DEEPEST:
            raise _NotAnExpression
        if self.next() in ("-", "+"):
            sign = self._take()
            node = self._signed(depth + 1)
            return Node("negative", "", (node,)) if sign == "-" else node
        node = self._atom(depth)
        if self.next() == "**":
            self._take()
            node = Node("**", "", (node, self._signed(depth + 1)))
        return node

    def _atom(self, depth: int) -> Node:
        token = self._take()
        if token == "(":
            node = self.sum(depth + 1)
        elif token[:1].isdigit() or token[:1] == ".":
            return Node("number", Fraction(token))
        elif token[:1].isalpha() and self.next() == "(":
            self._take()
            node = Node("call", token, (self.sum(depth + 1),))
        elif token[:1].isalpha():
            return Node("name", token)
        else:
            raise _NotAnExpression
        if self._take() != ")":
            raise _NotAnExpression
        return node


def exact_value(expression: Node) -> Fraction | None:
    """Its value by + - * / and signs; None where there is more in it, or a division by zero."""
    if expression.kind == "number":
        assert isinstance(expression.value, Fraction)
        return expression.value
    values = [exact_value(part) for part in expression.parts]
    if expression.kind not in _EXACT or None in values or (expression.kind == "/" and values[1] == 0):
        return None
    return _EXACT[expression.kind](*values)


_EXACT: dict[str, Callable[..., Fraction]] = {
    "+": lambda one, other: one + other,
    "-": lambda one, other: one - other,
    "*": lambda one, other: one * other,
    "/": lambda one, other: one / other,
    "negative": lambda one: -one,
}


def numbers_in(expression: Node) -> list[Fraction]:
    """The numbers it is made of, from left to right."""
    return [node.value for node in expression.walk() if isinstance(node.value, Fraction)]


class _Dual(NamedTuple):
    """A value and its derivative."""

    value: complex
    slope: complex


def derivative_is(expression: Node, expected: Node, variable: str) -> bool:
    """Is the derivative of one expression the other? Looked at in eight points of the complex plane, to nine digits.

    Analytic expressions that agree there are the same. Other names than the variable are constants.
    """
    # Close to the real segment (0, 1), where the roots, logarithms and arc functions of school have their main branch.
    points = [complex(0.11 + 0.1 * step, 0.013 * (step + 1)) for step in range(8)]
    agreed = 0
    for point in points:
        try:
            slope, value = _dual(expression, variable, point).slope, _dual(expected, variable, point).value
        except (ArithmeticError, ValueError):
            continue
        if not cmath.isfinite(slope) or abs(slope - value) > 1e-9 * (1e-3 + abs(slope) + abs(value)):
            return False
        agreed += 1
    return agreed > len(points) // 2


def _dual(node: Node, variable: str, point: complex) -> _Dual:
    """Raises ArithmeticError or ValueError where it has no value, or holds something that is not known."""
    if node.kind == "number":
        return _Dual(float(node.value), 0)
    if node.kind == "name":
        if node.value == variable:
            return _Dual(point, 1)
        return _Dual(_CONSTANTS.get(str(node.value), _constant(str(node.value))), 0)
    parts = [_dual(part, variable, point) for part in node.parts]
    if node.kind == "call":
        if node.value not in _FUNCTIONS:
            raise ValueError(node.value)
        function, slope = _FUNCTIONS[str(node.value)]
        return _Dual(function(parts[0].value), slope(parts[0].value) * parts[0].slope)
    return _OPERATIONS[node.kind](*parts)


_CONSTANTS = {"E": cmath.e, "pi": cmath.pi}


def _constant(name: str) -> complex:
    """Some number for a constant of unknown value, like the C of an integral."""
    return 0.5 + sum(map(ord, name)) % 97 / 97


def _power(base: _Dual, exponent: _Dual) -> _Dual:
    value = base.value**exponent.value
    slope = exponent.value * base.value ** (exponent.value - 1) * base.slope
    return _Dual(value, slope + (value * cmath.log(base.value) * exponent.slope if exponent.slope else 0))


_OPERATIONS: dict[str, Callable[..., _Dual]] = {
    "+": lambda one, other: _Dual(one.value + other.value, one.slope + other.slope),
    "-": lambda one, other: _Dual(one.value - other.value, one.slope - other.slope),
    "*": lambda one, other: _Dual(one.value * other.value, one.slope * other.value + one.value * other.slope),
    "/": lambda one, other: _Dual(
        one.value / other.value, (one.slope * other.value - one.value * other.slope) / other.value**2
    ),
    "**": _power,
    "negative": lambda one: _Dual(-one.value, -one.slope),
}
_Function = Callable[[complex], complex]
_FUNCTIONS: dict[str, tuple[_Function, _Function]] = {
    "exp": (cmath.exp, cmath.exp),
    "log": (cmath.log, lambda x: 1 / x),
    "sqrt": (cmath.sqrt, lambda x: 0.5 / cmath.sqrt(x)),
    "sin": (cmath.sin, cmath.cos),
    "cos": (cmath.cos, lambda x: -cmath.sin(x)),
    "tan": (cmath.tan, lambda x: 1 / cmath.cos(x) ** 2),
    "sec": (lambda x: 1 / cmath.cos(x), lambda x: cmath.sin(x) / cmath.cos(x) ** 2),
    "csc": (lambda x: 1 / cmath.sin(x), lambda x: -cmath.cos(x) / cmath.sin(x) ** 2),
    "cot": (lambda x: 1 / cmath.tan(x), lambda x: -1 / cmath.sin(x) ** 2),
    "asin": (cmath.asin, lambda x: 1 / cmath.sqrt(1 - x * x)),
    "acos": (cmath.acos, lambda x: -1 / cmath.sqrt(1 - x * x)),
    "atan": (cmath.atan, lambda x: 1 / (1 + x * x)),
    "sinh": (cmath.sinh, cmath.cosh),
    "cosh": (cmath.cosh, cmath.sinh),
    "tanh": (cmath.tanh, lambda x: 1 / cmath.cosh(x) ** 2),
}
_FUNCTIONS |= {"ln": _FUNCTIONS["log"]} | {f"arc{name[1:]}": _FUNCTIONS[name] for name in ("asin", "acos", "atan")}
