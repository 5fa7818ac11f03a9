"""Deleted parts of the state directory are restored, and errors name what cannot be restored."""

import json
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.pool_host import Host
from support.waiting import eventually

from manager.errors import StartFailedError
from manager.gateways.command.notify import NotifySocket
from manager.host.reconcile.desired_state_file import DesiredStateFile
from manager.host.reporting.upkeep import StateUpkeep
from manager.session.control import ControlServer, ask
from manager.session.heartbeat_file import HeartbeatWriter, read_heartbeat
from manager.system.file_lock import FileLock
from manager.system.masking import Masker
from manager.system.state_dir import StatePaths

if sys.platform == "win32":
    pytest.skip("open files cannot be removed on Windows", allow_module_level=True)
assert sys.platform != "win32", "what follows is not type-checked for other platforms"


@pytest.fixture
def host(short_dir: Path) -> Iterator[Host]:
    found = Host(short_dir)
    yield found
    found.close()


@pytest.mark.parametrize("name", ["logs", "logs/accounts", "run", "workers", "id"])
def test_found_14_a_start_restores_deleted_directories(host: Host, name: str) -> None:
    home = host.paths.home
    host.account("a", 1)
    gone = host.paths.root / name
    gone.unlink() if gone.is_file() else shutil.rmtree(gone)
    info = host.start()
    assert info.status == "running"
    assert host.paths.worker_log("a").exists()
    assert host.paths.home == home
    assert (host.paths.workers_dir / "a.json").exists()
    assert host.pool.stop_worker("a")


@pytest.mark.parametrize("name", ["logs", "run", "workers"])
def test_found_14_an_error_names_the_directory_that_cannot_be_made(host: Host, name: str) -> None:
    host.account("a", 1)
    shutil.rmtree(host.paths.root / name)
    (host.paths.root / name).write_text("a file in its place")
    with pytest.raises(StartFailedError) as failed:
        host.start()
    assert f"({host.paths.root / name})" in str(failed.value)
    assert failed.value.retryable


def test_a_log_that_cannot_be_opened_is_named_by_the_start(host: Host) -> None:
    host.account("a", 1)
    host.paths.worker_log("a").mkdir()
    with pytest.raises(StartFailedError, match=f"{host.paths.worker_log('a')} cannot be written"):
        host.start()


def test_found_14_a_worker_whose_files_are_removed_makes_them_again_and_stops_cleanly(host: Host) -> None:
    host.account("a", 1)
    info = host.start()
    record = next(iter(host.pool.queries.live_records()))
    socket_path = Path(record.control_address)
    shutil.rmtree(host.paths.run_dir)
    eventually(lambda: socket_path.exists() and read_heartbeat(record.beat_file) is not None)
    answer = ask(record.control_address, record.control_token, {"op": "status"})
    assert answer["phase"] == "connected"
    eventually(lambda: host.pool.list_workers()[0].health == "healthy")
    record.beat_file.unlink()
    eventually(lambda: read_heartbeat(record.beat_file) is not None)
    assert host.pool.stop_worker("a")
    stopped = host.pool.get_worker_info("a")
    assert stopped is not None
    assert (stopped.worker_id, stopped.metadata["exit_code"], stopped.error) == (info.worker_id, 0, None)
    assert not list(host.paths.run_dir.iterdir())


def test_a_record_that_is_removed_is_written_again_and_one_that_ended_is_not(host: Host) -> None:
    host.account("a", 1)
    host.start()
    record = host.paths.workers_dir / "a.json"
    shutil.rmtree(record.parent)
    host.pool.restore_records()
    assert json.loads(record.read_text())["account_id"] == "a"
    host.pool.stop_worker("a")
    host.pool.restore_records()
    assert not record.exists()


def test_what_the_guardian_says_is_found_in_the_beat_file_that_was_made_again(tmp_path: Path) -> None:
    path = tmp_path / "run" / "w.beat"
    path.parent.mkdir()
    worker = HeartbeatWriter(path, Masker(()))
    guardian = worker_copy(worker)
    shutil.rmtree(path.parent)
    worker.restore()
    worker.status({"phase": "connected"})
    guardian.catch_up()
    guardian.exit_reason("its lease")
    heartbeat = read_heartbeat(path)
    assert heartbeat is not None
    assert (heartbeat.exit_reason, heartbeat.status) == ("its lease", {"phase": "connected"})
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    assert [found.name for found in path.parent.iterdir()] == ["w.beat"]


def worker_copy(writer: HeartbeatWriter) -> HeartbeatWriter:
    """Return a view as a fork of the worker has it: the same pages, mapped a second time."""
    copy = object.__new__(HeartbeatWriter)
    copy.__dict__.update(writer.__dict__)
    return copy


def test_a_control_socket_comes_back_and_leaves_no_thread_behind(short_dir: Path) -> None:
    address = str(short_dir / "run" / "w.sock")
    Path(address).parent.mkdir()
    server = ControlServer(address, "t", lambda _request: {"ok": True})
    threads = threading.active_count()
    for _ in range(3):
        shutil.rmtree(Path(address).parent)
        assert server.restore()
        assert ask(address, "t", {"op": "x"}) == {"ok": True}
    assert not server.restore(), "nothing was missing"
    eventually(lambda: threading.active_count() <= threads)
    server.close()
    assert not server.restore(), "closed is closed"


def test_a_lock_whose_file_is_deleted_is_taken_again_unless_another_process_has_it(tmp_path: Path) -> None:
    path = tmp_path / "run" / "agent.lock"
    path.parent.mkdir()
    lock, other = FileLock(path), FileLock(path)
    assert lock.acquire()
    path.unlink()
    assert lock.renew()
    assert not other.acquire(), "the file with this name is locked again"
    path.unlink()
    assert other.acquire()
    assert not lock.renew()
    other.release()
    assert lock.renew()
    shutil.rmtree(path.parent)
    assert lock.renew(), "no file can be created now, and no other process has the lock"
    lock.release()


def test_upkeep_logs_a_failure_once_and_reports_a_lost_lock(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = StatePaths(short_dir / "state")
    paths.create()
    lock, other = FileLock(paths.agent_lock), FileLock(paths.agent_lock)
    assert lock.acquire()
    mended: list[str] = []
    lost: list[str] = []
    upkeep = StateUpkeep(paths, lock, [lambda: mended.append("x")], lost.append)
    home_before = paths.home
    shutil.rmtree(paths.root)
    upkeep.check()
    assert paths.home == home_before
    assert (mended, upkeep.trouble) == (["x"], None)
    shutil.rmtree(paths.logs_dir)
    paths.logs_dir.write_text("in the way")
    for _ in range(3):
        upkeep.check()
    assert str(paths.logs_dir) in str(upkeep.trouble)
    assert sum("starts fail until" in record.getMessage() for record in caplog.records) == 1
    paths.logs_dir.unlink()
    upkeep.check()
    assert upkeep.trouble is None
    paths.agent_lock.unlink()
    assert other.acquire()
    upkeep.check()
    assert lost == [], "a command that checks for an agent holds the lock for a moment"
    upkeep.check()
    assert "has locked" in lost[0]
    other.release()
    lock.release()


def test_a_deleted_desired_state_file_is_written_again(tmp_path: Path) -> None:
    memory = DesiredStateFile(tmp_path / "desired.json")
    assert memory.save([], {}) is None
    (tmp_path / "desired.json").unlink()
    assert memory.save([], {}) is None
    assert (tmp_path / "desired.json").exists()


def test_a_notification_socket_comes_back(short_dir: Path) -> None:
    notify = NotifySocket(short_dir / "p", None)
    address = notify.environment()["NOTIFY_SOCKET"]
    shutil.rmtree(short_dir / "p")
    notify.restore()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as program:
        program.sendto(b"READY=1", address)
    eventually(lambda: notify.ready)
    notify.close()
