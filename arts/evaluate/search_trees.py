"""The trees of compared searches, one a line beside their rows, for those who want to look at them.

A tree is written before its row, so a row that was made with trees has one. Knows the two files; not how to search.
"""

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from arts.evaluate.searches import SearchSpec
from arts.files import append_lines, dump, read_lines, writing_to
from arts.protocols import ScoreScale
from arts.search.result import SearchResult
from arts.store import tree_from_json, tree_to_json
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
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / TREES
        self._scale = scale

    @cached_property
    def _there(self) -> set[tuple[SearchSpec, str]]:
        return {one.key for one in read_lines(self._path, _searched, repair=True)}

    def has(self, spec: SearchSpec, problem_id: str) -> bool:
        return (spec, problem_id) in self._there

    def append(self, spec: SearchSpec, result: SearchResult) -> None:
        """Put a tree on disk."""
        there = self._there  # before anything is written behind a torn line
        row = tree_to_json(result.tree) | {"spec": asdict(spec), "answer": result.answer}
        row |= {"scale": asdict(self._scale)} if self._scale is not None else {}
        append_lines(self._path, [dump(row)], sync=False)
        there.add((spec, result.tree.problem.id))


def read_searched_trees(folder: Path) -> list[SearchedTree]:
    """The trees of a folder, of equal keys the last one, in the order in which they first came.

    Raises:
        ValueError: a line is damaged; names file and line.
    """
    return list({one.key: one for one in read_lines(folder / TREES, _searched)}.values())


def _searched(row: Any) -> SearchedTree:
    spec, scale = SearchSpec(**row["spec"]), ScoreScale(**row.get("scale", {}))
    return SearchedTree(spec, tree_from_json(row), row["answer"], scale)
