"""Where a server is, and the key it wants: checked before anything is sent."""

import os
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def checked_url(url: str) -> str:
    """The URL without a `/` at its end. Raises ValueError for one that cannot be a server's, or that holds a secret."""
    shown = url.rpartition("@")[2].partition("?")[0]  # what stands before or behind may be a secret
    advice = f"{shown!r} is no server's address; give one like http://127.0.0.1:8000/v1#MODEL"
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(advice) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(advice)
    if parts.username or parts.password:
        host = parts.netloc.rpartition("@")[2]
        raise ValueError(
            f"the address of {host} holds a user name or password; leave it out and give the key in the environment "
            "variable ARTS_API_KEY"
        )
    if parts.fragment or any(map(str.isspace, url)):
        raise ValueError(advice)
    if parts.query:
        plain = f"{parts.scheme}://{parts.netloc}{parts.path}"
        raise ValueError(f"{plain}: options go behind the model: {plain}#MODEL?KEY=VALUE")
    try:
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r}: {error}") from error
    return url.rstrip("/")


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for this address (HTTP_PROXY, HTTPS_PROXY, NO_PROXY)."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)


def userinfo(url: str | None) -> tuple[str, ...]:
    """What an address holds besides where it leads, as it is written there: `user:password`, and the password."""
    info = urlsplit(url).netloc.rpartition("@")[0] if url else ""
    return (info, info.partition(":")[2]) if info else ()


def read_key(*, key_env: str | None = None, key_file: str | None = None, address: str = "") -> str | None:
    """The key for a server, from the environment or a file; never from the command line, which others can see.

    Without `key_env` and `key_file` these variables are looked at: ARTS_API_KEY, and OPENAI_API_KEY for api.openai.com.

    Raises:
        ValueError: a variable or file that was named is not there or empty.
    """
    if key_file is not None:
        try:
            key = Path(key_file).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the key file {key_file!r} cannot be read: {error}") from error
        if not key:
            raise ValueError(f"the key file {key_file!r} is empty")
        return _checked_key(key, f"the key file {key_file!r}")
    if key_env is not None:
        key = os.environ.get(key_env, "").strip()
        if not key:
            raise ValueError(f"the environment variable {key_env}, which key_env names, is not set")
        return _checked_key(key, f"the environment variable {key_env}")
    names = ["ARTS_API_KEY"] + (["OPENAI_API_KEY"] if address.startswith("https://api.openai.com/") else [])
    for name in names:
        if key := os.environ.get(name, "").strip():
            return _checked_key(key, f"the environment variable {name}")
    return None


def _checked_key(key: str, place: str) -> str:
    if not key.isascii() or any(sign.isspace() or not sign.isprintable() for sign in key):
        raise ValueError(f"{place} holds something that is no key: blanks, line ends or letters outside ASCII")
    return key
