"""The hub, which carries updates of the live view to stream clients.

The view has its own thread; the clients are on the event loop.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol

from starlette.concurrency import run_in_threadpool

from manager.api.stream.older import OlderEvents
from manager.api.stream.ring import EventRing, RingEvent
from manager.api.stream.rows import row
from manager.fleet.cursors import Cursor
from manager.fleet.events import EventStream
from manager.telemetry.fleet_reader import AccountRow, FleetListing, ViewReader
from manager.telemetry.view import ViewUpdate

#: Events of one read from Redis, for a client whose position the ring no longer contains.
_PAGE: Final = 500


class Listener(Protocol):
    """A connection of a client; called on the event loop, and must not block."""

    def updated(self, update: ViewUpdate) -> None: ...


class Hub:
    """Carries updates of the view to clients; one for each API process.

    Everything except `_from_view` runs on the event loop.
    """

    def __init__(self, reader: ViewReader, events: EventStream) -> None:
        self.view = reader.view
        self._reader = reader
        self._events = events
        self._listeners: set[Listener] = set()
        self._ring: EventRing | None = None
        self._older = OlderEvents(events)
        #: Account id → what its row was made of, and the row.
        self._rows: dict[str, tuple[AccountRow, tuple[Any, ...], list[Any]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unsubscribe: Any = None
        self.stale_since: float | None = None
        #: Seconds that the latest update took from the view's thread to the event loop.
        self.lag_seconds = 0.0

    @property
    def clients(self) -> int:
        return len(self._listeners)

    def start(self) -> None:
        """Begin to follow the view; called on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._unsubscribe = self.view.subscribe(self._from_view)
        self._begin_ring(self.view.cursor)

    def close(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()

    def add(self, listener: Listener) -> None:
        self._listeners.add(listener)
        self.view.interested()

    def remove(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    @property
    def head(self) -> Cursor | None:
        """The cursor of the newest event for clients; None before the view's first listing."""
        return None if self._ring is None else self._ring.head

    async def state(self) -> FleetListing:
        """Return the whole fleet. Raises FleetUnavailableError before the first listing."""
        return await run_in_threadpool(self._reader.read_now)

    def row_of(self, state: FleetListing, account: AccountRow) -> list[Any]:
        """Return an account's row without its number, made once for all clients."""
        mark = state.attention_mark(account)
        known = self._rows.get(account.account_id)
        if known is None or known[0] is not account or known[1] != mark:
            known = (account, mark, row(account, state.attention(account)))
            self._rows[account.account_id] = known
        return known[2]

    async def cursor(self, text: str) -> Cursor:
        """Return the cursor that a client names.

        Raises InvalidCursorError, CursorGoneError, FleetUnavailableError.
        """
        return await run_in_threadpool(self._events.cursor, text)

    async def events_after(self, cursor: Cursor, most: int = _PAGE) -> Sequence[RingEvent]:
        """Return the events after a cursor, up to the view's own position.

        Raises:
            CursorGoneError: they are no longer kept, or the stream was replaced.
            FleetUnavailableError: Redis cannot be used, and the ring does not hold them.
        """
        ring = self._ring
        if ring is None:
            return ()
        if cursor.stream != ring.stream:
            # One of the two is old. If Redis accepts the cursor, the view has not read the new stream yet.
            await self.cursor(str(cursor))
            return ()
        if cursor.position > ring.head.position:
            # Either the view is a moment behind Redis, or Redis lost its latest events.
            await self.cursor(str(cursor))
            return ()
        found = ring.since(cursor.position, most)
        if found is not None:
            return found
        older = await self._older.after(cursor, most)
        head = ring.head.position
        # Later events come through the ring once the view has them, so that a client's rows and events agree.
        return [one for one in older if one.position <= head]

    def _from_view(self, update: ViewUpdate) -> None:
        """Take an update on the view's thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, update, time.monotonic())

    def _take(self, update: ViewUpdate, sent: float) -> None:
        self.lag_seconds = time.monotonic() - sent
        changes = update.changes
        for account_id in changes.gone:
            self._rows.pop(account_id, None)
        if update.lost:
            self._older.forget()
        if update.lost or self._ring is None:
            self._begin_ring(update.cursor)
        if self._ring is not None:
            self._ring.extend(update.events)
        self._older.forget_unused()
        self.stale_since = update.stale_since
        if self._listeners:
            self.view.interested()
        for listener in list(self._listeners):
            listener.updated(update)

    def _begin_ring(self, cursor: Cursor | None) -> None:
        self._ring = None if cursor is None else EventRing(cursor)
