"""An event that brings its account into a reader's selection is not lost."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from manager.api.stream.ring import ring_event
from manager.api.stream.scope import EventScope
from manager.api.stream.topics import Events
from manager.fleet.cursors import Cursor, Position
from manager.fleet.event_types import Event
from manager.models import WorkerInfo
from manager.placement.labels import Selection
from manager.states import WorkerLifecycleStatus
from manager.telemetry.fleet_reader import AccountRow, FleetListing

EVENT = Event(
    id="2-0",
    time=datetime(2026, 12, 1, tzinfo=UTC),
    host="h",
    account_id="a",
    worker_id="w",
    status="running",
    error=None,
    type="worker.running",
)


class HubThatGetsAnEvent:
    """A hub whose view gets an account's first event while a reader asks for events."""

    def __init__(self) -> None:
        self.groups: tuple[str, ...] = ()

    async def events_after(self, cursor: Cursor) -> list[Any]:
        if cursor.position >= Position(2, 0):
            return []
        self.groups = ("fx",)
        return [ring_event(EVENT, "5f3a09c1")]

    async def state(self) -> FleetListing:
        info = WorkerInfo(
            worker_id="w", account_id="a", status=WorkerLifecycleStatus.RUNNING, groups=self.groups
        )
        return FleetListing(
            as_of=datetime(2026, 12, 1, tzinfo=UTC),
            cursor="5f3a09c1:2-0",
            version=str(self.groups),
            accounts={"a": AccountRow("a", info, None, None)},
            hosts={},
        )


def test_an_event_that_brings_its_account_into_the_selection_is_sent() -> None:
    hub: Any = HubThatGetsAnEvent()
    asked: Any = type("Asked", (), {"id": "e"})
    scope = EventScope(select=Selection(("fx",)))
    topic = Events(hub, asked, Cursor("5f3a09c1", Position(1, 0)), scope, bookmark_seconds=60)

    async def frames() -> list[Any]:
        return [one async for one in topic.frames(0.0)]

    assert [b'"worker.running"' in bytes(one) for one in asyncio.run(frames())] == [True]
