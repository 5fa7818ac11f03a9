"""The live view: the fleet in memory, listed once, then followed.

One view per process serves every reader of that process. It reads

- the event stream continuously, and the records of the accounts that events name;
- once a second, and only while the view has readers: agents' reports, heartbeats and desired state;
- every 30 seconds the whole fleet. A difference that neither events nor heartbeats explain is drift: it is
  counted, logged and repaired.

During an outage of Redis, every live worker becomes `unknown` after the time in which a heartbeat becomes
stale.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol

from manager.errors import CursorGoneError, FleetUnavailableError
from manager.fleet.cursors import Cursor, Position
from manager.fleet.desired import DesiredState
from manager.fleet.desired_store import DesiredSnapshot
from manager.fleet.event_places import StreamPlace
from manager.fleet.event_types import Event
from manager.fleet.hosts import HostState
from manager.fleet.live_reads import RawAccounts, RawFleet
from manager.models import WorkerInfo
from manager.system import logs
from manager.telemetry.fleet_state import Changes, FleetState

logger = logging.getLogger(__name__)

#: Seconds between two reads of heartbeats while the view has readers, and of agents' reports while it has
#: none.
_TICK_SECONDS: Final = 1.0
_IDLE_TICK_SECONDS: Final = 5.0
#: Seconds for which one read of the view keeps its heartbeats fresh.
_INTEREST_SECONDS: Final = 15.0
#: Seconds between two whole listings.
_LIST_SECONDS: Final = 30.0
#: Seconds before Redis is tried again.
_RETRY_SECONDS: Final = 0.5
_REDIS_AWAY: Final = "Redis cannot be reached"


class Reads(Protocol):
    """What a view reads; see `manager.fleet.live_reads.LiveReads`."""

    def cursor(self, text: str = "$") -> Cursor: ...
    def fleet(self, *, records: bool, beats: bool) -> RawFleet: ...
    def accounts(self, account_ids: list[str], hosts: list[str]) -> RawAccounts: ...
    def require(self, cursor: Cursor, place: StreamPlace) -> None: ...
    def follow(self, after: Position, *, wait_seconds: float) -> list[Event]: ...


class DesiredReads(Protocol):
    """Reads desired state; see `manager.fleet.desired.DesiredStore`."""

    def snapshot(self) -> DesiredSnapshot | None: ...


@dataclass(frozen=True, slots=True)
class ViewUpdate:
    """One step of the view, as its subscribers receive it.

    `lost` means that events were missed, as after a Redis that lost its data: subscribers take a snapshot
    again.
    """

    version: int
    cursor: Cursor | None
    as_of: float
    changes: Changes = field(default_factory=Changes)
    events: tuple[Event, ...] = ()
    stale_since: float | None = None
    lost: bool = False


Subscriber = Callable[[ViewUpdate], None]


class FleetView:
    """The fleet in memory.

    Call `start` and `close` once each. All other methods are thread-safe; only `refresh` waits for Redis.
    """

    def __init__(
        self,
        reads: Reads,
        desired: DesiredReads,
        *,
        stale_after_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reads = reads
        self._desired = desired
        self._clock = clock
        self._stale_after = stale_after_seconds
        self._lock = threading.RLock()
        self._state = FleetState(stale_after_seconds=stale_after_seconds)
        self._subscribers: list[Subscriber] = []
        self._cursor: Cursor | None = None
        self._version = 0
        #: The number of differences since the start that a whole listing found and no event had reported.
        self.drift = 0
        #: By `clock`: when the view last agreed with Redis, and when Redis became unreachable (None: it is
        #: reachable).
        self._fresh_at = -float("inf")
        self._away_since: float | None = None
        self._interest_until = -float("inf")
        self._next_list = -float("inf")
        self._next_tick = -float("inf")
        #: Whether events after the cursor are missing, so that the next listing must say so.
        self._missed = False
        self._closed = threading.Event()
        self._listed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="view", daemon=True)

    def start(self, *, wait_seconds: float = 0.0) -> bool:
        """Begin to follow the fleet.

        Waits at most `wait_seconds` for the first listing. Returns whether the view has it.
        """
        self._thread.start()
        return self._listed.wait(wait_seconds) if wait_seconds > 0 else self._listed.is_set()

    def close(self) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    # readers

    @contextlib.contextmanager
    def reading(self) -> Iterator[FleetState]:
        """Lock the state and yield it.

        The view takes no update inside the block, so keep the block short.
        """
        self.interested()
        with self._lock:
            yield self._state

    def interested(self) -> None:
        """Keep heartbeats fresh for the next seconds."""
        now = self._clock()
        if now >= self._interest_until:
            self._next_tick = -float("inf")
        self._interest_until = now + _INTEREST_SECONDS

    def refresh(self) -> None:
        """Read heartbeats now if the view had no reader lately, because they may then be old."""
        idle = self._clock() >= self._interest_until
        self.interested()
        if idle and self._listed.is_set():
            with contextlib.suppress(FleetUnavailableError):
                self._tick()

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` with every update, on the view's thread. Returns a function that ends this.

        The view is locked during a call, so an update and a state read inside `reading` never disagree.
        """
        with self._lock:
            self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._subscribers.remove(subscriber)

        return unsubscribe

    @property
    def version(self) -> int:
        """Grows with every change of state or figures."""
        return self._version

    @property
    def cursor(self) -> Cursor | None:
        """The last event that the state contains; None before the first listing."""
        return self._cursor

    @property
    def as_of(self) -> datetime:
        """The time of the state, by Redis's clock."""
        return datetime.fromtimestamp(self._state.now, UTC)

    @property
    def age_seconds(self) -> float:
        """Seconds since the view last agreed with Redis; infinite before the first listing."""
        return self._clock() - self._fresh_at

    @property
    def away_since_seconds(self) -> float | None:
        """Seconds since Redis became unreachable; None while it is reachable."""
        return None if self._away_since is None else self._clock() - self._away_since

    def workers(self) -> list[WorkerInfo]:
        with self.reading() as state:
            return list(state.workers())

    def worker(self, account_id: str) -> WorkerInfo | None:
        with self.reading() as state:
            return state.worker(account_id)

    def hosts(self) -> list[HostState]:
        with self.reading() as state:
            return [state.hosts[name] for name in sorted(state.hosts)]

    def desired(self, account_id: str) -> DesiredState | None:
        with self.reading() as state:
            return state.desired(account_id)

    # following

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self.step()
            except FleetUnavailableError as error:
                self._redis_away(error)
                self._closed.wait(_RETRY_SECONDS)

    def step(self) -> None:
        """Run the read that is due, then wait for events until the next one is due.

        Raises FleetUnavailableError.
        """
        now = self._clock()
        if self._cursor is None or now >= self._next_list:
            self._list()
        elif now >= self._next_tick:
            self._tick()
        wait = min(self._next_tick, self._next_list) - self._clock()
        if self._cursor is None or self._closed.is_set():
            return
        events = self._reads.follow(self._cursor.position, wait_seconds=min(max(wait, 0.001), _TICK_SECONDS))
        if events:
            self._take_events(events)

    def _list(self) -> None:
        """Read the whole fleet.

        The cursor is read first, so that a change during the read is reported twice rather than never.
        """
        cursor = self._reads.cursor()
        gone = self._missed or (self._away_since is not None and self._is_gone())
        snapshot = self._desired.snapshot()
        fleet = self._reads.fleet(records=True, beats=True)
        # After an event during the read, or with an unread one, the listing may be ahead of the view: that is
        # not drift.
        quiet = cursor == self._cursor == self._reads.cursor()
        with self._lock:
            first = self._cursor is None
            changes = self._state.replace(fleet.hosts, snapshot.desired if snapshot else {}, fleet.now)
            if quiet and self._away_since is None:
                self._note_drift(changes)
            lost = gone or (self._cursor is not None and self._cursor.stream != cursor.stream)
            if first or lost:
                self._cursor = cursor
            self._missed = False
            self._next_list = self._clock() + _LIST_SECONDS
            self._agreed()
            self._announce(changes, lost=lost)
        self._listed.set()

    def _is_gone(self) -> bool:
        """Return whether Redis no longer has the events after the view's cursor."""
        try:
            self._reads.cursor(str(self._cursor or "0"))
        except CursorGoneError:
            return True
        return False

    def _tick(self) -> None:
        """Read agents' reports and desired state, and heartbeats while the view has readers."""
        interested = self._clock() < self._interest_until
        snapshot = self._desired.snapshot()
        fleet = self._reads.fleet(records=False, beats=interested)
        with self._lock:
            if not self._continues(fleet.place):
                return
            if self._state.record_counts_differ(fleet.hosts):
                self._next_list = -float("inf")  # a record was removed, which has no event
            desired = snapshot.desired if snapshot is not None else None
            changes = self._state.refresh(fleet.hosts, desired, fleet.now)
            self._agreed()
            self._announce(changes)

    def _take_events(self, events: list[Event]) -> None:
        accounts = sorted({event.account_id for event in events if event.account_id})
        with self._lock:
            hosts = sorted(self._state.hosts.keys() | {event.host for event in events if event.host})
        raw = self._reads.accounts(accounts, hosts)
        with self._lock:
            if not self._continues(raw.place):
                return
            changes = self._state.take_accounts(raw)
            if self._cursor is not None:
                self._cursor = Cursor(self._cursor.stream, Position.parse(events[-1].id))
            self._announce(changes, tuple(events))

    def _continues(self, place: StreamPlace) -> bool:
        """Return whether every event after the view's cursor is in the stream that was read.

        If not, as when the stream was replaced, or trimmed while this process was suspended, the next listing
        tells the subscribers.
        """
        if self._cursor is None:
            return False
        try:
            self._reads.require(self._cursor, place)
        except CursorGoneError:
            self._missed = True
            self._next_list = -float("inf")
            return False
        return True

    def _agreed(self) -> None:
        idle = self._clock() >= self._interest_until
        self._next_tick = self._clock() + (_IDLE_TICK_SECONDS if idle else _TICK_SECONDS)
        self._fresh_at = self._clock()
        if self._away_since is not None:
            self._away_since = None
            logs.event(logger, logging.INFO, "view_resumed", "Redis answers again")

    def _redis_away(self, error: FleetUnavailableError) -> None:
        with self._lock:
            if self._away_since is None:
                self._away_since = self._clock()
                logs.event(logger, logging.WARNING, "view_interrupted", str(error))
                self._announce(Changes())
            self._next_list = -float("inf")
            age = self.age_seconds
            if age > self._stale_after and not self._state.blind and self._listed.is_set():
                reason = f"{_REDIS_AWAY} ({_first_line(error)})"
                self._announce(self._state.turn_blind(reason, self._state.now + age))

    def _note_drift(self, changes: Changes) -> None:
        differing = changes.records
        if not differing:
            return
        self.drift += len(differing)
        names = ", ".join(sorted(differing)[:5])
        logs.event(
            logger,
            logging.WARNING,
            "view_drift",
            f"a listing differed from the view for {len(differing)} accounts ({names}); the listing counts",
        )

    def _announce(self, changes: Changes, events: tuple[Event, ...] = (), *, lost: bool = False) -> None:
        if changes:
            self._version += 1
        update = ViewUpdate(
            self._version, self._cursor, self._state.now, changes, events, self._away_since, lost
        )
        for subscriber in list(self._subscribers):
            subscriber(update)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
