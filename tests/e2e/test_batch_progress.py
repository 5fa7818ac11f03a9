"""Progress of commands for many accounts in a pseudo terminal, and what an interrupt says."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from importlib import import_module
from typing import Any

import pytest
from support.fleet import SIGSTOP, Fleet

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminals"),
]

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def in_terminal(
    fleet: Fleet, *arguments: str, interrupt_at: str = "", err: int | None = None
) -> tuple[int, str]:
    """Run a command in a terminal of 120 columns; return its exit code and everything that it showed.

    It gets Ctrl-C's signal once it has shown `interrupt_at`. `err` replaces its standard error.
    """
    pty: Any = import_module("pty")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "manager.cli", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs if err is None else err,
        env={**fleet.environment, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "30"},
    )
    text, deadline, interrupted = "", time.monotonic() + 60, False
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        while select.select([ours], [], [], 0.05)[0]:
            text += os.read(ours, 65_536).decode(errors="replace")
        if ended:
            break
        if interrupt_at and not interrupted and interrupt_at in _ESCAPES.sub("", text):
            process.send_signal(signal.SIGINT)
            interrupted = True
    process.kill()
    os.close(ours)
    os.close(theirs)
    return process.wait(10), _ESCAPES.sub("", text)


def test_a_batch_shows_its_progress_and_ends_as_one_line(fleet: Fleet) -> None:
    fleet.add_accounts(25)
    code, text = in_terminal(fleet, "start-all")
    assert code == 0
    assert "starting" in text
    assert "/25" in text
    last = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()][-1]
    assert last == "25 started; `manager ps` shows all"
    code, text = in_terminal(fleet, "restart", "--group", "none")
    assert code == 1
    assert "no account matches" in text

    fleet.workers()["account-001"].signal(SIGSTOP)  # so that the batch waits for it
    code, text = in_terminal(fleet, "stop-all", interrupt_at="24/25")
    assert code == 130
    assert "Interrupted: 24 stopped, the hosts continue with 1; check with" in text
    batch = re.search(r"manager batch ([0-9a-f-]+)", text.replace("\r", "").replace("\n", ""))
    assert batch is not None
    assert fleet.run("batch", batch[1], "--wait").returncode == 0
    assert {info.status for info in fleet.store.list_workers()} == {"stopped"}


def test_a_validation_shows_its_progress_only_in_a_terminal(fleet: Fleet) -> None:
    fleet.add_accounts(25)
    code, text = in_terminal(fleet, "validate")
    assert code == 0
    assert "reading account files" in text
    assert f"waiting for {fleet.host}" in text
    assert "25 valid, 0 invalid" in text
    _, text = in_terminal(fleet, "config", "push", "-m", "first")
    assert "reading account files" in text
    with open(os.devnull, "w") as nothing:  # noqa: PTH123
        _, text = in_terminal(fleet, "validate", err=nothing.fileno())
    assert "reading account files" not in text
    _, text = in_terminal(fleet, "validate", "--json")
    assert text.lstrip().startswith("[")
    assert fleet.run("validate").stderr == ""
