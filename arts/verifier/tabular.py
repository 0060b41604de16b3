"""The tabular verifier: one free row of outputs for every state of a toy tree, fitted to any objective.

Nothing stands between the loss and the numbers, no network, no step size, no early stop: what comes out is what the
objective itself makes of the trees it was shown. A state is the text of a prefix, so trees, and unmerged copies inside
one tree, share its row. Knows the toy tree for its states, not for its exact values.

Shapes: S states (nodes of the toy tree), N nodes of all sampled trees, K outputs.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from arts.facts import Floats
from arts.tasks.toy import ToyTree
from arts.tree import ReasoningTree
from arts.verifier.objectives import Batch, Objective, RewardSettings, TreeFacts, join_targets
from arts.verifier.objectives.base import Bootstrapped


def fit_tabular(objective: Objective, toy: ToyTree, trees: Sequence[ReasoningTree], rewards: RewardSettings) -> Floats:
    """log F of every state [S] at the minimum of the loss over all trees; NaN at states the loss does not depend on.

    An output that wants to be infinite (the logit of a leaf that is always right) ends where its slope has vanished.
    """
    state_N = _states(toy, trees)
    facts = [TreeFacts.of(tree) for tree in trees]
    batch = join_targets([objective.targets(one, rewards) for one in facts], [len(tree.nodes) for tree in trees])
    shape = (len(toy.parents), objective.num_outputs)
    if isinstance(objective, Bootstrapped) and objective.target == "bootstrap" and objective.stop_gradient:
        # A target that is held fixed is no slope to go down: fit, make the targets anew, one level of the tree a round.
        output_SK = torch.zeros(shape, dtype=torch.float64)
        held = replace(objective, target="monte_carlo")
        for _ in range(1 + max(int(one.depth.max()) for one in facts)):
            target = objective.batch_target(output_SK[state_N, 0], batch, rewards)
            output_SK = _minimise(held, {**batch, "target": target}, state_N, output_SK, rewards)
    else:
        output_SK = _minimise(objective, batch, state_N, torch.zeros(shape, dtype=torch.float64), rewards)
    seen_S = _depends_on(objective, batch, state_N, shape, rewards)
    log_flow_S = objective.log_flow(output_SK, rewards)
    return np.asarray(torch.where(seen_S, log_flow_S, torch.nan).numpy(), dtype=np.float64)


def _states(toy: ToyTree, trees: Sequence[ReasoningTree]) -> torch.Tensor:
    """The state of every node [N]."""
    found = []
    for tree in trees:
        texts = [""]
        for node in tree.nodes[1:]:
            texts.append(texts[node.parent] + node.text)
        for text in texts:
            state = toy.find(text)
            if state is None:
                raise ValueError(f"{text!r} of problem {tree.problem.id!r} is no path of the toy tree; give its trees")
            found.append(state)
    return torch.tensor(found)


def _minimise(
    objective: Objective, batch: Batch, state_N: torch.Tensor, start_SK: torch.Tensor, rewards: RewardSettings
) -> torch.Tensor:
    """The outputs [S, K] of least loss. Deterministic: full batch, float64."""
    # In units of 1 / sqrt(visits) rare states have the curvature of frequent ones, which saves most of the iterations.
    unit_S1 = torch.bincount(state_N, minlength=len(start_SK)).clamp(min=1).double().rsqrt()[:, None]
    free_SK = (start_SK / unit_S1).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [free_SK],
        max_iter=1000,
        history_size=20,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = objective.loss((free_SK * unit_S1)[state_N], batch, rewards)
        total = loss.total * (len(state_N) / loss.weight)
        total.backward()
        return total

    optimizer.step(closure)
    return (free_SK * unit_S1).detach()


def _depends_on(
    objective: Objective, batch: Batch, state_N: torch.Tensor, shape: tuple[int, int], rewards: RewardSettings
) -> torch.Tensor:
    """The states whose first output has a slope at a random place [S]."""
    generator = torch.Generator().manual_seed(0)
    output_SK = torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
    (slope_SK,) = torch.autograd.grad(objective.loss(output_SK[state_N], batch, rewards).total, output_SK)
    return slope_SK[:, 0].abs() > 1e-9
