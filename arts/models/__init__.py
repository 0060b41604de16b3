"""Weights that ship with the package, by name. Each folder has a model card in its README.md."""

from pathlib import Path

SHIPPED_PROPOSERS = {"countdown": "countdown-proposer"}
SHIPPED_VERIFIERS = {"countdown": "countdown-verifier"}


def shipped_folder(folder_name: str) -> Path:
    """Folder of shipped weights.

    Raises:
        ValueError: the installation lacks it.
    """
    folder = Path(__file__).parent / folder_name
    if not (folder / "config.json").is_file() and not (folder / "verifier.json").is_file():
        raise ValueError(f"this installation lacks the shipped model {folder_name!r}; install the package again")
    return folder
