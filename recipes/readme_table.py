"""Make README's result table from the committed rows, so that no number there is typed by hand.

    python recipes/readme_table.py            # print it
    python recipes/readme_table.py --write    # put it between README's markers

`results/countdown-test.jsonl` is the `draws.jsonl` that `recipes/countdown.sh` wrote.
"""

import argparse
import re
from pathlib import Path

from arts.evaluate.metrics import Estimate
from arts.evaluate.rows import read_rows
from arts.evaluate.run import Evaluation, evaluate_trees
from arts.tasks.countdown import CountdownTask

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "results" / "countdown-test.jsonl"
START, END = "<!-- table: recipes/readme_table.py -->", "<!-- end of table -->"
NAMES = {
    "random": "random pick",
    "majority": "majority vote",
    "flow_vote": "flow-weighted vote",
    "arts": "**ARTS** (highest terminal flow)",
    "oracle": "oracle",
}


def evaluation() -> Evaluation:
    trees, scored = read_rows(ROWS)
    return evaluate_trees(trees, scored, difficulty=CountdownTask().difficulty)


def table(results: Evaluation) -> str:
    sizes = [k for k in results.pass_at_k if k in (1, 2, 4, 8, 16)]
    rare = results.subsets["rare"]
    header = [
        "choice",
        *(f"best of {k}" for k in sizes),
        f"95% interval at {sizes[-1]}",
        "gap closed",
        f"rare ({rare.num_problems})",
    ]
    lines = [_line(header), _line(["---"] * len(header))]
    for selector, name in NAMES.items():
        result = results.selectors[selector]
        lines.append(
            _line(
                [
                    name,
                    *(_percent(result.at[k]) for k in sizes),
                    _interval(result.at[sizes[-1]]),
                    f"{_percent(result.gap_closed)} {_interval(result.gap_closed)}",
                    f"{_percent(rare.selectors[selector])} {_interval(rare.selectors[selector])}",
                ]
            )
        )
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _percent(estimate: Estimate) -> str:
    return "–" if estimate.value is None else f"{100 * estimate.value:.1f}"


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def with_table(readme: str, new_table: str) -> str:
    """README with the table between the markers replaced.

    Raises:
        ValueError: the markers are missing.
    """
    if START not in readme or END not in readme:
        raise ValueError(f"README has no markers {START!r} and {END!r}")
    return re.sub(
        f"{re.escape(START)}.*?{re.escape(END)}", lambda _: f"{START}\n\n{new_table}\n\n{END}", readme, flags=re.DOTALL
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="change README.md")
    if parser.parse_args().write:
        readme_path = ROOT / "README.md"
        readme_path.write_text(
            with_table(readme_path.read_text(encoding="utf-8"), table(evaluation())), encoding="utf-8"
        )
    else:
        print(table(evaluation()))
