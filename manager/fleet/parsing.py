"""Reading what lies in Redis: whoever reaches it can write anything there, and no value may break a reader."""

import json
import math
from datetime import UTC, datetime
from typing import Any


def json_object(text: str | bytes | None) -> dict[str, Any] | None:
    """Return a JSON object; None if it is none, however it is broken."""
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def number(value: object) -> float | None:
    """Return a number that can be reckoned with; None if it is none, or beyond what a clock or a count could be."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        return None
    return float(value) if math.isfinite(value) else None


def moment(value: object) -> datetime | None:
    """Return seconds since the epoch as a moment; None if that is none."""
    seconds = number(value)
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def string(raw: bytes) -> str:
    return raw.decode(errors="replace")
