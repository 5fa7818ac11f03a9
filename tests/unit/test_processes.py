import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.waiting import eventually

from manager.system.process_watch import ProcessWatch
from manager.system.processes import ProcessRef


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def ref_of(child: "subprocess.Popen[bytes]") -> ProcessRef:
    ref = ProcessRef.of(child.pid)
    assert ref is not None
    return ref


def test_a_process_is_itself_and_round_trips(child: "subprocess.Popen[bytes]") -> None:
    ref = ref_of(child)
    assert ref.alive()
    assert ProcessRef.from_dict(ref.to_dict()) == ref


def test_a_pid_that_now_belongs_to_something_else_is_neither_alive_nor_signalled(
    child: "subprocess.Popen[bytes]",
) -> None:
    stranger = ProcessRef(child.pid, "another-boot:1")
    assert not stranger.alive()
    assert not stranger.kill()
    assert stranger.wait(0)
    assert child.poll() is None


def test_a_zombie_has_ended(child: "subprocess.Popen[bytes]") -> None:
    ref = ref_of(child)
    child.kill()
    assert eventually(lambda: not ref.alive())
    assert ProcessRef.of(child.pid) is None
    assert not ref.kill()


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"pid": "1", "start_time": "x"},
        {"pid": True, "start_time": "x"},
        {"pid": 0, "start_time": "x"},
        {"pid": 5},
    ],
)
def test_a_malformed_record_is_not_a_process(data: object) -> None:
    assert ProcessRef.from_dict(data) is None


def test_wait_says_whether_it_ended(child: "subprocess.Popen[bytes]") -> None:
    ref = ref_of(child)
    assert not ref.wait(0.01)
    child.kill()
    assert ref.wait(5)


def test_the_watch_reports_an_exit_once(child: "subprocess.Popen[bytes]") -> None:
    watch = ProcessWatch()
    received: list[ProcessRef] = []
    try:
        ref = ref_of(child)
        watch.watch(ref, received.append)
        child.kill()
        assert eventually(lambda: received) == [ref]
    finally:
        watch.close()


def test_the_watch_reports_what_has_ended_before_it_was_asked(child: "subprocess.Popen[bytes]") -> None:
    watch = ProcessWatch()
    received: list[ProcessRef] = []
    try:
        ref = ref_of(child)
        child.kill()
        child.wait()
        watch.watch(ref, received.append)
        eventually(lambda: received == [ref])
    finally:
        watch.close()


def test_closing_the_watch_leaks_no_descriptor(child: "subprocess.Popen[bytes]") -> None:
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    watch = ProcessWatch()
    watch.watch(ref_of(child), lambda _: None)
    watch.close()
    assert before == (len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0)


@pytest.mark.skipif(sys.platform == "win32", reason="core files are of POSIX")
def test_a_process_with_secrets_leaves_no_core_file_and_knows_the_ordinary_limit() -> None:
    hard = ordinary = 0
    if sys.platform != "win32":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        ordinary = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    script = (
        "import os, resource, subprocess, sys\n"
        "core = resource.RLIMIT_CORE\n"
        f"resource.setrlimit(core, ({ordinary}, resource.getrlimit(core)[1]))\n"
        "from manager.system.processes import ordinary_core_limit, prevent_core_dumps\n"
        "assert ordinary_core_limit() is None\n"
        "prevent_core_dumps()\n"
        "again = 'from manager.system.processes import *; '\n"
        "again += 'prevent_core_dumps(); print(ordinary_core_limit())'\n"
        "print(*resource.getrlimit(resource.RLIMIT_CORE), ordinary_core_limit(), flush=True)\n"
        "subprocess.run([sys.executable, '-c', again], check=True)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MANAGER_CORE_LIMIT"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", str(hard), str(ordinary), str(ordinary)]
