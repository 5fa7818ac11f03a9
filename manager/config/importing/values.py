"""Conversion of values of other supervisors: durations, sizes, signals."""

import math
import re
import signal
from collections.abc import Iterator
from typing import Any, Final

from manager.config.importing.drafts import Draft

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)")
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_MEGABYTES: Final = {"": 1 / 1024 / 1024, "k": 1 / 1024, "m": 1.0, "g": 1024.0, "t": 1024.0 * 1024}
_DOTENV: Final = re.compile(r"\s*(?:export\s+)?([A-Za-z_][\w.-]*)\s*=\s*(.*?)\s*$")

#: The least memory limit, in MiB, that the validation rules allow.
_LEAST_LIMIT: Final = 64
#: Limits of the validation rules.
MAX_DEADLINE: Final = 3_600.0
MAX_READY: Final = 600.0
MAX_RESTARTS: Final = 1_000
_MAX_BACKOFF: Final = 60.0
_MAX_WINDOW: Final = 86_400.0


def number(value: object) -> float | None:
    """Return a number that may be written as text, or None.

    None if the value is not a finite number.
    """
    if isinstance(value, bool):
        return None
    try:
        found = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def plain(value: float) -> int | float:
    """Return an integral number as int: `10`, not `10.0`."""
    return int(value) if value == int(value) else value


def duration(value: object, unit: float = 1.0) -> float | None:
    """Return a duration such as `1m30s` or `500ms` in seconds, or None.

    A number without a unit is multiplied by `unit` seconds.
    """
    bare = number(value)
    if bare is not None:
        return bare * unit
    text = str(value).strip().lower()
    parts = _DURATION.findall(text)
    if not parts or "".join(n + u for n, u in parts) != text:
        return None
    return sum(float(n) * _SECONDS[u] for n, u in parts)


def megabytes(value: object) -> int | None:
    """Return a size in megabytes, rounded up.

    The size is written as `512m`, `1.5G`, or a number of bytes. None if the value is not a size.
    """
    found = _SIZE.fullmatch(str(value).strip())
    if found is None:
        return None
    return max(1, math.ceil(float(found[1]) * _MEGABYTES[found[2].lower()]))


def signal_name(value: object) -> str | None:
    """Return a signal's name without SIG, or None.

    The value is written as `SIGINT`, `int` or 2, for example.
    """
    text = str(value).strip().upper()
    if text.isdecimal():
        try:
            return signal.Signals(int(text)).name.removeprefix("SIG")
        except (ValueError, OverflowError):
            return None
    text = text.removeprefix("SIG")
    return text if re.fullmatch(r"[A-Z][A-Z0-9+]*", text) else None


def dotenv(text: str) -> Iterator[tuple[str, str]]:
    """Yield the variables of a `.env` file as docker-compose reads them."""
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            continue
        found = _DOTENV.fullmatch(line)
        if found is None:
            continue
        value = found[2]
        if value[:1] in ("'", '"'):
            end = value.find(value[0], 1)
            value = value[1:end] if end > 0 else value[1:]
        else:
            value = re.split(r"\s#", value, maxsplit=1)[0].rstrip()
        yield found[1], value


def set_ready_after(draft: Draft, seconds: float) -> str | None:
    """Set `ready.after_seconds`.

    Returns a note if the value exceeds the limit.
    """
    after = min(seconds, MAX_READY)
    draft.values["ready"] = {"after_seconds": plain(after)}
    if after > 60.0:
        draft.values["timeout"] = min(600_000, int(after * 1000) + 10_000)
    return None if after == seconds else f"at most {MAX_READY:g} s are allowed: {MAX_READY:g} was written"


def set_stop(draft: Draft, name: str | None, seconds: float | None) -> str | None:
    """Set signal and deadline of `stop`.

    Returns a note if the deadline is not allowed.
    """
    stop: dict[str, Any] = {}
    if name is not None:
        stop["signal"] = name
    note = None
    if seconds is not None:
        allowed = min(max(seconds, 0.1), MAX_DEADLINE)
        stop["deadline_seconds"] = plain(allowed)
        if allowed != seconds:
            note = f"above 0 and up to {MAX_DEADLINE:g} s is allowed: {allowed:g} was written"
    if stop:
        draft.values["stop"] = stop
    return note


def set_retries(
    draft: Draft,
    retries: int,
    ready_seconds: float,
    backoff: float = 1.0,
    longest: float = _MAX_BACKOFF,
) -> None:
    """Set `recovery` to give up after `retries` failed starts in a row.

    The window is as long as that many starts in a row can take, so that exits further apart never fill it.
    """
    count = min(max(retries, 1), MAX_RESTARTS)
    pauses = sum(min(longest, backoff * 2.0 ** min(n, 30)) for n in range(count - 1))
    window = math.ceil((count + 1) * max(ready_seconds, 1.0) + pauses)
    draft.values.setdefault("recovery", {}).update(
        max_restarts=count, window_seconds=int(min(max(window, 1), _MAX_WINDOW))
    )


def text_of(value: object) -> str:
    """Return a scalar of JSON or YAML as the text of an environment variable."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def set_memory(draft: Draft, found: int, limit: str, **more: bool) -> None:
    """Set `memory_mb`, and `limits` with the name `limit` unless that is below what a worker needs."""
    found = min(found, 1_048_576)
    draft.values["memory_mb"] = found
    if found >= _LEAST_LIMIT:
        draft.values["limits"] = {limit: found, **more}
