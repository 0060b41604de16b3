"""The pictures of the README: the tree viewer, a report and the live page, as a reader sees them.

    make screenshots          # installs Chromium where that is allowed, then runs this

The trees are drawn anew with the shipped models; the report is that of the draws behind README's table. Pictures are
WebP, of the best quality below `MAX_BYTES`.
"""

import base64
import sys
import tempfile
import time
from pathlib import Path

from arts.build import build_proposer, build_scorer, build_task
from arts.cli.serve import build_service
from arts.collect import collect
from arts.evaluate.groups import problem_groups
from arts.evaluate.report import write_report
from arts.evaluate.rows import read_rows
from arts.evaluate.run import evaluate_trees
from arts.pages.links import VIEW_FILE
from arts.proposers.sampling import Sampling
from arts.serve.app import build_app
from arts.serve.limits import Limits
from arts.sparse_deep_fork import CollectSettings
from arts.view.page import View, write_view

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the browser of the tests

from browser import Browser, open_browser  # noqa: E402
from serving import running  # noqa: E402

OUT = ROOT / "docs" / "images"
ROWS = ROOT / "results" / "countdown-test.jsonl"
COMMAND = "arts evaluate --trees runs/countdown/test --verifier countdown --out runs/countdown/evaluation"
SIZES = {"view": (1400, 620), "report": (1180, 690), "live": (1400, 860)}
MAX_BYTES = 120_000


def write_trees(folder: Path) -> None:
    """`view.html`: test problems, drawn and scored by the shipped models."""
    task = build_task("countdown")
    settings = CollectSettings(split="test", num_problems=24, num_samples=8)
    trees = list(collect(task, build_proposer("countdown", task), settings, folder / "trees").trees())
    scored = build_scorer("countdown").score(trees)
    write_view(View(title="Countdown, shipped models", trees=scored.trees, chosen_by="ARTS"), folder / VIEW_FILE)


def write_results(folder: Path) -> None:
    """`report.html` of the committed draws."""
    trees, verifiers = read_rows(ROWS)
    difficulty = build_task("countdown").difficulty
    evaluation = evaluate_trees(trees, verifiers, difficulty=difficulty, command=COMMAND.split())
    groups = problem_groups(evaluation)
    write_report(evaluation, next(iter(verifiers.values())).trees, folder, groups=groups)


def search_live(browser: Browser, url: str) -> None:
    """A search on the page of `arts demo --ui`, until its answer is there."""
    browser.open(f"{url}/")
    browser.wait("document.getElementById('strategy').options.length > 0")
    browser.run("document.getElementById('strategy').value = 'arts-rebase'")
    browser.run("document.getElementById('strategy').dispatchEvent(new Event('change'))")
    browser.click("#example")
    browser.press("\ue007")  # Enter
    deadline = time.monotonic() + 120
    while not browser.count("#chosen-card .answer") and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)  # until everything stands still


def save_picture(browser: Browser, name: str) -> None:
    """As small a WebP as it takes."""
    for quality in (90, 80, 70, 60):
        settings = {"format": "webp", "quality": quality}
        picture = base64.b64decode(browser.driver.execute_cdp_cmd("Page.captureScreenshot", settings)["data"])
        if len(picture) <= MAX_BYTES:
            break
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.webp").write_bytes(picture)
    print(f"docs/images/{name}.webp: {len(picture) / 1000:.0f} kB")


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary, open_browser() as browser:
        folder = Path(temporary)
        write_trees(folder)
        write_results(folder)
        browser.resize(*SIZES["view"])
        browser.open(folder / VIEW_FILE, "#?group=picked")
        browser.wait("performance.getEntriesByName('tree-drawn').length > 0")
        browser.press("h")
        save_picture(browser, "view")
        browser.resize(*SIZES["report"])
        browser.open(folder / "report.html")
        save_picture(browser, "report")
        browser.resize(*SIZES["live"])
        service = build_service("countdown", "countdown", build_task("countdown"), sampling=Sampling(), limits=Limits())
        with running(build_app(service, with_page=True), service) as url:
            search_live(browser, url)
            save_picture(browser, "live")


if __name__ == "__main__":
    main()
