"""Pre-train a small Qwen2-type model and its tokenizer on texts of problems and solutions: a backbone for verifiers of
real rollouts where no pre-trained weights are at hand.

    python recipes/text_backbone.py FILE... --out runs/text/backbone --leave-out FILE...   # 13 minutes of one CPU core

A FILE is JSON lines, gzipped or not: `problem` with `solution`, `question` with `answer`, or rollouts as `arts import`
reads them. Problems of the files to leave out are not trained on, nor are their texts, nor their puzzles. Between the
texts stand made-up solutions of Game of 24 (`game24_chains`): behind each step the model has to say a verdict instead
of the next word, so that its hidden state there holds what a verifier is to read. A checkpoint is written now and then,
and the same command goes on from it.
"""

import argparse
import gzip
import json
import math
import random
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from game24_chains import VERDICTS, made_up_chain
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from arts.rollouts.reading import Reading, read_records

END, PAD = "<|im_end|>", "<|pad|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] != 'assistant' %}{{ '\\n\\n' }}{% endif %}{% endfor %}"
)
# Qwen2's own, which AutoTokenizer gives every folder of this kind: merges are learned as they will be used.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PUZZLE = re.compile(r"(?:Use the numbers|Make 24 using) ([\d, ]+\d)")
_IGNORED = -100  # a target that is not learned


@dataclass(frozen=True, kw_only=True)
class Settings:
    vocab_size: int = 1024
    "without the numbers"
    hidden_size: int = 128
    num_layers: int = 4
    mlp_size: int = 384
    row_tokens: int = 512
    "texts are joined and cut into rows of so many tokens"
    batch_rows: int = 8
    batch_chains: int = 64
    num_steps: int = 900
    "of training; the texts are gone through again where they are fewer"
    chain_share: float = 0.7
    "of the steps, which train on made-up solutions"
    samples_a_problem: int = 6
    "rollouts of each problem that are trained on"
    peak_lr: float = 3e-3
    warmup_steps: int = 100
    seed: int = 0
    checkpoint_every_s: float = 120.0
    stop_after_s: float = 3600.0


# --- texts ------------------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    return " ".join(text.casefold().split())


def rows_in(path: Path) -> Iterator[Mapping[str, Any]]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def read_texts(path: Path, left_out: set[str], settings: Settings) -> Iterator[str]:
    """Problem and solution, one text each."""
    first = next(rows_in(path))
    if "solution" in first or {"question", "answer"} == set(first):
        for row in rows_in(path):
            problem, solution = row.get("problem", row.get("question")), row.get("solution", row.get("answer"))
            if plain(problem) not in left_out:
                yield f"{problem}\n\n{solution}{END}"
        return
    for record in read_records(path, Reading()):
        if plain(record.prompt) not in left_out:
            rng = random.Random(record.problem_id)
            for sample in rng.sample(record.samples, min(len(record.samples), settings.samples_a_problem)):
                yield f"{record.prompt}\n\n{sample.text}{END}"


def problems_of(paths: Iterable[Path]) -> set[str]:
    """Normalised texts of the problems of files, of any format that `arts import` or the texts above have."""
    found = set()
    for path in paths:
        if path.suffix == ".json" or path.name.endswith(".json.gz"):
            found |= {plain(record.prompt) for record in read_records(path, Reading())}
        else:
            found |= {plain(row.get("problem", row.get("question"))) for row in rows_in(path)}
    return found


def puzzles_in(problems: Iterable[str]) -> frozenset[tuple[int, ...]]:
    """The numbers of Games of 24, sorted."""
    matches = filter(None, (re.search(_PUZZLE.pattern, problem, re.IGNORECASE) for problem in problems))
    return frozenset(tuple(sorted(map(int, re.findall(r"\d+", match[1])))) for match in matches)


# --- tokens -----------------------------------------------------------------------------------------------------------


def train_tokenizer(texts: list[str], settings: Settings) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every number of two digits is one token, alone or behind a blank, so that it can be read.

    The numbers are added tokens, not merges: Qwen2's pre-tokenizer cuts numbers into digits before any merge.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_WORDS), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=[PAD, END, *VERDICTS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    numbers = [f"{tens}{ones}" for tens in "0123456789" for ones in "0123456789"]
    spaced = [f" {number}" for number in (*"0123456789", *numbers)]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in (*numbers, *spaced)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        unk_token=PAD,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def text_rows(texts: list[str], tokenizer: PreTrainedTokenizerFast, settings: Settings) -> torch.Tensor:
    """All texts as one stream, shuffled, in rows of ids [R, T + 1]."""
    order = list(texts)
    random.Random(settings.seed).shuffle(order)
    ids: list[int] = []
    for start in range(0, len(order), 512):
        for one in tokenizer(order[start : start + 512], add_special_tokens=False).input_ids:
            ids += one
    length = settings.row_tokens + 1
    return torch.tensor(ids[: len(ids) // length * length]).view(-1, length)


def chain_batch(
    rng: random.Random, left_out: frozenset[tuple[int, ...]], tokenizer: PreTrainedTokenizerFast, settings: Settings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids, and the verdict to say behind each step [B, T]. Steps are tokenised one by one, as a verifier reads them."""
    chains = [made_up_chain(rng, left_out) for _ in range(settings.batch_chains)]
    pieces = [[chain.prompt + "\n\n", *chain.steps[:-1], chain.steps[-1] + END] for chain in chains]
    tokenised = iter(tokenizer([piece for one in pieces for piece in one]).input_ids)
    rows = [[next(tokenised) for _ in one] for one in pieces]
    shape = len(rows), max(sum(map(len, row)) for row in rows)
    ids_BT, verdict_BT = torch.full(shape, tokenizer.pad_token_id), torch.full(shape, _IGNORED)
    for place, (row, chain) in enumerate(zip(rows, chains, strict=True)):
        ends = list(accumulate(map(len, row)))
        ids_BT[place, : ends[-1]] = torch.tensor([token for piece in row for token in piece])
        verdict_BT[place, [end - 1 for end in ends[1:]]] = torch.tensor(
            tokenizer.convert_tokens_to_ids(list(chain.verdicts))
        )
    return ids_BT, verdict_BT


# --- training ---------------------------------------------------------------------------------------------------------


def build_model(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden_size,
            num_hidden_layers=settings.num_layers,
            intermediate_size=settings.mlp_size,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=16384,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class Training:
    """One run; a step is a function of the seed and its number, so a run that was stopped goes on as it would have."""

    def __init__(self, texts: list[str], puzzles: frozenset[tuple[int, ...]], settings: Settings, out: Path) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(settings.seed)
        out.mkdir(parents=True, exist_ok=True)
        self.puzzles, self.settings, self.out = puzzles, settings, out
        self.tokenizer = train_tokenizer(texts, settings)
        self.rows_RT = text_rows(texts, self.tokenizer, settings)
        self.model = build_model(settings, self.tokenizer).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.peak_lr, betas=(0.9, 0.95), weight_decay=0.05
        )
        self.step, self.spent_s = 0, 0.0
        self.measured: dict[str, list[float]] = {"text": [], "verdict": [], "answer_right": []}
        if self._checkpoint.exists():
            state = torch.load(self._checkpoint, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.spent_s = state["step"], state["spent_s"]
        print(
            f"{sum(p.numel() for p in self.model.parameters()):,} parameters; {len(texts):,} texts, "
            f"{self.rows_RT.numel():,} tokens; {len(puzzles)} puzzles left out",
            flush=True,
        )

    @property
    def _checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"

    def run(self) -> None:
        started, saved = time.monotonic() - self.spent_s, time.monotonic()
        while self.step < self.settings.num_steps and self.spent_s < self.settings.stop_after_s:
            self._train_step(random.Random(f"backbone {self.settings.seed} {self.step}"))
            self.step, self.spent_s = self.step + 1, time.monotonic() - started
            if self.step % 20 == 0:
                print(f"step {self.step}/{self.settings.num_steps} {self._means(20)} {self.spent_s:.0f} s", flush=True)
            if time.monotonic() - saved > self.settings.checkpoint_every_s:
                self._save_checkpoint()
                saved = time.monotonic()
        self._save_model()

    def _train_step(self, rng: random.Random) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        if rng.random() < self.settings.chain_share:
            loss = self._verdict_loss(rng)
        else:
            picked = [rng.randrange(len(self.rows_RT)) for _ in range(self.settings.batch_rows)]
            ids_BT = self.rows_RT[picked]
            logits = self.model(input_ids=ids_BT[:, :-1], use_cache=False).logits
            loss = cross_entropy(logits.flatten(0, 1), ids_BT[:, 1:].flatten())
            self.measured["text"].append(loss.item())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def _verdict_loss(self, rng: random.Random) -> torch.Tensor:
        ids_BT, verdict_BT = chain_batch(rng, self.puzzles, self.tokenizer, self.settings)
        is_said = verdict_BT != _IGNORED
        said, wanted = self.model.lm_head(self.model.model(ids_BT).last_hidden_state[is_said]), verdict_BT[is_said]
        loss = cross_entropy(said, wanted)
        is_answer = ids_BT[is_said] == self.tokenizer.eos_token_id
        self.measured["verdict"].append(loss.item())
        self.measured["answer_right"].append((said.argmax(-1) == wanted)[is_answer].float().mean().item())
        return loss

    def _rate(self) -> float:
        """Warm-up, then a cosine over the steps or the seconds, whichever end first."""
        done = max(self.step / self.settings.num_steps, self.spent_s / self.settings.stop_after_s)
        warm = min(1.0, (self.step + 1) / self.settings.warmup_steps)
        return self.settings.peak_lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def _means(self, last: int) -> dict[str, float]:
        """Of each figure over its last steps; `answer_right` is the share of made-up answers judged rightly."""
        return {name: round(sum(one[-last:]) / len(one[-last:]), 3) for name, one in self.measured.items() if one}

    def _save_checkpoint(self) -> None:
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state | {"step": self.step, "spent_s": self.spent_s}, self._checkpoint.with_suffix(".tmp"))
        self._checkpoint.with_suffix(".tmp").replace(self._checkpoint)

    def _save_model(self) -> None:
        folder, measured = self.out / "model", self._means(50) | {"steps": self.step, "seconds": round(self.spent_s)}
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        card = {"settings": asdict(self.settings), "measured": measured}
        (folder / "training.json").write_text(json.dumps(card, indent=2) + "\n")
        print(f"saved {folder}: {json.dumps(measured)}", flush=True)


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
    Training(texts, puzzles_in(left_out), settings, out).run()


if __name__ == "__main__":
    main()
