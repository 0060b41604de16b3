"""How draws are made from a model's law, whatever runs the model."""

from dataclasses import dataclass

from arts.tree import LogPriorLaw


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to draw. The law that results is pi_0."""

    temperature: float = 1.0
    top_p: float = 1.0
    log_prior_law: LogPriorLaw | None = None
    "which log-probabilities to report; None: of the law that was drawn from"

    def __post_init__(self) -> None:
        if not 0 < self.temperature <= 100:
            raise ValueError(
                f"temperature {self.temperature}; allowed is 0 < temperature <= 100 (0 would leave nothing to draw)"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p}; allowed is 0 < top_p <= 1")

    @property
    def is_plain(self) -> bool:
        """Draws are from the model's own law."""
        return self.temperature == 1 and self.top_p == 1

    @property
    def law(self) -> LogPriorLaw:
        return "raw" if self.is_plain else self.log_prior_law or "sampling"
