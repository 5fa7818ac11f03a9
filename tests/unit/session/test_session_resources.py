"""Resources of a worker's process tree, measured on real processes."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support.waiting import eventually

from manager.gateways.command import process_tree
from manager.gateways.command.cgroups import make_cgroup
from manager.session import resources
from manager.session.resources import ResourceMeter, cgroup_memory, memory_of

#: Forks three children that share 60 MB with it; says so, and waits.
SHARING = """
import os, sys, time
block = bytearray(os.urandom(60_000_000))
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    children.append(pid)
print(*children, flush=True)
time.sleep(600)
"""
#: A process below this one computes, for as long as it lives.
BUSY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
print(child.pid, flush=True)
time.sleep(600)
"""

Run = Callable[[str], tuple[int, list[int]]]


@pytest.fixture
def run() -> Iterator[Run]:
    """Return a function that runs a script.

    It returns the script's pid and the pids that it printed; all end with the test.
    """
    pids: list[int] = []
    started: list[subprocess.Popen[str]] = []

    def runner(script: str) -> tuple[int, list[int]]:
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        found = list(map(int, process.stdout.readline().split()))
        pids.extend(found)
        return process.pid, found

    yield runner
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="PSS is of Linux")
@pytest.mark.parametrize("listed", [True, False])
def test_the_memory_of_forked_processes_is_counted_once(
    run: Run, listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_tree, "_lists_children", lambda: listed)
    root, children = run(SHARING)
    meter = ResourceMeter(root=root)
    meter.measure()
    figures = meter.figures().to_dict()
    assert figures["processes"] == 4
    resident = sum(psutil.Process(pid).memory_info().rss for pid in (root, *children))
    assert resident > 4 * 60_000_000
    assert 60_000_000 < figures["memory_bytes"] < resident / 2
    assert meter.memory_peak == figures["memory_bytes"]
    assert figures["rss_bytes"] == pytest.approx(psutil.Process(root).memory_info().rss, rel=0.1)


def test_cpu_is_that_of_the_whole_tree_as_percent_of_a_core(run: Run) -> None:
    root, (busy,) = run(BUSY)
    meter = ResourceMeter(root=root)
    meter.measure()
    assert meter.figures().cpu_percent is None  # one measurement has no interval
    child = psutil.Process(busy)
    before = child.cpu_times().user
    eventually(lambda: child.cpu_times().user >= before + 0.2)
    meter.measure()
    assert meter.figures().to_dict()["cpu_percent"] > 5
    spent = meter.figures().to_dict()["cpu_seconds"]
    assert spent >= before + 0.2
    child.kill()
    eventually(lambda: child.status() == psutil.STATUS_ZOMBIE)
    meter.measure()
    assert meter.figures().to_dict()["cpu_percent"] >= 0
    assert meter.figures().to_dict()["cpu_seconds"] >= spent  # the ended child's time still counts
    assert meter.figures().to_dict()["processes"] == 1


def test_ended_or_unreadable_processes_count_as_zero_without_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert memory_of(process.pid) == 0
    assert memory_of(os.getpid()) > 1_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are of Linux")
def test_a_program_in_a_control_group_is_measured_by_that(tmp_path: Path) -> None:
    """A directory replaces a group with a memory controller.

    Few machines let a test create one.
    """
    group = tmp_path / "worker-manager.w-1"
    group.mkdir()
    (group / "cgroup.procs").write_text("")
    (group / "cpu.stat").write_text("usage_usec 1000000\nuser_usec 1\n")
    (group / "memory.current").write_text("90000000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 20000000\n")
    assert cgroup_memory(group) == 70_000_000
    note = tmp_path / "cgroup"
    note.write_text(str(group))
    now = [100.0]
    meter = ResourceMeter("w-1", note, clock=lambda: now[0])
    meter.measure()
    alone = meter.figures().to_dict()["memory_bytes"] - 70_000_000
    assert 0 < alone < 500_000_000
    (group / "cpu.stat").write_text("usage_usec 6000000\nuser_usec 1\n")
    now[0] += 10
    meter.measure()
    assert meter.figures().to_dict()["cpu_percent"] >= 50  # five seconds of ten, and what this process used


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are of Linux")
def test_processes_in_a_real_control_group_are_counted_once(run: Run, tmp_path: Path) -> None:
    worker_id = f"w-test-resources-{os.getpid()}"
    group = make_cgroup(worker_id)
    if group is None:
        pytest.skip("this machine lets the test make no control group")
    note = tmp_path / "cgroup"
    note.write_text(str(group))
    try:
        root, (busy,) = run(BUSY)
        (group / "cgroup.procs").write_text(str(busy))
        meter = ResourceMeter(worker_id, note, root=root)
        meter.measure()
        assert meter.figures().to_dict()["processes"] == 2
        # Without a memory controller it is each process's own.
        assert meter.figures().to_dict()["memory_bytes"] == pytest.approx(
            memory_of(root) + memory_of(busy), rel=0.2
        )
        psutil.Process(busy).kill()
        eventually(lambda: (group / "cgroup.procs").read_text() == "")
    finally:
        group.rmdir()


def test_measuring_takes_a_small_part_of_a_core_however_long_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meter = ResourceMeter()
    assert meter.measure() == 4.0  # too soon: the interval is too short to measure
    assert meter.measure() >= 10.0

    def slow(pid: int) -> int:
        del pid
        began = time.thread_time()
        while time.thread_time() < began + 0.05:
            pass
        return 1

    monkeypatch.setattr(resources, "memory_of", slow)
    meter._memory_due = float("-inf")
    assert meter.measure() > 20.0


@pytest.mark.skipif(sys.platform != "linux", reason="memory maps are of Linux")
def test_memory_maps_are_read_again_when_the_memory_changes_and_else_rarely(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def seven(pid: int) -> int:
        read.append(pid)
        return 7

    monkeypatch.setattr(resources, "memory_of", seven)
    root, _ = run("import time; print(flush=True); time.sleep(600)")
    now = [0.0]
    meter = ResourceMeter(root=root, clock=lambda: now[0])
    for second, expected in ((0, 1), (14, 1), (16, 1), (59, 1), (61, 2)):
        now[0] = second
        meter.measure()
        assert len(read) == expected, second
    meter._resident //= 2  # as if it had been half as large
    for second, expected in ((70, 2), (77, 3)):
        now[0] = second
        meter.measure()
        assert len(read) == expected, second
    assert meter.figures().to_dict()["memory_bytes"] == 7
