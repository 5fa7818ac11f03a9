"""Loaded by schemathesis; see schemathesis.toml."""

import re
from typing import Any
from uuid import uuid4

import schemathesis

_KEY = re.compile(r"[A-Za-z0-9._:-]{8,128}")


@schemathesis.hook
def before_call(context: Any, case: Any, **kwargs: Any) -> None:
    """Give each request its own valid idempotency key: a key with another request is refused."""
    for name, value in (case.headers or {}).items():
        if name.lower() == "idempotency-key" and isinstance(value, str) and _KEY.fullmatch(value):
            case.headers[name] = str(uuid4())
