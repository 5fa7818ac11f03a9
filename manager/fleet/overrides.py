"""Overrides of schedules, in Redis.

    manager:overrides    hash: account id → JSON (do, at, until, by, reason)

An override is in force until its end. Its account's host then removes it. A person who ends it earlier writes
one that has ended.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from redis.exceptions import WatchError

from manager.fleet.event_types import Notice
from manager.fleet.events import EVENTS_KEPT, EventStream
from manager.fleet.parsing import json_object
from manager.fleet.redis_client import open_client, translated
from manager.market.decisions import Override, OverrideKind

OVERRIDES_KEY: Final = "manager:overrides"

#: Characters of an override that are kept.
_MAX_BY: Final = 200
_MAX_REASON: Final = 500


class OverrideStore:
    """Reads and writes overrides.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, url: str, client: Any = None, *, events_kept: int = EVENTS_KEPT) -> None:
        self._url = url
        self._client: Any = client or open_client(url)
        self._events = EventStream(url, self._client, kept=events_kept)
        #: The last answer of `all`: a host asks every two seconds, and overrides seldom change.
        self._last: tuple[Mapping[bytes, bytes], dict[str, Override]] = ({}, {})

    def close(self) -> None:
        self._client.close()

    def all(self) -> dict[str, Override]:
        """Return the overrides by account id; unreadable entries are left out."""
        with translated(self._url):
            raw: Mapping[bytes, bytes] = self._client.hgetall(OVERRIDES_KEY)
        before, known = self._last
        if raw == before:
            return dict(known)
        found = {key.decode(errors="replace"): override_from_json(value) for key, value in raw.items()}
        known = {account_id: override for account_id, override in found.items() if override is not None}
        self._last = (raw, known)
        return dict(known)

    def get(self, account_id: str) -> Override | None:
        """Return the account's override, or None."""
        with translated(self._url):
            raw = self._client.hget(OVERRIDES_KEY, account_id)
        return None if raw is None else override_from_json(raw)

    def set(self, account_id: str, override: Override) -> None:
        """Write the account's override; it replaces an earlier one."""
        with translated(self._url):
            self._client.hset(OVERRIDES_KEY, account_id, override_to_json(override))
        self._events.add(
            Notice(
                type="schedule.override",
                account_id=account_id,
                by=override.by,
                data={
                    "do": str(override.kind),
                    "until": override.until.isoformat(),
                    "reason": override.reason,
                },
            )
        )

    def clear(self, account_id: str, *, by: str = "") -> bool:
        """End the account's override now; return whether one was in force.

        Hosts take an override that is gone from Redis for one that Redis has lost, and keep it until its end.
        So this writes one that has ended, also if none is there.
        """
        now, before = self.now(), self.get(account_id)
        ended = Override(kind=before.kind if before else OverrideKind.REST, at=now, until=now, by=by)
        with translated(self._url):
            self._client.hset(OVERRIDES_KEY, account_id, override_to_json(ended))
        if before is None or not before.in_force(now):
            return False
        self._events.add(Notice(type="schedule.override", account_id=account_id, by=by, data={"do": "clear"}))
        return True

    def remove_ended(self, ended: Mapping[str, Override]) -> None:
        """Remove these overrides, and write an event for each that was there.

        An override that was replaced meanwhile stays. Does nothing if any override changes at the same
        moment: the next call removes them.
        """
        with translated(self._url), self._client.pipeline() as pipe:
            try:
                pipe.watch(OVERRIDES_KEY)
                stored = zip(ended.items(), pipe.hmget(OVERRIDES_KEY, list(ended)), strict=True)
                same = [
                    account_id
                    for (account_id, override), raw in stored
                    if raw is not None and override_from_json(raw) == override
                ]
                pipe.multi()
                for account_id in same:
                    pipe.hdel(OVERRIDES_KEY, account_id)
                removed = pipe.execute()
            except WatchError:
                return
        for account_id, count in zip(same, removed, strict=True):
            if count and ended[account_id].until > ended[account_id].at:  # else a person has ended it
                self._events.add(Notice(type="schedule.expired", account_id=account_id, data={}))

    def now(self) -> datetime:
        """Return the time by Redis's clock, aware."""
        with translated(self._url):
            seconds, micros = self._client.time()
        return datetime.fromtimestamp(seconds + micros / 1e6).astimezone()


def override_to_json(override: Override) -> str:
    """Return the stored form of an override."""
    return json.dumps(
        {
            "do": str(override.kind),
            "at": override.at.isoformat(),
            "until": override.until.isoformat(),
            "by": override.by[:_MAX_BY],
            "reason": override.reason[:_MAX_REASON],
        }
    )


def override_from_json(raw: str | bytes) -> Override | None:
    """Parse a stored override; None if it is malformed.

    Its times are UTC; its texts are one line each, and cut.
    """
    data = json_object(raw if isinstance(raw, str) else raw.decode(errors="replace"))
    if data is None:
        return None
    try:
        at, until = datetime.fromisoformat(data["at"]), datetime.fromisoformat(data["until"])
        if at.tzinfo is None or until.tzinfo is None:
            return None
        return Override(
            kind=OverrideKind(str(data["do"])),
            at=at.astimezone(UTC),
            until=until.astimezone(UTC),
            by=_one_line(data.get("by"), _MAX_BY),
            reason=_one_line(data.get("reason"), _MAX_REASON),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _one_line(value: object, longest: int) -> str:
    """Return a text without line breaks and control characters, cut to `longest` characters."""
    text = value[:longest] if isinstance(value, str) else ""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


__all__ = ["OVERRIDES_KEY", "OverrideStore", "override_from_json", "override_to_json"]
