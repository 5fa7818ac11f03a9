"""Orphans: processes of a program that outlive their worker."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.pool_host import Host, children_of
from support.waiting import eventually

from manager.errors import OrphansLeftError, SessionHeldError
from manager.gateways.command import cgroups
from manager.gateways.command.program import marked
from manager.host.workers import orphans
from manager.host.workers.limits import PoolLimits
from manager.models import WorkerInfo
from manager.system.processes import ProcessRef

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="child subreapers are of Linux")

PROGRAM = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"], {})
    os._exit(0)
os.wait()
print("ready", flush=True)
while True: time.sleep(60)
"""


@pytest.fixture
def host(short_dir: Path) -> Iterator[Host]:
    found = Host(short_dir)
    for account_id in ("bot", "twin"):
        found.account(
            account_id,
            5001,
            gateway="command",
            password=None,
            command=[sys.executable, "-u", "-c", PROGRAM],
            ready={"line": "ready"},
            currencies=None,
            stop={"deadline_seconds": 1},
        )
    yield found
    found.close()


def begin(host: Host, account_id: str) -> WorkerInfo:
    """Start an account whose login another account uses.

    Only the lease keeps them apart.
    """
    info = host.service.start_worker_from_config(account_id, validate=False)
    host.process(info)
    return info


def daemon_of(host: Host, worker_pid: int) -> ProcessRef:
    """Return the detached child of the program.

    It has no mark, and the guard is its parent.
    """

    def unmarked() -> list[ProcessRef]:
        found = []
        for pid in children_of(worker_pid):
            ref = ProcessRef.of(pid)
            if ref is not None:
                host.seen[pid] = ref
                if Path(f"/proc/{pid}/environ").read_bytes() == b"":
                    found.append(ref)
        return found

    # The program may be ready before its child has emptied its environment.
    (daemon,) = eventually(unmarked)
    own = cgroups._own_cgroup()
    if own is not None:
        # It leaves its control group too: a program with enough rights can.
        (own / "cgroup.procs").write_text(str(daemon.pid))
    return daemon


def test_a_stop_ends_a_program_that_hides(host: Host) -> None:
    info = begin(host, "bot")
    daemon = daemon_of(host, info.metadata["pid"])
    assert host.service.stop_worker("bot") is True
    assert not daemon.alive()


def test_a_worker_and_its_guard_killed_together_leave_no_orphans(host: Host) -> None:
    info = begin(host, "bot")
    daemon = daemon_of(host, info.metadata["pid"])
    guards, _ = marked(info.worker_id)
    for pid in (*guards, info.metadata["pid"]):
        os.kill(pid, 9)
    eventually(lambda: host.status("bot") == "failed", within=10)
    assert not daemon.alive(), "the fork server adopted and killed it"
    begin(host, "bot")


def test_an_orphan_that_cannot_be_killed_fails_the_stop_and_keeps_the_lease(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.pool.close()
    host.new_pool(PoolLimits(orphan_seconds=0.05))
    info = begin(host, "bot")
    worker = host.process(info)
    with monkeypatch.context() as held:
        held.setattr(orphans, "_kill_once", lambda *_: {worker.pid})
        with pytest.raises(OrphansLeftError, match=r"may still trade: .*\(pid \d+\)|may still trade: pid"):
            host.service.stop_worker("bot")
        assert not worker.alive()
        assert host.status("bot") == "stopping"
        assert host.pool.has_worker_for_account("bot")
        with pytest.raises(SessionHeldError):
            begin(host, "twin")
        with pytest.raises(OrphansLeftError):
            begin(host, "bot")
        with pytest.raises(SessionHeldError):
            begin(host, "twin")
    assert host.service.stop_worker("bot") is True
    assert host.status("bot") == "stopped"
    begin(host, "twin")


def test_a_new_agent_knows_the_orphans_of_a_dead_worker(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    info = begin(host, "bot")
    worker = host.process(info)
    host.pool.close()
    worker.kill()
    assert worker.wait(5)
    with monkeypatch.context() as held:
        held.setattr(orphans, "_kill_once", lambda *_: {worker.pid})
        host.new_pool(PoolLimits(orphan_seconds=0.05)).adopt()
        assert host.status("bot") == "stopping"
        with pytest.raises(SessionHeldError):
            begin(host, "twin")
    assert host.service.stop_worker("bot") is True
    begin(host, "twin")


def test_a_forced_stop_is_recorded_as_forced(host: Host) -> None:
    deaf = "trap '' TERM; echo ready; while :; do sleep 1; done"
    host.account("deaf", 7, gateway="command", password=None, currencies=None,
        command=["/bin/sh", "-c", deaf],
                 ready={"line": "ready"}, stop={"deadline_seconds": 0.3})  # fmt: skip
    begin(host, "deaf")
    assert host.service.stop_worker("deaf") is True
    info = host.service.get_worker_info("deaf")
    assert info is not None
    assert (info.status, info.metadata["forced"]) == ("stopped", True)
    assert str(info.error).startswith("the program did not stop within 0.3 s of SIGTERM; killed: ")
    begin(host, "deaf")
    info = host.service.get_worker_info("deaf")
    assert info is not None
    assert "forced" not in info.metadata
