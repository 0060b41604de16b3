"""Other people's reward models: scores are the bare model's on each prefix, whatever the batch; what is refused."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import save_gpt2, save_llama
from tiny_verifier import END, PAD, letter_trees
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from arts.build import build_scorer, named_scorers, url_options
from arts.evaluate.run import evaluate_trees
from arts.protocols import ScoreScale
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, build_tree
from arts.verifier.reward_layout import Layout, RewardModelSettings
from arts.verifier.reward_model import RewardModelScorer, load_reward_model

TAG, CLS, SEP = "<extra_0>", "[CLS]", "[SEP]"
CONTEXT = 160
CHAT = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def byte_tokenizer(*, chat: bool = False, pair: bool = False) -> PreTrainedTokenizerFast:
    """A token a byte; `pair` puts [CLS] and [SEP] around texts, as BERT does."""
    special = [PAD, END, TAG, CLS, SEP]
    vocab = {token: index for index, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    if pair:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{CLS} $0 {SEP}",
            pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
            special_tokens=[(CLS, vocab[CLS]), (SEP, vocab[SEP])],
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD, eos_token=END)
    tokenizer.chat_template = CHAT if chat else None
    return tokenizer


def save(
    folder: Path, architecture: str, tokenizer: PreTrainedTokenizerFast, *, num_labels: int = 2, **config: Any
) -> Path:
    """A random model with wide weights, so that a wrong mask, position or label shows in every score."""
    torch.manual_seed(len(architecture) + num_labels)
    model_class: type[PreTrainedModel] = getattr(transformers, architecture)
    settings = SIZES | {"max_position_embeddings": CONTEXT, "initializer_range": 0.25, "pad_token_id": 0} | config
    model = model_class(
        model_class.config_class(vocab_size=len(tokenizer), num_labels=num_labels, eos_token_id=1, **settings)
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_llama_classifier(folder: Path) -> Path:
    """No padding id, and the tokenizer of SentencePiece models with its <s> in front."""
    tokenizer = AutoTokenizer.from_pretrained(save_llama(folder / "causal"))
    return save(folder / "model", "LlamaForSequenceClassification", tokenizer, num_labels=1, pad_token_id=None)


MODELS: dict[str, Callable[[Path], Path]] = {
    "qwen2-sequence": lambda to: save(to, "Qwen2ForSequenceClassification", byte_tokenizer(chat=True), num_labels=1),
    "qwen2-sequence-3": lambda to: save(to, "Qwen2ForSequenceClassification", byte_tokenizer(), num_labels=3),
    "llama-sequence": save_llama_classifier,
    "bert-sequence": lambda to: save(to, "BertForSequenceClassification", byte_tokenizer(pair=True)),
    "modernbert-sequence": lambda to: save(
        to, "ModernBertForSequenceClassification", byte_tokenizer(pair=True), local_attention=8,
        initializer_cutoff_factor=2.0, cls_token_id=3, sep_token_id=4, bos_token_id=3, classifier_pooling="mean",
    ),
    "qwen2-token": lambda to: save(to, "Qwen2ForTokenClassification", byte_tokenizer(chat=True)),
    "qwen2-token-1": lambda to: save(to, "Qwen2ForTokenClassification", byte_tokenizer(), num_labels=1),
    "bert-token": lambda to: save(to, "BertForTokenClassification", byte_tokenizer(pair=True)),
    "qwen2-causal": lambda to: save(to, "Qwen2ForCausalLM", byte_tokenizer(), pad_token_id=None),
    "gpt2-causal": save_gpt2,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return cache(lambda name: MODELS[name](tmp_path_factory.mktemp(name) / "model"))


def step(text: str, stop: StopReason = StopReason.STOP) -> Step:
    return Step(text, (7,), -1.0, stop)


def tree(name: str, prompt: str, *paths: Sequence[str], failed: bool = False) -> ReasoningTree:
    """A tree of the paths, each of them an answer; one more draw may have failed."""
    rollouts = [
        Rollout(index, index, 0, (*(step(text) for text in path[:-1]), step(path[-1], StopReason.EOS)))
        for index, path in enumerate(paths)
    ]
    if failed:
        first = step(paths[0][0])
        rollouts.append(Rollout(len(paths), len(paths), 0, (first, Step("", (), None, StopReason.ERROR))))
    return build_tree(Problem(name, prompt), rollouts)


TREES = [
    tree("short", "ab", ["a\n\n", "b"], ["a\n\n", "cc\n\n", "c"]),
    tree("long", "abc a" * 6, ["\na", "bb\n\n", "\n\nc é", "a"], ["\na", "bb\n\n", "c"], failed=True),
    tree("empty steps", "a", ["", "b\n"], ["a", "", ""]),
    tree("chain", "c", ["é\n" * 9]),
]


def scores(scorer: RewardModelScorer, trees: list[ReasoningTree]) -> list[list[float | None]]:
    return [[node.log_flow for node in tree.nodes] for tree in scorer.score(trees).trees]


@torch.no_grad()
def bare(folder: Path, architecture: str) -> Callable[..., torch.Tensor]:
    """Logits of one text without padding: `bare(...)(ids)` is [K] of a sequence model and [L, K] of others."""
    model = getattr(transformers, architecture).from_pretrained(folder).eval()

    def logits(ids: list[int], **inputs: list[int]) -> torch.Tensor:
        with torch.no_grad():
            output = model(torch.tensor([ids]), **{name: torch.tensor([value]) for name, value in inputs.items()})
        return output.logits[0]

    return logits


def expect(scorer: RewardModelScorer, score_of: Callable[[str, list[str]], float]) -> None:
    """Every step has the score that the function gives to the prompt and the steps down to it."""
    for scored in scorer.score(TREES).trees:
        for node in scored.nodes[1:]:
            above = node.parent if node.stop is StopReason.ERROR else node.id
            texts = [step.text for step in scored.path(above)]
            assert node.log_flow == pytest.approx(score_of(scored.problem.prompt, texts), abs=1e-5)
        assert scored.nodes[0].log_flow == 0.0


# --- scores -----------------------------------------------------------------------------------------------------------


def test_outcome_model_gives_its_own_number_for_the_chat_of_each_prefix(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("qwen2-sequence")
    tokenizer, logits = AutoTokenizer.from_pretrained(folder), bare(folder, "Qwen2ForSequenceClassification")

    def reference(prompt: str, texts: list[str]) -> float:
        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": "".join(texts)}]
        return float(logits(tokenizer.apply_chat_template(chat, return_dict=False))[0])

    scorer = load_reward_model(folder)
    expect(scorer, reference)
    assert scorer.scale == ScoreScale(kind="log_strength", aggregation="last")


def test_label_that_means_right_is_a_log_probability(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("qwen2-sequence-3")
    tokenizer, logits = AutoTokenizer.from_pretrained(folder), bare(folder, "Qwen2ForSequenceClassification")
    scorer = load_reward_model(folder, RewardModelSettings(positive=2, plain="Q {problem} A {solution}."))
    expect(
        scorer,
        lambda prompt, texts: float(
            logits(tokenizer(f"Q {prompt} A {''.join(texts)}.")["input_ids"]).log_softmax(-1)[2]
        ),
    )
    assert scorer.scale == ScoreScale(kind="log_value", aggregation="last")


def test_model_without_padding_id_is_read_at_its_last_token_whatever_that_is(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("llama-sequence")
    tokenizer, logits = AutoTokenizer.from_pretrained(folder), bare(folder, "LlamaForSequenceClassification")
    assert tokenizer.pad_token_id is None and tokenizer.bos_token_id is not None
    # The text ends in the token that is often taken for padding.
    scorer = load_reward_model(folder, RewardModelSettings(plain="{problem}\n{solution}<end>"))
    expect(
        scorer,
        lambda prompt, texts: float(logits(tokenizer(f"{prompt}\n{''.join(texts)}<end>")["input_ids"])[0]),
    )
    expect(
        load_reward_model(folder), lambda p, texts: float(logits(tokenizer(f"{p}\n{''.join(texts)}")["input_ids"])[0])
    )


@pytest.mark.parametrize("name", ["bert-sequence", "modernbert-sequence"])
@pytest.mark.parametrize("template", ["plain", "pair"])
def test_encoders_get_their_special_tokens(folder_of: Callable[[str], Path], name: str, template: Any) -> None:
    folder = folder_of(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    logits = bare(folder, f"{'Bert' if name.startswith('bert') else 'ModernBert'}ForSequenceClassification")

    def reference(prompt: str, texts: list[str]) -> float:
        solution = "".join(texts)
        given = ([prompt], [solution]) if template == "pair" else ([f"{prompt}\n{solution}"],)
        encoded = tokenizer(*given, return_token_type_ids=True)
        types = {"token_type_ids": encoded["token_type_ids"][0]} if name.startswith("bert") else {}
        return float(logits(encoded["input_ids"][0], **types).log_softmax(-1)[1])

    expect(load_reward_model(folder, RewardModelSettings(template=template)), reference)


def test_process_model_is_read_at_the_tag_of_each_step(folder_of: Callable[[str], Path]) -> None:
    """As the card of Qwen2.5-Math-PRM has it: steps without their blanks, each with its tag, in a chat."""
    folder = folder_of("qwen2-token")
    tokenizer, logits = AutoTokenizer.from_pretrained(folder), bare(folder, "Qwen2ForTokenClassification")
    tag = tokenizer.convert_tokens_to_ids(TAG)

    def reference(prompt: str, texts: list[str]) -> float:
        solution = "".join(text.strip() + TAG for text in texts)
        chat = [{"role": role, "content": text} for role, text in (("system", "s"), ("user", prompt))]
        ids = tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": solution}], return_dict=False)
        assert ids.count(tag) == len(texts)
        last = len(ids) - 1 - ids[::-1].index(tag)
        return float(logits(ids).log_softmax(-1)[last, 1])

    scorer = load_reward_model(folder, RewardModelSettings(step_tag=TAG, strip_steps=True, system="s"))
    expect(scorer, reference)
    assert scorer.scale == ScoreScale(kind="log_value", aggregation="min", inner_is_value=True)


@pytest.mark.parametrize("settings", [{}, {"step_tag": "\n", "strip_steps": True}, {"step_separator": " "}])
def test_process_model_of_one_label_is_read_at_step_ends(folder_of: Callable[[str], Path], settings: Any) -> None:
    """With a line end as its tag this is the layout of TRL's PRMTrainer."""
    folder = folder_of("qwen2-token-1")
    tokenizer, logits = AutoTokenizer.from_pretrained(folder), bare(folder, "Qwen2ForTokenClassification")

    def reference(prompt: str, texts: list[str]) -> float:
        own = [text.strip() if settings.get("strip_steps") else text for text in texts]
        solution = settings.get("step_separator", "").join(text + settings.get("step_tag", "") for text in own)
        return float(torch.nn.functional.logsigmoid(logits(tokenizer(f"{prompt}{solution}")["input_ids"])[-1, 0]))

    expect(load_reward_model(folder, RewardModelSettings(plain="{problem}{solution}", **settings)), reference)


def test_a_model_that_reads_ahead_sees_no_step_before_its_time(folder_of: Callable[[str], Path]) -> None:
    """BERT attends both ways: read from the row of a leaf, a step's score would depend on those that follow."""
    folder = folder_of("bert-token")
    tokenizer, logits = AutoTokenizer.from_pretrained(folder), bare(folder, "BertForTokenClassification")
    scorer = load_reward_model(folder, RewardModelSettings(step_tag=TAG))
    assert scorer.layout.row_per_node
    expect(
        scorer,
        lambda prompt, texts: float(
            logits(tokenizer(f"{prompt}\n{''.join(text + TAG for text in texts)}")["input_ids"]).log_softmax(-1)[-2, 1]
        ),
    )


def test_language_model_is_read_as_good_against_bad_token_at_the_tag(folder_of: Callable[[str], Path]) -> None:
    """As the card of Math-Shepherd has it: the two tokens' chances behind each tag, and nothing else."""
    folder = folder_of("qwen2-causal")
    tokenizer, logits = AutoTokenizer.from_pretrained(folder), bare(folder, "Qwen2ForCausalLM")
    answers = tokenizer("+-")["input_ids"]

    def reference(prompt: str, texts: list[str]) -> float:
        solution = "\n".join(text.strip() + " ки" for text in texts)
        return float(logits(tokenizer(f"{prompt} {solution}")["input_ids"])[-1, answers].log_softmax(-1)[0])

    settings = RewardModelSettings(step_tag=" ки", step_separator="\n", strip_steps=True, plain="{problem} {solution}")
    expect(load_reward_model(folder, settings), reference)


def test_conversation_layout_fits_into_tag_and_separator(folder_of: Callable[[str], Path]) -> None:
    """RLHFlow's models answer `+` in a turn of their own after each step, and are read just before it."""
    folder = folder_of("gpt2-causal")
    tokenizer, logits = AutoTokenizer.from_pretrained(folder), bare(folder, "GPT2LMHeadModel")
    answers = [tokenizer(text)["input_ids"][0] for text in "ab"]

    def reference(prompt: str, texts: list[str]) -> float:
        turns = "a<end>".join(text.strip() + "<end>\n" for text in texts)
        return float(logits(tokenizer(f"<end>{prompt} {turns}")["input_ids"])[-1, answers].log_softmax(-1)[0])

    settings = RewardModelSettings(
        step_tag="<end>\n", step_separator="a<end>", strip_steps=True, plain="<end>{problem} {solution}",
        good_token="a", bad_token="b",
    )  # fmt: skip
    expect(load_reward_model(folder, settings), reference)


@pytest.mark.parametrize("architecture", ["Qwen2ForProcessRewardModel", "Qwen2ForRewardModel"])
def test_qwens_reward_models_need_no_code_of_their_folder(tmp_path: Path, architecture: str) -> None:
    """Their heads have two layers; the reference is put together by hand."""
    labels = 2 if "Process" in architecture else 1
    tokenizer = byte_tokenizer(chat=True)
    base = transformers.Qwen2ForTokenClassification.from_pretrained(
        save(tmp_path, "Qwen2ForTokenClassification", tokenizer, num_labels=labels)
    )
    head = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, labels))
    base.score = head
    base.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for absent in ("num_labels", "id2label", "label2id", "pad_token_id"):
        config.pop(absent, None)
    auto_map = {"AutoConfig": "configuration_x.X", "AutoModel": f"modeling_x.{architecture}"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": [architecture], "auto_map": auto_map}))

    def reference(prompt: str, texts: list[str]) -> float:
        tag = TAG if labels == 2 else ""
        chat = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": "".join(text + tag for text in texts)},
        ]
        ids = tokenizer.apply_chat_template(chat, return_dict=False)
        with torch.no_grad():
            logits = head(base.model(torch.tensor([ids])).last_hidden_state[0])
        if labels == 1:
            return float(logits[-1, 0])
        return float(logits[len(ids) - 1 - ids[::-1].index(tokenizer.convert_tokens_to_ids(TAG))].log_softmax(-1)[1])

    expect(load_reward_model(tmp_path, RewardModelSettings(step_tag=TAG if labels == 2 else "")), reference)


TAGGED = {
    "token": {"step_tag": "\n"},
    "causal": {"step_tag": "\n", "good_token": "a", "bad_token": "b"},
    "sequence": {},
}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_scores_do_not_depend_on_the_batch(folder_of: Callable[[str], Path], name: str) -> None:
    options = TAGGED[name.split("-")[1]] | ({"positive": 0} if name.endswith("3") else {})
    scorer = load_reward_model(folder_of(name), RewardModelSettings(**options))
    together = scores(scorer, TREES)
    alone = [scores(scorer, [tree])[0] for tree in TREES]
    scorer.batch_tokens = 1
    one_row_a_batch = scores(scorer, TREES[::-1])[::-1]
    for own, others, last in zip(together, alone, one_row_a_batch, strict=True):
        assert own == pytest.approx(others, abs=1e-5)
        assert own == pytest.approx(last, abs=1e-5)
    assert len({round(score, 4) for own in together for score in own}) > 8  # something was computed


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_ids_of_a_prefix_are_those_of_its_text_and_begin_every_row_that_goes_on(
    folder_of: Callable[[str], Path],
) -> None:
    """This tokenizer joins `a\\n` and `\\nb` at their line ends; the second step is then cut on its own."""
    tokenizer = AutoTokenizer.from_pretrained(folder_of("gpt2-causal"))
    layout = Layout(tokenizer, RewardModelSettings(plain="{problem}{solution}"), "token", row_per_node=False)
    joined, apart = tree("p", "c", ["a\n", "\nb"]), tree("p", "c", ["a\n", "b"])
    (row,), _ = layout.rows(apart)
    assert row.token_ids == tokenizer("ca\nb")["input_ids"]
    (row,), distinct = layout.rows(joined)
    assert row.token_ids == [*tokenizer("ca\n")["input_ids"], *tokenizer("\nb")["input_ids"]]
    assert row.token_ids != tokenizer("ca\n\nb")["input_ids"]
    assert row.reads == [(1, 2), (2, 4)] and distinct == 5


def test_sentencepiece_texts_have_one_blank_in_front_and_not_one_a_step(tmp_path: Path) -> None:
    """Cut alone, each step would get the blank that such tokenizers put in front of a text."""
    tokenizer = AutoTokenizer.from_pretrained(save_llama(tmp_path))
    layout = Layout(tokenizer, RewardModelSettings(plain="{problem}{solution}"), "token", row_per_node=False)
    (row,), _ = layout.rows(tree("p", "c", ["b", "c\n", "b"]))
    assert row.token_ids == tokenizer("cbc\nb")["input_ids"]
    assert row.token_ids.count(tokenizer.convert_tokens_to_ids("▁")) == 1


def test_tokens_are_counted_without_padding_and_once(folder_of: Callable[[str], Path]) -> None:
    shared = tree("p", "abc", ["aa", "b"], ["aa", "ccc"])  # a row a leaf: 3 + 1 for the line end, 2, and 1 or 3
    scorer = load_reward_model(folder_of("qwen2-token-1"))
    assert scorer.score([shared])[1:3] == (4 + 2 + 1 + 4 + 2 + 3, 4 + 2 + 1 + 3)
    tagged = load_reward_model(folder_of("qwen2-token-1"), RewardModelSettings(step_tag=TAG))
    assert tagged.score([shared])[1:3] == (4 + 3 + 2 + 4 + 3 + 4, 4 + 3 + 2 + 4)
    rows = load_reward_model(folder_of("bert-sequence"))  # a row a step, with [CLS] and [SEP]
    assert rows.score([shared])[1:3] == ((4 + 2 + 2) + (4 + 3 + 2) + (4 + 5 + 2), 4 + 2 + 1 + 3 + 2)
    assert rows.score([])[:3] == ([], 0, 0)


def test_leaves_only_leaves_inner_steps_without_a_score(folder_of: Callable[[str], Path]) -> None:
    every = load_reward_model(folder_of("qwen2-sequence")).score(TREES)
    leaves = load_reward_model(folder_of("qwen2-sequence"), RewardModelSettings(steps=False)).score(TREES)
    assert leaves.computed_tokens < every.computed_tokens and leaves.distinct_tokens == every.distinct_tokens
    for whole, own in zip(every.trees, leaves.trees, strict=True):
        ends = {node.id for node in whole.leaves() if node.stop is not StopReason.ERROR}
        for node, other in zip(whole.nodes[1:], own.nodes[1:], strict=True):
            assert other.log_flow == (pytest.approx(node.log_flow, abs=1e-5) if node.id in ends else None)


def test_a_tree_without_steps_and_a_tree_of_failed_draws_are_scored(folder_of: Callable[[str], Path]) -> None:
    failed = build_tree(Problem("p", "a"), [Rollout(0, 0, 0, (Step("", (), None, StopReason.ERROR),))])
    scorer = load_reward_model(folder_of("qwen2-token"))
    assert scores(scorer, [failed, build_tree(Problem("q", "a"), [])]) == [[0.0, 0.0], [0.0]]


def test_a_reward_model_joins_the_table_of_results(folder_of: Callable[[str], Path]) -> None:
    pool = letter_trees(6)
    pool = [replace(tree, trunks=tree.trunks[:6]) for tree in pool]
    outcome = build_scorer(f"rm:{folder_of('qwen2-sequence')}?steps=false").score(pool)
    process = build_scorer(f"rm:{folder_of('qwen2-token')}?step_tag={TAG}&positive=0").score(pool)
    result = evaluate_trees(pool, {"orm": outcome, "prm": process}).to_json()
    assert result["verifiers"] == ["orm", "prm"]
    assert result["cost"]["verifiers"]["prm"]["computed_tokens"] == process.computed_tokens > 0


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_path_longer_than_the_context_is_refused_and_one_as_long_is_not(folder_of: Callable[[str], Path]) -> None:
    scorer = load_reward_model(folder_of("qwen2-token-1"))
    fits = tree("fits", "a", ["b" * (CONTEXT - 2)])
    assert scorer.score([fits]).computed_tokens == CONTEXT
    with pytest.raises(
        ValueError, match=rf"'too long': a path takes {CONTEXT + 1} tokens .* context is {CONTEXT}; use"
    ):
        scorer.score([fits, tree("too long", "a", ["b" * (CONTEXT - 1)])])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "reward"}, "kind is 'reward'; allowed are"),
        ({"template": "chatml"}, "template is 'chatml'; allowed are"),
        ({"plain": "{solution} {problem}"}, "it must hold {problem}, and {solution} after it"),
        ({"positive": -1}, "labels count from 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardModelSettings(**settings)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("qwen2-sequence", {"step_tag": TAG}, "step_tag is '<extra_0>', but this model is read as 'sequence'"),
        ("qwen2-sequence", {"positive": 1}, "the model has one label"),
        ("qwen2-sequence-3", {}, r"3 labels \(0: LABEL_0, 1: LABEL_1, 2: LABEL_2\); name the one that"),
        ("qwen2-sequence-3", {"positive": 3}, "positive is 3, and the model has 3 labels"),
        ("qwen2-token", {"steps": False}, "it is for sequence models"),
        ("qwen2-token", {"good_token": "a"}, "it is for causal models"),
        ("qwen2-token", {"template": "pair"}, "'pair' is for sequence models"),
        ("qwen2-token", {"step_tag": "<extra_9>"}, "does not know the step tag '<extra_9>' .*9 tokens"),
        ("qwen2-token", {"kind": "sequence"}, "is a Qwen2ForTokenClassification, which is read as 'token'"),
        ("qwen2-token-1", {"template": "chat"}, "has no chat template; use template='plain'"),
        ("qwen2-token-1", {"system": "s"}, "a system message is for the chat template"),
        ("qwen2-causal", {}, "read at a step tag, and none is given"),
        ("qwen2-causal", {"step_tag": "\n", "good_token": "good"}, "must be one known token each"),
        ("qwen2-causal", {"step_tag": "\n", "good_token": "-"}, "and not the same"),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused(
    folder_of: Callable[[str], Path], name: str, settings: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_reward_model(folder_of(name), RewardModelSettings(**settings))


def edited(folder: Path, to: Path, **changes: Any) -> Path:
    """A copy of a model folder with another config."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text()) | changes
    (to / "config.json").write_text(json.dumps(config))
    return to


def test_folders_without_a_reward_model_are_refused(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    source = folder_of("qwen2-token")
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_reward_model(tmp_path)
    with pytest.raises(ValueError, match=r"is a Qwen2Model; reward models are …ForSequenceClassification, .* kind"):
        load_reward_model(edited(source, tmp_path / "bare", architectures=["Qwen2Model"]))
    with pytest.raises(ValueError, match="is a model without a named architecture"):
        load_reward_model(edited(source, tmp_path / "nameless", architectures=None))
    (tmp_path / "bare" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        load_reward_model(tmp_path / "bare")
    headless = edited(folder_of("qwen2-causal"), tmp_path / "lm", architectures=["Qwen2ForTokenClassification"])
    with pytest.raises(ValueError, match=r"describes a Qwen2ForTok.*: 2 tensors are .* such as 'score\.bias'\. Give"):
        load_reward_model(headless)
    with pytest.raises(ValueError, match=r"the weights do not fit its config.json, .*'model\."):
        load_reward_model(edited(source, tmp_path / "sizes", hidden_size=16))
    mute = edited(source, tmp_path / "mute")
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (mute / file).unlink()
    with pytest.raises(ValueError, match=r"holds no tokenizer|could not be loaded"):
        load_reward_model(mute)


def test_pickled_weights_are_never_read(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = edited(folder_of("qwen2-token"), tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"holds no \*\.safetensors weights"):
        load_reward_model(folder)


CODE = """
from pathlib import Path
from transformers import Qwen2ForTokenClassification
Path(__file__).with_name("ran").touch()
class StrangePRM(Qwen2ForTokenClassification):
    pass
"""


def test_code_of_a_folder_runs_only_where_it_is_asked_for(
    folder_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = tmp_path / "modules"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))
    auto_map = {"AutoModel": "modeling_strange.StrangePRM"}
    source = folder_of("qwen2-token")
    folder = edited(source, tmp_path / "strange", architectures=["StrangePRM"], auto_map=auto_map)
    (folder / "modeling_strange.py").write_text(CODE)
    with pytest.raises(
        ValueError, match=r"StrangePRM with Python code of its own \(modeling_strange.StrangePRM\), which"
    ):
        load_reward_model(folder)
    with pytest.raises(ValueError, match="Python code of its own"):
        load_reward_model(folder, RewardModelSettings(kind="token"))
    assert not list(tmp_path.rglob("ran"))
    # A known architecture is loaded with the code of transformers, whatever else the folder offers.
    known = edited(folder, tmp_path / "known", architectures=["Qwen2ForTokenClassification"])
    assert scores(load_reward_model(known), TREES) == scores(load_reward_model(source), TREES)
    assert not list(tmp_path.rglob("ran"))
    trusted = load_reward_model(folder, RewardModelSettings(kind="token", trust_remote_code=True))
    assert list(modules.rglob("ran"))
    assert scores(trusted, TREES) == scores(load_reward_model(source), TREES)


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_of_the_command_line_become_settings() -> None:
    text = (
        "step_tag=<extra_0>&strip_steps=true&positive=0&plain={problem}%0A%26{solution}&aggregation=product&system=none"
    )
    assert RewardModelSettings(**url_options(RewardModelSettings, text, of="rm:x")) == RewardModelSettings(
        step_tag=TAG, strip_steps=True, positive=0, plain="{problem}\n&{solution}", aggregation="product"
    )


def test_verifiers_are_named_by_the_user_or_by_what_they_are() -> None:
    values = ["countdown", "runs/v2", "prm=rm:/m/Math-PRM?step_tag=<extra_0>", "rm:/m/Math-PRM?positive=1"]
    values += ["python:my.module:short", "python:a=b.py:long?kind=log_flow"]
    assert named_scorers(values) == [
        ("arts", "countdown"),
        ("arts_v2", "runs/v2"),
        ("prm", "rm:/m/Math-PRM?step_tag=<extra_0>"),
        ("Math-PRM", "rm:/m/Math-PRM?positive=1"),
        ("short", "python:my.module:short"),
        ("long", "python:a=b.py:long?kind=log_flow"),
    ]


def test_build_scorer_still_builds_flow_verifiers() -> None:
    assert math.isfinite(
        build_scorer("countdown").score([tree("p", "3 5 > 8", ["3+5=8;", "8"])]).trees[0].nodes[1].log_flow
    )
