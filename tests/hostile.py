"""Answers that try to hang, crash or own whoever compares them."""

import random
from collections.abc import Callable

GOLDS = (
    "4", r"\frac{1}{2}", "x^2+1", "(1,2)", r"\text{no}", r"\{1,2\}", "x < 3",
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
)  # fmt: skip
BAIT = "PWNED"
"""Name of a file that comes to be in the working directory where anything is run."""

_CODE = [
    f"__import__('os').system('touch {BAIT}')",
    "().__class__.__bases__[0].__subclasses__()",
    f'exec(\'open("{BAIT}","w")\')',
    f"open('{BAIT}','w')",
    "eval(compile('1','','eval'))",
    "{{7*7}}",
    f"$(touch {BAIT})",
    f"`touch {BAIT}`",
    f"lambda: open('{BAIT}','w')",
    r"\input{/etc/passwd}",
    rf"\write18{{touch {BAIT}}}",
    f"[x for x in open('{BAIT}', 'w')]",
    f"f(open,{BAIT})",
]
_SIGNS = [
    "\\",
    "{",
    "}",
    "^",
    "_",
    "$",
    "&",
    "#",
    "%",
    "~",
    r"\frac",
    r"\left(",
    r"\right)",
    r"\text{",
    "1",
    "x",
    " ",
    "\n",
]
_WORK = [r"\int_0^{\infty}", r"\sum_{n=1}^{99}", r"\prod_{n=1}^{100000}", r"\lim_{x\to 0}", r"\binom{1000000}{99}"]


def _number(rng: random.Random) -> str:
    return str(rng.choice([0, 1, 2, 7, 9, 10, 99, 10**6, -3, 0.5]))


def _numbers(rng: random.Random, most: int) -> list[str]:
    return [_number(rng) for _ in range(rng.randrange(1, most))]


def _any_character(rng: random.Random) -> str:
    ranges = (rng.randrange(32, 127), rng.randrange(0x80, 0x3000), rng.randrange(0x1F300, 0x1F600))
    return chr(rng.choice([*ranges, 0x202E, 0x200B, 0, 0xFEFF, 0xD800]))


def _matrix(rng: random.Random) -> str:
    size = rng.randrange(1, 12)
    rows = r" \\ ".join(" & ".join(_number(rng) for _ in range(size)) for _ in range(size))
    return rf"\begin{{pmatrix}}{rows}\end{{pmatrix}}" + rng.choice(["", f"^{{{_number(rng)}}}", "^{-1}"])


def _tower(rng: random.Random) -> str:
    numbers = _numbers(rng, 12)
    return "^{".join(numbers) + "}" * (len(numbers) - 1)


def _terms(rng: random.Random) -> str:
    terms = ["x", r"\sin x", r"\sqrt{x}", f"x^{{{_number(rng)}}}", _number(rng)]
    return "+".join(rng.choice(terms) for _ in range(rng.randrange(1, 40)))


def _nested(rng: random.Random, opening: str, closing: str) -> str:
    depth = rng.randrange(1, 12)
    return opening * depth + _number(rng) + closing * rng.choice([depth, depth, rng.randrange(depth + 2)])


KINDS: tuple[Callable[[random.Random], str], ...] = (
    _tower,
    lambda rng: "^".join(_numbers(rng, 12)),
    lambda rng: rng.choice("([{") * rng.randrange(1, 400),
    lambda rng: _nested(rng, r"\frac{1}{", "}"),
    lambda rng: _nested(rng, r"\sqrt{", "}"),
    lambda rng: _nested(rng, "(", ")"),
    lambda rng: rng.choice(_CODE) + _number(rng) * rng.randrange(3),
    lambda rng: "".join(_any_character(rng) for _ in range(rng.randrange(1, 300))),
    lambda rng: rng.choice(["x", "9", "(", "\0", r"\frac"]) * rng.randrange(300, 500_000),
    lambda rng: "\0" * rng.randrange(1, 12) + _number(rng),
    _terms,
    lambda rng: _number(rng) + "!" * rng.randrange(1, 12),
    lambda rng: f"{rng.choice(_WORK)} {rng.choice(['x^x', r'frac{1}{n^n}', r'sin(x^2)', 'e^{-x^2}'])} dx",
    _matrix,
    lambda rng: ",".join(_numbers(rng, 140)),
    lambda rng: "".join(rng.choice(_SIGNS) for _ in range(rng.randrange(1, 80))),
    lambda rng: (
        f"x^{{{'9' * rng.randrange(1, 12)}}}+{_number(rng)}={_number(rng)}" + rng.choice(["", ", x>0", r"\le y"])
    ),
)


def hostile_answer(rng: random.Random) -> str:
    return rng.choice(KINDS)(rng)
