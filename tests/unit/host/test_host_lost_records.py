"""Workers whose record is lost, with real processes, a real venue and a real Redis."""

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.reconciled_host import ReconciledHost
from support.servers import RedisServer
from support.venue import VenueProcess
from support.waiting import eventually

from manager import WorkerManagerService
from manager.config import ConfigurationService
from manager.errors import NoWorkerError, SessionHeldError, StopFailedError
from manager.fleet import FleetStore
from manager.fleet.leases import LeaseStore
from manager.fleet.run_types import Run
from manager.gateways.paper.client import VenueAdmin
from manager.host import WorkerPoolManager, build_pool
from manager.host.reporting.publisher import Publisher
from manager.host.workers.fleet_leases import FleetLeases
from manager.host.workers.held_files import HeldFiles
from manager.host.workers.runs import RunRecorder
from manager.host.workers.unrecorded import UnrecordedWorkers
from manager.models import WorkerInfo
from manager.settings import Settings
from manager.system.processes import ProcessRef
from manager.system.state_dir import StatePaths

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="open files are found under /proc")

SIGSTOP: int = getattr(signal, "SIGSTOP", signal.SIGTERM)


class Host:
    """A host of a fleet; `new_pool` does what a new agent does."""

    def __init__(self, directory: Path, server: RedisServer) -> None:
        self.server = server
        self.paths = StatePaths(directory / "state")
        self.venue = VenueProcess(directory)
        self.settings = Settings(
            config_dir=directory / "config",
            state_dir=self.paths.root,
            host="h",
            venue_url=self.venue.address,
            heartbeat_interval_seconds=0.1,
            stale_after_seconds=1.0,
            lease_seconds=15.0,
        )
        self.config_service = ConfigurationService(self.settings.config_dir)
        self.config_service.accounts_dir.mkdir(parents=True)
        self.account()
        self.store = FleetStore(server.url, stale_after_seconds=1.0)
        self.lease_store = LeaseStore(server.url)
        self.lease_store.trust()
        self.processes: list[ProcessRef] = []
        self.runs: list[Run] = []
        self.publisher: Publisher
        self.pool = self.new_agent()

    def account(self, **changes: Any) -> None:
        data: dict[str, Any] = {
            "gateway": "paper",
            "login": 1,
            "server": "Paper-1",
            "password": "hunter2-hunter2",
            "currencies": [{"symbol": "EURUSD"}],
            "execution": {"interval_seconds": 0.1, "stop_timeout_seconds": 3},
            **changes,
        }
        (self.config_service.accounts_dir / "a.yaml").write_text(json.dumps(data))

    def new_agent(self) -> WorkerPoolManager:
        """Return the pool of a new agent, after its adoption."""
        self.paths.create()
        held = HeldFiles(self.paths.run_dir, self.paths.home)
        unrecorded = UnrecordedWorkers(self.store, self.lease_store, held, "h", 1.0)
        leases = FleetLeases(self.lease_store, "h", 15.0, 0.1, self.paths.home, unrecorded.holds)
        self.publisher = Publisher(self.store, "h", dict)
        self.pool = build_pool(
            self.settings,
            self.config_service,
            redis_url=self.server.url,
            sink=self.publisher,
            leases=leases,
            unrecorded=unrecorded,
            runs=RunRecorder(self, "h"),
        )
        self.service = WorkerManagerService(self.config_service, self.pool)
        self.pool.adopt()
        self.publisher.start()
        return self.pool

    def note(self, run: Run) -> None:
        self.runs.append(run)

    def end_agent(self) -> None:
        self.pool.close()
        self.publisher.close()

    def start(self) -> ProcessRef:
        info = self.service.start_worker_from_config("a")
        found = ProcessRef.of(info.metadata["pid"])
        assert found is not None
        self.processes.append(found)
        return found

    def info(self) -> WorkerInfo:
        info = self.pool.get_worker_info("a")
        assert info is not None
        return info

    def sessions(self) -> int:
        with VenueAdmin(self.venue.address) as admin:
            stats = admin.stats()
        assert stats["overlaps"] == 0
        return int(stats["sessions"])

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        self.end_agent()
        self.venue.close()
        self.store.close()


@pytest.fixture
def host(short_dir: Path, redis_server: RedisServer) -> Iterator[Host]:
    found = Host(short_dir, redis_server)
    yield found
    found.close()


def empty(paths: StatePaths) -> None:
    (paths.workers_dir / "a.json").write_text("")


def garbage(paths: StatePaths) -> None:
    (paths.workers_dir / "a.json").write_bytes(os.urandom(300))


def removed(paths: StatePaths) -> None:
    (paths.workers_dir / "a.json").unlink()


def no_workers_dir(paths: StatePaths) -> None:
    shutil.rmtree(paths.workers_dir)


def _remove(directory: Path) -> None:
    """Remove a directory, although the running worker may create its files there again meanwhile."""

    def gone() -> bool:
        with contextlib.suppress(OSError):
            shutil.rmtree(directory)
            return True
        return False

    eventually(gone, what=f"{directory} is removed")


def no_run_dir(paths: StatePaths) -> None:
    _remove(paths.run_dir)


def no_record_and_no_run_dir(paths: StatePaths) -> None:
    removed(paths)
    no_run_dir(paths)


def no_state_dir(paths: StatePaths) -> None:
    _remove(paths.root)


LOSSES = [empty, garbage, removed, no_workers_dir, no_run_dir, no_record_and_no_run_dir, no_state_dir]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_worker_whose_files_are_lost_is_adopted_and_stopped(
    host: Host, lose: Callable[[StatePaths], None]
) -> None:
    """Prevents that the account is shown as failed while it trades."""
    process = host.start()
    worker_id = host.info().worker_id
    host.end_agent()
    lose(host.paths)

    host.new_agent()

    assert process.alive(), "trading outlives management"
    info = host.info()
    assert (info.status, info.worker_id) == ("running", worker_id)
    assert host.service.start_worker_from_config("a").metadata["already_running"] is True
    assert host.service.stop_worker("a") is True
    assert not process.alive()
    assert host.sessions() == 0
    assert host.info().status == "stopped"
    assert host.lease_store.holders() == [], "its lease was released"
    assert list(host.paths.workers_dir.iterdir()) == []


def test_a_lost_record_is_restored_without_redis(host: Host) -> None:
    process = host.start()
    host.end_agent()
    _remove(host.paths.root)
    host.server.stop()

    host.new_agent()

    assert host.info().status == "running"
    assert (host.paths.workers_dir / "a.json").exists()
    assert host.service.stop_worker("a") is True
    assert not process.alive()


def test_an_old_record_from_a_backup_does_not_hide_the_running_worker(host: Host) -> None:
    host.start()
    old = (host.paths.workers_dir / "a.json").read_text()
    host.service.stop_worker("a")
    process = host.start()
    host.end_agent()
    (host.paths.workers_dir / "a.json").write_text(old)

    host.new_agent()

    assert host.info().metadata["pid"] == process.pid
    assert host.info().status == "running"


def test_a_suspended_worker_without_a_record_keeps_its_lease(host: Host) -> None:
    """Prevents that its lease, which nothing renews, counts as abandoned."""
    process = host.start()
    host.end_agent()
    no_workers_dir(host.paths)
    process.signal(SIGSTOP)
    host.new_agent()

    assert host.service.start_worker_from_config("a").metadata["already_running"] is True
    assert host.service.stop_worker("a", timeout=0.2) is True
    assert not process.alive()
    assert host.sessions() == 0


@pytest.fixture
def unseen(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessRef]:
    """A worker whose files are not visible.

    Another version, or a system without `/proc`.
    """
    process = host.start()
    host.end_agent()
    no_record_and_no_run_dir(host.paths)
    monkeypatch.setattr("manager.host.workers.held_files._search", lambda _directory: iter(()))
    yield process


def test_an_unrecorded_worker_is_unknown_rejects_a_start_and_can_be_stopped(
    host: Host, unseen: ProcessRef
) -> None:
    host.new_agent()
    eventually(host.pool.detect_unrecorded)

    assert host.info().status == "unknown"
    assert "this host's record of worker" in str(host.info().error)
    assert host.pool.queries.live_accounts() == ["a"], "a stop that was missed is executed later"
    assert host.pool.queries.occupied("a"), "a drain does not reassign the account"
    host.pool.abandon("a", "a session that somebody still has")
    assert host.info().status == "unknown", "a rejected recovery does not make it failed"
    with pytest.raises(SessionHeldError, match="lives on host h"):
        host.service.start_worker_from_config("a")
    reported: Any = eventually(lambda: host.store.recorded("h", "a"))
    eventually(lambda: getattr(host.store.get_worker("a"), "status", "") == "unknown")
    assert reported.account_id == "a"

    worker_id = host.info().worker_id
    assert host.service.stop_worker("a") is True
    assert not unseen.alive()
    assert host.info().status == "stopped"
    assert host.sessions() == 0
    (run,) = host.runs
    assert (run.worker_id, run.status, run.observed) == (worker_id, "stopped", True)
    host.processes.append(unseen)
    assert host.start().alive(), "its lease was released"


def test_an_unrecorded_worker_that_ends_by_itself_is_in_the_history(host: Host, unseen: ProcessRef) -> None:
    host.new_agent()
    eventually(host.pool.detect_unrecorded)
    worker_id = host.info().worker_id
    unseen.kill()
    eventually(lambda: not host.pool.detect_unrecorded())
    (run,) = host.runs
    assert (run.worker_id, run.status, run.observed) == (worker_id, "failed", False)
    assert run.reason == "it ended while this host had no record of it"


def test_records_in_redis_are_corrected_once_redis_is_back(redis_server: RedisServer, tmp_path: Path) -> None:
    answers = [False, False, True]
    kept = ReconciledHost(tmp_path, redis_server.url, "h", settle=lambda: answers.pop(0))
    kept.reconcile(4)
    assert answers == [], "called until nothing is left, and not again"
    kept.close()


def test_a_stop_finds_it_without_an_earlier_search(host: Host, unseen: ProcessRef) -> None:
    host.new_agent()
    assert host.service.stop_worker("a") is True
    assert not unseen.alive()
    with pytest.raises(NoWorkerError):
        host.service.stop_worker("a")


def test_a_stop_fails_if_the_lease_is_renewed_without_a_visible_process(
    host: Host, unseen: ProcessRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like a worker in another container.

    Never "stopped", never "nothing to stop".
    """
    monkeypatch.setattr("manager.host.workers.unrecorded._worker_process", lambda *_: None)
    host.new_agent()
    with pytest.raises(StopFailedError, match="still renews its lease"):
        host.service.stop_worker("a")
    assert unseen.alive()
    assert host.info().status == "unknown"

    unseen.kill()
    assert unseen.wait(5)
    eventually(lambda: not host.pool.detect_unrecorded(), what="its heartbeat is stale")
    assert host.info().status == "failed"


def test_a_suspended_unrecorded_worker_keeps_its_lease(host: Host, unseen: ProcessRef) -> None:
    unseen.signal(SIGSTOP)
    with host.server.client() as client:
        for key in client.keys("manager:lease:*"):
            client.hset(key, "renewed", 1)
    host.new_agent()
    with pytest.raises(SessionHeldError):
        host.service.start_worker_from_config("a")
    assert unseen.alive()


def test_a_forged_heartbeat_kills_no_other_process(host: Host) -> None:
    me = ProcessRef.me()
    beat = {"worker_id": "w-forged", "epoch": 1, **me.to_dict()}
    host.store.record("h", [], {"a": beat})
    with pytest.raises(StopFailedError, match="does not find its process"):
        host.service.stop_worker("a")
    assert me.alive()


def test_a_worker_whose_guardian_dies_disconnects_and_reports_why(host: Host) -> None:
    """Prevents that a suspended worker resumes beside its successor."""
    host.account(failover="auto")
    process = host.start()
    (guardian,) = psutil.Process(process.pid).children()
    guardian.kill()
    assert process.wait(5)
    eventually(lambda: host.info().status == "failed")
    error = str(host.info().error)
    assert error.startswith("it lost its lease: its guardian process ended (exit code -9)")
    assert host.sessions() == 0
