"""The publisher: every event once and in order, over outages; what Redis has lost is told again."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from support.servers import RedisServer
from support.waiting import eventually

from manager.errors import FleetUnavailableError
from manager.fleet import FleetStore
from manager.fleet.events import WorkerChange
from manager.host.reporting.outbox import KEPT_SECONDS, Outbox
from manager.host.reporting.publisher import Publisher
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus

S = WorkerLifecycleStatus


def info(account_id: str, status: WorkerLifecycleStatus = S.RUNNING) -> WorkerInfo:
    return WorkerInfo(worker_id=f"w-{account_id}", account_id=account_id, status=status)


class Store:
    """Stands in for Redis: transactions that are taken whole, refused, or taken with the reply lost."""

    def __init__(self) -> None:
        self.records: dict[str, WorkerInfo] = {}
        self.events: list[tuple[str, str]] = []
        self.mark: str | None = None
        self.word: Mapping[str, Any] | None = None
        self.said = 0
        self.away = False
        self.lose_replies = 0
        self.refusals = 0

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
        before, self.word = self.word, data
        self.said += 1
        return before, len(self.records), self.mark

    def forget_agent(self, host: str) -> None:
        del host

    def saved(self) -> tuple[dict[str, WorkerInfo], list[tuple[str, str]], str | None]:
        return dict(self.records), list(self.events), self.mark

    def load(self, saved: tuple[dict[str, WorkerInfo], list[tuple[str, str]], str | None]) -> None:
        """Come back as it was saved, without what came later."""
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
    """What the host's pool has."""
    return []


@pytest.fixture
def publisher(store: Store, known: list[WorkerInfo], monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    monkeypatch.setattr("manager.host.reporting.publisher._INTERVAL", 0.02)
    found = Publisher(store, "h", dict, lambda: known)
    found.start()
    yield found
    found.close()


def test_what_redis_lost_is_told_again_whole_or_in_part(
    publisher: Publisher, store: Store, known: list[WorkerInfo]
) -> None:
    known += [info(f"a{n}") for n in range(3)]
    for one in known:
        assert publisher.publish(one, wait_seconds=5)
    publisher.announce()
    eventually(lambda: store.said >= 1, what="it has spoken")
    for lost in (["a1"], ["a0", "a1", "a2"]):  # its word is still there each time
        for account_id in lost:
            del store.records[account_id]
        eventually(lambda: len(store.records) == 3, what="the rest is told again")
    store.records, store.word = {}, None
    eventually(lambda: len(store.records) == 3, what="all is told again")


def test_events_wait_for_redis_and_come_in_order_each_once(publisher: Publisher, store: Store) -> None:
    assert publisher.publish(info("a", S.STARTING), wait_seconds=5)
    store.away = True
    publisher.publish(info("a", S.RUNNING))
    eventually(lambda: store.refusals >= 2, what="it was tried more than once")
    publisher.publish(info("a", S.STOPPING))
    publisher.publish(info("b", S.STARTING))
    store.away = False
    assert publisher.flush(5)
    assert store.events == [("a", "starting"), ("a", "running"), ("a", "stopping"), ("b", "starting")]


def test_a_write_whose_reply_was_lost_is_not_written_twice(publisher: Publisher, store: Store) -> None:
    store.lose_replies = 1
    assert publisher.publish(info("a", S.STARTING), wait_seconds=5)
    assert publisher.publish(info("a", S.RUNNING), wait_seconds=5)
    assert store.events == [("a", "starting"), ("a", "running")]


def test_a_word_that_fails_has_nothing_written_twice(
    publisher: Publisher, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records of that round were written: only the word was not."""
    failed = threading.Event()
    speak = store.report_agent

    def fail_once(host: str, data: Mapping[str, Any]) -> Any:
        if store.records and not failed.is_set():
            failed.set()
            raise FleetUnavailableError("it went away in between")
        return speak(host, data)

    monkeypatch.setattr(store, "report_agent", fail_once)
    publisher.announce()
    publisher.publish(info("a", S.STARTING))
    assert failed.wait(5)
    assert publisher.publish(info("a", S.RUNNING), wait_seconds=5)
    assert store.events == [("a", "starting"), ("a", "running")]


@pytest.mark.parametrize("whole", [True, False])
def test_events_that_redis_took_and_lost_are_written_again(
    publisher: Publisher, store: Store, known: list[WorkerInfo], whole: bool
) -> None:
    """A Redis that ended within the second before it wrote its file, or came back with nothing."""
    publisher.announce()
    assert publisher.publish(info("a", S.STARTING), wait_seconds=5)
    saved = store.saved()
    known.append(info("a"))
    assert publisher.publish(info("a", S.RUNNING), wait_seconds=5)
    assert publisher.publish(info("a", S.STOPPING), wait_seconds=5)
    eventually(lambda: store.said >= 1, what="it has spoken")
    # As many records and the same word as before: only the mark shows that something is missing.
    store.load(({}, [], None) if whole else saved)
    expected = [("a", "starting"), ("a", "running"), ("a", "stopping")]
    eventually(lambda: store.events == expected, what="the lost events are there again")
    spoken = store.said
    eventually(lambda: store.said >= spoken + 3, what="it has spoken on")
    assert store.events == expected, "and once only"


def test_telling_again_is_tried_until_redis_takes_it(
    publisher: Publisher, store: Store, known: list[WorkerInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    known.append(info("a"))
    publisher.announce()
    assert publisher.publish(info("a"), wait_seconds=5)
    eventually(lambda: store.said >= 1, what="it has spoken")
    record, refused = store.record, threading.Event()

    def refuse_once(*args: Any, **kwargs: Any) -> None:
        if not refused.is_set():
            refused.set()
            raise FleetUnavailableError("it went away again")
        record(*args, **kwargs)

    monkeypatch.setattr(store, "record", refuse_once)
    store.load(({}, [], None))
    eventually(lambda: store.events == [("a", "running")], what="told in the end")
    assert set(store.records) == {"a"}


def test_what_is_done_first_is_done_again_until_it_can_be() -> None:
    store, tried = Store(), []

    def first() -> None:
        tried.append(len(store.records))
        if len(tried) < 3:
            raise FleetUnavailableError("it is away")

    publisher = Publisher(store, "h", dict, list, first)
    publisher.publish(info("a"))
    publisher.start()
    assert publisher.flush(10)
    publisher.close()
    assert tried == [0, 0, 0], "before anything is written"


def test_what_redis_has_kept_for_a_minute_is_not_kept_here() -> None:
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
    outbox.intact()
    assert [change.info.account_id for change in outbox.lost(None)] == ["a1", "a2"]


def test_a_real_redis_that_lost_everything_gets_the_events_again_in_order(redis_server: RedisServer) -> None:
    store = FleetStore(redis_server.url)
    publisher = Publisher(store, "h", dict, lambda: [info("a", S.RUNNING)])
    publisher.start()
    assert publisher.publish(info("a", S.STARTING), wait_seconds=5)
    redis_server.forget()
    assert publisher.publish(info("a", S.RUNNING), wait_seconds=5)
    publisher.close()
    assert [event.status for event in store.events()] == ["starting", "running"]
    store.close()


def test_an_event_that_is_written_late_is_dated_back(redis_server: RedisServer) -> None:
    store = FleetStore(redis_server.url)
    store.record("h", [], {}, events=[(info("a"), 3600.0), (info("b"), 0.0)])
    late, now = store.events()
    assert 3590 < (now.time - late.time).total_seconds() < 3610
    store.close()
