"""Rows of a rollout file, whatever is wrong with some of them: JSON or JSON lines, gzipped or not.

What cannot be read is counted and named by its line; it never ends the reading of the rest.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from arts.rollouts.formats import read_row, rows_of
from arts.rollouts.records import Record

LONGEST_LINE = 64 << 20  # bytes; a longer line is passed over without being held in memory
LONGEST_DOCUMENT = 1 << 30  # of a whole JSON file
_SHOWN = 200


@dataclass
class Reading:
    """What was read besides the records themselves; complete when the last record is out."""

    num_rows: int = 0
    formats: dict[str, int] = field(default_factory=dict)
    "rows of each format"
    bad: list[str] = field(default_factory=list)
    "why each row that was left out cannot be read, with its place"


def read_records(path: Path, reading: Reading) -> Iterator[Record]:
    """The records of a file; those that cannot be read are noted in `reading`.

    Raises:
        ValueError: there is no such file, or nothing in it can be a row.
    """
    try:
        with _opened(path) as file:
            rows = _rows(path, file, reading)
            for place, row in rows:
                reading.num_rows += 1
                try:
                    name, record = read_row(row)
                except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                    reading.bad.append(f"{place}: {_said(error)}")
                    continue
                reading.formats[name] = reading.formats.get(name, 0) + 1
                yield record
    except (OSError, EOFError, zlib.error) as error:
        if not reading.num_rows:
            raise ValueError(f"{path} cannot be read: {error}") from error
        reading.bad.append(f"behind row {reading.num_rows}: the file breaks off ({error})")


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if is_packed else path.open("rb")  # type: ignore[return-value]


def _rows(path: Path, file: IO[bytes], reading: Reading) -> Iterator[tuple[str, object]]:
    """Each row with its place."""
    start = file.read(1 << 12).removeprefix(b"\xef\xbb\xbf").lstrip()
    file.seek(0)
    if not start:
        raise ValueError(f"{path} is empty")
    if start[:1] == b"<":
        raise ValueError(f"{path} is a page (HTML or XML), not JSON: was it saved in place of the file itself?")
    if start[:1] not in b"[{":
        raise ValueError(
            f"{path} starts with {start[:20].decode('utf-8', 'replace')!r}; a file of rollouts is JSON lines or JSON"
        )
    first = file.readline(LONGEST_LINE).removeprefix(b"\xef\xbb\xbf")
    file.seek(0)
    if _is_object(first):
        yield from _lines(file, reading)
        return
    content = file.read(LONGEST_DOCUMENT + 1)
    if len(content) > LONGEST_DOCUMENT:
        raise ValueError(f"{path} is one JSON document of more than {LONGEST_DOCUMENT >> 20} MB; make it JSON lines")
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        if content.lstrip()[:1] == b"[":
            raise ValueError(f"{path} is neither JSON nor JSON lines: {_where(content)}") from None
        file.seek(0)
        yield from _lines(file, reading)  # whose first line is a bad one
        return
    for number, row in enumerate(rows_of(document), start=1):
        yield f"row {number}", row


def _is_object(line: bytes) -> bool:
    """Is a line a row by itself, so that the file holds a row a line?"""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and "categories" not in row


def _where(content: bytes) -> str:
    try:
        json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return _said(error)
    return ""


def _lines(file: IO[bytes], reading: Reading) -> Iterator[tuple[str, object]]:
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        place = f"line {number}"
        if len(line) > LONGEST_LINE:
            while line and not line.endswith(b"\n"):
                line = file.readline(1 << 20)
            reading.num_rows += 1
            reading.bad.append(f"{place}: longer than {LONGEST_LINE >> 20} MB")
            continue
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            if b"\\ud" in line.lower():  # halves of characters, which cannot be written
                row = json.loads(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace"))
        except (ValueError, RecursionError) as error:
            reading.num_rows += 1
            reading.bad.append(f"{place}: {_said(error)}")
            continue
        yield place, row


def _said(error: BaseException) -> str:
    text = f"no field {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " ..."
