"""The pool with real workers, forked and spawned, and a real venue, but without Redis and Celery."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.pool_host import Host, children_of
from support.waiting import eventually

from manager.errors import (
    AuthenticationRefusedError,
    ConnectionFailedError,
    NoWorkerError,
    SessionHeldError,
    StartCancelledError,
    StartTimeoutError,
    StopFailedError,
    WorkerDiedError,
)
from manager.host.workers import starter
from manager.host.workers.limits import PoolLimits
from manager.host.workers.slot import Slot
from manager.models import WorkerMetrics, WorkerPlacement
from manager.system.processes import ProcessRef

SIGSTOP: int = getattr(signal, "SIGSTOP", signal.SIGTERM)


@pytest.fixture
def host(short_dir: Path) -> Iterator[Host]:
    found = Host(short_dir)
    yield found
    found.close()


@pytest.fixture(params=["fork", "spawn"])
def either(request: pytest.FixtureRequest, short_dir: Path) -> Iterator[Host]:
    if request.param == "fork" and sys.platform == "win32":
        pytest.skip("there is no fork on Windows")
    found = Host(short_dir, request.param)
    yield found
    found.close()


def test_start_list_and_stop(either: Host) -> None:
    either.account("a", 1)
    info = either.start()
    assert (info.status, info.account_id) == ("running", "a")
    assert info.started_at is not None
    for key in ("pid", "host", "gateway", "version", "config_version", "health", "balance", "equity"):
        assert info.metadata[key], key
    assert info.metadata["health"] == "healthy"
    known = {*WorkerPlacement.model_fields, *WorkerMetrics.model_fields}
    assert set(info.metadata) <= known, "docs/reference/payloads.md lists every key"
    assert either.sessions() == 1
    assert either.pool.get_account_worker_id("a") == info.worker_id
    assert either.pool.has_worker_for_account("a")
    assert either.pool.health() == {"workers": {"running": 1}, "health": {"healthy": 1}, "ok": True}
    process = either.process(info)
    assert either.service.stop_worker("a") is True
    assert not process.alive()
    assert either.sessions() == 0
    stopped = either.service.get_worker_info("a")
    assert stopped is not None
    assert (stopped.status, stopped.error) == ("stopped", None)
    assert stopped.metadata["exit_code"] == 0
    assert list(either.paths.workers_dir.iterdir()) == []
    assert [path.name for path in either.paths.run_dir.iterdir()] == []


def test_the_password_is_in_no_file_argument_or_environment(either: Host) -> None:
    (either.config_service.config_dir / "secret").write_text("hunter3-hunter3\n")
    either.account("a", 1, password="file:secret")
    pid = either.start().metadata["pid"]
    process = psutil.Process(pid)
    assert "hunter3" not in " ".join(process.cmdline())
    assert "hunter3" not in str(process.environ())
    for path in either.paths.root.rglob("*"):
        if path.is_file():
            assert b"hunter3" not in path.read_bytes(), path
    assert b"hunter3" not in (either.venue.directory / "log").read_bytes()


def test_a_start_of_a_running_worker_starts_no_second_one(host: Host) -> None:
    host.account("a", 1)
    first = host.start()
    again = host.start()
    assert again.worker_id == first.worker_id
    assert again.metadata["already_running"] is True
    assert host.sessions() == 1


def test_twenty_concurrent_starts_of_one_account_are_one_worker(host: Host) -> None:
    host.account("a", 1)
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.append(host.start().worker_id)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 20
    assert len(set(ids)) == 1
    assert host.sessions() == 1


def test_two_accounts_with_one_login_are_one_identity(host: Host) -> None:
    host.account("a", 1)
    host.account("b", 1)
    first = host.service.start_worker_from_config("a", validate=False)
    host.process(first)
    with pytest.raises(
        SessionHeldError,
        match=f"account a already has the session of paper:Paper-1:1: worker {first.worker_id}",
    ):
        host.service.start_worker_from_config("b", validate=False)
    host.service.stop_worker("a")
    host.process(host.service.start_worker_from_config("b", validate=False))
    assert host.sessions() == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGTERM + 0, None), (9, "SIGKILL"), (11, "SIGSEGV"), (6, "SIGABRT")]
)
def test_a_worker_that_dies_is_noticed_at_once(host: Host, number: int, name: str | None) -> None:
    host.account("a", 1)
    process = host.process(host.start())
    process.signal(number)
    eventually(lambda: host.status() in ("failed", "stopped"), within=2)
    info = host.service.get_worker_info("a")
    assert info is not None
    if name is None:
        assert info.status == "stopped"
        assert info.error == "the worker process exited with code 0 (stopped cleanly), without a command"
    else:
        assert info.status == "failed"
        assert info.error is not None
        assert info.error.startswith(f"the worker process was ended by {name}")
        assert info.metadata["exit_code"] == -number
    ((lost, _),) = eventually(lambda: host.lost)
    assert lost.worker_id == info.worker_id
    assert list(host.paths.workers_dir.iterdir()) == []
    assert host.start().status == "running", "a new start after it"


def test_a_lost_venue_fails_the_worker_with_its_exit_reason(host: Host) -> None:
    host.account("a", 1)
    host.start()
    host.fault(1, "connection_lost", count=1)
    eventually(lambda: host.status() == "failed")
    info = host.service.get_worker_info("a")
    assert info is not None
    assert info.error is not None
    assert info.error.startswith("connection_lost: the venue closed the connection during ")
    assert info.metadata["exit_code"] == 72


FAILURES = [
    ("auth_failure", AuthenticationRefusedError, "invalid login or password"),
    ("connect_timeout", ConnectionFailedError, "did not answer login in time"),
    ("connection_lost", ConnectionFailedError, "closed the connection during login"),
    ("crash", WorkerDiedError, "was ended by SIGABRT"),
    ("hang", StartTimeoutError, "no connected session after 1 s"),
]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("kind", "error", "text"), FAILURES)
def test_a_failed_start_reports_why_and_leaves_nothing(
    host: Host, kind: str, error: type[Exception], text: str
) -> None:
    host.pool.close()
    host.new_pool(PoolLimits(start_margin_seconds=0.5))
    host.account("a", 1, timeout=1_000)
    host.fault(1, kind, count=1, on=("login",))
    host.pool.preload()
    before = children_of(os.getpid())
    with pytest.raises(error, match=text):
        host.start()
    assert host.status() == "failed"
    assert list(host.paths.workers_dir.iterdir()) == []
    assert list(host.paths.run_dir.iterdir()) == []
    assert not host.pool.has_worker_for_account("a")
    eventually(lambda: host.sessions() == 0)
    eventually(lambda: children_of(os.getpid()) <= before, what="no process of it is left")
    assert host.start().status == "running", "the failed start left nothing that prevents another"


def preloaded_process() -> psutil.Process:
    """Return the preloaded process of this pool."""
    found = [psutil.Process(pid) for pid in children_of(os.getpid(), recursive=False)]
    (server,) = [process for process in found if "manager.host.forkserver" in process.cmdline()]
    return server


def test_a_stop_cancels_a_hanging_start(host: Host) -> None:
    host.account("a", 1, timeout=60_000)
    host.fault(1, "connect_timeout")
    errors: list[BaseException] = []

    def start() -> None:
        try:
            host.start()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    eventually(lambda: host.status() == "starting")
    assert host.service.stop_worker("a") is True
    thread.join(5)
    assert isinstance(errors[0], StartCancelledError)
    assert host.status() == "stopped"
    assert list(host.paths.workers_dir.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_hung_worker_is_unknown_and_is_killed_at_the_deadline(host: Host) -> None:
    host.account("a", 1, execution={"interval_seconds": 0.1, "stop_timeout_seconds": 1})
    process = host.process(host.start())
    host.fault(1, "hang", count=1)
    eventually(lambda: host.status() == "unknown", what="its heartbeat is stale")
    info = host.service.get_worker_info("a")
    assert info is not None
    assert "it is inside the call" in str(info.error)
    assert not host.service.is_worker_running("a")
    assert host.service.stop_worker("a") is True
    assert not process.alive()
    stopped = host.service.get_worker_info("a")
    assert stopped is not None
    assert stopped.status == "stopped"
    assert "was killed by its host agent" in str(stopped.error), "the record says that the stop was forced"
    assert stopped.metadata["forced"] is True


def test_concurrent_stops_are_one_stop_and_all_succeed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.account("a", 1)
    host.start()
    answers: list[bool] = []
    arrived: list[object] = []
    monkeypatch.setattr(Slot, "notify_start", lambda _slot, event: arrived.append(event))
    threads = [
        threading.Thread(target=lambda: answers.append(host.service.stop_worker("a"))) for _ in range(8)
    ]
    with host.pool.slots.get("a").lock:  # all of them arrive before the first is executed
        for thread in threads:
            thread.start()
        eventually(lambda: len(arrived) == 8)
    for thread in threads:
        thread.join()
    assert answers == [True] * 8
    assert host.sessions() == 0


def test_a_stop_of_nothing_is_a_value_error(host: Host) -> None:
    host.account("a", 1)
    with pytest.raises(NoWorkerError, match="nothing to stop"):
        host.service.stop_worker("a")


def test_one_hanging_start_delays_no_other(host: Host) -> None:
    host.account("slow", 1, timeout=3_000)
    host.account("a", 2)
    host.fault(1, "connect_timeout")
    slow: list[BaseException] = []

    def start_slow() -> None:
        try:
            host.start("slow")
        except ConnectionFailedError as error:
            slow.append(error)

    thread = threading.Thread(target=start_slow)
    thread.start()
    eventually(lambda: host.status("slow") == "starting")
    host.start("a")
    assert host.status("slow") == "starting"
    host.service.stop_worker("a")
    assert host.status("slow") == "starting"
    thread.join()
    assert len(slow) == 1


def test_a_batch_result_contains_every_account(host: Host) -> None:
    for number in range(1, 6):
        host.account(f"a{number}", number)
    host.account("bad", 6, default_risk={"max_positions": -1})
    host.account("off", 7, enabled=False)
    host.fault(3, "auth_failure")
    host.start("a1")
    reported: list[tuple[str, str]] = []
    batch = host.service.start_all(
        progress=lambda account_id, outcome: reported.append((account_id, outcome))
    )
    for info in batch.running.values():
        host.process(info)
    assert (set(batch.done), set(batch.already)) == ({"a2", "a4", "a5"}, {"a1"})
    assert (set(batch.failed), set(batch.skipped)) == ({"a3", "bad"}, {"off"})
    assert sorted(reported) == sorted(
        [
            ("a1", "already"),
            ("a2", "done"),
            ("a3", "failed"),
            ("a4", "done"),
            ("a5", "done"),
            ("bad", "failed"),
            ("off", "skipped"),
        ]
    )
    assert set(host.service.start_all_enabled_workers()) == {"a1", "a2", "a3", "a4", "a5"} - {"a3"}
    assert host.service.stop_all_workers() == 4
    assert host.sessions() == 0


def test_a_new_pool_adopts_running_workers(host: Host) -> None:
    host.account("a", 1)
    host.account("b", 2)
    a, b = host.start("a"), host.start("b")
    host.pool.close()
    host.process(b).kill()
    assert host.seen[b.metadata["pid"]].wait(5)
    adopted = {info.account_id: info for info in host.new_pool().adopt()}
    assert (adopted["a"].status, adopted["a"].worker_id) == ("running", a.worker_id)
    assert (adopted["b"].status, adopted["b"].worker_id) == ("failed", b.worker_id)
    assert adopted["b"].error is not None
    assert "exit code unknown" in adopted["b"].error
    assert host.start("a").worker_id == a.worker_id
    host.seen[a.metadata["pid"]].kill()
    eventually(lambda: host.status("a") == "failed", within=2, what="an adopted worker is watched too")


def test_workers_outlive_the_preloaded_process(host: Host) -> None:
    host.account("a", 1)
    host.account("b", 2)
    process = host.process(host.start("a"))
    server = preloaded_process()
    server.kill()
    server.wait(5)
    assert process.alive()
    assert host.start("b").status == "running", "the pool starts another one on demand"
    assert host.status("a") == "running"


def test_a_restart_keeps_the_account_and_changes_the_worker(host: Host) -> None:
    host.account("a", 1)
    first = host.start()
    host.account("a", 1, currencies=[{"symbol": "GBPUSD"}])
    second = host.service.restart_worker("a")
    host.process(second)
    assert second.worker_id != first.worker_id
    assert second.metadata["config_version"] != first.metadata["config_version"]
    assert not host.seen[first.metadata["pid"]].alive()
    assert host.sessions() == 1


PROGRAM = """\
import subprocess, sys, time
subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
print('ready', flush=True)
while True: time.sleep(60)"""


@pytest.mark.skipif(sys.platform != "linux", reason="a program dies with its worker on Linux")
def test_a_program_and_its_children_die_with_a_killed_worker_before_a_new_one_starts(host: Host) -> None:
    host.account(
        "bot",
        None,
        gateway="command",
        server=None,
        password=None,
        command=[sys.executable, "-u", "-c", PROGRAM],
        ready={"line": "ready"},
    )
    info = host.start("bot")
    family = [ref for pid in children_of(info.metadata["pid"]) if (ref := ProcessRef.of(pid)) is not None]
    assert len(family) == 3, "the guard, the program, and the child of the program"
    host.seen |= {ref.pid: ref for ref in family}
    host.process(info).kill()
    eventually(lambda: host.status("bot") == "failed", within=5)
    assert not [ref for ref in family if ref.alive()]
    host.start("bot")
    assert host.service.stop_worker("bot") is True


def test_a_stop_without_a_proven_end_fails_and_can_be_repeated(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel holds the process.

    The stop fails, the account counts as live, and the next stop ends it.
    """
    host.pool.close()
    host.new_pool(PoolLimits(kill_seconds=0.1))
    host.account("a", 5001)
    info = host.start("a")
    process = host.process(info)
    process.signal(SIGSTOP)  # it handles no request and no SIGTERM
    with monkeypatch.context() as held:
        held.setattr(ProcessRef, "kill", lambda _self: False)
        with pytest.raises(StopFailedError, match="may still trade"):
            host.service.stop_worker("a", timeout=0.1)
    assert host.status("a") == "stopping"
    assert host.pool.has_worker_for_account("a")
    assert host.service.stop_worker("a", timeout=0.1) is True
    assert not process.alive()
    assert host.status("a") == "stopped"


def test_a_start_whose_process_cannot_be_ended_keeps_its_lease(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may resume later, with its session.

    Nothing else may use that login.
    """
    host.account("a", 5001, timeout=1000)
    host.account("twin", 5001)
    host.fault(5001, "slow", count=1, seconds=60)

    def cannot(slot: Slot, seconds: float) -> None:
        del seconds
        raise StopFailedError(f"{slot.account_id}: its process is still there")

    monkeypatch.setattr(starter, "kill_process", cannot)
    host.pool.close()
    host.new_pool(PoolLimits(start_margin_seconds=0.0, exit_seconds=0.1))
    with pytest.raises(StopFailedError):
        host.service.start_worker_from_config("a", validate=False)
    (record,) = host.pool.queries.live_records()
    host.seen[record.process.pid] = record.process
    with pytest.raises(SessionHeldError):
        host.service.start_worker_from_config("twin", validate=False)
    monkeypatch.undo()
    assert host.service.stop_worker("a") is True
    assert host.process(host.service.start_worker_from_config("twin", validate=False)).alive()
