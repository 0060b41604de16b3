"""The comparison with GRPO: its cures give the advantages they name, the tables of the docs are those of its rows."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("trl", reason='needs pip install "arts-llm[grpo]"')

import torch

from arts.baselines.grpo import GRPOSettings, train_grpo
from arts.build.proposers import proposer_folder
from arts.lm.load import load_causal_lm
from arts.squeeze.tree_advantages import deep_search
from arts.tasks.countdown import CountdownTask
from arts.tree import Problem, Rollout, Step, StopReason, build_tree

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def cures() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "recipes" / "grpo_cures.py"))


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "recipes" / "grpo_table.py"))


def test_every_token_has_the_tree_advantage_of_its_step(cures: dict[str, Any]) -> None:
    tokenizer = load_causal_lm(proposer_folder("countdown")).tokenizer
    texts = ["1+2=3|3 4;4+3=7|7;", "1+2=3|3 4;4-3=1|1;", "2-1=1|1 4;4+1=5|5;", "2-1=1|1 4"]
    steps_GD = np.array(
        [[0, 1, 2], [0, 3, 4], [5, 6, 7], [8, 9, 10]]
    )  # the last one has no separator: a node of its own
    reward = np.array([1.0, 0.0, 0.0, 0.0])
    rows = [tokenizer(text)["input_ids"] for text in texts]
    longest = max(map(len, rows))
    batch = {
        "completion_ids": torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows]),
        "completion_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
    }
    trainer = SimpleNamespace(processing_class=tokenizer, num_generations=4, reward_B=torch.tensor(reward))
    trainer.groups = lambda values: values.double().numpy().reshape(-1, 4)
    found = cures["TreeAdvantages"].advantages(trainer, batch)
    wanted = deep_search(steps_GD, reward, 11)
    separator = tokenizer.convert_tokens_to_ids(";")
    for draw, row in enumerate(rows):
        place = 0
        for token, advantage in zip(row, found[draw].tolist(), strict=False):
            assert advantage == pytest.approx(wanted[draw, place])
            place = min(place + (token == separator), 2)


def test_trajectory_balance_starts_at_the_base(cures: dict[str, Any], tmp_path: Path) -> None:
    """Before the first update pi = pi_0, so that only the reward is left: beta (R - mean R)."""
    seen = []

    class Watched(cures["TrajectoryBalance"]):  # type: ignore[misc]
        def advantages(self, batch: dict[str, Any]) -> torch.Tensor:
            found: torch.Tensor = super().advantages(batch)
            seen.append((self.reward_B.clone().reshape(-1, 4), found.reshape(-1, 4)))
            return found

    settings = GRPOSettings(
        group_size=4, problems_per_update=4, max_updates=2, num_problems=16, validation_problems=0, learning_rate=1e-3
    )
    model = load_causal_lm(proposer_folder("countdown"))
    train_grpo(model, CountdownTask(), settings, tmp_path, trainer_class=Watched)
    (reward, first), (_, second) = seen
    assert reward.std() > 0
    expected = 5 * (reward - reward.mean(dim=1, keepdim=True))
    assert torch.allclose(first, expected.double(), atol=1e-4)
    assert float(second.sum(dim=1).abs().max()) < 1e-6
    assert not torch.allclose(second, second.round(), atol=1e-3)  # by now the policy has left the base


def test_the_pages_hold_the_tables_of_the_rows(tables: dict[str, Any]) -> None:
    rows = tables["Rows"](tables["RESULTS"])
    for page in tables["PAGES"]:
        text = page.read_text(encoding="utf-8")
        assert tables["PLACE"].search(text), f"{page.name} has no place for a table"
        assert tables["filled"](text, rows) == text, f"run: python recipes/grpo_table.py ({page.name})"


def test_a_zone_is_what_its_own_seed_never_solves(tables: dict[str, Any], tmp_path: Path) -> None:
    lines = []
    for pool, draws, right, of_16 in (
        ("base", 256, "0 3 90 256", "0 1 8 16"),
        ("grpo-0", 64, "9 0 64 64", "0 0 16 16"),
        ("grpo-1", 64, "0 8 0 64", "0 2 0 16"),
    ):
        row = {"row": "draws", "pool": pool, "num_draws": draws, "right": right, "right_of_16": of_16}
        lines.append(json.dumps(row | {"different": "1 1 1 1", "tokens": 27}))
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    rows = tables["Rows"](path)
    of = tables["subsets"](rows)
    assert [mask.tolist() for mask in of["extinction zone (GRPO 0 of 16)"]] == [
        [True, True, False, False],
        [True, False, True, False],
    ]
    strict = of["strict (and base 1+ of 240 others)"]
    assert [mask.tolist() for mask in strict] == [[False, True, False, False], [False, False, True, False]]
    found = tables["over_seeds"]([np.array([0, 0.5, 0, 1]), np.array([0, 0, 1, 1])], strict)
    assert found.value == pytest.approx((0.5 + 1) / 2)
    assert rows.others_at("grpo-0", 48).tolist() == [1, 0, 1, 1]
    assert rows.others_at("grpo-0", 1)[0] == pytest.approx(9 / 48)


def test_the_first_draws_of_a_pool_are_a_tree_of_their_own() -> None:
    first_draws = runpy.run_path(str(ROOT / "recipes" / "grpo_rows.py"))["first_draws"]
    texts = ["a;b", "a;c", "d", "a;b", "e;f"]
    rollouts = [
        Rollout(index, index, 0, tuple(Step(part, (), -1.0, StopReason.EOS) for part in text.split(";")))
        for index, text in enumerate(texts)
    ]
    tree = build_tree(Problem(id="p", prompt="p"), rollouts)
    for number in range(1, 6):
        kept = first_draws(tree, number)
        assert [kept.text(leaf) for leaf in kept.trunks] == [tree.text(leaf) for leaf in tree.trunks[:number]]
        assert len(kept.nodes) == 1 + len(
            {tuple(text.split(";")[: n + 1]) for text in texts[:number] for n in range(text.count(";") + 1)}
        )
