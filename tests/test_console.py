"""Progress where nobody watches a terminal: a line now and then, and each thing once."""

import pytest

from arts import console


def test_lines_come_now_and_then_and_the_end_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = [0.0, 1.0, 11.0, 12.0, 22.0, 33.0, 34.0, 35.0]
    monkeypatch.setattr(console.time, "monotonic", iter(times).__next__)
    with console.progress("drawing", 10) as tell:
        for done, note in [(1, "a"), (2, "b"), (3, "c"), (3, "c"), (3, "c"), (10, "d"), (10, "d")]:
            tell(done, note)
    assert capsys.readouterr().err.splitlines() == [
        "drawing …",
        "drawing: 2/10, 11 s, 44 s left b",
        "drawing: 3/10, 22 s, 51 s left c",
        "drawing: 10/10, 34 s, 0 s left d",
    ]
