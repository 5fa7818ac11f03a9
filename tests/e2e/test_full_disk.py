"""A full disk: supervision continues, no stop is lost, no second session starts, and the machine recovers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.test_up import Up
from support.fleet import SIGKILL
from support.small_disk import SmallDisk, rejection, small_disk
from support.waiting import eventually

from manager.gateways.paper.client import VenueAdmin
from manager.system.file_lock import FileLock
from manager.system.processes import ProcessRef

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.skipif(rejection() is not None, reason=rejection() or ""),
]

A, B, C = "account-001", "account-002", "account-003"


@pytest.fixture
def disk(short_dir: Path) -> Iterator[SmallDisk]:
    with small_disk(short_dir / "s", megabytes=24) as found:
        yield found


@pytest.fixture
def up(disk: SmallDisk, short_dir: Path) -> Iterator[Up]:
    del disk
    found = Up(short_dir)
    yield found
    found.close()


def test_up_survives_a_full_disk(up: Up, disk: SmallDisk) -> None:
    up.start("--demo", "--no-flower")
    up.wait_for("6 running, 1 disabled, 1 not started")
    first, second, third = up.worker(A), up.worker(B), up.worker(C)

    disk.fill()

    up.wait_for(rf"error: the disk of {disk.root} is full: free some space there")
    # A stop on this machine, whose agent ends before it can report the stop to Redis.
    stopped = up.run("stop", A, "--local")
    assert (stopped.returncode, stopped.stderr) == (0, ""), stopped
    assert not first.alive()
    agent = up.component("agent")
    agent.signal(SIGKILL)
    up.wait_for("agent ended with code -9.*restarting it")
    eventually(lambda: _agent(up) not in {None, agent}, within=30, what="another agent holds the lock")
    # A worker that dies meanwhile is restarted once there is room; its restarts are not used up.
    third.kill()
    result = up.run("start", C)
    assert result.returncode == 1
    # Depending on the full disk, either Redis refuses the command or the restarted agent does not answer.
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.stderr
    doctor = up.run("doctor").stdout
    assert f"the disk of {disk.root} is full" in doctor
    assert second.alive()
    with VenueAdmin(f"unix:{up.paths.venue_socket}") as admin:
        assert admin.stats()["overlaps"] == 0
        assert admin.stats()["sessions"] == 4

    disk.free()

    up.wait_for("is writable again")
    eventually(lambda: _status(up, C) == "running", within=40, what="it runs again")
    assert _status(up, A) == "stopped", "the stop outlived the agent that took it"
    assert second.alive()
    assert up.run("start", A).returncode == 0
    with VenueAdmin(f"unix:{up.paths.venue_socket}") as admin:
        assert admin.stats()["overlaps"] == 0
    assert "Traceback" not in up.text


def _agent(up: Up) -> ProcessRef | None:
    """Return the process that holds the agent lock of this state directory."""
    pid = FileLock(up.paths.agent_lock).holder()
    return None if pid is None else ProcessRef.of(pid)


def _status(up: Up, account_id: str) -> object:
    done = up.run("ps", "--json")
    entries = json.loads(done.stdout) if done.returncode == 0 else []
    return next((entry["status"] for entry in entries if entry["account_id"] == account_id), None)
