"""Sparse Deep Fork: the trees do not depend on batches, order or crashes, and pivots follow their stated law."""

import hashlib
import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import LetterTask

from arts.collect import Progress, collect, run_header
from arts.lm.load import load_causal_lm
from arts.proposers.hf import HFProposer
from arts.proposers.table import TableProposer
from arts.protocols import Proposer, Reply, Request, Split, Task
from arts.sparse_deep_fork import CollectSettings, choose_pivots, fork_cost, rollout_seed
from arts.store import Collection, load_trees
from arts.tasks.toy import ToyTask, ToyTree, toy_problem
from arts.tree import Node, Problem, ReasoningTree, StopReason, Usage

STOP, EOS, LENGTH, ERROR = StopReason.STOP, StopReason.EOS, StopReason.LENGTH, StopReason.ERROR
# Leaves after one to five steps, so that trunks have no, few and many inner nodes.
UNEVEN = ToyTree.nested(
    {
        "a": (0.2, True),
        "b": (0.8, {"a": (0.2, False), "b": (0.8, {"a": (0.3, True), "b": (0.7, {"a": (0.3, False), "c": (
            0.7, {"a": (0.5, True), "b": (0.5, False)})})})}),
    }
)  # fmt: skip


class UnevenTask(ToyTask):
    """The same uneven tree under many problem ids."""

    def problems(self, split: Split, seed: int) -> Iterator[Problem]:
        for index in range(60):
            yield replace(toy_problem(UNEVEN), id=f"{split} {index}")


class Crash(Exception):
    """What `kill -9` is to the program, for tests: nothing may catch it."""


class Watched:
    """A proposer that writes down what it is asked and answers, and crashes before call number `crash_before`."""

    def __init__(self, proposer: Proposer, *, crash_before: int | None = None) -> None:
        self.proposer, self.crash_before = proposer, crash_before
        self.log_prior_law = proposer.log_prior_law
        self.tokenizer_fingerprint = proposer.tokenizer_fingerprint
        self.fingerprint = proposer.fingerprint
        self.batch_invariant = proposer.batch_invariant
        self.calls: list[list[tuple[Request, Reply]]] = []

    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        if self.crash_before == len(self.calls):
            raise Crash
        replies = self.proposer.propose(requests)
        self.calls.append(list(zip(requests, replies, strict=True)))
        return replies

    @property
    def answered(self) -> list[tuple[Request, Reply]]:
        return [pair for call in self.calls for pair in call]


class BatchDependent(Watched):
    """Every draw depends on the whole batch it runs in: float32 rounding, made as bad as it can be."""

    def __init__(self, *, batch_invariant: bool = False, crash_before: int | None = None) -> None:
        super().__init__(TableProposer(), crash_before=crash_before)
        self.batch_invariant = batch_invariant

    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        batch = repr([(request.problem.id, request.prefix, request.seeds) for request in requests])

        def mixed(seed: int) -> int:
            return int.from_bytes(hashlib.sha256(f"{batch} {seed}".encode()).digest()[:8], "big")

        shifted = [replace(request, seeds=tuple(map(mixed, request.seeds))) for request in requests]
        return super().propose(shifted)


def shards(folder: Path) -> dict[str, str]:
    """Hash of every shard and journal: equal ones are equal byte for byte."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("trees-*")}


def run(
    folder: Path, proposer: Proposer | None = None, *, task: Task | None = None, **settings: Any
) -> list[ReasoningTree]:
    collect(task or ToyTask(2, 3), proposer or TableProposer(), small(**settings), folder)
    return load_trees(folder)


def small(**settings: Any) -> CollectSettings:
    return CollectSettings(**{"num_problems": 10, "num_samples": 4, "block_size": 2} | settings)


def crash_before_the_rename(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """All replies of the first shard reach its journal, and no shard appears."""

    def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Collection, "finish_shard", crash)
        with pytest.raises(Crash):
            work()


# --- batches, order, crashes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pivots", ["auto", "none"])
def test_trees_of_the_table_do_not_depend_on_the_block_size(tmp_path: Path, pivots: str) -> None:
    wanted = run(tmp_path / "whole", block_size=64, pivots=pivots)
    assert len({tree.nodes for tree in wanted}) == 10, "the problems differ"
    for block_size in (1, 3, 10):
        assert run(tmp_path / str(block_size), block_size=block_size, pivots=pivots) == wanted
    assert len(shards(tmp_path / "1")) == 2
    assert len(shards(tmp_path / "3")) == 1


def test_a_run_crashed_before_any_of_its_calls_ends_with_the_same_bytes(tmp_path: Path) -> None:
    settings = {"block_size": 1}
    whole = Watched(TableProposer())
    run(tmp_path / "whole", whole, **settings)
    wanted, num_calls = shards(tmp_path / "whole"), len(whole.calls)
    assert num_calls == 20, "trunks and forks of ten problems"
    assert len(wanted) == 2
    for crash_before in range(num_calls):
        folder, broken, resumed = tmp_path / f"{crash_before}", Watched(TableProposer()), Watched(TableProposer())
        broken.crash_before = crash_before
        with pytest.raises(Crash):
            run(folder, broken, **settings)
        run(folder, resumed, **settings)
        assert shards(folder) == wanted
        assert broken.answered + resumed.answered == whole.answered, "nothing is asked twice"


def test_a_run_that_crashes_again_and_again_ends_with_the_same_bytes(tmp_path: Path) -> None:
    for name, proposer in [("invariant", Watched(TableProposer())), ("dependent", BatchDependent())]:
        run(tmp_path / f"{name} whole", proposer)
        again = tmp_path / f"{name} again"
        for attempt in range(10):  # 5 blocks of trunks and forks: each attempt gets one call further
            proposer.calls, proposer.crash_before = [], 1
            with pytest.raises(Crash) if attempt < 9 else nullcontext():
                run(again, proposer)
        assert shards(again) == shards(tmp_path / f"{name} whole")


@pytest.mark.parametrize("kind", ["invariant", "dependent"])
def test_a_journal_torn_at_any_byte_is_made_whole_with_the_same_bytes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between replies, inside one, inside a block: the shard comes out the same, and only what is missing is drawn."""

    def proposer() -> Watched:
        return Watched(TableProposer()) if kind == "invariant" else BatchDependent()

    settings: dict[str, Any] = {"num_problems": 5, "num_samples": 3, "block_size": 3}
    whole, folder = proposer(), tmp_path / "torn"
    run(tmp_path / "whole", whole, **settings)
    wanted = shards(tmp_path / "whole")
    crash_before_the_rename(monkeypatch, lambda: run(folder, proposer(), **settings))
    journal = folder / "trees-00000.journal"
    content = journal.read_bytes()
    line_ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    assert len(line_ends) == len(whole.answered)
    around = {end + shift for end in line_ends for shift in (-1, 0, 1)}
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    for size in sorted({*range(0, len(content), 61), *around} - {len(content) + 1}):
        (folder / "trees-00000.jsonl").unlink(missing_ok=True)
        journal.write_bytes(content[:size])
        resumed = proposer()
        run(folder, resumed, **settings)
        assert shards(folder) == wanted, f"torn at byte {size}"
        num_kept = sum(end <= size for end in line_ends)
        if kind == "invariant":
            assert resumed.answered == whole.answered[num_kept:]
        else:  # blocks are drawn again as a whole
            assert resumed.calls == whole.calls[len(whole.calls) - len(resumed.calls) :]
            assert len(whole.answered) - len(resumed.answered) <= num_kept


def test_a_block_that_is_not_replayed_would_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: the same draws, wrongly said to be independent of the batch, come out different."""
    settings: dict[str, Any] = {"num_problems": 5, "num_samples": 3, "block_size": 3}
    run(tmp_path / "whole", BatchDependent(batch_invariant=True), **settings)
    folder = tmp_path / "torn"
    crash_before_the_rename(monkeypatch, lambda: run(folder, BatchDependent(batch_invariant=True), **settings))
    journal = folder / "trees-00000.journal"
    journal.write_bytes(journal.read_bytes().split(b"\n")[0] + b"\n")
    run(folder, BatchDependent(batch_invariant=True), **settings)
    assert shards(folder) != shards(tmp_path / "whole")


def test_order_of_arrival_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "whole")
    crash_before_the_rename(monkeypatch, lambda: run(tmp_path / "reversed"))
    journal = tmp_path / "reversed" / "trees-00000.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert json.loads(lines[-1])["rollouts"][0][2] > 0, "now a fork stands before its trunk"
    journal.write_bytes(b"".join(reversed(lines)))
    run(tmp_path / "reversed", Watched(TableProposer(), crash_before=0))  # nothing is left to ask
    assert shards(tmp_path / "reversed") == shards(tmp_path / "whole")


def test_a_finished_collection_is_not_drawn_again_and_a_left_over_journal_goes(tmp_path: Path) -> None:
    run(tmp_path)
    wanted = shards(tmp_path)
    (tmp_path / "trees-00000.journal").write_bytes(b"left by a crash right after the rename")
    run(tmp_path, Watched(TableProposer(), crash_before=0))
    assert shards(tmp_path) == wanted


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    class Nosy(Watched):
        def propose(self, requests: Sequence[Request]) -> list[Reply]:
            with pytest.raises(ValueError, match="another process is writing"):
                run(tmp_path)
            return super().propose(requests)

    nosy = Nosy(TableProposer())
    run(tmp_path, nosy)
    assert nosy.calls


def test_other_settings_are_refused_by_name_and_nothing_is_touched(tmp_path: Path) -> None:
    run(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for changed, message in [
        ({"seed": 1}, "settings.seed: 0 there, 1 asked for"),
        ({"num_samples": 5, "merge": False}, "settings.merge: True there, False .*settings.num_samples: 4 there, 5"),
        ({"proposer": TableProposer(temperature=0.5)}, "log_prior_law: 'raw' there, 'sampling' asked for; proposer: "),
        ({"task": ToyTask(2, 2)}, "task: 'toy:2x3' there, 'toy:2x2' asked for"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(tmp_path, **changed)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- models -----------------------------------------------------------------------------------------------------------


def model_task(name: str) -> LetterTask:
    return LetterTask(step_separator=";" if name == "qwen2" else "\n\n", max_new_tokens=14)


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_trees_of_a_float64_model_do_not_depend_on_blocks_rows_or_crashes(
    name: str, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    task, language_model = model_task(name), load_causal_lm(tiny_folder(name), dtype=torch.float64)

    def watched(max_rows: int = 1024) -> Watched:
        return Watched(HFProposer(language_model, step_separator=task.step_separator, max_rows=max_rows))

    assert watched().batch_invariant
    whole = watched()
    wanted = run(tmp_path / "whole", whole, task=task, num_problems=4, block_size=2)
    check_that_much_happened(wanted)
    for block_size, max_rows in [(4, 1024), (1, 7), (4, 3)]:
        folder = tmp_path / f"{block_size} {max_rows}"
        assert run(folder, watched(max_rows), task=task, num_problems=4, block_size=block_size) == wanted
    for crash_before in range(len(whole.calls)):
        proposer, folder = watched(), tmp_path / f"crashed {crash_before}"
        proposer.crash_before = crash_before
        with pytest.raises(Crash):
            run(folder, proposer, task=task, num_problems=4, block_size=2)
        proposer.crash_before = None
        run(folder, proposer, task=task, num_problems=4, block_size=2)
        assert shards(folder) == shards(tmp_path / "whole")


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_a_float32_model_killed_anywhere_ends_with_the_same_bytes(
    name: str, tmp_path: Path, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, settings = model_task(name), {"num_problems": 6, "num_samples": 4, "block_size": 3}
    language_model = load_causal_lm(tiny_folder(name), dtype=torch.float32)
    proposer = Watched(HFProposer(language_model, step_separator=task.step_separator))
    assert not proposer.batch_invariant
    check_that_much_happened(run(tmp_path / "whole", proposer, task=task, **settings))
    wanted, whole_calls = shards(tmp_path / "whole"), proposer.calls
    folder = tmp_path / "torn"
    crash_before_the_rename(monkeypatch, lambda: run(folder, proposer, task=task, **settings))
    journal = folder / "trees-00000.journal"
    content = journal.read_bytes()
    first, last = content.index(b"\n") + 1, content[:-1].rindex(b"\n") + 1
    sizes = {0, 1, first - 1, first, last, last + 1, len(content) - 1, len(content)}
    for size in sorted(sizes | set(random.Random(0).sample(range(len(content)), 3))):
        (folder / "trees-00000.jsonl").unlink(missing_ok=True)
        journal.write_bytes(content[:size])
        proposer.calls = []
        run(folder, proposer, task=task, **settings)
        assert shards(folder) == wanted, f"torn at byte {size}"
        assert proposer.calls == whole_calls[len(whole_calls) - len(proposer.calls) :], "whole blocks are replayed"


def check_that_much_happened(trees: list[ReasoningTree]) -> None:
    """The comparisons of models are about something: answers and cuts, long and short steps, forks."""
    nodes = [node for tree in trees for node in tree.nodes[1:]]
    assert {STOP, EOS, LENGTH} <= {node.stop for node in nodes}
    assert len({len(node.token_ids) for node in nodes}) > 4
    assert sum(len(tree.leaves()) for tree in trees) > sum(len(set(tree.trunks)) for tree in trees)
    assert len({node.log_prior for node in nodes}) > 20


# --- pivots -----------------------------------------------------------------------------------------------------------


def pivots_of(problem: int, trunk: int, stops: Sequence[StopReason], **settings: Any) -> list[int]:
    return choose_pivots(small(**settings), Problem(f"p{problem}", ""), trunk, stops)


@pytest.mark.parametrize("probability", [0.5, 0.2, 0.9])
def test_node_mode_takes_each_inner_node_with_the_given_chance(probability: float) -> None:
    stops, num_trunks = [STOP] * 5 + [EOS], 2000
    taken: Counter[int] = Counter()
    pairs = 0
    for trunk in range(num_trunks):
        chosen = pivots_of(trunk // 20, trunk % 20, stops, pivots="node", fork_probability=probability, num_samples=20)
        taken.update(chosen)
        pairs += {1, 2} <= set(chosen)
    assert set(taken) == {1, 2, 3, 4, 5}
    for depth in range(1, 6):
        assert abs(taken[depth] - num_trunks * probability) < 3.3 * math.sqrt(
            num_trunks * probability * (1 - probability)
        )
    both = probability**2  # neighbours are chosen independently
    assert abs(pairs - num_trunks * both) < 3.3 * math.sqrt(num_trunks * both * (1 - both))


def test_node_mode_at_its_ends() -> None:
    for stops, inner in [([STOP, STOP, STOP, EOS], [1, 2, 3]), ([STOP, LENGTH], [1]), ([EOS], [])]:
        assert pivots_of(0, 0, stops, pivots="node", fork_probability=1.0) == inner
        assert pivots_of(0, 0, stops, pivots="node", fork_probability=0.0) == []


def test_trajectory_mode_takes_one_inner_node_uniformly() -> None:
    num_trunks, num_inner = 2000, 4
    taken: Counter[int] = Counter()
    for trunk in range(num_trunks):
        (pivot,) = pivots_of(trunk, 0, [STOP] * num_inner + [EOS], pivots="trajectory")
        taken[pivot] += 1
    expected = num_trunks / num_inner
    assert set(taken) == {1, 2, 3, 4}
    assert sum((count - expected) ** 2 / expected for count in taken.values()) < 16.27  # 99.9%, 3 degrees of freedom


@pytest.mark.parametrize("stops", [[EOS], [LENGTH], [ERROR], [STOP]])
def test_a_trunk_of_one_step_has_no_pivot(stops: list[StopReason]) -> None:
    for mode in ("auto", "node", "trajectory", "none"):
        assert pivots_of(0, 0, stops, pivots=mode, fork_probability=1.0) == []


def test_auto_is_node_up_to_three_steps_and_trajectory_beyond() -> None:
    differ = 0
    for num_steps in range(1, 8):
        stops = [STOP] * (num_steps - 1) + [EOS]
        for trunk in range(50):
            node, trajectory, auto, none = (
                pivots_of(trunk, 3, stops, pivots=mode) for mode in ("node", "trajectory", "auto", "none")
            )
            assert auto == (node if num_steps <= 3 else trajectory)
            assert none == []
            differ += node != trajectory
    assert differ > 100


def test_pivots_depend_on_seed_problem_and_trunk() -> None:
    stops = [STOP] * 9 + [EOS]
    patterns = {
        tuple(pivots_of(problem, trunk, stops, pivots="node", seed=seed))
        for problem in range(3)
        for trunk in range(3)
        for seed in range(3)
    }
    assert len(patterns) == 27  # of 512 possible ones


def fork_requests(proposer: Watched) -> dict[str, list[tuple[Request, Reply]]]:
    forks = defaultdict(list)
    for request, reply in proposer.answered:
        if request.prefix:
            forks[request.problem.id].append((request, reply))
    return forks


def trunk_draws(proposer: Watched) -> dict[str, tuple[Any, ...]]:
    return {request.problem.id: reply.draws for request, reply in proposer.answered if not request.prefix}


@pytest.mark.parametrize("mode", ["node", "trajectory", "auto"])
@pytest.mark.parametrize("merge", [True, False])
def test_each_fork_goes_on_from_its_own_trunk(mode: str, merge: bool, tmp_path: Path) -> None:
    proposer, task = Watched(TableProposer()), UnevenTask()
    trees = run(
        tmp_path, proposer, task=task, num_problems=20, num_samples=6, pivots=mode, merge=merge, max_new_tokens=9
    )
    forks, trunks = fork_requests(proposer), trunk_draws(proposer)
    lengths, num_forks = set(), 0
    for tree in trees:
        draws = trunks[tree.problem.id]
        wanted = []
        for trunk, steps in enumerate(draws):
            settings = small(num_samples=6, pivots=mode)
            chosen = choose_pivots(settings, tree.problem, trunk, [step.stop for step in steps])
            wanted += [steps[:pivot] for pivot in chosen]
            lengths.add(len(steps))
            if mode == "trajectory":
                assert len(chosen) == (1 if len(steps) > 1 else 0)
        asked = forks.get(tree.problem.id, [])
        assert [request.prefix for request, _ in asked] == wanted
        assert all(len(request.seeds) == 1 and request.whole for request, _ in asked)
        assert all(request.max_new_tokens == 9 - 2 * len(request.prefix) for request, _ in asked)
        paths = [texts_of(draw) for draw in draws]
        paths += [texts_of(request.prefix + reply.draws[0]) for request, reply in asked]
        assert sorted(paths) == sorted(paths_of(tree))
        assert [tree.text(leaf) for leaf in tree.trunks] == ["".join(texts_of(draw)) for draw in draws]
        num_forks += len(asked)
    assert lengths == {1, 2, 3, 4, 5}
    assert num_forks > 30


def texts_of(steps: Sequence[Any]) -> tuple[str, ...]:
    return tuple(step.text for step in steps)


def paths_of(tree: ReasoningTree) -> list[tuple[str, ...]]:
    """Every draw of the tree from the problem to its end, as often as it was drawn."""
    return [texts_of(tree.path(leaf.id)) for leaf in tree.leaves() for _ in range(leaf.num_draws)]


def test_without_pivots_the_tree_is_a_pool_of_independent_draws(tmp_path: Path) -> None:
    proposer = Watched(TableProposer())
    trees = run(tmp_path, proposer, pivots="none", num_samples=7, forks_inside=True)
    assert all(request.prefix == () and len(request.seeds) == 7 for request, _ in proposer.answered)
    assert len(proposer.answered) == 10
    for tree in trees:
        assert len(tree.trunks) == 7
        assert {leaf.id for leaf in tree.leaves()} == set(tree.trunks)
        assert fork_cost([tree]).fork_tokens == 0
        assert fork_cost([tree]).ratio == 1.0


@pytest.mark.parametrize("mode", ["node", "trajectory"])
def test_forks_inside_stay_within_the_number_of_samples(mode: str, tmp_path: Path) -> None:
    at_limit = 0
    for num_samples in [*range(1, 8), 16]:
        proposer = Watched(TableProposer())
        settings = {"num_samples": num_samples, "forks_inside": True, "pivots": mode, "fork_probability": 1.0}
        trees = run(tmp_path / f"{num_samples}", proposer, task=ToyTask(2, 4), num_problems=4, **settings)
        for tree in trees:
            num_rollouts = sum(
                len(reply.draws) for request, reply in proposer.answered if request.problem == tree.problem
            )
            num_trunks = len(tree.trunks)
            assert num_trunks == max(1, round(num_samples / 1.5))
            assert num_trunks <= num_rollouts <= num_samples
            assert sum(leaf.num_draws for leaf in tree.leaves()) == num_rollouts
            at_limit += num_rollouts == num_samples
    assert at_limit == 8 * 4, "every trunk here has pivots enough"


@pytest.mark.parametrize("width", [1, 2, 5])
def test_every_pivot_has_as_many_forks_as_asked_for(width: int, tmp_path: Path) -> None:
    proposer = Watched(TableProposer())
    options = {"pivots": "node", "fork_probability": 1.0, "forks_per_pivot": width}
    trees = run(tmp_path, proposer, task=ToyTask(2, 3), num_problems=6, num_samples=3, **options)
    asked = fork_requests(proposer)
    for tree in trees:
        forks = asked[tree.problem.id]
        assert [len(request.seeds) for request, _ in forks] == [width] * (3 * 2)  # trunks times inner steps
        seeds = [seed for request, _ in forks for seed in request.seeds]
        assert len(set(seeds)) == len(seeds) == 6 * width
        assert sum(leaf.num_draws for leaf in tree.leaves()) == 3 + 6 * width
        below = {
            node.id: sum(child.num_draws for child in tree.nodes if child.parent == node.id) for node in tree.nodes
        }
        assert below[0] == 3, "forks are no draws of what lies above their pivot"
        first_level = [node for node in tree.nodes if node.parent == 0]
        assert all(below[node.id] == node.num_draws * (1 + width) for node in first_level)


def test_main_trajectories_do_not_depend_on_how_many_forks_follow(tmp_path: Path) -> None:
    one, many = (run(tmp_path / str(width), TableProposer(), forks_per_pivot=width) for width in (1, 4))
    for tree, wider in zip(one, many, strict=True):
        assert [tree.text(leaf) for leaf in tree.trunks] == [wider.text(leaf) for leaf in wider.trunks]


def test_collections_from_before_there_were_several_forks_go_on(tmp_path: Path) -> None:
    header = run_header(ToyTask(2, 3), TableProposer(), small())
    assert "forks_per_pivot" not in header["settings"]
    assert run_header(ToyTask(2, 3), TableProposer(), small(forks_per_pivot=2))["settings"]["forks_per_pivot"] == 2


def test_several_forks_inside_stay_within_the_number_of_samples(tmp_path: Path) -> None:
    options = {"pivots": "node", "fork_probability": 1.0, "forks_inside": True, "forks_per_pivot": 3}
    for tree in run(tmp_path, TableProposer(), task=ToyTask(2, 4), num_problems=4, num_samples=12, **options):
        assert len(tree.trunks) == 8
        assert sum(leaf.num_draws for leaf in tree.leaves()) == 12


def test_fork_cost_agrees_with_a_slow_count_and_the_papers_budget(tmp_path: Path) -> None:
    for name, task, mode in [
        ("uneven", UnevenTask(), "auto"),
        ("node", ToyTask(2, 5), "node"),
        ("one", ToyTask(2, 5), "trajectory"),
        ("three", ToyTask(2, 3), "auto"),
    ]:
        for merge in (True, False):
            proposer = Watched(TableProposer())
            trees = run(
                tmp_path / f"{name} {merge}",
                proposer,
                task=task,
                num_problems=25,
                num_samples=8,
                merge=merge,
                pivots=mode,
            )
            trunk_tokens = fork_tokens = 0
            for request, reply in proposer.answered:
                drawn = sum(len(step.token_ids) for draw in reply.draws for step in draw)
                trunk_tokens, fork_tokens = (
                    (trunk_tokens, fork_tokens + drawn) if request.prefix else (trunk_tokens + drawn, fork_tokens)
                )
            cost = fork_cost(trees)
            assert (cost.trunk_tokens, cost.fork_tokens) == (trunk_tokens, fork_tokens)
            assert cost.ratio == (trunk_tokens + fork_tokens) / trunk_tokens
            # For S equal steps a fork at inner node d draws S - d: N (1 + (S-1)/4) under `node`, 1.5 N otherwise.
            expected = {"node": 2.0, "one": 1.5, "three": 1.5}.get(name)
            if expected:
                assert cost.ratio == pytest.approx(expected, abs=0.06)
    assert fork_cost([]).ratio == 0.0


def test_merged_and_unmerged_trees_hold_the_same_draws(tmp_path: Path) -> None:
    merged = run(tmp_path / "merged", task=UnevenTask(), merge=True, num_samples=8)
    unmerged = run(tmp_path / "unmerged", task=UnevenTask(), merge=False, num_samples=8)
    for one, other in zip(merged, unmerged, strict=True):
        assert draws_below_each_prefix(one) == draws_below_each_prefix(other)
        assert [one.text(leaf) for leaf in one.trunks] == [other.text(leaf) for leaf in other.trunks]
        assert one.usage == other.usage
        assert len({node_key(one, node) for node in one.nodes}) == len(one.nodes) < len(other.nodes)
        assert {node.num_draws for node in other.nodes} == {1}


def node_key(tree: ReasoningTree, node: Node) -> tuple[str, StopReason | None]:
    return tree.text(node.id), node.stop


def draws_below_each_prefix(tree: ReasoningTree) -> dict[tuple[str, StopReason | None], int]:
    counts: dict[tuple[str, StopReason | None], int] = defaultdict(int)
    for node in tree.nodes[1:]:
        counts[node_key(tree, node)] += node.num_draws
    return dict(counts)


# --- bills, failures, limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crash_before", [None, 3, 4])
@pytest.mark.parametrize("kind", ["invariant", "dependent"])
def test_usage_is_the_sum_over_the_replies_that_the_tree_is_made_of(
    kind: str, crash_before: int | None, tmp_path: Path
) -> None:
    whole = Watched(TableProposer()) if kind == "invariant" else BatchDependent()
    run(tmp_path / "whole", whole)
    resumed = Watched(TableProposer()) if kind == "invariant" else BatchDependent()
    resumed.crash_before = crash_before
    if crash_before is not None:
        with pytest.raises(Crash):
            run(tmp_path / "resumed", resumed)
        resumed.crash_before = None
    trees = run(tmp_path / "resumed", resumed)
    total = Usage()
    for tree in trees:
        expected = Usage()
        for request, reply in whole.answered:
            if request.problem == tree.problem:
                expected = expected.plus(reply.usage)
        assert tree.usage == expected
        assert tree.usage.generated_tokens == sum(len(node.token_ids) * node.num_draws for node in tree.nodes[1:])
        total = total.plus(tree.usage)
    assert total.requests == len(whole.answered) > 20


def test_progress_counts_problems_and_the_tokens_of_this_run(tmp_path: Path) -> None:
    told: list[Progress] = []
    task = ToyTask(2, 3)
    collection = collect(task, TableProposer(), small(num_problems=5), tmp_path, watch=told.append)
    assert [(state.done, state.total) for state in told] == [(2, 5), (4, 5), (5, 5)]
    generated = [state.generated_tokens for state in told]
    assert generated == sorted(generated)
    assert generated[-1] == sum(tree.usage.generated_tokens for tree in collection.trees())


def test_failed_draws_are_recorded_and_the_others_do_not_change(tmp_path: Path) -> None:
    task = ToyTask(2, 3)
    sound = run(tmp_path / "sound", task=task)
    problem = sound[0].problem
    forks_of_sound = len(paths_of(sound[0])) - 4
    assert forks_of_sound >= 2
    failing = [rollout_seed(0, problem, 1), rollout_seed(0, problem, 4)]  # a trunk and the first fork
    trees = run(tmp_path / "faulty", TableProposer(failing_seeds=failing), task=task)
    assert trees[1:] == sound[1:]
    tree = trees[0]
    failed = [node for node in tree.nodes if node.stop is ERROR]
    assert sorted(len(tree.path(node.id)) for node in failed)[0] == 1
    assert len(failed) == 2
    for node in failed:
        assert (node.text, node.token_ids, node.log_prior, node.verdict) == ("", (), None, None)
        assert not node.is_answer
    assert tree.nodes[tree.trunks[1]].stop is ERROR
    for trunk in (0, 2, 3):
        assert tree.text(tree.trunks[trunk]) == sound[0].text(sound[0].trunks[trunk])
    assert run(tmp_path / "faulty", Watched(TableProposer(), crash_before=0), task=task) == trees, (
        "recorded, not retried"
    )


def test_a_token_limit_holds_for_trunk_and_fork_together_and_leaves_no_answer(tmp_path: Path) -> None:
    proposer = Watched(TableProposer())
    trees = run(tmp_path, proposer, max_new_tokens=5, num_samples=8, fork_probability=1.0)
    assert any(request.prefix for request, _ in proposer.answered)
    for tree in trees:
        for leaf in tree.leaves():
            assert sum(len(node.token_ids) for node in tree.path(leaf.id)) == 5  # one short of the end of sequence
            assert (leaf.stop, leaf.verdict, leaf.is_answer) == (LENGTH, None, False)


def test_finished_paths_are_judged_by_the_task_on_their_whole_text(tmp_path: Path) -> None:
    task = ToyTask(2, 3)
    seen = set()
    for tree in run(tmp_path, task=task, num_samples=8):
        for node in tree.nodes[1:]:
            expected = task.judge(tree.problem, tree.text(node.id)) if node.stop is EOS else None
            assert node.verdict == expected
            seen.add(node.verdict.correct if node.verdict else None)
    assert seen == {True, False, None}


# --- seeds and settings -----------------------------------------------------------------------------------------------


def test_a_later_start_gives_the_tail_of_a_longer_run(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", num_problems=12)
    assert run(tmp_path / "tail", num_problems=7, first_problem=5, block_size=3) == whole[5:]
    assert run(tmp_path / "head", num_problems=5) == whole[:5]
    assert run(tmp_path / "other seed", num_problems=5, seed=1) != whole[:5]
    assert run(tmp_path / "other split", num_problems=5, split="test") != whole[:5]


def test_more_samples_keep_the_first_trunks(tmp_path: Path) -> None:
    few, many = run(tmp_path / "few", num_samples=3), run(tmp_path / "many", num_samples=9)
    for one, other in zip(few, many, strict=True):
        assert [one.text(leaf) for leaf in one.trunks] == [other.text(leaf) for leaf in other.trunks[:3]]


def test_rollout_seeds_are_fixed_numbers_and_never_shared() -> None:
    assert rollout_seed(0, Problem("p", "ignored"), 0) == int.from_bytes(
        hashlib.sha256(b"0\0p\x000").digest()[:8], "big"
    )
    problems = [Problem(name, "") for name in ("p", "p0", "0p", "1", "")]
    seeds = {rollout_seed(seed, problem, index) for seed in range(12) for problem in problems for index in range(40)}
    assert len(seeds) == 12 * 5 * 40
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_the_header_names_everything_that_decides_the_trees(tmp_path: Path) -> None:
    proposer = TableProposer(temperature=0.5)
    collection = collect(ToyTask(2, 3), proposer, small(), tmp_path, about={"date": "today"})
    assert collection.header == {
        "format": 1,
        "task": "toy:2x3",
        "proposer": proposer.fingerprint,
        "tokenizer": proposer.tokenizer_fingerprint,
        "log_prior_law": "sampling",
        "settings": {name: value for name, value in asdict(small()).items() if name != "forks_per_pivot"},
        "about": {"date": "today"},
    }
    assert {tree.log_prior_law for tree in collection.trees()} == {"sampling"}


def test_a_task_with_too_few_problems_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="task letters has 3 problems in split train from place 2 on, and 4 were asked for"
    ):
        collect(LetterTask(num_problems=5), TableProposer(), small(num_problems=4, first_problem=2), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_problems": 0}, "num_problems is 0; it must be at least 1"),
        ({"num_samples": -1}, "num_samples is -1; it must be at least 1"),
        ({"forks_per_pivot": 0}, "forks_per_pivot is 0; it must be at least 1"),
        ({"block_size": 0}, "block_size is 0; it must be at least 1"),
        ({"first_problem": -1}, "first_problem is -1; it must be at least 0"),
        ({"fork_probability": 1.5}, r"fork_probability is 1.5; it must lie in 0\.\.1"),
        ({"fork_probability": math.nan}, "fork_probability is nan"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"pivots": "all"}, "pivots is 'all'; allowed are auto, node, trajectory, none"),
        ({"split": "dev"}, "split is 'dev'; allowed are train, validation, test"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**wrong)
