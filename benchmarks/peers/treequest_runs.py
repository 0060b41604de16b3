"""Adapter of TreeQuest 0.3.3: AB-MCTS-A and its standard MCTS, over steps of a solution.

    .peers/treequest/bin/python benchmarks/peers/treequest_runs.py < job.json

Runs in TreeQuest's own environment and imports nothing of ours but `served`. TreeQuest has no client for a model: its
user writes a function from a parent's state to a new state and its score. Here a state is a solution so far, the
function asks the proposer for one more step and the verifier for the score of the text with it. Problems run side by
side in threads, one step of the search at a time inside a problem, as its documentation shows.
"""

import json
import random
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import treequest as tq
from served import Job, Solved, Verifier, chance, read_job, run

IDLE = 200  # steps of a search that ask for nothing, after which it ends: it has settled on what is finished


@dataclass(frozen=True)
class State:
    """A solution so far."""

    text: str
    finished: bool
    score: float


class Grow:
    """The function that TreeQuest wants: one more step below a parent. A finished parent comes back as it is."""

    def __init__(self, job: Job, problem: str) -> None:
        self.job, self.problem = job, problem
        self.verifier = Verifier(job.verifier_url, job.model, job.separator)
        self.calls = 0

    def __call__(self, parent: State | None) -> tuple[State, float]:
        if parent is not None and parent.finished:
            return parent, parent.score
        self.calls += 1
        text = (parent.text if parent else "") + self.next_step(parent.text if parent else "")
        (logit,) = self.verifier.logits([(self.problem, text)])
        state = State(text, not text.endswith(self.job.separator), chance(logit))
        return state, state.score

    def next_step(self, text: str) -> str:
        messages = [{"role": "user", "content": self.problem}]
        body: dict[str, Any] = {
            "model": self.job.model,
            "temperature": self.job.temperature,
            "max_tokens": self.job.max_new_tokens,
            "stop": self.job.separator,
            "include_stop_str_in_output": True,
        }
        if text:
            messages.append({"role": "assistant", "content": text})
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        request = urllib.request.Request(
            f"{self.job.proposer_url}/chat/completions",
            json.dumps(body | {"messages": messages}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            return str(json.load(answer)["choices"][0]["message"]["content"])


def algorithm_of(job: Job) -> Any:
    if job.method == "ab-mcts-a":
        return tq.ABMCTSA(dist_type=job.options["dist_type"])
    if job.method == "mcts":
        return tq.StandardMCTS(
            samples_per_action=int(job.options["samples"]), exploration_weight=float(job.options["exploration"])
        )
    raise ValueError(f"treequest has no method {job.method!r} here")


def solve(job: Job, place: int, problem: str) -> Solved:
    """Search until the model was asked `n` times; the best finished solution is the answer."""
    algorithm, grow = algorithm_of(job), Grow(job, problem)
    tree, idle = algorithm.init_tree(), 0
    while grow.calls < int(job.options["n"]) and idle < IDLE:
        before = grow.calls
        tree = algorithm.step(tree, {"step": grow}, inplace=True)
        idle = idle + 1 if grow.calls == before else 0
    return Solved(place, chosen([state for state, _ in algorithm.get_state_score_pairs(tree)]))


def chosen(states: Iterable[State]) -> str:
    """`top_k` ranks partial solutions too, which are no answers."""
    finished = [state for state in states if state.finished]
    return max(finished, key=lambda state: state.score).text if finished else ""


def main() -> None:
    job = read_job()
    random.seed(job.seed)
    np.random.seed(job.seed)

    def solve_all() -> Iterable[Solved]:
        with ThreadPoolExecutor(job.in_flight) as pool:
            yield from pool.map(lambda numbered: solve(job, *numbered), enumerate(job.problems))

    run(job, "treequest", solve_all)


if __name__ == "__main__":
    main()
