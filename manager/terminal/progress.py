"""The progress bar of a batch on a terminal, with what is awaited; elsewhere only what holds everything up."""

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
from manager.terminal.awaited import Awaited, Wait, waiting_for

#: What is called for each account that is done, with its outcome; `manager.pool.protocol.Progress`.
OnProgress = Callable[[str, str], None]

#: Hosts that are named.
_HOSTS_NAMED: Final = 3
#: Seconds between two looks at what is awaited.
_LOOK_SECONDS: Final = 1.0


@contextmanager
def batch_progress(
    console: Console,
    what: str,
    accounts: Collection[str],
    awaited: Awaited | None = None,
    *,
    quiet: bool = False,
) -> Iterator[OnProgress | None]:
    """Yield what to call for each account that is done; None where nobody wants to know.

    The total is the number of `accounts`: what is told of any other account does not change it.
    """
    if quiet or not accounts:
        yield None
        return
    shown = _Shown(console, what, accounts, awaited)
    watch = threading.Thread(target=shown.watch, name="awaited", daemon=True)
    watch.start()
    try:
        if console.is_terminal:
            with Live(get_renderable=shown.render, console=console, transient=True, refresh_per_second=8):
                yield shown.on_progress
        else:
            yield shown.on_progress
    finally:
        shown.closed.set()
        watch.join()


@contextmanager
def check_progress(console: Console, count: int, hosts: Sequence[str]) -> Iterator[None]:
    """Show on a terminal that hosts are waited for, which check so many accounts: each answers for all of its own."""
    if not console.is_terminal:
        yield
        return
    what = f"checking {counted(count, 'account')}: waiting for {', '.join(hosts[:_HOSTS_NAMED])}"
    what += f", and {len(hosts) - _HOSTS_NAMED} more hosts" if len(hosts) > _HOSTS_NAMED else ""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        bar.add_task(what, total=None)
        yield


class _Shown:
    def __init__(
        self, console: Console, what: str, accounts: Collection[str], awaited: Awaited | None
    ) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, auto_refresh=False)
        self._task = self._bar.add_task(what, total=len(accounts))
        self._console = console
        self._awaited = awaited
        self._guard = threading.Lock()
        self._waiting = set(accounts)
        self._total = len(accounts)
        self._waits: list[Wait] = []
        self._held_up = ""
        self.closed = threading.Event()

    def on_progress(self, account_id: str, _outcome: str) -> None:
        with self._guard:
            self._waiting.discard(account_id)
            done = self._total - len(self._waiting)
        self._bar.update(self._task, completed=done)

    def render(self) -> RenderableType:
        with self._guard:
            text = waiting_for(self._waiting, self._waits)
        lines = [Text(self._held_up, style="yellow")] if self._held_up else []
        lines += [Text(text, no_wrap=True, overflow="ellipsis", style="dim")] if text else []
        return Group(self._bar, *lines)

    def watch(self) -> None:
        told = False
        while self._awaited is not None and not self.closed.wait(_LOOK_SECONDS):
            with self._guard:
                waiting = set(self._waiting)
            if not waiting:
                continue
            self._held_up = self._awaited.quarantine()
            if self._console.is_terminal:
                self._waits = self._awaited.look(waiting)
            elif self._held_up and not told:
                # Plain lines: once is enough, since it says how long.
                told = True
                self._console.print(self._held_up, markup=False, highlight=False, soft_wrap=True)
