"""Load Hugging Face model folders, and name their content by hashes.

Only local folders are read: nothing is downloaded, nothing is unpickled, `trust_remote_code` stays off.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from arts.lm.weights import weight_files, weights_fingerprint
from arts.tree import ReasoningTree, StopReason, text_of


@dataclass(frozen=True)
class LanguageModel:
    """A model in evaluation mode with its tokenizer; the fingerprints name the weights, and what makes ids of text."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    tokenizer_fingerprint: str
    folder: str

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def text(self) -> "TokenizerFolder":
        return TokenizerFolder(self.tokenizer, self.tokenizer_fingerprint)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Ids of a user message as the model expects it: through the chat template where the tokenizer has one."""
        return self.text.prompt_ids([{"role": "user", "content": prompt}])


@dataclass(frozen=True)
class TokenizerFolder:
    """A tokenizer without its model: how prompts and trees become ids."""

    tokenizer: PreTrainedTokenizerBase
    fingerprint: str

    def prompt_text(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Messages under the chat template; their texts, a blank line between them, where there is no template."""
        plain = [{**message, "content": text_of(message.get("content"))} for message in messages]
        if self.tokenizer.chat_template is None:
            return "\n\n".join(message["content"] for message in plain)
        return str(self.tokenizer.apply_chat_template(plain, add_generation_prompt=True, tokenize=False))

    def prompt_ids(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        if self.tokenizer.chat_template is None:
            return list(self.tokenizer(self.prompt_text(messages))["input_ids"])
        return list(self.tokenizer(self.prompt_text(messages), add_special_tokens=False)["input_ids"])

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of drawn tokens, special ones left out."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def node_ids(self, tree: ReasoningTree) -> list[Sequence[int]]:
        """Ids of every node; the root's are the prompt.

        With the proposer's own tokenizer its ids are used, where a step has some. Otherwise each step's text is
        tokenised alone, so that a node's ids never depend on what follows, and a finished step gets the end-of-sequence
        token.
        """
        ids: list[Sequence[int]] = [self.prompt_ids(tree.problem.messages)]
        for node in tree.nodes[1:]:
            if tree.tokenizer == self.fingerprint and (node.token_ids or not node.text):
                ids.append(node.token_ids)
                continue
            own = list(self.tokenizer(node.text, add_special_tokens=False)["input_ids"])
            if node.stop is StopReason.EOS and self.tokenizer.eos_token_id is not None:
                own.append(self.tokenizer.eos_token_id)
            ids.append(own)
        return ids


def load_tokenizer(folder: str | Path) -> TokenizerFolder:
    """Raises ValueError where the folder holds none."""
    if not Path(folder).is_dir():
        raise ValueError(f"there is no folder {str(folder)!r} with a tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(Path(folder), local_files_only=True)
    except Exception as error:  # damaged files raise errors of many types
        raise ValueError(f"{str(folder)!r} holds no tokenizer: {' '.join(str(error).split())[:300]}") from error
    return TokenizerFolder(tokenizer, tokenizer_fingerprint(tokenizer))


def end_ids(generation_config: Any, tokenizer: PreTrainedTokenizerBase, folder: str) -> frozenset[int]:
    """Tokens that end a solution: those of the generation config, or the tokenizer's where it names none.

    Raises:
        ValueError: neither names one.
    """
    eos = generation_config.eos_token_id
    if eos is None:
        eos = tokenizer.eos_token_id
    ids = frozenset(eos if isinstance(eos, list) else [eos] if eos is not None else [])
    if not ids:
        raise ValueError(f"{folder!r} names no end-of-sequence token; set eos_token_id in generation_config.json")
    return ids


def use_threads(num_threads: int) -> None:
    """Give torch that many threads. One a process is right on small machines: two lose two- to fivefold under load."""
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    torch.set_num_threads(num_threads)


def quiet() -> None:
    """No progress bars and warnings of transformers: what a user should know, we say."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def load_causal_lm(folder: str | Path, *, dtype: torch.dtype | None = None, device: str = "cpu") -> LanguageModel:
    """Load a causal language model. `dtype` None means float32 on a CPU and the stored type elsewhere.

    Raises:
        ValueError: the folder is missing or holds no such model.
    """
    return load_folder(AutoModelForCausalLM, folder, dtype, device)


def load_backbone(folder: str | Path, *, dtype: torch.dtype | None = None, device: str = "cpu") -> LanguageModel:
    """Load the same folder without its language-model head: hidden states for a verifier."""
    return load_folder(AutoModel, folder, dtype, device)


def load_folder(
    model_class: Any,
    folder: str | Path,
    dtype: torch.dtype | None,
    device: str,
    *,
    trust_remote_code: bool = False,
    hint: str = "",
) -> LanguageModel:
    """Load a folder by any class of transformers, or say in words why not.

    Args:
        model_class: an AutoModel… or a model class.
        trust_remote_code: run Python code that lies in the folder.
        hint: what to do about weights that do not fit, for the error's text.
    """
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise ValueError(
            f"{str(folder)!r} is not a Hugging Face model folder (it has no config.json); "
            "give a local folder written by save_pretrained"
        )
    if not weight_files(path):
        raise ValueError(
            f"{str(folder)!r} holds no *.safetensors weights; other formats can run code when they are read. "
            "Convert the model where you trust it: save_pretrained writes safetensors"
        )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without the device's library
        raise ValueError(f"device {device!r} cannot be used here ({str(error).splitlines()[0]}); try 'cpu'") from error
    if dtype is None:
        dtype = torch.float32 if device == "cpu" else None
    options = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(path, **options)
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left", **options)
        options |= {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
        model, report = model_class.from_pretrained(path, config=config, dtype=dtype or "auto", **options)
    except Exception as error:  # damaged files raise errors of many types, some of them derived from Exception only
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{str(folder)!r} could not be loaded as a {model_class.__name__}: {reason}") from error
    # transformers would go on with random numbers in place of these, and say so in a log only.
    absent = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    if absent:
        raise ValueError(
            f"{str(folder)!r}: the weights do not fit its config.json, which describes a {type(model).__name__}: "
            f"{len(absent)} tensors are missing or have another shape, such as {absent[0]!r}{hint}"
        )
    # Without its files a tokenizer is made of special tokens alone, and every other text vanishes in it.
    if len(tokenizer.get_vocab()) - len(tokenizer.added_tokens_decoder) < 2:
        raise ValueError(f"{str(folder)!r} holds no tokenizer; save the one that belongs to the model there too")
    model.to(device).eval()
    return LanguageModel(model, tokenizer, weights_fingerprint(path), tokenizer_fingerprint(tokenizer), str(folder))


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of what decides a text's ids: equal fingerprints give equal ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(content.encode()).hexdigest()[:16]
