"""Options as a user types them, KEY=VALUE, turned into the fields of a settings dataclass by their types."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

_MOST_LISTED = 40


def parse_options(settings_class: type[Any], texts: Iterable[str], *, of: str) -> dict[str, Any]:
    """Values of fields from `KEY=VALUE` texts. `none` is no value; `true` and `false` are the booleans.

    Args:
        of: what the options belong to, for messages.

    Raises:
        ValueError: no `=`, an unknown key, or a value of another type; says what is allowed.
    """
    types = _types_of(settings_class)  # type: ignore[arg-type]  # classes can be hashed
    allowed = [field.name for field in fields(settings_class)]
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{of}: option {text!r} is not of the form KEY=VALUE; {allowed_options(text, allowed)}")
        if key not in allowed:
            raise ValueError(f"{of} has no option {key!r}; {allowed_options(key, allowed)}")
        values[key] = _parse(f"{of}: {key}", value, types[key])
    return values


@cache  # a strategy is built from its text for every problem, and reading annotations takes longer than the rest
def _types_of(settings_class: type[Any]) -> dict[str, Any]:
    return get_type_hints(settings_class)


def allowed_options(key: str, options: Sequence[str]) -> str:
    """What there is instead; of the many of another library, those that look like it."""
    if len(options) <= _MOST_LISTED:
        return f"its options are {', '.join(options)}"
    near = get_close_matches(key, options, n=5)
    return f"the nearest of its {len(options)} options are {', '.join(near)}" if near else "see its own documentation"


def _parse(what: str, text: str, hint: Any) -> Any:
    kinds = [hint, *get_args(hint)]
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if text == "none" and type(None) in kinds:
        return None
    if choices and text not in choices:
        raise ValueError(f"{what} is {text!r}; allowed are {', '.join(map(repr, choices))}")
    if bool in kinds:
        if text not in ("true", "false"):
            raise ValueError(f"{what} is {text!r}; allowed are true and false")
        return text == "true"
    for number in (int, float):
        if number in kinds:
            try:
                return number(text)
            except ValueError as error:
                raise ValueError(f"{what} is {text!r}; it must be a number") from error
    return text
