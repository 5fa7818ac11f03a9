"""Parsers for values from Redis.

Any client with access can write any value there, so no value may break a reader.
"""

import json
import math
from datetime import UTC, datetime
from typing import Any


def json_object(text: str | bytes | None) -> dict[str, Any] | None:
    """Parse a JSON object; None if the text is anything else."""
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def number(value: object) -> float | None:
    """Return a number as a float.

    Returns None for anything else, and for 1e15 and more, beyond any clock.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        return None
    return float(value) if math.isfinite(value) else None


def moment(value: object) -> datetime | None:
    """Return seconds since the epoch as a datetime in UTC.

    Returns None if they are not a valid one.
    """
    seconds = number(value)
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def string(raw: bytes) -> str:
    return raw.decode(errors="replace")
