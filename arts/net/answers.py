"""What servers say beside good answers: the text of an error, and how long to stay away."""

import json
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime

_LONGEST_PAUSE_S = 600.0


def error_text(content: bytes) -> str:
    """What an error's body says, whatever its form."""
    text = content[:2000].decode("utf-8", "replace")
    with suppress(ValueError, TypeError, AttributeError, RecursionError):
        found = json.loads(content)
        error = found.get("error", found)
        return str(error.get("message", error) if isinstance(error, dict) else error)
    return text


def retry_after_s(header: str | None) -> float:
    """Seconds that the server asks us to wait: a number or a date."""
    if header is None:
        return 0.0
    seconds = 0.0
    try:
        seconds = float(header)
    except ValueError:
        with suppress(ValueError, TypeError):
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
    return min(_LONGEST_PAUSE_S, seconds) if seconds > 0 else 0.0
