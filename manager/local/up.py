"""`manager up`: runs the whole fleet of one machine in the foreground."""

import contextlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from manager.config import ConfigurationService
from manager.config.starting_files import write_demo_fleet
from manager.errors import ComponentError, ManagerError, SettingsError
from manager.factory import build_service
from manager.gateways import uses_local_venue
from manager.local.interrupts import Interrupted, Interrupts
from manager.local.machine import Machine, port_is_free
from manager.local.resilient_output import ResilientOutput
from manager.local.shutdown import Shutdown
from manager.local.up_record import Phase, RequestWatch, UpFiles
from manager.models import BatchResult, ValidationResult, WorkerInfo
from manager.service import WorkerManagerService
from manager.settings import Settings
from manager.system.file_lock import FileLock
from manager.system.processes import raise_file_limit
from manager.system.state_dir import StatePaths
from manager.system.storage import explain
from manager.terminal.progress import batch_progress
from manager.terminal.tables import change_lines, validation_lines, worker_table

#: Seconds to wait for the lock, which a process that only reads its holder takes for a moment.
_LOCK_SECONDS: Final = 0.5
#: Seconds between reads of the fleet.
_POLL_SECONDS: Final = 1.0


def run_up(
    settings: Settings,
    *,
    demo: bool,
    flower: bool,
    flower_port: int | None,
    api: bool,
    api_port: int | None,
    once: bool,
    background: bool = False,
) -> int:
    """Run the fleet until an interrupt, then stop everything that was started.

    With `once`, stops when the accounts have started. `background` says that no terminal exists for Ctrl-C.
    Returns 0, or 1 if something could not be started or stopped. Raises ManagerError only before anything was
    started.
    """
    paths = StatePaths(settings.state_dir)
    paths.create()
    raise_file_limit()
    files = UpFiles(paths)
    lock = FileLock(files.lock)
    try:
        acquire_up_lock(lock, paths)
    except OSError as error:
        raise ComponentError(explain(error, paths.run_dir)) from None
    # The terminal may close at any time; the fleet must be stopped nevertheless.
    output = ResilientOutput(sys.stdout, files.log)
    console = Console(file=output, soft_wrap=not sys.stdout.isatty())  # type: ignore[arg-type]
    try:
        configuration = ConfigurationService(settings.config_dir)
        _prepare_accounts(settings, configuration, console, demo=demo)
        with Interrupts() as interrupts:
            files.write("starting")
            port = (flower_port or settings.flower_port) if flower else None
            api_on = (settings.api_port if api_port is None else api_port) if api else None
            up = _Up(
                settings, paths, configuration, interrupts, console, port, api_on, lock, background=background
            )
            with RequestWatch(files, interrupts.request):
                return up.run(once=once)
    except Interrupted:
        return 130  # nothing was started yet
    except OSError as error:
        if error.filename is None or not str(error.filename).startswith(str(paths.run_dir)):
            raise
        raise ComponentError(explain(error, Path(error.filename))) from error
    finally:
        lock.release()


def acquire_up_lock(lock: FileLock, paths: StatePaths) -> None:
    """Acquire the lock that allows one `manager up` per state directory.

    Raises ComponentError if another `manager up` has it.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    while not lock.acquire():
        if time.monotonic() > deadline:
            refuse_second(lock, paths)
        time.sleep(0.02)  # a process that only checks the lock holds it for a moment


def refuse_second(lock: FileLock, paths: StatePaths) -> None:
    """Raise ComponentError if a `manager up` already uses this state directory."""
    if lock.held():
        raise ComponentError(
            f"`manager up` already runs here (pid {lock.holder()}, state directory {paths.root}): `manager "
            "ps` shows its workers, `manager down` stops it"
        )


def _prepare_accounts(
    settings: Settings, configuration: ConfigurationService, console: Console, *, demo: bool
) -> None:
    directory = settings.config_dir
    if demo:
        if write_demo_fleet(directory):
            _say(console, f"wrote a demo fleet to {directory}")
        else:
            _say(console, f"using the existing files in {directory}; no demo fleet was written")
    if not directory.exists():
        raise SettingsError(
            f"no configuration: {directory} does not exist. Run `manager init` to write example files "
            "there, run `manager up --demo` for a demo fleet, or set MANAGER_CONFIG_DIR to your directory"
        )
    configuration.list_accounts()


class _Up:
    def __init__(
        self,
        settings: Settings,
        paths: StatePaths,
        configuration: ConfigurationService,
        interrupts: Interrupts,
        console: Console,
        flower_port: int | None,
        api_port: int | None,
        lock: FileLock,
        *,
        background: bool,
    ) -> None:
        self._lock = lock
        self._settings = settings
        self._background = background
        self._files = UpFiles(paths)
        #: Lines that the shutdown has printed; None before it begins.
        self._shutdown_lines: list[str] | None = None
        self._paths = paths
        self._configuration = configuration
        self._interrupts = interrupts
        self._console = console
        self._flower_port = flower_port
        self._api_port = api_port
        self._machine = Machine(settings, paths, interrupts, self._say)
        self._service: WorkerManagerService = build_service(settings)
        self._shutdown = Shutdown(settings, paths, self._machine, self._service, console, self._say)
        self._others: dict[str, tuple[str, str]] = {}
        self._not_read: dict[str, str] = {}

    def run(self, *, once: bool) -> int:
        code = 0
        try:
            try:
                self._start_machine()
                code = self._start_accounts()
                self._note_phase("up", code)
                if not once:
                    self._show_fleet()
            except Interrupted:
                self._interrupts.acknowledge()
                self._shutdown_lines = []
                self._say(
                    "stopping" if self._background else "stopping; press Ctrl-C again to kill everything now"
                )
            except (ManagerError, OSError) as error:
                self._say(f"error: {error}", style="red")
                code = 1
            self._shutdown_lines = self._shutdown_lines or []
            self._note_phase("ending", code)
            code = max(code, self._shutdown.graceful())
        except Interrupted:
            self._interrupts.ignore()
            code = max(code, self._shutdown.forced())
        self._interrupts.ignore()
        self._note_phase("ended", code)
        return code

    def _say(self, text: str, style: str = "") -> None:
        if self._shutdown_lines is not None:
            self._shutdown_lines.append(text)
        _say(self._console, text, style)

    def _note_phase(self, phase: Phase, code: int) -> None:
        with contextlib.suppress(OSError):  # a full disk: readers of the record also wait for the process
            self._files.write(phase, code, tuple(self._shutdown_lines or ()))

    # start

    def _start_machine(self) -> None:
        port = self._flower_port
        address = self._settings.flower_address
        if port is not None and not port_is_free(address, port) and not self._machine.flower_runs():
            raise ComponentError(
                f"Flower cannot start: port {port} on {address} is in use. Choose another with --flower-port "
                "(or MANAGER_FLOWER_PORT), or use --no-flower"
            )
        self._machine.start_redis()
        if self._needs_venue():
            self._machine.start_venue()
        self._machine.start_agent()
        if port is not None:
            self._machine.start_flower(port)
        if self._api_port is not None:
            self._machine.start_api(self._api_port)
        self._say(self._header())

    def _needs_venue(self) -> bool:
        if self._settings.venue_url is not None:
            return False
        loaded = (self._configuration.read_account(a).config for a in self._configuration.list_accounts())
        return any(c is not None and c.enabled and uses_local_venue(c) for c in loaded)

    def _header(self) -> str:
        flower = f", Flower at http://{self._settings.flower_address}:{self._flower_port}"
        return (
            f"host {self._settings.host}, accounts in {self._settings.config_dir}"
            + (flower if self._flower_port is not None else "")
            + (f", API at {self._machine.api_url()}" if self._api_port is not None else "")
            + f". {self._how_it_ends()}"
        )

    def _how_it_ends(self) -> str:
        """Return the sentence that says how to stop everything."""
        if self._background:
            return "`manager down` stops everything."
        if not self._console.is_terminal:
            return "Ctrl-C stops everything."
        if sys.platform == "win32":
            return (
                "Ctrl-C stops everything: press it before you close this window. `manager up --detach` "
                "needs no window."
            )
        if not self._interrupts.hangup:
            return "Ctrl-C stops everything; closing this terminal stops nothing."
        return "Ctrl-C or closing this terminal stops everything; `manager up --detach` needs no terminal."

    def _start_accounts(self) -> int:
        """Validate and start the accounts.

        Returns 1 if a valid, enabled account does not run, or if a file could not be read.
        """
        results = self._service.validate_all_configs()
        self._not_read = self._service.not_read()
        for style, line in validation_lines(results):
            self._say(line, style)
        enabled = [name for name, on in self._service.enabled_accounts().items() if on]
        with batch_progress(
            self._console, "starting", enabled, self._machine.pending_reasons(starts=True)
        ) as progress:
            batch = self._service.start_all(progress=progress)
        self._others = _not_started(batch, results) | {
            key: ("not read", why) for key, why in self._not_read.items()
        }
        for state, why in self._others.values():
            if state == "failed":
                self._say(f"error: {why}", style="red")
        parts = [f"{len(batch.running)} running"]
        parts += [f"{len(batch.skipped)} disabled"] if batch.skipped else []
        parts += [f"{len(batch.resting)} resting"] if batch.resting else []
        parts += [f"{len(batch.failed)} not started"] if batch.failed else []
        parts += [f"{len(batch.pending)} unknown ({batch.trouble})"] if batch.trouble else []
        self._say(", ".join(parts))
        # A known invalid account is not a failure of `up`, but a file that was not read may be a missing
        # account.
        invalid = {name for name, result in results.items() if result.has_errors} - set(self._not_read)
        return int(not set(batch.failed) <= invalid or bool(batch.trouble))

    # run

    def _show_fleet(self) -> None:
        if not self._console.is_terminal:
            self._print_changes()
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(self._screen(), refresh=True)
                self._pause()

    def _screen(self) -> RenderableType:
        try:
            workers = self._service.list_workers()
        except (ManagerError, OSError) as error:
            return Group(Text(str(error), style="bold red"))
        counts: dict[str, int] = {}
        for info in workers:
            counts[info.status] = counts.get(info.status, 0) + 1
        # Reserve lines for the counts with a blank line above and below, the header, and the count of hidden
        # rows.
        room = max(1, self._console.height - 6)
        table = worker_table(workers, self._others, width=self._console.width, rows=room)
        hidden = len({*self._others, *(info.account_id for info in workers)}) - room
        more = [Text(f"{hidden} more: `manager ps -a` shows all", style="dim")] if hidden > 0 else []
        counted = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no workers"
        # Above the table, because the end of a table that does not fit is cut.
        hangup = self._interrupts.hangup
        ends = "Ctrl-C, or closing this terminal, stops everything." if hangup else "Ctrl-C stops everything."
        return Group(Text(""), Text(f"{counted}. {ends}", style="dim"), Text(""), table, *more)

    def _print_changes(self) -> None:
        before: Mapping[str, WorkerInfo] | None = None
        printed = ""
        while True:
            try:
                now = {info.account_id: info for info in self._service.list_workers()}
            except (ManagerError, OSError) as error:
                if str(error) != printed:
                    printed = str(error)
                    self._say(f"error: {printed}")
            else:
                printed = ""
                for line in change_lines(before, now) if before is not None else ():
                    self._say(line)
                before = now
            self._pause()

    def _pause(self) -> None:
        self._machine.supervise()
        self._lock.renew()
        time.sleep(_POLL_SECONDS)


def _not_started(batch: BatchResult, results: Mapping[str, ValidationResult]) -> dict[str, tuple[str, str]]:
    """Return why accounts have no worker, for the table."""
    others = dict.fromkeys(batch.skipped, ("disabled", "enabled: false"))
    for account_id, reason in batch.failed.items():
        result = results.get(account_id)
        if result is not None and result.has_errors:
            more = f" (and {len(result.errors) - 1} more)" if len(result.errors) > 1 else ""
            # Leave out the file name, which repeats the account id: a narrow table has no room for it.
            others[account_id] = (
                "invalid",
                result.errors[0].removeprefix(f"accounts/{account_id}.yaml:") + more,
            )
        else:
            others[account_id] = ("failed", reason)
    return others


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style, markup=False, highlight=False)
