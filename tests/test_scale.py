"""Work in blocks by whoever is free: the same files as on one machine, in every order, done twice, cut anywhere.

The workers here run in this process, with everything pickled on its way. tests/test_ray.py has those of real clusters.
"""

import pickle
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from test_cli import fail
from test_collect import BatchDependent, Crash, shards, small
from test_searches import ABOUT, BEAM, BEST, MOST, PROBLEMS, LetterScorer, SearchSpec

from arts.collect import collect
from arts.collect_report import Prices, status_lines
from arts.draw import Progress
from arts.evaluate.search_trees import TreeFile, read_searched_trees
from arts.evaluate.searches import ROWS, complete_rows, read_rows, run_specs
from arts.proposers.table import TableProposer
from arts.protocols import Proposer
from arts.scale.collect import collect_on
from arts.scale.search import search_on
from arts.scale.workers import ClusterSettings, Tools
from arts.sparse_deep_fork import CollectSettings, rollout_seed
from arts.store import load_trees, open_collection
from arts.tasks.toy import ToyTask

TASK = ToyTask(2, 3)


class Inline:
    """`Workers` in this process: several blocks out at a time, some done twice, answers in random order."""

    def __init__(self, tools: Tools, *, seed: int = 0, num_out: int = 4, crash_after: int | None = None) -> None:
        self.tools, self.num_out, self.crash_after = tools, num_out, crash_after
        self.rng = random.Random(seed)
        self.most_out = self.num_done = 0

    def run(self, work: Iterable[Callable[[Tools], Any]]) -> Iterator[Any]:
        left, out = iter(work), []
        while True:
            out += [pickle.dumps(one) for one in islice(left, self.num_out - len(out))]
            if not out:
                return
            self.most_out = max(self.most_out, len(out))
            one = out.pop(self.rng.randrange(len(out)))
            for _ in range(self.rng.choice((1, 1, 2))):  # a worker that died over it did it in vain
                answer = pickle.dumps(pickle.loads(one)(self.tools))  # noqa: S301
            if self.num_done == self.crash_after:
                raise Crash
            self.num_done += 1
            yield pickle.loads(answer)  # noqa: S301


def spread(folder: Path, proposer: Proposer, settings: CollectSettings, **options: Any) -> Inline:
    tools = Tools(TASK, proposer)
    workers = Inline(tools, **options)
    collect_on(workers, TASK, tools.identity, settings, folder)  # type: ignore[arg-type]
    return workers


# --- collect ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [TableProposer, BatchDependent], ids=["batch-invariant", "batch-dependent"])
@pytest.mark.parametrize("seed", range(3))
def test_blocks_in_any_order_give_the_files_of_one_machine(
    tmp_path: Path, make: Callable[[], Proposer], seed: int
) -> None:
    settings = small(num_problems=20, block_size=1)
    collect(TASK, make(), settings, tmp_path / "one")
    workers = spread(tmp_path / "many", make(), settings, seed=seed)
    assert workers.most_out == 4, "no more blocks are out than workers take"
    assert shards(tmp_path / "many") == shards(tmp_path / "one")
    assert len(shards(tmp_path / "one")) == 3
    assert open_collection(tmp_path / "many").header["settings"] == open_collection(tmp_path / "one").header["settings"]


@pytest.mark.parametrize("make", [TableProposer, BatchDependent], ids=["batch-invariant", "batch-dependent"])
def test_a_driver_that_dies_again_and_again_ends_with_the_files_of_one_machine(
    tmp_path: Path, make: Callable[[], Proposer]
) -> None:
    settings = small(num_problems=20, block_size=1)
    collect(TASK, make(), settings, tmp_path / "one")
    for attempt in range(30):
        try:
            spread(tmp_path / "many", make(), settings, seed=attempt, crash_after=2 * attempt)
            break
        except Crash:
            there = open_collection(tmp_path / "many")
            rows = [row for shard in there.journals() for row in there.read_journal(shard)]
            indices = [(row.problem_id, rollout.index) for row in rows for rollout in row.rollouts]
            assert len(indices) == len(set(indices)), "no rollout is stored twice"
    assert attempt >= 3
    assert shards(tmp_path / "many") == shards(tmp_path / "one")


def test_one_machine_goes_on_with_what_many_began_and_many_with_what_one_began(tmp_path: Path) -> None:
    settings = small(num_problems=20, block_size=2)
    collect(TASK, BatchDependent(), settings, tmp_path / "one")
    with pytest.raises(Crash):
        spread(tmp_path / "first many", BatchDependent(), settings, crash_after=6)
    collect(TASK, BatchDependent(), settings, tmp_path / "first many")
    with pytest.raises(Crash):
        collect(TASK, BatchDependent(crash_before=5), settings, tmp_path / "first one")
    spread(tmp_path / "first one", BatchDependent(), settings)
    assert shards(tmp_path / "first many") == shards(tmp_path / "first one") == shards(tmp_path / "one")


def test_blocks_that_are_there_are_not_drawn_again(tmp_path: Path) -> None:
    class Counting(TableProposer):
        draws = 0

        def propose(self, requests: Any) -> Any:
            self.draws += sum(len(request.seeds) for request in requests)
            return super().propose(requests)

    settings = small(num_problems=16, block_size=2)
    wanted, first, second = Counting(), Counting(), Counting()
    collect(TASK, wanted, settings, tmp_path / "one")

    class Once(Inline):
        def run(self, work: Iterable[Callable[[Tools], Any]]) -> Iterator[Any]:
            for number, one in enumerate(work):
                if number == self.crash_after:
                    raise Crash
                yield one(self.tools)

    tools = Tools(TASK, first)
    with pytest.raises(Crash):
        collect_on(Once(tools, crash_after=5), TASK, tools.identity, settings, tmp_path / "many")  # type: ignore[arg-type]
    assert 0 < first.draws < wanted.draws
    tools = Tools(TASK, second)
    collect_on(Once(tools), TASK, tools.identity, settings, tmp_path / "many")  # type: ignore[arg-type]
    assert first.draws + second.draws == wanted.draws
    assert shards(tmp_path / "many") == shards(tmp_path / "one")


def test_progress_and_bills_are_gathered(tmp_path: Path) -> None:
    settings = small(num_problems=20, block_size=2)
    one: list[Progress] = []
    many: list[Progress] = []
    collect(TASK, TableProposer(), settings, tmp_path / "one", watch=one.append)
    tools = Tools(TASK, TableProposer())
    workers: Any = Inline(tools)
    collect_on(workers, TASK, tools.identity, settings, tmp_path / "many", watch=many.append)
    assert many[-1] == one[-1]
    assert [state.done for state in many] == [*range(2, 21, 2), 20]
    said = [list(status_lines(tmp_path / name, Prices())) for name in ("one", "many")]
    assert [line.replace("many", "one") for line in said[1]] == said[0]
    total = sum(tree.usage.generated_tokens for tree in load_trees(tmp_path / "many"))
    assert total == many[-1].generated_tokens


def test_an_error_of_a_worker_comes_after_what_it_had_is_on_disk(tmp_path: Path) -> None:
    class Down(TableProposer):
        """A server that goes away between the trunks and the forks of a block."""

        def propose(self, requests: Any) -> Any:
            if requests[0].prefix and requests[0].problem.id != first:
                raise ValueError("the server is down")
            return super().propose(requests)

    settings = small(num_problems=8, block_size=1)
    first = next(TASK.problems("train", 0)).id
    with pytest.raises(ValueError, match="the server is down"):
        spread(tmp_path / "many", Down(), settings, num_out=1)
    collection = open_collection(tmp_path / "many")
    rows = collection.read_journal(0)
    assert {row.problem_id for row in rows} > {first}, "trunks of the block that failed are kept"
    collect(TASK, TableProposer(), settings, tmp_path / "one")
    spread(tmp_path / "many", TableProposer(), settings)
    assert shards(tmp_path / "many") == shards(tmp_path / "one")


@pytest.mark.parametrize("failing", ["every block", "one block"])
def test_what_other_workers_are_at_comes_home_after_an_error(tmp_path: Path, failing: str) -> None:
    settings = small(num_problems=12, block_size=1)
    problems = [problem.id for problem in islice(TASK.problems("train", 0), 12)]
    bad = problems if failing == "every block" else problems[1:2]

    class Down(TableProposer):
        def propose(self, requests: Any) -> Any:
            if requests[0].prefix and requests[0].problem.id in bad:
                raise ValueError("the server is down")
            return super().propose(requests)

    with pytest.raises(ValueError, match="the server is down"):
        spread(tmp_path / "many", Down(), settings, num_out=6, seed=3)
    rows = [row for shard in (0, 1) for row in open_collection(tmp_path / "many").read_journal(shard)]
    num_paid = len({row.problem_id for row in rows})
    assert 6 <= num_paid < 12, "all six blocks that were out; nothing was begun after the error"
    collect(TASK, TableProposer(), settings, tmp_path / "one")
    spread(tmp_path / "many", TableProposer(), settings)
    assert shards(tmp_path / "many") == shards(tmp_path / "one")


def test_a_fault_on_a_worker_is_told_with_its_traceback_and_loses_no_draw(tmp_path: Path) -> None:
    class Odd(ToyTask):
        def judge(self, problem: Any, solution: str) -> Any:
            raise KeyError("an odd answer")

    settings = small(num_problems=4, block_size=1)
    workers: Any = Inline(Tools(Odd(2, 3), TableProposer()))
    with pytest.raises(RuntimeError, match=r"(?s)a worker failed:.*in judge.*KeyError: 'an odd answer'"):
        collect_on(workers, TASK, workers.tools.identity, settings, tmp_path / "many")
    assert len({row.problem_id for row in open_collection(tmp_path / "many").read_journal(0)}) == 4


def test_draws_that_fail_are_in_the_trees(tmp_path: Path) -> None:
    settings = small(num_problems=8, block_size=2)
    failing = {rollout_seed(0, problem, 1) for problem in islice(TASK.problems("train", 0), 3)}
    collect(TASK, TableProposer(failing_seeds=failing), settings, tmp_path / "one")
    spread(tmp_path / "many", TableProposer(failing_seeds=failing), settings)
    assert shards(tmp_path / "many") == shards(tmp_path / "one")


# --- search -----------------------------------------------------------------------------------------------------------

SPECS = [SearchSpec(BEST), SearchSpec(BEAM), SearchSpec(MOST, 40), SearchSpec("rebase:n=4", None, 1)]
TOY = ToyTask(3, 3)


def spread_search(folder: Path, *, block_size: int = 2, keep_trees: bool = False, **options: Any) -> list[Any]:
    workers: Any = Inline(Tools(TOY, TableProposer(), LetterScorer()), **options)
    return complete_rows(
        folder,
        SPECS,
        PROBLEMS,
        lambda wanted: search_on(workers, wanted, block_size=block_size, keep_curves=True, keep_trees=keep_trees),
        header=ABOUT,
        keep_curves=True,
        keep_trees=TreeFile(folder, LetterScorer.scale) if keep_trees else None,
    )


@pytest.mark.parametrize("block_size", [1, 2, 4, 64])
def test_searches_in_any_order_give_the_rows_of_one_machine(tmp_path: Path, block_size: int) -> None:
    one = run_specs(
        tmp_path / "one",
        SPECS,
        PROBLEMS,
        TOY,
        TableProposer(),
        LetterScorer(),
        header=ABOUT,
        keep_curves=True,
        keep_trees=TreeFile(tmp_path / "one", LetterScorer.scale),
    )
    many = spread_search(tmp_path / "many", block_size=block_size, keep_trees=True)
    assert many == one, "bills and curves too"
    lines = [sorted((tmp_path / name / ROWS).read_bytes().splitlines()) for name in ("one", "many")]
    assert lines[0] == lines[1]
    trees = [{tree.key: tree for tree in read_searched_trees(tmp_path / name)} for name in ("one", "many")]
    assert trees[0] == trees[1]
    assert len(trees[0]) == len(SPECS) * len(PROBLEMS)


def test_searches_go_on_where_the_driver_died(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        spread_search(tmp_path / "many", crash_after=5)
    there = read_rows(tmp_path / "many")
    assert len(there) == 10
    again: Any = Inline(Tools(TOY, TableProposer(), LetterScorer()))
    rows = complete_rows(
        tmp_path / "many",
        SPECS,
        PROBLEMS,
        lambda wanted: search_on(again, wanted, block_size=1, keep_curves=True, keep_trees=False),
        header=ABOUT,
        keep_curves=True,
    )
    assert again.num_done == len(rows) - len(there)
    assert rows == spread_search(tmp_path / "whole")


# --- what users may say -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_workers": 0}, "there are to be 0 workers"),
        ({"gpus_per_worker": -1}, "gpus_per_worker is -1"),
        ({"cpus_per_worker": 0}, "a part of a CPU or of a GPU"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ClusterSettings(**settings)


TOYS = ("--task", "toy", "--proposer", "table")
COLLECT = ("collect", "--out", "out", *TOYS)
SEARCH = ("search", "--out", "out", "--strategy", "majority:n=2", *TOYS)
MISTAKES = [
    ((*COLLECT, "--engine", "slurm"), "--engine is 'slurm'; allowed are local, ray"),
    ((*COLLECT, "--workers", "2", "--address", "h:1"), "--address, --workers: for --engine ray only"),
    ((*SEARCH, "--block-size", "8"), "--block-size: for --engine ray only"),
    ((*SEARCH, "--engine", "ray", "--cpus-per-worker", "0"), "a part of a CPU or of a GPU"),
    (("collect", "--out", "out", "--engine", "ray", "--device", "cuda"), "give --gpus-per-worker 1"),
    (("collect", "--out", "out", "--engine", "ray", "--gpus-per-worker", "1"), "give --device cuda"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=lambda value: " ".join(value)[-40:])
def test_options_that_do_not_go_together_are_refused(
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in fail(monkeypatch, capsys, *arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [COLLECT, SEARCH], ids=["collect", "search"])
def test_without_ray_the_command_says_how_to_install_it(
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert 'pip install "arts-llm[ray]"' in fail(monkeypatch, capsys, *arguments, "--engine", "ray")
