"""Pre-train a small Qwen2-type model and its tokenizer on texts of problems and solutions: a backbone for verifiers of
real rollouts where no pre-trained weights are at hand.

    python recipes/text_backbone.py FILE... --out runs/text/backbone --leave-out FILE...   # 40 minutes of one CPU core

A FILE is JSON lines, gzipped or not: `problem` with `solution`, `question` with `answer`, or rollouts as `arts import`
reads them, of which the first fold of `arts import --folds 5` is left out. Problems of the files to leave out are not
trained on, nor are their texts. Chains of Game of 24 with random, mostly wrong steps are made besides, of random
puzzles. A checkpoint is written now and then, and the same command goes on from it.
"""

import argparse
import gzip
import json
import math
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from arts.rollouts.importing import fold_of
from arts.rollouts.reading import Reading, read_records

END, PAD = "<|im_end|>", "<|pad|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] != 'assistant' %}{{ '\\n\\n' }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    vocab_size: int = 2048
    hidden_size: int = 192
    num_layers: int = 4
    mlp_size: int = 512
    row_tokens: int = 512
    "texts are joined and cut into rows of so many tokens"
    batch_rows: int = 16
    num_tokens: int = 9_000_000
    "to train on; the texts are gone through again where they are fewer"
    samples_a_problem: int = 6
    "rollouts of each problem that are trained on"
    num_chains: int = 20_000
    "of Game of 24"
    peak_lr: float = 3e-3
    warmup_steps: int = 100
    seed: int = 0
    checkpoint_every_s: float = 120.0
    stop_after_s: float = 2400.0


# --- texts ------------------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    return " ".join(text.casefold().split())


def read_texts(path: Path, left_out: set[str], settings: Settings) -> Iterator[str]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        first = json.loads(file.readline())
    if "solution" in first or {"question", "answer"} == set(first):
        yield from _solutions(path, left_out)
        return
    for record in read_records(path, Reading()):
        if fold_of(record.problem_id, 5) == 0 or plain(record.prompt) in left_out:
            continue
        rng = random.Random(record.problem_id)
        for sample in rng.sample(record.samples, min(len(record.samples), settings.samples_a_problem)):
            yield f"{record.prompt}\n\n{sample.text}"


def _solutions(path: Path, left_out: set[str]) -> Iterator[str]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            problem, solution = row.get("problem", row.get("question")), row.get("solution", row.get("answer"))
            if plain(problem) not in left_out:
                yield f"{problem}\n\n{solution}"


def problems_of(paths: Iterable[Path]) -> set[str]:
    """Normalised texts of the problems of files."""
    found = set()
    for path in paths:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            for row in map(json.loads, file):
                found.add(plain(row.get("problem", row.get("question"))))
    return found


def game24_chain(rng: random.Random) -> str:
    """A chain in the words of tree-of-thought-llm: three steps with one or no error, and an answer that claims 24."""
    numbers = [rng.randint(1, 13) for _ in range(4)]
    prompt = f"Use the numbers {' '.join(map(str, numbers))} and + - * / to reach 24."
    lines, left, named = ["Steps:"], list(numbers), [str(one) for one in numbers]
    while len(left) > 1:
        first, second = rng.sample(range(len(left)), 2)
        sign = rng.choice("+-*/" if left[second] and left[first] % left[second] == 0 else "+-*")
        value = _result(left[first], left[second], sign)
        shown = value if rng.random() > 0.1 else value + rng.choice((-2, -1, 1, 2))
        expression = f"({named[first]} {sign} {named[second]})"
        line = f"{left[first]} {sign} {left[second]} = {shown}"
        kept = [place for place in range(len(left)) if place not in (first, second)]
        left, named = [*(left[place] for place in kept), shown], [*(named[place] for place in kept), expression]
        lines.append(f"{line} (left: {' '.join(map(str, sorted(left)))})")
    lines.append(f"Answer: {named[0][1:-1]} = {24 if rng.random() < 0.7 else left[0]}")
    return prompt + "\n\n" + "\n".join(lines)


def _result(one: int, other: int, sign: str) -> int:
    return one // other if sign == "/" else {"+": one + other, "-": one - other, "*": one * other}[sign]


# --- model ------------------------------------------------------------------------------------------------------------


def train_tokenizer(texts: list[str], settings: Settings) -> PreTrainedTokenizerFast:
    """Byte-level BPE; digits are single tokens, so that numbers can be read."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        unk_token=PAD,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
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
            max_position_embeddings=4096,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def rows_of(texts: list[str], tokenizer: PreTrainedTokenizerFast, settings: Settings) -> torch.Tensor:
    """All texts as one stream, shuffled, in rows of ids [R, T]."""
    order = list(texts)
    random.Random(settings.seed).shuffle(order)
    ids: list[int] = []
    for start in range(0, len(order), 512):
        for one in tokenizer(order[start : start + 512], add_special_tokens=False).input_ids:
            ids += [*one, tokenizer.eos_token_id]
    length = settings.row_tokens + 1
    return torch.tensor(ids[: len(ids) // length * length]).view(-1, length)


def train(texts: list[str], settings: Settings, out: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(texts, settings)
    rows_RT = rows_of(texts, tokenizer, settings)
    model = build_model(settings, tokenizer).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.peak_lr, betas=(0.9, 0.95), weight_decay=0.05)
    num_steps = settings.num_tokens // (settings.batch_rows * settings.row_tokens)
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters; {len(texts):,} texts, {rows_RT.numel():,} tokens, "
        f"{num_steps} steps",
        flush=True,
    )
    checkpoint, step, spent_s = out / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent_s = state["step"], state["spent_s"]
    started, saved, losses = time.monotonic() - spent_s, time.monotonic(), []
    generator = torch.Generator()
    while step < num_steps and spent_s < settings.stop_after_s:
        for group in optimizer.param_groups:
            group["lr"] = _rate(max(step / num_steps, spent_s / settings.stop_after_s), step, settings)
        picked = torch.randint(len(rows_RT), (settings.batch_rows,), generator=generator.manual_seed(step))
        ids = rows_RT[picked]
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, spent_s = step + 1, time.monotonic() - started
        losses.append(loss.item())
        if step % 20 == 0:
            print(f"step {step}/{num_steps} loss {sum(losses[-20:]) / 20:.3f} {spent_s:.0f} s", flush=True)
        if time.monotonic() - saved > settings.checkpoint_every_s:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent_s": spent_s}
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
            saved = time.monotonic()
    model.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    measured = {"loss": sum(losses[-50:]) / max(1, len(losses[-50:])), "steps": step, "seconds": round(spent_s)}
    card = {"settings": asdict(settings), "texts": len(texts), "measured": measured}
    (out / "model" / "training.json").write_text(json.dumps(card, indent=2) + "\n")
    print(f"saved {out / 'model'}: {json.dumps(measured)}", flush=True)


def _rate(done: float, step: int, settings: Settings) -> float:
    """Warm-up, then a cosine over the steps or the seconds, whichever end first."""
    warm = min(1.0, (step + 1) / settings.warmup_steps)
    return settings.peak_lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--leave-out", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    for item in fields(Settings):
        parser.add_argument(f"--{item.name.replace('_', '-')}", type=type(item.default), default=item.default)
    arguments = vars(parser.parse_args())
    files, leave_out, out = (arguments.pop(name) for name in ("files", "leave_out", "out"))
    settings = Settings(**arguments)
    if (out / "model" / "training.json").exists():
        print(f"{out / 'model'} is there already")
        return
    left_out = problems_of(leave_out)
    texts = [text for path in files for text in read_texts(path, left_out, settings)]
    rng = random.Random(settings.seed)
    texts += [game24_chain(rng) for _ in range(settings.num_chains)]
    train(texts, settings, out)


if __name__ == "__main__":
    main()
