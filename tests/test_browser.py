"""Report and tree viewer in a real browser: they open from disk, react, say nothing on the console and load nothing.

python -m pytest -m browser tests/test_browser.py          # `make test-browser` sets up what it needs
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, open_browser
from pools import RIGHT, UNFINISHED, WRONG, Draw, pool_tree, scored
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys
from view_trees import HOSTILE, big_tree, chain, hostile_trees, latex_tree, mixed_tree

from arts.evaluate.groups import problem_groups
from arts.evaluate.report import write_report
from arts.evaluate.run import evaluate_trees
from arts.tree import Problem, ReasoningTree
from arts.view.page import View, write_view

pytestmark = pytest.mark.browser
DRAWN = "performance.getEntriesByName('tree-drawn').length > 0"
SELECTED = "document.querySelector('.node.selected').getAttribute('aria-label')"


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def browser(window: Browser) -> Iterator[Browser]:
    """The shared window; every test must leave its console empty, and have loaded files only."""
    window.complaints(), window.loaded()
    yield window
    window.resize(1400, 900)
    assert window.complaints() == []
    loaded = [url for url in window.loaded() if not url.startswith(("file:", "about:blank"))]
    assert loaded == []


def many_trees() -> list[ReasoningTree]:
    """Forty pools: in every fourth one draw is right, in every fifth one is cut off."""
    trees = []
    for place in range(40):
        draws = [WRONG, Draw("other", False, 0.3 * (place % 3)), UNFINISHED if place % 5 == 0 else WRONG]
        draws.append(RIGHT if place % 4 == 0 else WRONG)
        trees.append(pool_tree(draws, problem=Problem(f"p/{place} #1?", f"problem number {place}")))
    return trees


def shown(tmp_path: Path, *trees: ReasoningTree, **options: object) -> Path:
    return write_view(View(title="the trees", trees=list(trees), **options), tmp_path / "view.html")  # type: ignore[arg-type]


# --- the tree ---------------------------------------------------------------------------------------------------------


def test_a_tree_opens_with_all_its_signs(browser: Browser, tmp_path: Path) -> None:
    browser.open(shown(tmp_path, mixed_tree()))
    browser.wait(DRAWN)
    assert browser.text("#page-title") == "the trees"
    assert browser.count("[role=treeitem]") == 8
    assert browser.count("#tree .mark.right") == 1
    assert browser.count("#tree .mark.wrong") == 2
    assert browser.count("#tree .mark.unfinished") == 1
    assert (browser.count(".node.fork"), browser.count(".link.fork")) == (1, 1)
    assert browser.count(".node.on-path") == 2
    assert browser.run(f"return {SELECTED}") == "good end, right, flow 9.03, drawn 2 times, on the chosen path"
    widths = browser.run("return [...document.querySelectorAll('.link')].map(one => +one.getAttribute('stroke-width'))")
    assert max(widths) == 7.6 and min(widths) == 1.6  # the highest and the lowest flow of the page


def test_folding_hides_what_is_below_and_the_keys_walk_through_the_rest(browser: Browser, tmp_path: Path) -> None:
    browser.open(shown(tmp_path, mixed_tree()))
    browser.wait(DRAWN)
    browser.click("#collapse")
    assert browser.count("[role=treeitem]") == 3
    browser.run("document.getElementById('tree').focus()")
    browser.press(Keys.ARROW_DOWN)
    assert str(browser.run(f"return {SELECTED}")).startswith("first;")
    browser.press(Keys.ARROW_RIGHT)  # unfolds
    assert browser.count("[role=treeitem]") == 4
    browser.press(Keys.ARROW_RIGHT)  # goes in
    assert str(browser.run(f"return {SELECTED}")).startswith("good end")
    browser.press(Keys.ARROW_LEFT)
    browser.press(Keys.ARROW_LEFT)  # folds
    assert browser.count("[role=treeitem]") == 3
    assert browser.run("return document.querySelector('.node.selected').ariaExpanded") == "false"
    browser.press("e")
    assert browser.count("[role=treeitem]") == 8
    browser.press(Keys.END)
    last = browser.run(
        "return [...document.querySelectorAll('.node')].reduce((a, b) => a.offsetTop > b.offsetTop ? a : b).id"
    )
    assert browser.run("return document.querySelector('.node.selected').id") == last
    browser.press("h")
    assert str(browser.run(f"return {SELECTED}")).startswith("good end")
    active = browser.run("return document.getElementById('tree').getAttribute('aria-activedescendant')")
    assert active == browser.run("return document.querySelector('.node.selected').id")


def test_clicks_and_the_pointer_show_a_step(browser: Browser, tmp_path: Path) -> None:
    browser.open(shown(tmp_path, mixed_tree()))
    browser.wait(DRAWN)
    node = "document.querySelector('.node[aria-label^=\"bad end\"]')"
    browser.run(f"{node}.click()")
    assert browser.text("#details h2").startswith("✕Step 3, wrong")
    assert browser.text("#details > .step-text") == "bad end"
    assert "log-prior−0.700" in browser.text("#details dl")
    assert browser.count("ol.path li") == 3
    fold = browser.driver.find_element("css selector", ".node[aria-label^='second'] .more")
    fold.click()
    assert browser.count("[role=treeitem]") == 4
    ActionChains(browser.driver).move_to_element(
        browser.driver.find_element("css selector", ".node[aria-label^='first']")
    ).perform()
    browser.wait("!document.getElementById('hover').hidden")
    assert browser.text("#hover").startswith("first;") and "drawn 2 times" in browser.text("#hover")


def test_five_thousand_steps_open_and_unfold_in_under_a_second(
    browser: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = shown(tmp_path, big_tree(5000))

    def open_ms() -> float:
        browser.open(page)
        browser.wait(DRAWN)
        return float(browser.run("return performance.getEntriesByName('tree-drawn')[0].startTime"))

    opened_ms = min(open_ms() for _ in range(3))  # other programs run beside the tests
    unfolded_ms, scrolled_ms = browser.driver.execute_async_script("""
        const done = arguments[0];
        const after = (act, then) => {
            const start = performance.now();
            act();
            requestAnimationFrame(() => setTimeout(() => then(performance.now() - start)));
        };
        const scroll = () => (document.getElementById("canvas").scrollTop = 30000);
        after(() => document.getElementById("expand").click(), (unfolded) =>
            after(scroll, (scrolled) => done([unfolded, scrolled])));
    """)
    with capsys.disabled():
        print(f"\n5,000 steps: open {opened_ms:.0f} ms, unfold all {unfolded_ms:.0f} ms, scroll {scrolled_ms:.0f} ms")
    assert opened_ms < 1000 and unfolded_ms < 1000
    assert browser.count(".node") < 400  # only what is in sight is drawn
    assert browser.run("return document.getElementById('tree').offsetHeight") > 30_000


def test_overview_shows_the_shape_without_texts(browser: Browser, tmp_path: Path) -> None:
    browser.open(shown(tmp_path, mixed_tree()))
    browser.wait(DRAWN)
    browser.press("o")
    assert browser.run("return document.getElementById('dense').ariaPressed") == "true"
    assert browser.count(".node") == 8 and browser.count(".node .text") == 0


# --- the list ---------------------------------------------------------------------------------------------------------


def test_filters_orders_and_the_search_choose_problems(browser: Browser, tmp_path: Path) -> None:
    browser.open(shown(tmp_path, *many_trees()))
    browser.wait(DRAWN)
    assert browser.text("#found") == "40 of 40 problems"
    choose = """
        const one = document.getElementById(arguments[0]);
        one.value = arguments[1];
        one.dispatchEvent(new Event("change"));
    """
    browser.run(choose, "group", "rare")
    assert browser.text("#found") == "10 of 40 problems"
    browser.run(choose, "group", "unfinished")
    assert browser.text("#found") == "8 of 40 problems"
    browser.run(choose, "group", "")
    browser.run(choose, "order", "right")
    assert browser.text(".row .row-prompt") == "problem number 1"
    browser.run(choose, "order", "residual")
    residuals = browser.run("return JSON.parse(document.getElementById('index').textContent).residuals")
    first = int(browser.text(".row .row-prompt").split()[-1])
    assert residuals[first] == max(residuals)
    browser.run("document.getElementById('search').focus()")
    browser.press("think of right")
    browser.wait("document.getElementById('found').textContent === '10 of 40 problems'")
    browser.wait("document.querySelectorAll('.node.hit').length === 1")
    assert browser.text("#prompt") == "problem number 0"


def test_next_and_previous_walk_through_the_chosen_problems(browser: Browser, tmp_path: Path) -> None:
    browser.open(shown(tmp_path, *many_trees()), "#?group=rare")
    browser.wait(DRAWN)
    assert (browser.text("#place"), browser.text("#prompt")) == ("1 of 10", "problem number 0")
    browser.click("#next")
    browser.wait("document.getElementById('prompt').textContent === 'problem number 4'")
    browser.press("j")
    browser.wait("document.getElementById('prompt').textContent === 'problem number 8'")
    assert browser.text("#place") == "3 of 10"
    browser.press("k")
    browser.wait("document.getElementById('prompt').textContent === 'problem number 4'")
    browser.driver.back()
    browser.wait("document.getElementById('prompt').textContent === 'problem number 8'")


def test_addresses_name_problem_step_and_group(browser: Browser, tmp_path: Path) -> None:
    page = shown(tmp_path, *many_trees())
    browser.open(page, "#p%2F8%20%231%3F/2?group=rare")
    browser.wait(DRAWN)
    assert browser.text("#prompt") == "problem number 8"
    assert browser.run("return document.querySelector('.node.selected').id") == "node-2"
    assert browser.text("#found") == "10 of 40 problems"
    assert browser.run("return location.hash") == "#p%2F8%20%231%3F/2?group=rare"
    browser.run("location.hash = '#p%2F9%20%231%3F'")
    browser.wait("document.getElementById('prompt').textContent === 'problem number 9'")
    browser.open(page, "#nobody%ZZ/7")
    browser.wait("!document.getElementById('trouble').hidden")


def test_five_hundred_problems_are_read_when_they_are_looked_at(browser: Browser, tmp_path: Path) -> None:
    steps = [f"a step of some length that no other problem has, number {number};" for number in range(30)]
    trees = [chain(Problem(f"{n}", f"problem {n}"), *(f"{n} {step}" for step in steps), "end") for n in range(500)]
    page = shown(tmp_path, *trees)
    browser.open(page)
    browser.wait(DRAWN)
    assert browser.count(".row") < 40
    assert browser.count("script[id^=block]") > 5
    browser.open(page, "#499")
    browser.wait(DRAWN)
    assert browser.text("#details > .step-text") == "problem 499"
    browser.wait("document.querySelector('.row[aria-selected=true] .row-prompt').textContent === 'problem 499'")


# --- texts ------------------------------------------------------------------------------------------------------------


def test_hostile_texts_are_shown_and_never_run(browser: Browser, tmp_path: Path) -> None:
    trees = hostile_trees()
    page = shown(tmp_path, *trees, notes=list(HOSTILE.values()), chosen_by=HOSTILE["markup"])
    browser.open(page)
    browser.wait(DRAWN)
    assert browser.text("#prompt") == HOSTILE["markup"]
    for place in range(len(trees)):
        browser.wait(f"document.getElementById('place').textContent === '{place + 1} of {len(trees)}'")
        browser.press("h")
        assert browser.count("#app img, #app script, #app a, #app iframe, dialog script, #details svg") == 0
        assert browser.run("return document.title") == "the trees"
        browser.press("j")


def test_hidden_signs_are_named_and_do_not_reorder(browser: Browser, tmp_path: Path) -> None:
    browser.open(shown(tmp_path, chain(Problem("bidi", HOSTILE["bidi"]), HOSTILE["controls"])))
    browser.wait(DRAWN)
    signs = browser.run("return [...document.querySelectorAll('#prompt .sign')].map(one => one.textContent)")
    assert signs == ["U+202E", "U+202C", "U+2066", "U+2069", "U+200F"]
    browser.press("h")
    signs = browser.run(
        "return [...document.querySelectorAll('#details > .step-text .sign')].map(one => one.textContent)"
    )
    assert signs == ["U+0007", "U+0000", "U+FEFF", "U+2028", "U+2029", "U+D800"]


def test_a_line_of_a_megabyte_is_cut_until_it_is_asked_for(browser: Browser, tmp_path: Path) -> None:
    browser.open(shown(tmp_path, chain(Problem("long", "short"), HOSTILE["long"])))
    browser.wait(DRAWN)
    assert browser.run("return performance.getEntriesByName('tree-drawn')[0].startTime") < 2000
    browser.press("h")
    assert len(browser.text("#details > .step-text")) < 21_000
    assert browser.text("#details > .step-text button") == "… show all 1,000,000 characters"
    assert len(browser.text(".node.selected .text")) == 120


def test_latex_is_set_as_mathml_and_dollars_stay_dollars(browser: Browser, tmp_path: Path) -> None:
    browser.open(shown(tmp_path, latex_tree()))
    browser.wait(DRAWN)
    assert browser.count("#prompt math") == 1
    browser.press("h")
    path = browser.run(
        "return [...document.querySelectorAll('ol.path li')].map(one => one.querySelectorAll('math').length)"
    )
    assert path == [2, 1, 2]
    assert "$5 and $6" in browser.text("ol.path")
    assert (
        browser.run("return document.querySelector('#details > .step-text mfrac').getBoundingClientRect().height") > 15
    )


def test_latex_that_asks_for_more_than_formulas_is_not_obeyed(browser: Browser, tmp_path: Path) -> None:
    browser.open(shown(tmp_path, chain(Problem("latex", HOSTILE["latex"]), "end")))
    browser.wait(DRAWN)
    assert browser.count("#prompt a, #prompt [href]") == 0
    assert r"$\frac{1}{$" in browser.text("#prompt")  # not understood: as it was written


# --- pages ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with the viewer's page beside it."""
    folder = tmp_path_factory.mktemp("report")
    trees = many_trees()
    verifiers = {"arts": scored(trees)}

    def kind(problem: Problem) -> str:
        return "even" if int(problem.prompt.split()[-1]) % 2 == 0 else "odd"

    evaluation = evaluate_trees(trees, verifiers, difficulty=kind, command=["x", "evaluate"])
    groups = problem_groups(evaluation)
    write_view(View(title="pool", trees=trees, groups=groups), folder / "view.html")
    return write_report(evaluation, trees, folder, groups=groups)


def test_numbers_of_a_report_lead_to_the_problems_behind_them(browser: Browser, report: Path) -> None:
    browser.open(report)
    assert "arts evaluate" in browser.text(".made")
    groups = browser.run("return [...document.querySelectorAll('a')].map(a => decodeURIComponent(a.hash))")
    assert {"#?group=right:arts", "#?group=rare", "#?group=difficulty: even", "#?group=missed:majority"} <= set(groups)
    browser.click("a[href*='difficulty%3A%20even']")
    browser.wait(DRAWN)
    assert browser.text("#found") == "20 of 40 problems"
    browser.open(report)
    browser.click(".example h3 a")
    browser.wait(DRAWN)
    assert browser.count(".node.selected.chosen") == 1


def test_values_of_a_chart_appear_under_the_pointer(browser: Browser, report: Path) -> None:
    browser.open(report)
    visible = "getComputedStyle(document.querySelector('.hit .tip')).visibility"
    assert browser.run(f"return {visible}") == "hidden"
    circle = browser.driver.find_element("css selector", ".hit circle")
    browser.run("arguments[0].scrollIntoView({block: 'center'})", circle)
    ActionChains(browser.driver).move_to_element(circle).perform()
    assert browser.wait(f"{visible} === 'visible'")
    assert ", k = 1: " in browser.text(".hit .tip") and "%" in browser.text(".hit .tip")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(browser: Browser, tmp_path: Path, scheme: str) -> None:
    """WCAG AA: 4.5 to 1 for texts, in both schemes."""
    browser.prefer(scheme)
    browser.open(shown(tmp_path, mixed_tree()))
    browser.wait(DRAWN)
    low = browser.hard_to_read()
    browser.prefer("light")
    assert low == []


def test_nothing_overflows_in_a_narrow_window(browser: Browser, tmp_path: Path, report: Path) -> None:
    for page in (shown(tmp_path, *many_trees()), report):
        browser.resize(560, 800)
        browser.open(page)
        assert browser.run("return document.documentElement.scrollWidth") <= 560


def test_a_chain_of_thousands_of_steps_opens(browser: Browser, tmp_path: Path) -> None:
    browser.open(shown(tmp_path, chain(Problem("long", "a long way"), *(f"step {n};" for n in range(3000)), "end")))
    browser.wait(DRAWN)
    browser.press("h")
    assert browser.text("#details h2").startswith("✓Step 3001, right")
    assert browser.text("ol.path li") == "… 2,901 steps before"
    assert browser.count("ol.path li") == 101
