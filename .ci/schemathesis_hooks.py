"""Loaded by schemathesis; see schemathesis.toml."""

import re
from typing import Any, Final
from uuid import uuid4

import schemathesis

_KEY: Final = re.compile(r"[A-Za-z0-9._:-]{8,128}")
_CURSOR: Final = re.compile(r"([0-9a-f]{8}:)?([0-9]{1,19}(-[0-9]{1,19})?|\$)")
#: A cursor of another stream: an answer to it ends.
_GONE: Final = "00000000:1-0"


@schemathesis.hook
def before_call(context: Any, case: Any, **kwargs: Any) -> None:
    """Change requests that the document allows, but that cannot be tested as they are."""
    headers, query = case.headers or {}, case.query or {}
    for name, value in headers.items():
        # A key belongs to one request; with another one it is refused.
        if name.lower() == "idempotency-key" and isinstance(value, str) and _KEY.fullmatch(value):
            headers[name] = str(uuid4())
    if case.path.endswith("/events/stream"):
        # A stream ends only when its client leaves, or after a cursor whose events are gone.
        for name, value in headers.items():
            if name.lower() == "last-event-id" and isinstance(value, str) and _CURSOR.fullmatch(value):
                headers[name] = _GONE
        if _CURSOR.fullmatch(str(query.get("after") or "$")):
            case.query = {**query, "after": _GONE}
