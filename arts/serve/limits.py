"""What one server allows: how much at a time, how long, how large. Knows no protocol."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of `arts serve`; each is one of its options."""

    max_active: int = 64
    "searches that run at the same time"
    max_waiting: int = 256
    "requests in line behind them; one more is answered 429"
    deadline_s: float = 120.0
    "for one request, time in line included: what it gets when it names none, and the most it may name"
    max_budget_tokens: int = 100_000
    "the most `budget_tokens` a request may name"
    max_draws: int = 256
    "the largest size of a strategy, such as N of best-of-N"
    max_nodes: int = 20_000
    "a search whose tree is larger ends, with the best answer it has"
    max_prefixes: int = 256
    "of one call of /v1/score"
    max_body_bytes: int = 4 * 2**20

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "max_waiting" else 1
            if field.name == "deadline_s":
                if not 0 < value < float("inf"):
                    raise ValueError(f"deadline_s is {value}; it must be a number of seconds above 0")
            elif value < least:
                raise ValueError(f"{field.name} is {value}; it must be at least {least}")
