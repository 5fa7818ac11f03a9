"""Error texts give one reason; ended workers are not shown as healthy."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pool_host import Host
from support.waiting import eventually

from manager.errors import ConnectionFailedError
from manager.fleet.timestamped import Timestamped
from manager.fleet.workers import observe
from manager.host.workers.exit_reason import describe_exit
from manager.host.workers.slot import Slot
from manager.models import WorkerInfo
from manager.session.exit_codes import WorkerExit
from manager.states import WorkerLifecycleStatus
from manager.terminal.listing import make_rows
from manager.terminal.tables import change_lines


@pytest.fixture
def host(short_dir: Path) -> Iterator[Host]:
    found = Host(short_dir)
    yield found
    found.close()


def program(host: Host, script: str, **changes: Any) -> None:
    none: dict[str, Any] = dict.fromkeys(("server", "password", "currencies"))
    command = [sys.executable, "-c", script]
    host.account(
        "a", None, gateway="command", command=command, ready={"line": "ready"}, **{**none, **changes}
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a program's exit codes of POSIX")
def test_the_exit_reason_of_a_program_is_one_sentence(host: Host) -> None:
    program(host, "import sys; sys.exit('Exchange rejected the order')")
    with pytest.raises(ConnectionFailedError) as failed:
        host.start()
    early = "the program exited with code 1 before it was ready: Exchange rejected the order"
    assert str(failed.value) == f"a: {early}"
    info = host.service.get_worker_info("a")
    assert info is not None
    assert info.error == early, "the record has the account id in another field"

    program(
        host,
        "import sys, time\nprint('ready', flush=True); time.sleep(0.3)\nsys.exit('Exchange rejected the "
        "order')",
    )
    host.start()
    eventually(lambda: host.status() == "failed")
    info = host.service.get_worker_info("a")
    assert info is not None
    assert info.error == "the program exited with code 1: Exchange rejected the order"
    assert info.metadata["exit_code"] == WorkerExit.CONNECTION_LOST
    assert host.lost[-1][1] == info.error

    program(host, "import time\nprint('connecting', end='', flush=True); time.sleep(60)", timeout=1_000)
    with pytest.raises(ConnectionFailedError) as failed:
        host.start()
    assert str(failed.value) == (
        "a: the program runs, but was not ready in time: it has not printed 'ready'; its last output: "
        "connecting"
    )


@pytest.mark.parametrize(
    ("code", "words", "text"),
    [
        (WorkerExit.CONNECTION_LOST, "connection_lost: closed", "connection_lost: closed"),
        (WorkerExit.LEASE_LOST, "it lost its lease: x", "it lost its lease: x"),
        (WorkerExit.CRASHED, "ValueError: x", "its own code failed: ValueError: x"),
        (WorkerExit.CRASHED, None, "the worker process exited with code 70 (its own code failed)"),
        (3, "words", "the worker process exited with code 3: words"),
        (-11, "words", "the worker process was ended by SIGSEGV (its code or a library crashed): words"),
    ],
)
def test_an_exit_reason_contains_each_fact_once(code: int, words: str | None, text: str) -> None:
    assert describe_exit(code, words) == text


def test_a_record_s_error_does_not_repeat_its_account() -> None:
    slot = Slot("a")
    slot.info = WorkerInfo(worker_id="w", account_id="a", status=WorkerLifecycleStatus.STARTING)
    assert slot.move(WorkerLifecycleStatus.FAILED, error="a: it broke").error == "it broke"


@pytest.mark.parametrize("status", [WorkerLifecycleStatus.RESTARTING, WorkerLifecycleStatus.STARTING])
def test_a_worker_without_a_process_is_not_healthy(status: WorkerLifecycleStatus) -> None:
    info = WorkerInfo(
        worker_id="w",
        account_id="a",
        status=status,
        error="the program exited with code 1",
        metadata={"host": "h", "health": "healthy"},
    )
    beat = Timestamped(0.1, {"worker_id": "w", "health": "healthy", "health_reason": None})
    seen = observe(info, beat, True, 10.0)
    assert (seen.status, seen.health) == (status, "unknown")
    assert make_rows([seen], {})[0].cells["health"] == ""
    assert change_lines({}, {"a": seen}) == [f"a {status}: the program exited with code 1"]
    silent = observe(info, beat, False, 10.0)
    assert (silent.status, silent.health) == ("unknown", "unknown")
