"""The evaluation as a whole: values worked out by hand, the JSON against its schema, and what is refused."""

import copy
import json
import math
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from pools import RIGHT, UNFINISHED, WRONG, Draw, pool_tree, scored

from arts.evaluate.rows import read_rows, write_rows
from arts.evaluate.run import Evaluation, evaluate_trees, write_results
from arts.protocols import Aggregation, ScoredTrees, ScoreScale
from arts.tree import Problem, ReasoningTree, Usage

LURE = Draw("lure", False, 3.0)  # a wrong draw that the verifier likes best


@pytest.fixture
def schema() -> Draft202012Validator:
    text = (files("arts.evaluate") / "results.schema.json").read_text(encoding="utf-8")
    Draft202012Validator.check_schema(json.loads(text))
    return Draft202012Validator(json.loads(text))


def four_problems() -> list[ReasoningTree]:
    pool = [
        [RIGHT, WRONG, WRONG, WRONG],  # rare: the verifier finds it, the vote does not
        [RIGHT, RIGHT, RIGHT, LURE],  # the vote finds it, the verifier does not
        [WRONG, WRONG, UNFINISHED, LURE],  # nothing to find
        [RIGHT, RIGHT, RIGHT, RIGHT],  # nothing to miss
    ]
    return [pool_tree(draws, problem=str(index), usage=Usage(10, 20 + index, 1)) for index, draws in enumerate(pool)]


def worse(trees: list[ReasoningTree]) -> list[ReasoningTree]:
    """The same trees by a verifier that turns every flow around."""
    return [tree.with_log_flows([-(node.log_flow or 0.0) for node in tree.nodes]) for tree in trees]


def values(evaluation: Evaluation, k: int) -> dict[str, float | None]:
    return {name: selector.at[k].value for name, selector in evaluation.selectors.items()}


def test_values_are_those_worked_out_by_hand() -> None:
    trees = four_problems()
    evaluation = evaluate_trees(trees, {"arts": scored(trees)})
    assert (evaluation.num_problems, evaluation.num_samples, list(evaluation.pass_at_k)) == (4, 4, [1, 2, 4])
    random = (1 / 4 + 3 / 4 + 0 + 1) / 4
    assert values(evaluation, 1) == pytest.approx(dict.fromkeys(evaluation.selectors, random))
    assert values(evaluation, 4) == pytest.approx(
        # Flow votes: e^1 > 3 e^-1 in problem 0, but 3 e^1 < e^3 in problem 1.
        {"arts": 2 / 4, "flow_vote": 2 / 4, "majority": 2 / 4, "random": random, "oracle": 3 / 4}
    )
    # k = 2: problem 0 picks the right draw if it is among the two (1/2); problem 1 unless the lure is (1/2).
    assert evaluation.selectors["arts"].at[2].value == pytest.approx((1 / 2 + 1 / 2 + 0 + 1) / 4)
    assert evaluation.pass_at_k[2].value == pytest.approx((1 / 2 + 1 + 0 + 1) / 4)
    assert evaluation.selectors["arts"].gap_closed.value == pytest.approx((1 / 2 - random) / (3 / 4 - random))
    assert evaluation.selectors["random"].gap_closed.value == 0
    assert evaluation.selectors["oracle"].gap_closed.value == 1


def test_rare_subset_holds_problems_with_one_or_two_right_draws() -> None:
    trees = [pool_tree([*[RIGHT] * c, *[WRONG] * (5 - c)], problem=str(c)) for c in range(6)]
    rare = evaluate_trees(trees, {"arts": scored(trees)}).subsets["rare"]
    assert rare.num_problems == 2
    assert {name: rare.selectors[name].value for name in ("arts", "random", "majority", "oracle")} == pytest.approx(
        {"arts": 1, "random": 1.5 / 5, "majority": 0, "oracle": 1}
    )


def test_pool_without_rare_problems_says_so_instead_of_a_number(schema: Draft202012Validator) -> None:
    result = evaluate_trees([pool_tree([RIGHT, RIGHT, RIGHT])]).to_json()
    assert result["subsets"]["rare"]["num_problems"] == 0
    assert result["subsets"]["rare"]["selectors"]["majority"]["value"] is None
    assert result["selectors"]["majority"]["gap_closed"] == {"value": None, "low": None, "high": None}
    schema.validate(result)


def test_difficulty_classes_come_in_natural_order_and_leave_out_problems_without_one() -> None:
    classes = ["10-29 solutions", "3-9 solutions", None, "1-2 solutions", "3-9 solutions"]
    trees = [
        pool_tree([RIGHT, WRONG], problem=Problem(str(index), "", {"class": name}))
        for index, name in enumerate(classes)
    ]
    subsets = evaluate_trees(trees, difficulty=lambda problem: problem.metadata["class"]).subsets
    assert {name: subset.num_problems for name, subset in subsets.items() if name != "rare"} == {
        "difficulty: 1-2 solutions": 1,
        "difficulty: 3-9 solutions": 2,
        "difficulty: 10-29 solutions": 1,
    }
    assert [*subsets][1:] == [f"difficulty: {name}" for name in ("1-2 solutions", "3-9 solutions", "10-29 solutions")]


def test_without_verifier_there_are_only_the_selectors_that_need_none(schema: Draft202012Validator) -> None:
    evaluation = evaluate_trees(four_problems())
    assert list(evaluation.selectors) == ["majority", "random", "oracle"]
    assert evaluation.differences == {}
    schema.validate(evaluation.to_json())


def test_several_verifiers_are_compared_on_the_same_draws(schema: Draft202012Validator) -> None:
    trees = four_problems()
    evaluation = evaluate_trees(trees, {"arts": scored(trees, 90, 80), "turned": scored(worse(trees), 70, 60)})
    assert list(evaluation.selectors) == [
        "arts", "turned", "flow_vote", "turned_flow_vote", "majority", "random", "oracle"
    ]  # fmt: skip
    assert set(evaluation.differences) == {
        "arts-majority", "arts-random", "turned-majority", "turned-random", "arts-turned"
    }  # fmt: skip
    for name, at in evaluation.differences.items():
        left, right = name.split("-")
        for k in evaluation.pass_at_k:
            expected = evaluation.selectors[left].at[k].value - evaluation.selectors[right].at[k].value  # type: ignore[operator]
            assert at[k].value == pytest.approx(expected)
    schema.validate(evaluation.to_json())


def test_further_verifier_does_not_change_the_figures_of_the_first() -> None:
    trees = four_problems()
    alone = evaluate_trees(trees, {"arts": scored(trees)}).to_json()
    both = evaluate_trees(trees, {"arts": scored(trees), "turned": scored(worse(trees))}).to_json()
    for name, selector in alone["selectors"].items():
        assert both["selectors"][name] == selector
    assert both["differences"]["arts-random"] == alone["differences"]["arts-random"]


def test_both_bills_are_counted() -> None:
    trees = four_problems()
    cost = evaluate_trees(trees, {"arts": scored(trees, 90, 80), "other": scored(trees, 7, 7)}, wall_s=1.5).to_json()[
        "cost"
    ]
    assert cost == {
        "proposer": Usage(40, 86, 4)._asdict(),
        "verifier": {"computed_tokens": 90, "distinct_tokens": 80},
        "verifiers": {
            "arts": {"computed_tokens": 90, "distinct_tokens": 80},
            "other": {"computed_tokens": 7, "distinct_tokens": 7},
        },
        "wall_s": 1.5,
    }


# --- scores of a path -------------------------------------------------------------------------------------------------


def step_scored(aggregation: Aggregation = "last") -> tuple[list[ReasoningTree], ScoredTrees]:
    """The last step and the mean prefer the wrong draw, the lowest step and the product the right one."""
    trees = [pool_tree([RIGHT, WRONG], problem=str(index)) for index in range(4)]
    values = [tree.with_log_flows([0.0, *map(math.log, (0.6, 0.5, 0.25, 0.9))]) for tree in trees]
    return trees, ScoredTrees(values, 7, 7, ScoreScale(kind="log_value", aggregation=aggregation))


@pytest.mark.parametrize(("aggregation", "right"), [("last", 0.0), ("min", 1.0), ("mean", 0.0), ("product", 1.0)])
def test_aggregation_of_the_scale_and_the_asked_one_decide_the_choice(
    aggregation: Aggregation, right: float, schema: Draft202012Validator
) -> None:
    trees, scored_last = step_scored()
    asked = evaluate_trees(trees, {"prm": scored_last}, aggregation=aggregation)
    by_scale = evaluate_trees(trees, {"prm": step_scored(aggregation)[1]})
    assert asked == by_scale
    assert values(asked, 2)["prm"] == values(asked, 2)["flow_vote"] == right
    result = asked.to_json()
    assert result["scales"] == {"prm": {"kind": "log_value", "aggregation": aggregation}}
    schema.validate(result)
    result["scales"]["prm"]["aggregation"] = "max"
    with pytest.raises(ValidationError):
        schema.validate(result)


def test_each_verifier_keeps_its_own_aggregation_unless_one_is_asked_for() -> None:
    trees, scored_last = step_scored()
    both = {"last": scored_last, "min": step_scored("min")[1]}
    assert {name: scale.aggregation for name, scale in evaluate_trees(trees, both).scales.items()} == {
        "last": "last", "min": "min"
    }  # fmt: skip
    asked = evaluate_trees(trees, both, aggregation="product")
    assert {scale.aggregation for scale in asked.scales.values()} == {"product"}
    with pytest.raises(ValueError, match="aggregation is 'max'"):
        evaluate_trees(trees, both, aggregation="max")  # type: ignore[arg-type]


def test_rewards_of_flows_are_recorded_and_version_1_results_without_scales_still_fit(
    schema: Draft202012Validator,
) -> None:
    trees = four_problems()
    result = evaluate_trees(trees, {"arts": scored(trees)}).to_json()
    flows = {"kind": "log_flow", "aggregation": "last", "reward_right": 10.0, "reward_wrong": 0.1}
    assert result["scales"] == {"arts": flows}
    schema.validate(result)
    del result["scales"]
    schema.validate(result)


@pytest.mark.parametrize("aggregation", ["last", "min", "mean", "product"])
def test_rows_keep_the_score_of_the_path_and_its_scale(tmp_path: Path, aggregation: Aggregation) -> None:
    trees, prm = step_scored()
    verifiers = {"prm": prm, "arts": scored([tree.with_log_flows([0.5] * 5) for tree in trees])}
    again, again_scored = read_rows(write_rows(trees, verifiers, tmp_path, aggregation=aggregation))
    assert again_scored["prm"].scale == ScoreScale(kind="log_value", aggregation=aggregation)
    assert again_scored["arts"].scale == ScoreScale(aggregation=aggregation)
    expected = evaluate_trees(trees, verifiers, aggregation=aggregation)
    assert evaluate_trees(again, again_scored).selectors == expected.selectors


def test_rows_of_plain_flows_have_no_further_field(tmp_path: Path) -> None:
    trees = four_problems()
    path = write_rows(trees, {"arts": scored(trees)}, tmp_path)
    assert "scale" not in json.loads(path.read_text().splitlines()[0])
    with pytest.raises(ValueError, match="aggregation is 'max'"):
        write_rows(trees, {"arts": scored(trees)}, tmp_path, aggregation="max")  # type: ignore[arg-type]


def test_equal_seeds_give_equal_results_and_the_seed_moves_only_intervals() -> None:
    trees = 10 * four_problems()
    first, again, other = (evaluate_trees(trees, {"arts": scored(trees)}, seed=seed).to_json() for seed in (0, 0, 1))
    assert first == again
    assert first["selectors"]["arts"]["at"]["2"]["value"] == other["selectors"]["arts"]["at"]["2"]["value"]
    assert first["selectors"] != other["selectors"]


def test_fingerprint_follows_the_pool_and_not_the_verifier() -> None:
    trees = four_problems()
    pool = evaluate_trees(trees).fingerprint
    assert evaluate_trees(worse(trees), {"arts": scored(worse(trees))}).fingerprint == pool
    assert evaluate_trees(trees[::-1]).fingerprint != pool
    changed = [pool_tree([WRONG, RIGHT, WRONG, WRONG], problem="0"), *trees[1:]]
    assert evaluate_trees(changed).fingerprint != pool


def test_results_are_written_whole_and_fit_the_schema(tmp_path: Path, schema: Draft202012Validator) -> None:
    trees = four_problems()
    evaluation = evaluate_trees(trees, {"arts": scored(trees)}, command=["arts", "evaluate", "pool"], seed=7)
    path = write_results(evaluation, tmp_path / "new" / "folder")
    result = json.loads(path.read_text())
    assert result == evaluation.to_json()
    assert (result["schema"], result["command"], result["seed"]) == (1, ["arts", "evaluate", "pool"], 7)
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]
    schema.validate(result)


def _remove(result: dict[str, Any], *path: str) -> None:
    for key in path[:-1]:
        result = result[key]
    del result[path[-1]]


@pytest.mark.parametrize(
    "damage",
    [
        lambda result: _remove(result, "seed"),
        lambda result: _remove(result, "selectors", "random"),
        lambda result: _remove(result, "selectors", "arts", "gap_closed"),
        lambda result: _remove(result, "pass_at_k", "1"),
        lambda result: _remove(result, "subsets", "rare"),
        lambda result: _remove(result, "cost", "verifier", "distinct_tokens"),
        lambda result: result["selectors"]["arts"]["at"]["4"].update(value=74.6),  # percent instead of a fraction
        lambda result: result["pass_at_k"].update({"@4": result["pass_at_k"]["4"]}),
        lambda result: result.update(num_samples=0),
        lambda result: result.update(schema=2),
    ],
)
def test_schema_refuses_damaged_results_and_takes_more_fields(damage: Any, schema: Draft202012Validator) -> None:
    trees = four_problems()
    result = evaluate_trees(trees, {"arts": scored(trees)}).to_json()
    schema.validate({**copy.deepcopy(result), "later_work": {"adds": "fields"}})
    damage(result)
    with pytest.raises(ValidationError):
        schema.validate(result)


def test_pools_that_cannot_be_compared_are_refused() -> None:
    trees = four_problems()
    with pytest.raises(ValueError, match="no trees"):
        evaluate_trees([])
    with pytest.raises(ValueError, match=r"\[3, 4\] main trajectories"):
        evaluate_trees([*trees, pool_tree([RIGHT] * 3)])
    with pytest.raises(ValueError, match=r"\[0\] main trajectories"):
        evaluate_trees([pool_tree([])])
    unjudged = replace(trees[0], nodes=tuple(replace(node, verdict=None) for node in trees[0].nodes))
    with pytest.raises(ValueError, match="'0' has no verdict"):
        evaluate_trees([unjudged, *trees[1:]])


@pytest.mark.parametrize("flow", [None, math.nan, math.inf])
def test_answers_without_a_finite_flow_are_refused(flow: float | None) -> None:
    trees = four_problems()
    broken = replace(trees[2], nodes=tuple(replace(node, log_flow=flow) for node in trees[2].nodes))
    with pytest.raises(ValueError, match="problem '2' has no finite log_flow"):
        evaluate_trees(trees, {"arts": scored([*trees[:2], broken, trees[3]])})


def test_verifier_that_scored_other_trees_is_refused() -> None:
    trees = four_problems()
    with pytest.raises(ValueError, match="scored 3 trees, but there are 4"):
        evaluate_trees(trees, {"arts": scored(trees[:3])})
    with pytest.raises(ValueError, match="problem '1' where problem '0' was drawn"):
        evaluate_trees(trees, {"arts": scored([trees[1], trees[0], *trees[2:]])})


@pytest.mark.parametrize("names", [["majority"], ["flow_vote"], ["a", "b", "b_flow_vote"]])
def test_verifier_names_may_not_clash_with_selectors(names: list[str]) -> None:
    trees = four_problems()
    with pytest.raises(ValueError, match="rename the verifier"):
        evaluate_trees(trees, {name: scored(trees) for name in names})
