"""Overrides of schedules, in Redis.

    manager:overrides    hash: account id → JSON (do, at, until, by, reason)

An override is in force until its end. Its account's host then removes it.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from manager.fleet.event_types import Notice
from manager.fleet.events import EVENTS_KEPT, EventStream
from manager.fleet.parsing import json_object
from manager.fleet.redis_client import open_client, translated
from manager.market.decisions import Override, OverrideKind

OVERRIDES_KEY: Final = "manager:overrides"


class OverrideStore:
    """Reads and writes overrides.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, url: str, client: Any = None, *, events_kept: int = EVENTS_KEPT) -> None:
        self._url = url
        self._client: Any = client or open_client(url)
        self._events = EventStream(url, self._client, kept=events_kept)

    def close(self) -> None:
        self._client.close()

    def all(self) -> dict[str, Override]:
        """Return the overrides by account id; unreadable entries are left out."""
        with translated(self._url):
            raw: Mapping[bytes, bytes] = self._client.hgetall(OVERRIDES_KEY)
        found = {key.decode(errors="replace"): override_from_json(value) for key, value in raw.items()}
        return {account_id: override for account_id, override in found.items() if override is not None}

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

    def remove(self, account_id: str, *, by: str = "", expired: bool = False) -> bool:
        """Remove the account's override; return whether there was one.

        Writes its event, unless another client removed it first.
        """
        with translated(self._url):
            removed = bool(self._client.hdel(OVERRIDES_KEY, account_id))
        if removed:
            kind = "schedule.expired" if expired else "schedule.override"
            data = {} if expired else {"do": "clear"}
            self._events.add(Notice(type=kind, account_id=account_id, by=by, data=data))
        return removed

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
            "by": override.by[:200],
            "reason": override.reason[:500],
        }
    )


def override_from_json(raw: str | bytes) -> Override | None:
    """Parse a stored override; None if it is malformed."""
    data = json_object(raw if isinstance(raw, str) else raw.decode(errors="replace"))
    if data is None:
        return None
    try:
        at, until = datetime.fromisoformat(data["at"]), datetime.fromisoformat(data["until"])
        if at.tzinfo is None or until.tzinfo is None:
            return None
        return Override(
            kind=OverrideKind(str(data["do"])),
            at=at,
            until=until,
            by=str(data.get("by", "")),
            reason=str(data.get("reason", "")),
        )
    except (KeyError, TypeError, ValueError):
        return None


__all__ = ["OVERRIDES_KEY", "OverrideStore", "override_from_json", "override_to_json"]
