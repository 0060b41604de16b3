"""Servers as users name them: `http://HOST:PORT/v1#MODEL?OPTION=VALUE&...`. Sends nothing."""

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import unquote

from arts.options import parse_options

if TYPE_CHECKING:
    from arts.lm.load import TokenizerFolder
    from arts.net.client import Client
    from arts.proposers.openai_http import ServerSettings


def is_server(name: str) -> bool:
    return name.startswith(("http://", "https://"))


class _HasKey(Protocol):
    @property
    def key_env(self) -> str | None: ...

    @property
    def key_file(self) -> str | None: ...


S = TypeVar("S", bound=_HasKey)


class Server(NamedTuple):
    """A server as a user names it: where it is, which model, and how it is to be used."""

    client: "Client"
    model: str | None
    settings: "ServerSettings"
    tokenizer: "TokenizerFolder | None"


def open_server(name: str) -> Server:
    """`http://HOST:PORT/v1#MODEL?OPTION=VALUE&...`; sends nothing yet.

    Raises:
        ValueError: the address or an option makes no sense, or there is no such key or tokenizer.
    """
    from arts.net.client import Client
    from arts.proposers.openai_http import ServerSettings

    address, model, settings, key = read_server(name, ServerSettings)
    client = Client(
        address, key=key, timeout_s=settings.timeout_s, max_in_flight=settings.max_in_flight, patience=settings.patience
    )
    tokenizer = None
    if settings.tokenizer is not None:
        from arts.lm.load import load_tokenizer

        tokenizer = load_tokenizer(settings.tokenizer)
    return Server(client, model or None, settings, tokenizer)


def read_server(name: str, settings_class: type[S]) -> tuple[str, str, S, str | None]:
    """Address, model, options and key of `http://HOST:PORT/v1#MODEL?OPTION=VALUE&...`."""
    from arts.net.address import read_key

    address, _, rest = name.partition("#")
    model, _, options = rest.partition("?")
    settings = settings_class(**url_options(settings_class, options, of=f"server {address.rpartition('@')[2]}"))
    key = read_key(key_env=settings.key_env, key_file=settings.key_file, address=address)
    return address, unquote(model), settings, key


def url_options(settings_class: type[Any], options: str, *, of: str) -> dict[str, Any]:
    """Options written as in a URL: `KEY=VALUE&KEY=VALUE`, percent-encoded."""
    return parse_options(settings_class, map(unquote, filter(None, options.split("&"))), of=of)
