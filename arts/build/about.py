"""What made an output folder."""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import arts


def about() -> dict[str, Any]:
    """What made an output folder: versions, commit, date. Never part of what decides a result."""
    versions = {"arts": arts.__version__, "python": platform.python_version()}
    for module in ("torch", "transformers", "numpy"):
        if module in sys.modules:
            versions[module] = str(sys.modules[module].__version__)
    return {"versions": versions, "commit": _commit(), "date": datetime.now(UTC).strftime("%Y-%m-%d")}


def _commit() -> str | None:
    """Commit of the checkout this package runs from; None for an installed wheel."""
    root = Path(arts.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        run = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None
