"""Trees to look at, from a collection or a file of trees; says what else could be named where there are none."""

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from arts.store import open_collection, read_trees, tree_from_json
from arts.tree import ReasoningTree


@dataclass(frozen=True, kw_only=True)
class Source:
    """What was found."""

    trees: list[ReasoningTree]
    num_found: int | None
    "how many there are; None where counting would take reading all of them"
    task: str | None = None
    "of a collection"
    command: str = ""
    "the command that made it, where it is known"


def read_source(path: Path, *, first: int, most: int) -> Source:
    """Some of the trees of a place.

    Args:
        first: how many to pass over.
        most: how many to read.

    Raises:
        ValueError: there are none, or what is there cannot be read; says what could be named instead.
    """
    if not path.exists():
        raise ValueError(
            f"there is no file or folder {str(path)!r}; name a folder of `arts collect` or a file of trees"
        )
    source = _read_file(path, first, most) if path.is_file() else _read_folder(path, first, most)
    if not source.trees:
        found = "" if source.num_found is None else f" of {source.num_found}"
        raise ValueError(
            f"{str(path)!r} holds no tree behind the first {first}{found}; ask for fewer to be passed over"
        )
    return source


def _read_folder(folder: Path, first: int, most: int) -> Source:
    if (folder / "collection.json").is_file():
        collection = open_collection(folder)
        about = collection.header.get("about", {})
        command = about.get("command", []) if isinstance(about, dict) else []
        return Source(
            trees=list(islice(collection.trees(), first, first + most)),
            num_found=collection.num_trees(),
            task=str(collection.header["task"]),
            command=" ".join(["arts", *map(str, command[1:])]) if command else "",
        )
    if (folder / "searches.jsonl").is_file():
        raise ValueError(
            f"{str(folder)!r} holds the rows of searches without their trees; run its `arts search` command with "
            "--keep-trees and another --out"
        )
    inside = sorted(one.parent.name for one in folder.glob("*/collection.json"))
    hint = f"; its folders {', '.join(map(repr, inside))} do" if inside else ""
    raise ValueError(
        f"{str(folder)!r} holds no trees{hint}: name a folder of `arts collect`, `arts evaluate` or `arts search "
        "--keep-trees`, or a file of trees"
    )


def _read_file(path: Path, first: int, most: int) -> Source:
    """A file of trees, one a line as the store writes them, or one alone over several lines."""
    with path.open("rb") as file:
        head = file.readline()
    if _is_tree(head):
        return Source(trees=list(islice(read_trees(path), first, first + most)), num_found=None)
    content = path.read_bytes()
    if not _is_tree(content):
        raise ValueError(
            f"{str(path)!r} holds no trees; a file of trees has one JSON object a line, with 'problem', 'trunks' and "
            "'nodes', as `arts collect` writes them"
        )
    try:
        return Source(trees=[tree_from_json(json.loads(content))][first : first + most], num_found=1)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no tree that can be read ({type(error).__name__}: {error})") from error


def _is_tree(content: bytes) -> bool:
    """Is this JSON of a tree, as far as a glance tells?"""
    try:
        return "nodes" in json.loads(content)
    except (ValueError, TypeError):
        return False
