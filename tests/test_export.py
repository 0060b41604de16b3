"""A verifier as a classification folder: the same scores, from transformers itself and from a server's pooling."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from servers import free_port, until_started
from tiny_models import save_gpt2, save_llama
from tiny_verifier import letter_trees, save_backbone
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from arts.build import build_scorer, verifier_identity
from arts.lm.load import load_backbone, load_tokenizer
from arts.net.client import RequestFailed
from arts.verifier.export import export_verifier
from arts.verifier.model import FlowVerifier, VerifierSettings, load_verifier, new_verifier
from arts.verifier.objectives import RewardSettings, build_objective, describe_objective
from arts.verifier.remote import PATHS_A_REQUEST, RemoteFlowScorer, _parts
from arts.verifier.scorer import FlowScorer

MODELS = {"token": AutoModelForTokenClassification, "sequence": AutoModelForSequenceClassification}
TREES = letter_trees(4)


def linear_verifier(base: Path, tuning: str = "full") -> FlowVerifier:
    """With weights away from where they started, and the card that training writes."""
    settings = VerifierSettings(tuning=tuning, head="linear", dropout=0.0)
    verifier = new_verifier(load_backbone(base), settings, base="tiny", seed=0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in verifier.trained_parameters().values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    objective = build_objective("mean_flow", {"leaf_weight": 2.0})
    verifier.card |= {"objective": describe_objective(objective), "rewards": {"right": 10.0, "wrong": 0.1}}
    return verifier.eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("models") / "tiny")


def flows(scored: Any) -> list[float]:
    return [node.log_flow for tree in scored.trees for node in tree.nodes]


# --- the folder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("kind", ["token", "sequence"])
def test_transformers_reads_the_same_scores_from_the_folder(kind: Any, tuning: str, base: Path, tmp_path: Path) -> None:
    verifier = linear_verifier(base, tuning)
    expected = flows(FlowScorer(verifier).score(TREES))
    export_verifier(verifier, tmp_path, kind=kind)
    model, info = MODELS[kind].from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    model.eval()
    objective, text = build_objective("mean_flow", {"leaf_weight": 2.0}), load_tokenizer(tmp_path)
    found = []
    for tree in TREES:
        ids = text.node_ids(tree)
        for node in tree.nodes:
            path = torch.tensor(
                [[token for one in (0, *(step.id for step in tree.path(node.id))) for token in ids[one]]]
            )
            with torch.inference_mode():
                logits = model(path).logits
            output = logits[0, -1, 0] if kind == "token" else logits[0, 0]
            found += objective.log_flow(output[None, None], RewardSettings()).tolist()
    assert found == pytest.approx(expected, abs=2e-5)
    assert max(expected) - min(expected) > 0.1


def test_other_architectures_are_exported_too(tmp_path: Path) -> None:
    for name, save in (("llama", save_llama), ("gpt2", save_gpt2)):
        verifier = linear_verifier(save(tmp_path / name))
        export_verifier(verifier, tmp_path / f"{name}-out")
        config = json.loads((tmp_path / f"{name}-out" / "config.json").read_text())
        assert config["architectures"][0].endswith("ForTokenClassification")
        assert AutoModelForTokenClassification.from_pretrained(tmp_path / f"{name}-out").num_labels == 1


def test_a_verifier_with_a_linear_head_is_saved_and_loaded(base: Path, tmp_path: Path) -> None:
    verifier = linear_verifier(base)
    verifier.save(tmp_path)
    assert flows(FlowScorer(load_verifier(tmp_path)).score(TREES)) == flows(FlowScorer(verifier).score(TREES))
    with pytest.raises(ValueError, match="head is 'cubic'; allowed are 'mlp' and 'linear'"):
        VerifierSettings(head="cubic")


def test_what_no_server_knows_is_refused(base: Path, tmp_path: Path) -> None:
    two_layers = new_verifier(load_backbone(base), VerifierSettings(tuning="full"), base="tiny")
    with pytest.raises(ValueError, match="train with --head linear"):
        export_verifier(two_layers, tmp_path / "out")
    several = VerifierSettings(tuning="full", head="linear", num_outputs=2)
    with pytest.raises(ValueError, match="with 2 outputs"):
        export_verifier(new_verifier(load_backbone(base), several, base="tiny"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- the server -------------------------------------------------------------------------------------------------------


class Pooling:
    """vLLM's /pooling over an exported folder."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.model, self.kind = MODELS[kind].from_pretrained(folder).eval(), kind
        self.bodies: list[dict[str, Any]] = []
        self.answer: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = json.loads((await receive())["body"])
        assert scope["path"] == "/pooling"
        self.bodies.append(body)
        with torch.inference_mode():
            data = [self.model(torch.tensor([tokens])).logits[0].tolist() for tokens in body["input"]]
        rows = [{"index": index, "data": one} for index, one in enumerate(data)]
        content = json.dumps(self.answer or {"data": rows[::-1]}).encode()
        headers = [(b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


@pytest.fixture(params=["token", "sequence"])
def served(request: pytest.FixtureRequest, base: Path, tmp_path: Path) -> Iterator[tuple[Pooling, str, FlowVerifier]]:
    verifier = linear_verifier(base)
    export_verifier(verifier, tmp_path / "out", kind=request.param)
    app, port = Pooling(tmp_path / "out", request.param), free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    until_started(server)
    yield app, f"http://127.0.0.1:{port}/v1#verifier?folder={tmp_path / 'out'}", verifier
    server.should_exit = True
    thread.join(10)


def test_scores_from_a_server_are_those_of_the_verifier(served: tuple[Pooling, str, FlowVerifier]) -> None:
    app, name, verifier = served
    scorer, own = build_scorer(name), FlowScorer(verifier)
    scored, expected = scorer.score(TREES), own.score(TREES)
    assert flows(scored) == pytest.approx(flows(expected), abs=2e-5)
    assert scored.scale == own.scale and scored.distinct_tokens == expected.distinct_tokens
    rows = sum(len(tree.leaves()) if app.kind == "token" else len(tree.nodes) for tree in TREES)
    paths = [tokens for body in app.bodies for tokens in body["input"]]
    assert len(paths) == rows, "a path a leaf, or a path a node"
    assert len(app.bodies) == -(-rows // PATHS_A_REQUEST) < rows, "and as few requests as hold them"
    assert scored.computed_tokens == sum(map(len, paths))
    assert {body["use_activation"] for body in app.bodies} == {False}
    assert verifier_identity(name) == name


def test_an_answer_that_does_not_fit_is_no_score(served: tuple[Pooling, str, FlowVerifier]) -> None:
    app, name, _ = served
    scorer: Any = build_scorer(name)
    scorer.client.patience = scorer.client.patience.__class__(max_attempts=2, first_wait_s=0.0)
    tree = TREES[0]
    count = len(tree.leaves()) if app.kind == "token" else len(tree.nodes)
    row = {"data": [[0.5]] * 99}
    for given, said in ((count, r"99 scores for \d+ tokens"), (count + 1, f"scores of {count + 1} texts for {count}")):
        app.answer = {"data": [{"index": index, **row} for index in range(given)]}
        with pytest.raises(ValueError, match=f"malformed: .*{said}"):
            scorer.score([tree])


def test_a_folder_that_was_not_exported_is_named(base: Path, tmp_path: Path) -> None:
    linear_verifier(base).save(tmp_path / "plain")
    with pytest.raises(ValueError, match="is no exported verifier"):
        build_scorer(f"http://127.0.0.1:9/v1#verifier?folder={tmp_path / 'plain'}")
    with pytest.raises(ValueError, match="has no option 'colour'"):
        build_scorer("http://127.0.0.1:9/v1#verifier?colour=red")


def test_a_request_that_is_too_much_is_halved() -> None:
    scorer = object.__new__(RemoteFlowScorer)
    asked: list[int] = []

    async def together(paths: list[list[int]]) -> list[list[float]]:
        asked.append(len(paths))
        if sum(map(len, paths)) > 5:
            raise RequestFailed("timeout", "no answer in time")
        return [[float(len(path))] for path in paths]

    scorer._ask_together = together  # type: ignore[method-assign]
    assert asyncio.run(scorer._ask([[0] * length for length in (3, 1, 4, 2)])) == [[3.0], [1.0], [4.0], [2.0]]
    assert asked == [4, 2, 2, 1, 1]
    with pytest.raises(RequestFailed, match="no answer in time"):
        asyncio.run(scorer._ask([[0], [0] * 6]))


def test_paths_travel_together_within_limits() -> None:
    assert [len(part) for part in _parts([[0] * 300] * 200)] == [54, 54, 54, 38]
    assert [len(part) for part in _parts([[0]] * 130)] == [64, 64, 2]
    assert [len(part) for part in _parts([[0] * 20_000, [0], [0] * 20_000])] == [1, 1, 1]
    assert _parts([]) == []
