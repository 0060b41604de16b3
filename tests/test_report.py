"""The page: nothing on it can be markup unless we wrote it, it loads nothing, and it shows what was measured."""

import io
import math
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pools import RIGHT, UNFINISHED, WRONG, Draw, pool_tree, scored
from rich.console import Console

from arts.evaluate.conservation import conservation_residuals
from arts.evaluate.diagnostics import Diagnostics, diagnose
from arts.evaluate.examples import choose_examples
from arts.evaluate.groups import problem_groups
from arts.evaluate.inner import draw_inner_values
from arts.evaluate.report import write_report
from arts.evaluate.run import Evaluation, evaluate_trees
from arts.evaluate.table import headline, label, print_diagnostics, print_table
from arts.pages.charts import Bar, Style, bar_chart
from arts.pages.hover import Mark, hover_marks
from arts.pages.html import Markup, document, element, table
from arts.pages.tree import tree_markup
from arts.proposers.table import TableProposer
from arts.protocols import Request, ScoredTrees, ScoreScale
from arts.tasks.toy import ToyTask, toy_tree
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, build_tree

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></svg><iframe src='//evil.example'>",
    "$\\frac{1}{$ & <b>bold</b> &amp; [red]no[/red]",
]
LURE = Draw("lure", False, 3.0)
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Parsed(HTMLParser):
    """Tags, attributes and texts of a page; fails on tags that do not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def classes(self, name: str) -> int:
        return sum(value.split().count(name) for attribute, value in self.attributes if attribute == "class")


def pool() -> list[ReasoningTree]:
    draws = [
        [RIGHT, RIGHT, RIGHT, RIGHT, RIGHT],
        [RIGHT, RIGHT, RIGHT, RIGHT, LURE],
        [WRONG, WRONG, WRONG, UNFINISHED, LURE],
        [RIGHT, WRONG, WRONG, WRONG, WRONG],
        [Draw("r", True, 2.0), Draw("s", True), Draw("t", True), WRONG, WRONG],
        [RIGHT, WRONG, WRONG, WRONG, WRONG],
    ]
    return [pool_tree(row, problem=str(index)) for index, row in enumerate(draws)]


def evaluated(trees: list[ReasoningTree]) -> Evaluation:
    return evaluate_trees(
        trees, {"arts": scored(trees, 80, 80)}, difficulty=lambda problem: "even" if int(problem.id) % 2 == 0 else "odd"
    )


@pytest.fixture
def page(tmp_path: Path) -> str:
    trees = pool()
    return write_report(evaluated(trees), trees, tmp_path).read_text(encoding="utf-8")


def test_texts_of_others_never_become_markup(tmp_path: Path) -> None:
    script, image, frame, rest = HOSTILE
    draws = [Draw(script, True, 2.0), *(Draw(text) for text in (image, frame, rest))]
    trees = [pool_tree(draws, problem=Problem(image, "".join(HOSTILE)))] * 3
    evaluation = evaluate_trees(
        trees,
        {script: scored(trees), rest: scored(trees)},
        difficulty=lambda _: frame + rest,
        command=["arts", *HOSTILE],
    )
    parsed = Parsed(write_report(evaluation, trees, tmp_path).read_text(encoding="utf-8"))
    assert not {"script", "img", "iframe", "link", "object", "embed"} & set(parsed.tags)
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert parsed.tags.count("style") == 1
    for text in HOSTILE:
        assert text in parsed.text  # shown as it is: prompt, steps, names, command
    assert parsed.text.count(label(evaluation, script)) > 4  # in tables, charts and badges
    assert parsed.tags.count("b") == len(evaluation.differences)  # only our own


@given(st.text(alphabet="<>&\"'/ab=;# \n", max_size=30), st.text(alphabet="<>&\"'/ab=;#", min_size=1, max_size=20))
def test_elements_give_back_the_text_and_attributes_they_were_given(text: str, attribute: str) -> None:
    parsed = Parsed(element("p", text, element("i", text), title=attribute))
    assert parsed.tags == ["p", "i"]
    assert parsed.text == text + text
    assert parsed.attributes == [("title", attribute)]


def test_page_loads_nothing(page: str) -> None:
    parsed = Parsed(page)
    assert not {"script", "link", "iframe", "img", "object", "embed", "base", "form"} & set(parsed.tags)
    assert all(value.startswith("#") for name, value in parsed.attributes if name in ("href", "xlink:href", "src"))
    assert "@import" not in page and "http://" not in page and "https://" not in page
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in parsed.attributes


def test_page_says_the_result_first_and_shows_every_part(page: str) -> None:
    trees = pool()
    evaluation = evaluated(trees)
    title = re.search(r"<title>(.*)</title>", page)
    assert title is not None and title[1] == headline(evaluation)
    assert "<h1>ARTS 66.7% vs random 46.7% and majority 33.3%</h1>" in page
    parsed = Parsed(page)
    assert parsed.tags.count("svg") == 3
    for part in ("Choosing among k draws", "Gap closed", "Rare subset", "By difficulty", "even", "What it cost"):
        assert part in parsed.text
    assert "80 tokens computed, 80 distinct tree tokens (1.00 x)" in parsed.text


def test_headline_has_intervals_and_number_of_problems() -> None:
    number = r"\d+\.\d% \[\d+\.\d, \d+\.\d\]"
    pattern = rf"ARTS {number} vs random pick {number} and majority vote {number} \(best of 5, n = 6 problems\)"
    assert re.fullmatch(pattern, headline(evaluated(pool())))


def test_charts_take_their_colours_from_the_page_and_their_ids_are_unique(page: str) -> None:
    assert "var(--arts)" in page and "var(--ink)" in page
    assert "#0102" not in page and "DejaVu Sans'" not in page
    used = set(re.findall(r"var\((--[a-z-]+)", page))
    assert used <= set(re.findall(r"(--[a-z-]+):", page))
    ids = [value for name, value in Parsed(page).attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for name, value in Parsed(page).attributes if name == "xlink:href"} <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_equal_evaluations_give_equal_pages(tmp_path: Path, page: str) -> None:
    trees = pool()
    assert write_report(evaluated(trees), trees, tmp_path / "again").read_text(encoding="utf-8") == page
    assert [file.name for file in (tmp_path / "again").iterdir()] == ["report.html"]


def test_page_without_verifier_and_without_anything_to_gain(tmp_path: Path) -> None:
    trees = [pool_tree([RIGHT] * 3, problem=str(index)) for index in range(3)]
    page = write_report(evaluate_trees(trees), trees, tmp_path).read_text(encoding="utf-8")
    assert "<h1>oracle 100.0% vs random 100.0% and majority 100.0%</h1>" in page
    assert Parsed(page).text.count("Undefined on these problems.") == 2  # no gap, and no rare problem


def test_examples_are_the_first_of_each_kind_with_the_fewest_right_draws() -> None:
    trees = pool()
    examples = choose_examples(evaluated(trees), trees)
    assert [(example.position, example.title.split(":")[0]) for example in examples] == [
        (3, "A rare right path, picked"),
        (4, "The majority is wrong, the verifier right"),
        (1, "The verifier picks a wrong one"),
        (2, "Nothing to pick from"),
    ]
    assert [trees[e.position].nodes[e.chosen].verdict.correct for e in examples] == [True, True, False, False]  # type: ignore[index,union-attr]


def test_numbers_link_to_the_problems_behind_them_where_a_viewer_is_beside_the_page(tmp_path: Path, page: str) -> None:
    trees = pool()
    evaluation = evaluated(trees)
    groups = problem_groups(evaluation)
    assert {name: list(group.members) for name, group in groups.items()} == {
        "right:arts": [0, 3, 4, 5], "missed:arts": [1],
        "right:flow_vote": [0, 3, 4, 5], "missed:flow_vote": [1],
        "right:majority": [0, 1], "missed:majority": [3, 4, 5],
        "right:oracle": [0, 1, 3, 4, 5],
        "difficulty: even": [0, 2, 4], "difficulty: odd": [1, 3, 5],
    }  # fmt: skip
    linked = write_report(evaluation, trees, tmp_path, groups=groups).read_text(encoding="utf-8")
    targets = [unquote(value) for name, value in Parsed(linked).attributes if name == "href" and value[0] != "#"]
    assert all(target.startswith("view.html#") for target in targets)
    names = {target.removeprefix("view.html#?group=") for target in targets if "?" in target}
    assert names == {*(name for name in groups if groups[name].members), "rare"}
    examples = choose_examples(evaluation, trees)
    assert {f"view.html#{example.position}/{example.chosen}" for example in examples} <= set(targets)
    assert "view.html" not in page


def test_values_are_under_the_pointer_where_they_are_drawn() -> None:
    marks = [Mark(10, 50, "a"), Mark(12, 53, "b"), Mark(200, 50, "c < d"), Mark(200, 50, "c < d")]
    drawn = hover_marks(marks, width=400, height=100)
    parsed = Parsed(drawn)
    assert parsed.classes("hit") == 2  # the two that lie together share one
    assert parsed.text == "abc < d"
    corners = [float(value) for name, value in parsed.attributes if name == "x"]
    assert min(corners) >= 0 and max(corners) < 400


def test_charts_tell_each_value_with_its_interval(page: str) -> None:
    assert "ARTS, k = 5: 66.7% [33.3, 100.0]" in page
    places = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', page)
    assert places and all(0 <= float(x) <= 980 and 0 <= float(y) <= 400 for x, y in places)


def test_scripts_that_would_end_their_element_are_refused() -> None:
    with pytest.raises(ValueError, match="ends it too early"):
        document("t", Markup(""), styles=[], scripts=["'</SCRIPT>'"])


def test_pages_can_be_written_whatever_their_texts_hold(tmp_path: Path) -> None:
    text = document("half a pair \ud800", element("p", "\udfff"), styles=[])
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    assert "half a pair ?" in text


def test_missing_matplotlib_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=re.escape('pip install "arts-llm[report]"')):
        bar_chart("gap", [Bar("ARTS", Style("arts"), 0.5, 0.4, 0.6)], x_label="gap")


# --- what scores are worth --------------------------------------------------------------------------------------------


def toy_values(split: str, *, kind: str = "log_value", num_problems: int = 12) -> ScoredTrees:
    """Toy pools with exact chances on every node."""
    task, trees = ToyTask(3, 3), []
    for _, problem in zip(range(num_problems), task.problems(split, 0), strict=False):  # type: ignore[arg-type]
        draws = TableProposer().propose([Request(problem, (), tuple(range(8)), 99)])[0].draws
        rollouts = [Rollout(index, index, 0, steps) for index, steps in enumerate(draws)]
        tree = build_tree(problem, rollouts, judge=lambda text, problem=problem: task.judge(problem, text))  # type: ignore[misc]
        toy = toy_tree(problem)
        exact = [max(0.001, toy.success_probabilities[toy.find(tree.text(node.id))]) for node in tree.nodes]
        trees.append(tree.with_log_flows([math.log(chance) for chance in exact]))
    return ScoredTrees(trees, 5, 5, ScoreScale(kind=kind, aggregation="min", inner_is_value=True))  # type: ignore[arg-type]


def test_diagnostics_say_what_the_scale_allows() -> None:
    test, validation = toy_values("test"), toy_values("validation")
    values = draw_inner_values(ToyTask(3, 3), TableProposer(), test.trees[:3], nodes_per_problem=4, num_rollouts=4)
    found = diagnose({"v": test}, {"v": validation}, values=values)
    assert [calibration.where for calibration in found.calibrations["v"]] == ["answers", "inner"]
    assert list(found.residuals["v"]) == conservation_residuals(test.trees)
    assert list(found.ranks["v"]) == ["siblings", "depth", "problem"]
    strengths = diagnose({"s": toy_values("test", kind="log_strength")})
    assert [calibration.where for calibration in strengths.calibrations["s"]] == ["answers"]
    assert (strengths.residuals, strengths.ranks) == ({}, {})
    flows = toy_values("test", kind="log_flow")
    assert len(diagnose({"f": flows}).calibrations["f"]) == 2
    sums = flows._replace(scale=replace(flows.scale, inner_is_value=False))
    assert len(diagnose({"f": sums}).calibrations["f"]) == 1
    ends_only = [
        replace(tree, nodes=tuple(n if n.is_answer else replace(n, log_flow=None) for n in tree.nodes))
        for tree in test.trees
    ]
    assert len(diagnose({"e": test._replace(trees=ends_only)}, aggregation="last").calibrations["e"]) == 1
    with pytest.raises(ValueError, match="'v' has scored no validation trees"):
        diagnose({"v": test}, {"w": validation})


def test_page_shows_calibration_conservation_and_ranks_where_they_are_given(tmp_path: Path) -> None:
    test, validation = toy_values("test"), toy_values("validation")
    values = draw_inner_values(ToyTask(3, 3), TableProposer(), test.trees[:3], nodes_per_problem=4, num_rollouts=4)
    evaluation = evaluate_trees(test.trees, {"arts": test, "<b>prm</b>": test})
    both = {"arts": test, "<b>prm</b>": test}
    found = diagnose(both, dict.fromkeys(both, validation), values=values)
    page = write_report(evaluation, test.trees, tmp_path, diagnostics=found).read_text(encoding="utf-8")
    parsed = Parsed(page)
    assert parsed.tags.count("svg") == 3 + 4 + 2  # two reliability diagrams and one of conservation a verifier
    for text in ("Calibration", "as scored", "isotonic", "Conservation, ARTS", "among siblings", "<b>prm</b>"):
        assert text in parsed.text
    ids = [value for name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert "#0102" not in page
    assert "ARTS (min over steps)" in parsed.text  # in tables, where the score of a path is not that of its last step
    without = write_report(evaluation, test.trees, tmp_path).read_text(encoding="utf-8")
    assert "Calibration" not in without and Parsed(without).tags.count("svg") == 3


def test_terminal_shows_errors_before_and_after_each_fit() -> None:
    test, validation = toy_values("test"), toy_values("validation")
    values = draw_inner_values(ToyTask(3, 3), TableProposer(), test.trees[:3], nodes_per_problem=4, num_rollouts=4)
    out = io.StringIO()
    print_diagnostics(diagnose({"arts": test}, {"arts": validation}, values=values), Console(file=out, width=100))
    for row in ("ARTS, answers, as scored", "ARTS, inner, Platt", "ARTS, among siblings", "log loss", "Spearman"):
        assert row in out.getvalue()
    print_diagnostics(Diagnostics(), Console(file=out, width=100))


def test_aggregation_is_named_where_it_is_not_the_last_step() -> None:
    trees = pool()
    evaluation = evaluate_trees(trees, {"arts": scored(trees)}, aggregation="min")
    assert label(evaluation, "arts") == "ARTS (min over steps)"
    assert label(evaluation, "flow_vote") == "ARTS (min over steps) flow vote"
    assert "ARTS (min over steps) " in headline(evaluation)


# --- trees ------------------------------------------------------------------------------------------------------------


def test_tree_marks_ends_flow_and_the_chosen_path() -> None:
    tree = pool_tree([RIGHT, RIGHT, WRONG, UNFINISHED], forks=[Draw("right", False, -3.0)])
    parsed = Parsed(tree_markup(tree, chosen=tree.trunks[0], badges={tree.trunks[2]: "look here"}))
    assert parsed.classes("step") == len(tree.nodes) - 1
    assert parsed.classes("on-path") == 2
    assert (parsed.classes("right"), parsed.classes("wrong")) == (1, 2)
    assert parsed.text.count("unfinished") == parsed.text.count("look here") == 1
    assert "2 of 3 right" in parsed.text and "×2" in parsed.text
    widths = [value for name, value in parsed.attributes if name == "style"]
    assert sum(value.startswith("width:100%") for value in widths) == 1  # only the unfinished draw has the largest flow


def test_tree_unfolds_what_leads_to_right_answers_and_to_the_chosen_one() -> None:
    wrong_ways = [Draw("x", False, float(index)) for index in range(2)]
    right_ways = [Draw("r", True, float(index)) for index in range(2)]
    tree = pool_tree([*wrong_ways, *right_ways])

    def num_unfolded(chosen: int | None) -> int:
        return [name for name, _ in Parsed(tree_markup(tree, chosen=chosen)).attributes].count("open")

    assert Parsed(tree_markup(tree)).tags.count("details") == 2
    assert num_unfolded(None) == 1
    assert num_unfolded(tree.trunks[0]) == 2


def test_long_chain_does_not_nest() -> None:
    """Thousands of steps without a fork stay one block; nesting them would exhaust the stack."""
    steps = [Step(f"{index};", (index,), None, StopReason.STOP) for index in range(3000)]
    tree = build_tree(Problem("long", ""), [Rollout(0, 0, 0, tuple(steps))])
    parsed = Parsed(tree_markup(tree))
    assert (parsed.classes("step"), parsed.tags.count("details"), parsed.tags.count("div")) == (3000, 0, 2)


def test_tree_without_flows_has_no_bars() -> None:
    tree = pool_tree([RIGHT])
    unscored = replace(tree, nodes=tuple(replace(node, log_flow=None) for node in tree.nodes))
    assert [Parsed(tree_markup(one)).classes("bar") for one in (tree, unscored)] == [2, 0]


# --- the terminal -----------------------------------------------------------------------------------------------------


def test_terminal_table_shows_all_selectors_subsets_and_bills() -> None:
    trees = pool()
    out = io.StringIO()
    print_table(evaluated(trees), Console(file=out, width=160))
    printed = out.getvalue()
    assert printed.startswith("ARTS 66.7% [")
    for row in ("ARTS flow vote", "majority vote", "random pick", "oracle", "rare", "even", "odd", "wall clock"):
        assert row in printed
    assert "@1     @2     @4     @5" in printed
    assert "paired differences in points: ARTS − majority vote +33.3 [" in printed


def test_terminal_shows_brackets_in_names_as_they_are() -> None:
    trees = pool()
    out = io.StringIO()
    evaluation = evaluate_trees(trees, {"[red]v[/red]": scored(trees)}, difficulty=lambda _: "[bold]class")
    print_table(evaluation, Console(file=out, width=200))
    assert out.getvalue().count("[red]v[/red]") >= 5
    assert "[bold]class" in out.getvalue()


def test_table_marks_rows_and_keeps_markup() -> None:
    parsed = Parsed(table(["", "n"], [["a", "1"], [Markup("<i>b</i>"), "2"]], marked=frozenset({1})))
    assert parsed.classes("marked") == 1
    assert parsed.tags.count("i") == 1 and parsed.tags.count("tr") == 3
