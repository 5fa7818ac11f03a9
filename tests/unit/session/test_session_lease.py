"""A worker's view of its lease, and the guardian that kills it on expiry."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.fleet import SIGKILL, SIGSTOP
from support.waiting import eventually

from manager.session.heartbeat_file import read_heartbeat
from manager.session.lease import Lease, LeaseLost, last_moment
from manager.system.processes import ProcessRef


class TimedLease(Lease):
    """A lease from second 1000 of a fake clock; it never ends the process."""

    def __init__(
        self, seconds: float, lost: list[str], extend: Callable[[float], None] | None = None
    ) -> None:
        self.now = 1000.0
        self.exits = 0
        super().__init__(
            seconds, 1000.0, lost.append, extend, clock=lambda: self.now, schedule_exit=self._count_exit
        )

    def _count_exit(self) -> None:
        self.exits += 1


def test_one_with_a_time_to_live_is_lost_at_half_of_it() -> None:
    lost: list[str] = []
    extended: list[float] = []
    lease = TimedLease(10.0, lost, extended.append)
    lease.now = 1004.9
    lease.check()
    lease.renewed(1004.0)
    assert extended == [last_moment(1004.0, 10.0)] == [1012.0]
    lease.now = 1008.9
    lease.check()
    lease.now = 1009.1
    with pytest.raises(LeaseLost, match=r"could not be renewed for 5\.1 s"):
        lease.check()
    assert lost == ["it could not be renewed for 5.1 s"]
    # A renewal that arrives later does not bring it back, and the exit is scheduled once.
    lease.renewed(1009.1)
    with pytest.raises(LeaseLost):
        lease.check()
    assert lease.lost
    assert lease.exits == 1


def test_the_reporter_loses_it_at_half_of_its_time_without_a_call() -> None:
    lost: list[str] = []
    lease = TimedLease(10.0, lost)
    lease.tick(1005.0)
    assert lost == []
    lease.tick(1005.1)
    assert lost == ["it could not be renewed for 5.1 s"]
    lease.tick(1100.0)
    assert len(lost) == lease.exits == 1


def test_the_time_counts_from_the_question_and_not_from_the_answer() -> None:
    lease = TimedLease(10.0, [])
    lease.now = 1004.0
    lease.renewed(1001.0)  # the answer took three seconds
    lease.now = 1006.5
    with pytest.raises(LeaseLost):
        lease.check()


def test_one_without_a_time_to_live_outlasts_any_outage_and_is_lost_to_a_holder_alone() -> None:
    lost: list[str] = []
    lease = TimedLease(0.0, lost)
    lease.now = 1_000_000.0
    lease.check()
    lease.lose("worker w-2 on host h2 has it")
    with pytest.raises(LeaseLost, match="w-2"):
        lease.check()
    assert lost == ["worker w-2 on host h2 has it"]


_GUARDED = """
import sys, time
from pathlib import Path
from manager.session.heartbeat_file import HeartbeatWriter
from manager.session.guardian import start_guardian
from manager.session.lease import lease_clock
beat = HeartbeatWriter(Path(sys.argv[1]))
guardian = start_guardian(lease_clock() + 60, beat)
guardian.watch(lambda why: print(why, flush=True))
for n in range(10):
    beat.status({"n": n})
guardian.extend(lease_clock() + float(sys.argv[2]))
print("ready", flush=True)
time.sleep(60)
"""


def guarded(directory: Path, seconds: float) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-c", _GUARDED, str(directory / "beat"), str(seconds)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork on Windows, and no guardian")
def test_a_paused_worker_is_ended_when_its_time_is_over(tmp_path: Path) -> None:
    process = guarded(tmp_path, 0.5)
    process.send_signal(SIGSTOP)
    assert process.wait(timeout=10) == -9
    heartbeat = read_heartbeat(tmp_path / "beat")
    assert heartbeat is not None
    assert "lease could not be renewed" in (heartbeat.exit_reason or "")
    assert heartbeat.status == {"n": 9}, "the guardian wrote over what the worker knew"
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork on Windows, and no guardian")
def test_a_guardian_goes_with_its_worker(tmp_path: Path) -> None:
    import psutil

    process = guarded(tmp_path, 60)
    guardians = [ProcessRef.of(child.pid) for child in psutil.Process(process.pid).children()]
    assert len(guardians) == 1
    process.kill()
    process.wait(timeout=10)
    guardian = guardians[0]
    assert guardian is not None
    eventually(lambda: not guardian.alive(), what="the guardian has ended")
    assert process.stdout is not None
    process.stdout.close()


def guardian_of(process: "subprocess.Popen[bytes]") -> ProcessRef:
    import psutil

    (child,) = psutil.Process(process.pid).children()
    found = ProcessRef.of(child.pid)
    assert found is not None
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork on Windows, and no guardian")
def test_a_worker_notices_the_death_of_its_guardian_at_once(tmp_path: Path) -> None:
    """As when the system runs out of memory."""
    process = guarded(tmp_path, 60)
    guardian_of(process).kill()
    assert process.stdout is not None
    assert b"its guardian process ended (exit code -9)" in process.stdout.readline()
    process.kill()
    process.wait(timeout=10)
    process.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="a timer of the Linux kernel")
@pytest.mark.parametrize("end", ["kill", "pause"])
def test_a_worker_that_is_paused_ends_in_time_without_its_guardian(tmp_path: Path, end: str) -> None:
    """A paused worker notices nothing: the kernel kills it."""
    process = guarded(tmp_path, 0.8)
    process.send_signal(SIGSTOP)
    guardian = guardian_of(process)
    guardian.signal(SIGKILL if end == "kill" else SIGSTOP)
    assert process.wait(timeout=10) == -9
    guardian.kill()
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="a timer of the Linux kernel")
def test_a_worker_that_renews_is_not_ended_by_the_kernel(tmp_path: Path) -> None:
    """With a paused guardian only the kernel timer can kill the worker."""
    script = _GUARDED.replace(
        "time.sleep(60)",
        "for n in range(12): guardian.extend(lease_clock() + 0.3); time.sleep(0.05)\n"
        "print('still here', flush=True)\ntime.sleep(60)",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "beat"), "0.3"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    guardian = guardian_of(process)
    guardian.signal(SIGSTOP)
    assert process.stdout.readline() == b"still here\n"
    assert process.wait(timeout=10) == -9, "it stopped renewing"
    guardian.kill()
    process.stdout.close()
