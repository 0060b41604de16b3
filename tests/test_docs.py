"""README and docs name what is there: links, files, commands, options; and no path of anybody's machine."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer.main
from conftest import ROOT

PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(
            page
            for folder in ("docs", "arts", "benchmarks", "examples", "recipes", "results")
            for page in (ROOT / folder).rglob("*.md")
        ),
    ]
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)[^)]*\)|(?:src|href)=\"([^\"]+)\"")
MENTIONED_FILE = re.compile(r"`((?:arts|docs|examples|recipes|results|tests|\.ci)/[\w./-]+)`")
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:work|root|home|Users|opt|mnt|tmp)/|(?<![\w/])(?:\.\./)?shared/")


def prose_and_code(text: str) -> tuple[str, str]:
    """The page without its fenced blocks, and the lines of these."""
    prose, code = [], []
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        else:
            (code if fenced else prose).append(line)
    return "\n".join(prose), "\n".join(code)


def documented_commands(code: str, program: str) -> Iterator[list[str]]:
    """Arguments of every call of `program` in fenced blocks; joined by `&&`, `;` and `|` they count apart."""
    for line in code.replace("\\\n", " ").splitlines():
        line = line.strip().removeprefix("$ ").replace("python -m arts", "arts")
        if not re.match(rf"(?:.*(?:&&|;|\|)\s*)?(?:\w+=\S+ )*{program}\s", line + " "):
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in ("&&", "||", "|", ";"):
                words.append(word)
                continue
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if words and words[0] == program:
                yield words[1:]
            words = []


def anchors(page: Path) -> set[str]:
    """The names GitHub gives to headings."""
    prose, _ = prose_and_code(page.read_text("utf-8"))
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_there_are_pages() -> None:
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/index.md"} <= set(map(page_id, PAGES))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_and_mentioned_files_exist(page: Path) -> None:
    prose, _ = prose_and_code(page.read_text("utf-8"))
    broken = [name for name in MENTIONED_FILE.findall(prose) if not (ROOT / name).exists()]
    for target in (first or second for first, second in LINK.findall(prose)):
        if re.match(r"[a-z]+:", target):
            continue  # another site: not looked at, tests use no network
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_documented_commands_and_their_options_exist(page: Path) -> None:
    from arts.cli import app

    root = typer.main.get_command(app)
    _, code = prose_and_code(page.read_text("utf-8"))
    for words in documented_commands(code, "arts"):
        command: click.Command = root
        while isinstance(getattr(command, "commands", None), dict) and words and not words[0].startswith("-"):
            assert words[0] in command.commands, f"`arts {' '.join(words)}`: no such command"
            command = command.commands[words.pop(0)]
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
        assert used <= known | {"--help"}, f"`arts {command.name}` has no {', '.join(sorted(used - known))}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_documented_make_targets_and_scripts_exist(page: Path) -> None:
    _, code = prose_and_code(page.read_text("utf-8"))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for words in documented_commands(code, "make"):
        assert {word for word in words if "=" not in word and not word.startswith("-")} <= targets
    for program in ("python", "bash", "sh"):
        for words in documented_commands(code, program):
            if words and not words[0].startswith("-"):
                assert (ROOT / words[0]).is_file(), f"{program} {words[0]}: no such file"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_pages_name_no_path_of_a_machine(page: Path) -> None:
    assert MACHINE_PATH.findall(page.read_text("utf-8")) == []


def test_commands_are_found_in_fenced_blocks() -> None:
    page = """
```
$ A=1 arts solve "3 5 > 8" --seed 1  # why
make x && python -m arts \\
  demo
├─ it's arts
```
arts no
"""
    _, code = prose_and_code(page)
    assert list(documented_commands(code, "arts")) == [["solve", "3 5 > 8", "--seed", "1"], ["demo"]]
