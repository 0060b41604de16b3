"""The tree viewer's page: what it holds is what the trees say, and nothing in it can run but its own scripts."""

import base64
import hashlib
import json
import math
import re
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from pools import RIGHT, UNFINISHED, WRONG, Draw, pool_tree, scored
from view_trees import HOSTILE, big_tree, chain, hostile_trees, latex_tree, mixed_tree

from arts.cli import main
from arts.evaluate.rows import write_rows
from arts.files import dump
from arts.pages.links import Group, group_link, tree_link, unique_keys
from arts.protocols import ScoreScale
from arts.residuals import tree_residuals
from arts.store import create_collection, tree_to_json
from arts.tree import Problem, ReasoningTree
from arts.view.columns import choose_end, count_ends, tree_columns
from arts.view.groups import usual_groups
from arts.view.page import View, render_view


class Page(HTMLParser):
    """Scripts and data blocks of a page, as a browser would find them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.policy = ""
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.data: dict[str, str] = {}
        self._open: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag == "meta" and given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""
        if tag == "script":
            self._open = given.get("id") or ""
            if not self._open:
                self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = None if tag == "script" else self._open

    def handle_data(self, data: str) -> None:
        if self._open == "":
            self.scripts[-1] += data
        elif self._open:
            self.data[self._open] = self.data.get(self._open, "") + data

    @property
    def index(self) -> dict[str, Any]:
        return dict(json.loads(self.data["index"]))

    def columns(self, place: int) -> dict[str, Any]:
        block = self.data[f"block-{self.index['blocks'][place]}"]
        return dict(json.loads(zlib.decompress(base64.b64decode(block)))[str(place)])


def page_of(*trees: ReasoningTree, **options: Any) -> Page:
    return Page(render_view(View(title="trees", trees=list(trees), **options)))


# --- nothing runs but our own scripts ---------------------------------------------------------------------------------


def test_hostile_texts_are_data_only() -> None:
    trees = hostile_trees()
    text = render_view(View(title=HOSTILE["markup"], trees=trees, notes=list(HOSTILE.values()), chosen_by="</script>"))
    page = Page(text)
    assert len(page.scripts) == 3  # d3, Temml (one text holds LaTeX), ours
    assert not {"img", "iframe", "svg", "b", "link", "object"} & set(page.tags)
    assert page.links == []
    for place, tree in enumerate(trees):
        assert page.columns(place)["texts"] == [node.text for node in tree.nodes]
    for block in page.data.values():
        assert "<" not in block


def test_policy_allows_the_scripts_of_the_page_by_hash_and_loads_nothing() -> None:
    page = page_of(mixed_tree(), latex_tree())
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts]
    directives = dict(one.strip().split(" ", 1) for one in page.policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"].split() == [f"'sha256-{one}'" for one in hashes]
    assert set(directives) == {"default-src", "style-src", "script-src", "base-uri", "form-action"}


def test_our_scripts_build_no_markup_from_text() -> None:
    for script in (ROOT / "arts" / "view" / "page").glob("*.js"):
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script.read_text("utf-8")
        )
        assert found == [], script.name


def test_latex_library_comes_along_only_where_there_is_latex() -> None:
    assert len(page_of(latex_tree()).scripts) == 3
    assert len(page_of(mixed_tree(), chain(Problem("p", "costs $5 and $6"), "$7;", "8")).scripts) == 2


def test_libraries_are_named_with_version_and_licence() -> None:
    licences = (ROOT / "arts" / "pages" / "vendor" / "LICENSES.txt").read_text("utf-8")
    build = (ROOT / "arts" / "pages" / "vendor" / "build.sh").read_text("utf-8")
    for library in ("d3-hierarchy", "temml"):
        version = re.search(rf"{library}@([\d.]+)", build)
        assert version is not None and f"{library} {version[1]}" in licences
        head = (ROOT / "arts" / "pages" / "vendor" / f"{library}.min.js").read_text("utf-8")[:80]
        assert version[1] in head and "LICENSES.txt" in head


# --- what the page says -----------------------------------------------------------------------------------------------


def test_columns_say_what_the_tree_says() -> None:
    tree = mixed_tree()
    columns = page_of(tree).columns(0)
    assert columns["parents"] == [node.parent for node in tree.nodes]
    assert columns["draws"] == [node.num_draws for node in tree.nodes]
    assert columns["flows"] == [node.log_flow for node in tree.nodes]
    assert [columns["stops"][node.id] for node in tree.nodes if node.text == "never ends"] == ["l"]
    assert columns["trunks"] == sorted(set(tree.trunks))
    assert tree.nodes[columns["chosen"]].text == "good end"
    assert {int(node): value for node, value in columns["residuals"].items()} == pytest.approx(
        {one.node: one.sum for one in tree_residuals(tree)}, abs=6e-4
    )


def test_residual_follows_the_law_of_the_scores() -> None:
    tree = mixed_tree()
    page = page_of(tree, scale=ScoreScale(kind="log_value"))
    assert page.index["law"] == "mean"
    means = [one.mean for one in tree_residuals(tree)]
    assert list(page.columns(0)["residuals"].values()) == pytest.approx(means, abs=6e-4)
    assert page.index["residuals"][0] == pytest.approx(max(map(abs, means)), abs=6e-4)


def test_counts_follow_the_trunks_and_searches_without_trunks_count_leaves() -> None:
    tree = mixed_tree()
    ends = count_ends(tree)
    assert (ends.draws, ends.right, ends.unfinished) == (4, 2, 1)
    searched = ReasoningTree(problem=tree.problem, nodes=tree.nodes)
    assert count_ends(searched).draws == 5  # the fork's end is a leaf like the others


def test_chosen_end_is_the_finished_one_with_the_highest_score() -> None:
    tree = pool_tree([WRONG, RIGHT, UNFINISHED, Draw("later", False, 1.0)])
    assert tree.nodes[choose_end(tree) or 0].text == tree.nodes[tree.trunks[1]].text
    assert choose_end(pool_tree([UNFINISHED])) is None
    falling = pool_tree([Draw("a", False, -2.0), Draw("b", True, 3.0)], steps=3)
    assert choose_end(falling, "min") == falling.trunks[1]


def test_scores_that_are_not_finite_are_left_out() -> None:
    tree = mixed_tree()
    broken = tree.with_log_flows(
        [math.inf if node.id == 1 else -math.inf if node.id == 2 else 1.0 for node in tree.nodes]
    )
    assert tree_columns(broken, chosen=None, law="sum")["flows"][:3] == [1.0, None, None]
    assert page_of(broken).index["flow_range"] == [1.0, 1.0]


def test_groups_hold_the_problems_that_their_titles_name() -> None:
    rows = [
        [RIGHT] * 4,
        [RIGHT, WRONG, WRONG, WRONG],
        [Draw("r", True, -3.0), WRONG, WRONG, WRONG],
        [WRONG] * 3 + [UNFINISHED],
    ]
    trees = [pool_tree(row, problem=str(place)) for place, row in enumerate(rows)]
    groups = usual_groups(trees, [count_ends(tree) for tree in trees], [choose_end(tree) for tree in trees])
    assert {name: list(group.members) for name, group in groups.items()} == {
        "rare": [1, 2], "none": [3], "unfinished": [3], "picked": [0, 1], "rare-picked": [1], "missed": [2],
    }  # fmt: skip
    assert "missed" not in usual_groups(trees, [count_ends(tree) for tree in trees], [None] * 4)


def test_pages_are_equal_for_equal_trees_and_small_for_many() -> None:
    trees = [chain(Problem(str(place), f"problem {place}"), f"step {place};", "end") for place in range(800)]
    text = render_view(View(title="many", trees=trees))
    assert text == render_view(View(title="many", trees=trees))
    page = Page(text)
    assert len(set(page.index["blocks"])) > 1
    assert page.columns(799)["texts"] == ["", "step 799;", "end"]
    assert len(text) < 200_000


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=6))
def test_keys_are_unique_and_links_give_them_back(ids: list[str]) -> None:
    keys = unique_keys(ids)
    assert len(set(keys)) == len(keys) == len(ids)
    for key in keys:
        link = re.search(r'href="view.html#([^/"]*)/7"', tree_link("text", key, 7))
        assert link is not None
        assert unquote(link[1]) == key


def test_links_name_groups() -> None:
    assert group_link("<5>", "missed:arts") == '<a href="view.html#?group=missed%3Aarts">&lt;5&gt;</a>'


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trees": []}, "no trees to show"),
        ({"keys": ["a"]}, "1 keys for 2 trees"),
        ({"keys": ["a", "a"]}, "same key"),
        ({"chosen": [None]}, "1 chosen for 2 trees"),
    ],
)
def test_views_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        View(**{"title": "t", "trees": [mixed_tree(), mixed_tree()], **options})


def test_groups_of_the_caller_join_the_usual_ones() -> None:
    page = page_of(mixed_tree(), groups={"mine": Group("Mine", [0])})
    assert {"name": "mine", "title": "Mine", "members": [0]} in page.index["groups"]


def test_five_thousand_steps_make_a_small_page() -> None:
    assert len(render_view(View(title="big", trees=[big_tree(5000)]))) < 300_000


# --- from the command line --------------------------------------------------------------------------------------------


def view(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["arts", "view", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(str(stop.value.code or 0))


def collection(folder: Path, trees: list[ReasoningTree]) -> Path:
    header = {"task": "toy", "settings": {"num_problems": len(trees)}}
    create_collection(folder, header, about={"command": ["x", "collect"]}).finish_shard(0, trees)
    return folder


def test_collections_files_and_rows_can_be_viewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees = [mixed_tree(), latex_tree()]
    folder = collection(tmp_path / "trees", trees)
    assert view(monkeypatch, folder) == 0
    page = Page((folder / "view.html").read_text("utf-8"))
    assert page.index["keys"] == ["mixed", "latex"]
    assert ["trees by", "arts collect"] in page.index["about"]
    lines = tmp_path / "some.jsonl"
    lines.write_text("".join(dump(tree_to_json(tree)) + "\n" for tree in trees), "utf-8")
    one = tmp_path / "one.json"
    one.write_text(json.dumps(tree_to_json(trees[0]), indent=2), "utf-8")
    assert view(monkeypatch, lines, "--first-problem", "1") == 0
    assert Page(lines.with_suffix(".html").read_text("utf-8")).index["keys"] == ["latex"]
    assert view(monkeypatch, one, "--out", tmp_path / "deep" / "x.html") == 0
    assert Page((tmp_path / "deep" / "x.html").read_text("utf-8")).columns(0)["prompt"] == "a tree with all signs"
    pool = [pool_tree([RIGHT, WRONG, UNFINISHED], problem="p")]
    write_rows(pool, {"arts": scored(pool)}, tmp_path / "evaluation")
    assert view(monkeypatch, tmp_path / "evaluation") == 0
    columns = Page((tmp_path / "evaluation" / "view.html").read_text("utf-8")).columns(0)
    assert columns["chosen"] == 1 and columns["verdicts"]["1"][:2] == [True, "right"]


def test_trees_are_scored_where_a_verifier_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = collection(tmp_path / "trees", [mixed_tree()])
    module = tmp_path / "scores.py"
    module.write_text("def short(problem, steps):\n    return 0.5 ** len(steps)\n", "utf-8")
    assert view(monkeypatch, folder, "--verifier", f"python:{module}:short") == 0
    page = Page((folder / "view.html").read_text("utf-8"))
    assert page.index["score"] == "log_value"
    assert page.columns(0)["flows"][1] == pytest.approx(math.log(0.5), abs=1e-3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "no file or folder"),
        (lambda folder: folder.mkdir(), "holds no trees: name a folder of `arts collect`"),
        (lambda folder: collection(folder / "test", [mixed_tree()]), "its folders 'test' do"),
        (lambda folder: folder.write_text('{"a": 1}\n'), "one JSON object a line"),
        (lambda folder: folder.write_bytes(b"\xff\xfe"), "holds no trees"),
        (lambda folder: folder.write_text('{\n"nodes": [1]}\n'), "no tree that can be read"),
        (lambda folder: (folder.mkdir(), (folder / "searches.jsonl").write_text("{}\n")), "--keep-trees"),
    ],
    ids=["missing", "empty", "above collections", "other JSON", "not text", "half a tree", "searches without trees"],
)
def test_places_without_trees_say_what_to_name(
    make: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "place")
    assert view(monkeypatch, tmp_path / "place") == 2
    assert said in capsys.readouterr().err


def test_asking_for_trees_behind_the_last_one_says_how_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = collection(tmp_path / "trees", [mixed_tree()])
    assert view(monkeypatch, folder, "--first-problem", "5") == 2
    assert "holds no tree behind the first 5 of 1" in capsys.readouterr().err


def test_searches_keep_their_trees_and_lead_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = ["--task", "toy", "--proposer", "table", "--num-problems", "4"]
    strategies = ["--strategy", "majority:n=4", "--strategy", "majority:n=2"]
    out = tmp_path / "searches"
    monkeypatch.setattr(sys, "argv", ["arts", "search", *toy, *strategies, "--keep-trees", "--out", str(out)])
    with pytest.raises(SystemExit):
        main()
    page = Page((out / "view.html").read_text("utf-8"))
    assert page.index["notes"] == ["majority:n=4"] * 4 + ["majority:n=2"] * 4
    assert len(set(page.index["keys"])) == 8
    report = (out / "report.html").read_text("utf-8")
    linked = {unquote(name) for name in re.findall(r'href="view\.html#\?group=([^"]+)"', report)}
    assert linked <= {group["name"] for group in page.index["groups"]} and "majority:n=4" in linked
    assert view(monkeypatch, out, "--first-problem", "4", "--out", tmp_path / "part.html") == 0
    assert Page((tmp_path / "part.html").read_text("utf-8")).index["notes"] == ["majority:n=2"] * 4
