"""Overrides of schedules as this host knows them.

They are read from Redis and saved on disk, so that they hold while Redis is down.
"""

import json
import logging
import threading
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from manager.errors import FleetUnavailableError
from manager.fleet.overrides import OverrideStore, override_from_json, override_to_json
from manager.market.decisions import Override
from manager.system import atomic_file, logs
from manager.system.storage import explain

logger = logging.getLogger(__name__)

#: Bytes. An override has a few hundred; a larger file is not ours.
_MAX_SIZE: Final = 16_000_000


class OverrideCache:
    """One host's view of the overrides. Thread-safe; raises nothing."""

    def __init__(self, store: OverrideStore, path: Path) -> None:
        self._store = store
        self._path = path
        self._lock = threading.Lock()
        #: Why the last `read` failed; empty if it did not.
        self._trouble = ""
        self._known: Mapping[str, Override] = _load(path)

    def get(self, account_id: str) -> Override | None:
        """Return the account's override, which may have ended, or None."""
        return self._known.get(account_id)

    def read(self) -> None:
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
        self._trouble = ""
        with self._lock:
            if found == self._known:
                return
            self._known = found
            self._save()

    def expire(self, account_id: str, now: datetime) -> None:
        """Remove the account's override if it has ended."""
        override = self._known.get(account_id)
        if override is None or override.in_force(now):
            return
        try:
            there = self._store.get(account_id)
            if there == override:
                self._store.remove(account_id, expired=True)
        except FleetUnavailableError:
            return
        with self._lock:
            self._known = {key: value for key, value in self._known.items() if key != account_id}
            self._save()

    def _save(self) -> None:
        entries = {key: override_to_json(value) for key, value in sorted(self._known.items())}
        try:
            atomic_file.write(self._path, json.dumps(entries, indent=1))
        except OSError as error:
            logs.event(logger, logging.WARNING, "overrides_not_saved", explain(error, self._path))


def _load(path: Path) -> dict[str, Override]:
    try:
        if path.stat().st_size > _MAX_SIZE:
            return {}
        entries = json.loads(path.read_text())
        found = {str(key): override_from_json(str(value)) for key, value in entries.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
    return {account_id: override for account_id, override in found.items() if override is not None}
