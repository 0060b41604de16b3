"""The pictures of the README: the tree viewer and a report, as a reader sees them.

    make screenshots          # installs Chromium where that is allowed, then runs this

Everything is made anew with the shipped models: 60 test problems, 16 draws each, with forks for the viewer; a minute.
Pictures are WebP, made smaller until they are below `MAX_BYTES`.
"""

import base64
import sys
import tempfile
from pathlib import Path

from arts.build import build_proposer, build_scorer, build_task
from arts.collect import collect
from arts.evaluate.groups import problem_groups
from arts.evaluate.report import write_report
from arts.evaluate.run import evaluate_trees
from arts.evaluate.scoring import score_with_progress
from arts.pages.links import VIEW_FILE
from arts.protocols import ScoredTrees
from arts.sparse_deep_fork import CollectSettings
from arts.store import load_trees
from arts.view.page import View, write_view

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the browser of the tests

from browser import Browser, open_browser  # noqa: E402

OUT = ROOT / "docs" / "images"
NUM_PROBLEMS, NUM_SAMPLES = 60, 16
SIZES = {"view": (1400, 720), "report": (1180, 880)}
MAX_BYTES = 120_000


def draw(folder: Path, *, forks: bool) -> ScoredTrees:
    """Test problems, drawn and scored by the shipped models."""
    task = build_task("countdown")
    settings = CollectSettings(
        split="test",
        num_problems=NUM_PROBLEMS,
        num_samples=NUM_SAMPLES // 2 if forks else NUM_SAMPLES,
        **({} if forks else {"pivots": "none"}),
    )
    collect(task, build_proposer("countdown", task), settings, folder)
    return score_with_progress(build_scorer("countdown"), load_trees(folder), "scoring")


def write_pages(folder: Path) -> None:
    """`view.html` of trees with forks, and a report of a pool."""
    write_view(
        View(title="Countdown, shipped models", trees=draw(folder / "trees", forks=True).trees), folder / VIEW_FILE
    )
    pool = draw(folder / "pool", forks=False)
    verifiers, difficulty = {"arts": pool}, build_task("countdown").difficulty
    command = ["arts", "evaluate", "--trees", "runs/pool", "--verifier", "countdown", "--out", "runs/evaluation"]
    evaluation = evaluate_trees(pool.trees, verifiers, difficulty=difficulty, command=command)
    groups = problem_groups(evaluation, pool.trees, verifiers, difficulty=difficulty)
    write_report(evaluation, pool.trees, folder, groups=groups)


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
        write_pages(folder)
        browser.resize(*SIZES["view"])
        browser.open(folder / VIEW_FILE, "#?group=picked")
        browser.wait("performance.getEntriesByName('tree-drawn').length > 0")
        browser.press("h")
        save_picture(browser, "view")
        browser.resize(*SIZES["report"])
        browser.open(folder / "report.html")
        save_picture(browser, "report")


if __name__ == "__main__":
    main()
