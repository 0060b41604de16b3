"""Rows of problems from wherever they lie: JSONL files, plain or gzipped, and data sets of the `datasets` library.

Data sets name the same things differently; `read_problem` knows the names that MATH, MATH-500, GSM8K, AIME and AMC use.
Knows no task and no check.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from arts.tasks.answers import find_answer

Rows = Iterator[tuple[str, Any]]
"""(where it is, for messages; the row)"""

# Short names of data sets on the Hugging Face hub, as what stands behind `hub:`.
KNOWN_SETS = {
    "math": "EleutherAI/hendrycks_math?config=*&check=math",
    "math500": "HuggingFaceH4/MATH-500?rows=test&check=math",
    "gsm8k": "openai/gsm8k?config=main&check=number",
    "aime24": "HuggingFaceH4/aime_2024?split=test&check=number",
    "amc23": "math-ai/amc23?rows=test&check=number",
}

_PROBLEM = ("problem", "question")
_IDENTITY = ("id", "unique_id", "problem_id")
_SUBJECT = ("subject", "type")
_EXAMPLE = 'a line is {"problem": "What is 2 + 2?", "answer": "4"}'


class ProblemRow(NamedTuple):
    """What a row says of a problem."""

    text: str
    answer: str
    id: str | None = None
    split: str | None = None
    subject: str | None = None
    level: str | int | None = None


def file_rows(path: Path) -> Rows:
    """The rows of a `.jsonl` or `.jsonl.gz` file. Raises ValueError that names the file or the line."""
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    where = f"{path} line {number}"
                    try:
                        yield where, json.loads(line)
                    except ValueError as error:
                        raise ValueError(f"{where} is no problem ({error}); {_EXAMPLE}") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a file of problems: {error}") from error


def _open(path: Path) -> Any:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="\n")
    return path.open(encoding="utf-8-sig", newline="\n")


def hub_rows(name: str, *, config: str | None, rows: str | None) -> Rows:
    """The rows of a data set of the `datasets` library, each with the split of the data set it comes from.

    Args:
        name: `OWNER/NAME` on the Hugging Face hub, or a folder that `save_to_disk` wrote.
        config: the data set's configuration; `*` for all of them, one after another.
        rows: which of the data set's own splits; None for all of them.

    Raises:
        ValueError: it cannot be loaded; says what the library says.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ValueError('data sets of the hub need the library `datasets`: pip install "arts-llm[grpo]"') from error
    try:
        if Path(name).is_dir():
            loaded = [datasets.load_from_disk(name)]
        else:
            configs = datasets.get_dataset_config_names(name) if config == "*" else [config]
            loaded = [datasets.load_dataset(name, one) for one in configs]
    except Exception as error:  # the library raises errors of many others
        raise ValueError(f"data set {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    for part in loaded:
        splits = dict(part) if isinstance(part, datasets.DatasetDict) else {str(part.split or "train"): part}
        if rows is not None and rows not in splits:
            raise ValueError(f"data set {name!r} has no rows {rows!r}; it has {', '.join(splits)}")
        for split, table in splits.items():
            if rows in (None, split):
                for number, row in enumerate(table):
                    yield f"{name} {split} {number}", {"split": split, **row}


def read_problem(where: str, row: Any) -> ProblemRow:
    """What a row says, by any of the names that its fields may have.

    The answer is the field `answer`, of which GSM8K's stands behind `####`; without the field it is what the field
    `solution` marks as its answer, as in MATH.

    Raises:
        ValueError: the row is no problem; names it.
    """
    try:
        return _read_problem(row)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where} is no problem ({error}); {_EXAMPLE}") from error


def _read_problem(row: Any) -> ProblemRow:
    if not isinstance(row, dict):
        raise TypeError(f"it is a {type(row).__name__}, not an object with fields")
    text, answer = _field(row, _PROBLEM), row.get("answer")
    if text is None:
        raise ValueError("no field 'problem'")
    if not isinstance(text, str) or not text.strip():
        raise TypeError(f"problem is {text!r}, and must be a text")
    if "answer" not in row:
        answer = find_answer(str(row.get("solution", "")))
        if answer is None:
            raise ValueError("no field 'answer'")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise TypeError(f"answer is {answer!r}, and must be a text or a number")
    if isinstance(answer, str) and "####" in answer:
        answer = answer.rpartition("####")[2].strip()
    identity, subject, level = _field(row, _IDENTITY), _field(row, _SUBJECT), row.get("level")
    if isinstance(level, str):
        level = level.removeprefix("Level ")
    return ProblemRow(
        text=text,
        answer=str(answer),
        id=None if identity is None else str(identity),
        split=row.get("split"),
        subject=None if subject is None else str(subject),
        level=level,
    )


def _field(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)
