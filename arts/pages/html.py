"""Building blocks of a page: elements that escape what they are given, tables, and the page around them.

A piece of HTML is a `Markup`; every other string is text and is escaped when it is put into an element, so text that a
model or a user wrote cannot become markup. A page holds its style and pictures itself, and forbids all loading.
"""

from collections.abc import Sequence
from html import escape
from importlib.resources import files

# The page may use what it brings along and nothing else: no network, no scripts, no frames.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


class Markup(str):
    """Text that is HTML already."""


def element(tag: str, *children: str, **attributes: str) -> Markup:
    """One HTML element. Attributes are written as in Python: `class_="wide"`, `aria_label="..."`."""
    written = "".join(f' {_attribute_name(name)}="{escape(value)}"' for name, value in attributes.items())
    return Markup(f"<{tag}{written}>{join(*children)}</{tag}>")


def _attribute_name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def join(*children: str) -> Markup:
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, marked: frozenset[int] = frozenset()) -> Markup:
    """A table whose first column names the rows; the others hold numbers.

    Args:
        marked: indices of the rows to stress.
    """
    head = element("thead", element("tr", *(element("th", cell, scope="col") for cell in header)))
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell) for cell in row[1:]),
            **({"class_": "marked"} if index in marked else {}),
        )
        for index, row in enumerate(rows)
    ]
    return element("div", element("table", head, element("tbody", *body)), class_="scroll")


def section(title: str, *children: str, note: str = "") -> Markup:
    """A part of a page, with a line under its title that says how to read it."""
    notes = [element("p", note, class_="note")] if note else []
    return element("section", element("h2", title), *notes, *children)


def page(title: str, *body: str) -> str:
    """A whole page as the text of one file."""
    style = Markup((files("arts.pages") / "style.css").read_text(encoding="utf-8"))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{element('title', title)}\n{element('style', style)}\n</head>\n"
        f"<body>\n{element('main', *body)}\n</body>\n</html>\n"
    )
