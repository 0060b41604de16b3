"""Other people's rollouts become trees: every format, whatever is wrong with some rows, and the tables of the paper."""

import gzip
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from arts.build import named_scorers
from arts.cli import app
from arts.evaluate.run import PAPER, evaluate_trees
from arts.protocols import ScoredTrees
from arts.rollouts import reading as reading_module
from arts.rollouts.formats import read_row
from arts.rollouts.importing import ImportSettings, fold_of, folder_names, import_rollouts
from arts.rollouts.reading import Reading, read_records
from arts.rollouts.records import Record, Sample
from arts.rollouts.trees import tree_of
from arts.store import load_trees, open_collection
from arts.tasks.checks import Checker
from arts.tree import ReasoningTree, StopReason


def sample(text: str = "so\n\n\\boxed{4}", **more: Any) -> dict[str, Any]:
    return {"text": text, "policy": "a", "correct": True, **more}


def row(number: int = 0, *samples: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"problem": f"What is 2 + {number}?", "answer": str(2 + number), "samples": [*samples] or [sample()], **more}


def write(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows))
    return path


def read(path: Path) -> tuple[list[Record], Reading]:
    found = Reading()
    return list(read_records(path, found)), found


def imported(path: Path, out: Path, **settings: Any) -> list[ReasoningTree]:
    import_rollouts(path, out, ImportSettings(**settings))
    return load_trees(out)


def run_arts(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_the_same_as_lines_as_a_list_and_gzipped(tmp_path: Path) -> None:
    rows = [row(one) for one in range(5)]
    lines = write(tmp_path / "a.jsonl", rows)
    whole = tmp_path / "a.json"
    whole.write_text(json.dumps(rows, indent=1))
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    marked = tmp_path / "marked.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + lines.read_bytes())
    expected = read(lines)[0]
    assert len(expected) == 5
    for path in (whole, packed, marked):
        assert read(path)[0] == expected, path


BAD_ROWS: dict[str, tuple[object, str]] = {
    "no JSON": ('{"problem": ', "line 2: Expecting value"),
    "no object": ("[1, 2]", "line 2: a row is of type list; it must be an object"),
    "no known fields": ({"hello": 1}, "line 2: fields hello are those of no known format"),
    "no problem": ({"samples": [sample()]}, "line 2: no `problem`"),
    "blank problem": (row() | {"problem": " "}, "line 2: a problem without text"),
    "no samples": (row() | {"samples": []}, "line 2: no samples"),
    "samples of another kind": (row() | {"samples": "x"}, "line 2: `samples` is of type str; it must be a list"),
    "sample without text": (row(0, {"policy": "a"}), "line 2: sample 0 has no `text`"),
    "sample that is a text": (row() | {"samples": ["x"]}, "line 2: sample 0 has no `text`"),
    "a label that is none": (
        row(0, sample(correct="yes")),
        "line 2: `correct` of sample 0 is 'yes'; it must be true or",
    ),
    "a score that is none": (
        row(0, {"text": "x", "score": "1"}),
        "line 2: score of sample 0 is '1'; it must be a number",
    ),
    "steps of another text": (row(0, sample(steps=["x"])), "line 2: steps that do not make up the text"),
    "step scores of another kind": (row(0, sample(step_scores="9")), "line 2: step_scores of sample 0 is of type str"),
    "a step score that is none": (row(0, sample(step_scores=[math.nan])), "line 2: a step score that is no number"),
    "completions without scores": (
        {"problem": "p", "completions": ["x", "y"], "scores": [[1]]},
        "line 2: 2 completions, and scores of 1",
    ),
    "an id of another problem": (row(5, id="0"), "row 2: '0' is the id of another problem already"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_named_by_its_line_and_the_others_are_kept(tmp_path: Path, name: str) -> None:
    bad, said = BAD_ROWS[name]
    path = write(tmp_path / "a.jsonl", [row(0, id="0"), bad, row(2, id="2")])
    made, found = import_rollouts(path, tmp_path / "out", ImportSettings())
    assert [tree.problem.id for tree in load_trees(tmp_path / "out")] == ["0", "2"]
    assert made[0].num_trees == 2
    assert len(found.bad) == 1
    assert found.bad[0].startswith(said)


def test_a_line_without_end_is_passed_over_and_not_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_module, "LONGEST_LINE", 1 << 20)
    long = json.dumps(row(1, sample("x" * (5 << 20))))
    records, found = read(write(tmp_path / "a.jsonl", [row(0), long, row(2)]))
    assert [record.gold for record in records] == ["2", "4"]
    assert found.bad == ["line 2: longer than 1 MB"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"<!DOCTYPE html><html>", "is a page"),
        (b"id,text\n1,2\n", "starts with 'id,text"),
        (b"[1, 2", "is neither JSON nor JSON lines"),
        (b"\x1f\x8bnonsense", "cannot be read"),
        (b"[]", "has no row that can be read"),
        (b'{"a": 1}\n{"b": 2}\n', "has no row that can be read: line 1: fields a are those of no known format"),
        (b"[" * 100_000, "is neither JSON nor JSON lines"),
    ],
)
def test_a_file_without_any_row_is_one_clear_error(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.jsonl") as error:
        import_rollouts(path, tmp_path / "out", ImportSettings())
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.jsonl cannot be read"):
        import_rollouts(tmp_path / "nowhere.jsonl", tmp_path / "out", ImportSettings())


def test_a_packed_file_that_breaks_off_keeps_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    rng = random.Random(0)
    rows = [row(one, sample("".join(rng.choices("abcdef \n", k=3000)))) for one in range(200)]
    whole = gzip.compress("".join(json.dumps(one) + "\n" for one in rows).encode())
    path.write_bytes(whole[: len(whole) // 2])
    records, found = read(path)
    assert 20 < len(records) < 180
    assert [record.prompt for record in records] == [one["problem"] for one in rows[: len(records)]]
    assert "the file breaks off" in found.bad[-1]


@given(st.lists(st.text(max_size=60) | st.binary(max_size=20).map(repr), max_size=8))
def test_no_text_ends_the_reading(lines: list[str]) -> None:
    """Whatever a line holds, it is a record, a bad row, or the whole file is refused with a ValueError."""
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        with pytest.raises(ValueError, match=r"row|fields|format"):
            read_row(value)


# --- trees ------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from(["a\n\n", "b\n\n", "c. d\n\n", "\\boxed{4}"]), min_size=1, max_size=6), st.integers(1, 5)
)
def test_a_tree_holds_the_texts_of_its_samples_in_order(parts: list[str], count: int) -> None:
    samples = [Sample(text="".join(parts[start:]), correct=True) for start in range(min(count, len(parts)))]
    tree, conflicts = tree_of(Record(problem_id="p", prompt="?", gold="4", samples=tuple(samples)), samples)
    assert [tree.text(leaf) for leaf in tree.trunks] == [one.text for one in samples]
    assert sum(node.num_draws for node in tree.nodes[1:] if node.parent == 0) == len(samples)
    assert conflicts == 0


def test_labels_count_and_partial_credit_is_wrong(tmp_path: Path) -> None:
    graded = [{"text": f"{score}", "score": score} for score in (1.0, 0.99, 0.989, 0.5, 0.0)]
    (tree,) = imported(write(tmp_path / "a.jsonl", [row(0, *graded)]), tmp_path / "out")
    verdicts = [tree.nodes[leaf].verdict for leaf in tree.trunks]
    assert [verdict is not None and verdict.correct for verdict in verdicts] == [True, True, False, False, False]


def test_without_labels_answers_are_compared_with_the_gold_one(tmp_path: Path) -> None:
    texts = ["\\boxed{1/2}", "\\boxed{0.50}", "The answer is 2.", "no idea"]
    one = row(0, *({"text": text} for text in texts), answer="\\frac{1}{2}")
    (tree,) = imported(write(tmp_path / "a.jsonl", [one]), tmp_path / "out")
    verdicts = [tree.nodes[leaf].verdict for leaf in tree.trunks]
    assert [(verdict.correct, verdict.answer) for verdict in verdicts if verdict] == [
        (True, "1/2"),
        (True, "1/2"),
        (False, "2"),
        (False, None),
    ]


def test_a_check_overrules_the_labels_and_needs_gold_answers(tmp_path: Path) -> None:
    samples = [sample("\\boxed{4}", correct=False), sample("\\boxed{5}", correct=True)]
    path = write(tmp_path / "a.jsonl", [row(2, *samples)])
    import_rollouts(path, tmp_path / "out", ImportSettings(), checker=Checker("number"))
    (tree,) = load_trees(tmp_path / "out")
    verdicts = [tree.nodes[leaf].verdict for leaf in tree.trunks]
    assert [verdict is not None and verdict.correct for verdict in verdicts] == [True, False]
    assert open_collection(tmp_path / "out").header["judge"] == "number"
    bare = write(tmp_path / "bare.jsonl", [{"problem": "p", "samples": samples}])
    with pytest.raises(ValueError, match="no `answer` for the check"):
        import_rollouts(bare, tmp_path / "bare", ImportSettings(), checker=Checker("number"))


def test_without_labels_and_gold_it_is_refused(tmp_path: Path) -> None:
    one = {"problem": "p", "samples": [{"text": "x"}]}
    with pytest.raises(ValueError, match="neither labels nor an `answer`"):
        imported(write(tmp_path / "a.jsonl", [one]), tmp_path / "out")


def test_cut_off_and_empty_samples_are_draws_too(tmp_path: Path) -> None:
    samples = [sample("so", correct=False, finished=False), sample("on", correct=False, finish_reason="length")]
    samples += [sample("", correct=False), sample("4")]
    path = write(tmp_path / "a.jsonl", [row(0, *samples)])
    made, _ = import_rollouts(path, tmp_path / "out", ImportSettings())
    (tree,) = load_trees(tmp_path / "out")
    stops = [tree.nodes[leaf].stop for leaf in tree.trunks]
    assert stops == [StopReason.LENGTH, StopReason.LENGTH, StopReason.EOS, StopReason.EOS]
    assert list(made[0].notes()) == ["1 draws are empty texts"]


def test_equal_texts_with_different_labels_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row(0, sample("4"), sample("4", correct=False), sample("5", correct=False))])
    made, _ = import_rollouts(path, tmp_path / "out", ImportSettings())
    assert made[0].num_relabelled == 1
    assert made[0].num_right == 2  # the first label counts


def test_step_scores_lie_on_the_steps_they_belong_to_or_on_the_end(tmp_path: Path) -> None:
    samples = [sample("a\n\nb\n\n4", step_scores=[0.5, 0.25, 1.0]), sample("a\n\nc\n\n4", step_scores=[0.125])]
    path = write(tmp_path / "a.jsonl", [row(0, *samples)])
    (tree,) = imported(path, tmp_path / "out")
    flows = [[node.log_flow for node in tree.path(leaf)] for leaf in tree.trunks]
    assert flows == [[math.log(0.5), math.log(0.25), 0.0], [math.log(0.5), None, math.log(0.125)]]
    assert open_collection(tmp_path / "out").header["scores"] == {"kind": "log_value"}


# --- policies ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_policies(tmp_path: Path) -> Path:
    rows = [
        row(one, *(sample(f"a{draw}", correct=draw == 0) for draw in range(3)), sample("b", policy="b/x y"))
        for one in range(12)
    ]
    rows[3]["samples"] = rows[3]["samples"][1:]  # a has two draws there
    return write(tmp_path / "a.jsonl", rows)


def test_every_policy_has_a_collection_of_its_own(two_policies: Path, tmp_path: Path) -> None:
    made, _ = import_rollouts(two_policies, tmp_path / "out", ImportSettings())
    assert [(one.folder.name, one.policy, one.num_trees, one.num_samples, one.num_short) for one in made] == [
        ("a", "a", 11, 3, 1),
        ("b_x_y", "b/x y", 12, 1, 0),
    ]
    assert all(len(tree.trunks) == 3 for tree in load_trees(tmp_path / "out" / "a"))


def test_one_policy_can_be_picked_and_all_can_be_pooled(two_policies: Path, tmp_path: Path) -> None:
    assert len(imported(two_policies, tmp_path / "one", policy="b/x y")) == 12
    pooled = imported(two_policies, tmp_path / "pool", pool=True)
    assert {len(tree.trunks) for tree in pooled} == {4}
    assert open_collection(tmp_path / "pool").header["pool"] is True
    with pytest.raises(ValueError, match="no policy 'c' in the file; it has 'a', 'b/x y'"):
        imported(two_policies, tmp_path / "none", policy="c")
    with pytest.raises(ValueError, match="give one of the two"):
        ImportSettings(policy="a", pool=True)


def test_fewer_draws_can_be_asked_for_but_not_more(two_policies: Path, tmp_path: Path) -> None:
    assert len(imported(two_policies, tmp_path / "two", policy="a", num_samples=2)) == 12
    with pytest.raises(ValueError, match="no problem of policy 'a' has 4 draws"):
        imported(two_policies, tmp_path / "four", policy="a", num_samples=4)


def test_folds_hold_every_problem_once_whatever_else_is_in_the_file(two_policies: Path, tmp_path: Path) -> None:
    import_rollouts(two_policies, tmp_path / "out", ImportSettings(policy="b/x y", num_folds=3))
    folds = [{tree.problem.id for tree in load_trees(tmp_path / "out" / f"fold-{fold}")} for fold in range(3)]
    assert sorted(one for fold in folds for one in fold) == sorted({f"What is 2 + {one}?" for one in range(12)})
    for fold, ids in enumerate(folds):
        assert all(fold_of(one, 3) == fold for one in ids)


def test_a_policy_without_a_name_is_called_by_its_file(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.v2.jsonl", [row(0, {"text": "4", "correct": True})])
    made, _ = import_rollouts(path, tmp_path / "out", ImportSettings())
    assert made[0].policy == "mine.v2"
    made, _ = import_rollouts(path, tmp_path / "named", ImportSettings(name="yours"))
    assert made[0].policy == "yours"


def test_rows_of_one_problem_are_put_together(tmp_path: Path) -> None:
    rows = [{"problem": "p", "answer": "4", "text": text, "model": "m"} for text in ("4", "\\boxed{4}", "5")]
    (tree,) = imported(write(tmp_path / "a.jsonl", rows), tmp_path / "out")
    assert [tree.text(leaf) for leaf in tree.trunks] == ["4", "\\boxed{4}", "5"]


def test_importing_again_gives_the_same_and_another_file_is_refused(two_policies: Path, tmp_path: Path) -> None:
    first = imported(two_policies, tmp_path / "out", policy="a")
    assert imported(two_policies, tmp_path / "out", policy="a") == first
    write(two_policies, [row(0)])
    with pytest.raises(ValueError, match="was collected with other settings"):
        imported(two_policies, tmp_path / "out", policy="a")


def test_nothing_is_written_where_one_policy_cannot_be_imported(two_policies: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="no problem of policy 'b/x y' has 3 draws"):
        imported(two_policies, out, num_samples=3)
    assert not out.exists()
    with pytest.raises(ValueError, match="no problem of policy 'a'"):
        imported(two_policies, out, num_folds=200)
    assert not out.exists()
    import_rollouts(two_policies, out / "b_x_y", ImportSettings(policy="b/x y", num_samples=1))
    with pytest.raises(ValueError, match="was collected with other settings"):
        import_rollouts(two_policies, out, ImportSettings(max_step_chars=5))
    assert [path.name for path in out.iterdir()] == ["b_x_y"]


def test_policies_whose_names_look_alike_on_disk_keep_a_folder_each(tmp_path: Path) -> None:
    assert folder_names(["m/a", "m a", "M_A", "b", "..", "policy"])[3] == "b"
    names = folder_names(["m/a", "m a", "M_A", "b", "..", "policy"])
    assert len({name.casefold() for name in names}) == 6
    assert folder_names(["m a", "m/a"]) == folder_names(["m/a", "m a"])[::-1], "whatever their order"
    path = write(tmp_path / "a.jsonl", [row(one, sample(policy="m/a"), sample("b", policy="m a")) for one in range(3)])
    made, _ = import_rollouts(path, tmp_path / "out", ImportSettings())
    assert [open_collection(one.folder).header["policy"] for one in made] == ["m/a", "m a"]


def test_draws_beyond_the_usual_number_are_counted_and_a_policy_may_be_called_pool(tmp_path: Path) -> None:
    rows = [row(one, *(sample(f"{draw}", policy="pool") for draw in range(2 if one < 6 else 64))) for one in range(11)]
    rows[0]["samples"] += [sample("other", policy="other")]
    made, _ = import_rollouts(write(tmp_path / "a.jsonl", rows), tmp_path / "out", ImportSettings(policy="pool"))
    assert (made[0].num_trees, made[0].num_samples, made[0].num_short) == (5, 64, 6)
    made, _ = import_rollouts(tmp_path / "a.jsonl", tmp_path / "two", ImportSettings(policy="pool", num_samples=2))
    assert (made[0].num_trees, made[0].num_beyond) == (11, 5 * 62)
    assert open_collection(tmp_path / "two").header["pool"] is False
    assert not any(tree.text(leaf) == "other" for tree in load_trees(tmp_path / "two") for leaf in tree.trunks)


def test_null_is_nothing_and_halves_of_characters_are_replaced(tmp_path: Path) -> None:
    rows = [row(one, sample("\ud800 so", policy=None, steps=None, step_scores=None), id=None) for one in range(3)]
    trees = imported(write(tmp_path / "a.jsonl", rows), tmp_path / "out")
    assert len({tree.problem.id for tree in trees}) == 3
    assert all(tree.text(tree.trunks[0]) == "? so" for tree in trees)


def test_scores_that_are_no_chances_are_refused(tmp_path: Path) -> None:
    rows = [row(0), row(1, sample("a", step_scores=[-3.0]))]
    _, found = read(write(tmp_path / "a.jsonl", rows))
    assert found.bad == ["line 2: step scores from -3 to -3; chances lie in 0..1"]


# --- the public files -------------------------------------------------------------------------------------------------

# file, policies, problems, draws, right ones (as the sources count them)
PUBLIC = [
    ("amc23_llama3b_rl_step400_n50.json.gz", 1, 40, 50, 288),
    ("amc23_llama3b_rl_step800_n50.json.gz", 1, 40, 50, 283),
    ("game24_gpt4_cot100.json.gz", 1, 100, 100, 403),
    ("game24_gpt4_tot_bfs.json.gz", 1, 100, 5, 119),
    ("gsm8k_openai_gpt3_4systems.jsonl.gz", 4, 1319, 1, 2001),
    ("math_evals_qwen2.5-3b_base_vs_rl_greedy.jsonl.gz", 2, 2691, 1, 3282),
    ("rg_algebra_qwen2.5-3b_base_vs_rl_x3.jsonl.gz", 3, 500, 3, 2126),
    ("rg_geometry_qwen2.5-3b_base_vs_rl_x3.jsonl.gz", 3, 200, 3, 185),
]


@pytest.mark.parametrize(("name", "policies", "problems", "draws", "right"), PUBLIC)
def test_public_files_come_out_as_their_sources_count_them(
    arts_data: Path, tmp_path: Path, name: str, policies: int, problems: int, draws: int, right: int
) -> None:
    made, found = import_rollouts(arts_data / "rollouts" / name, tmp_path / "out", ImportSettings())
    assert found.bad == []
    assert {(one.num_trees, one.num_samples) for one in made} == {(problems, draws)}
    assert (len(made), sum(one.num_right for one in made)) == (policies, right)


def test_the_tree_search_keeps_its_tree_and_values(arts_data: Path, tmp_path: Path) -> None:
    path = arts_data / "rollouts" / "game24_gpt4_tot_bfs.json.gz"
    trees = imported(path, tmp_path / "out")
    logs = json.loads(gzip.decompress(path.read_bytes()))
    for tree, log in zip(trees, logs, strict=True):
        values = {
            text: value for level in log["steps"] for text, value in zip(level["new_ys"], level["values"], strict=True)
        }
        texts = {tree.text(node.id): node for node in tree.nodes[1:]}
        assert values.keys() <= texts.keys()
        for text, value in values.items():
            assert texts[text].log_flow == pytest.approx(math.log(max(value, 1e-6)))
        assert [tree.text(leaf) for leaf in tree.trunks] == log["ys"]


def test_puzzles_of_the_search_are_those_of_the_first_steps_and_of_the_file_beside(
    arts_data: Path, tmp_path: Path
) -> None:
    source = arts_data / "rollouts" / "game24_gpt4_cot100.json.gz"
    alone = tmp_path / "alone.json.gz"
    alone.write_bytes(source.read_bytes())
    by_steps, by_file = imported(alone, tmp_path / "steps"), imported(source, tmp_path / "file")
    for one, other in zip(by_steps, by_file, strict=True):
        assert sorted(str(one.problem.metadata["numbers"]).split()) == sorted(
            str(other.problem.metadata["numbers"]).split()
        )


# --- then everything works on them ------------------------------------------------------------------------------------


def test_the_papers_tables_come_from_a_file_by_two_commands(two_policies: Path, tmp_path: Path) -> None:
    rows = [
        json.loads(line) | {"subject": "odd" if place % 2 else "even"} for place, line in enumerate(two_policies.open())
    ]
    write(two_policies, rows)
    run_arts("import", str(two_policies), "--out", str(tmp_path / "out"))
    printed = run_arts("evaluate", "--trees", str(tmp_path / "out"), "--out", str(tmp_path / "ev"), "--preset", "paper")
    assert "subject: odd" in printed.stdout
    results = json.loads((tmp_path / "ev" / "a" / "results.json").read_text())
    assert {"has_answer", "shortest", "longest", "majority", "random", "oracle"} <= set(results["selectors"])
    assert "log_prior" not in results["selectors"]  # nobody knows it here
    assert results["subsets"]["subject: even"]["num_problems"] == 6
    assert (tmp_path / "ev" / "b_x_y" / "report.html").exists()


def test_a_pool_shows_nothing_that_is_a_mean_over_draws_of_one_policy(two_policies: Path, tmp_path: Path) -> None:
    run_arts("import", str(two_policies), "--out", str(tmp_path / "out"), "--pool")
    printed = run_arts("evaluate", "--trees", str(tmp_path / "out"), "--out", str(tmp_path / "ev"))
    assert "is no law" in printed.stderr
    both = (f"--{side}-trees={tmp_path / 'out'}" for side in ("base", "tuned"))
    compared = CliRunner().invoke(app, ["squeeze", *both, "--out", str(tmp_path / "squeeze")])
    assert "is no law to compare" in str(compared.exception)
    results = json.loads((tmp_path / "ev" / "results.json").read_text())
    assert list(results["pass_at_k"]) == [str(results["num_samples"])]


def test_the_extinction_zone_is_what_the_other_policy_never_solves(tmp_path: Path) -> None:
    def rows(right: Sequence[int]) -> list[dict[str, Any]]:
        return [
            row(one, *(sample(f"{draw}", correct=draw < count) for draw in range(4))) for one, count in enumerate(right)
        ]

    run_arts("import", str(write(tmp_path / "base.jsonl", rows([1, 2, 0, 4]))), "--out", str(tmp_path / "base"))
    run_arts("import", str(write(tmp_path / "tuned.jsonl", rows([0, 4, 0, 4]))), "--out", str(tmp_path / "tuned"))
    run_arts(
        *("evaluate", "--trees", str(tmp_path / "base"), "--against", str(tmp_path / "tuned")),
        *("--out", str(tmp_path / "ev"), "--preset", "paper"),
    )
    subsets = json.loads((tmp_path / "ev" / "results.json").read_text())["subsets"]
    assert subsets["extinction zone"]["num_problems"] == 2
    assert subsets["extinct, solved here"]["num_problems"] == 1
    assert subsets["extinct, solved here"]["selectors"]["random"]["value"] == 0.25
    page = (tmp_path / "ev" / "report.html").read_text("utf-8")
    assert "squeeze-pass" in page and "The tuned model" in page  # both policies' curves, and where they cross
    assert '<a href="view.html#?group=lost">1</a> problems that only the base solves, 0 that' in page
    run_arts(
        *("squeeze", "--base-trees", str(tmp_path / "base"), "--tuned-trees", str(tmp_path / "tuned")),
        *("--out", str(tmp_path / "sq")),
    )
    page = (tmp_path / "sq" / "squeeze.html").read_text("utf-8")
    assert "Every figure here was made by <code>arts" in page and "view.html#?group=lost" in page
    assert (tmp_path / "sq" / "view.html").is_file()


def test_problems_that_share_nothing_but_a_number_are_not_compared(tmp_path: Path) -> None:
    for name, text in (("a", "alpha"), ("b", "beta")):
        rows = [row(0, sample("x", correct=False), problem=f"{text} {one}", id=one) for one in range(3)]
        import_rollouts(write(tmp_path / f"{name}.jsonl", rows), tmp_path / name, ImportSettings())
    with pytest.raises(ValueError, match="'alpha 0' in one of the two and 'beta 0' in the other"):
        evaluate_trees(load_trees(tmp_path / "a"), against=load_trees(tmp_path / "b"))


def test_two_verifiers_of_one_name_and_one_called_like_a_rule_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two verifiers are called score; name them"):
        named_scorers(["python:a.py:score", "python:b.py:score"])
    trees = imported(write(tmp_path / "a.jsonl", [row(0, sample("x"), sample("y", correct=False))]), tmp_path / "a")
    with pytest.raises(ValueError, match=r"clash with the selectors \['shortest'\]"):
        evaluate_trees(trees, {"shortest": ScoredTrees(trees, 0, 0)}, comparison=PAPER)


def test_a_folder_of_folders_is_told_where_its_collections_are(two_policies: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    import_rollouts(two_policies, out, ImportSettings(num_folds=2))
    result = CliRunner().invoke(app, ["evaluate", "--trees", str(out), "--out", str(tmp_path / "e")])
    assert result.exit_code != 0
    said = str(result.exception) if result.exception else result.output
    assert "holds no collection" in said
    assert f"these do: {out / 'a' / 'fold-0'}, {out / 'a' / 'fold-1'}, {out / 'b_x_y' / 'fold-0'} and 1 more" in said


def test_a_field_with_hundreds_of_values_shows_its_largest_ones(tmp_path: Path) -> None:
    rows = [
        row(one, sample(), sample("no", correct=False), subject=f"s{one // 2 if one < 20 else one}")
        for one in range(60)
    ]
    import_rollouts(write(tmp_path / "a.jsonl", rows), tmp_path / "trees", ImportSettings())
    said = run_arts(
        "evaluate", "--preset", "paper", "--trees", str(tmp_path / "trees"), "--out", str(tmp_path / "e")
    ).output
    assert "and 10 more values of subject (10 problems): results.json has them" in said
    shown = [
        line.partition("subject: ")[2].split()[0]
        for line in said.splitlines()
        if " subject: " in line and "rare" not in line
    ]
    assert len(shown) == 40 and set(shown) >= {f"s{one}" for one in range(10)}, "those of two problems"
    assert len(json.loads((tmp_path / "e" / "results.json").read_text())["subsets"]) > 50
    assert "and 10 more values of subject" in (tmp_path / "e" / "report.html").read_text()
