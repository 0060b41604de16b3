"""Train the shipped Countdown proposer from scratch on random solution traces, and save it with save_pretrained.

    python recipes/train_countdown_proposer.py --out runs/proposer            # about 25 minutes on one CPU core

The traces follow the law of `arts.tasks.countdown.sample_trace`, on problems of the training split only, so nothing of
the validation and test problems is in the weights. The model learns the completion, not the prompt. A checkpoint is
written every `checkpoint_every` steps; the same command goes on from it. `model_card.json` records what was done.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from arts.tasks.countdown import STEP_SEPARATOR, sample_trace

END, PAD = "<|end|>", "<|pad|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] != 'assistant' %}{{ '\\n' }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    num_traces: int = 360_000
    "distinct draws of (problem, solution); each is seen once"
    sizes: str = "3:0.1,4:0.7,5:0.2"
    "share of traces by how many numbers the problem has"
    hidden_size: int = 128
    num_layers: int = 4
    mlp_size: int = 384
    batch_size: int = 256
    peak_lr: float = 3e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    seed: int = 0
    checkpoint_every: int = 200
    init: str = ""
    "folder of an earlier run's model to go on from with fresh traces (another seed); empty starts from scratch"
    stop_after_s: float = 2700.0
    "the learning rate falls to zero over num_traces; this is only a guard"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and one token for every number of two digits and for every number or '>' behind a blank.

    Every text survives a round trip (in Unicode's composed form); `;` and the newline are always tokens of their own,
    so no token crosses a step. The numbers are added tokens, not merges: AutoTokenizer gives every Qwen2 folder Qwen2's
    own pre-tokenizer, which would cut numbers into digits before any merge.
    """
    digits = "0123456789"
    numbers = [a + b for a in digits[1:] for b in digits]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([PAD, END, *alphabet])}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([PAD, END])
    spaced = [f" {token}" for token in (*digits, *numbers, ">")]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in (*numbers, *spaced)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        unk_token=PAD,  # never produced; left out, Qwen2 would add a token that the model has no row for
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


def build_model(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden_size,
            num_hidden_layers=settings.num_layers,
            intermediate_size=settings.mlp_size,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def sample_training_traces(settings: Settings) -> list[tuple[str, str]]:
    """(prompt, solution) pairs in an order where every batch holds problems of one size."""
    rng = random.Random(f"countdown-traces-{settings.seed}")
    shares = {int(size): float(share) for size, share in (part.split(":") for part in settings.sizes.split(","))}
    batches = []
    for size, share in shares.items():
        batch: list[tuple[str, str]] = []
        for _ in range(round(settings.num_traces * share / settings.batch_size)):
            while len(batch) < settings.batch_size:
                problem, solution = sample_trace(rng, size)
                if problem.split == "train":
                    batch.append((problem.text, solution))
            batches.append(batch)
            batch = []
    rng.shuffle(batches)
    return [pair for batch in batches for pair in batch]


def batches_of_ids(
    pairs: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast, batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Right-padded ids [B, T] and labels [B, T]; prompt and padding carry the label -100."""
    for start in range(0, len(pairs), batch_size):
        chunk = pairs[start : start + batch_size]
        prompts = tokenizer([prompt + "\n" for prompt, _ in chunk]).input_ids
        answers = tokenizer([answer + END for _, answer in chunk]).input_ids
        length = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        ids = torch.full((len(chunk), length), tokenizer.pad_token_id)
        labels = torch.full((len(chunk), length), -100)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
        yield ids, labels


def learning_rate(step: int, num_steps: int, settings: Settings) -> float:
    warm = min(1.0, (step + 1) / settings.warmup_steps)
    return settings.peak_lr * warm * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def train(settings: Settings, out: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    model = Qwen2ForCausalLM.from_pretrained(settings.init) if settings.init else build_model(settings, tokenizer)
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.peak_lr, betas=(0.9, 0.95), weight_decay=settings.weight_decay
    )
    pairs = sample_training_traces(settings)
    num_steps = math.ceil(len(pairs) / settings.batch_size)
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(pairs):,} traces, {num_steps} steps",
        flush=True,
    )

    checkpoint, first_step, spent_s, num_tokens = out / "checkpoint.pt", 0, 0.0, 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first_step, spent_s, num_tokens = state["step"], state["spent_s"], state["num_tokens"]
    start = time.monotonic() - spent_s
    running = []
    for step, (ids, labels) in enumerate(
        batches_of_ids(pairs[first_step * settings.batch_size :], tokenizer, settings.batch_size), start=first_step
    ):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, num_steps, settings)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running.append(loss.item())
        num_tokens += int((ids != tokenizer.pad_token_id).sum())
        spent_s = time.monotonic() - start
        if (step + 1) % 50 == 0:
            print(
                f"step {step + 1}/{num_steps} loss {sum(running[-50:]) / 50:.4f} tokens {num_tokens:,} {spent_s:.0f} s",
                flush=True,
            )
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == num_steps:
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                    "spent_s": spent_s,
                    "num_tokens": num_tokens,
                },
                checkpoint.with_suffix(".tmp"),
            )
            checkpoint.with_suffix(".tmp").replace(checkpoint)
        if spent_s > settings.stop_after_s:
            break
    save(
        model,
        tokenizer,
        settings,
        out / "model",
        {"loss": sum(running[-50:]) / max(1, len(running[-50:])), "tokens": num_tokens, "seconds": round(spent_s)},
    )


def save(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    settings: Settings,
    folder: Path,
    measured: dict[str, float],
) -> None:
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = {"settings": asdict(settings), "measured": measured, "step_separator": STEP_SEPARATOR}
    (folder / "training.json").write_text(json.dumps(card, indent=2) + "\n")
    print(f"saved {folder}: {json.dumps(measured)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    for item in fields(Settings):
        parser.add_argument(f"--{item.name.replace('_', '-')}", type=type(item.default), default=item.default)
    arguments = vars(parser.parse_args())
    target = arguments.pop("out")
    train(Settings(**arguments), target)
