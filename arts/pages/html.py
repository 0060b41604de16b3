"""Building blocks of a page: elements that escape what they are given, tables, and the page around them.

A piece of HTML is a `Markup`; every other string is text and is escaped when it is put into an element, so text that a
model or a user wrote cannot become markup. A page holds its style, scripts and pictures itself, and forbids all loading
and every script but its own.
"""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files

# A page may use what it brings along and nothing else: no network, no frames, no scripts but those named by their hash.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_SERVED_POLICY = "; connect-src 'self'; img-src data:"
# Browsers ask a server for an icon where a page brings none along.
_ICON = (
    "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16' fill='none' stroke='%232563eb' "
    "stroke-linecap='round'><path stroke-width='3' d='M2 8C8 8 8 4 14 4'/><path d='M2 8C8 8 8 12 14 12'/></svg>"
)


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
    """A page to read, as the text of one file; nothing on it runs."""
    return document(
        title, element("main", *body), styles=[asset("arts.pages", "base.css"), asset("arts.pages", "style.css")]
    )


def document(
    title: str, body: Markup, *, styles: Sequence[str], scripts: Sequence[str] = (), served: bool = False
) -> str:
    """A whole page as the text of one file.

    Args:
        styles: texts of style sheets.
        scripts: texts of scripts. The page's policy names them by their hashes, so no other script can run on it,
            whatever the body holds.
        served: a server gives the page, and its scripts may talk to that server, and to nobody else.

    Raises:
        ValueError: a script would end its own element.
    """
    for script in scripts:
        if "</script" in script.lower() or "<!--" in script:
            raise ValueError("a script holds '</script' or '<!--', which ends it too early; write '<\\/script' in it")
    policy = _POLICY + "".join(
        [f"; script-src {' '.join(map(_script_hash, scripts))}; base-uri 'none'; form-action 'none'"] if scripts else []
    )
    policy += _SERVED_POLICY if served else ""
    icon = f'<link rel="icon" href="{escape(_ICON)}">\n' if served else ""
    return well_formed(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{icon}{element('title', title)}\n{element('style', Markup(''.join(styles)))}\n</head>\n"
        f"<body>\n{body}\n{join(*(element('script', Markup(script)) for script in scripts))}</body>\n</html>\n"
    )


def well_formed(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can hold and files cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def asset(package: str, name: str) -> str:
    """Text of a file that ships with the package."""
    return (files(package) / name).read_text(encoding="utf-8")


def data_block(name: str, text: str) -> Markup:
    """Data for a script, in an element that browsers neither run nor show.

    Args:
        text: JSON or base64; `<` is written as JSON's own escape, so that no text can end the element.
    """
    return element("script", Markup(text.replace("<", "\\u003c")), type="application/json", id=name)


def _script_hash(script: str) -> str:
    return f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"
