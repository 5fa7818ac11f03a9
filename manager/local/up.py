"""`manager up`: one machine's whole fleet in the foreground, from nothing to a live table, and back to nothing."""

import time
from collections.abc import Mapping
from typing import IO, Final, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from manager.config import ConfigurationService
from manager.config.starting_files import write_demo_fleet
from manager.errors import ComponentError, ManagerError, SettingsError
from manager.factory import build_service
from manager.local.interrupts import Interrupted, Interrupts
from manager.local.machine import Machine, port_is_free
from manager.local.output_guard import GuardedOutput
from manager.local.sweep import end_workers
from manager.models import BatchResult, ValidationResult, WorkerInfo
from manager.service import WorkerManagerService
from manager.settings import Settings
from manager.system.file_lock import FileLock
from manager.system.processes import raise_file_limit
from manager.system.state_dir import StatePaths
from manager.system.storage import explain
from manager.terminal.progress import batch_progress
from manager.terminal.tables import change_lines, validation_lines, worker_table

#: Seconds between two looks at the fleet.
_LOOK_SECONDS: Final = 1.0
#: Seconds that a component may take to end in order.
_END_SECONDS: Final = 15.0


def run_up(
    settings: Settings, *, demo: bool, flower: bool, flower_port: int | None, once: bool, console: Console
) -> int:
    """Run until an interrupt (or, with `once`, until all have started), then end everything that was started.

    Returns 0, or 1 if something could not be started or ended. Raises ManagerError before anything was started.
    """
    paths = StatePaths(settings.state_dir)
    paths.create()
    raise_file_limit()
    console.file = cast(IO[str], GuardedOutput(console.file))
    lock = FileLock(paths.run_dir / "up.lock")
    try:
        locked = lock.acquire()
    except OSError as error:
        raise ComponentError(explain(error, paths.run_dir)) from None
    if not locked:
        raise ComponentError(
            f"`manager up` runs here already (pid {lock.holder()}, state in {paths.root}): look with `manager ps`, "
            "end it with Ctrl-C in its terminal"
        )
    try:
        configuration = ConfigurationService(settings.config_dir)
        _prepare_accounts(settings, configuration, console, demo=demo)
        with Interrupts() as interrupts:
            port = (flower_port or settings.flower_port) if flower else None
            return _Up(settings, paths, configuration, interrupts, console, port, lock).run(once=once)
    finally:
        lock.release()


def _prepare_accounts(
    settings: Settings, configuration: ConfigurationService, console: Console, *, demo: bool
) -> None:
    directory = settings.config_dir
    if demo:
        if write_demo_fleet(directory):
            _say(console, f"wrote a demo fleet to {directory}")
        else:
            _say(console, f"{directory} has files already: they are used as they are")
    if not directory.exists():
        raise SettingsError(
            f"no configuration in {directory}: `manager init` writes starting files there, `manager up --demo` an "
            "example fleet; MANAGER_CONFIG_DIR names another directory"
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
        lock: FileLock,
    ) -> None:
        self._lock = lock
        self._settings = settings
        self._paths = paths
        self._configuration = configuration
        self._interrupts = interrupts
        self._console = console
        self._flower_port = flower_port
        self._machine = Machine(settings, paths, interrupts, self._say)
        self._service: WorkerManagerService = build_service(settings)
        self._others: dict[str, tuple[str, str]] = {}
        #: Components that could not be ended.
        self._unended: list[str] = []

    def run(self, *, once: bool) -> int:
        code = 0
        try:
            try:
                self._start_machine()
                code = self._start_accounts()
                if not once:
                    self._show_fleet()
            except Interrupted:
                self._interrupts.taken()
                self._say("stopping; Ctrl-C again to stop at once")
            except (ManagerError, OSError) as error:
                self._say(f"error: {error}", style="red")
                code = 1
            return max(code, self._end())
        except Interrupted:
            self._interrupts.ignore()
            return max(code, self._end_at_once())

    def _say(self, text: str, style: str = "") -> None:
        _say(self._console, text, style)

    # from nothing to a fleet

    def _start_machine(self) -> None:
        port = self._flower_port
        address = self._settings.flower_address
        if port is not None and not port_is_free(address, port) and not self._machine.flower_runs():
            raise ComponentError(
                f"port {port} on {address} is in use, and Flower wants it: choose another with --flower-port "
                "(MANAGER_FLOWER_PORT), or go without: --no-flower"
            )
        self._machine.start_redis()
        if self._needs_venue():
            self._machine.start_venue()
        self._machine.start_agent()
        if port is not None:
            self._machine.start_flower(port)
        self._say(self._header())

    def _needs_venue(self) -> bool:
        if self._settings.venue_url is not None:
            return False
        loaded = (self._configuration.read_account(a).config for a in self._configuration.list_accounts())
        return any(c is not None and c.enabled and c.gateway == "paper" and c.venue is None for c in loaded)

    def _header(self) -> str:
        flower = f", Flower at http://{self._settings.flower_address}:{self._flower_port}"
        return (
            f"host {self._settings.host}, accounts in {self._settings.config_dir}"
            + (flower if self._flower_port is not None else "")
            + ". Ctrl-C stops everything."
        )

    def _start_accounts(self) -> int:
        """Validate and start; 1 if a valid, enabled account does not run now."""
        results = self._service.validate_all_configs()
        for style, line in validation_lines(results):
            self._say(line, style)
        enabled = sum(on is not False for on in self._service.enabled_accounts().values())
        with batch_progress(self._console, "starting", enabled) as progress:
            batch = self._service.start_all(progress=progress)
        self._others = _not_started(batch, results)
        parts = [f"{len(batch.running)} running"]
        parts += [f"{len(batch.skipped)} disabled"] if batch.skipped else []
        parts += [f"{len(batch.failed)} not started"] if batch.failed else []
        parts += [f"{len(batch.pending)} unknown ({batch.trouble})"] if batch.trouble else []
        self._say(", ".join(parts))
        for state, why in self._others.values():
            if state == "failed":
                self._say(f"error: {why}", style="red")
        invalid = {name for name, result in results.items() if result.has_errors}
        return int(not set(batch.failed) <= invalid or bool(batch.trouble))

    # a fleet that lives

    def _show_fleet(self) -> None:
        if not self._console.is_terminal:
            self._tell_changes()
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
        table = worker_table(workers, self._others, width=self._console.width)
        counted = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no workers"
        # Above the table: a fleet of hundreds is longer than the screen, and what does not fit is cut below.
        return Group(Text(""), Text(f"{counted}. Ctrl-C stops everything.", style="dim"), Text(""), table)

    def _tell_changes(self) -> None:
        seen: Mapping[str, WorkerInfo] | None = None
        told = ""
        while True:
            try:
                now = {info.account_id: info for info in self._service.list_workers()}
            except (ManagerError, OSError) as error:
                if str(error) != told:
                    told = str(error)
                    self._say(f"error: {told}")
            else:
                told = ""
                for line in change_lines(seen, now) if seen is not None else ():
                    self._say(line)
                seen = now
            self._pause()

    def _pause(self) -> None:
        self._machine.keep()
        self._lock.renew()
        time.sleep(_LOOK_SECONDS)

    # from a fleet to nothing

    def _end(self) -> int:
        """Stop this machine's workers politely, then what they needed; 1 if something is left."""
        stopped, left = self._stop_workers()
        ended = [self._end_component("flower", _END_SECONDS), self._end_component("agent", _END_SECONDS)]
        if self._machine.owns_agent:
            # A start that was still on its way has finished by now, unseen by the stop above.
            swept, held = end_workers(self._paths, polite=True)
            stopped += len(swept)
            left = held
        ended += [self._end_component("venue", _END_SECONDS), self._end_component("redis", _END_SECONDS)]
        return self._sum_up(stopped, left, [name for name in ended if name])

    def _end_component(self, name: str, seconds: float) -> str | None:
        """End one component; one that cannot be ended is named, and keeps none of the others from being ended."""
        try:
            return self._machine.stop(name, seconds)
        except (ManagerError, OSError) as error:
            self._say(f"error: {error}", style="red")
            self._unended.append(name)
            return None

    def _stop_workers(self) -> tuple[int, list[str]]:
        if not self._machine.agent_serves():
            return 0, []
        try:
            here = {
                info.account_id
                for info in self._service.list_workers()
                if info.metadata.get("host") == self._settings.host
            }
            mine = [account for account in self._service.worker_pool.stoppable() if account in here]
            with batch_progress(self._console, "stopping", len(mine)) as progress:
                result = self._service.worker_pool.stop_many(mine, None, progress)
        except ManagerError as error:
            self._say(f"error: {error}", style="red")
            return 0, []
        for text in result.failed.values():
            self._say(f"error: {text}", style="red")
        return len(result.done), list(result.failed)

    def _end_at_once(self) -> int:
        """Kill everything that this machine runs, workers too; 1 if something is left."""
        self._say("stopping at once")
        ended = [self._end_component(name, 0) for name in ("agent", "flower")]
        killed: list[str] = []
        left: list[str] = []
        if self._machine.owns_agent:
            killed, left = end_workers(self._paths, polite=False)
        ended += [self._end_component("venue", 0), self._end_component("redis", 2)]
        return self._sum_up(len(killed), left, [name for name in ended if name])

    def _sum_up(self, workers: int, left: list[str], ended: list[str]) -> int:
        what = [f"{workers} worker{'s' * (workers != 1)}", *ended]
        self._say(f"stopped {', '.join(what)}; data and logs stay in {self._paths.root}")
        if left:
            self._say(
                f"error: still running: {', '.join(left)}: they may trade; look at their processes",
                style="bold red",
            )
        return int(bool(left or self._unended))


def _not_started(batch: BatchResult, results: Mapping[str, ValidationResult]) -> dict[str, tuple[str, str]]:
    """Return why accounts have no worker, for the table."""
    others = dict.fromkeys(batch.skipped, ("disabled", "enabled: false"))
    for account_id, reason in batch.failed.items():
        result = results.get(account_id)
        if result is not None and result.has_errors:
            more = f" (and {len(result.errors) - 1} more)" if len(result.errors) > 1 else ""
            others[account_id] = ("invalid", result.errors[0] + more)
        else:
            others[account_id] = ("failed", reason)
    return others


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style, markup=False, highlight=False)
