"""Other people's verifiers: outcome and process reward models in Hugging Face folders, as a `Scorer`.

    Qwen2.5-Math-PRM     step_tag='<extra_0>', strip_steps=True
    Math-Shepherd        step_tag=' ки', step_separator='\\n', strip_steps=True, plain='{problem} {solution}'
    PRMTrainer of TRL    step_tag='\\n', strip_steps=True, template='plain', plain='{problem}{solution}'
    DeBERTa pair model   template='pair'

Everything else is in `RewardModelSettings`. Knows how scores are read from logits; how text becomes tokens is said in
`reward_layout`, how folders are loaded in `reward_load`.

Shapes: B rows, L tokens, K labels, N nodes read from a batch, V vocabulary.
"""

import inspect
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from arts.lm.load import LanguageModel
from arts.protocols import Aggregation, PathTooLong, ScoredTrees, ScoreScale
from arts.tree import ReasoningTree, StopReason
from arts.verifier.reward_layout import Kind, Layout, RewardModelSettings, Row
from arts.verifier.reward_load import load_reward_folder

_ONLY_OF: dict[str, tuple[Kind, ...]] = {
    "positive": ("sequence", "token"),
    "step_tag": ("token", "causal"),
    "good_token": ("causal",),
    "bad_token": ("causal",),
    "steps": ("sequence",),
}


class RewardModelScorer:
    """`Scorer` over a reward model. Scores are those of the solution so far; batches change them by rounding only.

    A causal model reads one row a leaf, and a step that several leaves share is read from the first row that holds it.
    Sequence models and models that read ahead (BERT) get one row for each step. The root is 0: nothing is known of a
    problem before its first step. A failed draw has the score of its parent.

    Args:
        kind: how the model is read; `load_reward_model` finds out.
        batch_tokens: padded tokens of one batch.
    """

    def __init__(
        self, language_model: LanguageModel, settings: RewardModelSettings, kind: Kind, *, batch_tokens: int = 8192
    ) -> None:
        _refuse_idle(settings, kind)
        self.language_model = language_model
        self.kind = kind
        self.batch_tokens = batch_tokens
        self._config = language_model.model.config.get_text_config()
        self._config.use_cache = False
        self._model_pad_id = self._config.pad_token_id
        row_per_node = kind == "sequence" or (kind == "token" and _reads_ahead(language_model))
        self.layout = Layout(language_model.tokenizer, settings, kind, row_per_node=row_per_node)
        self._answer_ids = _answer_ids(language_model, settings) if kind == "causal" else []
        self._positive = _positive_label(language_model, settings) if kind != "causal" else None
        self.scale = _scale(kind, self._positive, settings.aggregation)

    @torch.inference_mode()
    def score(self, trees: Sequence[ReasoningTree]) -> ScoredTrees:
        """Raises PathTooLong where a path is longer than the model's context."""
        rows: list[tuple[int, Row]] = []
        distinct = 0
        for index, tree in enumerate(trees):
            own, num_tokens = self.layout.rows(tree)
            rows.extend((index, row) for row in own)
            distinct += num_tokens
        self._check_lengths([row for _, row in rows])
        scores: list[dict[int, float]] = [{0: 0.0} for _ in trees]
        for batch in _batches(rows, self.batch_tokens, self._config.vocab_size - 1):
            values = iter(self._read([row for _, row in batch]).tolist())
            for index, row in batch:
                scores[index].update((node, next(values)) for node, _ in row.reads)
        scored = [_with_scores(tree, own) for tree, own in zip(trees, scores, strict=True)]
        return ScoredTrees(scored, sum(len(row.token_ids) for _, row in rows), distinct, self.scale)

    def _read(self, rows: Sequence[Row]) -> torch.Tensor:
        """Log scores of the nodes read from the rows, row after row [N], in float32."""
        model, inputs = self.language_model.model, self._inputs(rows)
        if self.kind == "sequence":
            return self._log_score(model(**inputs).logits)
        row_N = torch.tensor([index for index, row in enumerate(rows) for _ in row.reads])
        column_N = torch.tensor([column for row in rows for _, column in row.reads])
        if self.kind == "causal" and "logits_to_keep" in inspect.signature(model.forward).parameters:
            kept, column_N = column_N.unique(return_inverse=True)  # V numbers a token: only where one is read
            inputs["logits_to_keep"] = kept.to(self.language_model.device)
        logits_BLK = model(**inputs).logits
        return self._log_score(logits_BLK[row_N.to(logits_BLK.device), column_N.to(logits_BLK.device)])

    def _log_score(self, logits_NK: torch.Tensor) -> torch.Tensor:
        logits_NK = logits_NK.float()
        if self.kind == "causal":
            return logits_NK[:, self._answer_ids].log_softmax(dim=-1)[:, 0]
        if self._positive is not None:
            return logits_NK.log_softmax(dim=-1)[:, self._positive]
        strength_N = logits_NK[:, 0]
        return strength_N if self.kind == "sequence" else nn.functional.logsigmoid(strength_N)

    def _inputs(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Rows padded on the right, with their mask; text types where the rows are pairs [B, L]."""
        length = max(len(row.token_ids) for row in rows)
        pad = self._pad_id({row.token_ids[-1] for row in rows})

        def padded(values: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
            filled = [[*own, *[fill] * (length - len(own))] for own in values]
            return torch.tensor(filled, device=self.language_model.device)

        inputs = {
            "input_ids": padded([row.token_ids for row in rows], pad),
            "attention_mask": padded([[1] * len(row.token_ids) for row in rows], 0),
        }
        if rows[0].type_ids is not None and getattr(self._config, "type_vocab_size", 0) > 1:
            inputs["token_type_ids"] = padded([row.type_ids or [] for row in rows], 0)
        return inputs

    def _pad_id(self, last_ids: set[int]) -> int:
        """Id to pad with: the model's own, or any that ends no row of the batch.

        Decoders find the end of a text as its last token that is not `config.pad_token_id`. Taking the end of sequence
        for it, as is often done, would read texts that end in one a token too early.
        """
        if self._model_pad_id is None:
            self._config.pad_token_id = min(set(range(len(last_ids) + 1)) - last_ids)
        return int(self._config.pad_token_id)

    def _check_lengths(self, rows: Sequence[Row]) -> None:
        # Some models count positions from their padding id on and say so in the tokenizer only (RoBERTa: 512 of 514).
        limit = getattr(self._config, "max_position_embeddings", None) or 1 << 30
        limit = min(limit, self.language_model.tokenizer.model_max_length)
        longest = max(rows, key=lambda row: len(row.token_ids), default=None)
        if longest is not None and len(longest.token_ids) > limit:
            raise PathTooLong(
                f"problem {longest.problem_id!r}: a path takes {len(longest.token_ids)} tokens and the reward model's "
                f"context is {limit}; use a model with a longer context or collect with fewer --max-new-tokens"
            )


def load_reward_model(
    folder: str | Path, settings: RewardModelSettings = RewardModelSettings(), device: str = "cpu"
) -> RewardModelScorer:
    """Load a reward model from a local folder, float32 on a CPU and in the stored type elsewhere.

    Raises:
        ValueError: the folder cannot be loaded as one, or the settings do not fit the model.
    """
    language_model, kind = load_reward_folder(folder, settings, device)
    return RewardModelScorer(language_model, settings, kind)


def _refuse_idle(settings: RewardModelSettings, kind: Kind) -> None:
    """An option that this kind of model does not have must not pass in silence."""
    defaults = {field.name: field.default for field in fields(RewardModelSettings)}
    for name, kinds in _ONLY_OF.items():
        value = getattr(settings, name)
        if value != defaults[name] and kind not in kinds:
            raise ValueError(
                f"{name} is {value!r}, but this model is read as {kind!r}; it is for {' and '.join(kinds)} models"
            )
    if kind == "causal" and not settings.step_tag:
        raise ValueError(
            "a language model is read at a step tag, and none is given; the model's card names the step_tag that it "
            "was trained with, like ' ки'"
        )


def _positive_label(language_model: LanguageModel, settings: RewardModelSettings) -> int | None:
    """Number of the label that means right; None where the model gives one number."""
    num_labels = int(language_model.model.config.num_labels)
    if num_labels == 1:
        if settings.positive is not None:
            raise ValueError(f"positive is {settings.positive}, but the model has one label: its score is that number")
        return None
    if (settings.positive is None and num_labels > 2) or (settings.positive or 0) >= num_labels:
        labels = ", ".join(f"{number}: {name}" for number, name in language_model.model.config.id2label.items())
        raise ValueError(
            f"positive is {settings.positive}, and the model has {num_labels} labels ({labels}); name the one that "
            "means right by its number"
        )
    return 1 if settings.positive is None else settings.positive


def _answer_ids(language_model: LanguageModel, settings: RewardModelSettings) -> list[int]:
    """Ids of the good and the bad token."""
    tokenizer = language_model.tokenizer
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (settings.good_token, settings.bad_token)]
    if any(len(own) != 1 or own[0] == tokenizer.unk_token_id for own in ids) or ids[0] == ids[1]:
        raise ValueError(
            f"good_token {settings.good_token!r} and bad_token {settings.bad_token!r} are the tokens {ids} of this "
            "tokenizer; they must be one known token each, and not the same"
        )
    return [own[0] for own in ids]


def _scale(kind: Kind, positive: int | None, aggregation: Aggregation | None) -> ScoreScale:
    strength = kind == "sequence" and positive is None
    return ScoreScale(
        kind="log_strength" if strength else "log_value",
        aggregation=aggregation or ("last" if kind == "sequence" else "min"),
        inner_is_value=kind != "sequence",
    )


@torch.inference_mode()
def _reads_ahead(language_model: LanguageModel) -> bool:
    """Does the last token of a text change what is read before it? Asked of the model itself, with two short texts."""
    ids_BL = torch.tensor([[3, 3, 3, 3, 3, 1], [3, 3, 3, 3, 3, 2]], device=language_model.device)
    logits_BLK = language_model.model(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL)).logits.float()
    change_L = (logits_BLK[0] - logits_BLK[1]).abs().amax(dim=-1)
    return bool(change_L[:-1].max() > 1e-3 * change_L[-1])


def _batches(rows: Sequence[tuple[int, Row]], batch_tokens: int, max_rows: int) -> list[list[tuple[int, Row]]]:
    """Rows of similar length together, so that little is padded."""
    batches: list[list[tuple[int, Row]]] = []
    for item in sorted(rows, key=lambda item: len(item[1].token_ids)):
        length = len(item[1].token_ids)
        if batches and length * (len(batches[-1]) + 1) <= batch_tokens and len(batches[-1]) < max_rows:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches


def _with_scores(tree: ReasoningTree, scores: dict[int, float]) -> ReasoningTree:
    """The tree with the scores that were read; a failed draw has its parent's, a step left out has none."""
    for node in tree.nodes:
        if node.stop is StopReason.ERROR and node.parent in scores:
            scores[node.id] = scores[node.parent]
    return replace(tree, nodes=tuple(replace(node, log_flow=scores.get(node.id)) for node in tree.nodes))
