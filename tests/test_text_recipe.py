"""The recipe for real text: verdicts on made-up solutions are exact, and the backbone reads them as a verifier will."""

import json
import random
import re
import sys
from contextlib import redirect_stdout
from fractions import Fraction
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import ROOT

from arts.evaluate.rows import write_rows
from arts.lm.load import load_backbone, load_causal_lm
from arts.protocols import ScoredTrees, ScoreScale
from arts.rollouts.importing import ImportSettings, import_rollouts
from arts.store import load_trees
from arts.tree import Problem, Rollout, Step, StopReason, build_tree
from arts.verifier.model import load_verifier


def recipe(name: str) -> ModuleType:
    """A script of the recipes as a module; they know each other by their folder."""
    sys.path.insert(0, str(ROOT / "recipes"))
    try:
        return __import__(name)
    finally:
        sys.path.remove(str(ROOT / "recipes"))


def run_recipe(name: str, *arguments: object) -> str:
    """What it prints."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as said:
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        recipe(name).main()
    return said.getvalue()


chains = recipe("game24_chains")
EQUATION = re.compile(r"(?:Steps:\n)?(\d+) ([-+*/]) (\d+) = (\d+) \(left: ([\d ]+)\)\n")


def value_of(text: str) -> Fraction:
    return eval(re.sub(r"(\d+)", r"Fraction(\1)", text), {"Fraction": Fraction})  # noqa: S307 our own text


def slow_verdicts(chain: chains.Chain) -> list[str]:
    """Each verdict from the texts alone."""
    puzzle = sorted(re.findall(r"\d+", chain.prompt.partition(" and ")[0]))
    left, verdict, found = list(puzzle), chains.RIGHT, []
    for step in chain.steps[:-1]:
        match = EQUATION.fullmatch(step)
        assert match is not None, step
        rest = list(left)
        is_there = all(number in rest and not rest.remove(number) for number in (match[1], match[3]))
        is_true = match[3] != "0" or match[2] != "/"
        is_true = is_true and value_of(f"{match[1]}{match[2]}{match[3]}") == int(match[4])
        if verdict == chains.RIGHT:
            verdict = chains.RIGHT if is_there and is_true else chains.WRONG if is_there else chains.NUMBERS
        found.append(verdict)
        left = [*rest, match[4]]
    match = re.fullmatch(r"Answer: ([-+*/() \d]+) = -?\d+", chain.steps[-1])
    if match is None:
        assert chain.steps[-1] in chains.GIVING_UP
        return [*found, chains.WRONG]
    if sorted(re.findall(r"\d+", match[1])) != puzzle:
        return [*found, chains.NUMBERS]
    try:
        return [*found, chains.RIGHT if value_of(match[1]) == 24 else chains.WRONG]
    except ZeroDivisionError:
        return [*found, chains.WRONG]


def test_verdicts_on_made_up_solutions_are_those_of_a_slow_reader() -> None:
    rng, last = random.Random(0), []
    for _ in range(600):
        chain = chains.made_up_chain(rng, frozenset())
        assert list(chain.verdicts) == slow_verdicts(chain), chain
        last.append(chain.verdicts[-1])
    for verdict in chains.VERDICTS:
        assert 0.2 < last.count(verdict) / len(last) < 0.5


def test_puzzles_that_are_left_out_are_never_drawn() -> None:
    rng = random.Random(1)
    seen = {chains.random_puzzle(rng, frozenset()) for _ in range(300)}
    left_out = frozenset(list(seen)[:150])
    assert left_out.isdisjoint(chains.random_puzzle(rng, left_out) for _ in range(2000))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps of training of a tiny model."""
    folder = tmp_path_factory.mktemp("backbone")
    texts, left_out = folder / "texts.jsonl", folder / "left_out.jsonl"
    rows = [f'{{"problem": "What is {one} + 1?", "solution": "It is {one + 1}, of course."}}\n' for one in range(300)]
    texts.write_text("".join(rows))
    left_out.write_text(rows[7] + '{"problem": "Make 24 using 4, 6, 7, 7. You can", "solution": "?"}\n')
    arguments = [
        *(texts, "--leave-out", left_out, "--out", folder, "--vocab-size", 300, "--hidden-size", 16),
        *("--num-layers", 1, "--mlp-size", 16, "--row-tokens", 16, "--batch-chains", 4, "--checkpoint-every-s", 0),
    ]
    said = run_recipe("text_backbone", *arguments, "--num-steps", 4)
    assert "299 texts" in said
    assert "1 puzzles left out" in said
    assert "is there already" in run_recipe("text_backbone", *arguments, "--num-steps", 4)
    return folder / "model"


def test_a_verifier_reads_a_chain_as_the_backbone_was_trained_to(backbone: Path) -> None:
    script, loaded = recipe("text_backbone"), load_causal_lm(backbone)
    settings = script.Settings(batch_chains=1)
    for seed in range(20):
        chain = chains.made_up_chain(random.Random(seed), frozenset())
        ids_BT, verdict_BT = script.chain_batch(random.Random(seed), frozenset(), loaded.tokenizer, settings)
        stops = [StopReason.STOP] * (len(chain.steps) - 1) + [StopReason.EOS]
        steps = tuple(Step(text, (), None, stop) for text, stop in zip(chain.steps, stops, strict=True))
        tree = build_tree(Problem("p", chain.prompt), [Rollout(0, 0, 0, steps)])
        nodes = loaded.text.node_ids(tree)
        assert ids_BT[0].tolist() == [token for ids in nodes for token in ids]
        ends = torch.tensor([len(ids) for ids in nodes]).cumsum(0)[1:] - 1
        assert (verdict_BT[0] != -100).nonzero().flatten().tolist() == ends.tolist()
        assert tuple(loaded.tokenizer.convert_ids_to_tokens(verdict_BT[0, ends].tolist())) == chain.verdicts
    tokens = loaded.tokenizer.tokenize("13 - 7 = 6 (left: 6 12)")
    assert [token for token in tokens if token.strip().isdecimal()] == ["13", " 7", " 6", " 6", " 12"]


def test_the_untrained_verifier_scores_as_the_backbone_says(backbone: Path, tmp_path: Path) -> None:
    run_recipe("verdict_verifier", "--backbone", backbone, "--out", tmp_path / "v")
    verifier, loaded = load_verifier(tmp_path / "v", base=backbone), load_causal_lm(backbone)
    hidden_BH = torch.randn(5, 16)
    ids = loaded.tokenizer.convert_tokens_to_ids(list(chains.VERDICTS))
    said_BV = loaded.model.lm_head(hidden_BH)[:, ids]
    expected_B1 = said_BV[:, :1] - said_BV[:, 1:].mean(1, keepdim=True)
    torch.testing.assert_close(verifier.read(hidden_BH), expected_B1)
    assert load_backbone(backbone).tokenizer_fingerprint == loaded.tokenizer_fingerprint


def test_the_table_gives_a_policys_draws_the_scores_that_the_pools_have(tmp_path: Path) -> None:
    rows = [
        {
            "problem": f"What is {one}?",
            "samples": [
                {"policy": policy, "text": f"{policy} {draw} of {one}", "correct": (draw + one) % 2 == 0}
                for policy in "ab"
                for draw in range(2)
            ],
        }
        for one in range(12)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_rollouts(tmp_path / "a.jsonl", tmp_path / "gym", ImportSettings(pool=True, num_folds=2))
    import_rollouts(tmp_path / "a.jsonl", tmp_path / "gym-policies", ImportSettings(num_folds=2))
    for fold in range(2):
        trees = load_trees(tmp_path / "gym" / f"fold-{fold}")
        told = [
            tree.with_log_flows([float(bool(node.verdict and node.verdict.correct)) for node in tree.nodes])
            for tree in trees
        ]
        write_rows(trees, {"arts": ScoredTrees(told, 0, 0, ScoreScale())}, tmp_path / f"evaluation-gym-{fold}")
    table = recipe("real_text_table")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "TEST_FOLDS", {"gym": (0, 1), "not run": (0,)})
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.lines(tmp_path)][2:]
    of = {(cell[0], cell[3]): cell for cell in cells}
    assert {cell[1] for cell in cells} == {"12"}
    for name, draws in (("gym", "4 of 4"), ("a", "2 of 2"), ("b", "2 of 2")):
        assert of[name, "ARTS"][2] == draws
        assert of[name, "ARTS"][4].startswith("100.0%"), "the right draw of each problem has the highest score"
        assert of[name, "random pick"][4].startswith("50.0%")
        assert of[name, "ARTS"][5].startswith("+50.0")
