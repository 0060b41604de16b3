"""The shipped weights: small, described, of one family, and with a tokenizer that loses nothing."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arts.build import verifier_identity
from arts.lm.load import load_causal_lm
from arts.lm.weights import weights_fingerprint
from arts.models import shipped_folder
from arts.tasks.countdown import sample_trace
from arts.verifier.model import load_verifier
from arts.verifier.objectives import DEFAULT_OBJECTIVE, describe_objective

PROPOSER, VERIFIER = shipped_folder("countdown-proposer"), shipped_folder("countdown-verifier")
LANGUAGE_MODEL = load_causal_lm(PROPOSER)
TOKENIZER = LANGUAGE_MODEL.tokenizer


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("folder", [PROPOSER, VERIFIER], ids=lambda folder: folder.name)
def test_shipped_model_is_small_described_and_free_of_pickles(folder: Path) -> None:
    assert size(folder) < 5_000_000
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Apache-2.0" in card
    assert "95%" in card
    allowed = {".json", ".safetensors", ".md", ".jinja"}
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= allowed


def test_proposer_is_a_qwen2_model_of_the_promised_size() -> None:
    assert json.loads((PROPOSER / "config.json").read_text())["architectures"] == ["Qwen2ForCausalLM"]
    num_weights = sum(weight.numel() for weight in LANGUAGE_MODEL.model.parameters())
    assert 800_000 <= num_weights <= 2_500_000
    assert f"{num_weights:,} weights" in (PROPOSER / "README.md").read_text(encoding="utf-8")
    assert len(TOKENIZER) == LANGUAGE_MODEL.model.config.vocab_size, "no text gives an id without a row"


def test_verifier_has_the_default_objective_on_enough_problems_and_reads_the_shipped_proposer() -> None:
    card = json.loads((VERIFIER / "verifier.json").read_text())
    assert card["objective"] == describe_objective(replace(DEFAULT_OBJECTIVE, leaf_weight=3.0))
    assert card["scale"]["inner_is_value"]
    assert card["result"]["num_trained_trees"] >= 8000
    verifier = load_verifier(VERIFIER)
    assert verifier.language_model.tokenizer_fingerprint == LANGUAGE_MODEL.tokenizer_fingerprint


def test_user_text_is_the_prompt() -> None:
    ids = LANGUAGE_MODEL.prompt_ids("3 5 7 11 > 24")
    assert TOKENIZER.decode(ids) == "3 5 7 11 > 24\n"
    assert len(ids) == 7


@given(st.text(max_size=60))
def test_every_composed_text_survives_the_tokenizer(text: str) -> None:
    import unicodedata

    text = unicodedata.normalize("NFC", text)
    if "<|" not in text:
        assert TOKENIZER.decode(TOKENIZER(text)["input_ids"]) == text


@given(st.integers(0, 10_000), st.integers(3, 6))
def test_no_token_crosses_a_step(seed: int, num_numbers: int) -> None:
    problem, solution = sample_trace(random.Random(seed), num_numbers)
    text = f"{problem.text}\n{solution}"
    joined = [id for part in text.replace(";", ";\0").split("\0") for id in TOKENIZER(part)["input_ids"]]
    assert TOKENIZER(text)["input_ids"] == joined
    assert all(TOKENIZER.decode([id]) == ";" for id in joined if ";" in TOKENIZER.decode([id]))


def test_a_verifier_is_named_by_all_its_weights(tmp_path: Path) -> None:
    shutil.copytree(VERIFIER, tmp_path / "mine")
    before = verifier_identity(str(tmp_path / "mine"))
    assert before.split()[1:] == verifier_identity("countdown").split()[1:]
    for path in ("head.safetensors", "backbone/model.safetensors"):
        content = bytearray((tmp_path / "mine" / path).read_bytes())
        content[-1] ^= 1
        (tmp_path / "mine" / path).write_bytes(content)
        changed = verifier_identity(str(tmp_path / "mine"))
        assert changed != before
        before = changed
    assert verifier_identity("python:mine:score") == "python:mine:score"
    assert verifier_identity(f"rm:{PROPOSER}?kind=x") == f"rm:{PROPOSER}?kind=x {weights_fingerprint(PROPOSER)}"
