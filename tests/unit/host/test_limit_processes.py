"""Measurements of real process trees."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from support.waiting import eventually

from manager.host.limits.enforcement import limit_files, lower_priority
from manager.host.limits.processes import (
    PsutilTable,
    most_open,
    open_files_of,
    pss_of,
    read_table,
    resident_of,
)
from manager.system.processes import ProcessRef

if sys.platform == "win32":
    pytest.skip("processes of a test are groups of POSIX", allow_module_level=True)

Run = Callable[[str], subprocess.Popen[bytes]]

SLEEP = "import time; print(1, flush=True); time.sleep(60)"
TREE = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', 'import time; x = bytearray(30 << 20); print(1, flush=True); time.sleep(60)'], stdout=subprocess.PIPE)
child.stdout.readline()
files = [open('/dev/null') for _ in range(40)]
print('ready', flush=True)
time.sleep(60)
"""  # noqa: E501


@pytest.fixture
def run() -> Iterator[Run]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(code: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield begin
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def ref(process: subprocess.Popen[bytes]) -> ProcessRef:
    found = ProcessRef.of(process.pid)
    assert found is not None
    return found


@pytest.mark.parametrize("table", [read_table, PsutilTable])
def test_a_tree_contains_the_children_of_a_process(run: Run, table: Callable[[], PsutilTable]) -> None:
    process = run(TREE)
    tree = table().tree(ref(process))
    assert tree is not None
    assert tree.pids[0] == process.pid
    assert len(tree.pids) == 2
    assert tree.cpu_seconds > 0
    assert tree.resident > 30 << 20
    assert sum(pss_of(pid) or 0 for pid in tree.pids) > 30 << 20
    files = most_open(tree.pids)
    assert files is not None
    assert files >= 40


@pytest.mark.parametrize("table", [read_table, PsutilTable])
def test_an_ended_process_or_another_one_with_its_pid_has_no_tree(
    run: Run, table: Callable[[], PsutilTable]
) -> None:
    process = run(SLEEP)
    earlier = ProcessRef(process.pid, ref(process).start_time + "0")
    assert table().tree(earlier) is None
    known = ref(process)
    process.kill()
    process.wait()
    assert table().tree(known) is None


def test_cpu_time_of_a_spinning_child_counts(run: Run) -> None:
    process = run(
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'while True: pass'])\n" + SLEEP
    )

    def used() -> float:
        tree = read_table().tree(ref(process))
        assert tree is not None
        return tree.cpu_seconds

    before = used()
    eventually(lambda: used() > before + 0.3, what="its CPU time grows")


def test_an_ended_process_uses_nothing_and_an_unreadable_one_is_unknown(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = run("print(1, flush=True)")
    process.wait()
    assert pss_of(process.pid) == 0
    assert open_files_of(process.pid) is None
    assert most_open([process.pid]) is None
    assert resident_of(process.pid) == 0

    def refuse(*_: object) -> object:
        raise PermissionError(13, "denied")

    monkeypatch.setattr(os, "open", refuse)
    found = pss_of(os.getpid())
    monkeypatch.undo()
    assert found is None


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is of Linux")
def test_the_limit_of_open_files_of_a_running_process_is_lowered_and_raised(run: Run) -> None:
    import resource

    process = run(SLEEP)
    before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    for most in (100, 300):
        limit_files([process.pid], most)
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (most, before[1])
    limit_files([process.pid], before[1] + 1)
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (before[1], before[1])
    process.kill()
    process.wait()
    limit_files([process.pid], 100)  # an ended process is no error


def test_the_priority_of_a_process_is_lowered_once(run: Run) -> None:
    process = run(SLEEP)
    assert lower_priority([process.pid])
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == 10
    assert not lower_priority([process.pid])
