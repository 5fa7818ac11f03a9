"""How the project logs: one line an event, with a machine-readable `action` and the ids; JSON on request."""

import json
import logging
import os
import sys
import time
from collections.abc import Iterable
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

#: What a secret is replaced with wherever one would have been shown.
MASK: Final = "***"

#: A masked secret is at least this long: masking every "1" would make a log unreadable and reveal the password.
_MIN_SECRET_LENGTH: Final = 4

_FIELDS: Final = "manager_fields"


def event(logger: logging.Logger, level: int, action: str, message: str = "", **fields: Any) -> None:
    """Log one event. `action` is a stable word such as `start`; `fields` are ids and figures, never a secret."""
    if logger.isEnabledFor(level):
        logger.log(level, message, extra={_FIELDS: {"action": action, **fields}}, stacklevel=2)


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, _FIELDS, None)
    return fields if isinstance(fields, dict) else {}


def _timestamp(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def _quote(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=\n\r\t') else text


class LineFormatter(logging.Formatter):
    """`2026-01-02T03:04:05.678Z INFO manager.host action=start account=a-1 | text`, always one line an event."""

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
    """One JSON object a line: time, level, logger, message, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        data: dict[str, Any] = {"time": _timestamp(record), "level": record.levelname, "logger": record.name}
        data.update((key, value) for key, value in _fields_of(record).items() if value is not None)
        data["message"] = record.getMessage()
        if record.exc_info:
            data["exception"] = self.formatException(record.exc_info)
        return json.dumps(data, ensure_ascii=False, default=str)


class _MaskingFormatter(logging.Formatter):
    """Wraps a formatter and masks secrets in the finished line, so that a traceback is masked too."""

    def __init__(self, inner: logging.Formatter, secrets: Iterable[str]) -> None:
        super().__init__()
        self._inner = inner
        shown = {form for s in secrets if len(s) >= _MIN_SECRET_LENGTH for form in _forms(s)}
        # The longest first: a secret that contains another must not leave its rest behind.
        self._secrets = sorted(shown, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        return mask(self._inner.format(record), self._secrets)


def _forms(secret: str) -> set[str]:
    """Return what may have become of a secret when the line is finished: quotes and backslashes escaped, even twice."""
    forms = {secret}
    for _ in range(2):
        forms |= {json.dumps(form, ensure_ascii=False)[1:-1] for form in forms} | {
            form for text in forms for form in (repr(text)[1:-1], repr(text + '"')[1:-2])
        }
    return forms


class _PrivateFileHandler(RotatingFileHandler):
    """Rotates, and makes every new file readable by its owner alone."""

    def _open(self) -> TextIOWrapper:
        fd = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(fd, "a", encoding="utf-8")


def mask(text: str, secrets: Iterable[str]) -> str:
    """Return `text` with every one of `secrets` replaced by `***`."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def configure(
    *,
    level: str = "INFO",
    as_json: bool = False,
    file: Path | None = None,
    secrets: Iterable[str] = (),
    max_bytes: int = 5_000_000,
    backups: int = 3,
) -> None:
    """Send this process's log to `file` (rotated, mode 0600), or to stderr where there is none."""
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        handler = _PrivateFileHandler(file, maxBytes=max_bytes, backupCount=backups, encoding="utf-8")
    handler.setFormatter(formatter(as_json=as_json, secrets=secrets))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)


def formatter(*, as_json: bool = False, secrets: Iterable[str] = ()) -> logging.Formatter:
    """Return the formatter that `configure` uses, for handlers that somebody else owns (Celery's)."""
    return _MaskingFormatter(JsonFormatter() if as_json else LineFormatter(), secrets)
