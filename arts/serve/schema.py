"""What requests look like: the part of OpenAI's protocol that we read ourselves, and our own fields.

Other fields are allowed and kept as they came; what becomes of them is said in `arts.serve.plan`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_STRICT = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
Positive = Annotated[int, Field(ge=1, le=1 << 31)]


class ArtsOptions(BaseModel):
    """`extra_body={"arts": {...}}` of OpenAI's client."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    strategy: str | None = Field(
        default=None, max_length=200, description="ID or ID:KEY=VALUE,...; counts more than the model"
    )
    budget_tokens: Positive | None = Field(default=None, description="the most tokens to generate, over all draws")
    deadline_s: float | None = Field(default=None, gt=0, description="best answer so far after this time")
    tree: bool = Field(default=False, description="put the whole tree into the answer")
    events: Literal["progress", "tree", "none"] = Field(
        default="progress", description="what a stream tells while it searches"
    )


class StreamOptions(BaseModel):
    model_config = _STRICT
    include_usage: bool | None = None


class Part(BaseModel):
    model_config = _STRICT
    type: str
    text: str | None = None

    @model_validator(mode="after")
    def _has_text(self) -> "Part":
        if self.type == "text" and self.text is None:
            raise ValueError("a part of type text has no text")
        return self


class Message(BaseModel):
    model_config = _STRICT
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None


class _Generation(BaseModel):
    """What both kinds of requests share."""

    model_config = _STRICT
    model: str = Field(max_length=400)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Positive | None = None
    n: Positive | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    arts: ArtsOptions | None = None


class ChatRequest(_Generation):
    messages: list[Message] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: Positive | None = None


class CompletionRequest(_Generation):
    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description="for a search: the user's message, also as a list of one"
    )


class Prefix(BaseModel):
    """A partial or finished solution."""

    model_config = ConfigDict(strict=True, extra="forbid")
    text: str | None = Field(default=None, description="cut into steps at the step separator")
    steps: list[str] | None = Field(default=None, description="the steps themselves", max_length=1000)
    finished: bool = Field(default=False, description="the model ended its solution here")

    @model_validator(mode="after")
    def _is_one(self) -> "Prefix":
        if (self.text is None) == (self.steps is None):
            raise ValueError("a prefix has either text or steps")
        return self


class ScoreCall(BaseModel):
    """Body of /v1/score."""

    model_config = ConfigDict(strict=True, extra="forbid")
    messages: list[Message] = Field(min_length=1, max_length=10_000, description="the problem, as it was asked")
    prefixes: list[str | Prefix] = Field(min_length=1, description="a text alone is a prefix that is not finished")


Body = dict[str, Any]
