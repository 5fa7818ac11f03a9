"""A host without free file descriptors or threads for a while recovers and loses nothing."""

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import pytest
from support.waiting import eventually

from manager.host.reporting.publisher import Publisher
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus
from manager.system.essential_threads import EssentialThread, ThreadGuard
from manager.system.thread_pool import ThreadPool


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let every thread start fail until the returned function is called."""
    start = threading.Thread.start
    short = True

    def refuse(thread: threading.Thread) -> None:
        if short:
            raise RuntimeError("can't start new thread")
        start(thread)

    def end() -> None:
        nonlocal short
        short = False

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return end


@pytest.mark.skipif(sys.platform != "linux", reason="limits of files are set with RLIMIT_NOFILE")
def test_no_exit_is_missed_for_lack_of_file_descriptors() -> None:
    program = textwrap.dedent("""
        import os, resource, subprocess, sys, threading
        from manager.system.process_watch import ProcessWatch
        from manager.system.processes import ProcessRef

        children = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
        processes = [ProcessRef.of(child.pid) for child in children]
        ended = {process.pid: threading.Event() for process in processes}
        watch = ProcessWatch()
        watch.watch(processes[0], lambda process: ended[process.pid].set())
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
        held = []
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        watch.watch(processes[1], lambda process: ended[process.pid].set())
        failures = []
        children[0].kill()
        assert ended[processes[0].pid].wait(10), "an exit while no file descriptor is free"
        children[1].kill()
        for fd in held[:20]:
            os.close(fd)
        assert ended[processes[1].pid].wait(10), "a process that could not be watched at first"
        failures = []
        def raises_once(process):
            if not failures:
                failures.append(1)
                raise OSError(24, "Too many open files")
            ended[process.pid].set()
        watch.watch(processes[2], raises_once)
        children[2].kill()
        assert ended[processes[2].pid].wait(10), "an exit whose handling failed at first"
        watch.close()
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_call_waits_for_a_thread_and_is_carried_out_once(no_threads: Callable[[], None]) -> None:
    with pytest.raises(RuntimeError):
        ThreadPool(4, "none")
    no_threads()
    crew = ThreadPool(4, "some")
    started, release = threading.Event(), threading.Event()
    seen: list[int] = []

    def block() -> None:
        started.set()
        release.wait(10)

    first = crew.submit(block)
    assert started.wait(10)
    calls = [crew.submit(seen.append, number) for number in range(3)]
    release.set()
    for call in [first, *calls]:
        call.result(10)
    crew.shutdown()
    assert sorted(seen) == [0, 1, 2]


def test_a_thread_pool_works_with_the_threads_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = ThreadPool(8, "short")
    release = threading.Event()
    busy = [crew.submit(release.wait, 10) for _ in range(2)]
    with monkeypatch.context() as patch:

        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", refuse)
        waiting: Future[int] = crew.submit(lambda: 7)
        assert not waiting.done()
        assert any(thread.trouble for thread in crew.threads)
    release.set()
    assert waiting.result(10) == 7
    for call in busy:
        assert call.result(10)
    crew.shutdown()


class FailingStore:
    """A store that raises the given errors, one per call, and then works."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.recorded: list[str] = []
        self.mark: str | None = None

    def record(
        self, host: str, infos: Any, beats: Mapping[str, Any], *, events: Any = None, mark: str = ""
    ) -> None:
        del host, beats, events
        if self.errors:
            raise self.errors.pop(0)
        self.recorded += [info.account_id for info in infos]
        self.mark = mark

    def last_mark(self, host: str) -> str | None:
        del host
        return self.mark

    def report_agent(self, host: str, data: Mapping[str, Any]) -> tuple[None, int, str | None]:
        del host, data
        return None, len(self.recorded), self.mark

    def forget_worker(self, host: str, account_id: str) -> None:
        del host, account_id

    def forget_agent(self, host: str) -> None:
        del host

    def note(self, notice: object) -> None:
        del notice

    def ensure_stream_id(self) -> None:
        pass


def test_the_publisher_survives_any_error_of_its_store() -> None:
    store = FailingStore(OSError(24, "Too many open files"), MemoryError())
    publisher = Publisher(store, "h", dict)
    publisher.start()
    info = WorkerInfo(worker_id="w", account_id="a", status=WorkerLifecycleStatus.RUNNING)
    assert publisher.publish(info, wait_seconds=10)
    assert store.recorded == ["a"]
    assert "2 times" in str(publisher.thread.trouble)
    publisher.close()
    assert not publisher.thread.dead


def test_a_thread_enters_its_loop_again_after_it_failed() -> None:
    errors: list[BaseException] = [MemoryError(), SystemExit(), RuntimeError("can't start new thread")]
    done = threading.Event()

    def loop() -> None:
        if errors:
            raise errors.pop()
        done.set()

    thread = EssentialThread("t", loop)
    thread.start()
    assert done.wait(10)
    thread.join(10)
    assert not thread.dead


def test_the_death_of_a_thread_ends_the_agent() -> None:
    dies = EssentialThread("publisher", lambda: None)

    def no_run() -> None:
        return

    dies._thread = threading.Thread(target=no_run)  # a thread that ends without its loop having ended
    dies.start()
    dies.join(10)
    lost: list[str] = []
    guard = ThreadGuard(lambda: [dies], lost.append, seconds=0.01)
    guard.start()
    eventually(lambda: lost)
    guard.close()
    guard.thread.join(10)
    assert lost[0] == "publisher"
    assert "has died" in str(guard.trouble())
