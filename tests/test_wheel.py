"""The wheel, built from the source distribution and used outside the checkout: everything a user runs is in it.

python -m pytest -m wheel tests/test_wheel.py          # part of `make check`
"""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(600)]
MAX_BYTES = 12_000_000


def run(*command: str | Path, cwd: Path) -> str:
    # The checkout must not be found through the environment.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (file,) = out.glob("arts_llm-*.whl")
    return file


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel, and sees the libraries (not the ARTS) of the one that runs the tests."""
    folder = tmp_path_factory.mktemp("outside") / "venv"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel, cwd=folder)
    # Only now, or pip would take the checkout's own installation for this one. A .pth file found through a .pth file is
    # not read, so the checkout's editable installation stays out.
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    return folder


def test_wheel_holds_the_package_with_its_data_and_nothing_else(wheel: Path, capsys: pytest.CaptureFixture) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"arts", "arts_llm"}
    in_checkout = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "arts").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {name for name in names if name.startswith("arts/")} == in_checkout
    assert "arts/evaluate/results.schema.json" in names
    assert len([name for name in names if name.startswith("arts/models/") and name.endswith(".safetensors")]) >= 2
    assert any(name.endswith("licenses/LICENSE") for name in names)
    with capsys.disabled():
        print(f"\n{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB, {len(names)} files")
    assert wheel.stat().st_size < MAX_BYTES


def test_installed_package_is_the_wheel(environment: Path) -> None:
    location = run(environment / "bin" / "python", "-c", "import arts; print(arts.__file__)", cwd=environment)
    assert Path(location.strip()).is_relative_to(environment)


def test_command_and_module_print_the_same_help(environment: Path) -> None:
    by_command = run(environment / "bin" / "arts", "--help", cwd=environment)
    by_module = run(environment / "bin" / "python", "-m", "arts", "--help", cwd=environment)
    assert "solve" in by_command
    assert by_module.replace("python -m arts", "arts").split() == by_command.split()


def test_shipped_models_solve_a_problem_outside_the_checkout(environment: Path) -> None:
    assert "24" in run(environment / "bin" / "arts", "solve", "3 5 7 11 > 24", cwd=environment)
