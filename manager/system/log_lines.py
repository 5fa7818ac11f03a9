"""Parses the lines of a log: their time and the output of programs."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from manager.system.output_text import unescape_output

#: A line of `manager.system.logs.LineFormatter`.
_LINE: Final = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) [A-Z]+ \S+"
    r"(?P<fields>(?: \w+=(?:\"(?:[^\"\\]|\\.)*\"|[^\s\"]*))*)(?: \| (?P<message>.*))?",
    re.DOTALL,
)
_FIELD: Final = re.compile(r" (\w+)=(\"(?:[^\"\\]|\\.)*\"|[^\s\"]*)")
_PRINTED: Final = frozenset({"output", "printed"})
_AGO: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a log file."""

    #: The raw line without its end.
    raw: bytes
    #: Seconds since 1970. A line of a traceback has the time of the line before; 0.0 if none is known.
    time: float = 0.0
    #: `stdout` or `stderr` for a program's output; None for other lines, and for logs before version 0.3.
    stream: str | None = None
    #: The program's output without the line's end; None if the line is not output of a program.
    printed: bytes | None = None
    #: Whether the output continues in the next line of its stream.
    cut: bool = False


def parse_line(raw: bytes) -> LogLine | None:
    """Return the parsed line; None for a continuation line or a foreign one."""
    if raw.startswith(b"{"):
        return _parse_json(raw)
    found = _LINE.fullmatch(raw.decode(errors="surrogateescape"))
    if found is None:
        return None
    fields = dict(_FIELD.findall(found["fields"]))
    return _line(raw, found["time"], fields, found["message"] or "", fields.get("esc") == "True")


def _parse_json(raw: bytes) -> LogLine | None:
    try:
        data: Any = json.loads(raw.decode(errors="surrogateescape"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    return _line(raw, str(data.get("time")), data, str(data.get("message", "")), data.get("esc") is True)


def _line(raw: bytes, time: str, fields: dict[str, Any], message: str, escaped: bool) -> LogLine | None:
    try:
        at = datetime.fromisoformat(time).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
    if fields.get("action") not in _PRINTED:
        return LogLine(raw, at)
    stream = fields.get("stream")
    return LogLine(
        raw,
        at,
        stream if isinstance(stream, str) else None,
        unescape_output(message, escaped=escaped),
        str(fields.get("cut")) == "True",
    )


def parse_since(text: str, now: datetime) -> float:
    """Parse a time or a time ago to seconds since 1970.

    Examples: `10m`, `1h30m`, `2026-11-25`, `2026-11-25T10:00`.

    A time without a zone is UTC, like the times in logs. Raises ValueError that lists the valid forms.
    """
    text = text.strip()
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None and text:
            days, hours, minutes, seconds = (int(part or 0) for part in ago.groups())
            return (now - timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)).timestamp()
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is neither a time ago (45s, 10m, 2h, 1h30m, 3d) nor a time "
            "(2026-11-25T10:00, UTC unless it has a zone)"
        ) from None
