"""Tiny random causal models in folders written by save_pretrained, and a task for them.

The weights are wide, so that a wrong mask, position or cache row shows in every probability, and the step separator and
the end of sequence are made likely, so that rollouts have several steps and most of them end.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from arts.models import shipped_folder
from arts.protocols import Split
from arts.tree import Problem, Verdict

CONTEXT = 128
END = "<end>"
# Bytes of `a b c é → \n` and a blank; é and → are cut over two and three tokens, `\n\n` is one token or two.
BYTE_TOKENS = ["a", "b", "c", "Ġ", "Ċ", "Ã", "©", "â", "Ĩ", "Ĵ", "ĊĊ", "Ġa"]
BLOCK_TOKENS = ["<s>", "<unk>", "a", "b", "c", "▁", "▁a", "\n", "\n\n", "é", "<0xC3>", "<0xA9>"]


QWEN_CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_qwen2(folder: Path, *, seed: int = 0) -> Path:
    """Qwen2 with grouped heads and the tokenizer of the shipped proposer: a chat template, steps end in `;`."""
    tokenizer = AutoTokenizer.from_pretrained(shipped_folder("countdown-proposer"))
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    separator = tokenizer(";")["input_ids"][0]
    likely = {separator: 14.0, tokenizer.eos_token_id: 11.0}
    return _save(Qwen2ForCausalLM, config, tokenizer, folder, likely, seed)


def save_qwen25(folder: Path, *, seed: int = 0) -> Path:
    """Qwen2.5 as its folders are, in small: its configuration, ChatML with a system message, byte-level BPE."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(alphabet)}
    vocab |= {"ĊĊ": len(vocab)}
    backend = Tokenizer(BPE(vocab=vocab, merges=[("Ċ", "Ċ")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        padding_side="left",
        chat_template=QWEN_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        use_sliding_window=False,
        max_window_layers=2,
        bos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        eos_token_id=tokenizer.eos_token_id,
    )
    likely = {vocab["ĊĊ"]: 1.2, tokenizer.eos_token_id: 1.0}
    return _save(Qwen2ForCausalLM, config, tokenizer, folder, likely, seed)


def save_gpt2(folder: Path, *, seed: int = 0) -> Path:
    """GPT-2 (learned positions) with byte-level tokens: characters and the separator `\\n\\n` are split over tokens."""
    vocab = {token: index for index, token in enumerate([END, *BYTE_TOKENS])}
    backend = Tokenizer(BPE(vocab=vocab, merges=[("Ċ", "Ċ"), ("Ġ", "a")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, clean_up_tokenization_spaces=False)
    config = GPT2Config(
        vocab_size=len(vocab),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=CONTEXT,
        tie_word_embeddings=False,
        eos_token_id=0,
        bos_token_id=None,
    )
    return _save(GPT2LMHeadModel, config, tokenizer, folder, {vocab["ĊĊ"]: 1.2, vocab["Ċ"]: 0.8}, seed)


def save_llama(folder: Path, *, seed: int = 0) -> Path:
    """Llama with the decoder of SentencePiece models, which drops the first blank of a text, and byte fallback."""
    vocab = {token: index for index, token in enumerate([END, *BLOCK_TOKENS])}
    backend = Tokenizer(BPE(vocab=vocab, merges=[("▁", "a"), ("\n", "\n")], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $0", special_tokens=[("<s>", vocab["<s>"])])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token=END, unk_token="<unk>", clean_up_tokenization_spaces=False
    )
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        eos_token_id=0,
        bos_token_id=1,
    )
    return _save(LlamaForCausalLM, config, tokenizer, folder, {vocab["\n\n"]: 1.0, vocab["▁a"]: 1.0, 0: 2.0}, seed)


@torch.no_grad()
def _save(
    model_class: type[PreTrainedModel],
    config: Qwen2Config | GPT2Config | LlamaConfig,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    likely: dict[int, float],
    seed: int,
) -> Path:
    torch.manual_seed(seed)
    config.initializer_range = 0.25
    model = model_class(config)
    # A coordinate that all embeddings share passes through every layer, and makes the head's column a bias.
    model.get_input_embeddings().weight[:, 0] = 2.0
    head = model.get_output_embeddings().weight
    head[:, 0] = 0.0
    for token_id, bias in likely.items():
        head[token_id, 0] = bias
    model.generation_config = GenerationConfig(eos_token_id=config.eos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class LetterTask:
    """Problems `a`, `bc`, `abc`, ...: prompts of different lengths that every tokenizer here knows. Finite."""

    def __init__(self, *, step_separator: str = "\n\n", num_problems: int = 40, max_new_tokens: int = 12) -> None:
        self.name = "letters"
        self.step_separator = step_separator
        self.max_new_tokens = max_new_tokens
        self._num_problems = num_problems

    def problems(self, split: Split, seed: int) -> Iterator[Problem]:
        for index in range(self._num_problems):
            yield Problem(f"letters {index}", "abc"[index % 3] * (1 + index // 3 % 5) + " a" * (index // 15))

    def parse(self, text: str) -> Problem:
        return Problem(text, text)

    def judge(self, problem: Problem, solution: str) -> Verdict:
        return Verdict(len(solution) % 2 == 0, solution.strip()[:2] or None, "odd" if len(solution) % 2 else "")

    def difficulty(self, problem: Problem) -> None:
        return None
