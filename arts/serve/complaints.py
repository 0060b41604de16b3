"""What is wrong with a body that is no request: the field, written as in Python, and what it should be.

Of pydantic's complaints only what a client can see in its own body is told: the branches of unions that were tried, and
the names of our classes, are left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from arts.serve.errors import ApiError, invalid

Complaint = Mapping[str, Any]
_SHOULD = "Input should be "
_OBJECT_WANTED = ("model_type", "model_attributes_type", "dict_type")


def complaint(errors: Sequence[Complaint], body: Any) -> ApiError:
    """The first field that is wrong: where it may have several forms, all that could be said of the one it has.

    Args:
        errors: of pydantic, at least one.
        body: what was sent, as far as it could be read.
    """
    if errors[0]["type"] == "json_invalid":
        return invalid(f"the body is no JSON: {errors[0]['ctx']['error']}", code="invalid_field")
    paths = [path_of(error, body) for error in errors]
    # What has the form of one branch is wrong further down; that it has not the form of another says nothing.
    deepest = [path for path in paths if not any(other[: len(path)] == path and other != path for other in paths)]
    first = deepest[0]
    about = [error for error, path in zip(errors, paths, strict=True) if path == first]
    about = [error for error in about if not error["type"].endswith("_type")] or about  # it has the form, and is wrong
    said = list(dict.fromkeys(map(_in_words, about)))
    sentence = ", or ".join([said[0], *(more.removeprefix(_SHOULD) for more in said[1:])])
    where = written(first)
    return invalid(f"{where or 'body'}: {sentence}", where or None, "invalid_field")


def path_of(error: Complaint, body: Any) -> tuple[str | int, ...]:
    """Keys and places of the body that lead to what is wrong."""
    path: list[str | int] = []
    _, *parts = error["loc"]  # the first says that it is the body
    for number, part in enumerate(parts, 1):
        missing = error["type"] == "missing" and number == len(parts)
        if isinstance(body, Mapping) and (part in body or missing):
            body = body.get(part)
        elif isinstance(body, list) and isinstance(part, int) and part < len(body):
            body = body[part]
        else:
            continue  # the name of a branch
        path.append(part)
    return tuple(path)


def written(path: Sequence[str | int]) -> str:
    """`messages[0].content`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part[:60]}" for part in path).removeprefix(".")


def _in_words(error: Complaint) -> str:
    if error["type"] in _OBJECT_WANTED:
        return f"{_SHOULD}an object"
    return str(error["msg"]).removeprefix("Value error, ")
