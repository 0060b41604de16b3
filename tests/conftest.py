"""What all tests share: one thread, no network, the folder of real data, and (later) the fakes."""

import os

# Before torch is imported: two threads on two busy cores are slower than one, and rounding depends on their number.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def arts_data() -> Path:
    """The folder of real problems and rollouts, $ARTS_DATA; it is not part of the repository."""
    folder = Path(os.environ.get("ARTS_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no folder of real problems and rollouts; name one in ARTS_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny random model, `qwen2`, `gpt2` or `llama` (tests/tiny_models.py); made on first use."""

    @cache
    def folder(name: str) -> Path:
        import tiny_models

        path: Path = getattr(tiny_models, f"save_{name}")(tmp_path_factory.mktemp(name))
        return path

    return folder
