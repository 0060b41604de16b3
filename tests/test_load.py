"""Model folders: what is no whole model is refused in one sentence, and hashes name weights and tokenizers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from arts.lm import weights
from arts.lm.load import load_backbone, load_causal_lm
from arts.lm.weights import weights_fingerprint

Damage = Callable[[Path], Any]


def config(**values: Any) -> Damage:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def remove(*names: str) -> Damage:
    return lambda folder: [(folder / name).unlink() for name in names]


def truncate(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no config": (remove("config.json"), r"not a Hugging Face model folder .*no config\.json"),
    "damaged config": (truncate("config.json"), "could not be loaded as a AutoModel"),
    "no model type": (lambda folder: (folder / "config.json").write_text("{}"), "could not be loaded"),
    "unknown architecture": (config(model_type="nonesuch"), "could not be loaded .*nonesuch"),
    "weights of another architecture": (config(model_type="gpt2"), "weights do not fit its config.json.* GPT2"),
    "weights of another width": (config(hidden_size=64), "weights do not fit .*tensors are missing or have another"),
    "weights of another vocabulary": (config(vocab_size=500), "weights do not fit .*(embed_tokens|lm_head)"),
    "weights of fewer layers": (config(num_hidden_layers=3, layer_types=None), "weights do not fit .*layers.2"),
    "no weights": (remove("model.safetensors"), r"holds no \*\.safetensors weights"),
    "truncated weights": (truncate("model.safetensors"), "could not be loaded"),
    "empty weights": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "could not be loaded"),
    "no tokenizer": (remove("tokenizer.json"), "holds no tokenizer"),
    "no tokenizer at all": (remove("tokenizer.json", "tokenizer_config.json"), "holds no tokenizer"),
    "damaged tokenizer": (truncate("tokenizer.json"), "could not be loaded"),
    "foreign tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("[]"), "could not be loaded"),
}


@pytest.mark.parametrize(
    ("loader", "damage", "message"),
    [(load_causal_lm, *case) for case in DAMAGES.values()]
    + [(load_backbone, *DAMAGES[name]) for name in ("weights of another architecture", "no tokenizer")],
    ids=[*DAMAGES, "backbone of another architecture", "backbone without tokenizer"],
)
def test_a_folder_that_is_no_whole_model_is_refused_in_one_sentence(
    loader: Callable[[Path], object],
    damage: Damage,
    message: str,
    tmp_path: Path,
    tiny_folder: Callable[[str], Path],
) -> None:
    folder = shutil.copytree(tiny_folder("qwen2"), tmp_path / "model")
    damage(folder)
    with pytest.raises(ValueError, match=message) as refusal:
        loader(folder)
    said = str(refusal.value)
    assert said.startswith(repr(str(folder)))
    assert "\n" not in said
    assert len(said) < 600


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a Hugging Face model folder"):
        load_causal_lm(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["qwen2", "gpt2", "llama"])
def test_backbone_and_causal_model_share_weights_and_names(name: str, tiny_folder: Callable[[str], Path]) -> None:
    causal, backbone = load_causal_lm(tiny_folder(name)), load_backbone(tiny_folder(name))
    assert causal.fingerprint == backbone.fingerprint
    assert causal.tokenizer_fingerprint == backbone.tokenizer_fingerprint
    ids = torch.tensor([causal.prompt_ids("abc")])
    with torch.inference_mode():
        states = causal.model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(backbone.model(input_ids=ids).last_hidden_state, states, rtol=0, atol=0)
    assert not causal.model.training
    assert causal.model.dtype == backbone.model.dtype == torch.float32
    assert load_causal_lm(tiny_folder(name), dtype=torch.float64).model.dtype == torch.float64


def test_prompts_go_through_the_chat_template_where_there_is_one(tiny_folder: Callable[[str], Path]) -> None:
    shipped, plain, marked = (load_causal_lm(tiny_folder(name)) for name in ("qwen2", "gpt2", "llama"))
    assert shipped.tokenizer.decode(shipped.prompt_ids("3 5 > 8")) == "3 5 > 8\n"
    assert plain.prompt_ids("abc") == plain.tokenizer.encode("abc")
    assert marked.prompt_ids("abc") == [1, *marked.tokenizer.encode("abc", add_special_tokens=False)]


def test_weights_are_named_by_content_not_by_place(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    folder = shutil.copytree(tiny_folder("gpt2"), tmp_path / "copy")
    name = weights_fingerprint(tiny_folder("gpt2"))
    assert weights_fingerprint(folder) == name
    content = (folder / "model.safetensors").read_bytes()
    for place in (0, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        (folder / "model.safetensors").write_bytes(changed)
        assert weights_fingerprint(folder) != name


def test_large_weights_are_named_by_size_and_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_FULL_HASH_LIMIT", 1000)
    monkeypatch.setattr(weights, "_SAMPLE_BYTES", 10)
    path = tmp_path / "model.safetensors"

    def name(content: bytes) -> str:
        path.write_bytes(content)
        return weights_fingerprint(tmp_path)

    content = bytes(range(250)) * 40
    names = {name(content), name(content + b"1"), name(b"1" + content[1:]), name(content[:-1] + b"1")}
    assert len(names) == 4
    assert name(content) in names
