"""A host whose disk is full or read-only forgets no command, and errors name cause and remedy."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.pool_host import Host
from support.small_disk import SmallDisk, rejection, small_disk

from manager.errors import DiskRefusesError
from manager.fleet.desired import DesiredState
from manager.host.reconcile.desired_state_file import DesiredStateFile
from manager.host.reconcile.reserve_file import ReserveFile
from manager.local.component import Component
from manager.local.offline import stop_here
from manager.local.resilient_output import ResilientOutput
from manager.settings import Settings
from manager.system.file_lock import FileLock
from manager.system.state_dir import StatePaths
from manager.system.storage import write_problem

RUNS = DesiredState(account_id="a", state="running", generation=5, host="h")
STOPPED = replace(RUNS, state="stopped", generation=6, why="stop")

needs_a_disk = pytest.mark.skipif(rejection() is not None, reason=rejection() or "")


@pytest.fixture
def disk(short_dir: Path) -> Iterator[SmallDisk]:
    with small_disk(short_dir / "disk") as found:
        yield found


@needs_a_disk
def test_a_stop_is_saved_on_a_full_disk(disk: SmallDisk) -> None:
    path = disk.root / "desired.json"
    memory = DesiredStateFile(path)
    assert memory.save([RUNS], {}) is None
    disk.fill()
    trouble = memory.save([STOPPED], {})
    assert trouble is not None
    assert f"the disk of {path} is full: free some space there" in trouble
    assert "saved in reserved space" in trouble
    assert memory.safe
    assert DesiredStateFile(path).load() == ({"a": STOPPED}, {})
    later = replace(STOPPED, generation=7)
    memory.save([later], {"b": "other"})
    memory.save([later], {})
    assert DesiredStateFile(path).load() == ({"a": later}, {})

    disk.free()
    again = replace(RUNS, generation=8)
    assert memory.save([again], {}) is None
    assert DesiredStateFile(path).load() == ({"a": again}, {})
    path.unlink()
    assert DesiredStateFile(path).load() == ({}, {}), "the reserve is empty once the file is written"


@needs_a_disk
def test_state_that_cannot_be_written_does_not_count_as_saved(disk: SmallDisk) -> None:
    path = disk.root / "desired.json"
    memory = DesiredStateFile(path)
    memory.save([RUNS], {})
    disk.read_only()
    trouble = memory.save([STOPPED], {})
    assert trouble is not None
    assert f"{path} is on a read-only disk" in trouble
    assert "may forget commands" in trouble
    assert not memory.safe
    disk.writable()
    assert memory.save([STOPPED], {}) is None
    assert memory.safe


def test_a_partial_write_keeps_the_previous_text(tmp_path: Path) -> None:
    path = tmp_path / "reserve"
    reserve = ReserveFile(path)
    with pytest.raises(OSError):
        reserve.write("x")  # no space was reserved
    reserve.reserve(10)
    reserve.write("first")
    reserve.write("second")
    reserve.write("third")
    data = bytearray(path.read_bytes())
    data[data.index(b"third")] ^= 1
    path.write_bytes(data)
    assert ReserveFile(path).read() == "second"
    with pytest.raises(OSError, match="no room"):
        reserve.write("x" * len(data))
    path.write_bytes(b"junk")
    assert ReserveFile(path).read() is None


@needs_a_disk
def test_an_agent_can_lock_on_a_full_or_read_only_disk(disk: SmallDisk) -> None:
    path = disk.root / "agent.lock"
    disk.fill()
    path.touch()
    lock, other = FileLock(path), FileLock(path)
    assert lock.acquire()
    assert not other.acquire()
    lock.release()
    disk.free()
    assert other.acquire()
    assert other.holder() == os.getpid()
    other.release()
    disk.read_only()
    assert lock.acquire()
    assert not other.acquire()
    lock.release()
    with pytest.raises(OSError, match="Read-only"):
        FileLock(disk.root / "new.lock").acquire()


@needs_a_disk
def test_what_keeps_a_directory_from_being_written_is_named(disk: SmallDisk) -> None:
    assert write_problem(disk.root) is None
    disk.fill()
    assert f"the disk of {disk.root} is full" in str(write_problem(disk.root))
    disk.free()
    disk.read_only()
    assert f"{disk.root} is on a read-only disk" in str(write_problem(disk.root))
    disk.writable()
    assert list(disk.root.iterdir()) == []
    assert "cannot be written (No such file" in str(write_problem(disk.root / "none"))


@needs_a_disk
def test_a_component_starts_on_a_full_disk_and_is_recorded_later(disk: SmallDisk) -> None:
    paths = StatePaths(disk.root)
    paths.create()
    disk.fill()
    argv = [sys.executable, "-c", "import time; time.sleep(600)"]
    component = Component("thing", argv, {"PATH": ""}, paths)
    component.start()
    try:
        assert component.alive
        assert not Component("thing", argv, {}, paths).adopt()
        disk.free()
        component.record()
        assert Component("thing", argv, {}, paths).adopt()
    finally:
        assert component.stop(0)


@needs_a_disk
def test_a_stop_without_redis_agent_and_room_is_saved_for_the_next_agent(disk: SmallDisk) -> None:
    paths = StatePaths(disk.root)
    paths.create()
    settings = Settings(state_dir=disk.root, config_dir=disk.root, host="h")
    DesiredStateFile(paths.root / "desired.json").save([RUNS], {})
    disk.fill()
    (stopped,) = stop_here(settings, ["a"], None)
    assert stopped.outcome == "already", stopped
    known, _ = DesiredStateFile(paths.root / "desired.json").load()
    assert (known["a"].state, known["a"].why) == ("stopped", "stop")
    assert known["a"].generation > RUNS.generation

    disk.free()
    DesiredStateFile(paths.root / "desired.json").save([RUNS], {})
    disk.read_only()
    (stopped,) = stop_here(settings, ["a"], None)
    assert stopped.outcome == "failed"
    assert "is on a read-only disk" in stopped.text
    assert "The next host agent will start the account" in stopped.text


@needs_a_disk
def test_no_worker_starts_on_a_full_disk_and_a_running_one_continues(short_dir: Path) -> None:
    with small_disk(short_dir / "state") as disk:
        host = Host(short_dir)
        try:
            host.account("a", 1)
            host.account("b", 2)
            running = host.process(host.start("a"))
            disk.fill()
            with pytest.raises(DiskRefusesError, match=r"b: the disk of .* is full: free some space there"):
                host.start("b")
            assert running.alive()
            assert host.sessions() == 1
            assert host.pool.stop_worker("a")
            assert not running.alive()
            disk.free()
            host.start("b")
        finally:
            host.close()


@needs_a_disk
def test_a_worker_that_finds_the_disk_full_itself_reports_it(short_dir: Path) -> None:
    with small_disk(short_dir / "state") as disk:
        host = Host(short_dir)
        try:
            host.account("a", 1)
            disk.fill()
            # Room for the agent's record of the worker, and not for the worker's own files.
            filler = disk.root / "filler"
            os.truncate(filler, filler.stat().st_size - 4096)
            with pytest.raises(DiskRefusesError, match=r"a: the disk of .* is full: free some space there"):
                host.start("a")
            assert host.sessions() == 0
        finally:
            host.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
def test_output_that_nothing_takes_is_dropped(tmp_path: Path) -> None:
    target = Path("/dev/full").open("w")  # noqa: SIM115 - closing it fails
    output = ResilientOutput(target, tmp_path / "up.log")
    for _ in range(3):
        output.write("x" * 10_000)
        output.flush()
    assert output.isatty() is False
    assert not (tmp_path / "up.log").exists(), "a full disk, unlike a closed terminal, gets space again"
    with contextlib.suppress(OSError):
        target.close()


@needs_a_disk
@pytest.mark.long
def test_commands_on_a_disk_that_takes_nothing_give_one_line(disk: SmallDisk) -> None:
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(disk.root),
        "MANAGER_STATE_DIR": str(disk.root / "s"),
        "MANAGER_CONFIG_DIR": str(disk.root / "c"),
    }

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "manager.cli", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    disk.read_only()
    for command in (("up", "--demo"), ("init",), ("host",)):
        done = run(*command)
        assert done.returncode != 0, command
        assert "read-only" in done.stderr.lower(), (command, done.stderr)
        assert str(disk.root) in done.stderr
        assert "Traceback" not in done.stderr + done.stdout
        assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1, (
            done.stderr
        )
