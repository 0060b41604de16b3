"""Collect Sparse Deep Fork trees in a folder, and lose nothing: a killed run goes on inside the problem.

Knows files and what decides them. How one machine draws is in `arts.draw`, how many do in `arts.scale`.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from arts.draw import CollectRun, Progress, Watch, draw
from arts.protocols import Proposer, ProposerIdentity, Task
from arts.sparse_deep_fork import CollectSettings
from arts.store import Collection, create_collection
from arts.tree import Problem

__all__ = ["Progress", "Watch", "collect", "opened", "run_header"]


def collect(
    task: Task,
    proposer: Proposer,
    settings: CollectSettings,
    folder: Path,
    *,
    about: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> Collection:
    """Draw trees into a folder, or finish the run that was started there.

    The result is the same whether or not the run was interrupted: draws depend on seeds made from the problem and the
    rollout's index, and a block of a proposer whose rounding depends on the batch is drawn again as a whole. Draws that
    a server failed at are in the trees as such, and are tried again by the same call.

    Raises:
        ValueError: the folder holds a collection made with other settings, is being written by another process, or
            cannot be written to; or the server is down. What was drawn is kept.
    """
    with opened(task, proposer, settings, folder, about=about) as (collection, problems):
        draw(CollectRun(task, settings, collection, problems, watch), proposer)
    return collection


@contextmanager
def opened(
    task: Task,
    proposer: ProposerIdentity,
    settings: CollectSettings,
    folder: Path,
    *,
    about: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Collection, list[Problem]]]:
    """The collection of a run, locked as long as it is drawn into, and its problems."""
    stream = task.problems(settings.split, settings.seed)
    problems = list(islice(stream, settings.first_problem, settings.first_problem + settings.num_problems))
    if len(problems) < settings.num_problems:
        raise ValueError(
            f"task {task.name} has {len(problems)} problems in split {settings.split} from place "
            f"{settings.first_problem} on, and {settings.num_problems} were asked for"
        )
    collection = create_collection(folder, run_header(task, proposer, settings, problems), about=about)
    with collection.lock():
        yield collection, problems


def _digest(problems: Sequence[Problem]) -> str:
    """Names the problems, where a file that may change decides them."""
    return hashlib.sha256("\n".join(problem.id for problem in problems).encode()).hexdigest()[:16]


def run_header(
    task: Task, proposer: ProposerIdentity, settings: CollectSettings, problems: Sequence[Problem] = ()
) -> dict[str, Any]:
    own = asdict(settings)
    if settings.forks_per_pivot == 1:
        del own["forks_per_pivot"]  # it came later: collections made before go on
    return {
        "task": task.name,
        **({"problems": _digest(problems)} if getattr(task, "problems_may_change", False) else {}),
        "proposer": proposer.fingerprint,
        "tokenizer": proposer.tokenizer_fingerprint,
        "log_prior_law": proposer.log_prior_law,
        "settings": own,
    }
