"""Collections on disk: trees survive the trip, what a crash tore is redone, and what is damaged is named."""

import fcntl
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arts import store
from arts.files import dump, write_atomically
from arts.store import (
    FORMAT,
    Collection,
    JournalRow,
    create_collection,
    load_trees,
    open_collection,
    read_trees,
    tree_from_json,
    tree_to_json,
)
from arts.tree import Node, Problem, ReasoningTree, Rollout, Step, StopReason, Usage, Verdict, build_tree

HEADER = {"task": "toy:2x2", "proposer": "p1", "settings": {"seed": 0, "num_samples": 4, "split": "train"}}
# What breaks naive writers: line ends of all kinds, quotes, other planes, characters that other readers split lines at.
NASTY = 'é→数😀 "\\ \r\n \u2028\u2029\x85\x0b\x0c\x00\x1f\ufeff\ufffd'

texts = st.text(max_size=8) | st.just(NASTY)
numbers = st.floats(allow_nan=False)
token_ids = st.lists(st.integers(0, 2**31), max_size=4).map(tuple)
counts = st.integers(0, 2**40)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def trees(draw: st.DrawFn) -> ReasoningTree:
    num_nodes = draw(st.integers(1, 7))
    nodes = [Node(id=0, parent=-1, log_flow=draw(st.none() | numbers))]
    for index in range(1, num_nodes):
        stop = draw(st.sampled_from(StopReason))
        verdicts = st.builds(Verdict, st.booleans(), st.none() | texts, texts)
        nodes.append(
            Node(
                id=index,
                parent=draw(st.integers(0, index - 1)),
                text=draw(texts),
                token_ids=draw(token_ids),
                log_prior=draw(st.none() | numbers),
                stop=stop,
                num_draws=draw(st.integers(1, 99)),
                verdict=draw(st.none() | verdicts) if stop is StopReason.EOS else None,
                log_flow=draw(st.none() | numbers),
            )
        )
    leaf_ids = st.lists(st.integers(1, num_nodes - 1), max_size=4) if num_nodes > 1 else st.just([])
    return ReasoningTree(
        problem=Problem(draw(texts), draw(texts), draw(st.dictionaries(texts, json_values, max_size=3))),
        nodes=tuple(nodes),
        trunks=tuple(draw(leaf_ids)),
        log_prior_law=draw(st.sampled_from(["raw", "sampling"])),
        tokenizer=draw(st.none() | texts),
        usage=Usage(draw(counts), draw(counts), draw(counts)),
    )


steps = st.builds(Step, texts, token_ids, st.none() | numbers, st.sampled_from(StopReason))
rollouts = st.builds(Rollout, counts, counts, counts, st.lists(steps, max_size=3).map(tuple))
journal_rows = st.builds(
    JournalRow, texts, st.lists(rollouts, max_size=3).map(tuple), st.builds(Usage, counts, counts, counts)
)


def small_tree(name: str = "p") -> ReasoningTree:
    draws = [Rollout(i, i, 0, (Step(text, (i,), -0.5, StopReason.EOS),)) for i, text in enumerate(["a", NASTY])]
    return build_tree(Problem(name, f"say {name}"), draws, judge=lambda text: Verdict(text == "a", text))


def row(name: str, index: int = 0) -> JournalRow:
    step = Step(f"{NASTY}{index};", (index, 7), -0.25, StopReason.STOP)
    return JournalRow(name, (Rollout(index, index, 0, (step,)),), Usage(3, 4, 1))


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return create_collection(tmp_path / "trees", HEADER, about={"date": "today"})


def journal_of(collection: Collection, shard: int = 0) -> Path:
    return collection.folder / f"trees-{shard:05d}.journal"


# --- trees as JSON ----------------------------------------------------------------------------------------------------


@given(trees())
@settings(max_examples=40, deadline=None)
def test_trees_survive_json_exactly(tree: ReasoningTree) -> None:
    again = tree_from_json(json.loads(dump(tree_to_json(tree))))
    assert again == tree
    assert again.nodes[1:] == tree.nodes[1:]
    assert all(isinstance(node.stop, StopReason) for node in again.nodes[1:])
    assert all(isinstance(node.verdict, Verdict) for node in again.nodes if node.verdict is not None)


@given(st.lists(trees(), max_size=4))
@settings(max_examples=20, deadline=None)
def test_shards_hold_one_tree_a_line_and_give_them_back(many: list[ReasoningTree]) -> None:
    with TemporaryDirectory() as folder:
        collection = create_collection(Path(folder), HEADER)
        collection.finish_shard(0, many)
        assert list(open_collection(Path(folder)).trees()) == many
        content = collection.shard_path(0).read_bytes()
    assert content.count(b"\n") == len(many)
    assert [json.loads(line)["problem"]["id"] for line in content.splitlines()] == [tree.problem.id for tree in many]


@given(st.lists(journal_rows, max_size=4), st.lists(journal_rows, max_size=4))
@settings(max_examples=20, deadline=None)
def test_journal_gives_back_what_was_appended_in_order(first: list[JournalRow], second: list[JournalRow]) -> None:
    with TemporaryDirectory() as folder:
        collection = create_collection(Path(folder), HEADER)
        collection.append(3, first)
        collection.append(3, second)
        assert open_collection(Path(folder)).read_journal(3) == first + second


def test_flows_that_are_not_finite_survive() -> None:
    tree = small_tree().with_log_flows([float("inf"), float("-inf"), 1e-308])
    assert tree_from_json(json.loads(dump(tree_to_json(tree)))) == tree


def test_a_node_writes_only_what_is_not_at_its_default() -> None:
    plain = tree_to_json(small_tree())
    assert "log_flow" not in plain
    assert set(plain["nodes"][0]) == {"parent", "text", "ids", "log_prior", "stop", "verdict"}
    assert "é→数😀" in dump(plain), "readable, not escaped"


# --- what a crash leaves ----------------------------------------------------------------------------------------------


def test_a_torn_last_line_is_cut_off_at_every_byte_and_appending_goes_on(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # hundreds of appends
    rows = [row("p"), row("q", 1), row("p", 2)]
    collection.append(0, rows)
    path = journal_of(collection)
    content = path.read_bytes()
    line_ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    assert len(line_ends) == 3
    for size in range(len(content)):
        path.write_bytes(content[:size])
        num_whole = sum(end <= size for end in line_ends)
        assert collection.read_journal(0) == rows[:num_whole]
        assert path.read_bytes() == content[: ([0, *line_ends])[num_whole]]
        collection.append(0, rows[num_whole:])
        assert path.read_bytes() == content


@contextmanager
def crash_at_sync(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def crash(descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash)
        yield


def test_a_shard_appears_by_rename_only(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment of the rename everything is on disk under another name, and the journal is still there."""
    collection.append(0, [row("p")])
    seen: list[tuple[set[str], int, bool]] = []
    synced: list[int] = []
    replace, fsync = Path.replace, os.fsync

    def watch_replace(source: Path, target: Path) -> Path:
        names = {path.name for path in collection.folder.iterdir()}
        seen.append((names, source.stat().st_size, source.stat().st_ino in synced))
        return replace(source, target)

    def watch_fsync(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(Path, "replace", watch_replace)
    monkeypatch.setattr(os, "fsync", watch_fsync)
    collection.finish_shard(0, [small_tree("p"), small_tree("q")])
    names, size, was_synced = seen[0]
    assert len(seen) == 1
    assert "trees-00000.jsonl" not in names
    assert "trees-00000.journal" in names
    assert size == collection.shard_path(0).stat().st_size
    assert was_synced
    assert {path.name for path in collection.folder.iterdir()} == {"collection.json", "trees-00000.jsonl"}


def test_a_crash_while_a_shard_is_written_leaves_no_shard(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.append(0, [row("p")])

    with crash_at_sync(monkeypatch), pytest.raises(KeyboardInterrupt):
        collection.finish_shard(0, [small_tree()])
    assert collection.finished_shards() == []
    assert list(collection.trees()) == []
    assert collection.read_journal(0) == [row("p")]
    collection.finish_shard(0, [small_tree()])
    assert list(collection.trees()) == [small_tree()]


def test_an_interrupted_rewrite_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    with crash_at_sync(monkeypatch), pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    write_atomically(path, NASTY)
    assert path.read_bytes().decode() == NASTY


# --- what is damaged --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"torn\n",
        b'{"problem":"p","rollouts":[[0]],"usage":[1,1,1]}\n',
        b"\xff\xfe\n",
    ],
)
def test_a_damaged_middle_line_of_a_journal_is_named_and_nothing_is_lost(collection: Collection, damage: bytes) -> None:
    collection.append(0, [row("p"), row("q")])
    path = journal_of(collection)
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = lines[0] + damage + lines[1]
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"trees-00000\.journal line 2 is damaged .*delete the file"):
        collection.read_journal(0)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    "damage",
    [
        b"\n",
        b"{}\n",
        b"7\n",
        b"\xff\xfe\n",
        b"{torn\n",
        dump({**tree_to_json(small_tree()), "trunks": [9]}).encode() + b"\n",
        dump({**tree_to_json(small_tree()), "usage": {"tokens": 1}}).encode() + b"\n",
        dump({**tree_to_json(small_tree()), "nodes": [{"parent": 5}]}).encode() + b"\n",
        dump(tree_to_json(small_tree())).replace('"eos"', '"end"').encode() + b"\n",
    ],
    ids=range(9),
)
def test_a_damaged_line_of_a_shard_is_named(collection: Collection, damage: bytes) -> None:
    collection.finish_shard(0, [small_tree("p"), small_tree("q")])
    first, second = collection.shard_path(0).read_bytes().splitlines(keepends=True)
    collection.shard_path(0).write_bytes(first + damage + second)
    with pytest.raises(ValueError, match=r"trees-00000\.jsonl line 2 is damaged .*`arts collect`"):
        load_trees(collection.folder)


def test_a_shard_that_was_cut_inside_a_line_is_named_wherever_it_was_cut(collection: Collection) -> None:
    collection.finish_shard(0, [small_tree("p"), small_tree("q")])
    path = collection.shard_path(0)
    content = path.read_bytes()
    start = content.index(b"\n") + 1
    for size in range(start + 1, len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"trees-00000\.jsonl line 2 is damaged"):
            list(collection.trees())


def test_trees_before_the_damage_can_still_be_read(collection: Collection) -> None:
    collection.finish_shard(0, [small_tree("p"), small_tree("q")])
    path = collection.shard_path(0)
    path.write_bytes(path.read_bytes()[:-3])
    reader: Iterator[ReasoningTree] = read_trees(path)
    assert next(reader) == small_tree("p")
    with pytest.raises(ValueError, match="line 2"):
        next(reader)


# --- headers ----------------------------------------------------------------------------------------------------------


def test_a_collection_goes_on_with_equal_settings_whatever_made_it(collection: Collection) -> None:
    again = create_collection(collection.folder, HEADER, about={"date": "tomorrow"})
    assert again == collection
    assert again.header["about"] == {"date": "today"}
    assert open_collection(collection.folder) == collection


def test_each_different_setting_is_named_and_no_other(collection: Collection) -> None:
    other = {"task": "toy:2x2", "proposer": "p2", "settings": {"seed": 1, "num_samples": 4, "merge": True}}
    before = (collection.folder / "collection.json").read_bytes()
    with pytest.raises(ValueError, match="other settings") as refusal:
        create_collection(collection.folder, other)
    message = str(refusal.value)
    assert "proposer: 'p1' there, 'p2' asked for" in message
    assert "settings.seed: 0 there, 1 asked for" in message
    assert "settings.split: 'train' there, None asked for" in message
    assert "settings.merge: None there, True asked for" in message
    assert "choose another --out" in message
    assert "task" not in message
    assert "num_samples" not in message
    assert "about" not in message
    assert (collection.folder / "collection.json").read_bytes() == before


@pytest.mark.parametrize("is_finished", [True, False])
def test_trees_without_a_header_are_not_taken_for_ones_of_other_settings(
    collection: Collection, is_finished: bool
) -> None:
    collection.append(0, [row("p")])
    if is_finished:
        collection.finish_shard(0, [small_tree("p")])
    (collection.folder / "collection.json").unlink()
    with pytest.raises(ValueError, match=r"holds trees \(trees-00000\.\w+\), but no collection\.json"):
        create_collection(collection.folder, HEADER)


def test_another_format_version_is_refused_for_reading_and_writing(collection: Collection) -> None:
    path = collection.folder / "collection.json"
    path.write_text(json.dumps({**collection.header, "format": FORMAT + 1}))
    for refused in (lambda: open_collection(collection.folder), lambda: create_collection(collection.folder, HEADER)):
        with pytest.raises(ValueError, match=rf"format version {FORMAT + 1}; this version of arts reads {FORMAT}"):
            refused()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"7", b'"x"', b"[1]"])
def test_a_damaged_header_is_named(collection: Collection, content: bytes) -> None:
    (collection.folder / "collection.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"collection\.json is damaged"):
        open_collection(collection.folder)


def test_a_missing_or_empty_collection_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        for refused in (open_collection, load_trees):
            with pytest.raises(ValueError, match=r"holds no collection .*arts collect --out"):
                refused(folder)
    create_collection(tmp_path, HEADER)
    assert list(open_collection(tmp_path).trees()) == []
    with pytest.raises(ValueError, match="holds no finished trees; run its `arts collect` command again"):
        load_trees(tmp_path)


# --- who may write, and where -----------------------------------------------------------------------------------------


def test_a_second_handle_may_not_write_until_the_first_is_done(collection: Collection) -> None:
    other = open_collection(collection.folder)
    with (
        collection.lock(),
        pytest.raises(ValueError, match=r"another process is writing to .*trees"),
        other.lock(),
    ):
        pytest.fail("two writers")
    with other.lock():
        pass


def test_a_second_process_may_not_write_and_a_dead_one_leaves_no_lock(collection: Collection) -> None:
    code = (
        "import sys, pathlib, arts.store as s\n"
        "with s.open_collection(pathlib.Path(sys.argv[1])).lock():\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(collection.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match="another process"), collection.lock():
            pytest.fail("two writers")
        holder.kill()
    with collection.lock():
        pass


def test_a_lock_is_released_by_an_error(collection: Collection) -> None:
    with pytest.raises(OSError, match="not ours"), collection.lock():
        raise OSError("not ours")  # an error of the work, which is not one of the folder
    with collection.lock(), (collection.folder / ".lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "below", Path("/proc/no/such")):
        with pytest.raises(ValueError, match=rf"cannot write to {folder}: \w+"):
            create_collection(folder, HEADER)
    assert file.read_text() == ""


def test_a_read_only_collection_is_named_and_can_be_read(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write anywhere, so the refusal is made by hand."""
    collection.finish_shard(0, [small_tree()])
    opened = Path.open

    def read_only(path: Path, mode: str = "r", **options: str) -> object:
        if set(mode) & set("wa+"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, mode, **options)

    monkeypatch.setattr(Path, "open", read_only)
    assert load_trees(collection.folder) == [small_tree()]
    message = rf"cannot write to {collection.folder}: Permission denied"
    with pytest.raises(ValueError, match=message), collection.lock():
        pytest.fail("no lock")
    with pytest.raises(ValueError, match=message):
        collection.append(1, [row("p")])
    with pytest.raises(ValueError, match=message):
        collection.finish_shard(1, [small_tree()])
    with pytest.raises(ValueError, match=message.replace(collection.folder.name, "new")):
        create_collection(collection.folder.with_name("new"), HEADER)


@contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond this: the rest of a write fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_only_what_did_not_fit(collection: Collection) -> None:
    rows = [row("p"), row("q", 1)]
    line_size = len((dump(store._journal_row_to_json(rows[0])) + "\n").encode())
    with full_disk(line_size + 10), pytest.raises(ValueError, match=rf"cannot write to {collection.folder}: \w+"):
        collection.append(0, rows)
    assert journal_of(collection).stat().st_size == 0, "no part of a line stays, so that another may follow"
    collection.append(0, rows[:1])
    with full_disk(line_size + 10), pytest.raises(ValueError, match="cannot write to"):
        collection.append(0, rows[1:])
    assert collection.read_journal(0) == rows[:1]
    collection.append(0, rows[1:])
    assert collection.read_journal(0) == rows
    with full_disk(50), pytest.raises(ValueError, match="cannot write to"):
        collection.finish_shard(0, [small_tree()])
    assert collection.finished_shards() == []
    assert collection.read_journal(0) == rows
