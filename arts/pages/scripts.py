"""The scripts of pages that show a tree: the libraries they stand on, the modules they share, and their own.

Modules are plain ES2022 and share one scope, so their order matters only for what runs at once. Knows no page.
"""

from collections.abc import Sequence

from arts.pages.html import asset

_SHARED = ("format.js", "text.js", "model.js", "layout.js", "canvas.js", "details.js", "pane.js")


def tree_scripts(package: str, names: Sequence[str], *, with_latex: bool) -> list[str]:
    """Texts of all scripts of a page.

    Args:
        package: where its own modules are, in a folder `page`.
        names: of these, in the order they run.
        with_latex: the page may have LaTeX to show.
    """
    libraries = ["d3-hierarchy.min.js", *(["temml.min.js"] if with_latex else [])]
    ours = [asset("arts.pages", f"script/{name}") for name in _SHARED]
    ours += [asset(package, f"page/{name}") for name in names]
    scope = "\n".join(ours)
    return [asset("arts.pages", f"vendor/{name}") for name in libraries] + [
        f'(() => {{\n"use strict";\n{scope}\n}})();\n'
    ]


def tree_styles(package: str, name: str) -> list[str]:
    """Texts of its style sheets: what all such pages share, and its own."""
    return [asset("arts.pages", "base.css"), asset("arts.pages", "tree.css"), asset(package, f"page/{name}")]
