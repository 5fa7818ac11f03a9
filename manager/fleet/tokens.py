"""API tokens: credentials of the HTTP API, with scopes and accounts.

    manager:api:tokens        hash: token id → JSON (name, sha256, scopes, groups, labels, created, ...)
    manager:api:tokens:used   hash: token id → time of its last use (seconds, by Redis's clock)

A token is `wm_<id>_<secret>`. The secret has 256 bits, so a plain SHA-256 of it is safe to store. The Redis
users of hosts cannot read these keys.
"""

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from manager.errors import InvalidPayloadError
from manager.fleet.parsing import json_object, moment, number, string
from manager.fleet.redis_client import open_client, translated
from manager.placement.labels import Selection, label_problem

TOKENS_KEY: Final = "manager:api:tokens"
USED_KEY: Final = "manager:api:tokens:used"

Scope = Literal["read", "metrics", "operate", "configure", "kill", "admin"]
#: Every scope, and what it allows.
SCOPES: Final[Mapping[Scope, str]] = {
    "read": "read everything: accounts, workers, hosts, events, the audit trail",
    "metrics": "read metrics only",
    "operate": "start, stop, restart, move, pause, resume and validate accounts",
    "configure": "push and roll back account files",
    "kill": "use the kill switch",
    "admin": "everything above, and tokens and hosts",
}

#: Seconds between two writes of a token's last use.
USED_SECONDS: Final = 60.0
#: Longest life of a token, in seconds: ten years.
MAX_SECONDS: Final = 10 * 365 * 86_400.0
_MAX_TOKENS: Final = 10_000
_ID_LENGTH: Final = 8
_ID_LETTERS: Final = "abcdefghijkmnpqrstuvwxyz23456789"
_TOKEN: Final = re.compile(r"wm_([a-z0-9]{8})_([A-Za-z0-9_-]{43})")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
#: Compared with if the token does not exist, so that the answer takes the same time.
_NO_HASH: Final = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A stored token. Its secret is not stored."""

    id: str
    name: str
    scopes: frozenset[str]
    #: The accounts that `operate`, `configure` and `kill` may touch; empty: all.
    selection: Selection = field(default_factory=Selection)
    #: Whether reading is limited to the selection as well.
    read_selection: bool = False
    #: Whether it may read logs and positions.
    logs: bool = True
    created: datetime
    #: None: never.
    expires: datetime | None = None
    by: str = ""
    last_used: datetime | None = None

    def allows(self, scope: str) -> bool:
        """Return whether the token has the scope; `admin` has every one."""
        return scope in self.scopes or "admin" in self.scopes

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "scopes": sorted(self.scopes),
            "groups": list(self.selection.groups),
            "labels": list(self.selection.labels),
            "read_selection": self.read_selection,
            "logs": self.logs,
            "created": self.created.isoformat(),
            "expires": None if self.expires is None else self.expires.isoformat(),
            "by": self.by,
            "last_used": None if self.last_used is None else self.last_used.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of checking a token. Exactly one of the two fields is set."""

    token: Token | None
    #: Why it is refused: `unknown` (malformed, never issued or revoked) or `expired`.
    refused: Literal["unknown", "expired", ""] = ""


_UNKNOWN: Final = Verdict(None, "unknown")


class TokenStore:
    """Creates, lists, checks and revokes tokens.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, url: str, client: Any = None) -> None:
        self._url = url
        self._client: Any = client or open_client(url)

    def close(self) -> None:
        self._client.close()

    def create(
        self,
        name: str,
        scopes: Iterable[str],
        *,
        by: str,
        selection: Selection | None = None,
        read_selection: bool = False,
        logs: bool = True,
        expires_seconds: float | None = None,
    ) -> tuple[Token, str]:
        """Create a token; return it and its text.

        The text is not stored and cannot be shown again. Raises InvalidPayloadError for a name, scope, label
        or lifetime that is not allowed.
        """
        selection = selection or Selection()
        chosen = _checked(name, scopes, selection, expires_seconds)
        secret = secrets.token_urlsafe(32)
        token_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))
        with translated(self._url):
            if self._client.hlen(TOKENS_KEY) >= _MAX_TOKENS:
                raise InvalidPayloadError(
                    f"there are {_MAX_TOKENS} tokens already: revoke some with `manager token revoke`"
                )
            seconds, _ = self._client.time()
            record = {
                "name": name,
                "sha256": _digest(secret),
                "scopes": sorted(chosen),
                "groups": list(selection.groups),
                "labels": list(selection.labels),
                "read_selection": read_selection,
                "logs": logs,
                "created": seconds,
                "expires": None if expires_seconds is None else seconds + expires_seconds,
                "by": by,
            }
            self._client.hset(TOKENS_KEY, token_id, json.dumps(record))
        token = _token(token_id, record, None)
        if token is None:
            raise ValueError(f"token {token_id}: its record was written malformed")
        return token, f"wm_{token_id}_{secret}"

    def list(self) -> list[Token]:
        """Return every token, also expired ones, oldest first."""
        with translated(self._url):
            pipe = self._client.pipeline(transaction=False)
            pipe.hgetall(TOKENS_KEY)
            pipe.hgetall(USED_KEY)
            records, used = pipe.execute()
        found = (
            _token(string(key), json_object(raw) or {}, _seconds(used.get(key)))
            for key, raw in records.items()
        )
        return sorted((one for one in found if one is not None), key=lambda one: (one.created, one.id))

    def revoke(self, token_id: str) -> bool:
        """Delete a token; return False if it does not exist."""
        with translated(self._url):
            pipe = self._client.pipeline(transaction=True)
            pipe.hdel(TOKENS_KEY, token_id)
            pipe.hdel(USED_KEY, token_id)
            removed, _ = pipe.execute()
        return bool(removed)

    def verify(self, text: str) -> Verdict:
        """Check a token's text.

        Takes the same time whether the secret is wrong or the id is unknown.
        """
        matched = _TOKEN.fullmatch(text)
        if matched is None:
            return _UNKNOWN
        token_id, secret = matched[1], matched[2]
        record, used, now = self._read(token_id)
        expected = record.get("sha256")
        same = hmac.compare_digest(_digest(secret), expected if isinstance(expected, str) else _NO_HASH)
        token = _token(token_id, record, used)
        if not same or token is None:
            return _UNKNOWN
        if token.expires is not None and token.expires.timestamp() <= now:
            return Verdict(None, "expired")
        self._note_use(token_id, used, now)
        return Verdict(token)

    def get(self, token_id: str) -> Verdict:
        """Return a token by its id, for a session that it opened."""
        record, used, now = self._read(token_id)
        token = _token(token_id, record, used)
        if token is None:
            return _UNKNOWN
        if token.expires is not None and token.expires.timestamp() <= now:
            return Verdict(None, "expired")
        self._note_use(token_id, used, now)
        return Verdict(token)

    def _read(self, token_id: str) -> tuple[Mapping[str, Any], float | None, float]:
        with translated(self._url):
            pipe = self._client.pipeline(transaction=False)
            pipe.hget(TOKENS_KEY, token_id)
            pipe.hget(USED_KEY, token_id)
            pipe.time()
            raw, used, (seconds, micros) = pipe.execute()
        return json_object(raw) or {}, _seconds(used), seconds + micros / 1e6

    def _note_use(self, token_id: str, used: float | None, now: float) -> None:
        if used is not None and 0 <= now - used < USED_SECONDS:
            return
        # A separate hash: a write into the token's record could restore a token that was just revoked.
        with translated(self._url):
            self._client.hset(USED_KEY, token_id, f"{now:.0f}")


def _checked(
    name: str, scopes: Iterable[str], selection: Selection, expires_seconds: float | None
) -> frozenset[str]:
    if not _NAME.fullmatch(name):
        raise InvalidPayloadError(
            f"{name[:80]!r} is not a valid token name: use 1 to 63 letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit"
        )
    chosen = frozenset(scopes)
    unknown = sorted(chosen - set(SCOPES))
    if unknown or not chosen:
        what = f"{', '.join(unknown)!r} is not a scope" if unknown else "a token needs a scope"
        raise InvalidPayloadError(f"{what}: use one or more of {', '.join(SCOPES)}")
    for label in selection.labels:
        problem = label_problem(label.partition("=")[0], label.partition("=")[2])
        if problem is not None:
            raise InvalidPayloadError(problem)
    if expires_seconds is not None and not 0 < expires_seconds <= MAX_SECONDS:
        raise InvalidPayloadError("a token expires after 1 second to 10 years")
    return chosen


def _token(token_id: str, record: Mapping[str, Any], used: float | None) -> Token | None:
    """Parse a token's record; None if it is malformed.

    A record without a list of scopes allows nothing.
    """
    created = moment(record.get("created"))
    expires = record.get("expires")
    if created is None or (expires is not None and moment(expires) is None):
        return None
    if not isinstance(record.get("name"), str):
        return None
    return Token(
        id=token_id,
        name=record["name"],
        scopes=frozenset(_texts(record.get("scopes"))),
        selection=Selection(_texts(record.get("groups")), _texts(record.get("labels"))),
        read_selection=record.get("read_selection") is True,
        logs=record.get("logs") is not False,
        created=created,
        expires=None if expires is None else moment(expires),
        by=str(record.get("by", "")),
        last_used=None if used is None else datetime.fromtimestamp(used, UTC),
    )


def _texts(value: object) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def _seconds(raw: object) -> float | None:
    try:
        return number(float(raw)) if isinstance(raw, bytes) else None
    except ValueError:
        return None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
