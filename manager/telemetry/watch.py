"""Follows the workers of a fleet: a snapshot first, then changes.

Changes that arrive while the reader is busy are merged: it gets each changed worker once, in its latest
state. The memory of a slow reader is therefore bounded by the number of accounts.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from manager.models import WorkerInfo
from manager.telemetry.view import FleetView, ViewUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersUpdate:
    """One step of a watch.

    `workers`, by account id, are all workers in a snapshot (they replace all earlier ones), else those that
    changed. `figures_only` are the accounts of `workers` whose state did not change. `stale` means that Redis
    is unreachable; every live worker becomes `unknown` once its last heartbeat is too old.
    """

    workers: Mapping[str, WorkerInfo]
    gone: frozenset[str] = frozenset()
    figures_only: frozenset[str] = frozenset()
    #: The last event that this update contains; `watch(after=cursor)` continues there.
    cursor: str = ""
    snapshot: bool = False
    stale: bool = False


@dataclass(slots=True)
class _Pending:
    accounts: set[str] = field(default_factory=set)
    figures: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    everything: bool = True
    stale: bool = False
    dirty: bool = True


class WorkersWatch:
    """One reader of a view. Call `next` from one thread only, `close` from any."""

    def __init__(self, view: FleetView) -> None:
        self._view = view
        self._changed = threading.Condition()
        self._pending = _Pending()
        self._closed = False
        self._unsubscribe = view.subscribe(self._take)

    def close(self) -> None:
        """End the watch; a `next` that waits returns None."""
        self._unsubscribe()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

    def next(self, wait_seconds: float) -> WorkersUpdate | None:
        """Return the next update, or None after `wait_seconds` without one.

        The first update is a snapshot.
        """
        self._view.interested()
        with self._changed:
            if not self._pending.dirty and not self._closed:
                self._changed.wait(wait_seconds)
            pending = self._pending
            if not pending.dirty or self._closed:
                return None
            self._pending = _Pending(everything=False, dirty=False, stale=pending.stale)
        return self._update(pending)

    def _update(self, pending: _Pending) -> WorkersUpdate:
        with self._view.reading() as state:
            if pending.everything:
                found = {info.account_id: info for info in state.workers()}
            else:
                rows = ((key, state.worker(key)) for key in sorted(pending.accounts | pending.figures))
                found = {key: info for key, info in rows if info is not None}
            cursor = self._view.cursor
        return WorkersUpdate(
            workers=found,
            gone=frozenset(() if pending.everything else pending.gone),
            figures_only=frozenset(() if pending.everything else pending.figures - pending.accounts),
            cursor=str(cursor or ""),
            snapshot=pending.everything,
            stale=pending.stale,
        )

    def _take(self, update: ViewUpdate) -> None:
        """Take an update of the view; called on the view's thread."""
        changes, stale = update.changes, update.stale_since is not None
        with self._changed:
            pending = self._pending
            pending.dirty |= bool(changes) or update.lost or stale != pending.stale
            pending.everything |= update.lost
            pending.stale = stale
            pending.accounts |= changes.accounts
            pending.figures |= changes.figures
            pending.gone = (pending.gone | changes.gone) - changes.accounts
            pending.accounts -= changes.gone
            pending.figures -= changes.gone
            if pending.dirty:
                self._changed.notify_all()
