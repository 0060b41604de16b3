"""From the names a user types to the objects they stand for. torch is imported only when a model is asked for."""

import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, get_args
from urllib.parse import unquote

import arts
from arts.models import SHIPPED_PROPOSERS, SHIPPED_VERIFIERS, shipped_folder
from arts.options import parse_options
from arts.protocols import ScoreScale, Split, Task
from arts.tree import Problem

if TYPE_CHECKING:
    from arts.lm.load import TokenizerFolder
    from arts.net.client import Client
    from arts.proposers.openai_http import ServerSettings
    from arts.proposers.sampling import Sampling
    from arts.protocols import Proposer, Scorer, StepScorer
    from arts.tasks.checks import Checker
    from arts.squeeze.paths import Likelihood
    from arts.verifier.model import FlowVerifier, VerifierSettings

LOCAL_HINT = 'local models need torch: pip install "arts-llm[local]"'


def build_task(name: str) -> Task:
    """The task that a user names.

    `countdown`, `countdown:5`              numbers to combine; 4 of them, or 3 to 6
    `toy`, `toy:3x3:rare`                   the enumerable task
    `FILE.jsonl`, `FILE.jsonl.gz`           problems with answers; options are fields of `JsonlSettings`
    `hub:OWNER/NAME`, `hub:FOLDER`          the same from the `datasets` library; fields of `HubSettings`
    `math`, `math500`, `gsm8k`, `aime24`, `amc23`   short for `hub:...` (`KNOWN_SETS` in `arts.tasks.rows`)
    `gym:NAME,NAME,...`                     tasks of reasoning-gym; fields of `GymSettings`

    Options follow a `?`, percent-encoded: `problems.jsonl?check=math&split=test`.
    """
    from arts.tasks.countdown import CountdownTask
    from arts.tasks.rows import KNOWN_SETS
    from arts.tasks.toy import ToyTask

    place, _, options = name.partition("?")
    kind, *arguments = name.split(":")
    if kind == "countdown" and (not arguments or (len(arguments) == 1 and arguments[0].isdecimal())):
        return CountdownTask(*map(int, arguments))
    if kind == "toy":
        shape = re.fullmatch(r"(\d)x(\d)(:rare)?", ":".join(arguments) or "3x3")
        if shape:
            return ToyTask(int(shape[1]), int(shape[2]), rare=bool(shape[3]))
    if name == "rollouts":
        from arts.tasks.rollouts import RolloutsTask

        return RolloutsTask()
    if place.endswith((".jsonl", ".jsonl.gz")) or kind == "hub":
        return _rows_task(name, place, options)
    if place in KNOWN_SETS:
        known, _, defaults = KNOWN_SETS[place].partition("?")
        return _rows_task(name, f"hub:{known}", f"{defaults}&{options}")
    if kind == "gym":
        from arts.tasks.gym import GymSettings, GymTask

        settings = GymSettings(**url_options(GymSettings, options, of=f"task {place}"))
        return GymTask(tuple(place.partition(":")[2].split(",")), settings, name=name)
    raise ValueError(
        f"unknown task {name!r}; tasks are 'countdown', 'countdown:N' with N from 3 to 6, "
        "'toy' or 'toy:ARITYxDEPTH[:rare]', a file of problems, 'FILE.jsonl' or 'FILE.jsonl.gz', "
        f"'hub:OWNER/NAME', {', '.join(map(repr, KNOWN_SETS))} and 'gym:NAME'"
    )


def _rows_task(name: str, place: str, options: str) -> Task:
    from arts.tasks.jsonl import HubSettings, JsonlSettings, JsonlTask
    from arts.tasks.rows import file_rows, hub_rows

    if place.startswith("hub:"):
        settings = HubSettings(**url_options(HubSettings, options, of=f"task {place}"))
        rows = hub_rows(place.removeprefix("hub:"), config=settings.config, rows=settings.rows)
        check_of: JsonlSettings = settings
    else:
        check_of = JsonlSettings(**url_options(JsonlSettings, options, of=f"task {place}"))
        rows = file_rows(Path(place))
    checker = build_checker(check_of.check, limit_s=check_of.check_seconds)
    return JsonlTask(rows, check_of, name=name, checker=checker)


def build_checker(name: str, *, limit_s: float = 10.0) -> "Checker":
    """`number`, `math`, `exact`, or `python:MODULE:FUNCTION`, which runs in a process of its own.

    Args:
        limit_s: processor seconds that a Python function may take for one solution.
    """
    from arts.functions import Predicate
    from arts.tasks.checks import Checker

    kind, _, place = name.partition(":")
    if kind != "python":
        return Checker(name)
    function = Predicate(place, limit_s=limit_s)
    function.start()
    return Checker(name, function)


def problem_texts(source: str) -> list[str]:
    """Texts of all problems of a task, or of a folder of trees. Raises ValueError for a task without an end."""
    from arts.store import open_collection

    if (Path(source) / "collection.json").is_file():
        problems = [tree.problem for tree in open_collection(Path(source)).trees()]
    else:
        task = build_task(source)
        if not hasattr(task, "all_problems"):
            raise ValueError(f"{source!r} has no end; name a file, a data set or a folder of trees")
        problems = task.all_problems()
    return [str(problem.metadata.get("problem", problem.prompt)) for problem in problems]


def build_proposer(
    name: str, task: Task, *, temperature: float = 1.0, top_p: float = 1.0, device: str = "cpu", keep_tokens: int = 0
) -> "Proposer":
    """`countdown` (the shipped model), `hf:FOLDER`, a server's URL, or `table` (the toy task's own probabilities).

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
    from arts.lm.load import load_causal_lm
    from arts.proposers.hf import HFProposer

    language_model = load_causal_lm(proposer_folder(name), device=device)
    separator = task.step_separator
    return HFProposer(language_model, step_separator=separator, sampling=sampling, keep_tokens=keep_tokens)


def is_server(name: str) -> bool:
    return name.startswith(("http://", "https://"))


class _HasKey(Protocol):
    @property
    def key_env(self) -> str | None: ...

    @property
    def key_file(self) -> str | None: ...


S = TypeVar("S", bound=_HasKey)


class Server(NamedTuple):
    """A server as a user names it: where it is, which model, and how it is to be used."""

    client: "Client"
    model: str | None
    settings: "ServerSettings"
    tokenizer: "TokenizerFolder | None"


def open_server(name: str) -> Server:
    """`http://HOST:PORT/v1#MODEL?OPTION=VALUE&...`; sends nothing yet.

    Raises:
        ValueError: the address or an option makes no sense, or there is no such key or tokenizer.
    """
    from arts.net.client import Client
    from arts.proposers.openai_http import ServerSettings

    address, model, settings, key = _read_server(name, ServerSettings)
    client = Client(
        address, key=key, timeout_s=settings.timeout_s, max_in_flight=settings.max_in_flight, patience=settings.patience
    )
    tokenizer = None
    if settings.tokenizer is not None:
        from arts.lm.load import load_tokenizer

        tokenizer = load_tokenizer(settings.tokenizer)
    return Server(client, model or None, settings, tokenizer)


def _read_server(name: str, settings_class: type[S]) -> tuple[str, str, S, str | None]:
    """Address, model, options and key of `http://HOST:PORT/v1#MODEL?OPTION=VALUE&...`."""
    from arts.net.address import read_key

    address, _, rest = name.partition("#")
    model, _, options = rest.partition("?")
    settings = settings_class(**url_options(settings_class, options, of=f"server {address.rpartition('@')[2]}"))
    key = read_key(key_env=settings.key_env, key_file=settings.key_file, address=address)
    return address, unquote(model), settings, key


def any_problem(task: Task) -> Problem:
    """One of the task's problems, of the first split that has some."""
    for split in get_args(Split):
        for problem in task.problems(split, 0):
            return problem
    raise ValueError(f"task {task.name} has no problems")


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


def _remote_scorer(name: str) -> "Scorer":
    from arts.net.client import Client
    from arts.verifier.remote import RemoteFlowScorer, RemoteSettings

    address, model, settings, key = _read_server(name, RemoteSettings)
    client = Client(address, key=key, timeout_s=settings.timeout_s, max_in_flight=settings.max_in_flight)
    return RemoteFlowScorer(client, model, Path(settings.folder))


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


def build_step_scorer(name: str, proposer: "Proposer", *, base: str | None = None, device: str = "cpu") -> "StepScorer":
    """The same for searches: a flow verifier keeps keys and values per step, all others read whole paths."""
    from arts.search.whole_path import WholePathScorer

    tokenizer = proposer.tokenizer_fingerprint
    if name.partition(":")[0] not in ("python", "rm", "http", "https"):
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
    from arts.lm.load import weights_fingerprint

    if kind == "rm":
        return f"{name} {weights_fingerprint(rest.partition('?')[0])}"
    folder = shipped_folder(SHIPPED_VERIFIERS[name]) if name in SHIPPED_VERIFIERS else Path(name)
    parts = (weights_fingerprint(part) for part in (folder, folder / "backbone", folder / "adapter"))
    return " ".join((folder.name, *parts))


def url_options(settings_class: type[Any], options: str, *, of: str) -> dict[str, Any]:
    """Options written as in a URL: `KEY=VALUE&KEY=VALUE`, percent-encoded."""
    return parse_options(settings_class, map(unquote, filter(None, options.split("&"))), of=of)


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
    return named


def build_new_verifier(
    backbone: str, settings: "VerifierSettings", *, device: str = "cpu", seed: int = 0
) -> "FlowVerifier":
    """An untrained verifier on a backbone; the seed decides its head and adapters."""
    from arts.lm.load import load_backbone
    from arts.verifier.model import new_verifier

    language_model = load_backbone(proposer_folder(backbone), device=device)
    return new_verifier(language_model, settings, base=backbone.removeprefix("hf:"), seed=seed)


def about() -> dict[str, Any]:
    """What made an output folder: versions, commit, date. Never part of what decides a result."""
    versions = {"arts": arts.__version__, "python": platform.python_version()}
    for module in ("torch", "transformers", "numpy"):
        if module in sys.modules:
            versions[module] = str(sys.modules[module].__version__)
    return {"versions": versions, "commit": _commit(), "date": datetime.now(UTC).strftime("%Y-%m-%d")}


def _commit() -> str | None:
    """Commit of the checkout this package runs from; None for an installed wheel."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        run = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None
