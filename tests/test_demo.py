"""The demo, small: it makes everything anew, names both verifiers, and stops before it deletes what is not its own."""

import json
from pathlib import Path

import jsonschema
import pytest

from arts import demo
from arts.evaluate import run


def test_demo_makes_table_results_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "NUM_TRAIN", 40)
    monkeypatch.setattr(demo, "NUM_TEST", 24)
    out = tmp_path / "demo"
    (out / "train").mkdir(parents=True)
    (out / "train" / "old").touch()
    demo.run_demo(out)
    shown = capsys.readouterr().out
    assert "arts_trained_here" in shown
    results = json.loads((out / "results.json").read_text())
    schema = json.loads((Path(run.__file__).parent / "results.schema.json").read_text())
    jsonschema.validate(results, schema)
    assert results["num_problems"] == 24
    assert {"arts", "arts_trained_here", "majority", "random", "oracle"} <= set(results["selectors"])
    assert (out / "report.html").stat().st_size > 10_000
    assert not (out / "train" / "old").exists(), "the folder is emptied first"


def test_demo_deletes_nothing_of_others(tmp_path: Path) -> None:
    precious = tmp_path / "thesis.tex"
    precious.touch()
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        demo.run_demo(tmp_path)
    assert precious.exists()


def test_demo_is_as_large_as_promised() -> None:
    assert demo.NUM_TRAIN * 0.85 >= 500, "arts_trained_here learns from at least 500 problems, validation aside"
    assert demo.NUM_TEST >= 300
