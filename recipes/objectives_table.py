"""The tables of docs/experiments.md on objectives, made from the committed rows: no number there is typed by hand.

    python recipes/objectives_table.py            # fill every marked place of docs/experiments.md
    python recipes/objectives_table.py --check    # say whether that would change anything

A place is marked `<!-- table: SECTION STAGE -->` ... `<!-- end of table -->`. STAGE is `validation`, `test` or
`transfer:POOL`. Accuracies are means over seeds; intervals are 95%, bootstrap over problems, of those means.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from arts.evaluate.metrics import paired_bootstrap
from arts.evaluate.searches import shown

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "objectives.jsonl"
PAGE = ROOT / "docs" / "experiments.md"
PLACE = re.compile(r"(<!-- table: (\S+) (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
HEADER = [
    "objective",
    "seeds: lowest to highest @16",
    *(f"@{k}" for k in (2, 4, 8)),
    "best-of-16",
    "gap closed",
    "rare",
    "@16 against {baseline}, points",
    "@16 by last / min",
    "sibling pairs",
    "problem pairs",
    "ECE",
]
MISSING = "–"
PLAIN = {"learning_rate": 3e-4, "rewards": [10.0, 0.1], "trees": "trees-a", "chains": 0}
CELL_OPTIONS = {"inner_weight", "regression"}  # options that ask where the paper's gain comes from


class Group(NamedTuple):
    """All seeds of one setting."""

    label: str
    spec: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def accuracy_P(self) -> np.ndarray:
        return np.asarray(np.mean([_column(row["metrics"]["per_problem"]) for row in self.rows], axis=0))


def read_rows(path: Path = RESULTS) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table_lines(section: str, stage: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Best first. A section is a number of training problems, `cells` (rfm's options and rewards) or `allocation`."""
    groups = _groups([row for row in rows if row["stage"] == stage and _belongs(section, row["spec"])], rows)
    groups.sort(key=lambda group: (-float(group.accuracy_P.mean()), group.label))
    name = f"pool:{'validation+' if stage == 'validation' else stage}"
    pool = next(({key: _column(text) for key, text in row["pool"].items()} for row in rows if row["stage"] == name), {})
    baseline = "2,400 problems" if section == "allocation" else "rfm"
    header = [cell.format(baseline=baseline) for cell in HEADER]
    return [
        _line(header),
        _line(["---"] * len(header)),
        *(_line(_cells(group, _baseline(section, group, groups), pool)) for group in groups),
    ]


def filled(page: str, rows: Sequence[dict[str, Any]]) -> str:
    """The page with every marked place made anew."""
    return PLACE.sub(lambda place: place[1] + "\n".join(table_lines(place[2], place[3], rows)) + "\n" + place[4], page)


def _belongs(section: str, spec: dict[str, Any]) -> bool:
    given = PLAIN | {key: spec[key] for key in PLAIN if key in spec}
    plain = all(given[key] == PLAIN[key] for key in ("rewards", "trees", "chains"))
    cell = spec["objective"] == "rfm" and bool(CELL_OPTIONS & set(spec["options"]))
    plain_rate = given["learning_rate"] == PLAIN["learning_rate"]
    match section:
        case "cells":
            own = spec["objective"] == "rfm" and (cell or not spec["options"])
            whole = not given["chains"] and given["trees"] == PLAIN["trees"]
            return own and whole and plain_rate and bool(spec["size"] == 2400)
        case "allocation":
            own = (spec["objective"], spec["options"]) in (("outcome", {}), ("mean_flow", {"leaf_weight": 4.0}))
            return own and plain_rate and (not plain or bool(spec["size"] == 2400))
        case _:
            return plain and not cell and bool(spec["size"] == int(section))


def _groups(chosen: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> list[Group]:
    # Validation problems were looked at again, for what the rows of training do not hold.
    more = {_key(row["spec"], seed=True): row for row in rows if row["stage"] == "validation+"}
    groups: dict[str, Group] = {}
    for row in chosen:
        spec = row["spec"]
        group = groups.setdefault(_key(spec), Group(_label(spec), spec, []))
        extra = more.get(_key(spec, seed=True), {}) if row["stage"] == "validation" else {}
        group.rows.append(row | {key: extra[key] for key in ("inner", "calibration_error") if key in extra})
    return list(groups.values())


def _baseline(section: str, group: Group, groups: Sequence[Group]) -> Group | None:
    """What a group is compared with, problem by problem."""

    def fits(other: Group) -> bool:
        if section == "allocation":
            return bool(other.spec["size"] == 2400 and other.spec["objective"] == group.spec["objective"])
        return other.label == "rfm"

    found = next(filter(fits, groups), None)
    return None if found is group else found


def _key(spec: dict[str, Any], *, seed: bool = False) -> str:
    return json.dumps({key: value for key, value in spec.items() if seed or key != "seed"}, sort_keys=True)


def _label(spec: dict[str, Any]) -> str:
    parts = [spec["objective"], *(f"{key}={_short(value)}" for key, value in sorted(spec["options"].items()))]
    if spec["rewards"] != PLAIN["rewards"]:
        parts.append(f"rewards {spec['rewards'][0]:g} and {spec['rewards'][1]:g}")
    if spec["learning_rate"] != PLAIN["learning_rate"]:
        parts.append(f"rate {spec['learning_rate']:g}")
    if spec.get("chains"):
        parts.append(f"{spec['size']:,} problems x {spec['chains']} chains")
    elif spec["trees"] != PLAIN["trees"]:
        parts.append(f"{spec['size']:,} problems of {spec['trees']}")
    return ", ".join(parts)


def _cells(group: Group, baseline: Group | None, pool: dict[str, np.ndarray]) -> list[str]:
    metrics = [row["metrics"] for row in group.rows]
    accuracy_P = group.accuracy_P
    estimate = paired_bootstrap(len(accuracy_P), seed=0)
    ones_P = np.ones(len(accuracy_P))
    finals = [own["best_of"]["16"] for own in metrics]
    cells = [group.label, f"{len(metrics)}: {min(finals):.3f} to {max(finals):.3f}"]
    cells += [f"{np.mean([own['best_of'][str(k)] for own in metrics]):.3f}" for k in (2, 4, 8)]
    cells.append(shown(estimate(accuracy_P, ones_P)))
    if pool:
        cells.append(shown(estimate(accuracy_P - pool["random"], pool["oracle"] - pool["random"])))
        cells.append(shown(estimate(accuracy_P * pool["rare"], pool["rare"])))
    else:
        cells += [f"{np.mean([own[key] for own in metrics]):.3f}" for key in ("gap_closed", "rare")]
    cells.append(
        shown(estimate(100 * (accuracy_P - baseline.accuracy_P), ones_P), form="+.1f") if baseline else MISSING
    )
    ways = [own["by_aggregation"] for own in metrics if "by_aggregation" in own]
    cells.append(" / ".join(f"{np.mean([way[how] for way in ways]):.3f}" for how in ("last", "min") if ways))
    for key in ("siblings_pairs", "problem_pairs"):
        cells.append(_mean([row["inner"][key] for row in group.rows if key in row.get("inner", {})]))
    cells.append(_mean([row["calibration_error"] for row in group.rows if "calibration_error" in row]))
    return cells


def _column(text: str) -> np.ndarray:
    return np.array(text.split(), dtype=float)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}" if values else MISSING


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is out of date")
    check = parser.parse_args().check
    before = PAGE.read_text(encoding="utf-8")
    after = filled(before, read_rows())
    if not check:
        PAGE.write_text(after, encoding="utf-8")
    print(f"{PAGE.name}: {len(PLACE.findall(before))} tables, {'as they were' if after == before else 'changed'}")
    sys.exit(int(check and after != before))


if __name__ == "__main__":
    main()
