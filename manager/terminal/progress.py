"""Progress of a batch: a bar with pending accounts on a terminal.

Without a terminal only the quarantine is reported, once.
"""

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from manager.system.text import counted
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


@contextmanager
def check_progress(console: Console, count: int, hosts: Sequence[str]) -> Iterator[None]:
    """Show on a terminal which hosts are checking accounts.

    There is no bar, because each host answers once for all of its accounts.
    """
    if not console.is_terminal:
        yield
        return
    what = f"checking {counted(count, 'account')}: waiting for {', '.join(hosts[:_HOSTS_NAMED])}"
    what += f", and {len(hosts) - _HOSTS_NAMED} more hosts" if len(hosts) > _HOSTS_NAMED else ""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        bar.add_task(what, total=None)
        yield


class _BatchView:
    def __init__(
        self, console: Console, what: str, accounts: Collection[str], reasons: PendingReasons | None
    ) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, auto_refresh=False)
        self._task = self._bar.add_task(what, total=len(accounts))
        self._console = console
        self._reasons = reasons
        self._guard = threading.Lock()
        self._waiting = set(accounts)
        self._total = len(accounts)
        self._waits: list[Wait] = []
        self._quarantine_text = ""
        self.closed = threading.Event()

    def on_progress(self, account_id: str, _outcome: str) -> None:
        with self._guard:
            self._waiting.discard(account_id)
            done = self._total - len(self._waiting)
        self._bar.update(self._task, completed=done)

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
