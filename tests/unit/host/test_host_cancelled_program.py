"""A stop during the start of a program.

The program may trade already, so it gets the stop signal before it is killed.
"""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.pool_host import Host
from support.waiting import eventually

from manager.errors import StartCancelledError

if sys.platform == "win32":
    pytest.skip("signals of POSIX", allow_module_level=True)

BOT = """
import os, signal, sys, time
def bye(*_):
    time.sleep(0.2)
    open("cancelled", "w").close()
    sys.exit(0)
signal.signal(signal.SIGINT, bye)
open("up", "w").close()
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def host(short_dir: Path) -> Iterator[Host]:
    host = Host(short_dir)
    yield host
    host.close()


@pytest.mark.parametrize("deaf", [False, True])
def test_a_stop_during_a_start_signals_the_program_first(host: Host, tmp_path: Path, deaf: bool) -> None:
    host.account(
        "a",
        None,
        gateway="command",
        server=None,
        password=None,
        currencies=None,
        command=[sys.executable, "-c", BOT.replace("bye)", "signal.SIG_IGN)") if deaf else BOT],
        directory=str(tmp_path),
        ready={"line": "a line that nobody prints"},
        stop={"signal": "INT", "deadline_seconds": 0.5 if deaf else 20},
        timeout=60_000,
    )
    errors: list[BaseException] = []

    def start() -> None:
        try:
            host.service.start_worker_from_config("a")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    eventually((tmp_path / "up").exists, within=30)
    assert host.service.stop_worker("a")
    thread.join()
    assert (tmp_path / "cancelled").exists() is not deaf
    assert isinstance(errors[0], StartCancelledError)
    info = host.service.get_worker_info("a")
    assert info is not None
    assert info.status == "stopped"
    assert info.metadata.get("forced", False) is deaf
    assert ("killed" in str(info.error)) is deaf
