"""A frozen program in `manager events`, `ps` and `info`, with a real host agent."""

import json
import re
import signal
import sys
from typing import Any

import psutil
import pytest
from support.fleet import SIGSTOP, Fleet
from support.waiting import eventually

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP"),
]

A = "account-001"
#: Starts a child, as a shell or launcher does, and continues.
PROGRAM = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("ready", flush=True)
time.sleep(600)
"""


def test_a_frozen_program_is_an_event_and_so_is_its_end(fleet: Fleet) -> None:
    fleet.add_account(
        A,
        None,
        gateway="command",
        server=None,
        password=None,
        currencies=None,
        command=[sys.executable, "-c", PROGRAM],
        ready={"line": "ready"},
    )
    fleet.run_json("start", A)
    worker = psutil.Process(fleet.workers()[A].pid)
    program = next(child for child in worker.children(recursive=True) if "subprocess.Popen" in _line(child))

    def changes() -> list[dict[str, Any]]:
        lines = fleet.run("events", "--account", A, "--json").stdout.splitlines()
        return [event for event in map(json.loads, lines) if event.get("kind") == "health"]

    program.send_signal(SIGSTOP)
    first = eventually(changes, within=20, what="the frozen program is an event")[0]
    assert (first["health_before"], first["health"], first["status"]) == ("healthy", "unhealthy", "running")
    assert f"pid {program.pid}" in first["reason"]
    program.send_signal(getattr(signal, "SIGCONT", 0))
    eventually(lambda: len(changes()) >= 2, within=20, what="its going on is an event")
    assert (changes()[-1]["health"], changes()[-1]["reason"]) == ("healthy", None)
    assert "health healthy -> unhealthy: stopped by a signal" in fleet.run("events", "--account", A).stdout

    # The worker, its guard, the program and its child.
    data = eventually(lambda: _used(fleet), within=15, what="what the tree uses is measured")
    assert data is not None
    assert data["processes"] == 4
    assert data["memory_bytes"] < 200_000_000
    shown = fleet.run("ps", "-o", "account,cpu,memory,procs").stdout.splitlines()
    assert shown[0].split() == ["account", "cpu", "memory", "procs"]
    assert shown[1].split()[0] == A
    assert shown[1].split()[-1] == "4"
    assert re.search(r"^memory_bytes +[0-9]+ \([0-9.]+ MB\)$", fleet.run("info", A).stdout, re.MULTILINE)


def _line(process: psutil.Process) -> str:
    return " ".join(process.cmdline())


def _used(fleet: Fleet) -> dict[str, Any] | None:
    info = fleet.store.get_worker(A)
    return info.metadata if info is not None and "cpu_percent" in info.metadata else None
