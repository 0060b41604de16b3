"""Files that are whole or not there, with one writer at a time: what all that is kept on disk has in common.

Knows neither trees nor runs. A user's mistake and a full disk are a ValueError in words.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

R = TypeVar("R")


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    replace_on_disk(temporary, path)


def replace_on_disk(temporary: Path, path: Path) -> None:
    """Put a written file in the place of another, so that after a power cut either is there whole."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def append_lines(path: Path, lines: Iterable[str], *, sync: bool = True) -> None:
    """Put lines at the end of a file. Where that fails, the file is as it was.

    Args:
        sync: they outlive a power cut once this returns, as does whatever was appended before.

    Raises:
        ValueError: the disk is full, and the like.
    """
    content = "".join(line + "\n" for line in lines).encode()
    with writing_to(path.parent), path.open("ab", buffering=0) as file:
        size, left = file.tell(), memoryview(content)
        try:
            while left:
                left = left[file.write(left) :]
            if sync:
                os.fsync(file.fileno())
            if size == 0:
                sync_folder(path.parent)
        except OSError:
            with suppress(OSError):
                os.ftruncate(file.fileno(), size)
            raise


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made where it is missing, while files are written to it.

    Raises:
        ValueError: another process holds it, or it cannot be made.
    """
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ValueError(f"another process is writing to {folder}; wait for it or choose another --out") from error
    except OSError:  # a file system that knows no locks of folders, such as NFS
        pass
    try:
        yield
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Put names of new files on disk too: a file's own sync does not (fsync(2))."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn a full disk, a read-only folder and the like into one sentence."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}") from error


def dump(value: object) -> str:
    """One line of JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def read_lines(path: Path, parse: Callable[[Any], R], *, repair: bool = False, hint: str = "") -> Iterator[R]:
    """What the lines of a JSON lines file hold, up to the last whole one; nothing where there is no file.

    Args:
        repair: cut a torn last line off, so that appending goes on behind it. False for those who only look: another
            process may be writing that line now.
        hint: what to do about a damaged line.

    Raises:
        ValueError: a line is damaged; names file and line.
    """
    if not path.exists():
        return
    # Bytes: the cut may be inside a character, and text has line ends of its own that JSON does not escape.
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if repair and whole < len(content):
        with writing_to(path.parent):
            os.truncate(path, whole)
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        try:
            found = parse(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} line {number} is damaged ({error}){hint}") from error
        yield found
