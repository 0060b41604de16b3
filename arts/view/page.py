"""The viewer as one file: style, script, an index of the problems, and their trees in compressed blocks.

A page with hundreds of problems opens at once because a block is read only when one of its problems is looked at. The
trees are base64 of deflated JSON: nothing that a model wrote stands on the page as text, so none of it can be markup.
Knows how the file is put together; not where the trees come from, and not how they are drawn.
"""

import base64
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arts.files import write_atomically
from arts.pages.html import Markup, asset, data_block, document
from arts.pages.links import Group, unique_keys
from arts.pages.scripts import tree_scripts, tree_styles
from arts.protocols import Aggregation, ScoreScale
from arts.residuals import Law
from arts.tree import ReasoningTree
from arts.view.columns import choose_end, count_ends, flow_range, largest_residual, tree_columns
from arts.view.groups import groups_to_json, usual_groups

_BLOCK_BYTES = 200_000  # of JSON: small enough to be read in milliseconds, large enough to compress well
_LIST_CHARACTERS = 160  # of a prompt or a note in the list
_SCRIPTS = ("blocks.js", "problems.js", "route.js", "keys.js", "main.js")
# $..$, \(..\), \[..\] or one of the commands that solutions of mathematics are full of.
_LATEX = re.compile(r"\$[^$\n]*[\\^_][^$\n]*\$|\\[(\[]|\\(?:d?frac|boxed|sqrt|begin|cdot|times|text)\b")


@dataclass(frozen=True, kw_only=True)
class View:
    """What a page shows.

    Raises:
        ValueError: there is nothing to show, or lists that belong together differ in length.
    """

    title: str
    trees: Sequence[ReasoningTree]
    keys: Sequence[str] = ()
    "names of the trees in links, each once; default: the problems' ids"
    notes: Sequence[str] = ()
    "a few words on each tree, shown beside its problem"
    chosen: Sequence[int | None] = ()
    "the end that was chosen in each tree; default: the one with the highest score"
    chosen_by: str = "the verifier"
    scale: ScoreScale = field(default_factory=ScoreScale)
    "what the scores in the trees are"
    aggregation: Aggregation | None = None
    "how the scores of a path become one; default: as the scale says"
    groups: Mapping[str, Group] = field(default_factory=dict)
    "more groups of problems, by name"
    about: Sequence[tuple[str, str]] = ()
    "what made the page, as names and values"

    def __post_init__(self) -> None:
        if not self.trees:
            raise ValueError("there are no trees to show; collect some first")
        for name in ("keys", "notes", "chosen"):
            given = getattr(self, name)
            if given and len(given) != len(self.trees):
                raise ValueError(f"{len(given)} {name} for {len(self.trees)} trees; give one for each, or none")
        if len(set(self.keys)) < len(self.keys):
            raise ValueError("two trees have the same key; links need a key for each")


def write_view(view: View, path: Path) -> Path:
    """Write the page; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render_view(view))
    return path


def render_view(view: View) -> str:
    """The page as the text of one file."""
    trees = view.trees
    law: Law = "mean" if view.scale.inner_is_value or view.scale.kind == "log_value" else "sum"
    aggregation = view.aggregation or view.scale.aggregation
    chosen = list(view.chosen) or [choose_end(tree, aggregation) for tree in trees]
    ends = [count_ends(tree) for tree in trees]
    residuals: list[float | None] = []

    def columns() -> Iterator[Mapping[str, Any]]:
        """One tree's at a time: they are larger than what becomes of them."""
        for tree, end in zip(trees, chosen, strict=True):
            one = tree_columns(tree, chosen=end, law=law)
            residuals.append(largest_residual(one))
            yield one

    block_of, blocks = _pack(columns())
    flows = flow_range(trees)
    index = {
        "title": view.title,
        "about": [list(pair) for pair in view.about],
        "chosen_by": view.chosen_by,
        "score": view.scale.kind,
        "law": law,
        "flow_range": flows,
        "groups": groups_to_json({**usual_groups(trees, ends, chosen), **view.groups}),
        "keys": list(view.keys) or unique_keys([tree.problem.id for tree in trees]),
        "prompts": [tree.problem.prompt[:_LIST_CHARACTERS] for tree in trees],
        "notes": [note[:_LIST_CHARACTERS] for note in view.notes],
        "draws": [one.draws for one in ends],
        "right": [one.right for one in ends],
        "steps": [len(tree.nodes) - 1 for tree in trees],
        "residuals": residuals,
        "blocks": block_of,
    }
    body = [
        Markup(asset("arts.view", "page/view.html")),
        data_block("index", _dump(index)),
        *(data_block(f"block-{number}", block) for number, block in enumerate(blocks)),
    ]
    return document(
        view.title,
        Markup("\n".join(body)),
        styles=tree_styles("arts.view", "view.css"),
        scripts=tree_scripts("arts.view", _SCRIPTS, with_latex=any(map(_holds_latex, trees))),
    )


def _holds_latex(tree: ReasoningTree) -> bool:
    return any(_LATEX.search(text) for text in (tree.problem.prompt, *(node.text for node in tree.nodes)))


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)  # a browser reads no NaN


def _pack(columns: Iterable[Mapping[str, Any]]) -> tuple[list[int], list[str]]:
    """The block of each tree, and the blocks: neighbours share one until it is large enough."""
    block_of: list[int] = []
    blocks: list[str] = []
    rows: dict[int, str] = {}
    size = 0

    def close() -> None:
        text = "{" + ",".join(f'"{place}":{row}' for place, row in rows.items()) + "}"
        blocks.append(base64.b64encode(zlib.compress(text.encode(), 9)).decode())
        rows.clear()

    for place, one in enumerate(columns):
        rows[place] = _dump(one)
        size += len(rows[place])
        block_of.append(len(blocks))
        if size >= _BLOCK_BYTES:
            close()
            size = 0
    if rows:
        close()
    return block_of, blocks
