"""Command `logs`: the logs of workers and their programs on this machine."""

import contextlib
import heapq
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from manager.cli.common import (
    account_argument,
    configuration,
    print_error,
    print_warning,
    selected,
    selection_options,
    settings,
)
from manager.system.text import printable

if TYPE_CHECKING:
    from manager.system.log_lines import LogLine
    from manager.system.log_reader import LogReader

#: Seconds between reads for new lines with `--follow`.
_POLL_SECONDS = 0.2
#: Default number of lines.
_LINES = 40


def _moment(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    from manager.system.log_lines import parse_since

    try:
        return None if value is None else parse_since(value, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@account_argument(nargs=-1)
@selection_options
@click.option(
    "-n",
    "--tail",
    "count",
    type=click.IntRange(0, 1_000_000),
    help=f"Number of lines, of all accounts together. [default: {_LINES}; with --since all]",
)
@click.option(
    "--since",
    callback=_moment,
    metavar="WHEN",
    help="Only lines since this time: 45s, 10m, 2h or 3d ago, or 2026-11-25T10:00 (UTC). [default: all "
    "stored lines]",
)
@click.option(
    "--stream",
    type=click.Choice(["stdout", "stderr"]),
    help="Only what the program printed to this stream. [default: everything]",
)
@click.option(
    "--raw",
    is_flag=True,
    help="Only what the program printed, byte for byte. A terminal gets no control characters.",
)
@click.option("-f", "--follow", is_flag=True, help="Then print new lines until Ctrl-C.")
def logs(
    account_ids: tuple[str, ...],
    groups: tuple[str, ...],
    labels: tuple[str, ...],
    count: int | None,
    since: float | None,
    stream: str | None,
    raw: bool,
    follow: bool,
) -> int:
    """Show the logs of workers on this machine.

    Lines of several accounts are merged by time, and each begins with its account.
    """
    from manager.system.log_reader import LogReader
    from manager.system.state_dir import StatePaths

    paths = StatePaths(settings().state_dir)
    named = _named(account_ids, groups, labels)
    readers = {
        account_id: LogReader(paths.worker_log(account_id), lambda line: _matches(line, stream, raw))
        for account_id in named
    }
    found = {account_id for account_id, reader in readers.items() if reader.exists()}
    code = _report_location(named, found, follow=follow)
    if code and not found:
        return code
    shown = readers if follow else {key: reader for key, reader in readers.items() if key in found}
    printer = _LinePrinter(max(map(len, shown), default=0) if len(named) > 1 else 0, raw=raw)
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        for reader in shown.values():
            stack.callback(reader.close)
        printer.print(_stored(shown, count, since))
        while follow:
            new = {key: reader.new() for key, reader in shown.items()}
            printer.print(heapq.merge(*_with_account(new), key=_time))
            time.sleep(_POLL_SECONDS)
    return code


def _named(account_ids: tuple[str, ...], groups: tuple[str, ...], labels: tuple[str, ...]) -> list[str]:
    """Return the named or selected accounts.

    Raises click.UsageError if there are none.
    """
    selection = selected(account_ids, groups, labels)
    files = configuration()
    if not selection:
        return [files.checked_id(account_id) for account_id in dict.fromkeys(account_ids)]
    read = {account_id: files.read_account(account_id).repaired for account_id in files.list_accounts()}
    chosen = [
        key for key, config in read.items() if config and selection.matches(config.groups, config.labels)
    ]
    if not chosen:
        raise click.UsageError(f"no account matches {selection}")
    return chosen


def _matches(line: "LogLine", stream: str | None, raw: bool) -> bool:
    if line.printed is None:
        return not raw and stream is None
    return stream in (None, line.stream)


def _stored(
    readers: "Mapping[str, LogReader]", count: int | None, since: float | None
) -> "Iterable[tuple[str, LogLine]]":
    """Return the lines that are in the logs now, oldest first."""
    if since is not None:
        found = {key: reader.since(since) for key, reader in readers.items()}
        lines = heapq.merge(*_with_account(found), key=_time)
        return lines if count is None else _last(lines, count)
    most = _LINES if count is None else count
    recent = {key: reader.last(most) for key, reader in readers.items()}
    return _last(heapq.merge(*_with_account(recent), key=_time), most)


def _with_account(lines: "Mapping[str, Iterable[LogLine]]") -> "list[Iterator[tuple[str, LogLine]]]":
    def of_one(account_id: str, found: "Iterable[LogLine]") -> "Iterator[tuple[str, LogLine]]":
        for line in found:
            yield account_id, line

    return [of_one(account_id, found) for account_id, found in lines.items()]


def _last(lines: "Iterable[tuple[str, LogLine]]", count: int) -> "Iterable[tuple[str, LogLine]]":
    from collections import deque

    return deque(lines, maxlen=count)


def _time(found: "tuple[str, LogLine]") -> float:
    return found[1].time


class _LinePrinter:
    """Writes log lines to standard output.

    Removes control characters, except from raw output that does not go to a terminal.
    """

    def __init__(self, width: int, *, raw: bool) -> None:
        """`width` is the width of the account column; 0 means no column."""
        self._width = width
        self._raw = raw
        self._terminal = sys.stdout.isatty()

    def print(self, lines: "Iterable[tuple[str, LogLine]]") -> None:
        out = sys.stdout.buffer
        for account_id, line in lines:
            prefix = f"{account_id:<{self._width}} | ".encode() if self._width else b""
            out.write(prefix + self._text(line, whole=bool(prefix)))
        out.flush()

    def _text(self, line: "LogLine", *, whole: bool) -> bytes:
        if not self._raw or line.printed is None:
            return printable(line.raw.decode(errors="replace")).encode() + b"\n"
        text = line.printed
        if self._terminal:
            text = printable(text.decode(errors="replace").removesuffix("\r")).encode()
        return text if line.cut and not whole else text + b"\n"


def _report_location(named: list[str], found: set[str], *, follow: bool) -> int:
    """Print where accounts run that do not run on this machine.

    Returns 1 if the log of a named account is not here, else 0.
    """
    from manager.errors import FleetUnavailableError, ManagerError
    from manager.host.workers.records import RecordFiles
    from manager.system.state_dir import StatePaths

    now = settings()
    paths = StatePaths(now.state_dir)
    here = {
        record.account_id
        for record in RecordFiles(paths.workers_dir).load_all()
        if record.account_id in named and record.process.alive()
    }
    doubtful = [account_id for account_id in named if account_id not in here]
    if not doubtful:
        return 0
    host_of: dict[str, str] = {}
    away = ""
    try:
        host_of = _hosts(doubtful)
    except ManagerError as error:
        away = f"only this machine was checked: {error}"
    code = 0
    for account_id in doubtful:
        host = host_of.get(account_id)
        moved = host is not None and host != now.host
        if account_id in found:
            if moved:
                print_warning(
                    f"{account_id} runs on {host} now: these lines are from its time on this machine; run "
                    f"this command on {host} for the current ones"
                )
            continue
        log = paths.worker_log(account_id)
        if moved:
            print_error(
                f"{account_id} runs on {host}, and its log is not on {now.host}: run this command on {host}"
            )
            code = 1
            continue
        if host is None:
            with contextlib.suppress(FleetUnavailableError):
                configuration().account_path(account_id)
        if follow and host is not None:
            print_warning(f"{account_id} has no log yet ({log}): waiting for its first line")
            continue
        why = "the file was moved or removed" if host is not None else "the account never ran here"
        print_error(f"{account_id} has no log on this machine ({log}): {why}")
        code = 1
    if away:
        print_warning(away)
    return code


def _hosts(account_ids: list[str]) -> dict[str, str]:
    """Return the host on which each account runs, should run, or ran last.

    Raises FleetUnavailableError.
    """
    from manager.factory import desired_store, fleet_store
    from manager.states import LIVE, WorkerLifecycleStatus

    now = settings()
    desired = desired_store(now).read_many(account_ids)
    found = {key: one.host for key, one in desired.items() if one.running and one.host}
    ended: dict[str, str] = {}
    for info in fleet_store(now).snapshot(account_ids)[1]:
        host = info.placement.host
        if host is not None:
            lives = info.status in LIVE or info.status is WorkerLifecycleStatus.UNKNOWN
            (found if lives else ended)[info.account_id] = host
    return {**ended, **found}


COMMANDS = (logs,)
