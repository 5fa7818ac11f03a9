"""Progress of a batch: a bar with pending accounts on a terminal.

Without a terminal only the quarantine is reported, once.
"""

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from manager.config.check_progress import ASKED, DONE, FAILED, INVALID, READ, VALID, CheckProgress
from manager.terminal.pending_reasons import PendingReasons, Wait, waiting_line

#: Called with account id and outcome for each account that is done; `manager.pool.protocol.Progress`.
OnProgress = Callable[[str, str], None]

#: Hosts that the line names; the others are counted.
_HOSTS_NAMED: Final = 3
#: Seconds between reads of what pending accounts do.
_POLL_SECONDS: Final = 1.0


@contextmanager
def batch_progress(
    console: Console,
    what: str,
    accounts: Collection[str],
    reasons: PendingReasons | None = None,
    *,
    quiet: bool = False,
) -> Iterator[OnProgress | None]:
    """Yield the function to call for each account that is done.

    Yields None if `quiet` or if there are no accounts. The total is the number of `accounts`; calls for other
    accounts do not change it.
    """
    if quiet or not accounts:
        yield None
        return
    view = _BatchView(console, what, accounts, reasons)
    watch = threading.Thread(target=view.watch, name="batch-progress", daemon=True)
    watch.start()
    try:
        if console.is_terminal:
            with Live(get_renderable=view.render, console=console, transient=True, refresh_per_second=8):
                yield view.on_progress
        else:
            yield view.on_progress
    finally:
        view.closed.set()
        watch.join()


def progress_console(*, quiet: bool = False) -> Console:
    """Return the console for progress: standard error.

    It is a terminal only if standard output is one too, so that a command in a pipe or in a script shows no
    bar. A terminal without cursor movement (`TERM=dumb`) counts as none.
    """
    shown = sys.stdout.isatty() and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return Console(stderr=True, quiet=quiet, force_terminal=None if shown else False)


@contextmanager
def reading_progress(console: Console, *, quiet: bool = False) -> Iterator[None]:
    """Show on a terminal that account files are being read. Thousands take seconds."""
    if quiet or not console.is_terminal:
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as spinner:
        spinner.add_task("reading account files", total=None)
        yield


@contextmanager
def check_progress(console: Console, files: int, hosts: Sequence[str] = ()) -> Iterator[CheckProgress | None]:
    """Yield the function to call for each step of a validation; None without a terminal.

    `files` is the number of account files, `hosts` are those that are asked after this machine.
    """
    if not console.is_terminal or not files:
        yield None
        return
    columns = (SpinnerColumn(), *_columns())
    with Progress(*columns, console=console, transient=True) as bar:
        yield _CheckView(bar, files, hosts).on_progress


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", style="bold red"),
        TimeElapsedColumn(),
    )


class _CheckView:
    """One bar, which begins again with each step of a validation."""

    def __init__(self, bar: Progress, files: int, hosts: Sequence[str]) -> None:
        self._bar = bar
        self._files = files
        asked = ", ".join(hosts[:_HOSTS_NAMED])
        asked += f", and {len(hosts) - _HOSTS_NAMED} more hosts" if len(hosts) > _HOSTS_NAMED else ""
        self._asked = f"waiting for {asked}" if asked else "waiting for the hosts"
        self._counts: Counter[str] = Counter()
        self._task = bar.add_task("reading account files", total=files, note="")

    def on_progress(self, _account_id: str, stage: str) -> None:
        self._counts[stage] += 1
        counts = self._counts
        if counts[ASKED]:
            what, done, total = self._asked, counts[DONE] + counts[FAILED], counts[ASKED]
            note = _failed(counts[FAILED], "invalid")
        elif counts[VALID] + counts[INVALID]:
            what, done, total = "checking account files", counts[VALID] + counts[INVALID], self._files
            note = _failed(counts[INVALID], "invalid")
        else:
            what, done, total, note = "reading account files", counts[READ], self._files, ""
        self._bar.update(self._task, description=what, completed=done, total=max(total, done), note=note)


def _failed(count: int, word: str) -> str:
    return f"{count} {word}" if count else ""


class _BatchView:
    def __init__(
        self, console: Console, what: str, accounts: Collection[str], reasons: PendingReasons | None
    ) -> None:
        self._bar = Progress(*_columns(), console=console, auto_refresh=False)
        self._task = self._bar.add_task(what, total=len(accounts), note="")
        self._failed: set[str] = set()
        self._console = console
        self._reasons = reasons
        self._guard = threading.Lock()
        self._waiting = set(accounts)
        self._total = len(accounts)
        self._waits: list[Wait] = []
        self._quarantine_text = ""
        self.closed = threading.Event()

    def on_progress(self, account_id: str, outcome: str) -> None:
        with self._guard:
            self._waiting.discard(account_id)
            if outcome == "failed":
                self._failed.add(account_id)
            done, failed = self._total - len(self._waiting), len(self._failed)
        self._bar.update(self._task, completed=done, note=_failed(failed, "failed"))

    def render(self) -> RenderableType:
        with self._guard:
            text = waiting_line(self._waiting, self._waits)
        lines = [Text(self._quarantine_text, style="yellow")] if self._quarantine_text else []
        lines += [Text(text, no_wrap=True, overflow="ellipsis", style="dim")] if text else []
        return Group(self._bar, *lines)

    def watch(self) -> None:
        printed = False
        while self._reasons is not None and not self.closed.wait(_POLL_SECONDS):
            with self._guard:
                waiting = set(self._waiting)
            if not waiting:
                continue
            self._quarantine_text = self._reasons.quarantine()
            if self._console.is_terminal:
                self._waits = self._reasons.read(waiting)
            elif self._quarantine_text and not printed:
                # Once is enough, because the line says how long the quarantine lasts.
                printed = True
                self._console.print(self._quarantine_text, markup=False, highlight=False, soft_wrap=True)
