"""`manager up --detach`: `up` in the background, with its output in a log."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from manager.errors import ComponentError
from manager.local.agent import agent_environment
from manager.local.up import refuse_second
from manager.local.up_record import UpFiles, UpRecord
from manager.settings import Settings
from manager.system.child_process import manager_argv, open_log, start_detached
from manager.system.file_lock import FileLock
from manager.system.state_dir import StatePaths
from manager.system.text import printable

#: Seconds between reads of the record and log of `up`.
_POLL_SECONDS: Final = 0.1


def run_detached(settings: Settings, options: Sequence[str]) -> int:
    """Start `manager up` in its own session; return when its start is over.

    Blocks and prints its output meanwhile. Returns 0, or 1 if `up` ended or if an account that should run
    does not. Raises ComponentError if a `manager up` already runs.
    """
    paths = StatePaths(settings.state_dir)
    paths.create()
    files = UpFiles(paths)
    refuse_second(FileLock(files.lock), paths)
    log = _Tail(files.log)
    process = _spawn(settings, options, files.log)
    try:
        record = _await_start(process, files, log)
    except KeyboardInterrupt:
        click.echo(
            f"Interrupted. `manager up` continues in the background (pid {process.pid}, log: {files.log}); "
            "`manager down` stops it.",
            err=True,
        )
        return 130
    if record is None:
        code = process.wait()
        log.print_new()
        click.echo(f"error: `manager up` ended with code {code} (log: {files.log})", err=True)
        return code if code > 0 else 1
    click.echo(
        f"running in the background (pid {process.pid}, log: {files.log}); `manager ps` shows the fleet, "
        "`manager down` stops it"
    )
    return record.code


def _spawn(settings: Settings, options: Sequence[str], log_file: Path) -> "subprocess.Popen[bytes]":
    argv = manager_argv("up", "--background", *options)
    try:
        with open_log(log_file) as log:
            return start_detached(argv, environment=agent_environment(settings), stdout=log, stderr=log)
    except OSError as error:
        raise ComponentError(f"`manager up` cannot be started ({argv[0]}): {error}") from None


def _await_start(process: "subprocess.Popen[bytes]", files: UpFiles, log: "_Tail") -> UpRecord | None:
    """Wait until the start is over and return the record; None if `up` ended."""
    while process.poll() is None:
        log.print_new()
        record = files.read()
        if record is not None and record.process.pid == process.pid and record.phase == "up":
            log.print_new()
            return record
        time.sleep(_POLL_SECONDS)
    return None


class _Tail:
    """Prints the lines that are added to a log."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = path.stat().st_size if path.exists() else 0
        self._rest = ""

    def print_new(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            raw = file.read()
        self._read += len(raw)
        *lines, self._rest = (self._rest + raw.decode(errors="replace")).split("\n")
        for line in lines:
            click.echo(printable(line), err=line.startswith(("error:", "warning:")))
