"""Trees that a viewer must cope with: thousands of steps, hostile texts, LaTeX, forks, ends of every kind."""

import random

from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, Verdict, build_tree

HOSTILE = {
    "markup": '</script><script>document.title = "run"</script><img src=x onerror=alert(1)>',
    "comment": "<!-- <script> ]]> &lt;b&gt; <svg onload=alert(1)>",
    "bidi": "right \u202egnihton si siht\u202c \u2066isolated\u2069 \u200fmark",
    "controls": "bell \u0007 null \u0000 byte order \ufeff separators \u2028\u2029 lone \ud800",
    "latex": r"\href{javascript:alert(1)}{x} $\href{javascript:alert(1)}{x}$ $\def\a{\a\a}\a$ $\frac{1}{$",
    "separators": '"];{"x":"y"}\\" \\u003c/script> \\\\ \t\n\n\n',
    "long": "a" * 1_000_000,
}
LATEX = (
    r"We have $\frac{x^2 - 1}{x - 1} = x + 1$ for $x \neq 1$.",
    r"So \[\sum_{k=1}^{n} k = \frac{n(n+1)}{2}\] holds, it costs $5 and $6.",
    r"Therefore \(\sqrt{2}\) is the answer: \boxed{\frac{1}{2}}",
)


def big_tree(num_nodes: int, *, seed: int = 0) -> ReasoningTree:
    """A random tree of about so many steps, up to 12 deep, a tenth of its ends right, with random flows."""
    generator = random.Random(seed)
    rollouts: list[Rollout] = []
    paths: list[tuple[Step, ...]] = [()]
    count = 0
    while count < num_nodes:
        prefix = generator.choice(paths)
        path = list(prefix)
        while len(path) < 12 and (len(path) < 2 or generator.random() < 0.8):
            path.append(Step(f"step {count} of {len(path)};", (1, 2, 3), -generator.random(), StopReason.STOP))
            count += 1
            paths.append(tuple(path))
        path.append(Step(f"end {count}", (4,), -0.1, StopReason.EOS))
        count += 1
        rollouts.append(Rollout(len(rollouts), len(rollouts), 0, tuple(path)))
    tree = build_tree(Problem("big", "a big tree"), rollouts, judge=lambda text: _judge(text))
    return tree.with_log_flows([generator.gauss(0, 1) for _ in tree.nodes])


def _judge(text: str) -> Verdict:
    number = text.rpartition(" ")[2]
    return Verdict(int(number) % 10 == 0, number, "ends in 0" if int(number) % 10 == 0 else "does not end in 0")


def chain(problem: Problem, *texts: str, right: bool = True) -> ReasoningTree:
    """One path; its last step ends the solution."""
    stops = [*[StopReason.STOP] * (len(texts) - 1), StopReason.EOS]
    steps = tuple(Step(text, (1,), -0.5, stop) for text, stop in zip(texts, stops, strict=True))
    tree = build_tree(problem, [Rollout(0, 0, 0, steps)], judge=lambda _: Verdict(right, "answer", texts[-1]))
    return tree.with_log_flows([0.1 * index for index in range(len(tree.nodes))])


def hostile_trees() -> list[ReasoningTree]:
    """One for each hostile text: as the problem's name, its prompt, a step, an answer and a reason."""
    return [chain(Problem(text[:60], text), text, text[:300] + " end") for text in HOSTILE.values()]


def latex_tree() -> ReasoningTree:
    return chain(Problem("latex", "What is $\\lim_{x \\to 1} \\frac{x^2-1}{x-1}$?"), *LATEX)


def mixed_tree() -> ReasoningTree:
    """Two right draws of four (equal ones merged), a fork, an end that was cut off; the right one has most flow."""

    def step(text: str, stop: StopReason = StopReason.STOP) -> Step:
        return Step(text, (1, 2), -0.7, stop)

    right = (step("first;"), step("good end", StopReason.EOS))
    wrong = (step("second;"), step("third;"), step("bad end", StopReason.EOS))
    cut = (step("second;"), step("never ends", StopReason.LENGTH))
    rollouts = [Rollout(0, 0, 0, right), Rollout(1, 1, 0, right), Rollout(2, 2, 0, wrong), Rollout(3, 3, 0, cut)]
    rollouts.append(Rollout(4, 2, 1, (step("forked end", StopReason.EOS),)))
    tree = build_tree(Problem("mixed", "a tree with all signs"), rollouts, judge=lambda t: Verdict("good" in t, t[-8:]))
    flows = {"": 0.0, "first;": 1.5, "good end": 2.2, "second;": -1.0, "third;": -1.5, "bad end": -2.3}
    return tree.with_log_flows([flows.get(node.text, -2.0) for node in tree.nodes])
