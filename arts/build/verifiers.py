"""Verifiers, by the names that users type."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from arts.build.proposers import proposer_folder
from arts.build.servers import is_server, read_server, url_options
from arts.models import SHIPPED_VERIFIERS, shipped_folder
from arts.protocols import ScoreScale

if TYPE_CHECKING:
    from arts.protocols import Proposer, Scorer, StepScorer
    from arts.verifier.model import FlowVerifier, VerifierSettings
    from arts.verifier.remote import RemoteFlowScorer


def build_verifier(name: str, *, base: str | None = None, device: str = "cpu") -> "FlowVerifier":
    """`countdown` (the shipped verifier) or a folder that `arts train` wrote; `base` is for LoRA verifiers."""
    from arts.verifier.model import load_verifier

    folder = shipped_folder(SHIPPED_VERIFIERS[name]) if name in SHIPPED_VERIFIERS else Path(name)
    return load_verifier(folder, base=proposer_folder(base) if base else None, device=device)


def build_scorer(name: str, *, base: str | None = None, device: str = "cpu") -> "Scorer":
    """The scorer that a user names.

    `countdown` or FOLDER          a flow verifier: the shipped one, or one that `arts train` wrote
    `rm:FOLDER`                    a Hugging Face reward model; options are fields of `RewardModelSettings`
    `http://…/v1#MODEL?folder=F`   a verifier that a server serves, exported to F: fields of `RemoteSettings`
    `python:MODULE:FUNCTION`       a Python function, or `python:FILE.py:FUNCTION`; options are fields of `ScoreScale`

    Options follow a `?`, as in `rm:prm?step_tag=<extra_0>&strip_steps=true`. Their values are percent-decoded, so that
    `%0A` is a line end, `%20` a blank and `%26` an ampersand.

    Args:
        base: base model of a LoRA verifier; reward models and functions have none.
    """
    if is_server(name):
        return _remote_scorer(name)
    kind, _, rest = name.partition(":")
    place, _, options = rest.partition("?")
    if kind == "python":
        from arts.functions import load_function
        from arts.score_function import FunctionScorer

        scale = {"kind": "log_value"} | url_options(ScoreScale, options, of=f"python:{place}")
        return FunctionScorer(load_function(place), scale=ScoreScale(**scale))
    if kind == "rm":
        from arts.verifier.reward_layout import RewardModelSettings
        from arts.verifier.reward_model import load_reward_model

        settings = RewardModelSettings(**url_options(RewardModelSettings, options, of=f"rm:{place}"))
        return load_reward_model(place, settings, device)
    from arts.verifier.scorer import FlowScorer

    return FlowScorer(build_verifier(name, base=base, device=device))


def _remote_scorer(name: str) -> "RemoteFlowScorer":
    from arts.net.client import Client
    from arts.verifier.remote import RemoteFlowScorer, RemoteSettings

    address, model, settings, key = read_server(name, RemoteSettings)
    client = Client(address, key=key, timeout_s=settings.timeout_s, max_in_flight=settings.max_in_flight)
    return RemoteFlowScorer(client, model, Path(settings.folder))


def build_step_scorer(name: str, proposer: "Proposer", *, base: str | None = None, device: str = "cpu") -> "StepScorer":
    """The same for searches: a flow verifier keeps keys and values per step, all others read whole paths."""
    from arts.search.whole_path import RemotePathScorer, WholePathScorer

    tokenizer = proposer.tokenizer_fingerprint
    if is_server(name):
        return RemotePathScorer(_remote_scorer(name), tokenizer=tokenizer)
    if name.partition(":")[0] not in ("python", "rm"):
        from arts.lm.tree_attention import has_tree_attention
        from arts.verifier.step_scorer import CachedFlowScorer

        verifier = build_verifier(name, base=base, device=device)
        if has_tree_attention(verifier.backbone):
            return CachedFlowScorer(verifier, tokenizer=tokenizer)
    return WholePathScorer(build_scorer(name, base=base, device=device), tokenizer=tokenizer)


def verifier_identity(name: str) -> str:
    """A verifier by its weights, so that results of one that was trained anew are told from those of the old one.

    A Python function counts by its name: what it computes nobody can tell.
    """
    from arts.models import SHIPPED_VERIFIERS, shipped_folder

    kind, _, rest = name.partition(":")
    if kind == "python" or is_server(name):
        return name
    from arts.lm.weights import weights_fingerprint

    if kind == "rm":
        return f"{name} {weights_fingerprint(rest.partition('?')[0])}"
    folder = shipped_folder(SHIPPED_VERIFIERS[name]) if name in SHIPPED_VERIFIERS else Path(name)
    parts = (weights_fingerprint(part) for part in (folder, folder / "backbone", folder / "adapter"))
    return " ".join((folder.name, *parts))


def needs_torch(scorer_name: str) -> bool:
    """False where `build_scorer` gets along without torch."""
    return not scorer_name.startswith("python:")


def named_scorers(values: Sequence[str]) -> list[tuple[str, str]]:
    """(selector name, scorer name) of each `--verifier`: `NAME=SCORER` as given, otherwise a name made of the scorer.

    A flow verifier is `arts` in first place, `arts_FOLDER` elsewhere; a reward model is called by its folder, and a
    function by its own name. A `=` behind a `:` or a `?` belongs to the scorer.
    """
    named = []
    for position, value in enumerate(values):
        given = re.match(r"([^:/?=]+)=(.*)", value, re.DOTALL)
        if given:
            named.append((given[1], given[2]))
            continue
        kind, _, rest = value.partition(":")
        place = rest.partition("?")[0]
        made = {"rm": Path(place).name, "python": place.rpartition(":")[2]}.get(kind)
        named.append((made or ("arts" if position == 0 else f"arts_{Path(value).name}"), value))
    names = [name for name, _ in named]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"two verifiers are called {', '.join(twice)}; name them: --verifier A={values[0]} --verifier B=..."
        )
    return named


def build_new_verifier(
    backbone: str, settings: "VerifierSettings", *, device: str = "cpu", precision: str = "fp32", seed: int = 0
) -> "FlowVerifier":
    """An untrained verifier on a backbone; the seed decides its head and adapters.

    Args:
        precision: of training, as in `ComputeSettings`.
    """
    from arts.lm.load import load_backbone
    from arts.verifier.model import new_verifier
    from arts.verifier.processes import storage_type

    dtype = storage_type(precision, settings.tuning)
    language_model = load_backbone(proposer_folder(backbone), dtype=dtype, device=device)
    return new_verifier(language_model, settings, base=backbone.removeprefix("hf:"), seed=seed)
