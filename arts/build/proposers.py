"""Proposers and models that score given paths, by the names that users type."""

from pathlib import Path
from typing import TYPE_CHECKING

from arts.build.servers import is_server, open_server
from arts.build.tasks import any_problem
from arts.models import SHIPPED_PROPOSERS, shipped_folder
from arts.protocols import Task

_VLLM = "vllm:"

if TYPE_CHECKING:
    from arts.proposers.sampling import Sampling
    from arts.protocols import Proposer
    from arts.squeeze.paths import Likelihood


def build_proposer(
    name: str, task: Task, *, temperature: float = 1.0, top_p: float = 1.0, device: str = "cpu", keep_tokens: int = 0
) -> "Proposer":
    """`countdown` (the shipped model), `hf:FOLDER`, `vllm:FOLDER`, a server's URL, or `table` (the toy task's own law).

    Behind `vllm:FOLDER` stand options of the engine, `?NAME=VALUE&...`: see `arts.proposers.vllm`.
    A server is asked at once what it can do: `http://HOST:PORT/v1#MODEL?OPTION=VALUE&...`, where options are fields of
    `ServerSettings`. See `arts.proposers.probe`.

    Args:
        keep_tokens: of a local model, tokens whose keys and values are kept between calls: for searches.
    """
    if name == "table":
        from arts.proposers.table import TableProposer

        if not task.name.startswith("toy:"):
            raise ValueError("proposer 'table' draws from the toy task only; use it with --task toy")
        return TableProposer(temperature=temperature)
    from arts.proposers.sampling import Sampling

    sampling = Sampling(temperature=temperature, top_p=top_p)
    if is_server(name):
        return _server_proposer(name, task, sampling)
    if name.startswith(_VLLM):
        from arts.proposers.vllm import VLLMProposer, read_options

        folder, _, text = name.removeprefix(_VLLM).partition("?")
        options = read_options(text)
        return VLLMProposer(
            proposer_folder(folder), step_separator=task.step_separator, sampling=sampling, options=options
        )
    from arts.lm.load import load_causal_lm
    from arts.proposers.hf import HFProposer

    language_model = load_causal_lm(proposer_folder(name), device=device)
    separator = task.step_separator
    return HFProposer(language_model, step_separator=separator, sampling=sampling, keep_tokens=keep_tokens)


def _server_proposer(name: str, task: Task, sampling: "Sampling") -> "Proposer":
    from arts.proposers.openai_http import OpenAIProposer
    from arts.proposers.probe import probe

    client, model, settings, tokenizer = open_server(name)
    prompt = any_problem(task).prompt
    try:
        found = client.run(probe(client, model, prompt, system=settings.system, tokenizer=tokenizer))
    except BaseException:
        client.close()
        raise
    return OpenAIProposer(
        client, found, step_separator=task.step_separator, sampling=sampling, settings=settings, tokenizer=tokenizer
    )


def proposer_folder(name: str) -> Path:
    """Folder of a proposer or backbone: a shipped name, `hf:FOLDER`, or a folder."""
    if name in SHIPPED_PROPOSERS:
        return shipped_folder(SHIPPED_PROPOSERS[name])
    if is_server(name):
        raise ValueError(f"{name!r} is a server; a model folder is wanted here: 'countdown' or 'hf:FOLDER'")
    folder = Path(name.removeprefix("hf:"))
    if not folder.is_dir():
        known = ", ".join(f"'{shipped}'" for shipped in SHIPPED_PROPOSERS)
        raise ValueError(
            f"there is no model folder {name!r}; allowed are {known} (shipped) and 'hf:FOLDER' for a local folder"
        )
    return folder


def build_likelihood(name: str, *, device: str = "cpu") -> "Likelihood":
    """A model that scores given paths: a proposer's name, or a server's URL with `?tokenizer=FOLDER`.

    Raises:
        ValueError: a server that does not score given text.
    """
    if is_server(name):
        from arts.proposers.probe import find_model
        from arts.squeeze.remote import RemoteLikelihood

        client, model, settings, tokenizer = open_server(name)
        try:
            row = client.run(find_model(client, model))
            return RemoteLikelihood(client, str(row["id"]), tokenizer, name=name, system=settings.system)
        except BaseException:
            client.close()
            raise
    from arts.lm.load import load_causal_lm
    from arts.squeeze.measure import LocalLikelihood

    return LocalLikelihood(load_causal_lm(proposer_folder(name), device=device), name=name)
