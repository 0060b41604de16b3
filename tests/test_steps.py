"""Step ends are found in tokens; joined, the texts of the steps are the text of the whole, whatever the tokens cut."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import BLOCK_TOKENS, BYTE_TOKENS, save_gpt2, save_llama
from transformers import AutoTokenizer

from arts.models import shipped_folder
from arts.proposers.steps import StepSplitter
from arts.tree import StopReason

EOS = 0
Decoder = Callable[[Sequence[int]], str]


def byte_decoder(tokens: Sequence[bytes]) -> Decoder:
    """Ids count from 1, in the order of `tokens`; 0 is the end of sequence and shows nothing."""

    def decode(ids: Sequence[int]) -> str:
        return b"".join(tokens[id - 1] for id in ids if id != EOS).decode("utf-8", errors="replace")

    return decode


def cut(tokens: Sequence[bytes | str | None], separator: str) -> list[str]:
    """The steps of these tokens (None: end of sequence), as text."""
    encoded = [token.encode() if isinstance(token, str) else token for token in tokens]
    table = list(dict.fromkeys(token for token in encoded if token is not None))
    ids = [EOS if token is None else table.index(token) + 1 for token in encoded]
    splitter = StepSplitter(byte_decoder(table), separator, frozenset([EOS]))
    return splitter.texts(ids, splitter.split(ids))


# separator, tokens (None ends the sequence), steps
CASES: list[tuple[str, list[bytes | str | None], list[str]]] = [
    # one separator token, with and without an end
    (";", ["a", ";", "b", ";", "c", None], ["a;", "b;", "c"]),
    (";", ["a", ";", "b", ";"], ["a;", "b;"]),
    (";", ["a", ";", None], ["a;", ""]),
    (";", [None], [""]),
    (";", ["a"], ["a"]),
    # the separator inside a longer token belongs to the step that the token closes, with what follows in that token
    (";", ["a; b", "c", ";", "d"], ["a; b", "c;", "d"]),
    # the separator over two tokens, or with a third newline in one of them
    ("\n\n", ["a", "\n", "\n", "b", "\n", "c", "\n\n", None], ["a\n\n", "b\nc\n\n", ""]),
    ("\n\n", ["a", ".\n", "\n", "b"], ["a.\n\n", "b"]),
    ("\n\n", ["a", "\n\n\n", "b"], ["a\n\n\n", "b"]),
    ("\n\n", ["a", "\n\n", "\n", "b", "\n", "\nc", "d"], ["a\n\n", "\nb\n\nc", "d"]),
    # two separators in one token are one end
    (";", ["a;b;", "c"], ["a;b;", "c"]),
    # blanks and separators in front of a step end nothing
    (";", [";", " ", ";", "a", ";", "b"], ["; ;a;", "b"]),
    (";", [";a", "b", ";", "c"], [";ab;", "c"]),
    ("\n\n", ["\n\n", "a", "\n", "b", "\n\n", "c"], ["\n\na\nb\n\n", "c"]),
    ("\n\n", ["\n", "\n", " \t", "\n\n"], ["\n\n \t\n\n"]),
    # separators of several characters, in one token or cut anywhere
    ("\nStep", ["x", "\n", "Step", " 2", "\nSt", "ep", "y"], ["x\nStep", " 2\nStep", "y"]),
    ("\nStep", ["x", "Step", "\n", "y"], ["xStep\ny"]),
    ("aa", ["a", "b", "a", "a", "a", "c"], ["abaa", "ac"]),
    # a separator outside ASCII, in one token or cut inside its bytes
    ("。", ["好", "。", "吗", "。"], ["好。", "吗。"]),
    ("。", ["好", b"\xe3\x80", b"\x82", "吗", b"\xe3", b"\x80\x82", None], ["好。", "吗。", ""]),
    ("→", ["a", b"\xe2\x86", b"\x92", "b", b"\xe2", b"\x86", "c"], ["a→", "b�c"]),
    # characters cut inside their bytes stay whole: inside a step, and at its end, where they go to the next step
    (";", ["a", b"\xc3", b"\xa9", ";", "b"], ["aé;", "b"]),
    (";", ["a", b";\xc3", b"\xa9", "b", ";"], ["a;", "éb;"]),
    (";", ["a", b";\xf0\x9f", b"\x98\x80", None], ["a;", "😀"]),
    # bytes that never become a character are shown where they end
    (";", ["a", b"\xc3", ";", b"\xff", ";"], ["a�;", "�;"]),
    (";", ["a", ";", "b", b"\xe2\x86"], ["a;", "b�"]),
]


@pytest.mark.parametrize(("separator", "tokens", "steps"), CASES, ids=[f"{i}-{c[0]!r}" for i, c in enumerate(CASES)])
def test_steps_of_separators_and_tokens(separator: str, tokens: list[bytes | str | None], steps: list[str]) -> None:
    assert cut(tokens, separator) == steps


PIECES = [b"a", b"b", b" ", b";", b"\n", b"\n\n", b";\xc3", b"\xc3", b"\xa9", b"\xe2\x86", b"\x92", b"; a"]
SEPARATORS = [";", "\n\n", "é", "→", "; a", "b;"]
ids_of_pieces = st.lists(st.integers(1, len(PIECES)), max_size=20)


@given(ids_of_pieces, st.booleans(), st.sampled_from(SEPARATORS))
def test_joined_steps_are_the_whole_and_each_end_depends_on_its_own_tokens(
    body: list[int], finished: bool, separator: str
) -> None:
    ids = body + [EOS] * finished
    decode = byte_decoder(PIECES)
    splitter = StepSplitter(decode, separator, frozenset([EOS]))
    ends = splitter.split(ids)
    assert sorted(set(ends)) == ends
    assert ends[-1:] == [len(ids)] * bool(ids)
    assert "".join(splitter.texts(ids, ends)) == decode(ids)
    start = 0
    for end in ends:
        step = ids[start:end]
        assert not any(splitter.ends(step[:length]) for length in range(1, len(step)))
        if end < len(ids):
            assert splitter.ends(step)
        start = end
    for length in range(len(ids)):  # what follows changes no end that was found before
        assert splitter.split(ids[:length]) == [end for end in ends if end < length] + [length] * bool(length)


@given(ids_of_pieces, st.sampled_from(SEPARATORS))
def test_an_end_is_the_first_token_that_completes_the_separator_after_more_than_blanks(
    ids: list[int], separator: str
) -> None:
    """A slow reading of the rule, over characters, for tokens that cut no character."""
    ids = [id for id in ids if PIECES[id - 1].isascii()]
    splitter = StepSplitter(byte_decoder(PIECES), separator, frozenset([EOS]))

    def completed(text: str) -> bool:
        while text[:1].isspace() or text.startswith(separator):
            text = text[len(separator) :] if text.startswith(separator) else text[1:]
        return any(text[place:].startswith(separator) for place in range(len(text)))

    ends, start = [], 0
    for position in range(1, len(ids) + 1):
        if completed(b"".join(PIECES[id - 1] for id in ids[start:position]).decode()):
            ends.append(position)
            start = position
    assert [end for end in splitter.split(ids) if end < len(ids)] == [end for end in ends if end < len(ids)]


@given(ids_of_pieces, st.sampled_from(SEPARATORS))
def test_drawing_step_by_step_agrees_with_splitting_the_whole(ids: list[int], separator: str) -> None:
    """Each step is read when it ends, with only the steps before it known."""
    splitter = StepSplitter(byte_decoder(PIECES), separator, frozenset([EOS]))
    whole = [*ids, EOS]
    ends, texts, start = [], [], 0
    for position in range(1, len(whole) + 1):
        if splitter.ends(whole[start:position]):
            goes_on = whole[position - 1] != EOS
            texts.append(splitter.texts(whole[:position], [start, position], goes_on=goes_on)[1])
            ends.append(position)
            start = position
    assert ends == splitter.split(whole)
    assert texts == splitter.texts(whole, ends)


@pytest.mark.parametrize("name", ["shipped", "byte level", "byte fallback"])
def test_joined_steps_are_the_whole_with_real_tokenizers(name: str, tmp_path: Path) -> None:
    folder, separator = {
        "shipped": (shipped_folder("countdown-proposer"), ";"),
        "byte level": (tmp_path, "\n\n"),
        "byte fallback": (tmp_path, "\n\n"),
    }[name]
    if name != "shipped":
        {"byte level": save_gpt2, "byte fallback": save_llama}[name](tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    splitter = StepSplitter(decode, separator, frozenset([tokenizer.eos_token_id]))
    known = {"byte level": len(BYTE_TOKENS), "byte fallback": len(BLOCK_TOKENS)}.get(name, 448) + 1
    likely = tokenizer(separator)["input_ids"][-1:] * 3
    rng, num_steps, num_broken = random.Random(0), 0, 0
    for _ in range(200):
        ids = [rng.choice([rng.randrange(2, known), *likely]) for _ in range(30)]
        ends = splitter.split(ids)
        assert "".join(splitter.texts(ids, ends)) == decode(ids)
        num_steps += len(ends)
        num_broken += "�" in decode(ids)
    assert num_steps > 400, "there were steps to cut"
    assert num_broken > 20, "there were characters cut in two"


@pytest.mark.parametrize("separator", SEPARATORS)
def test_long_draws_are_cut_as_if_all_was_read_and_only_near_tokens_are(separator: str) -> None:
    """Tokens decoded for each token stay few, whether steps are many or one; so does what `before` costs."""
    decode, num_read = byte_decoder(PIECES), 0

    def counted(ids: Sequence[int]) -> str:
        nonlocal num_read
        num_read += len(ids)
        return decode(ids)

    rng = random.Random(separator)
    for weights in ([1] * len(PIECES), [9, 9, 9, 0, 9, 0, 0, 1, 1, 1, 1, 0]):  # the second leaves most separators out
        ids = rng.choices(range(1, len(PIECES) + 1), weights, k=4000)
        splitter = StepSplitter(counted, separator, frozenset([EOS]))
        ends = splitter.split(ids)
        texts = splitter.texts(ids, ends)
        assert num_read < 80 * len(ids)
        assert "".join(texts) == decode(ids)
        whole, done = [], ""
        for end in ends:
            text = decode(ids[:end]).rstrip("\ufffd") if end < len(ids) else decode(ids)
            whole.append(text[len(done) :])
            done = text
        assert texts == whole
        num_read = 0
        (step,) = splitter.steps(ids, [1], [-1.0], StopReason.EOS)
        assert step.text.lstrip("\ufffd") == "a"
        assert num_read < 1000


def test_an_empty_separator_is_refused() -> None:
    with pytest.raises(ValueError, match="the step separator is empty"):
        StepSplitter(byte_decoder(PIECES), "", frozenset([EOS]))
