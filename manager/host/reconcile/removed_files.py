"""Tells removed account files from a directory that is gone for a while. Pure."""

from collections.abc import Set
from typing import Final

#: Seconds for which a file must be gone.
REMOVED_AFTER_SECONDS: Final = 30.0
#: If a larger part of all files vanishes in one look, a share or a directory is gone: no account stops.
_LARGEST_PART: Final = 0.2


class RemovedFiles:
    """Follows which accounts have a file. Times are in monotonic seconds."""

    def __init__(self) -> None:
        self._present: Set[str] = frozenset()
        self._gone: dict[str, float] = {}
        self._vanished: set[str] = set()

    def look(self, present: Set[str], now: float) -> None:
        """Note the accounts with a file at a look."""
        missing = self._present - present
        if len(missing) > _LARGEST_PART * len(self._present):
            self._vanished |= missing
        for account_id in missing:
            self._gone.setdefault(account_id, now)
        for account_id in self._gone.keys() & present:
            del self._gone[account_id]
        self._vanished -= present
        self._present = present

    def removed(self, now: float) -> frozenset[str]:
        """Return the accounts whose file was removed, for long enough to be sure."""
        return self._long_gone(now) - self._vanished

    def vanished(self, now: float) -> frozenset[str]:
        """Return the accounts whose file is gone together with many others."""
        return self._long_gone(now) & self._vanished

    def _long_gone(self, now: float) -> frozenset[str]:
        return frozenset(key for key, since in self._gone.items() if now - since >= REMOVED_AFTER_SECONDS)
