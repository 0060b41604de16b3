"""The page of `arts serve --ui` in a real browser: a tree grows, an answer comes, a search is stopped, errors are told.

python -m pytest -m browser tests/test_browser_live.py          # `make test-browser` sets up what it needs
"""

import time
from collections.abc import Iterator, Sequence

import pytest
from browser import Browser, open_browser
from selenium.webdriver.common.keys import Keys
from serving import SlowTable, exact_scorer, local_service, running
from view_trees import HOSTILE

from arts.proposers.table import TableProposer
from arts.protocols import Reply, Request
from arts.serve.app import build_app
from arts.serve.service import Service
from arts.tasks.conversation import ConversationTask
from arts.tree import Step, StopReason, Usage

pytestmark = pytest.mark.browser
KEY = "the-key-of-this-server"
READY = "document.getElementById('strategy').options.length > 0"
RUNNING = "document.body.classList.contains('running')"
PROBLEM = "toy 3x3 seed 1"


class HostileProposer(TableProposer):
    """Whole solutions that would be markup, were they not text."""

    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        texts = [HOSTILE[name] for name in ("markup", "comment", "bidi", "controls", "latex")]
        draws = [tuple((Step(texts[seed % 5], (1,), None, StopReason.EOS),) for seed in one.seeds) for one in requests]
        return [Reply(one, Usage(1, len(one), requests=1)) for one in draws]


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def browser(window: Browser) -> Iterator[Browser]:
    window.complaints(), window.loaded()
    yield window
    window.resize(1400, 900)
    window.prefer("light")


@pytest.fixture(scope="module")
def slow() -> Iterator[tuple[Service, str]]:
    service = local_service(SlowTable(0.3), scorer=exact_scorer())
    with running(build_app(service, local_only=True, with_page=True), service) as url:
        yield service, url


def ask(browser: Browser, problem: str, model: str) -> None:
    """Choose a strategy, type a problem, press Enter."""
    choose = """
        const one = document.getElementById("strategy");
        one.value = arguments[0];
        one.dispatchEvent(new Event("change"));
        document.getElementById("problem-text").value = "";
        document.getElementById("problem-text").focus();
    """
    browser.run(choose, model)
    browser.press(problem, Keys.ENTER)


def assert_clean(browser: Browser, url: str) -> None:
    """Nothing was complained of, and nobody but the server was asked."""
    assert browser.complaints() == []
    assert [one for one in browser.loaded() if not one.startswith((url, "about:blank", "data:"))] == []


def test_a_tree_grows_an_answer_comes_and_a_second_search_is_stopped(
    browser: Browser, slow: tuple[Service, str]
) -> None:
    service, url = slow
    browser.open(f"{url}/")
    browser.wait(READY)
    ask(browser, PROBLEM, "arts-beam")
    counts, chosen = [], []
    while browser.run(f"return {RUNNING}"):
        counts.append(browser.count(".node"))
        chosen.append(browser.count("#chosen-card .answer"))
    assert counts == sorted(counts) and len(set(counts)) >= 3  # steps are there before the end, and more follow
    assert chosen[0] == 0
    browser.wait("document.querySelectorAll('#chosen-card .answer').length === 1")
    widths = browser.run(
        "return [...document.querySelectorAll('.link')].map((one) => +one.getAttribute('stroke-width'))"
    )
    assert max(widths) > min(widths)  # flows
    assert browser.count(".node.chosen.selected") == 1 and browser.count(".node.on-path") == 3
    answer = browser.text("#chosen-card .answer")
    assert answer and browser.text("#said").startswith(f"Chosen: {answer}. Confidence ")
    assert "% confidence" in browser.text("#chosen-card")
    assert "the checker" in browser.text("#chosen-card") and "vote" in browser.text("#majority-card")
    assert "Proposer" in browser.text("#bills") and "Verifier" in browser.text("#bills")
    browser.click("#majority-card .answer")
    assert browser.count(".node.selected .mark") == 1
    browser.run("document.getElementById('budget').value = ''")
    ask(browser, "toy 3x3 seed 2", "arts-mcts")
    browser.wait("document.querySelectorAll('.node').length > 1")
    browser.press(Keys.ESCAPE)
    browser.wait(f"!{RUNNING}")
    assert browser.text("#said") == "Stopped. Nothing was chosen."
    deadline = time.monotonic() + 10
    while service.gate.num_inside or service.engine._tickets:
        assert time.monotonic() < deadline, "the search still runs"
        time.sleep(0.02)
    assert browser.count("#run-list .past") == 2
    browser.run("document.querySelectorAll('#run-list .past')[1].click()")
    assert browser.text("#chosen-card .answer") == answer and browser.count(".node.chosen") == 1
    assert_clean(browser, url)


def test_examples_fill_the_field_and_what_cannot_be_is_said_in_words(
    browser: Browser, slow: tuple[Service, str]
) -> None:
    url = slow[1]
    browser.open(f"{url}/")
    browser.wait(READY)
    browser.click("#example")
    first = browser.run("return document.getElementById('problem-text').value")
    browser.click("#example")
    assert first.startswith("toy 3x3") and browser.run("return document.getElementById('problem-text').value") != first
    ask(browser, "", "arts-search")
    assert browser.text("#trouble-line") == "Type a problem first, or take an example."
    assert browser.count("#run-list .past") == 0
    ask(browser, "hello", "arts-search")
    browser.wait(f"!{RUNNING}")
    browser.wait("!document.getElementById('trouble-line').hidden")
    assert browser.text("#trouble-line").startswith("The server cannot do this: not a toy problem: 'hello'")
    assert browser.text("#run-list .past").endswith("failed")
    assert len(browser.complaints()) == 1  # the browser's own note of status 400


def test_a_key_is_asked_for_and_kept_in_memory_only(browser: Browser) -> None:
    service = local_service(TableProposer(), scorer=exact_scorer())
    with running(build_app(service, keys=[KEY], with_page=True), service) as url:
        browser.open(f"{url}/")
        browser.wait("!document.getElementById('key-form').hidden")
        assert browser.text("#trouble-line").startswith("This server wants an API key.")
        browser.press("wrong", Keys.ENTER)
        browser.wait("document.getElementById('trouble-line').textContent.startsWith('This key does not open')")
        browser.run("document.getElementById('key').value = ''")
        browser.press(KEY, Keys.ENTER)
        browser.wait(READY)
        ask(browser, PROBLEM, "arts-best-of-16")
        browser.wait("document.querySelectorAll('#chosen-card .answer').length === 1")
        assert browser.run("return location.href") == f"{url}/"
        assert browser.run("return [localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        assert not any(KEY in one for one in browser.loaded())
        browser.open(f"{url}/")
        browser.wait("!document.getElementById('key-form').hidden")  # it was not kept


def test_hostile_steps_are_shown_and_never_run(browser: Browser) -> None:
    service = local_service(HostileProposer(), ConversationTask())
    with running(build_app(service, with_page=True), service) as url:
        browser.open(f"{url}/")
        browser.wait(READY)
        ask(browser, HOSTILE["markup"], "arts-majority")
        browser.wait(f"!{RUNNING} && document.querySelectorAll('#chosen-card .answer').length === 1")
        browser.wait("document.querySelectorAll('.node').length > 3")
        assert browser.text("#run-list .past-problem") == HOSTILE["markup"]
        shown = browser.run("return [...document.querySelectorAll('.node .text')].map((one) => one.textContent)")
        assert any("onerror=alert(1)" in one or "onload=alert(1)" in one for one in shown)
        for _ in shown:
            browser.run("document.getElementById('tree').focus()")
            browser.press(Keys.ARROW_UP)
            assert browser.count("#app img, #app script, #app a, #app iframe, #details svg") == 0
        assert browser.run("return document.title") == "ARTS"
        assert "nobody checks this" in browser.text("#chosen-card")
        assert_clean(browser, url)


@pytest.mark.parametrize("width", [1400, 900, 560])
def test_nothing_overflows(browser: Browser, slow: tuple[Service, str], width: int) -> None:
    browser.resize(width, 800)
    browser.open(f"{slow[1]}/")
    browser.wait(READY)
    ask(browser, PROBLEM, "arts-best-of-16")
    browser.wait(f"!{RUNNING} && document.querySelectorAll('#chosen-card .answer').length === 1")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    if width > 760:
        assert browser.run("return document.getElementById('canvas').clientHeight") >= 240


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(browser: Browser, slow: tuple[Service, str], scheme: str) -> None:
    browser.prefer(scheme)
    browser.open(f"{slow[1]}/")
    browser.wait(READY)
    assert browser.hard_to_read() == []
    ask(browser, PROBLEM, "arts-best-of-16")
    browser.wait(f"!{RUNNING} && document.querySelectorAll('#chosen-card .answer').length === 1")
    browser.wait("document.getAnimations().length === 0")
    assert browser.hard_to_read() == []
