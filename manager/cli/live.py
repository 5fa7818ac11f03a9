"""The live list of `manager top` and `manager ps --watch`."""

import contextlib
import queue
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, Group
from rich.live import Live

from manager.cli.common import selected, settings
from manager.errors import FleetUnavailableError, ManagerError
from manager.factory import account_files, build_service, live_view
from manager.system.text import printable
from manager.telemetry.fleet_reader import ViewReader
from manager.terminal.keyboard import Keyboard
from manager.terminal.top_model import Command, Scope, Top, TopAccount, TopFleet, top_fleet
from manager.terminal.top_screen import screen

if TYPE_CHECKING:
    from manager.service import WorkerManagerService
    from manager.settings import Settings

#: Seconds between two readings of the view.
_READ_SECONDS: Final = 1.0
#: Seconds to wait for a key before the screen is drawn again.
_KEY_SECONDS: Final = 0.25
#: Exit code after SIGTERM.
_TERMINATED: Final = 128 + 15


def run_live(options: dict[str, Any], *, commands: bool) -> int:
    """Show the live list until q or Ctrl-C; returns the exit code.

    Without `commands` no key sends one. The terminal is restored at the end, also after an exception or
    SIGTERM.
    """
    now = settings()
    top = Top(
        sort=options["by"] or "attention",
        scope=_scope(options),
        everything=options["everything"] or bool(options["account_ids"]),
        commands=commands,
    )
    service = build_service(now)
    with _terminable(), _Feed(now, service) as feed, contextlib.ExitStack() as stack:
        console = Console(highlight=False, soft_wrap=False)
        live = stack.enter_context(Live(console=console, screen=True, auto_refresh=False))
        keyboard = stack.enter_context(Keyboard()) if sys.stdin.isatty() else None
        with contextlib.suppress(KeyboardInterrupt, EOFError):
            _loop(top, feed, _Commands(service), live, keyboard, options["columns"])
    return 0


def _loop(
    top: Top,
    feed: "_Feed",
    commands: "_Commands",
    live: Live,
    keyboard: Keyboard | None,
    columns: tuple[str, ...],
) -> None:
    while not top.quit:
        if (fleet := feed.take()) is not None:
            top.take(fleet)
        for text, failed in commands.outcomes():
            top.say(text, failed=failed)
        width, height = shutil.get_terminal_size()
        live.console.size = (width, height)
        live.update(Group(*screen(top, width, height, columns)), refresh=True)
        if keyboard is None:
            feed.changed.wait(_READ_SECONDS)
            continue
        for command in top.press(keyboard.read(_KEY_SECONDS)):
            top.say(f"{command.name} {command.account_id}: sent")
            commands.send(command)


def _scope(options: dict[str, Any]) -> Scope:
    """Return the test that the command line's options make."""
    accounts = frozenset(options["account_ids"])
    selection = selected(options["account_ids"], options["groups"], options["labels"])
    hosts, states = options["hosts"], options["states"]

    def test(account: TopAccount) -> bool:
        cells = account.row.cells
        return (
            (not accounts or account.account_id in accounts)
            and (not selection or selection.matches(account.groups, account.labels))
            and (not hosts or cells.get("host", "") in hosts)
            and (not states or cells.get("state", "") in states)
        )

    return test


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit, so that the terminal is restored."""

    def terminate(_number: int, _frame: object) -> None:
        raise SystemExit(_TERMINATED)

    numbers = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
    before = {number: signal.signal(number, terminate) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Feed:
    """Reads the live view on a separate thread, so that a slow file or Redis never blocks the keys."""

    def __init__(self, now: "Settings", service: "WorkerManagerService") -> None:
        self._view = live_view(now)
        self._reader = ViewReader(self._view, lambda: account_files(service))
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._newest: TopFleet | None = None
        #: Set while there is a fleet that `take` has not returned.
        self.changed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="top-feed", daemon=True)

    def __enter__(self) -> "_Feed":
        self._view.start()
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        # Both threads are daemons: a read of Redis in progress must not delay the end.
        self._closed.set()

    def take(self) -> TopFleet | None:
        """Return the newest fleet; None if it has been returned already."""
        with self._lock:
            newest, self._newest = self._newest, None
            self.changed.clear()
            return newest

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                fleet = top_fleet(self._reader.read())
                wait = _READ_SECONDS
            except FleetUnavailableError as error:
                # The view also raises this before its first listing, which is not an error.
                away = self._view.away_since_seconds is not None
                fleet = TopFleet(error=str(error) if away else "", loaded=False)
                wait = _READ_SECONDS / 4
            except ManagerError as error:
                fleet = TopFleet(error=str(error), loaded=False)
                wait = _READ_SECONDS
            with self._lock:
                self._newest = fleet
                self.changed.set()
            self._closed.wait(wait)


class _Commands:
    """Runs commands on threads; their outcomes wait in a queue for the screen."""

    def __init__(self, service: "WorkerManagerService") -> None:
        self._service = service
        self._outcomes: queue.SimpleQueue[tuple[str, bool]] = queue.SimpleQueue()

    def send(self, command: Command) -> None:
        # A daemon thread: quitting does not wait, and a sent command continues.
        threading.Thread(target=self._run, args=(command,), name="top-command", daemon=True).start()

    def outcomes(self) -> Iterator[tuple[str, bool]]:
        """Yield text, and whether it is an error, of each command that has ended."""
        while True:
            try:
                yield self._outcomes.get_nowait()
            except queue.Empty:
                return

    def _run(self, command: Command) -> None:
        account_id = command.account_id
        try:
            text = self._call(command)
        except ManagerError as error:
            text = str(error)
            named = text if text.startswith(account_id) else f"{account_id}: {text}"
            self._outcomes.put((f"{command.name} failed: {printable(named)}", True))
        except Exception as error:
            self._outcomes.put((f"{command.name} {account_id} failed: {printable(str(error))}", True))
        else:
            self._outcomes.put((text, False))

    def _call(self, command: Command) -> str:
        account_id = command.account_id
        calls: dict[str, Callable[[str], Any]] = {
            "start": self._service.start_worker_from_config,
            "stop": self._service.stop_worker,
            "restart": self._service.restart_worker,
            "pause": self._service.pause_worker,
            "resume": self._service.resume_worker,
        }
        answer = calls[command.name](account_id)
        if command.name == "stop":
            return f"{account_id}: stopped"
        state = f"{answer.status}" + (f", {answer.health}" if answer.status == "running" else "")
        done = {"start": "started", "restart": "restarted", "pause": "paused", "resume": "resumed"}
        if command.name == "start" and answer.placement.already_running:
            return f"{account_id}: already running"
        return f"{account_id}: {done[command.name]} ({state})"
