"""`arts --help`, trees, the store, search, evaluation and the HTTP proposer work without torch installed."""

import pkgutil
import subprocess
import sys
import tomllib

from conftest import ROOT

import arts

# `report` is an extra as well, so matplotlib is imported where a plot is drawn.
NOT_INSTALLED = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "matplotlib")

# A finder that refuses these packages, as an environment without them does.
BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {NOT_INSTALLED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""


def model_modules() -> set[str]:
    """The modules that may import torch: the exceptions of the forbidden contract in pyproject.toml."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (forbidden,) = (contract for contract in contracts if contract["type"] == "forbidden")
    return {entry.split(" -> ")[0].removesuffix(".**") for entry in forbidden["ignore_imports"]}


def torch_free_modules() -> list[str]:
    names = ["arts", *(module.name for module in pkgutil.walk_packages(arts.__path__, "arts.", onerror=lambda _: None))]
    allowed = model_modules()
    return [
        name
        for name in names
        if not name.endswith("__main__") and not any(f"{name}.".startswith(f"{prefix}.") for prefix in allowed)
    ]


def run_without_torch(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCK + code], capture_output=True, text=True, timeout=60, cwd=ROOT)


def test_torch_free_modules_import_where_torch_is_not_installed() -> None:
    names = torch_free_modules()
    assert {"arts.tree", "arts.store", "arts.cli", "arts.evaluate.metrics"} <= set(names)
    result = run_without_torch(f"import importlib\nfor name in {names!r}: importlib.import_module(name)")
    assert result.returncode == 0, result.stderr


def test_torch_free_modules_do_not_try_to_import_torch() -> None:
    """An import inside try/except would pass the test above, and still cost seconds where torch is installed."""
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import importlib, sys\nfor name in {torch_free_modules()!r}: importlib.import_module(name)\n"
            f"print(*(name for name in {NOT_INSTALLED!r} if name in sys.modules))",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


def test_help_is_printed_where_torch_is_not_installed() -> None:
    result = run_without_torch("import sys\nsys.argv = ['arts', '--help']\nfrom arts.cli import main\nmain()")
    assert result.returncode == 0, result.stderr
    assert "solve" in result.stdout
