"""From the names a user types to the objects they stand for. torch is imported only when a model is asked for."""

import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import arts
from arts.models import SHIPPED_PROPOSERS, SHIPPED_VERIFIERS, shipped_folder
from arts.protocols import Task

if TYPE_CHECKING:
    from arts.protocols import Proposer
    from arts.verifier.model import FlowVerifier, VerifierSettings

LOCAL_HINT = 'local models need torch: pip install "arts-llm[local]"'


def build_task(name: str) -> Task:
    """`countdown` (4 numbers), `countdown:5`, or `toy`."""
    from arts.tasks.countdown import CountdownTask
    from arts.tasks.toy import ToyTask

    kind, *arguments = name.split(":")
    if kind == "countdown" and (not arguments or (len(arguments) == 1 and arguments[0].isdecimal())):
        return CountdownTask(*map(int, arguments))
    if kind == "toy":
        shape = re.fullmatch(r"(\d)x(\d)(:rare)?", ":".join(arguments) or "3x3")
        if shape:
            return ToyTask(int(shape[1]), int(shape[2]), rare=bool(shape[3]))
    raise ValueError(
        f"unknown task {name!r}; tasks are 'countdown', 'countdown:N' with N from 3 to 6, "
        "and 'toy' or 'toy:ARITYxDEPTH[:rare]'"
    )


def build_proposer(
    name: str, task: Task, *, temperature: float = 1.0, top_p: float = 1.0, device: str = "cpu"
) -> "Proposer":
    """`countdown` (the shipped model), `hf:FOLDER`, or `table` (the toy task's own probabilities)."""
    if name == "table":
        from arts.proposers.table import TableProposer

        if not task.name.startswith("toy:"):
            raise ValueError("proposer 'table' draws from the toy task only; use it with --task toy")
        return TableProposer(temperature=temperature)
    from arts.lm.load import load_causal_lm
    from arts.proposers.hf import HFProposer, Sampling

    sampling = Sampling(temperature=temperature, top_p=top_p)
    language_model = load_causal_lm(proposer_folder(name), device=device)
    return HFProposer(language_model, step_separator=task.step_separator, sampling=sampling)


def proposer_folder(name: str) -> Path:
    """Folder of a proposer or backbone: a shipped name, `hf:FOLDER`, or a folder."""
    if name in SHIPPED_PROPOSERS:
        return shipped_folder(SHIPPED_PROPOSERS[name])
    if name.startswith(("http://", "https://")):
        raise ValueError(f"proposer {name!r}: servers are not supported yet; use 'countdown' or 'hf:FOLDER'")
    folder = Path(name.removeprefix("hf:"))
    if not folder.is_dir():
        known = ", ".join(f"'{shipped}'" for shipped in SHIPPED_PROPOSERS)
        raise ValueError(
            f"there is no model folder {name!r}; allowed are {known} (shipped) and 'hf:FOLDER' for a local folder"
        )
    return folder


def build_verifier(name: str, *, base: str | None = None, device: str = "cpu") -> "FlowVerifier":
    """`countdown` (the shipped verifier) or a folder that `arts train` wrote; `base` is for LoRA verifiers."""
    from arts.verifier.model import load_verifier

    folder = shipped_folder(SHIPPED_VERIFIERS[name]) if name in SHIPPED_VERIFIERS else Path(name)
    return load_verifier(folder, base=proposer_folder(base) if base else None, device=device)


def build_new_verifier(
    backbone: str, settings: "VerifierSettings", *, device: str = "cpu", seed: int = 0
) -> "FlowVerifier":
    """An untrained verifier on a backbone; the seed decides its head and adapters."""
    from arts.lm.load import load_backbone
    from arts.verifier.model import new_verifier

    language_model = load_backbone(proposer_folder(backbone), device=device)
    return new_verifier(language_model, settings, base=backbone.removeprefix("hf:"), seed=seed)


def about() -> dict[str, Any]:
    """What made an output folder: versions, commit, date. Never part of what decides a result."""
    versions = {"arts": arts.__version__, "python": platform.python_version()}
    for module in ("torch", "transformers", "numpy"):
        if module in sys.modules:
            versions[module] = str(sys.modules[module].__version__)
    return {"versions": versions, "commit": _commit(), "date": datetime.now(UTC).strftime("%Y-%m-%d")}


def _commit() -> str | None:
    """Commit of the checkout this package runs from; None for an installed wheel."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        run = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None
