"""Topics of a stream connection.

A topic knows the state of its client, and yields the frames that update it.

A topic has no queue. It remembers which accounts changed, or its position in the event stream, and makes
frames when the connection can send them. A slow client therefore gets fewer figures and merged changes, but
every event.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

from manager.api.rendering import to_json
from manager.api.stream.hub import Hub
from manager.api.stream.messages import Subscribe
from manager.api.stream.rows import COLUMNS, FIGURES, figures, host_row
from manager.api.stream.scope import EventScope
from manager.errors import CursorGoneError, FleetUnavailableError
from manager.fleet.cursors import Cursor
from manager.placement.labels import Selection
from manager.telemetry.fleet_reader import AccountRow, FleetListing
from manager.telemetry.view import ViewUpdate

#: Rows of one part of a snapshot.
_PART_ROWS: Final = 2_000
#: Seconds in which changes are merged before they are sent. Events never wait.
_MERGE_SECONDS: Final = 0.1
#: The same for a batch, whose counts are read from Redis each time.
_BATCH_SECONDS: Final = 0.5
#: Seconds before Redis is read again after it could not be.
RETRY_SECONDS: Final = 1.0

Frame = bytes


def frame(kind: str, **members: Any) -> Frame:
    """Return a frame: a JSON object whose member `t` is its kind."""
    return to_json({"t": kind, **members})


class Topic(ABC):
    """One subscription.

    The connection calls `updated` for every update of the view. It calls `frames` at `ready_at`, once the
    client has received the earlier frames.
    """

    #: Minimum seconds between two rounds of frames.
    merge_seconds: float = _MERGE_SECONDS

    def __init__(self, asked: Subscribe) -> None:
        self.id = asked.id
        #: By the loop's clock: when `frames` must run even without an update.
        self.due: float = float("inf")
        #: Whether an update is unsent, and the earliest time to send it.
        self.waiting = True
        self._not_before = 0.0

    @property
    def ready_at(self) -> float:
        """When `frames` is to be called, by the loop's clock; infinite if nothing waits."""
        return max(self._not_before, 0.0 if self.waiting else self.due)

    def begin(self, now: float) -> AsyncIterator[Frame]:
        """Return the frames that bring the client up to date."""
        self.waiting = False
        self._not_before = now + self.merge_seconds
        return self.frames(now)

    def retry(self, now: float) -> None:
        """Call `frames` again a little later, because Redis cannot be reached."""
        self.waiting = True
        self._not_before = now + RETRY_SECONDS

    @abstractmethod
    def updated(self, update: ViewUpdate) -> None:
        """Take an update; sets `waiting` or `due` if there is something to send."""

    @abstractmethod
    def frames(self, now: float) -> AsyncIterator[Frame]:
        """Yield the frames that the client needs. `now` is the loop's clock."""


class Accounts(Topic):
    """Topic `accounts`: a snapshot, then changed rows and figures.

    Figures are sent only for the accounts that the client selects.
    """

    def __init__(self, hub: Hub, asked: Subscribe, readable: Selection, *, gone: bool = False) -> None:
        """`gone` is set if Redis no longer keeps the events after the client's cursor."""
        super().__init__(asked)
        self._hub = hub
        self._select = Selection(tuple(asked.select.groups), tuple(asked.select.labels))
        self._named = None if asked.select.accounts is None else frozenset(asked.select.accounts)
        self._readable = readable
        self._figures_of = asked.figures.of
        self._every = asked.figures.every_ms / 1000
        self._visible = frozenset(asked.figures.accounts)
        self._numbers: dict[str, int] = {}
        self._present: set[str] = set()
        self._changed: set[str] = set()
        self._figures: set[str] = set()
        self._sent: dict[str, list[Any]] = {}
        self._fresh = True
        self._gone = gone

    def show(self, accounts: Sequence[str]) -> None:
        """Send figures of these accounts from now on, if the client requested those of visible rows."""
        new = frozenset(accounts) - self._visible
        self._visible = frozenset(accounts)
        if self._figures_of == "visible":
            self._figures = {one for one in self._figures if one in self._visible} | new
            self._figures_due()

    def _figures_due(self) -> None:
        if self._figures and self.due == float("inf"):
            self.due = 0.0

    def updated(self, update: ViewUpdate) -> None:
        changes = update.changes
        if update.lost:
            self._fresh = self._gone = True
        self._changed |= changes.accounts | changes.gone
        if self._figures_of == "all":
            self._figures |= changes.figures
        elif self._figures_of == "visible":
            self._figures |= changes.figures & self._visible
        self._figures_due()
        self.waiting = self.waiting or self._fresh or bool(self._changed)

    async def frames(self, now: float) -> AsyncIterator[Frame]:
        # The changed accounts are taken before the state is read: a change during the read is sent next time.
        if self._fresh:
            gone, self._gone, self._fresh = self._gone, False, False
            self._changed.clear()
            if gone:
                yield frame("gone", id=self.id, oldest=await self._oldest())
            for part in self._snapshot(await self._state_or(self._begin_again)):
                yield part
        elif self._changed:
            changed, self._changed = self._changed, set()
            state = await self._state_or(lambda: self._changed.update(changed))
            sent = self._change(state, changed)
            if sent is not None:
                yield sent
        if not self._figures:
            self.due = float("inf")
        elif now >= self.due:
            self.due = now + self._every
            asked, self._figures = self._figures, set()
            sent = self._figures_frame(await self._hub.state(), asked)
            if sent is not None:
                yield sent

    async def _state_or(self, undo: Callable[[], None]) -> FleetListing:
        """Return the fleet's state; calls `undo` if it cannot be read."""
        try:
            return await self._hub.state()
        except FleetUnavailableError:
            undo()
            raise

    async def _oldest(self) -> str:
        """Return the cursor before the oldest event; begins again if it cannot be read."""
        try:
            return str(await self._hub.cursor("0"))
        except FleetUnavailableError:
            self._fresh = self._gone = True
            raise

    def _begin_again(self) -> None:
        self._fresh = True

    def _takes(self, account: AccountRow) -> bool:
        named = self._named is None or account.account_id in self._named
        return named and account.within(self._select) and account.within(self._readable)

    def _row(self, state: FleetListing, account: AccountRow) -> list[Any]:
        number = self._numbers.setdefault(account.account_id, len(self._numbers))
        self._present.add(account.account_id)
        self._sent[account.account_id] = figures(account)
        return [number, *self._hub.row_of(state, account)]

    def _snapshot(self, state: FleetListing) -> list[Frame]:
        self._present.clear()
        self._sent.clear()
        rows = [self._row(state, one) for one in state.accounts.values() if self._takes(one)]
        parts = [rows[first : first + _PART_ROWS] for first in range(0, len(rows), _PART_ROWS)] or [[]]
        return [
            frame(
                "snapshot",
                id=self.id,
                cursor=state.cursor,
                as_of=state.as_of,
                cols=COLUMNS,
                rows=part,
                part=number,
                parts=len(parts),
            )
            for number, part in enumerate(parts, start=1)
        ]

    def _change(self, state: FleetListing, changed: set[str]) -> Frame | None:
        rows, gone = [], []
        for account_id in sorted(changed):
            account = state.accounts.get(account_id)
            if account is not None and self._takes(account):
                rows.append(self._row(state, account))
            elif account_id in self._present:
                self._present.discard(account_id)
                self._sent.pop(account_id, None)
                gone.append(account_id)
        if not rows and not gone:
            return None
        return frame("change", id=self.id, cursor=state.cursor, rows=rows, gone=gone)

    def _figures_frame(self, state: FleetListing, asked: set[str]) -> Frame | None:
        """Return the figures that differ from those that the client has."""
        numbers: list[int] = []
        columns: list[list[Any]] = [[] for _ in FIGURES]
        for account_id in asked:
            account = state.accounts.get(account_id)
            if account is None or account_id not in self._present:
                continue
            values = figures(account)
            # Ignore the age, the last of FIGURES: it differs in every heartbeat.
            if self._sent.get(account_id, [])[:-1] == values[:-1]:
                continue
            self._sent[account_id] = values
            numbers.append(self._numbers[account_id])
            for column, value in zip(columns, values, strict=True):
                column.append(value)
        if not numbers:
            return None
        return frame(
            "figures", id=self.id, at=state.as_of, i=numbers, **dict(zip(FIGURES, columns, strict=True))
        )


class Events(Topic):
    """Topic `events`: every event after a cursor, once, in stream order."""

    merge_seconds = 0.0

    def __init__(
        self,
        hub: Hub,
        asked: Subscribe,
        cursor: Cursor,
        scope: EventScope,
        *,
        bookmark_seconds: float,
        gone: CursorGoneError | None = None,
    ) -> None:
        """`gone` is set if Redis no longer keeps the events after the client's cursor."""
        super().__init__(asked)
        self._hub = hub
        self.cursor = cursor
        self._scope = scope
        self._bookmark_seconds = bookmark_seconds
        self._gone = gone
        self._sent_at: float | None = None

    def updated(self, update: ViewUpdate) -> None:
        self.waiting = self.waiting or bool(update.events) or update.lost

    async def frames(self, now: float) -> AsyncIterator[Frame]:
        if self._sent_at is None:
            self._sent_at = now
        gone, self._gone = self._gone, None
        while True:
            if gone is not None:
                yield frame("gone", id=self.id, oldest=gone.oldest)
                self.cursor = Cursor.parse(gone.oldest)
            try:
                found = await self._hub.events_after(self.cursor)
                # After the events: an event may itself bring its account into the selection.
                only = await self._scope.current(self._hub)
            except CursorGoneError as error:
                gone = error
                continue
            gone = None
            if not found:
                break
            for one in found:
                self.cursor = Cursor(self.cursor.stream, one.position)
                if only.matches(one.event):
                    self._sent_at = now
                    head = to_json({"t": "event", "id": self.id, "cursor": str(self.cursor)})
                    yield head[:-1] + b',"event":' + one.json + b"}"
        if now - self._sent_at >= self._bookmark_seconds:
            self._sent_at = now
            yield frame("bookmark", id=self.id, cursor=str(self.cursor))
        self.due = self._sent_at + self._bookmark_seconds


class Hosts(Topic):
    """Topic `hosts`: every host, then those whose state changed."""

    def __init__(self, hub: Hub, asked: Subscribe) -> None:
        super().__init__(asked)
        self._hub = hub
        self._changed: set[str] | None = None

    def updated(self, update: ViewUpdate) -> None:
        if update.lost:
            self._changed = None
        elif self._changed is not None:
            self._changed |= update.changes.hosts
        self.waiting = self.waiting or self._changed is None or bool(self._changed)

    async def frames(self, now: float) -> AsyncIterator[Frame]:
        del now
        changed, self._changed = self._changed, set()
        if changed is not None and not changed:
            return
        try:
            state = await self._hub.state()
        except FleetUnavailableError:
            self._changed = None if changed is None or self._changed is None else changed | self._changed
            raise
        known = {name: host_row(host) for name, host in state.hosts.items()}
        if changed is None:
            yield frame(
                "snapshot", id=self.id, cursor=state.cursor, rows=list(known.values()), part=1, parts=1
            )
            return
        yield frame(
            "change",
            id=self.id,
            cursor=state.cursor,
            rows=[known[name] for name in sorted(changed) if name in known],
            gone=sorted(changed - known.keys()),
        )


class Batch(Topic):
    """Topic `batch:<id>`: the counts of a batch, after each change."""

    merge_seconds = _BATCH_SECONDS

    def __init__(self, asked: Subscribe, read: Callable[[], Any]) -> None:
        """`read` returns an awaitable of the batch's document; it raises NoBatchError."""
        super().__init__(asked)
        self._read = read
        self._last: Mapping[str, Any] | None = None

    def updated(self, update: ViewUpdate) -> None:
        self.waiting = (
            self.waiting
            or update.lost
            or any(event.type.startswith(("worker.", "command.", "batch.")) for event in update.events)
        )

    async def frames(self, now: float) -> AsyncIterator[Frame]:
        del now
        found = await self._read()
        if found != self._last:
            self._last = found
            yield frame("batch", id=self.id, batch=found)
