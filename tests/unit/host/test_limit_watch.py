"""The watch of limits, with workers, processes and clock of the test's own."""

import threading
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from support.waiting import eventually

from manager.config.models_limits import LimitsConfig
from manager.errors import FleetUnavailableError
from manager.fleet.desired import DesiredState
from manager.fleet.event_types import Remark
from manager.host.limits.enforcement import Enforcement, Mechanism
from manager.host.limits.processes import Tree
from manager.host.limits.watch import LOOK_SECONDS, LimitWatch
from manager.host.workers.limit_actions import Limited
from manager.states import TradingMode
from manager.system.processes import ProcessRef

MIB = 1 << 20
#: A process that does not exist.
PID = 2**22 + 5
SHARED = 50 * MIB


class Workers:
    """One worker whose figures the test sets; also the account's control, and the process table."""

    def __init__(self, **limits: Any) -> None:
        self.limits = LimitsConfig.model_validate(limits)
        record: Any = SimpleNamespace(
            account_id="a", worker_id="w-1", process=ProcessRef(PID, "boot:1"), stop_timeout_seconds=1.0
        )
        self.record = record
        self.running = True
        self.resident, self.pss, self.cpu = 60 * MIB, 15 * MIB, 0.0
        self.processes = 1
        self.shared = SHARED
        self.reads = 0
        self.positions: int | None = 0
        self.events: list[Remark] = []
        self.exceeded: Mapping[str, str] = {}
        self.ended: list[tuple[str, str]] = []
        self.killed: list[tuple[str, str]] = []
        self.refused: str | None = None
        self.asked: list[bool] = []
        self.paused: list[str] = []
        self.pause_fails = False
        #: Set: reads of memory maps do not block.
        self.readable = threading.Event()
        self.readable.set()

    # LimitActions

    def limited(self) -> list[Limited]:
        return [Limited(self.record, self.limits)] if self.running and self.limits.given else []

    def worker_ids(self) -> set[str]:
        return {"w-1"}

    def shared_bytes(self) -> int:
        return self.shared

    def open_positions(self, record: Any) -> int | None:
        del record
        return self.positions

    def note(self, record: Any, exceeded: Mapping[str, str], change: Remark) -> None:
        del record
        self.exceeded = exceeded
        self.events.append(change)

    def kill(self, record: Any, limit: str, reason: str, change: Remark) -> bool:
        del record
        self.events.append(change)
        self.killed.append((limit, reason))
        self.running = False
        return True

    def end(self, record: Any, limit: str, reason: str, change: Remark) -> bool:
        del record
        self.events.append(change)
        self.ended.append((limit, reason))
        self.running = False
        return True

    # AccountControl

    def why_not_end(self, account_id: str, *, restarts: bool) -> str | None:
        assert account_id == "a"
        self.asked.append(restarts)
        return self.refused

    def pause(self, account_id: str, *, token: str, by: str) -> DesiredState | None:
        assert token
        if self.pause_fails:
            raise FleetUnavailableError("no Redis")
        self.paused.append(by)
        return DesiredState(
            account_id=account_id, state="running", generation=1, mode=TradingMode.PAUSED, mode_by=by
        )

    # measuring

    def tree(self, process: ProcessRef) -> Tree | None:
        assert process is self.record.process
        return Tree([PID] * self.processes, self.cpu, self.resident)

    def memory(self, pid: int) -> int | None:
        assert pid == PID
        self.readable.wait()
        self.reads += 1
        return self.pss // self.processes

    def grow(self, megabytes: int) -> None:
        self.pss = megabytes * MIB
        self.resident = SHARED + self.pss

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]


class Watch:
    """A watch with a clock; each look is complete when `look` returns."""

    def __init__(self, workers: Workers, mechanism: str = "watched") -> None:
        self.workers, self.now = workers, 1000.0
        parts: Any = workers
        self.watch = LimitWatch(
            parts,
            Enforcement(Mechanism(name=mechanism)),
            parts,
            table=lambda: parts,
            memory_of=workers.memory,
            clock=lambda: self.now,
        )

    def look(self, seconds: float = LOOK_SECONDS) -> None:
        self.now += seconds
        self.watch.look()
        eventually(self.rests, what="the look ends")

    def rests(self) -> bool:
        return not any(one.busy or one.ending for one in self.watch._watched.values())


MakeWatch = Callable[[Workers], Watch]


@pytest.fixture
def watched() -> Iterator[MakeWatch]:
    made: list[Watch] = []

    def make(workers: Workers) -> Watch:
        made.append(Watch(workers))
        return made[-1]

    yield make
    for one in made:
        one.workers.readable.set()
        one.watch.close()


def test_memory_maps_are_read_only_near_the_limit_and_each_minute(watched: MakeWatch) -> None:
    workers = Workers(memory_mb=400)
    watch = watched(workers)
    for _ in range(24):
        watch.look()
    assert workers.reads == 0  # its resident memory is within the limit
    workers.shared, workers.resident = 200 * MIB, 420 * MIB
    for _ in range(24):
        watch.look()
    assert 1 <= workers.reads <= 3
    workers.shared = SHARED
    before = workers.reads
    workers.grow(300)
    for _ in range(3):
        watch.look()
    assert workers.reads == before + 3


def test_resident_memory_above_the_limit_is_no_excess(watched: MakeWatch) -> None:
    workers = Workers(memory_mb=100, memory_hard_mb=200)
    watch = watched(workers)
    workers.resident = 900 * MIB
    for _ in range(30):
        watch.look()
    assert workers.reads == 30
    assert (workers.events, workers.ended, workers.killed) == ([], [], [])


def test_a_flat_account_is_restarted_at_the_look_that_sees_the_excess(watched: MakeWatch) -> None:
    workers = Workers(memory_mb=400)
    watch = watched(workers)
    watch.look()
    workers.grow(412)
    watch.look()
    assert workers.ended == [("memory_mb", "memory 412 MB > limits.memory_mb 400")]
    assert workers.types == ["limit.exceeded", "limit.enforced"]
    assert workers.events[0].data["when"] == "when it is flat, in 10m at the latest"
    assert workers.asked == [True]


@pytest.mark.parametrize("positions", [1, None])
def test_an_account_with_positions_is_restarted_when_it_is_flat(
    watched: MakeWatch, positions: int | None
) -> None:
    workers = Workers(memory_mb=400)
    watch = watched(workers)
    workers.grow(412)
    workers.positions = positions
    for _ in range(5):
        watch.look()
    assert workers.ended == []
    assert workers.types == ["limit.exceeded"]
    assert workers.exceeded == {
        "memory_mb": ("memory 412 MB > limits.memory_mb 400; restart when it is flat, in 10m at the latest")
    }
    workers.positions = 0
    watch.look()
    assert [limit for limit, _ in workers.ended] == ["memory_mb"]


def test_after_the_grace_it_is_restarted_with_its_positions(watched: MakeWatch) -> None:
    workers = Workers(memory_mb=400, grace="1m")
    watch = watched(workers)
    workers.grow(412)
    workers.positions = 1
    watch.look()
    watch.look(59)
    assert workers.ended == []
    watch.look(1)
    assert len(workers.ended) == 1


def test_an_excess_that_passes_cancels_the_restart_and_its_wait(watched: MakeWatch) -> None:
    workers = Workers(memory_mb=400, grace="1m")
    watch = watched(workers)
    workers.grow(412)
    workers.positions = 1
    watch.look()
    workers.grow(300)
    watch.look(55)
    assert workers.types == ["limit.exceeded", "limit.cleared"]
    assert workers.exceeded == {}
    workers.grow(412)
    watch.look(10)
    watch.look(50)  # a new wait began
    assert workers.ended == []


def test_without_when_flat_it_does_not_wait(watched: MakeWatch) -> None:
    workers = Workers(processes=4, when_flat=False)
    watch = watched(workers)
    workers.positions, workers.processes = 3, 5
    watch.look()
    assert workers.ended == [("processes", "processes 5 > limits.processes 4")]


def test_hard_memory_never_waits(watched: MakeWatch) -> None:
    workers = Workers(memory_mb=400, memory_hard_mb=600, on_exceed="warn")
    watch = watched(workers)
    workers.positions, workers.refused = 1, "Redis cannot be reached"
    workers.grow(700)
    watch.look()
    assert workers.killed == [
        ("memory_hard_mb", "memory 700 MB > limits.memory_hard_mb 600; this host killed it")
    ]


def test_a_worker_that_could_not_start_again_goes_on(watched: MakeWatch) -> None:
    workers = Workers(memory_mb=400)
    watch = watched(workers)
    workers.grow(412)
    workers.refused = "Redis cannot be reached, so it could not start again"
    for _ in range(3):
        watch.look()
    assert workers.ended == []
    workers.refused = None
    watch.look()
    assert len(workers.ended) == 1


def test_a_stop_need_not_be_able_to_start_again(watched: MakeWatch) -> None:
    workers = Workers(memory_mb=400, on_exceed="stop")
    watch = watched(workers)
    workers.grow(412)
    watch.look()
    assert workers.asked == [False]
    assert workers.events[-1].data["action"] == "stop"


def test_warn_writes_one_event(watched: MakeWatch) -> None:
    workers = Workers(memory_mb=400, on_exceed="warn")
    watch = watched(workers)
    workers.grow(412)
    for _ in range(5):
        watch.look()
    assert workers.types == ["limit.exceeded"]
    assert (workers.ended, workers.killed, workers.paused) == ([], [], [])


def test_pause_pauses_once_and_again_only_after_the_excess_has_passed(watched: MakeWatch) -> None:
    workers = Workers(memory_mb=400, on_exceed="pause")
    watch = watched(workers)
    workers.pause_fails = True
    workers.grow(412)
    watch.look()
    assert workers.types == ["limit.exceeded"]
    workers.pause_fails = False
    for _ in range(3):
        watch.look()
    assert workers.paused == ["limits.memory_mb"]
    assert workers.types == ["limit.exceeded", "limit.enforced"]
    workers.grow(100)
    watch.look()
    workers.grow(412)
    watch.look()
    assert len(workers.paused) == 2


def test_cpu_is_throttled_and_other_limits_restart(watched: MakeWatch) -> None:
    workers = Workers(cpu_percent=50, cpu_window="10s", memory_mb=400, on_exceed="throttle")
    watch = watched(workers)
    for _ in range(4):
        watch.look()
        workers.cpu += LOOK_SECONDS
    assert workers.types == ["limit.exceeded"]
    assert workers.events[0].data["action"] == "throttle"
    assert workers.ended == []
    workers.grow(412)
    watch.look()
    assert [limit for limit, _ in workers.ended] == ["memory_mb"]


def test_memory_that_cannot_be_read_is_no_excess(watched: MakeWatch) -> None:
    workers = Workers(memory_mb=400, memory_hard_mb=600)
    watch = watched(workers)
    watch.watch._memory_of = lambda pid: None
    workers.resident = 5000 * MIB
    for _ in range(3):
        watch.look()
    assert workers.events == []


def test_a_memory_map_that_blocks_delays_neither_looks_nor_other_limits_of_others(
    watched: MakeWatch,
) -> None:
    workers = Workers(memory_mb=400)
    watch = watched(workers)
    workers.readable.clear()
    workers.grow(412)
    for _ in range(3):
        watch.now += LOOK_SECONDS
        watch.watch.look()
    assert workers.events == []
    workers.readable.set()
    eventually(lambda: len(workers.ended) == 1, what="the excess is seen once the map can be read")


def test_a_tick_starts_a_look_when_it_is_due_and_none_if_limits_are_off() -> None:
    for mechanism, looks in (("watched", 2), ("off", 0)):
        workers = Workers(processes=4)
        watch = Watch(workers, mechanism)
        count = 0
        limited = workers.limited

        def counted(limited: Callable[[], list[Limited]] = limited) -> list[Limited]:
            nonlocal count
            count += 1
            return limited()

        workers.limited = counted  # type: ignore[method-assign]
        for _ in range(11):
            watch.watch.tick(watch.now)
            eventually(lambda watch=watch: not watch.watch._looking, what="the look ends")  # type: ignore[misc]
            watch.now += 0.5
        assert count == looks
        watch.watch.close()
