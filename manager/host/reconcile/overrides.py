"""Overrides of schedules as this host knows them.

They are read from Redis and saved on disk, so that they hold while Redis is down.
"""

import json
import logging
import threading
from collections.abc import Mapping, Set
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Final

from manager.errors import FleetUnavailableError
from manager.fleet.overrides import OverrideStore, override_from_json, override_to_json
from manager.fleet.parsing import json_object
from manager.market.decisions import LOOK_BACK, Override
from manager.system import atomic_file, logs
from manager.system.storage import explain

logger = logging.getLogger(__name__)

#: Bytes. An override has a few hundred; a larger file is not ours.
_MAX_SIZE: Final = 16_000_000
#: Overrides that one call removes from Redis after their end. They have no effect any more, so they may wait.
_REMOVED_AT_ONCE: Final = 50


class OverrideCache:
    """One host's view of the overrides. Thread-safe; raises nothing.

    An override in force is kept if Redis loses it. One that has ended is kept for a while: how long a worker
    may wait for closed positions counts from that end.
    """

    def __init__(self, store: OverrideStore, path: Path) -> None:
        self._store = store
        self._path = path
        self._lock = threading.Lock()
        #: Why the last `read` failed; empty if it did not.
        self._trouble = ""
        #: Whether the file differs from what is known, because the disk was full.
        self._unsaved = False
        self._known: Mapping[str, Override] = _load(path)
        #: Accounts with an override in Redis at the last read.
        self._stored: frozenset[str] = frozenset()

    def get(self, account_id: str) -> Override | None:
        """Return the account's override, which may have ended, or None."""
        return self._known.get(account_id)

    def read(self, now: datetime) -> None:
        """Read all overrides from Redis; keeps the known ones while it is down."""
        try:
            found = self._store.all()
        except FleetUnavailableError as error:
            if str(error) != self._trouble:
                # For example a user of Redis from before 0.3, which may not read them.
                logs.event(
                    logger, logging.WARNING, "overrides_not_read", f"{error}; the known ones stay in force"
                )
            self._trouble = str(error)
            return
        with self._lock:
            self._trouble, self._stored = "", frozenset(found)
            self._replace({**_kept(self._known, now), **found})

    def read_account(self, account_id: str, now: datetime) -> None:
        """Read one account's override from Redis; keeps the known one while it is down."""
        try:
            found = self._store.get(account_id)
        except FleetUnavailableError:
            return
        with self._lock:
            mine = {key: one for key, one in self._known.items() if key == account_id}
            others = {key: one for key, one in self._known.items() if key != account_id}
            self._replace({**others, **(_kept(mine, now) if found is None else {account_id: found})})

    def expire(self, account_ids: Set[str], now: datetime) -> None:
        """Remove ended overrides of these accounts from Redis, at most a few at a time.

        Does nothing while Redis is down.
        """
        known = self._known
        ended = {
            key: known[key]
            for key in self._stored & account_ids
            if key in known and not known[key].in_force(now)
        }
        self._remove(ended)

    def expire_old(self, before: datetime) -> None:
        """Remove overrides of any account that ended before a time, at most a few at a time.

        An account that no host runs leaves such an override.
        """
        known = self._known
        self._remove({key: known[key] for key in self._stored if key in known and known[key].until < before})

    def _remove(self, ended: Mapping[str, Override]) -> None:
        if not ended or self._trouble:
            return
        some = dict(islice(ended.items(), _REMOVED_AT_ONCE))
        try:
            self._store.remove_ended(some)
        except FleetUnavailableError:
            return
        with self._lock:
            self._stored -= some.keys()

    def _replace(self, known: Mapping[str, Override]) -> None:
        """Take these overrides and save them. The caller holds the lock."""
        if known == self._known and not self._unsaved:
            return
        self._known = known
        entries = {key: override_to_json(value) for key, value in sorted(known.items())}
        try:
            atomic_file.write(self._path, json.dumps(entries, indent=1))
        except OSError as error:
            if not self._unsaved:
                logs.event(logger, logging.WARNING, "overrides_not_saved", explain(error, self._path))
            self._unsaved = True
        else:
            self._unsaved = False


def _kept(known: Mapping[str, Override], now: datetime) -> dict[str, Override]:
    """Return the overrides that count although Redis does not have them.

    Redis has lost one that is in force, and the end of one that has ended still counts; see `Decision.since`.
    """
    return {key: one for key, one in known.items() if now - LOOK_BACK < one.until}


def _load(path: Path) -> dict[str, Override]:
    try:
        if path.stat().st_size > _MAX_SIZE:
            return {}
        entries = json_object(path.read_text())
    except (OSError, ValueError):
        return {}
    found = {key: override_from_json(str(value)) for key, value in (entries or {}).items()}
    return {account_id: override for account_id, override in found.items() if override is not None}
