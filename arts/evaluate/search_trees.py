"""The trees of compared searches, one a line beside their rows, for those who want to look at them.

A tree is written before its row, so a row that was made with trees has one. Knows the two files; not how to search.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from arts.evaluate.searches import SearchSpec
from arts.protocols import ScoreScale
from arts.search.result import SearchResult
from arts.store import dump, tree_from_json, tree_to_json
from arts.tree import ReasoningTree

TREES = "trees.jsonl"


class SearchedTree(NamedTuple):
    """What one search of one problem left."""

    spec: SearchSpec
    tree: ReasoningTree
    answer: int | None
    "the node it answered with"
    scale: ScoreScale
    "what the scores in the tree are"

    @property
    def key(self) -> tuple[SearchSpec, str]:
        return self.spec, self.tree.problem.id


class TreeFile:
    """The trees of a folder, as a run adds to them.

    Args:
        scale: of the scores in trees to come; None where nothing is scored.
    """

    def __init__(self, folder: Path, scale: ScoreScale | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / TREES
        self._scale = scale
        self._there = {one.key for one in _read_lines(self._path)}

    def has(self, spec: SearchSpec, problem_id: str) -> bool:
        return (spec, problem_id) in self._there

    def append(self, spec: SearchSpec, result: SearchResult) -> None:
        """Put a tree on disk."""
        row = tree_to_json(result.tree) | {"spec": asdict(spec), "answer": result.answer}
        row |= {"scale": asdict(self._scale)} if self._scale is not None else {}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(dump(row) + "\n")
        self._there.add((spec, result.tree.problem.id))


def read_searched_trees(folder: Path) -> list[SearchedTree]:
    """The trees of a folder, of equal keys the last one, in the order in which they first came.

    A last line that was cut off is taken out of the file.

    Raises:
        ValueError: a line is damaged; names file and line.
    """
    return list({one.key: one for one in _read_lines(folder / TREES)}.values())


def _read_lines(path: Path) -> Iterator[SearchedTree]:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        try:
            row = json.loads(line)
            spec, scale = SearchSpec(**row["spec"]), ScoreScale(**row.get("scale", {}))
            yield SearchedTree(spec, tree_from_json(row), row["answer"], scale)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} line {number} is damaged: {error}") from error
