"""The example that plugs our verifier into its_hub: scores are those of a live `arts serve`, and its_hub takes them."""

import importlib.util
import runpy
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT
from serving import exact_scorer, exact_value, local_service, running

from arts.proposers.table import TableProposer
from arts.serve.app import build_app

EXAMPLE = ROOT / "examples" / "its_hub_search.py"
KEY = "the-key-of-this-server"
PROMPT = "toy 3x3 seed 1"
HAS_ITS_HUB = importlib.util.find_spec("its_hub") is not None


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    service = local_service(TableProposer(), scorer=exact_scorer())
    with running(build_app(service, keys=[KEY]), service) as address:
        monkeypatch.setenv("ARTS_URL", f"{address}/v1")
        monkeypatch.setenv("ARTS_KEY", KEY)
        monkeypatch.setenv("ARTS_MODEL", "local")
        yield address


@pytest.fixture
def example(url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the example defines. Without its_hub, empty classes stand in for those that it only derives from."""
    if not HAS_ITS_HUB:
        top, api = ModuleType("its_hub"), ModuleType("its_hub.api")
        for module, names in (
            (top, ("BestOfN", "OpenAICompatibleLanguageModel")),
            (api, ("AbstractOutcomeRewardModel", "AbstractProcessRewardModel")),
        ):
            for name in names:
                setattr(module, name, type(name, (), {}))
            monkeypatch.setitem(sys.modules, module.__name__, module)
    return runpy.run_path(str(EXAMPLE))


class Message:
    def __init__(self, content: str) -> None:
        self.content = content


def test_scores_are_the_verifiers_chances(example: dict[str, Any]) -> None:
    whole, partial = ["a;a;a", "b;c;b", "c;a;b"], ["a;", "b;c;"]
    outcome = example["ArtsOutcomeReward"]().score([[Message(PROMPT), Message(text)] for text in whole])
    assert outcome == pytest.approx([exact_value(PROMPT, text) for text in whole], abs=1e-9)
    process = example["ArtsProcessReward"]()
    expected = pytest.approx([exact_value(PROMPT, text) for text in partial], abs=1e-9)
    assert process.score(PROMPT, partial) == expected
    assert process.score([Message(PROMPT)], partial) == expected


@pytest.mark.skipif(not HAS_ITS_HUB, reason='its_hub is not installed: pip install "its_hub[lm]"')
def test_its_hub_searches_with_our_verifier(
    example: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), PROMPT])
    example["main"]()
    *best, guide = capsys.readouterr().out.splitlines()
    rows = [line.split("  ") for line in best]
    for score, text in rows:
        assert float(score) == pytest.approx(exact_value(PROMPT, text), abs=6e-4)
    assert rows == sorted(rows, key=lambda row: -float(row[0])) and guide.startswith("after its first step, ")
