"""Topics of a stream connection: each keeps what its client has, and yields the frames that bring it up to
date.

A topic queues nothing. It holds the accounts that changed, or its position in the event stream; frames are
made when the connection can take them. A slow client therefore gets fewer figures and merged changes, but
every event.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

from manager.api.rendering import to_json
from manager.api.stream.hub import Hub
from manager.api.stream.messages import Subscribe
from manager.api.stream.rows import COLUMNS, FIGURES, figures, host_row
from manager.errors import CursorGoneError, FleetUnavailableError
from manager.fleet.cursors import Cursor
from manager.fleet.event_types import EventFilter
from manager.placement.labels import Selection
from manager.telemetry.fleet_reader import AccountRow, FleetListing
from manager.telemetry.view import ViewUpdate

#: Rows of one part of a snapshot.
_PART_ROWS: Final = 2_000
#: Seconds without an event after which a bookmark tells the reader's new position.
BOOKMARK_SECONDS: Final = 15.0

Frame = bytes


def frame(kind: str, **members: Any) -> Frame:
    """Return a frame: a JSON object whose member `t` is its kind."""
    return to_json({"t": kind, **members})


class Topic(ABC):
    """One subscription.

    `updated` is called for every update of the view, `frames` when the client can take more.
    """

    #: By the loop's clock: when `frames` has something to send though nothing was updated.
    due: float = float("inf")

    def __init__(self, asked: Subscribe) -> None:
        self.id = asked.id

    @abstractmethod
    def updated(self, update: ViewUpdate) -> bool:
        """Take an update; returns whether there is something to send at once."""

    @abstractmethod
    def frames(self, now: float) -> AsyncIterator[Frame]:
        """Yield what the client lacks. `now` is the loop's clock."""


class Accounts(Topic):
    """Topic `accounts`: a snapshot, then whole rows that changed, and figures of the accounts that are asked
    for.
    """

    def __init__(self, hub: Hub, asked: Subscribe, readable: Selection) -> None:
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
        self._gone: CursorGoneError | None = None

    def show(self, accounts: Sequence[str]) -> None:
        """Send figures of these accounts from now on, where figures of visible rows are asked for."""
        new = frozenset(accounts) - self._visible
        self._visible = frozenset(accounts)
        if self._figures_of == "visible":
            self._figures = {one for one in self._figures if one in self._visible} | new

    def updated(self, update: ViewUpdate) -> bool:
        changes = update.changes
        if update.lost:
            self._fresh = True
            self._gone = CursorGoneError("the event stream was replaced", oldest=str(update.cursor or ""))
        self._changed |= changes.accounts | changes.gone
        if self._figures_of == "all":
            self._figures |= changes.figures
        elif self._figures_of == "visible":
            self._figures |= changes.figures & self._visible
        if self._figures and self.due == float("inf"):
            self.due = 0.0
        return self._fresh or bool(self._changed)

    async def frames(self, now: float) -> AsyncIterator[Frame]:
        if self._fresh or self._changed:
            state = await self._hub.state()
            if self._fresh:
                if self._gone is not None:
                    yield frame("gone", id=self.id, oldest=self._gone.oldest)
                self._gone, self._fresh = None, False
                for part in self._snapshot(state):
                    yield part
            else:
                yield self._change(state)
        if self._figures and now >= self.due:
            self.due = now + self._every
            sent = self._figures_frame(await self._hub.state())
            if sent is not None:
                yield sent
        elif not self._figures:
            self.due = float("inf")

    def _takes(self, account: AccountRow) -> bool:
        named = self._named is None or account.account_id in self._named
        return named and account.within(self._select) and account.within(self._readable)

    def _row(self, state: FleetListing, account: AccountRow) -> list[Any]:
        number = self._numbers.setdefault(account.account_id, len(self._numbers))
        self._present.add(account.account_id)
        self._sent[account.account_id] = figures(account)
        return [number, *self._hub.row_of(state, account)]

    def _snapshot(self, state: FleetListing) -> list[Frame]:
        self._changed.clear()
        self._present.clear()
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

    def _change(self, state: FleetListing) -> Frame:
        changed, self._changed = self._changed, set()
        rows, gone = [], []
        for account_id in sorted(changed):
            account = state.accounts.get(account_id)
            if account is not None and self._takes(account):
                rows.append(self._row(state, account))
            elif account_id in self._present:
                self._present.discard(account_id)
                self._sent.pop(account_id, None)
                gone.append(account_id)
        return frame("change", id=self.id, cursor=state.cursor, rows=rows, gone=gone)

    def _figures_frame(self, state: FleetListing) -> Frame | None:
        """Return the figures that are others than those that the client has."""
        asked, self._figures = self._figures, set()
        numbers: list[int] = []
        columns: list[list[Any]] = [[] for _ in FIGURES]
        for account_id in asked:
            account = state.accounts.get(account_id)
            if account is None or account_id not in self._present:
                continue
            values = figures(account)
            # The age alone is no news: it differs in every heartbeat. FIGURES has it last.
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
    """Topic `events`: every event after a cursor, in order, each once."""

    def __init__(
        self, hub: Hub, asked: Subscribe, cursor: Cursor, visible: Callable[[str], bool] | None
    ) -> None:
        """`visible` says whether an account's events may be seen; None: all may."""
        super().__init__(asked)
        self._hub = hub
        self._cursor = cursor
        named = asked.select.accounts
        self._only = EventFilter(
            types=tuple(asked.select.types), accounts=None if named is None else frozenset(named)
        )
        self._visible = visible
        self._told_at: float | None = None
        self.due = 0.0

    def updated(self, update: ViewUpdate) -> bool:
        return bool(update.events) or update.lost

    async def frames(self, now: float) -> AsyncIterator[Frame]:
        if self._told_at is None:
            self._told_at = now
        try:
            while True:
                found = await self._hub.events_after(self._cursor)
                if not found:
                    break
                for one in found:
                    self._cursor = Cursor(self._cursor.stream, one.position)
                    if not self._only.matches(one.event) or not self._may_see(one.event.account_id):
                        continue
                    self._told_at = now
                    head = to_json({"t": "event", "id": self.id, "cursor": str(self._cursor)})
                    yield head[:-1] + b',"event":' + one.json + b"}"
        except CursorGoneError as gone:
            yield frame("gone", id=self.id, oldest=gone.oldest)
            self._cursor = (
                await self._hub.cursor(gone.oldest) if gone.oldest else self._hub.head or self._cursor
            )
        except FleetUnavailableError:
            pass  # Redis is away; the view tells when it is back
        if now - self._told_at >= BOOKMARK_SECONDS:
            self._told_at = now
            yield frame("bookmark", id=self.id, cursor=str(self._cursor))
        self.due = self._told_at + BOOKMARK_SECONDS

    def _may_see(self, account_id: str) -> bool:
        return self._visible is None or not account_id or self._visible(account_id)


class Hosts(Topic):
    """Topic `hosts`: every host, then those whose state changed."""

    def __init__(self, hub: Hub, asked: Subscribe) -> None:
        super().__init__(asked)
        self._hub = hub
        self._changed: set[str] | None = None

    def updated(self, update: ViewUpdate) -> bool:
        if update.lost:
            self._changed = None
        elif self._changed is not None:
            self._changed |= update.changes.hosts
        return self._changed is None or bool(self._changed)

    async def frames(self, now: float) -> AsyncIterator[Frame]:
        del now
        changed, self._changed = self._changed, set()
        if changed is not None and not changed:
            return
        state = await self._hub.state()
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
    """Topic `batch:<id>`: the batch's counts, whenever an account of it may have changed."""

    def __init__(self, asked: Subscribe, read: Callable[[], Any]) -> None:
        """`read` returns an awaitable of the batch's document; it raises NoBatchError."""
        super().__init__(asked)
        self._read = read
        self._last: Mapping[str, Any] | None = None
        self._dirty = True

    def updated(self, update: ViewUpdate) -> bool:
        self._dirty = self._dirty or any(
            event.type.startswith(("worker.", "command.", "batch.")) for event in update.events
        )
        return self._dirty

    async def frames(self, now: float) -> AsyncIterator[Frame]:
        del now
        if not self._dirty:
            return
        self._dirty = False
        found = await self._read()
        if found != self._last:
            self._last = found
            yield frame("batch", id=self.id, batch=found)
