"""`manager down`: stops everything that `manager up` started here."""

import contextlib
import signal
import sys
import time
from typing import Final

import click
from rich.console import Console

from manager.errors import ManagerError
from manager.factory import build_service
from manager.local.interrupts import Interrupted, Interrupts
from manager.local.machine import Machine
from manager.local.shutdown import Shutdown
from manager.local.sweep import live_workers
from manager.local.up_record import UpFiles, UpRecord
from manager.settings import Settings
from manager.system.file_lock import FileLock
from manager.system.processes import ProcessRef
from manager.system.state_dir import StatePaths
from manager.system.text import counted, printable

#: Seconds in which a new `up` writes its record.
_RECORD_SECONDS: Final = 5.0
#: Seconds for a shutdown, beyond the longest stop of a worker and the longest command. Agent, venue, Redis
#: and Flower have 15 s each before they are killed.
_SHUTDOWN_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.1
#: Seconds between notices about what is still stopping.
_NOTICE_SECONDS: Final = 5.0


def run_down(settings: Settings) -> int:
    """Stop this machine's fleet.

    Blocks. Returns 0, also if nothing runs, 1 if something is left, or 130 after Ctrl-C.
    """
    paths = StatePaths(settings.state_dir)
    if not paths.run_dir.exists():
        return _nothing(paths)
    files = UpFiles(paths)
    lock = FileLock(files.lock)
    try:
        if not lock.acquire():
            code = _end_up(files, lock, settings)
            if code is not None:
                return code
            if not lock.acquire():
                _error(
                    f"another `manager up` (pid {lock.holder()}) has started meanwhile: run `manager down` "
                    "again"
                )
                return 1
        return _end_rest(settings, paths)
    finally:
        lock.release()


# stop a running `up`


def _end_up(files: UpFiles, lock: FileLock, settings: Settings) -> int | None:
    """Stop the `up` that holds the lock.

    Returns its exit code, or None if it died before everything had stopped.
    """
    record = _holder(files, lock)
    if record is None:
        if not lock.held():
            return None
        _error(
            f"a process (pid {lock.holder()}) holds {files.lock} but has no record of `manager up`: nothing "
            "was stopped. End it with Ctrl-C in its terminal"
        )
        return 1
    process = record.process
    if record.service:
        _error(
            f"`manager up` (pid {process.pid}) runs as the service {record.service}, which would restart "
            f"it: stop the service instead (systemctl stop {record.service}; add --user for a user unit)"
        )
        return 1
    click.echo(f"stopping `manager up` (pid {process.pid}) and everything that it started")
    try:
        files.request_shutdown(process)
    except OSError as error:
        if record.phase == "ending" or sys.platform == "win32":
            _error(
                f"{error.filename}: {error.strerror}: the stop request for `manager up` could not be "
                "written; free space there, then try again"
            )
            return 1
        process.signal(signal.SIGTERM)  # a full disk: the first SIGTERM has the same effect as the request
    if sys.platform != "win32":
        process.signal(signal.SIGCONT)  # an `up` that Ctrl-Z suspended cannot read the request
    try:
        ended = _await_end(process, files, settings)
    except KeyboardInterrupt:
        click.echo(
            "Interrupted. The fleet continues to stop; run `manager down` to wait for it again.", err=True
        )
        return 130
    if not ended:
        return 1
    record = files.read()
    if record is None or record.process != process or record.phase != "ended":
        click.echo("`manager up` died before everything had stopped: stopping the rest now", err=True)
        return None
    for line in record.lines:
        if not line.startswith("stopping"):
            click.echo(printable(line), err=line.startswith("error:"))
    return record.code


def _holder(files: UpFiles, lock: FileLock) -> UpRecord | None:
    """Return the record of the lock's holder, or None if there is no proof.

    The proof is a record whose pid is the lock's and whose start time is that of the live process.
    """
    deadline = time.monotonic() + _RECORD_SECONDS
    while lock.held():
        record = files.read()
        if record is not None and record.process.pid == lock.holder() and record.process.alive():
            return record
        if time.monotonic() > deadline:
            return None
        time.sleep(_POLL_SECONDS)
    return None


def _await_end(process: ProcessRef, files: UpFiles, settings: Settings) -> bool:
    paths = StatePaths(settings.state_dir)
    longest = max((record.stop_timeout_seconds for record in live_workers(paths)), default=0.0)
    deadline = time.monotonic() + settings.command_timeout_seconds + longest + _SHUTDOWN_SECONDS
    say_at = time.monotonic() + _NOTICE_SECONDS
    while not process.wait(_POLL_SECONDS):
        now = time.monotonic()
        if now > deadline:
            left = ", ".join(record.account_id for record in live_workers(paths)) or "none"
            _error(
                f"`manager up` (pid {process.pid}) has not ended in time; workers that still run: {left}. "
                "Stop them with `manager stop-all --local`, and see the terminal of `manager up` and "
                f"{files.log}"
            )
            return False
        if now > say_at:
            say_at = now + _NOTICE_SECONDS
            names = [record.account_id for record in live_workers(paths)]
            if names:
                shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
                click.echo(f"waiting for {counted(len(names), 'worker')}: {shown}", err=True)
    return True


# stop what an earlier `up` left


def _end_rest(settings: Settings, paths: StatePaths) -> int:
    console = Console(soft_wrap=not sys.stdout.isatty())

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False)

    with Interrupts() as interrupts:
        try:
            machine = Machine(settings, paths, interrupts, say)
            found = machine.adopt_all()
            workers = live_workers(paths)
            if not found and not (machine.owns_agent and workers):
                return _nothing(paths, [record.account_id for record in workers])
            say("stopping what an earlier `manager up` left running")
            ending = Shutdown(settings, paths, machine, build_service(settings), console, say)
            code = ending.graceful()
        except ManagerError as error:
            _error(str(error))
            return 1
        except Interrupted:
            interrupts.acknowledge()
            with contextlib.suppress(OSError):
                click.echo("Interrupted before everything had stopped; run `manager down` again.", err=True)
            return 130
    if not machine.owns_agent:
        _name_other_workers([record.account_id for record in workers])
    return code


def _nothing(paths: StatePaths, workers: list[str] | None = None) -> int:
    click.echo(f"nothing to stop: `manager up` does not run here (state directory: {paths.root})")
    _name_other_workers(workers or [])
    return 0


def _name_other_workers(workers: list[str]) -> None:
    """Print which workers belong to a host agent that `manager up` did not start."""
    if workers:
        shown = ", ".join(workers[:5]) + (", ..." if len(workers) > 5 else "")
        click.echo(
            f"{counted(len(workers), 'worker')} of a host agent that `manager up` did not start: {shown}. "
            "`manager stop-all --local` stops them"
        )


def _error(text: str) -> None:
    click.echo(f"error: {printable(text)}", err=True)
