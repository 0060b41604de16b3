"""Whatever a client sends, it is never the server that fails: requests made from the server's own OpenAPI document."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from serving import served, toy_message

NUM_EXAMPLES = 8
MODELS = ("arts-best-of-2", "arts-beam", "arts-search")
OPERATIONS = (
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/score",
    "GET /v1/models",
    "GET /v1/models/{name}",
    "GET /healthz",
    "GET /metrics",
)


@pytest.fixture(scope="module")
def document() -> Iterator[Any]:
    # A short deadline: a search that is asked for by chance need not end by itself.
    with served(deadline_s=3.0) as (_, _, url):
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_the_document_has_all_routes(document: Any) -> None:
    found = [operation.ok() for operation in document.get_all_operations()]
    assert {one.label for one in found} == set(OPERATIONS)


@pytest.mark.parametrize("label", OPERATIONS)
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_makes_the_server_fail(document: Any, label: str, mode: GenerationMode) -> None:
    """Half of the requests get past the door: with a model that is there and a problem that can be read."""
    (operation,) = (one.ok() for one in document.get_all_operations() if one.ok().label == label)
    if mode is GenerationMode.NEGATIVE and not label.startswith("POST"):
        pytest.skip("nothing to send that could be wrong")

    @settings(
        max_examples=NUM_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # without shrinking: a request that fails is shown as it was sent
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), model=st.sampled_from((None, None, None, *MODELS)))
    def check(case: Any, model: str | None) -> None:
        if model is not None and isinstance(case.body, dict):
            known = {"model": model, "messages": toy_message(), "prompt": toy_message()[0]["content"]}
            case.body.update({name: value for name, value in known.items() if name in case.body})
        answer = case.call(timeout=20)
        # 504: a search that did not end in time, as it was asked for.
        assert answer.status_code < 500 or answer.status_code == 504, (answer.status_code, answer.text, case.body)

    check()
