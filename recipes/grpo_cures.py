"""Two cures of the squeeze in GRPO's place, through the same trainer, prompts, checker and number of draws.

    python recipes/grpo_cures.py flowrl --out runs/grpo/flowrl-0          # trajectory balance
    python recipes/grpo_cures.py deepsearch --out runs/grpo/deepsearch-0  # DeepSearch's tree advantages, not its search

They are the two that did best on toy trees (docs/squeeze.md), with the same functions of a group: only the advantages
that TRL's GRPO trains on are replaced. Takes the options of `GRPOSettings` as `--set KEY=VALUE`.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trl import GRPOTrainer

from arts.baselines.grpo import GRPOSettings, train_grpo
from arts.build import build_task
from arts.build.proposers import proposer_folder
from arts.console import progress
from arts.lm.load import load_causal_lm, quiet, use_threads
from arts.options import parse_options
from arts.squeeze.advantages import trajectory_balance
from arts.squeeze.tree_advantages import deep_search
from arts.tasks.countdown import STEP_SEPARATOR

NUM_STEPS = 3  # of a solution with 4 numbers
INVERSE_TEMPERATURE = 5.0  # of the reward, as on the toy trees: a right solution gains e^5 over a wrong one


class OwnAdvantages(GRPOTrainer):
    """GRPO's trainer with advantages of our own. One process. B draws, T tokens, in whole groups, one after another."""

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        rewards = super()._calculate_rewards(*args, **kwargs)
        self.reward_B = rewards[:, 0]
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.model.training:
            batch["advantages"] = self.advantages(batch).to(torch.float32)
        return batch

    def advantages(self, batch: dict[str, Any]) -> torch.Tensor:
        raise NotImplementedError

    def groups(self, values: torch.Tensor) -> np.ndarray:
        return values.double().cpu().numpy().reshape(-1, self.num_generations)


class TrajectoryBalance(OwnAdvantages):
    """TB / FlowRL: A = beta R + log pi_0 - log pi, less the mean of the group. Shape B."""

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        self.base = copy.deepcopy(model).eval().requires_grad_(False)
        super().__init__(model, *args, **kwargs)

    @torch.no_grad()
    def advantages(self, batch: dict[str, Any]) -> torch.Tensor:
        completion_BT, mask_BT = batch["completion_ids"], batch["completion_mask"]
        num_tokens = completion_BT.size(1)
        ids = torch.cat([batch["prompt_ids"], completion_BT], dim=1)
        mask = torch.cat([batch["prompt_mask"], mask_BT], dim=1)
        log_prob_BT = self._get_per_token_logps_and_entropies(self.model, ids, mask, num_tokens)[0]
        logits_BTV = self.base(ids, attention_mask=mask).logits[:, -num_tokens - 1 : -1] / self.temperature
        log_base_BT = logits_BTV.log_softmax(-1).gather(2, completion_BT[..., None])[..., 0]
        log_prob, log_base = (self.groups((each * mask_BT).sum(dim=1)) for each in (log_prob_BT, log_base_BT))
        found = trajectory_balance(self.groups(self.reward_B), log_prob, log_base, INVERSE_TEMPERATURE)
        return torch.from_numpy(found.ravel())


class TreeAdvantages(OwnAdvantages):
    """DeepSearch: values are backed up through the tree that a group's draws make; A = q - mean over siblings. BT."""

    def advantages(self, batch: dict[str, Any]) -> torch.Tensor:
        separator = self.processing_class.convert_tokens_to_ids(STEP_SEPARATOR)
        ids_BT = batch["completion_ids"]
        ends_BT = ids_BT == separator
        step_BT = (ends_BT.cumsum(dim=1) - ends_BT.long()).clamp(max=NUM_STEPS - 1)  # a separator ends its own step
        nodes = [
            _nodes(ids[mask.bool()].tolist(), steps[mask.bool()].tolist())
            for ids, mask, steps in zip(ids_BT, batch["completion_mask"], step_BT, strict=True)
        ]
        steps_GD = np.array(_numbered(nodes, self.num_generations))
        found = deep_search(steps_GD, self.groups(self.reward_B), int(steps_GD.max()) + 1)
        per_step = torch.from_numpy(found.reshape(-1, NUM_STEPS))
        return per_step.gather(1, step_BT.cpu())


def _nodes(ids: list[int], steps: list[int]) -> list[tuple[int, ...]]:
    """The node of every step: all tokens down to its end. Steps that were not written are nodes of their own."""
    last = max(steps, default=0)
    return [
        tuple(token for token, step in zip(ids, steps, strict=True) if step <= place) + (-1,) * max(0, place - last)
        for place in range(NUM_STEPS)
    ]


def _numbered(nodes: list[list[tuple[int, ...]]], group_size: int) -> list[list[list[int]]]:
    """Numbers in place of nodes, from 0 in every group."""
    groups = []
    for first in range(0, len(nodes), group_size):
        number: dict[tuple[int, ...], int] = {}
        members = nodes[first : first + group_size]
        groups.append([[number.setdefault(node, len(number)) for node in member] for member in members])
    return groups


CURES: dict[str, type[GRPOTrainer]] = {"flowrl": TrajectoryBalance, "deepsearch": TreeAdvantages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cure", choices=sorted(CURES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", dest="options", action="append", default=[], help="KEY=VALUE of GRPOSettings")
    args = parser.parse_args()
    use_threads(1)
    quiet()
    # One constant for all lengths: the advantages are of whole solutions, not of their mean token.
    settings = GRPOSettings(
        **parse_options(GRPOSettings, args.options, of="GRPOSettings"), extra={"loss_type": "dr_grpo"}
    )
    model = load_causal_lm(proposer_folder("countdown"))
    with progress(args.cure, settings.max_updates) as tell:
        result = train_grpo(
            model, build_task("countdown"), settings, args.out, watch=tell, trainer_class=CURES[args.cure]
        )
    print(result)


if __name__ == "__main__":
    main()
