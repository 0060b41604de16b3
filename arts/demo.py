"""`arts demo`: every part once, on the shipped Countdown model, in under three minutes on two CPU cores.

Everything is made anew: trees of the frozen model, a verifier trained on them, a pool of solutions to problems that
neither has seen, and the table that compares ways to choose. Only the two shipped models are there before.
"""

import shutil
import sys
import time
from pathlib import Path

from rich.console import Console

from arts.build import about, build_new_verifier, build_proposer, build_task, build_verifier
from arts.collect import Progress, collect
from arts.console import progress
from arts.evaluate.groups import problem_groups
from arts.evaluate.report import write_report
from arts.evaluate.run import evaluate_trees, write_results
from arts.evaluate.scoring import score_with_progress
from arts.evaluate.table import print_table
from arts.pages.links import VIEW_FILE
from arts.sparse_deep_fork import CollectSettings, fork_cost
from arts.store import load_trees
from arts.tree import ReasoningTree, draw_tree
from arts.view.page import View, write_view

NUM_TRAIN, NUM_TRAIN_SAMPLES = 600, 8
NUM_TEST, NUM_TEST_SAMPLES = 300, 16


def run_demo(out: Path, *, seed: int = 0) -> None:
    """Run the demo into a folder, which is emptied first."""
    from arts.verifier.model import VerifierSettings
    from arts.verifier.scorer import FlowScorer
    from arts.verifier.train import TrainProgress, TrainSettings, train

    started = time.monotonic()
    _empty(out)
    console = Console()
    task = build_task("countdown")
    proposer = build_proposer("countdown", task)

    def draw(title: str, folder: str, settings: CollectSettings) -> list[ReasoningTree]:
        with progress(title, settings.num_problems) as tell:

            def watch(state: Progress) -> None:
                tell(state.done, f"{state.generated_tokens:,} tokens")

            collect(task, proposer, settings, out / folder, about=about(), watch=watch)
        return load_trees(out / folder)

    console.rule("1  Collect: the frozen model's reasoning as trees")
    trees = draw(
        "drawing training trees",
        "train",
        CollectSettings(split="train", num_problems=NUM_TRAIN, num_samples=NUM_TRAIN_SAMPLES, seed=seed),
    )
    console.print("\n".join(draw_tree(trees[0], max_nodes=12)), markup=False, highlight=False)
    console.print(f"{len(trees)} trees; forks bring their cost to {fork_cost(trees).ratio:.2f} N tokens (paper: 1.5 N)")

    console.rule("2  Train: a verifier of the flow of reward through every step")
    verifier = build_new_verifier("countdown", VerifierSettings(tuning="full"), seed=seed)
    settings = TrainSettings(num_epochs=3, evaluations_per_epoch=2, validation_share=0.1, seed=seed)
    with progress("training", 1000) as tell:

        def watch_training(state: TrainProgress) -> None:
            tell(round(1000 * state.step / state.num_steps), f"loss {state.loss:.3f}")

        result = train(verifier, trees, settings, out / "verifier", watch=watch_training)
    console.print(f"trained on {result.num_trained_trees} trees; validation loss {result.best.loss:.3f}")

    console.rule(f"3  Choose: best of {NUM_TEST_SAMPLES} on {NUM_TEST} problems that no part has seen")
    pool = draw(
        "drawing test solutions",
        "test",
        CollectSettings(split="test", num_problems=NUM_TEST, num_samples=NUM_TEST_SAMPLES, pivots="none", seed=seed),
    )
    scored = {
        "arts": score_with_progress(FlowScorer(build_verifier("countdown")), pool, "shipped verifier"),
        "arts_trained_here": score_with_progress(FlowScorer(verifier), pool, "verifier trained here"),
    }
    evaluation = evaluate_trees(
        pool,
        scored,
        difficulty=task.difficulty,
        command=sys.argv,
        seed=seed,
        wall_s=round(time.monotonic() - started, 1),
    )
    print_table(evaluation, console)
    console.print(
        f"arts: the verifier that ships with the package. arts_trained_here: trained just now on "
        f"{result.num_trained_trees} problems; more trees make it better, see README."
    )
    write_results(evaluation, out, about=about())
    groups = problem_groups(evaluation)
    shown = scored["arts"].trees
    write_view(View(title="ARTS demo", trees=shown, chosen_by="ARTS", groups=groups), out / VIEW_FILE)
    report = write_report(evaluation, shown, out, groups=groups)
    console.print(f"results {out / 'results.json'}, report {report} ({time.monotonic() - started:.0f} s)")


def _empty(folder: Path) -> None:
    """Empty a folder of an earlier demo; anything else in it is a mistake worth stopping for.

    Raises:
        ValueError: the folder holds what no demo wrote.
    """
    known = {"train", "test", "verifier", "results.json", "report.html", VIEW_FILE}
    if folder.exists():
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in known)
        if foreign:
            raise ValueError(f"{folder} holds {foreign[0]!r}, which no demo wrote; choose an empty --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
