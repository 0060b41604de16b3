"""Several processes under `accelerate launch` train as one does; killed, they go on; one of them writes and prints."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from accelerated import CASES, NUM_STEPS, SETTINGS, Case, Interrupted, largest_difference, run_case
from conftest import ROOT
from safetensors.torch import load_file
from test_train_kill import checkpointed_step, collection, outcome
from tiny_verifier import save_backbone

from arts.verifier.train import TrainProgress

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
SHARDED = ["--use_fsdp", "--fsdp_version", "2", "--fsdp_cpu_ram_efficient_loading", "false"]
SHARDED += ["--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]
SHARDED += ["--fsdp_transformer_layer_cls_to_wrap", "Qwen2DecoderLayer"]
TOGETHER = ["plain", "passes", "lora", "frozen", "resumed", "stops"]
IN_SHARDS = ["plain", "passes", "lora", "bf16"]


def launch(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    run = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, timeout=800)
    assert run.returncode == 0, run.stderr[-5000:]
    return run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def two(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the runs of two processes. `resumed` was begun by one process, up to step 9."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "base").symlink_to(base)

    def stop(state: TrainProgress) -> None:
        if state.step == 10:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_case(Case(replace(SETTINGS, checkpoint_every_s=0.0)), base, folder / "resumed", watch=stop)
    assert checkpointed_step(folder / "resumed") == 9
    launch([*LAUNCH, "--multi_gpu", str(ROOT / "tests/accelerated.py"), str(folder), *TOGETHER])
    return folder


@pytest.fixture(scope="module")
def in_shards(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    (folder / "base").symlink_to(base)
    launch([*LAUNCH, *SHARDED, str(ROOT / "tests/accelerated.py"), str(folder), *IN_SHARDS])
    return folder


@pytest.fixture(scope="module")
def one(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the same runs of one process; `passes` is compared with the plain run, which makes one pass a step."""
    folder = tmp_path_factory.mktemp("one")
    for name in ("plain", "lora", "frozen", "stops", "bf16"):
        (folder / f"{name}.json").write_text(json.dumps(run_case(CASES[name], base, folder / name)))
    return folder


def told(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize("name", ["plain", "passes", "lora", "frozen"])
def test_two_processes_come_to_the_weights_of_one(one: Path, two: Path, name: str) -> None:
    alone = "plain" if name == "passes" else name
    first, second, expected = told(two, f"{name}.0"), told(two, f"{name}.1"), told(one, alone)
    assert first["count"] == second["count"] == 2
    assert first["num_steps"] == second["num_steps"] == expected["num_steps"] == NUM_STEPS
    assert first["best"] == second["best"] == pytest.approx(expected["best"], abs=1e-5)
    assert first["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    assert second["losses"] == []  # one process is watched
    assert largest_difference(two / name, one / alone) < 1e-5


def test_passes_of_a_batch_exchange_gradients_once(two: Path) -> None:
    plain, passes = told(two, "plain.0")["exchanges"], told(two, "passes.0")["exchanges"]
    assert passes == plain >= NUM_STEPS


def test_processes_stop_at_the_same_step(one: Path, two: Path) -> None:
    first, second, expected = told(two, "stops.0"), told(two, "stops.1"), told(one, "stops")
    assert first["num_steps"] == second["num_steps"] == expected["num_steps"] < 40 * 6
    assert first["best"] == second["best"]


def test_a_run_of_one_process_goes_on_with_two(one: Path, two: Path) -> None:
    assert len(told(two, "resumed.0")["losses"]) == NUM_STEPS - 9
    assert largest_difference(two / "resumed", one / "plain") < 1e-5


@pytest.mark.parametrize("name", ["plain", "passes", "lora"])
def test_sharded_weights_train_as_whole_ones(one: Path, in_shards: Path, name: str) -> None:
    """FSDP's second version through Accelerate, which has it for accelerators only: see `accelerated._offer_shards`."""
    assert told(in_shards, f"{name}.0")["best"] == told(in_shards, f"{name}.1")["best"]
    assert largest_difference(in_shards / name, one / ("plain" if name == "passes" else name)) < 1e-5


def test_sharded_weights_train_in_bf16(one: Path, in_shards: Path) -> None:
    best, expected = told(in_shards, "bf16.0")["best"], told(one, "bf16")["best"]
    assert best[0] == pytest.approx(expected[0], rel=0.05)


def test_training_in_bf16_learns_what_float32_learns(one: Path) -> None:
    fp32, bf16 = told(one, "plain"), told(one, "bf16")
    assert bf16["num_steps"] == NUM_STEPS
    assert 0 < abs(bf16["best"][0] - fp32["best"][0]) < 0.1 * fp32["losses"][0]
    assert bf16["best"][0] < 0.5 * bf16["losses"][0]


def kill_at(arguments: list[str], out: Path, step: int) -> None:
    """Kill the launcher and its processes, all at once, when that step is on the disk."""
    launcher = psutil.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 600
        while checkpointed_step(out) < step and launcher.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        workers = launcher.children(recursive=True)
        launcher.kill()
        for worker in workers:
            worker.kill()
    assert len(workers) == 2
    psutil.wait_procs([launcher, *workers])
    assert checkpointed_step(out) >= step, "the run was over before it could be killed"


def test_killed_processes_go_on_to_the_weights_of_uninterrupted_ones(base: Path, tmp_path: Path) -> None:
    """Bit for bit on the same number of processes, dropout and all; on one, the run goes on as well."""
    trees = collection(tmp_path / "trees", "toy", "table", num_problems=24)
    options = ["--tuning", "full", "--batch-trees", "3", "--validation-share", "0.25", "--patience", "1000"]
    options += ["--checkpoint-every-s", "0", "--epochs", "3", "--accumulate", "2"]
    train = ["-m", "arts", "train", str(trees), "--backbone", f"hf:{base}", *options]
    launched = [*LAUNCH, "--multi_gpu", *train]
    kill_at([*launched, "--out", str(tmp_path / "killed")], tmp_path / "killed", step=5)
    (tmp_path / "alone").mkdir()
    checkpoint = (tmp_path / "killed/checkpoint.safetensors").read_bytes()
    (tmp_path / "alone/checkpoint.safetensors").write_bytes(checkpoint)
    launch([*launched, "--out", str(tmp_path / "killed")])
    whole = launch([*launched, "--out", str(tmp_path / "whole")])
    assert whole.stdout.count("trained on") == 1
    assert whole.stderr.count("packing trees") == 1
    weights, card = outcome(tmp_path / "killed")
    assert (weights, card) == outcome(tmp_path / "whole")
    assert card["compute"] == {"precision": "fp32", "accumulate": 2, "checkpoint_activations": False, "processes": 2}
    launch([sys.executable, *train, "--out", str(tmp_path / "alone")])
    alone, card_alone = outcome(tmp_path / "alone")
    assert card_alone["result"]["num_steps"] == card["result"]["num_steps"]
    assert alone.keys() == weights.keys()
    assert all(bool(weight.isfinite().all()) for weight in load_file(tmp_path / "alone/head.safetensors").values())


def test_processes_that_see_different_runs_say_so(base: Path, tmp_path: Path) -> None:
    """As on machines that do not share a disk: one has a checkpoint, and the other has none."""
    script = tmp_path / "differ.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom accelerated import CASES, run_case\n"
        "from arts.verifier.train import Processes\n"
        "processes = Processes()\nfolder = Path(sys.argv[2]) / str(processes.index)\n"
        "run_case(CASES['plain'], Path(sys.argv[1]), folder, processes)\n"
    )
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "verifier.json").write_text("{}")
    arguments = [*LAUNCH, "--multi_gpu", str(script), str(base), str(tmp_path)]
    run = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert run.returncode != 0
    assert "do not see the same trees, base weights or checkpoints" in run.stderr
    assert not any((tmp_path / "0").iterdir())
