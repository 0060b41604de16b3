"""What a reward model reads: the text of a solution as the model knows it, in token ids, and where its scores stand.

Each step becomes a *piece*: the separator (not before the first step), its text, and the step tag. A frame goes around
them: the chat template with the problem as the user and the solution as the assistant, or a plain text. Knows a
tokenizer and trees, no model.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from arts.protocols import Aggregation
from arts.tree import Node, ReasoningTree, StopReason

Kind = Literal["sequence", "token", "causal"]
_SOLUTION = "@solution@"  # stands for the solution while the chat template is applied


@dataclass(frozen=True, kw_only=True)
class RewardModelSettings:
    """How a reward model is read. The defaults take what its folder says, and scores at the last token of each step."""

    kind: Literal["auto", "sequence", "token", "causal"] = "auto"
    """`sequence`: one score a text (outcome reward models). `token`: labels of a token (process reward models).
    `causal`: a language model whose next token is the score. `auto`: as config.json names the architecture."""
    positive: int | None = None
    "number of the label that means right, of a model with two labels or more; None: 1 of two labels"
    step_tag: str = ""
    """Text put after each step, whose last token holds the score of the step (`<extra_0>`). Empty: the last token of
    the step itself does. Not of `sequence` models."""
    step_separator: str = ""
    "text put between two steps, after the tag of the first"
    strip_steps: bool = False
    "take blanks and line ends off both ends of each step"
    template: Literal["auto", "chat", "plain", "pair"] = "auto"
    """`chat`: the tokenizer's chat template. `plain`: the text below. `pair`: two texts, as BERT-like models take them.
    `auto`: chat where the tokenizer has a template, plain elsewhere."""
    plain: str = "{problem}\n{solution}"
    "of the plain template"
    system: str | None = None
    "system message of the chat template; None: what the template says by itself"
    good_token: str = "+"
    "of `causal` models: the score is the chance of this token where only it and the bad one are possible"
    bad_token: str = "-"
    steps: bool = True
    """Of `sequence` models: score the inner steps too, which takes a row of tokens for each. False: only the leaves,
    all that a table of results needs; inner steps then have no score (None), and cannot be searched by."""
    aggregation: Aggregation | None = None
    "how the scores of a path become one; None: min for `token` and `causal`, last for `sequence`"
    trust_remote_code: bool = False
    "run Python code that lies in the model's folder. Read it first: it can do whatever you can"

    def __post_init__(self) -> None:
        if self.template not in ("auto", "chat", "plain", "pair"):
            raise ValueError(f"template is {self.template!r}; allowed are 'auto', 'chat', 'plain' and 'pair'")
        if self.kind not in ("auto", "sequence", "token", "causal"):
            raise ValueError(f"kind is {self.kind!r}; allowed are 'auto', 'sequence', 'token' and 'causal'")
        places = [self.plain.find(part) for part in ("{problem}", "{solution}")]
        if not 0 <= places[0] < places[1]:
            raise ValueError(f"plain is {self.plain!r}; it must hold {{problem}}, and {{solution}} after it")
        if self.positive is not None and self.positive < 0:
            raise ValueError(f"positive is {self.positive}; labels count from 0")


class Row(NamedTuple):
    """One sequence of tokens for the model, and the nodes that are read from it."""

    problem_id: str
    token_ids: list[int]
    type_ids: list[int] | None
    "0 or 1, which of a pair's texts a token belongs to; None elsewhere"
    reads: list[tuple[int, int]]
    "(node id, index of the token that holds its score)"


class Layout:
    """Rows of token ids of trees, for one tokenizer.

    Args:
        kind: of the model, never `auto`.
        row_per_node: True where a score depends on all of a row (sequence models, and models that read ahead). Then
            each node has a row of its own, closed as a finished solution is. Otherwise a leaf's row holds its path.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, settings: RewardModelSettings, kind: Kind, *, row_per_node: bool
    ) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self.row_per_node = row_per_node
        self.leaves_only = not settings.steps
        self.template = settings.template
        if self.template == "auto":
            self.template = "chat" if tokenizer.chat_template else "plain"
        if self.template == "chat" and not tokenizer.chat_template:
            raise ValueError("template is 'chat', but the tokenizer has no chat template; use template='plain'")
        if self.template == "pair" and kind != "sequence":
            raise ValueError(f"template 'pair' is for sequence models, and this one is read as {kind!r}")
        if settings.system is not None and self.template != "chat":
            raise ValueError(f"a system message is for the chat template; this model is given {self.template!r} texts")
        if settings.step_tag:
            self._check_tag()
        # Special tokens around a plain text; a chat template writes its own.
        self._opening, self._closing = _special_ids(tokenizer) if self.template == "plain" else ([], [])

    def rows(self, tree: ReasoningTree) -> tuple[list[Row], int]:
        """The rows of one tree, and its distinct tokens: the prompt's once, each node's once.

        Failed draws are in no row.
        """
        known = [node for node in tree.nodes if node.stop is not StopReason.ERROR]
        texts = self._solutions(tree, known)
        if self.template == "pair":
            return self._pair_rows(tree, known, texts)
        before, after = self._frame(tree.problem.prompt)
        ids = self._prefix_ids(known, texts, before)
        if not ids[0]:
            raise ValueError(f"problem {tree.problem.id!r}: there is no token before the first step; check `plain`")
        closing = [*self._ids(after), *self._closing] if self.row_per_node else []
        distinct = len(closing) + _distinct(tree, {node: len(own) for node, own in ids.items()})
        rows = [
            Row(tree.problem.id, [*ids[nodes[-1]], *closing], None, [(node, len(ids[node]) - 1) for node in nodes])
            for nodes in self._read_together(tree, known)
        ]
        return rows, distinct

    def _read_together(self, tree: ReasoningTree, known: Sequence[Node]) -> Iterator[list[int]]:
        """Ids of the nodes that are read from one row, the last one its end; every node once, except left out ones."""
        if self.row_per_node:
            parents = {node.parent for node in known}
            yield from ([node.id] for node in known[1:] if not (self.leaves_only and node.id in parents))
            return
        taken: set[int] = set()
        for node in reversed(known[1:]):  # a node that is not taken has nothing below it
            if node.id not in taken:
                path = [step.id for step in tree.path(node.id) if step.id not in taken]
                taken.update(path)
                yield path

    def _solutions(self, tree: ReasoningTree, known: Sequence[Node]) -> dict[int, str]:
        """Text of the solution down to each node, tags and separators included."""
        texts = {0: ""}
        for node in known[1:]:
            texts[node.id] = texts[node.parent] + self._piece(node)
        return texts

    def _piece(self, node: Node) -> str:
        text = node.text.strip() if self.settings.strip_steps else node.text
        return (self.settings.step_separator if node.parent else "") + text + self.settings.step_tag

    def _prefix_ids(self, known: Sequence[Node], texts: dict[int, str], before: str) -> dict[int, list[int]]:
        """Ids of the whole text down to the end of each node.

        In rows that several nodes share they begin with those of the parent step: where a tokenizer would join the end
        of a step with the start of the next, the next is cut on its own, so that what follows never changes a step.
        """
        whole = dict(zip(texts, self._batch_ids([before + text for text in texts.values()]), strict=True))
        ids = {0: [*self._opening, *whole[0]]}
        for node in known[1:]:
            above, own = ids[node.parent], [*self._opening, *whole[node.id]]
            joined = not self.row_per_node and node.parent > 0 and own[: len(above)] != above
            ids[node.id] = [*above, *self._ids(self._piece(node))] if joined else own
        return ids

    def _pair_rows(self, tree: ReasoningTree, known: Sequence[Node], texts: dict[int, str]) -> tuple[list[Row], int]:
        prompts = [tree.problem.prompt] * len(texts)
        encoded = self.tokenizer(prompts, list(texts.values()), return_token_type_ids=True)
        ids = dict(zip(texts, encoded["input_ids"], strict=True))
        types = dict(zip(texts, encoded["token_type_ids"], strict=True))
        rows = [
            Row(tree.problem.id, ids[node], types[node], [(node, len(ids[node]) - 1)])
            for (node,) in self._read_together(tree, known)
        ]
        return rows, _distinct(tree, {node: len(own) for node, own in ids.items()})

    def _frame(self, prompt: str) -> tuple[str, str]:
        """Texts before and after the solution. The template frames the solution; it does not edit it."""
        if self.template == "plain":
            before, _, after = self.settings.plain.partition("{solution}")
            return before.replace("{problem}", prompt), after
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": _SOLUTION}]
        if self.settings.system is not None:
            messages.insert(0, {"role": "system", "content": self.settings.system})
        text = str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        before, found, after = text.rpartition(_SOLUTION)
        if not found:
            raise ValueError("the chat template leaves the assistant's message out; use template='plain'")
        return before, after

    def _ids(self, text: str) -> list[int]:
        return self._batch_ids([text])[0]

    def _batch_ids(self, texts: list[str]) -> list[list[int]]:
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def _check_tag(self) -> None:
        tag = self.settings.step_tag
        ids = self._ids(tag.strip() or tag)
        written_as_special = re.fullmatch(r"<[^<>\s]+>", tag.strip()) is not None
        if not ids or ids[-1] == self.tokenizer.unk_token_id or (written_as_special and len(ids) > 1):
            raise ValueError(
                f"the tokenizer does not know the step tag {tag!r} (it makes {len(ids)} tokens of it); "
                "the model's card names the tag that it was trained with"
            )


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer puts before and after a text."""
    bare, full = (list(tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (False, True))
    start = next(start for start in range(len(full)) if full[start : start + len(bare)] == bare)
    return full[:start], full[start + len(bare) :]


def _distinct(tree: ReasoningTree, sizes: dict[int, int]) -> int:
    """Tokens down to the root, and what each node adds to its parent's."""
    return sizes[0] + sum(max(0, size - sizes[tree.nodes[node].parent]) for node, size in sizes.items() if node)
