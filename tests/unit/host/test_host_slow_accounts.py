"""Hung files, processes and logs of one account delay no other account."""

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.waiting import eventually

from manager.config import ConfigurationService
from manager.errors import SlowFilesError
from manager.host.workers.bounded_reads import BoundedConfiguration, BoundedReads
from manager.host.workers.launcher import make_launcher
from manager.system.processes import ProcessRef

if sys.platform == "win32":
    pytest.skip("FIFOs, SIGSTOP and fork", allow_module_level=True)

ACCOUNT = {"gateway": "paper", "login": 1, "server": "S", "currencies": [{"symbol": "EURUSD"}]}


@pytest.fixture
def configuration(tmp_path: Path) -> Iterator[ConfigurationService]:
    accounts = tmp_path / "accounts"
    accounts.mkdir()
    os.mkfifo(accounts / "hangs.yaml")
    (accounts / "well.yaml").write_text(json.dumps(ACCOUNT))
    yield ConfigurationService(tmp_path)
    try:  # release the thread that waits for the FIFO
        os.close(os.open(accounts / "hangs.yaml", os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return  # no reader waits


def test_a_hung_file_times_out_and_holds_one_thread(configuration: ConfigurationService) -> None:
    hangs = threading.Event()
    reads = BoundedReads(seconds=0.1)
    with pytest.raises(SlowFilesError, match="hangs: reading its files takes too long"):
        reads.run("hangs", hangs.wait)
    before = threading.active_count()
    for _ in range(50):
        with pytest.raises(SlowFilesError):
            reads.run("hangs", hangs.wait)
    assert threading.active_count() == before
    assert BoundedConfiguration(configuration, reads).load_account_config("well").login == 1
    hangs.set()
    eventually(lambda: not reads._hanging)
    assert reads.run("hangs", lambda: 3) == 3


def test_a_hung_preloaded_process_does_not_delay_exit_handling(tmp_path: Path) -> None:
    launcher = make_launcher("fork", tmp_path / "log")
    try:
        ended, lives = launcher.launch(), launcher.launch()
        server = ProcessRef.of(launcher._server.pid)  # type: ignore[attr-defined,unused-ignore]
        assert server is not None
        server.signal(signal.SIGSTOP)
        answers: list[int | None] = []
        asking = threading.Thread(
            target=lambda: answers.extend(launcher.exit_code(ended.process) for _ in range(20)), daemon=True
        )
        asking.start()
        asking.join(10)
        assert answers == [None] * 20  # without one timeout for each
        server.signal(signal.SIGCONT)
        third = launcher.launch()  # late replies are skipped
        assert third.process not in (ended.process, lives.process)
        third.process.kill()
        assert third.process.wait(10)
        assert eventually(lambda: launcher.exit_code(third.process)) == -signal.SIGKILL
        for one in (ended, lives, third):
            one.close()
    finally:
        launcher.close()


def test_a_worker_stops_while_its_log_pipe_is_full() -> None:
    program = textwrap.dedent("""
        import logging, os, subprocess, sys, threading
        from manager.system import logs
        from manager.system.process_watch import ProcessWatch
        from manager.system.processes import ProcessRef

        logs.configure()
        for number in range(20_000):
            logs.event(logging.getLogger("x"), logging.INFO, "noise", "n" * 100, number=number)
        child = subprocess.Popen(["sleep", "60"])
        process = ProcessRef.of(child.pid)
        ended = threading.Event()
        watch = ProcessWatch()
        def tell(_):
            logging.getLogger("x").error("it ended")
            ended.set()
        watch.watch(process, tell)
        process.kill()
        assert ended.wait(10)
        print("stopped", flush=True)
        logs.flush(0.2)
        logging.shutdown()
        os._exit(75)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.wait(30) == 75  # its stderr was not read
            assert process.stdout is not None
            assert process.stdout.read() == b"stopped\n"
        finally:
            process.kill()


def test_dropped_lines_are_counted_in_their_place() -> None:
    from manager.system.log_writer import WriterHandler

    writes, blocked, lines = threading.Event(), threading.Event(), list[str]()

    class Blocked:
        def write(self, text: str) -> None:
            blocked.set()
            writes.wait(10)
            lines.append(text.strip())

    handler = WriterHandler(Blocked(), waiting=3)
    log = logging.Logger("x")
    log.addHandler(handler)
    log.error("first")
    assert blocked.wait(10)
    for number in range(10):
        log.error("%d", number)
    writes.set()
    assert handler.flush_within(10)
    handler.close()
    assert lines[:4] == ["first", "0", "1", "2"]
    assert lines[4].startswith("7 log lines were dropped")
