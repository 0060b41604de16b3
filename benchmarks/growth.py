"""Does a unit of work cost the same however much there is of it? Commands as problems grow, trees as nodes grow.

    python benchmarks/growth.py                                 # all of it: an hour of a core; goes on if stopped
    python benchmarks/growth.py --part stages --world table --size 100 --size 1000 --out growth.jsonl
    python benchmarks/growth.py --part trees --nodes 1000 --operation pack
    python benchmarks/growth.py --part searches --strategy dts

`stages`: every command of the pipeline, a process each, at 100 to 10,000 problems with the shipped model and up to
100,000 with the table proposer (growth_stages.py). `trees`: every operation on one tree of 10 to 100,000 nodes
(growth_trees.py). `searches`: the search itself as its tree grows (search_overhead.py). `problem`: a token of one
problem of the paper's size, for plan.py. A row that is in the file is not measured again. Tables and plot in
docs/scale.md: `python recipes/growth_table.py`.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from growth_stages import WORLDS, stage_rows
from plan_problem import Work, measure

from arts.build import about
from arts.files import dump

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "growth.jsonl"
PARTS = ("stages", "trees", "searches", "problem")
NODES = (10, 100, 1_000, 10_000, 100_000)


def read_rows(path: Path) -> list[Row]:
    """The measured rows of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def key_of(row: Row) -> tuple[Any, ...]:
    """What a row is about."""
    return tuple(row.get(name) for name in ("part", "world", "stage", "shape", "operation", "strategy", "size"))


def tree_rows(sizes: Sequence[int], operations: Sequence[str], is_known: Callable[[Row], bool]) -> Iterator[Row]:
    from growth_trees import SHAPES, operation_rows

    for shape in SHAPES:
        yield from operation_rows(shape, sizes, operations, is_known)


def search_rows(sizes: Sequence[int], strategies: Sequence[str], is_known: Callable[[Row], bool]) -> Iterator[Row]:
    from search_overhead import STRATEGIES, overhead

    for strategy in strategies or STRATEGIES:
        wanted = [{"part": "search", "strategy": strategy, "size": size} for size in sizes]
        if not all(map(is_known, wanted)):
            yield from ({**row, "part": "search"} for row in overhead(strategy, sizes))


def main(
    part: Annotated[list[str] | None, typer.Option(help=f"{', '.join(PARTS)}; repeat. Default: all")] = None,
    world: Annotated[list[str] | None, typer.Option(help=f"{', '.join(WORLDS)}; repeat. Default: both")] = None,
    stage: Annotated[list[str] | None, typer.Option(help="of `stages`: collect, train, ...; repeat")] = None,
    size: Annotated[list[int] | None, typer.Option(help="of `stages`: problems; repeat")] = None,
    nodes: Annotated[list[int] | None, typer.Option(help="of a tree; repeat. Default: 10 to 100,000")] = None,
    operation: Annotated[list[str] | None, typer.Option(help="of `trees`; repeat. Default: all")] = None,
    strategy: Annotated[list[str] | None, typer.Option(help="of `searches`; repeat. Default: all")] = None,
    out: Annotated[Path, typer.Option(help="file of the rows")] = RESULTS,
    work: Annotated[Path | None, typer.Option(help="folder for what the commands write; kept")] = None,
) -> None:
    """Measure what is not in the file yet."""
    known = {key_of(row) for row in read_rows(out)}

    def is_known(row: Row) -> bool:
        return key_of(row) in known

    def rows(folder: Path) -> Iterator[Row]:
        if "stages" in (part or PARTS):
            for name in world or WORLDS:
                chosen = [one for one in WORLDS[name].stages if one in (stage or WORLDS[name].stages)]
                yield from stage_rows(WORLDS[name], chosen, size or WORLDS[name].sizes, folder, is_known)
        if "trees" in (part or PARTS):
            yield from tree_rows(nodes or NODES, operation or (), is_known)
        if "searches" in (part or PARTS):
            yield from search_rows(nodes or NODES, strategy or (), is_known)
        # Where it is asked for it is measured anew: a plan reads the last one.
        if "problem" in (part or PARTS) and (part or not is_known({"part": "problem"})):
            yield {"part": "problem"} | measure(Work())._asdict()

    made = about()
    with tempfile.TemporaryDirectory() as temporary:
        for row in rows(work or Path(temporary)):
            if not is_known(row) or row["part"] == "problem":
                known.add(key_of(row))
                with out.open("a", encoding="utf-8") as file:
                    file.write(dump(row | {"date": made["date"], "commit": made["commit"]}) + "\n")
                print(dump(row), file=sys.stderr, flush=True)


if __name__ == "__main__":
    typer.run(main)
