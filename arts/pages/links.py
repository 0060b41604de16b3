"""What reports and the tree viewer share: addresses of problems, of steps and of groups of problems.

The viewer's script reads the same addresses (arts/view/page/route.js). Knows no page.
"""

import shlex
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

from arts.pages.html import Markup, element, well_formed

VIEW_FILE = "view.html"
"the viewer's page, as it is called beside a report"


class Group(NamedTuple):
    """Some of the problems that a page shows, as reports link to and the viewer filters by."""

    title: str
    members: Sequence[int]
    "their positions on the page"


def unique_keys(ids: Sequence[str]) -> list[str]:
    """Names for links: each id, with a number behind it where it was there before, as text that an address can hold."""
    seen: dict[str, int] = {}
    keys: list[str] = []
    for one in map(well_formed, ids):
        seen[one] = seen.get(one, 0) + 1
        keys.append(one if seen[one] == 1 else f"{one} ({seen[one]})")
    return (
        keys
        if len(set(keys)) == len(keys)
        else [f"{number} {one}" for number, one in enumerate(map(well_formed, ids), start=1)]
    )


def tree_link(text: str, key: str, node: int | None = None) -> Markup:
    """To the tree of a problem, or to one of its nodes."""
    return element("a", text, href=f"{VIEW_FILE}#{quote(key, safe='')}" + ("" if node is None else f"/{node}"))


def group_link(text: str, name: str) -> Markup:
    """To the first problem of a group, with the others beside it."""
    return element("a", text, href=f"{VIEW_FILE}#?group={quote(name, safe='')}")


def made_by(command: Sequence[str]) -> Markup:
    """The line of a report that says how to make it again."""
    return element("p", "Every figure here was made by ", element("code", command_line(command)), class_="made")


def command_line(command: Sequence[str]) -> str:
    """A command as a person types it; the program's own path says nothing to readers."""
    return shlex.join(["arts", *command[1:]])
