"""Where commands draw and search: on this machine, or on the workers of a Ray cluster. Says what both build."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from arts.cli.shared import advice_on, check_forks, choice, say_advice, use_torch_threads

if TYPE_CHECKING:
    from arts.protocols import Task
    from arts.scale.workers import ClusterSettings, Identity, Tools, Workers

ENGINE = Annotated[
    str, typer.Option(help='local, or ray: on the machines of a Ray cluster (pip install "arts-llm[ray]")')
]
ADDRESS = Annotated[
    str | None, typer.Option(help="of the Ray cluster, HOST:PORT. Default: the one at hand, or one for this run")
]
WORKERS = Annotated[
    int | None, typer.Option("--workers", min=1, help="on the cluster. Default: as many as its nodes have room for")
]
CPUS = Annotated[float | None, typer.Option(min=0, help="of a worker, as Ray counts them. Default: 1")]
GPUS = Annotated[float | None, typer.Option(min=0, help="of a worker; 0.5: two share one. Default: 0")]


def cluster_settings(
    engine: str,
    *,
    address: str | None,
    workers: int | None,
    cpus_per_worker: float | None,
    gpus_per_worker: float | None,
    block_size: int | None = None,
    device: str,
    needs_torch: bool,
) -> "ClusterSettings | None":
    """None for the local engine. Raises ValueError where options do not go together.

    Args:
        block_size: where it means nothing to the local engine; None where it does, or was not given.
    """
    choice("engine", engine, ("local", "ray"))
    given = {
        "--address": address,
        "--workers": workers,
        "--cpus-per-worker": cpus_per_worker,
        "--gpus-per-worker": gpus_per_worker,
        "--block-size": block_size,
    }
    if engine == "local":
        if ignored := [name for name, value in given.items() if value is not None]:
            raise ValueError(f"{', '.join(ignored)}: for --engine ray only")
        return None
    from arts.scale.workers import ClusterSettings

    if needs_torch and device.startswith("cuda") and not gpus_per_worker:
        raise ValueError(f"--device {device}: Ray shows a worker the GPUs that it asks for; give --gpus-per-worker 1")
    if needs_torch and device == "cpu" and gpus_per_worker:
        raise ValueError(f"workers would hold {gpus_per_worker:g} GPUs each and not use them; give --device cuda")
    return ClusterSettings(
        address=address,
        num_workers=workers,
        cpus_per_worker=1 if cpus_per_worker is None else cpus_per_worker,
        gpus_per_worker=gpus_per_worker or 0,
    )


@dataclass(frozen=True, kw_only=True)
class ToolNames:
    """What is drawn and searched with, by the names that users type. It travels to workers; calling it builds it."""

    task: str
    proposer: str
    temperature: float
    top_p: float
    device: str
    threads: int
    needs_torch: bool
    keep_tokens: int = 0
    "whose keys and values a local proposer keeps between calls: for searches"
    verifier: str | None = None
    backbone: str | None = None
    scored: bool = False
    "False: the verifier is named in what is written, and not asked"
    folder: str
    "that names of files are relative to; on a cluster it is on all machines, as the files are"

    def __call__(self, task: "Task | None" = None) -> "Tools":
        """Args:
        task: where it was built already, as it is on the driver.
        """
        from arts.build import build_proposer, build_step_scorer, build_task, verifier_identity
        from arts.scale.workers import Tools

        with suppress(OSError):  # where no files are named, that folder does not matter
            os.chdir(self.folder)
        use_torch_threads(self.threads, needed=self.needs_torch)
        task = task or build_task(self.task)
        sampling = {"temperature": self.temperature, "top_p": self.top_p}
        proposer = build_proposer(self.proposer, task, **sampling, device=self.device, keep_tokens=self.keep_tokens)
        if self.verifier is None:
            return Tools(task, proposer)
        scorer = None
        if self.scored:
            scorer = build_step_scorer(self.verifier, proposer, base=self.backbone, device=self.device)
        return Tools(task, proposer, scorer, verifier_identity(self.verifier))


@contextmanager
def workers_of(
    cluster: "ClusterSettings", names: ToolNames, *, pivots: str = "none"
) -> "Iterator[tuple[Workers, Identity]]":
    """Workers, and what decides their results, once one of them has built its tools. Says what should be known."""
    from arts.scale.workers import connected_workers

    def say(line: str) -> None:
        print(f"note: {line}", file=sys.stderr, flush=True)

    with connected_workers(names, cluster, say=say) as workers:
        identity, advice = workers.first(partial(_look, pivots=pivots))
        say_advice(advice)
        yield workers, identity
        if workers.restarted:
            say(f"{len(workers.restarted)} workers were lost and started again; what they were at was done again")


def _look(tools: "Tools", *, pivots: str) -> list[str]:
    """On a worker."""
    check_forks(tools.proposer, pivots)
    return advice_on(tools.proposer)
