"""What will a large run take? Tokens, disk, network, processors, GPUs and money, from counted and measured figures.

    python benchmarks/plan.py                                            # MATH-scale, as in docs/scale.md
    python benchmarks/plan.py --problems 1000000 --trunks 8 --rollouts 8 --gpus 64 --tokens-per-second 8000 --price 2.5
    python benchmarks/growth.py --part problem                           # processor time and memory a token, here

Every line says where its figure is from. *counted*: arithmetic, or bytes of a made-up problem of that shape, written by
the store. *measured*: processor time and memory a token, on the machine of results/growth.jsonl. *assumed*: what was
given, above all the speed and the price of a GPU, which nobody has measured here. `arts collect --dry-run` says the
same of a collection whose first trees are there, from those. Tokens of a problem: N trunks of T tokens in S steps, and
forks from inner steps, which come at all depths alike and so draw T / 2 each.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer
from plan_problem import Measured, Work, made_up_problem, sent_bytes, stored_bytes

from arts.collect_report import Prices, duration

RESULTS = Path(__file__).resolve().parent.parent / "results" / "growth.jsonl"
FLOPS_FORTH, FLOPS_BACK = 2, 4  # a weight and token; attention comes on top: 4% at the sizes planned here
Origin = Literal["counted", "measured", "assumed"]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What nobody has measured here: GPUs."""

    gpus: int = 8
    tokens_per_second: float = 8_000.0
    "that one GPU draws of the proposer"
    verifier_weights: float = 1.54e9
    peak_tflops: float = 989.0
    "of one GPU in bfloat16"
    share: float = 0.35
    "of the peak that training and scoring reach"
    price: float = 2.5
    "of a GPU for an hour"

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}; it must be above 0")

    def draw_hours(self, tokens: float) -> float:
        """GPU hours, of one GPU after another."""
        return tokens / self.tokens_per_second / 3600

    def verifier_hours(self, tokens: float, flops: int) -> float:
        return tokens * flops * self.verifier_weights / (self.share * self.peak_tflops * 1e12) / 3600


class Line(NamedTuple):
    what: str
    figure: str
    how: str
    origin: Origin


def read_measured(path: Path = RESULTS) -> Measured:
    """The last figures that were measured.

    Raises:
        ValueError: there are none.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [row for row in map(json.loads, lines) if row["part"] == "problem"]
    if not rows:
        raise ValueError(f"{path} has no row of part 'problem'; run `python benchmarks/growth.py --part problem`")
    return Measured(*(rows[-1][name] for name in Measured._fields))


# --- the plan ---------------------------------------------------------------------------------------------------------


def plan(work: Work, cluster: Cluster, measured: Measured) -> Iterator[Line]:
    """The lines of a plan, from drawing to evaluation."""
    rollouts, tree = made_up_problem(work)
    disk, sent = work.problems * stored_bytes(tree), work.problems * sent_bytes(rollouts, tree)
    draw_hours = cluster.draw_hours(work.generated_tokens)
    seconds = 3600 * draw_hours / cluster.gpus
    trained = work.epochs * work.distinct_tokens
    train_hours = cluster.verifier_hours(trained, FLOPS_FORTH + FLOPS_BACK)
    scored = work.test_tokens + work.test_problems * work.prompt_tokens
    test_hours = cluster.draw_hours(work.test_tokens) + cluster.verifier_hours(scored, FLOPS_FORTH)
    core_hours = work.generated_tokens * measured.write_us / 3.6e9
    prepared = work.distinct_tokens * (measured.read_us + measured.prepare_us) / 1e6
    most = 1e6 / measured.write_us
    hours = draw_hours + train_hours + test_hours
    money = Prices(generated=cluster.price * 1e6).of(0, hours)

    def gpu(name: str, own: float, how: str) -> Line:
        clock = duration(3600 * own / cluster.gpus)
        return Line(name, f"{_many(own)} GPU hours, {clock} on {cluster.gpus}", how, "assumed")

    yield Line(
        "rollouts", _many(work.problems * work.rollouts),
        f"{work.problems:,} problems x ({work.trunks} trunks + {work.forks} forks)", "counted",
    )  # fmt: skip
    yield Line(
        "tokens drawn", _many(work.generated_tokens),
        f"{work.problem_tokens:,.0f} a problem: {work.tokens} x ({work.trunks} + {work.forks} / 2)", "counted",
    )  # fmt: skip
    yield Line("prompt tokens sent", _many(work.sent_tokens), "the path above a fork is in its prompt", "counted")
    yield gpu("drawing", draw_hours, f"{cluster.tokens_per_second:,.0f} tokens/s a GPU")
    yield Line("disk, trees", _bytes(disk), f"{stored_bytes(tree) / work.problem_tokens:.1f} bytes a token", "counted")
    yield Line(
        "network, workers to driver", f"{_bytes(sent)}, {_bytes(sent / seconds)}/s",
        f"{sent / work.generated_tokens:.1f} bytes a token", "counted",
    )  # fmt: skip
    yield Line(
        "driver of the collection",
        f"{_many(core_hours)} core hours, {core_hours * 3600 / seconds:.0%} of a core",
        f"{measured.write_us:.2f} us a token; one core is full at {_many(most)} tokens/s, "
        f"{_many(most / cluster.gpus)} a GPU", "measured",
    )  # fmt: skip
    yield Line(
        "verifier's tokens",
        _many(trained),
        f"{work.epochs} x {_many(work.distinct_tokens)}: the trees, prompts included",
        "counted",
    )
    yield Line(
        "start of a trainer's process", f"{duration(prepared)}, {_bytes(work.distinct_tokens * measured.packed_bytes)}",
        f"reads and packs {measured.read_us + measured.prepare_us:.2f} us a token; "
        f"holds {measured.packed_bytes:.1f} bytes a token", "measured",
    )  # fmt: skip
    yield gpu(
        "training", train_hours,
        f"{FLOPS_FORTH + FLOPS_BACK} x {_many(cluster.verifier_weights)} operations a token "
        f"at {cluster.share:.0%} of {cluster.peak_tflops:g} TFLOP/s",
    )  # fmt: skip
    yield gpu("evaluation", test_hours, f"{work.test_problems:,} x {work.test_rollouts} solutions, drawn and scored")
    yield Line(
        "memory of `arts evaluate`", _bytes(work.test_tokens * measured.loaded_bytes),
        f"{measured.loaded_bytes:.0f} bytes a token", "measured",
    )  # fmt: skip
    yield Line("money", f"{money:,.0f}", f"{_many(hours)} GPU hours at {cluster.price:g}", "assumed")


def table(lines: Iterable[Line]) -> str:
    """A plan as a table of Markdown."""
    rows = [Line("", "figure", "from", "kind"), Line("---", "---", "---", "---"), *lines]  # type: ignore[arg-type]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _many(number: float) -> str:
    for size, sign in ((1e12, " T"), (1e9, " G"), (1e6, " M")):
        if number >= size:
            return f"{number / size:,.3g}{sign}"
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _bytes(number: float) -> str:
    for size, sign in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size:
            return f"{number / size:,.3g} {sign}"
    return f"{number:.0f} B"


def given(kind: type[Work] | type[Cluster], values: Mapping[str, Any]) -> dict[str, Any]:
    """What was given of the fields of a class."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in values.items() if name in names and value is not None}


def main(
    problems: Annotated[int | None, typer.Option(help="Default: 12,000")] = None,
    trunks: Annotated[int | None, typer.Option(help="main trajectories a problem. Default: 16")] = None,
    rollouts: Annotated[int | None, typer.Option(help="trunks and forks a problem. Default: 72")] = None,
    steps: Annotated[int | None, typer.Option(help="of a solution. Default: 8")] = None,
    tokens: Annotated[int | None, typer.Option(help="of a solution. Default: 400")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(help="Default: 150")] = None,
    epochs: Annotated[int | None, typer.Option(help="of training. Default: 2")] = None,
    test_problems: Annotated[int | None, typer.Option(help="Default: 500")] = None,
    test_rollouts: Annotated[int | None, typer.Option(help="Default: 16")] = None,
    gpus: Annotated[int | None, typer.Option(help="Default: 8")] = None,
    tokens_per_second: Annotated[float | None, typer.Option(help="drawn by one GPU. Default: 8,000")] = None,
    verifier_weights: Annotated[float | None, typer.Option(help="Default: 1.54e9")] = None,
    peak_tflops: Annotated[float | None, typer.Option(help="of a GPU. Default: 989")] = None,
    share: Annotated[float | None, typer.Option(help="of the peak that is reached. Default: 0.35")] = None,
    price: Annotated[float | None, typer.Option(help="of a GPU hour. Default: 2.5")] = None,
) -> None:
    """Print a plan."""
    values = dict(locals())
    try:
        work, cluster = Work(**given(Work, values)), Cluster(**given(Cluster, values))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    print(table(plan(work, cluster, read_measured())))


if __name__ == "__main__":
    typer.run(main)
