"""GRPO under `accelerate launch`: from the same draws, two processes come to the weights and the bill of one."""

from pathlib import Path

import pytest

pytest.importorskip("trl", reason='needs pip install "arts-llm[grpo]"')

from conftest import ROOT
from grpo_processes import SETTINGS, shipped, tune
from test_accelerate import LAUNCH, launch
from test_baselines import differ, weights

from arts.baselines.grpo import GRPOSettings, _read_result, build_config
from arts.baselines.runs import join_processes
from arts.tasks.countdown import CountdownTask


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    launch([*LAUNCH, "--multi_gpu", str(ROOT / "tests/grpo_processes.py"), str(tmp_path / "two")])
    one, two = tune(tmp_path / "one"), _read_result(tmp_path / "two")
    learned = differ(weights(one.model), dict(shipped().model.state_dict()))
    assert learned > 1e-4
    assert differ(weights(one.model), weights(two.model)) < 1e-5
    assert (one.bill, one.validation, one.best_update) == (two.bill, two.validation, two.best_update)
    assert one.bill.draws == 6 * 16


def test_a_launcher_that_would_cut_the_model_up_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="asks for FSDP; each process has to hold the whole model"):
        join_processes("cpu")


def test_shares_that_are_not_even_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def config(processes: int, settings: GRPOSettings, num_validation: int) -> object:
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        monkeypatch.setattr("trl.GRPOConfig.world_size", processes, raising=False)
        return build_config(shipped(), CountdownTask(), settings, tmp_path, num_validation=num_validation)

    with pytest.raises(ValueError, match="3 processes cannot share 8 draws of a batch evenly; give --draws-per-batch"):
        config(3, SETTINGS, 3)
    with pytest.raises(ValueError, match="4 processes cannot share 6 validation problems evenly"):
        config(4, SETTINGS, 6)
