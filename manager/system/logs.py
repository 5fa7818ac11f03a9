"""Logging: one line per event, with an `action` and ids; text or JSON."""

import json
import logging
import sys
import threading
import time
from collections.abc import Iterable
from io import TextIOBase
from pathlib import Path
from typing import Any, Final

from manager.system.log_file import FileTarget
from manager.system.log_writer import FIELDS, StderrTarget, WriterHandler, flush, missing_lines
from manager.system.masking import Masker

#: Maximum bytes of an incomplete printed line that are held.
_MAX_PRINTED: Final = 8_192
_printed: Final = logging.getLogger("manager.printed")


def event(logger: logging.Logger, level: int, action: str, message: str = "", **fields: Any) -> None:
    """Log one event.

    `action` is a stable word such as `worker_started`. `fields` are ids and figures, never secrets.
    """
    if logger.isEnabledFor(level):
        logger.log(level, message, extra={FIELDS: {"action": action, **fields}}, stacklevel=2)


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, FIELDS, None)
    return fields if isinstance(fields, dict) else {}


def _timestamp(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def _quote(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=\n\r\t') else text


class LineFormatter(logging.Formatter):
    """Formats an event as one line of text.

    Example: `2026-01-02T03:04:05.678Z INFO manager.host action=start account=a-1 | text`.
    """

    def format(self, record: logging.LogRecord) -> str:
        parts = [_timestamp(record), record.levelname, record.name]
        parts += [f"{key}={_quote(value)}" for key, value in _fields_of(record).items() if value is not None]
        message = record.getMessage()
        if message:
            parts += ["|", message.replace("\r", "\\r").replace("\n", "\\n")]
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """Formats an event as JSON: time, level, logger, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        data: dict[str, Any] = {"time": _timestamp(record), "level": record.levelname, "logger": record.name}
        data.update((key, value) for key, value in _fields_of(record).items() if value is not None)
        data["message"] = record.getMessage()
        if record.exc_info:
            data["exception"] = self.formatException(record.exc_info)
        return json.dumps(data, ensure_ascii=False, default=str)


class _MaskingFormatter(logging.Formatter):
    """Masks secrets in another formatter's lines, tracebacks included."""

    def __init__(self, inner: logging.Formatter, secrets: Iterable[str]) -> None:
        super().__init__()
        self._inner = inner
        self._mask = Masker(secrets)

    def format(self, record: logging.LogRecord) -> str:
        return self._mask(self._inner.format(record))


def configure(
    *,
    level: str = "INFO",
    as_json: bool = False,
    file: Path | None = None,
    secrets: Iterable[str] = (),
    max_bytes: int = 5_000_000,
    backups: int = 3,
    also_stderr: bool = False,
) -> None:
    """Write this process's log to `file` (rotated, mode 0600) or stderr.

    `also_stderr` redirects file descriptor 2 to `file`, where the interpreter writes when it dies by a
    signal. Logging never blocks; see `manager.system.log_writer`. Call `flush` before `os._exit`. Raises
    OSError, and changes nothing, if the file cannot be opened.
    """
    target = (
        StderrTarget() if file is None else FileTarget(file, max_bytes, backups, 2 if also_stderr else None)
    )
    handler = WriterHandler(target)
    handler.setFormatter(formatter(as_json=as_json, secrets=secrets))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        if isinstance(old, WriterHandler):
            old.close()
    root.addHandler(handler)
    root.setLevel(level)


def formatter(*, as_json: bool = False, secrets: Iterable[str] = ()) -> logging.Formatter:
    """Return the formatter of `configure`, for Celery's handlers."""
    return _MaskingFormatter(JsonFormatter() if as_json else LineFormatter(), secrets)


class _PrintedText(TextIOBase):
    """A stream that masks printed text as a whole and logs its lines."""

    def __init__(self, mask: Masker, stream_name: str) -> None:
        self._stream = mask.stream()
        self._name = stream_name
        self._line = b""
        self._lock = threading.RLock()
        self._inside = threading.local()

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        # A log that fails (a full disk) reports that on standard error, which leads here again.
        if getattr(self._inside, "yes", False):
            return len(text)
        self._inside.yes = True
        try:
            self._log(text)
        finally:
            self._inside.yes = False
        return len(text)

    def _log(self, text: str) -> None:
        with self._lock:
            *lines, self._line = (self._line + self._stream.feed(text.encode(errors="replace"))).split(b"\n")
            if len(self._line) > _MAX_PRINTED:
                lines, self._line = [*lines, self._line], b""
        for line in lines:
            shown = line.decode(errors="replace").rstrip()
            if shown:
                event(_printed, logging.INFO, "printed", shown, stream=self._name)


def catch_printing(mask: Masker) -> None:
    """Log what this process prints from now on, with secrets masked."""
    sys.stdout, sys.stderr = _PrintedText(mask, "stdout"), _PrintedText(mask, "stderr")


__all__ = [
    "JsonFormatter",
    "LineFormatter",
    "catch_printing",
    "configure",
    "event",
    "flush",
    "formatter",
    "missing_lines",
]
