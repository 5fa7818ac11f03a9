"""The publisher writes each event once, in order, also over outages, and restores data that Redis lost."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from support.servers import RedisServer
from support.waiting import eventually

from manager.errors import FleetUnavailableError
from manager.fleet import FleetStore
from manager.fleet.event_types import Cause, Notice, WorkerChange
from manager.host.reporting.outbox import KEPT_SECONDS, Outbox
from manager.host.reporting.publisher import Publisher
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus

S = WorkerLifecycleStatus


def info(account_id: str, status: WorkerLifecycleStatus = S.RUNNING) -> WorkerInfo:
    return WorkerInfo(worker_id=f"w-{account_id}", account_id=account_id, status=status)


class Store:
    """A Redis in memory: a transaction is taken whole, refused, or taken with its reply lost."""

    def __init__(self) -> None:
        self.records: dict[str, WorkerInfo] = {}
        self.events: list[tuple[str, str]] = []
        self.notices: list[str] = []
        self.mark: str | None = None
        self.word: Mapping[str, Any] | None = None
        self.said = 0
        self.away = False
        self.lose_replies = 0
        #: How many of the next transactions and reports are refused.
        self.refused_records = self.refused_reports = 0
        self.refusals = 0

    def note(self, notice: Notice) -> None:
        self._reach()
        self.notices.append(notice.type)

    def ensure_stream_id(self) -> None:
        self._reach()

    def forget_worker(self, host: str, account_id: str) -> None:
        self.records.pop(account_id, None)

    def record(
        self,
        host: str,
        infos: Iterable[WorkerInfo],
        beats: Mapping[str, Mapping[str, Any]],
        *,
        events: Sequence[WorkerChange] | None = None,
        mark: str = "",
    ) -> None:
        del host, beats
        self._reach()
        if self.refused_records:
            self.refused_records -= 1
            self.refusals += 1
            raise FleetUnavailableError("it went away")
        infos = list(infos)
        self.records |= {one.account_id: one for one in infos}
        happened = [WorkerChange(one) for one in infos] if events is None else events
        self.events += [(one.info.account_id, str(one.info.status)) for one in happened]
        self.mark = mark
        if self.lose_replies:
            self.lose_replies -= 1
            raise FleetUnavailableError("the reply is lost")

    def last_mark(self, host: str) -> str | None:
        del host
        self._reach()
        return self.mark

    def report_agent(
        self, host: str, data: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any] | None, int, str | None]:
        del host
        self._reach()
        if self.refused_reports:
            self.refused_reports -= 1
            self.refusals += 1
            raise FleetUnavailableError("it went away")
        before, self.word = self.word, data
        self.said += 1
        return before, len(self.records), self.mark

    def forget_agent(self, host: str) -> None:
        del host

    def saved(self) -> tuple[dict[str, WorkerInfo], list[tuple[str, str]], str | None]:
        return dict(self.records), list(self.events), self.mark

    def load(self, saved: tuple[dict[str, WorkerInfo], list[tuple[str, str]], str | None]) -> None:
        """Return to what was saved, without later writes."""
        self.records, self.events, self.mark = dict(saved[0]), list(saved[1]), saved[2]

    def _reach(self) -> None:
        if self.away:
            self.refusals += 1
            raise FleetUnavailableError("it is away")


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def known() -> list[WorkerInfo]:
    """The records of the host's pool."""
    return []


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def publisher(store: Store, known: list[WorkerInfo], clock: Clock) -> Publisher:
    """A publisher whose thread is not started: `tick` writes."""
    return Publisher(store, "h", dict, lambda: known, clock=clock)


def tick(publisher: Publisher, clock: Clock, seconds: float = 1.0) -> None:
    """Let `seconds` go by and run the publisher once."""
    clock.now += seconds
    publisher.tick(clock.now)


def write(publisher: Publisher, clock: Clock, one: WorkerInfo) -> None:
    """Publish a record and run the publisher before its next status report is due."""
    publisher.publish(one)
    tick(publisher, clock, 0.01)


def test_a_status_report_is_written_once_a_second_and_not_before_announce(
    publisher: Publisher, store: Store, clock: Clock
) -> None:
    tick(publisher, clock)
    assert store.said == 0
    publisher.announce()
    tick(publisher, clock, 0.0)
    assert store.said == 1
    tick(publisher, clock, 0.9)
    assert store.said == 1
    tick(publisher, clock, 0.1)
    assert store.said == 2


def test_records_that_redis_lost_are_written_again_whole_or_in_part(
    publisher: Publisher, store: Store, known: list[WorkerInfo], clock: Clock
) -> None:
    known += [info(f"a{n}") for n in range(3)]
    for one in known:
        write(publisher, clock, one)
    publisher.announce()
    tick(publisher, clock)
    assert store.said == 1
    for lost in (["a1"], ["a0", "a1", "a2"]):  # the status report is still there each time
        for account_id in lost:
            del store.records[account_id]
        tick(publisher, clock)
        assert len(store.records) == 3
    store.records, store.word = {}, None
    tick(publisher, clock)
    assert len(store.records) == 3


def test_events_wait_for_redis_and_arrive_in_their_order_each_once(
    publisher: Publisher, store: Store, clock: Clock
) -> None:
    write(publisher, clock, info("a", S.STARTING))
    store.away = True
    publisher.publish(info("a", S.RUNNING))
    tick(publisher, clock)
    tick(publisher, clock)
    assert store.refusals == 2
    publisher.publish(info("a", S.STOPPING))
    publisher.publish(info("b", S.STARTING))
    store.away = False
    assert not publisher.flush(0)
    tick(publisher, clock)
    tick(publisher, clock)
    assert publisher.flush(0)
    assert store.events == [("a", "starting"), ("a", "running"), ("a", "stopping"), ("b", "starting")]


def test_a_write_whose_reply_was_lost_is_not_repeated(
    publisher: Publisher, store: Store, clock: Clock
) -> None:
    store.lose_replies = 1
    write(publisher, clock, info("a", S.STARTING))
    tick(publisher, clock)
    write(publisher, clock, info("a", S.RUNNING))
    assert store.events == [("a", "starting"), ("a", "running")]


def test_a_status_report_that_fails_does_not_repeat_the_records_of_its_tick(
    publisher: Publisher, store: Store, clock: Clock
) -> None:
    """The records were written; only the report was not."""
    store.refused_reports = 1
    publisher.announce()
    write(publisher, clock, info("a", S.STARTING))
    assert store.refusals == 1
    write(publisher, clock, info("a", S.RUNNING))
    assert store.events == [("a", "starting"), ("a", "running")]
    tick(publisher, clock, 0.9)
    assert store.said == 0, "tried again a second after the failure"
    tick(publisher, clock, 0.2)
    assert store.said == 1


@pytest.mark.parametrize("whole", [True, False])
def test_events_that_redis_took_and_lost_are_written_again(
    publisher: Publisher, store: Store, known: list[WorkerInfo], clock: Clock, whole: bool
) -> None:
    """A Redis that ended within the second before it wrote its file, or came back with nothing."""
    publisher.announce()
    write(publisher, clock, info("a", S.STARTING))
    saved = store.saved()
    known.append(info("a"))
    write(publisher, clock, info("a", S.RUNNING))
    write(publisher, clock, info("a", S.STOPPING))
    assert store.said == 1
    # As many records and the same report as before: only the mark shows that something is missing.
    store.load(({}, [], None) if whole else saved)
    tick(publisher, clock)
    expected = [("a", "starting"), ("a", "running"), ("a", "stopping")]
    assert store.events == expected
    for _ in range(3):
        tick(publisher, clock)
    assert store.said == 5
    assert store.events == expected, "and once only"


def test_writing_lost_records_is_tried_until_redis_takes_them(
    publisher: Publisher, store: Store, known: list[WorkerInfo], clock: Clock
) -> None:
    known.append(info("a"))
    publisher.announce()
    write(publisher, clock, info("a"))
    store.load(({}, [], None))
    store.refused_records = 1
    tick(publisher, clock)
    assert store.records == {}
    tick(publisher, clock)
    assert store.events == [("a", "running")]
    assert set(store.records) == {"a"}


def test_prepare_is_called_until_it_succeeds_before_anything_is_written(store: Store, clock: Clock) -> None:
    tried: list[int] = []

    def prepare() -> None:
        tried.append(len(store.records))
        if len(tried) < 3:
            raise FleetUnavailableError("it is away")

    publisher = Publisher(store, "h", dict, list, prepare, clock=clock)
    publisher.publish(info("a"))
    for _ in range(4):
        tick(publisher, clock)
    assert tried == [0, 0, 0]
    assert set(store.records) == {"a"}


def test_changes_that_redis_has_had_for_a_minute_are_dropped() -> None:
    now = [0.0]
    outbox = Outbox(lambda: now[0])
    for second in range(3):
        now[0] = second * KEPT_SECONDS
        outbox.add(info(f"a{second}"), None)
        batch = outbox.next()
        assert batch is not None
        outbox.mark(batch)
        outbox.written(batch)
    assert [change.info.account_id for change in outbox.lost(None)] == ["a0", "a1", "a2"]
    outbox.trim()
    assert [change.info.account_id for change in outbox.lost(None)] == ["a1", "a2"]


def test_a_real_redis_that_lost_everything_gets_the_events_again_in_their_order(
    redis_server: RedisServer,
) -> None:
    store = FleetStore(redis_server.url)
    publisher = Publisher(store, "h", dict, lambda: [info("a", S.RUNNING)])
    publisher.start()
    assert publisher.publish(info("a", S.STARTING), wait_seconds=5)
    redis_server.forget()
    assert publisher.publish(info("a", S.RUNNING), wait_seconds=5)
    publisher.close()
    statuses = [event.status for event in store.events() if event.status]
    assert statuses == ["starting", "running"]
    store.close()


def test_an_event_that_is_written_late_has_its_original_time(redis_server: RedisServer) -> None:
    store = FleetStore(redis_server.url)
    store.record("h", [], {}, events=[(info("a"), 3600.0), (info("b"), 0.0)])
    late, now = store.events()
    assert 3590 < (now.time - late.time).total_seconds() < 3610
    store.close()


def test_events_name_the_command_and_the_state_before(redis_server: RedisServer) -> None:
    store = FleetStore(redis_server.url)
    publisher = Publisher(store, "h", dict, cause=lambda info: Cause("ana@desk", f"task-{info.account_id}"))
    publisher.publish(info("a", S.STARTING))
    publisher.publish(info("a", S.RUNNING))
    publisher.tick(0.0)
    first, second = store.events()
    assert (first.type, dict(first.data)) == ("worker.starting", {})
    assert (second.type, second.data["from"], second.by, second.command) == (
        *("worker.running", "starting"),
        *("ana@desk", "task-a"),
    )
    assert store.stream.counters(["h"])["h"]["worker.running"] == 1
    store.close()


def test_an_agent_that_reports_for_the_first_time_and_that_ends_writes_events(
    redis_server: RedisServer,
) -> None:
    store = FleetStore(redis_server.url)
    publisher = Publisher(store, "h", lambda: {"version": "0.3.0", "workers": 2})
    publisher.start()
    publisher.announce()
    eventually(lambda: [event.type for event in store.events()] == ["host.live"])
    publisher.close()
    assert [event.type for event in store.events()] == ["host.live", "host.ended"]
    assert store.events()[0].data == {"workers": 2, "version": "0.3.0"}
    store.close()
