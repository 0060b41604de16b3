"""A random Qwen2 of hidden size 32 with a byte tokenizer, and judged letter trees to train it on."""

import random
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from arts.lm.load import LanguageModel, load_backbone
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, Verdict, build_tree
from arts.verifier.model import FlowVerifier, VerifierSettings, new_verifier

PAD, END = "<|pad|>", "<|end|>"
HIDDEN, INTERMEDIATE, LAYERS, HEADS, KEY_VALUE_HEADS, CONTEXT = 32, 64, 2, 4, 2, 128


def save_backbone(folder: Path, *, seed: int = 0) -> Path:
    """Weights are drawn ten times as wide as usual, so that a wrong mask or position shows in every hidden state."""
    vocab = {token: index for index, token in enumerate([PAD, END, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([PAD, END])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END).save_pretrained(folder)
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(vocab),
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.2,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def build_verifier(
    folder: Path, *, tuning: str = "full", dropout: float = 0.1, dtype: torch.dtype = torch.float32, seed: int = 0
) -> FlowVerifier:
    language_model: LanguageModel = load_backbone(folder, dtype=dtype)
    verifier = new_verifier(language_model, VerifierSettings(tuning=tuning, dropout=dropout), base="tiny", seed=seed)
    if dtype == torch.float64:
        in_float64(verifier)
    return verifier.eval()


def in_float64(model: nn.Module) -> None:
    """Compute in float64 throughout: transformers' RMSNorm goes through float32 whatever the type of the weights."""
    model.double()
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, Qwen2RMSNorm):
                exact = nn.RMSNorm(len(norm.weight), eps=norm.variance_epsilon)
                exact.weight = norm.weight
                setattr(parent, name, exact)


def letter_step(letter: str, *, last: bool) -> Step:
    """Token ids of nobody's tokenizer: a verifier reads the text."""
    return Step(
        letter if last else f"{letter};", (ord(letter), int(last)), -1.0, StopReason.EOS if last else StopReason.STOP
    )


def letter_rollout(index: int, letters: str, *, trunk: int | None = None, num_shared: int = 0) -> Rollout:
    """`abc` -> steps `a;`, `b;`, `c`, of which the first `num_shared` are the trunk's."""
    steps = tuple(letter_step(letter, last=place == len(letters) - 1) for place, letter in enumerate(letters))
    return Rollout(index, index if trunk is None else trunk, num_shared, steps[num_shared:])


def holds_c(text: str) -> Verdict:
    """The rule that is to be learned: one of the letters is `c`, wherever on the path it stands."""
    return Verdict("c" in text, text, "" if "c" in text else "no c")


def letter_tree(
    name: str,
    *,
    seed: int = 0,
    num_samples: int = 6,
    merge: bool = True,
    judge: Callable[[str], Verdict] = holds_c,
) -> ReasoningTree:
    """Three random letters of `abc` a rollout; every other trunk is forked behind its first step."""
    rng = random.Random(f"{name} {seed}")
    words = ["".join(rng.choices("abc", k=3)) for _ in range(num_samples)]
    rollouts = [letter_rollout(index, word) for index, word in enumerate(words)]
    rollouts += [
        letter_rollout(
            num_samples + fork, words[trunk][0] + "".join(rng.choices("abc", k=2)), trunk=trunk, num_shared=1
        )
        for fork, trunk in enumerate(range(0, num_samples, 2))
    ]
    return build_tree(Problem(name, f"letters {name}"), rollouts, merge=merge, judge=judge)


def letter_trees(count: int, *, seed: int = 0) -> list[ReasoningTree]:
    return [letter_tree(f"{seed}-{index}", seed=seed) for index in range(count)]
