"""What an OpenAI-compatible server can do for us: found out by `arts.proposers.probe`, printed by `arts doctor`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from arts.proposers.openai_reply import Route
from arts.tree import LogPriorLaw, Problem

Continuing = Literal["token_ids", "continue_final_message", "prefill", "text", "none"]
"""How a path goes on: the ids of the prompt and the path to `/completions`; the path as an assistant's message with
`continue_final_message`, or without any flag; the text of both to `/completions`; or not at all."""

PATHS: Mapping[Route, str] = {"chat": "chat/completions", "completions": "completions"}
EXTRA_FIELDS = {
    # A server takes its defaults from the model's generation_config.json, where many have top_k 20 and penalties.
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "return_token_ids": True,
    "include_stop_str_in_output": True,
}
"""Fields beyond OpenAI's own, for servers that take them."""
CONTINUE_FLAGS = {"continue_final_message": True, "add_generation_prompt": False}
LimitField = Literal["max_tokens", "max_completion_tokens"]
"""What the longest answer is called: OpenAI's newer models refuse the first, most other servers ignore the second."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a server can do for us. The defaults are what every one of them can."""

    model: str
    server: str = "unknown"
    continuing: Continuing = "none"
    chat: bool = True
    "it applies a chat template; a base model has none, and reads the prompt as it is"
    n: bool = False
    "several choices for one request"
    log_probs: bool = False
    log_prior_law: LogPriorLaw | None = None
    "which law its log-probabilities are of at temperature .5; None: not known"
    stop_strings: bool = False
    says_stop: bool = False
    "it tells an end by a stop string from an end by the model itself"
    seed: bool = False
    samples: bool = True
    "draws differ at temperature 1"
    usage: bool = False
    limit_field: LimitField = "max_tokens"
    extra_fields: bool = False
    "it takes fields that OpenAI's own servers refuse: top_k, min_p and repetition_penalty among them"
    trims: bool = False
    "it loses the blanks at the end of an assistant's message, such as the blank line behind a step"
    repeats_prompt: bool = False
    "its answers begin with the prompt"
    max_context: int | None = None
    "tokens of prompt and answer"

    def table(self) -> list[tuple[str, str, str]]:
        """Rows of: what, whether the server can, and what is done about it."""

        def said(can: bool) -> str:
            return "yes" if can else "no"

        ways = {
            "token_ids": ("by token ids", "what was drawn is what is continued"),
            "continue_final_message": ("continue_final_message", "the path is sent as the assistant's message"),
            "prefill": ("assistant's message", "the path is sent as the assistant's message"),
            "text": ("as text", "template and path are sent to /completions"),
            "none": ("no", "whole solutions only"),
        }
        law = "not known" if self.log_prior_law is None else f"yes, {self.log_prior_law} law"
        return [
            ("model", self.model, f"server says it is {self.server}"),
            ("chat template", said(self.chat), "" if self.chat else "prompts are sent as they are"),
            ("goes on", *ways[self.continuing]),
            ("n > 1", said(self.n), "siblings in one request" if self.n else "a request for every draw"),
            ("log-probabilities", law if self.log_probs else "no", "log-priors" if self.log_probs else "no log-priors"),
            ("stop strings", said(self.stop_strings), ""),
            (
                "stop reason",
                said(self.says_stop),
                "steps end at the separator" if self.says_stop else "a step is a whole solution, cut",
            ),
            ("seed", said(self.seed), "a draw can be repeated" if self.seed else ""),
            ("token usage", said(self.usage), "" if self.usage else "estimated, and marked so"),
            (
                "further fields",
                said(self.extra_fields),
                "top_k, min_p and penalties are switched off"
                if self.extra_fields
                else "its own defaults stay in force",
            ),
            ("longest context", str(self.max_context or "not known"), ""),
        ]

    def advice(self) -> list[str]:
        """What whoever draws from it should know."""
        lines = []
        if not self.samples:
            lines.append(
                "all draws at temperature 1 were equal: the server seems to ignore the temperature (with transformers "
                "serve, set do_sample in the model's generation_config.json)"
            )
        if self.continuing == "none":
            lines.append(
                "the server cannot go on from the middle of an answer: only whole solutions can be drawn (--pivots "
                "none, best-of-n). With ?tokenizer=FOLDER, the model's own, its /completions can be asked"
            )
        elif not self.says_stop:
            lines.append("the server does not say where it stopped: a step is drawn as a whole solution and cut")
        if self.repeats_prompt and self.route == "chat":
            lines.append(
                "the server repeats the prompt in its answers, which makes them wrong (transformers serve does so "
                "under a template that it does not know). With ?tokenizer=FOLDER, its /completions can be asked"
            )
        if not self.chat:
            lines.append("the server applies no chat template: prompts are sent as they are")
        if not self.extra_fields:
            lines.append(
                "the server takes no top_k, min_p or repetition_penalty: where its own defaults are not neutral, draws "
                "are of another law than log-priors say"
            )
        if not self.log_probs:
            lines.append("the server returns no log-probabilities: trees have no log-priors")
        if not self.usage:
            lines.append("the server counts no tokens: bills are estimates, and marked so")
        if not self.seed:
            lines.append("equal seeds give different draws here: a run cannot be repeated, but goes on all the same")
        return lines

    @property
    def route(self) -> Route:
        return "completions" if self.continuing in ("token_ids", "text") else "chat"


class LocalTokenizer(Protocol):
    """The model's tokenizer on this machine, for servers that cannot be asked what it does."""

    @property
    def fingerprint(self) -> str: ...

    def prompt_text(self, messages: Sequence[Mapping[str, Any]]) -> str: ...

    def prompt_ids(self, messages: Sequence[Mapping[str, Any]]) -> list[int]: ...


def chat_messages(problem: Problem, system: str | None) -> list[dict[str, Any]]:
    """A problem as a conversation; a system message of its own counts more than the one given."""
    messages = problem.messages
    if system and messages[0].get("role") not in ("system", "developer"):
        messages.insert(0, {"role": "system", "content": system})
    return messages
