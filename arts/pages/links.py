"""Addresses inside the tree viewer: a problem, a step of it, or a group of problems. The viewer's script reads them."""

from urllib.parse import quote

VIEW_FILE = "view.html"
"the viewer's page, as it is called beside a report"


def tree_link(key: str, node: int | None = None) -> str:
    """To the tree of a problem, or to one of its nodes."""
    return f"{VIEW_FILE}#{quote(key, safe='')}" + ("" if node is None else f"/{node}")


def group_link(name: str) -> str:
    """To the first problem of a group, with the others beside it."""
    return f"{VIEW_FILE}#?group={quote(name, safe='')}"
