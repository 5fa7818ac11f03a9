"""Stops this machine's workers, then the components of `manager up`."""

import contextlib
from typing import Final, Protocol

from rich.console import Console

from manager.client.outcomes import forced_stops
from manager.errors import ManagerError
from manager.local.machine import Machine
from manager.local.offline import stop_here
from manager.local.sweep import end_workers
from manager.service import WorkerManagerService
from manager.settings import Settings
from manager.system.state_dir import StatePaths
from manager.terminal.progress import batch_progress

#: Seconds for a component to end before it is killed.
_STOP_SECONDS: Final = 15.0


class Say(Protocol):
    """Prints a line."""

    def __call__(self, text: str, style: str = "") -> None: ...


class Shutdown:
    """Stops everything that `manager up` started on one machine.

    `manager up` uses it when it ends, and `manager down` when no `up` runs.
    """

    def __init__(
        self,
        settings: Settings,
        paths: StatePaths,
        machine: Machine,
        service: WorkerManagerService,
        console: Console,
        say: Say,
    ) -> None:
        self._settings = settings
        self._paths = paths
        self._machine = machine
        self._service = service
        self._console = console
        self._say = say
        #: Names of components that could not be stopped.
        self._still_running: list[str] = []

    def graceful(self) -> int:
        """Stop the workers, then the components; return 1 if something is left.

        Workers and components get time to end before they are killed. Blocks.
        """
        stopped, left = self._stop_workers()
        ended = [self._end_component(name, _STOP_SECONDS) for name in ("api", "flower", "agent")]
        if self._machine.owns_agent:
            # A start that was in progress may have created a worker after the stop above.
            swept = end_workers(self._paths, graceful=True)
            for account_id in swept.forced:
                self._say_forced(account_id, "it did not stop in time and was killed")
            stopped += len(swept.ended)
            left = swept.left
            if not left:
                self._machine.note_agent_ended()
        ended += [self._end_component("venue", _STOP_SECONDS), self._end_component("redis", _STOP_SECONDS)]
        return self._sum_up(stopped, left, [name for name in ended if name])

    def forced(self) -> int:
        """Kill workers and components at once; return 1 if something is left."""
        self._say("killing everything now")
        ended = [self._end_component(name, 0) for name in ("agent", "api", "flower")]
        killed: list[str] = []
        left: list[str] = []
        if self._machine.owns_agent:
            swept = end_workers(self._paths, graceful=False)
            killed, left = swept.ended, swept.left
            if killed:
                self._say(
                    f"killed without a normal stop: {', '.join(sorted(killed))}. Orders and positions may "
                    "still be open: check them at the broker",
                    style="yellow",
                )
            if not left:
                self._machine.note_agent_ended()
        ended += [self._end_component("venue", 0), self._end_component("redis", 2)]
        return self._sum_up(len(killed), left, [name for name in ended if name])

    def _end_component(self, name: str, seconds: float) -> str | None:
        """Stop one component and return its name for the summary, or None.

        A failure is printed, and does not prevent the stop of the other components.
        """
        try:
            return self._machine.stop(name, seconds)
        except (ManagerError, OSError) as error:
            self._say(f"error: {error}", style="red")
            self._still_running.append(name)
            return None

    def _stop_workers(self) -> tuple[int, list[str]]:
        if self._machine.agent_serves():
            try:
                return self._by_command()
            except ManagerError as error:
                self._say(f"error: {error}", style="red")
        return self._without_redis() if self._machine.owns_agent else (0, [])

    def _by_command(self) -> tuple[int, list[str]]:
        here = {
            info.account_id
            for info in self._service.list_workers()
            if info.placement.host == self._settings.host
        }
        mine = [account for account in self._service.worker_pool.stoppable() if account in here]
        with batch_progress(
            self._console, "stopping", mine, self._machine.pending_reasons(starts=False)
        ) as progress:
            result = self._service.worker_pool.stop_many(mine, None, progress)
        for account_id, why in forced_stops(result.done).items():
            self._say_forced(account_id, why)
        for text in result.failed.values():
            self._say(f"error: {text}", style="red")
        return len(result.done), list(result.failed)

    def _without_redis(self) -> tuple[int, list[str]]:
        """Stop the workers through local sockets, without Redis."""
        with contextlib.suppress(ManagerError):
            stops = stop_here(self._settings, None, None)
            for stop in stops:
                if stop.outcome == "stopped" and stop.text:
                    self._say_forced(stop.account_id, stop.text)
            done = [stop for stop in stops if stop.outcome == "stopped"]
            return len(done), [stop.account_id for stop in stops if stop.outcome == "failed"]
        return 0, []

    def _say_forced(self, account_id: str, why: str) -> None:
        self._say(
            f"{account_id} stopped by force: {why}. Orders and positions may still be open: check them at "
            "the broker",
            style="yellow",
        )

    def _sum_up(self, workers: int, left: list[str], ended: list[str]) -> int:
        what = [f"{workers} worker{'s' * (workers != 1)}", *ended]
        self._say(f"stopped {', '.join(what)}; data and logs are in {self._paths.root}")
        if left:
            self._say(
                f"error: still running, and may trade: {', '.join(left)}. `manager ps --local` shows their "
                "processes",
                style="bold red",
            )
        return int(bool(left or self._still_running))
