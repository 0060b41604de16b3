"""Cutting solutions into steps: nothing lost, nothing too long, no formula broken."""

import gzip
import json
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arts.text_steps import STYLES, Style, cut_steps, protected_spans, step_ends, step_style, token_counts

PIECES = st.sampled_from([
    "Then ", "x", "so y", ". ", ".\n", "\n", "\n\n", "\n \n", "## Step 2\n", "Step 3: ", "**Step 4** ", "1. ",
    "2. ", "? ",
    "$a+b$", "$ 5 ", "$5 and $6 ", "$$c\n\nd$$", "\\[x\n\n. Y\\]", "\\(z. W\\)", "\\boxed{1. 2}", "\\frac{1}{2}", "\\[",
    "\\begin{align}u\n\nv. W\\end{align}", "\\begin{a}\\begin{a}. B\\end{a}\n\nC\\end{a}", "```\ncode\n\n. X\n```",
    "$", "```", "}", "[asy]\n\ndraw. X;\n[/asy]", "we get:\n\n", "---\n\n", "</think>\n", "<answer>7</answer>",
    "e.g. Ann. ", "3.5", "é", "\\",
])  # fmt: skip
texts = st.lists(PIECES, max_size=25).map("".join)
styles = st.sampled_from(STYLES)
bounds = st.integers(1, 60) | st.just(1000)


@settings(max_examples=200)
@given(texts, st.none() | styles, bounds)
def test_steps_are_the_text_and_none_is_empty_or_too_long(text: str, style: Style | None, max_chars: int) -> None:
    steps = cut_steps(text, style=style, max_chars=max_chars)
    assert "".join(steps) == text
    assert all(0 < len(step) <= max_chars for step in steps)
    ends = step_ends(text, style=style, max_chars=max_chars)
    assert ends == sorted(set(ends)) and ends[-1:] == [len(text)] * bool(text)


@settings(max_examples=200)
@given(texts, styles, bounds)
def test_no_step_ends_inside_a_formula_or_code(text: str, style: Style, max_chars: int) -> None:
    spans = list(protected_spans(text, max_chars))
    assert all(0 < end - start <= max_chars for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    for place in step_ends(text, style=style, max_chars=max_chars):
        assert not any(start < place < end for start, end in spans)


@settings(max_examples=200)
@given(texts, styles, bounds)
@example("a $b c\n\nd$ e", "paragraphs", 1000)
def test_a_step_cut_again_stays_whole(text: str, style: Style, max_chars: int) -> None:
    for step in cut_steps(text, style=style, max_chars=max_chars):
        assert cut_steps(step, style=style, max_chars=max_chars) == [step]


CLOSED = ["Then x is 3. ", "So $a+b$ is 5. ", "We get \\[x = 1\\] again. ", "It is \\boxed{7}, as said. "]


@given(st.lists(st.sampled_from(CLOSED), min_size=1, max_size=8), texts, styles)
def test_what_follows_changes_no_step_before_it(sentences: list[str], later: str, style: Style) -> None:
    """Where the text before is finished: its formulas are closed, and it ends a step in the style."""
    end = {"headings": "\n## Step 1\nSo. ", "paragraphs": "\n\nSo. ", "lines": "\nSo. ", "sentences": "So. "}[style]
    before = end.join(sentences)
    cut = cut_steps(before, style=style)
    assert cut_steps(before + end + later, style=style)[: len(cut) - 1] == cut[:-1]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", []),
        ("one", ["one"]),
        ("Let x = 1. Then y = 2. So z = 3.", ["Let x = 1. ", "Then y = 2. ", "So z = 3."]),
        ("a\nb\nc", ["a\n", "b\n", "c"]),
        ("a b\nc\n\nd\n\ne", ["a b\nc\n\n", "d\n\n", "e"]),
        ("## Step 1\na\n\nb\n## Step 2\nc\n\n## Step 3\nd",
         ["## Step 1\na\n\nb\n", "## Step 2\nc\n\n", "## Step 3\nd"]),
        ("Step 1: a\nb\nStep 2: c\nStep 3: d", ["Step 1: a\nb\n", "Step 2: c\n", "Step 3: d"]),
        ("We get:\n\n\\[x=1\\]\n\nand\n\nso on\n\n", ["We get:\n\n\\[x=1\\]\n\n", "and\n\n", "so on\n\n"]),
        ("a\n\n---\n\nb\n\nc\n\n", ["a\n\n", "---\n\nb\n\n", "c\n\n"]),
        ("See Mr. Jones, e.g. Ann. He is 3.5 m. Is it $a. B$? Yes.",
         ["See Mr. Jones, e.g. Ann. ", "He is 3.5 m. ", "Is it $a. B$? ", "Yes."]),
        ("It costs $5. Then it is $6. So $11.", ["It costs $5. ", "Then it is $6. ", "So $11."]),
        ("<think>It is 1. It is 2.</think>\n<answer>3</answer>",
         ["<think>It is 1. ", "It is 2.</think>\n", "<answer>3</answer>"]),
        ("1. First\n2. Then\n3. Last", ["1. First\n", "2. Then\n", "3. Last"]),
    ],
)  # fmt: skip
def test_texts_are_cut_at_the_coarsest_separator_that_makes_three_steps(text: str, steps: list[str]) -> None:
    assert cut_steps(text) == steps


def test_a_long_step_is_cut_at_the_next_finer_place() -> None:
    text = "One two three. " * 20 + "\n\nb\n\nc"
    steps = cut_steps(text, style="paragraphs", max_chars=100)
    assert "".join(steps) == text and max(map(len, steps)) <= 100
    assert all(step.endswith(". ") for step in steps[:3]), "at sentences"
    assert cut_steps("x" * 25, max_chars=10) == ["x" * 10, "x" * 10, "x" * 5]
    assert cut_steps("ab " + "\\boxed{" + "1" * 5 + "}", max_chars=14) == ["ab ", "\\boxed{11111}"]


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="max_chars is 0"):
        cut_steps("a", max_chars=0)
    with pytest.raises(ValueError, match="style is 'words'; allowed are headings"):
        cut_steps("a", style="words")  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 4), max_size=12), st.lists(st.integers(1, 30), max_size=6))
def test_tokens_belong_to_the_step_that_they_begin_in(sizes: list[int], cuts: list[int]) -> None:
    offsets, place = [], 0
    for size in sizes:
        offsets.append((place, place + size))
        place += size
    ends = sorted({min(cut, place) for cut in cuts} | {place}) if place else []
    counts = token_counts(ends, [*offsets, (place, place)] if offsets else [])
    assert counts == sorted(set(counts)) and counts[-1:] == [len(sizes) + 1] * bool(sizes)
    start = 0
    for count in counts[:-1]:
        assert any(offsets[start][0] < end <= offsets[count - 1][1] for end in ends), "the last token reaches an end"
        assert offsets[count - 1][1] >= next(end for end in ends if end > offsets[count - 1][0])
        start = count


def test_steps_of_a_real_tokenizer() -> None:
    from tokenizers import ByteLevelBPETokenizer

    text = "Let x = 1. Then y = 2.\n\nSo é = 3.\n\nThe answer is \\boxed{3}."
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([text] * 5, vocab_size=275, show_progress=False)
    encoded = tokenizer.encode(text)
    counts = token_counts(step_ends(text), encoded.offsets)
    pieces = [tokenizer.decode(encoded.ids[start:end]) for start, end in pairwise([0, *counts])]
    assert pieces == cut_steps(text) and len(pieces) == 3


# Steps a solution: (file, solutions, middle, 95%, most). The table of docs/tasks.md; the test keeps it true.
TABLE = [
    line.strip("| \n").split(" | ")
    for line in (ROOT / "docs/tasks.md").read_text("utf-8").splitlines()
    if line.startswith(("| amc23_", "| game24_", "| gsm8k_", "| math500_"))
]


def solutions(folder: Path, name: str) -> list[str]:
    with gzip.open(next((folder / "rollouts").glob(f"{name}.json*.gz")), "rt", encoding="utf-8") as file:
        if name.startswith("amc23"):
            problems = json.load(file)["categories"][0]["datasets"][0]["results"]
            return [one["full_model_response"] for problem in problems for one in problem["completions"]]
        if name.startswith("game24"):
            return [text for row in json.load(file) for text in row["ys"]]
        rows = [json.loads(line) for line in file]
    if name.startswith("gsm8k"):
        return [cell["solution"] for row in rows for cell in row.values() if isinstance(cell, dict)]
    return [text for row in rows for text in row.get("completions") or row["responses"]]


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_the_table_of_steps_of_real_solutions(row: list[str], arts_data: Path) -> None:
    lengths = sorted(len(cut_steps(text)) for text in solutions(arts_data, row[0]))
    found = [len(lengths), lengths[len(lengths) // 2], lengths[-(-95 * len(lengths) // 100) - 1], lengths[-1]]
    assert row[1:5] == [f"{number:,}" for number in found]


def test_styles_of_texts() -> None:
    assert [step_style(text) for text in ("a. B. C", "a\nb\nc", "a\n\nb\n\nc", "\n".join(["# a"] * 4))] == [
        "sentences", "lines", "paragraphs", "headings",
    ]  # fmt: skip
