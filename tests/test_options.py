"""Options typed as KEY=VALUE: every kind of field, and one clear sentence for each mistake."""

from dataclasses import dataclass, make_dataclass
from typing import Literal

import pytest

from arts.options import parse_options


@dataclass(frozen=True, kw_only=True)
class Settings:
    count: int = 1
    share: float = 0.5
    limit: float | None = 2.0
    name: str = ""
    kind: Literal["a", "b"] = "a"
    choice: Literal["x", "y"] | None = None
    on: bool = False


def parse(*texts: str) -> Settings:
    return Settings(**parse_options(Settings, texts, of="it"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("count=3", Settings(count=3)),
        ("count=-3", Settings(count=-3)),
        ("share=1e-3", Settings(share=1e-3)),
        ("limit=none", Settings(limit=None)),
        ("limit=4", Settings(limit=4.0)),
        ("name=none", Settings(name="none")),
        ("name=a=b", Settings(name="a=b")),
        ("name=", Settings(name="")),
        ("kind=b", Settings(kind="b")),
        ("choice=y", Settings(choice="y")),
        ("choice=none", Settings(choice=None)),
        ("on=true", Settings(on=True)),
        ("on=false", Settings(on=False)),
    ],
)
def test_value_has_the_type_of_its_field(text: str, expected: Settings) -> None:
    assert parse(text) == expected


def test_several_options_and_the_last_of_a_kind() -> None:
    assert parse() == Settings()
    assert parse("count=2", "on=true", "count=5") == Settings(count=5, on=True)


def test_of_many_options_the_nearest_are_named() -> None:
    many = make_dataclass(
        "Many", [(f"field_{number}", int, 0) for number in range(90)] + [("learning_rate", float, 0.0)]
    )
    with pytest.raises(ValueError) as error:
        parse_options(many, ["learning_rat=1"], of="it")
    assert str(error.value) == "it has no option 'learning_rat'; the nearest of its 91 options are learning_rate"
    with pytest.raises(ValueError, match="it has no option 'zzz'; see its own documentation"):
        parse_options(many, ["zzz=1"], of="it")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count", "it: option 'count' is not of the form KEY=VALUE; its options are count, share, limit, name, kind"),
        ("size=3", "it has no option 'size'; its options are count, share, limit, name, kind, choice, on"),
        ("=3", "it has no option ''"),
        ("count=1.5", "it: count is '1.5'; it must be a number"),
        ("share=much", "it: share is 'much'; it must be a number"),
        ("share=none", "it: share is 'none'; it must be a number"),
        ("kind=c", "it: kind is 'c'; allowed are 'a', 'b'"),
        ("choice=z", "it: choice is 'z'; allowed are 'x', 'y'"),
        ("on=1", "it: on is '1'; allowed are true and false"),
    ],
)
def test_mistake_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse(text)
    assert message in str(error.value)
