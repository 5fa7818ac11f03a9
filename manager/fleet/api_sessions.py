"""Browser sessions of the HTTP API, and the one-time codes that open them.

    manager:api:code:<sha256>      JSON of the session's user; expires after a minute, and is read once
    manager:api:session:<sha256>   JSON of the session; expires when it is idle, or at the end of its life

Redis has only the SHA-256 of codes and cookies.
"""

import hashlib
import json
import re
import secrets
from dataclasses import dataclass
from typing import Any, Final

from manager.fleet.parsing import json_object, number
from manager.fleet.redis_client import open_client, translated

#: Seconds for which a code is valid.
CODE_SECONDS: Final = 60
#: Seconds after which an idle session ends, and the longest life of a session.
IDLE_SECONDS: Final = 3600
LIFE_SECONDS: Final = 12 * 3600
#: Seconds between two extensions of a session in use.
_TOUCH_SECONDS: Final = 60
_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Session:
    """A browser session."""

    #: The user, for the audit trail.
    name: str
    #: The token that opened it; empty: a code, which grants every scope.
    token_id: str
    #: Seconds since the epoch, by Redis's clock.
    expires: float


class SessionStore:
    """Opens, checks and ends sessions.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, url: str, client: Any = None) -> None:
        self._url = url
        self._client: Any = client or open_client(url)

    def close(self) -> None:
        self._client.close()

    def new_code(self, name: str) -> str:
        """Return a code that opens one session with every scope, for a minute.

        `name` is the user who asked for it.
        """
        code = secrets.token_urlsafe(32)
        with translated(self._url):
            self._client.set(_code_key(code), json.dumps({"name": name}), ex=CODE_SECONDS)
        return code

    def use_code(self, code: str) -> str | None:
        """Consume a code and return its user.

        Returns None if the code is unknown, used or expired.
        """
        if not _SECRET.fullmatch(code):
            return None
        key = _code_key(code)
        with translated(self._url):
            pipe = self._client.pipeline(transaction=True)
            pipe.get(key)
            pipe.delete(key)
            raw, _ = pipe.execute()
        name = (json_object(raw) or {}).get("name")
        return name if isinstance(name, str) else None

    def open(self, name: str, token_id: str = "") -> tuple[str, Session]:
        """Open a session; return the cookie's value and the session."""
        secret = secrets.token_urlsafe(32)
        with translated(self._url):
            now = self._now()
            session = Session(name, token_id, now + LIFE_SECONDS)
            record = {"name": name, "token_id": token_id, "expires": session.expires, "used": now}
            self._client.set(_session_key(secret), json.dumps(record), ex=IDLE_SECONDS)
        return secret, session

    def verify(self, secret: str) -> Session | None:
        """Return the session of a cookie's value, and extend it.

        Returns None if the session is unknown or has ended.
        """
        if not _SECRET.fullmatch(secret):
            return None
        key = _session_key(secret)
        with translated(self._url):
            pipe = self._client.pipeline(transaction=False)
            pipe.get(key)
            pipe.time()
            raw, (seconds, micros) = pipe.execute()
            now = seconds + micros / 1e6
            record = json_object(raw) or {}
            expires, used = number(record.get("expires")), number(record.get("used"))
            name, token_id = record.get("name"), record.get("token_id")
            if expires is None or not isinstance(name, str) or not isinstance(token_id, str):
                return None
            if expires <= now:
                return None
            if used is None or now - used >= _TOUCH_SECONDS:
                left = max(1, min(IDLE_SECONDS, int(expires - now)))
                # XX: a session that was ended meanwhile must stay ended.
                self._client.set(key, json.dumps({**record, "used": now}), ex=left, xx=True)
        return Session(name, token_id, expires)

    def end(self, secret: str) -> None:
        """End a session. Idempotent."""
        with translated(self._url):
            self._client.delete(_session_key(secret))

    def _now(self) -> float:
        seconds, micros = self._client.time()
        return float(seconds + micros / 1e6)


def _code_key(code: str) -> str:
    return f"manager:api:code:{hashlib.sha256(code.encode()).hexdigest()}"


def _session_key(secret: str) -> str:
    return f"manager:api:session:{hashlib.sha256(secret.encode()).hexdigest()}"
