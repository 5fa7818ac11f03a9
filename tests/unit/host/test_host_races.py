"""Races between a stop and an unexpected exit, in every order.

Every result and record is correct, and no lease is released twice. The processes are real, do nothing, and
end on request. Gates hold each side at the critical point.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from support.configs import config
from support.waiting import eventually

from manager.config import AccountConfig
from manager.config.models import ExecutionConfig
from manager.config.references import Resolved
from manager.errors import NoWorkerError, StartFailedError, StopFailedError
from manager.fleet.event_types import HealthChange, ModeChange, Remark
from manager.host.workers.launch_builder import WorkerEnvironment
from manager.host.workers.launcher import Launched
from manager.host.workers.leases import LeaseGrant, LocalLeases
from manager.host.workers.limits import PoolLimits
from manager.host.workers.pool import WorkerPoolManager
from manager.host.workers.records import RecordFiles
from manager.host.workers.slot import Slot
from manager.host.workers.starter import Starter
from manager.host.workers.stopper import StopOutcome
from manager.models import WorkerInfo
from manager.pool.protocol import StartRequest
from manager.session.heartbeat_file import HeartbeatWriter
from manager.system.process_watch import ProcessWatch
from manager.system.processes import ProcessRef
from manager.system.state_dir import StatePaths

IDLE = "import sys; sys.stdin.read()"


class IdleLauncher:
    """Launches processes that do nothing, and reports each as connected."""

    def __init__(self) -> None:
        self.children: dict[ProcessRef, subprocess.Popen[bytes]] = {}
        self.word = b'{"event": "connected"}\n'

    def preload(self) -> None: ...
    def close(self) -> None: ...

    def launch(self) -> Launched:
        child = subprocess.Popen([sys.executable, "-S", "-c", IDLE], stdin=subprocess.PIPE)
        process = ProcessRef.of(child.pid)
        assert process is not None
        self.children[process] = child
        theirs, ours = os.pipe()
        os.write(ours, self.word)
        os.close(ours)
        return Launched(process, os.fdopen(theirs, "rb"), Path(os.devnull).open("wb"))

    def exit_code(self, process: ProcessRef) -> int | None:
        return self.children[process].wait(10)

    def preloaded_pid(self) -> int | None:
        return None

    def end_strays(self) -> list[int]:
        return []


class NoCredentials:
    config_dir = Path()

    def resolve_password(self, config: AccountConfig) -> SecretStr | None:
        return config.password

    def resolve_values(self, config: AccountConfig) -> Resolved:
        return Resolved(environment=config.environment, options=config.options, secrets=())


class CountedLeases(LocalLeases):
    def __init__(self) -> None:
        super().__init__("h")
        self.given_up = 0

    def release(self, lease: LeaseGrant) -> None:
        self.given_up += 1
        super().release(lease)


class Sink:
    """Stores every record in the order in which it would reach Redis."""

    def __init__(self) -> None:
        self.records: list[WorkerInfo] = []

    def publish(
        self, info: WorkerInfo, beat: Mapping[str, Any] | None = None, *, wait_seconds: float = 0.0
    ) -> bool:
        del beat, wait_seconds
        self.records.append(info)
        return True

    def publish_health(self, info: WorkerInfo, change: HealthChange) -> None:
        del info, change

    def publish_mode(self, info: WorkerInfo, change: ModeChange) -> None:
        del info, change

    def publish_remark(self, info: WorkerInfo, change: Remark) -> None:
        del info, change

    def flush(self, seconds: float) -> bool:
        del seconds
        return True

    @property
    def states(self) -> list[str]:
        return [str(info.status) for info in self.records]


class Gate(threading.Event):
    """An event that holds its waiters until the gate is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.opened = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.reached.set()
        assert self.opened.wait(20)
        return super().wait(timeout)


class Bench:
    def __init__(self, directory: Path) -> None:
        self.paths = StatePaths(directory / "state")
        self.paths.create()
        self.launcher, self.leases, self.sink = IdleLauncher(), CountedLeases(), Sink()
        self.records = RecordFiles(self.paths.workers_dir)
        self.lost: Callable[[WorkerInfo, str], Callable[[], None] | None] = lambda _info, _reason: None
        self.pool = self.new_pool()
        self.threads = ThreadPoolExecutor(4)
        self.config = config(account_id="a", execution=ExecutionConfig(stop_timeout_seconds=5))

    def new_pool(self) -> WorkerPoolManager:
        self.watch = ProcessWatch()
        self.pool = WorkerPoolManager(
            Starter(
                self.launcher,
                self.records,
                NoCredentials(),
                WorkerEnvironment(
                    host="h",
                    paths=self.paths,
                    redis_url=None,
                    venue_address=lambda: None,
                    heartbeat_interval_seconds=1.0,
                    log_level="INFO",
                    log_json=False,
                ),
            ),
            self.records,
            sink=self.sink,
            leases=self.leases,
            on_unexpected_exit=self._on_lost,
            watch=self.watch,
            limits=PoolLimits(kill_seconds=0.5),
        )
        return self.pool

    def _on_lost(self, info: WorkerInfo, reason: str) -> Callable[[], None] | None:
        return self.lost(info, reason)

    def watching_continues(self) -> None:
        """Wait until the watching thread has passed on all earlier exits."""
        self.launcher.launch().close()
        process = next(reversed(self.launcher.children))
        noticed = threading.Event()
        self.watch.watch(process, lambda _process: noticed.set())
        process.kill()
        assert noticed.wait(10), "the watching thread has ended"

    def start(self) -> ProcessRef:
        self.pool.start_worker(self.start_request())
        return next(reversed(self.launcher.children))

    def start_request(self) -> StartRequest:
        return StartRequest("a", True, True, lambda: self.config)

    def stop(self) -> "Future[bool]":
        return self.threads.submit(self.pool.stop_worker, "a")

    @property
    def slot(self) -> Slot:
        return self.pool.slots.get("a")

    def status(self) -> str:
        return str(self.slot.status)

    def close(self) -> None:
        for child in self.launcher.children.values():
            child.kill()
            child.communicate()
        self.threads.shutdown()
        self.pool.close()


@pytest.fixture
def bench(short_dir: Path) -> Iterator[Bench]:
    found = Bench(short_dir)
    yield found
    found.close()


class Death:
    """An exit handler, held while it asks whether to recover the worker."""

    def __init__(self, bench: Bench, *, recovers: bool) -> None:
        self.noticed, self.resume = threading.Event(), threading.Event()
        self.recoveries = 0
        self._recovers = recovers
        bench.lost = self._lost

    def _lost(self, info: WorkerInfo, reason: str) -> Callable[[], None] | None:
        del info, reason
        self.noticed.set()
        assert self.resume.wait(20)
        return self._recover if self._recovers else None

    def _recover(self) -> None:
        self.recoveries += 1


@pytest.mark.parametrize("recovers", [True, False])
def test_a_stop_during_exit_handling_stops_the_account(bench: Bench, recovers: bool) -> None:
    death = Death(bench, recovers=recovers)
    bench.start().kill()
    assert death.noticed.wait(10)
    assert bench.stop().result(10) is True
    death.resume.set()
    bench.watching_continues()
    assert bench.pool.start_worker(bench.start_request()).status == "running"
    next(reversed(bench.launcher.children)).kill()
    eventually(lambda: bench.status() in ("failed", "restarting"), what="the next exit is handled too")
    assert death.recoveries == int(recovers), "the second exit is recovered, not the first"
    assert bench.sink.states[:5] == ["starting", "running", "stopping", "stopped", "starting"]


def test_an_exit_that_is_recorded_after_a_stop_began_stays_stopped(bench: Bench) -> None:
    """The stop has moved to `stopping` and waits.

    The exit handler finishes meanwhile.
    """
    death = Death(bench, recovers=False)
    process = bench.start()
    gate = bench.slot.exited = Gate()
    process.kill()
    assert death.noticed.wait(10)
    stop = bench.stop()
    assert gate.reached.wait(10)
    death.resume.set()
    bench.watching_continues()
    gate.opened.set()
    assert stop.result(10) is True
    assert bench.status() == "stopped"
    assert bench.sink.states == ["starting", "running", "stopping", "stopped"]
    assert bench.leases.given_up == 1


def test_a_restart_during_exit_handling_keeps_its_new_worker(bench: Bench) -> None:
    """The old worker's exit must not remove what the new worker has."""
    death = Death(bench, recovers=False)
    first = bench.start()
    first.kill()
    assert death.noticed.wait(10)
    restart = bench.threads.submit(bench.pool.restart_worker, bench.start_request())
    assert restart.result(10).status == "running"
    second = next(reversed(bench.launcher.children))
    death.resume.set()
    bench.watching_continues()
    assert bench.leases.given_up == 1
    assert second != first
    assert bench.status() == "running"
    (record,) = bench.records.load_all()
    assert record.process == second
    assert bench.slot.lease is not None
    assert bench.stop().result(10) is True
    assert not second.alive()


def test_a_stop_just_after_an_exit_records_the_account_as_stopped(bench: Bench) -> None:
    bench.start().kill()
    eventually(lambda: bench.status() == "failed")
    why = bench.slot.info
    assert why is not None
    assert bench.stop().result(10) is True
    assert bench.status() == "stopped"
    info = bench.slot.info
    assert info is not None
    assert info.error == why.error, "the reason of the exit stays in the record"
    with pytest.raises(NoWorkerError):
        bench.pool.stop_worker("a")


@pytest.mark.parametrize("give_up", [False, True])
def test_a_stop_cancels_a_pending_recovery(bench: Bench, give_up: bool) -> None:
    bench.lost = lambda _info, _reason: lambda: None
    bench.start().kill()
    eventually(lambda: bench.status() == "restarting")
    if give_up:
        bench.pool.abandon("a", "given up")
        assert bench.status() == "failed"
    assert bench.stop().result(10) is True
    assert bench.status() == "stopped"
    assert bench.leases.given_up == 1


def test_a_recovery_that_finds_a_stop_desired_records_it_as_stopped(bench: Bench) -> None:
    bench.lost = lambda _info, _reason: lambda: None
    bench.start().kill()
    eventually(lambda: bench.status() == "restarting")
    bench.pool.abandon("a", "its desired state is stopped", stopped=True)
    assert bench.status() == "stopped"
    assert bench.leases.given_up == 1
    assert bench.pool.start_worker(bench.start_request()).status == "running"
    bench.pool.abandon("a", "its desired state is stopped", stopped=True)
    assert bench.status() == "running", "a worker that runs by now is not stopped"


def test_a_stop_of_a_start_that_just_failed_stops_the_account(bench: Bench) -> None:
    bench.launcher.word = b'{"event": "failed", "code": "connect_timeout", "message": "late"}\n'
    gate = threading.Event()
    prepare = bench.start_request().prepare

    def prepared() -> AccountConfig:
        assert gate.wait(10)
        return prepare()

    start = bench.threads.submit(bench.pool.recover_worker, StartRequest("a", True, True, prepared))
    eventually(lambda: bench.pool.slots.find("a") is not None and bench.slot.starting)
    stop = bench.stop()
    eventually(bench.slot.cancelled.is_set)
    bench.slot.cancelled.clear()  # the start has already passed its check
    gate.set()
    (child,) = eventually(lambda: list(bench.launcher.children))
    child.kill()
    with pytest.raises(StartFailedError):
        start.result(20)
    assert stop.result(20) is True
    assert bench.status() == "stopped"
    assert bench.slot.lease is None


@pytest.mark.parametrize("desired", ["stopped", "running"])
def test_a_worker_that_ended_without_an_agent_gets_its_desired_state(bench: Bench, desired: str) -> None:
    process = bench.start()
    (record,) = bench.records.load_all()
    bench.pool.close()  # like a killed agent: it handles no later exit
    process.kill()
    bench.launcher.children[process].wait(10)
    next_pool = bench.new_pool()
    bench.records.save(record)
    (info,) = next_pool.adopt(lambda account_id: account_id == "a" and desired == "stopped")
    assert info.worker_id == record.worker_id
    if desired == "stopped":
        assert (info.status, info.error) == ("stopped", None)
    else:
        assert info.status == "failed"
        assert "exit code unknown" in str(info.error)
    assert str(bench.sink.records[-1].status) == info.status
    assert bench.records.load_all() == []


@pytest.mark.parametrize("again", ["stop", "death"])
def test_an_end_after_a_failed_stop_is_recorded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    process = bench.start()
    bench.config = bench.config.model_copy(update={"execution": ExecutionConfig(stop_timeout_seconds=0.1)})
    with monkeypatch.context() as held:
        held.setattr(ProcessRef, "signal", lambda _self, _number: False)
        with pytest.raises(StopFailedError):
            bench.pool.stop_worker("a", timeout=0.0)
    assert bench.status() == "stopping"
    assert bench.leases.given_up == 0
    with pytest.raises(StartFailedError, match="could not be ended and may still trade"):
        bench.start()
    assert bench.status() == "stopping", "no second worker was started"
    if again == "stop":
        assert bench.stop().result(20) is True
    else:
        process.kill()
    eventually(lambda: bench.status() == "stopped", what="its end is recorded without a waiting command")
    eventually(lambda: bench.leases.given_up == 1)
    assert bench.records.load_all() == []


def test_an_end_while_the_stop_fails_completes_the_stop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.start()

    def too_late(slot: Slot, *_limits: object) -> StopOutcome:
        assert slot.record is not None
        slot.record.process.kill()
        assert slot.exited.wait(10)
        raise StopFailedError("it is still there")

    monkeypatch.setattr("manager.host.workers.stop_flow.stop_process", too_late)
    assert bench.stop().result(10) is True
    assert bench.status() == "stopped"


def test_a_stop_after_the_pool_killed_a_hung_worker_records_why(bench: Bench) -> None:
    death = Death(bench, recovers=False)
    bench.start()
    assert bench.slot.record is not None
    heartbeat = HeartbeatWriter(bench.slot.record.beat_file)
    heartbeat.begin_call("orders", time.monotonic() - 60)
    assert bench.pool.end_hung_workers() == ["a"]
    assert death.noticed.wait(10)
    assert bench.stop().result(10) is True
    death.resume.set()
    assert bench.slot.info is not None
    assert str(bench.slot.info.error).startswith("it hung: the call orders was 6")
