"""Adapter of ARTS: its searches with the same two servers, or with the verifier in this process.

    python benchmarks/peers/arts_runs.py < job.json

The method is a strategy as on the command line. Options: `generated_tokens` or `verifier_tokens`, the budget of a
problem, and `verifier`: `served` (whole paths go to the server, as with every other tool) or `here` (keys and values
are kept a step, which only a verifier in the process can do; what it computes is then in our own bill alone).
"""

from collections.abc import Iterable

from served import Job, Solved, read_job, run

from arts.build import build_task
from arts.build.proposers import build_proposer
from arts.build.verifiers import build_step_scorer
from arts.lm.load import use_threads
from arts.protocols import Proposer, StepScorer, Task
from arts.search.budget import Budget
from arts.search.driver import run_searches
from arts.search.program import Search
from arts.search.strategies import parse_strategy

BUDGETS = ("generated_tokens", "verifier_tokens")


def scorer_of(job: Job, proposer: Proposer) -> StepScorer:
    if job.options["verifier"] == "here":
        return build_step_scorer(job.places["trained"], proposer, base=job.places["backbone"] or None)
    url = f"{job.verifier_url}/v1#{job.model}?folder={job.places['exported']}&max_in_flight={job.in_flight}"
    return build_step_scorer(url, proposer)


def solve_all(job: Job, task: Task, proposer: Proposer, scorer: StepScorer) -> Iterable[Solved]:
    budget = Budget(**{name: job.options[name] for name in BUDGETS if name in job.options})

    def search(problem: str) -> Search:
        return Search(
            task.parse(problem),  # type: ignore[attr-defined]
            parse_strategy(job.method),
            budget,
            judge=lambda text: task.judge(task.parse(problem), text),  # type: ignore[attr-defined]
            max_new_tokens=job.max_new_tokens,
            scale=scorer.scale,
            verifier_caches=scorer.caches,
            seed=job.seed,
        )

    for place, result in run_searches(map(search, job.problems), proposer, scorer):
        if result.stopped.startswith("failed"):
            raise RuntimeError(f"{job.problems[place]}: the search {result.stopped}: {result.last_failure}")
        yield Solved(place, result.text or "", result.bill._asdict())


def main() -> None:
    use_threads(1)
    job = read_job()
    task = build_task("countdown" if job.num_steps == 3 else f"countdown:{job.num_steps + 1}")
    proposer = build_proposer(f"{job.proposer_url}#{job.model}?max_in_flight={job.in_flight}", task)
    scorer = scorer_of(job, proposer)
    run(job, "arts-llm", lambda: solve_all(job, task, proposer, scorer))


if __name__ == "__main__":
    main()
