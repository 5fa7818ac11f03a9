"""The components of `manager up`: Redis, venue, agent, API, Flower."""

import contextlib
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from manager.errors import ComponentError, FleetUnavailableError, ManagerError
from manager.factory import fleet_store
from manager.fleet import FleetStore, fleet_url, safe_url
from manager.fleet.leases import LeaseStore
from manager.gateways.base import GatewayError
from manager.gateways.paper.address import venue_address
from manager.gateways.paper.client import VenueAdmin
from manager.local.agent import agent_argv, agent_environment, shared_settings
from manager.local.component import Component
from manager.local.flower import flower_argv, flower_environment
from manager.local.interrupts import Interrupts
from manager.local.redis_server import local_redis, version_problem
from manager.settings import Settings
from manager.system.child_process import module_argv
from manager.system.environment import clean_environment
from manager.system.file_lock import FileLock
from manager.system.processes import ProcessRef
from manager.system.state_dir import StatePaths
from manager.system.storage import explain, write_problem
from manager.terminal.pending_reasons import PendingReasons

#: Seconds for a component to become ready. A Redis with a large file, or an agent on a slow disk, starts
#: slowly.
_READY_SECONDS: Final = 60.0
#: Shortest and longest pause, in seconds, between restarts of a component that dies repeatedly.
_BACKOFF: Final = (1.0, 30.0)
#: Seconds for a component whose socket was removed to end before it is killed.
_SOCKET_SECONDS: Final = 10.0
#: Components on which no trading depends. One is not restarted after this number of deaths within a minute.
_OPTIONAL: Final = frozenset({"flower", "api"})
_OPTIONAL_TRIES: Final = 5
#: A file next to Redis's data: Redis wrote everything before it ended. Without this file leases may be
#: missing.
_CLEAN_END: Final = "ended-in-order"
#: Seconds between checks that the state directory is writable.
_PROBE_SECONDS: Final = 5.0

Say = Callable[[str], None]


class Machine:
    """Starts, supervises and stops the components. Not thread-safe."""

    def __init__(self, settings: Settings, paths: StatePaths, interrupts: Interrupts, say: Say) -> None:
        self._settings = settings
        self._paths = paths
        self._interrupts = interrupts
        self._say = say
        self._started: list[Component] = []
        self._deaths: dict[str, deque[float]] = {}
        self._retry_at: dict[str, float] = {}
        #: Component → the last error that was printed for it.
        self._errors: dict[str, str] = {}
        self._next_probe = 0.0
        self._disk_trouble: str | None = None
        #: Component → its socket, once the socket exists. A component whose socket was removed is
        #: unreachable.
        self._sockets: dict[str, Path] = {}
        self.store: FleetStore = fleet_store(settings)
        #: False if the host agent of this machine was not started by `manager up`.
        self.owns_agent = False

    # starting

    def start_redis(self) -> None:
        """Check the Redis of MANAGER_REDIS_URL, or start or adopt a local one.

        Raises:
            ComponentError: Redis is too old, cannot be started, or is not ready in time.
            FleetUnavailableError: the Redis of MANAGER_REDIS_URL does not answer.
        """
        if self._settings.redis_url is not None and self._settings.redis_url.get_secret_value():
            version = str(self.store.ping().get("redis_version", ""))
            trouble = version_problem(version)
            if trouble is not None:
                raise ComponentError(f"{safe_url(fleet_url(self._settings))}: {trouble}")
            return
        component = local_redis(self._paths)
        if not component.adopt():
            self._adopt_redis(component)
        clean_end = self._paths.redis_dir / _CLEAN_END
        # Redis's data is complete if it ended cleanly, or if neither data nor worker records existed.
        complete = clean_end.exists() or not (
            any(self._paths.redis_dir.iterdir()) or any(self._paths.workers_dir.glob("*.json"))
        )
        try:
            clean_end.unlink(missing_ok=True)
        except OSError as error:
            raise ComponentError(explain(error, self._paths.redis_dir)) from None
        started = component.process is None
        self._run(component, "Redis", self._redis_answers)
        if started and complete:
            LeaseStore(self.store.url).trust()

    def start_venue(self) -> None:
        """Start or adopt this machine's paper venue. Raises ComponentError."""
        listen = f"unix:{self._paths.venue_socket}" if sys.platform != "win32" else "tcp:127.0.0.1:0"
        argv = module_argv(
            *("manager.venue", "--dir", str(self._paths.venue_dir), "--listen", listen),
            *("--address-file", str(self._paths.venue_address)),
            *("--seed", str(self._settings.venue_seed)),
        )
        self._run(Component("venue", argv, clean_environment(), self._paths), "venue", self._venue_answers)

    def start_agent(self) -> None:
        """Start or adopt a host agent, or use one that was started otherwise.

        Raises ComponentError.
        """
        # The agent opens its log by name, so that it can rotate it and reopen it after a move.
        log_file = self._settings.log_file or self._paths.component_log("agent")
        settings = self._settings.model_copy(update={"log_file": log_file})
        component = Component("agent", agent_argv(settings), agent_environment(settings), self._paths)
        if not component.adopt() and self._agent_pid() is not None:
            self._say(
                f"using the host agent that already runs here (pid {self._agent_pid()}); `manager up` will "
                "not stop it"
            )
            return
        self.owns_agent = True
        self._run(component, "host agent", lambda: self._agent_pid() == self._pid(component))

    def start_flower(self, port: int) -> None:
        """Start or adopt Flower, read-only. `port` is its TCP port."""
        argv, environment = flower_argv(self._settings, port), flower_environment(self._settings)
        component = Component("flower", argv, environment, self._paths)
        self._run(component, "Flower", lambda: not port_is_free(self._settings.flower_address, port))

    def start_api(self, port: int) -> None:
        """Start or adopt the HTTP API. `port` is its TCP port; 0: any free one.

        Raises ComponentError.
        """
        address = self._settings.api_address
        component = Component("api", [], {}, self._paths)
        running = component.adopt()
        if port and not running and not port_is_free(address, port):
            raise ComponentError(
                f"the API cannot start: port {port} on {address} is in use. Choose another with --api-port "
                "(or MANAGER_API_PORT), or use --no-api"
            )
        file = self._api_address_file
        if not running:
            file.unlink(missing_ok=True)
        argv = module_argv("manager.cli", "api", "--port", str(port), "--address-file", str(file))
        environment = clean_environment(shared_settings(self._settings))
        self._run(Component("api", argv, environment, self._paths), "API", file.exists)

    def api_url(self) -> str | None:
        """Return the URL of the API that runs here, or None."""
        try:
            return self._api_address_file.read_text()
        except (OSError, UnicodeDecodeError):
            return None

    def flower_runs(self) -> bool:
        """Return whether an earlier `up` left a Flower, which may use the port."""
        return Component("flower", [], {}, self._paths).adopt()

    def adopt_all(self) -> list[str]:
        """Adopt the components that an earlier `up` left, and return their names.

        Starts nothing.
        """
        for name in ("redis", "venue", "agent", "flower", "api"):
            component = Component(name, [], {}, self._paths)
            if not component.adopt() and name == "redis" and self._settings.redis_url is None:
                self._adopt_redis(component)
            if component.process is not None:
                self._started.append(component)
        # `up` removes this record after it has stopped its agent. While it exists, the workers belong to that
        # `up`.
        self.owns_agent = self._agent_record.exists() and not self._foreign_agent()
        return [component.name for component in self._started]

    # supervising

    def supervise(self) -> None:
        """Restart components that have died; call this about every second.

        Raises only Interrupted. After a failure it prints the error once and tries again later.
        """
        self._check_disk()
        for component in list(self._started):
            try:
                self._supervise(component)
            except (ManagerError, OSError, RuntimeError, MemoryError) as error:
                self._retry_at[component.name] = time.monotonic() + _BACKOFF[1] / 3
                if self._errors.get(component.name) != str(error):
                    self._errors[component.name] = str(error)
                    self._say(f"error: {error}; trying again every {_BACKOFF[1] / 3:g} s")
            else:
                if component.alive:
                    self._errors.pop(component.name, None)

    def _supervise(self, component: Component) -> None:
        now = time.monotonic()
        component.restore_record()
        if component.alive and self._socket_gone(component):
            self._say(f"{component.name}: its socket was removed; restarting it")
            with self._interrupts.deferred():
                component.stop(_SOCKET_SECONDS)
                component.start()
            return
        if component.alive or now < self._retry_at.get(component.name, 0.0):
            return
        deaths = self._deaths.setdefault(component.name, deque(maxlen=_OPTIONAL_TRIES))
        deaths.append(now)
        recent = sum(now - death < 60 for death in deaths)
        if component.name in _OPTIONAL and recent >= _OPTIONAL_TRIES:
            self._say(
                f"{component.exit_reason()}; not restarted after {recent} ends in a minute. Workers are not "
                "affected"
            )
            component.stop(0)
            self._started.remove(component)
            return
        pause = min(_BACKOFF[1], _BACKOFF[0] * 2 ** (recent - 1))
        self._retry_at[component.name] = now + pause
        self._say(f"{component.exit_reason()}; restarting it")
        with self._interrupts.deferred():
            component.start()

    def _check_disk(self) -> None:
        """Print when the state directory stops being writable, and when it is again."""
        if time.monotonic() < self._next_probe:
            return
        self._next_probe = time.monotonic() + _PROBE_SECONDS
        trouble = write_problem(self._paths.root)
        if trouble is not None and self._disk_trouble is None:
            self._say(
                f"error: {trouble}. Until then running workers continue, no worker starts, and commands "
                "through this machine's Redis fail; `manager stop ACCOUNT --local` works"
            )
        elif trouble is None and self._disk_trouble is not None:
            self._say(f"{self._paths.root} is writable again; this machine works normally")
        self._disk_trouble = trouble

    # stopping

    def stop(self, name: str, seconds: float) -> str | None:
        """Stop one component and kill it after `seconds`.

        Returns its name, with a note if it had to be killed, or None if it does not run. Raises
        ComponentError if it cannot be killed.
        """
        component = next((c for c in self._started if c.name == name), None)
        if component is None:
            return None
        if not component.stop(seconds):
            raise ComponentError(f"{name} could not be stopped: see its log {component.log_file}")
        self._started.remove(component)
        if name == "api":
            self._api_address_file.unlink(missing_ok=True)
        if name == "redis" and component.exit_code == 0:
            # Without this file the next Redis starts with a quarantine of one lease time.
            with contextlib.suppress(OSError):
                (self._paths.redis_dir / _CLEAN_END).touch(mode=0o600)
        return f"{name} (killed: it did not stop within {seconds:g} s)" if component.forced else name

    def note_agent_ended(self) -> None:
        """Record that this machine's agent and all of its workers have ended."""
        self._agent_record.unlink(missing_ok=True)

    def pending_reasons(self, *, starts: bool) -> PendingReasons:
        """Return the reader of reasons why accounts are pending."""
        return PendingReasons(self.store, LeaseStore(self.store.url) if starts else None)

    def agent_serves(self) -> bool:
        """Return whether a host agent of this machine can receive a stop."""
        with contextlib.suppress(FleetUnavailableError):
            return self._agent_pid() is not None
        return False

    # inside

    @property
    def _api_address_file(self) -> Path:
        return self._paths.run_dir / "api.address"

    @property
    def _agent_record(self) -> Path:
        return self._paths.run_dir / "agent.json"

    def _foreign_agent(self) -> bool:
        """Return whether an agent that no `up` started uses this state directory."""
        lock = FileLock(self._paths.agent_lock)
        mine = next((c.process.pid for c in self._started if c.name == "agent" and c.process), None)
        return lock.held() and lock.holder() != mine

    def _socket_gone(self, component: Component) -> bool:
        """Return whether the socket of a component existed and was removed."""
        path = {"redis": self._paths.redis_socket, "venue": self._paths.venue_socket}.get(component.name)
        if path is None or sys.platform == "win32":
            return False
        if path.exists():
            self._sockets[component.name] = path
            return False
        # Only once per socket: a restarted component needs a moment to create it.
        return self._sockets.pop(component.name, None) is not None

    def _run(self, component: Component, title: str, ready: Callable[[], bool]) -> None:
        if component.process is not None or component.adopt():
            self._started.append(component)
            self._say(f"{title}: using the one of an earlier run (pid {self._pid(component)})")
        else:
            with self._interrupts.deferred():
                component.start()
                self._started.append(component)
        deadline = time.monotonic() + _READY_SECONDS
        while not ready():
            if not component.alive:
                raise ComponentError(component.exit_reason())
            if time.monotonic() > deadline:
                raise ComponentError(
                    f"{title} was not ready after {_READY_SECONDS:g} s: see its log {component.log_file}"
                )
            time.sleep(0.05)

    def _adopt_redis(self, component: Component) -> None:
        """Adopt a Redis that answers on our socket but has no record."""
        with contextlib.suppress(FleetUnavailableError):
            component.process = ProcessRef.of(int(self.store.ping()["process_id"]))

    @staticmethod
    def _pid(component: Component) -> int | None:
        return component.process.pid if component.process else None

    def _redis_answers(self) -> bool:
        try:
            self.store.ping()
        except FleetUnavailableError:
            return False
        return True

    def _venue_answers(self) -> bool:
        address = venue_address(self._settings)
        if address is None:
            return False
        try:
            with VenueAdmin(address) as venue:
                venue.stats()
        except GatewayError:
            return False
        return True

    def _agent_pid(self) -> int | None:
        """Return the pid of the live agent that serves this machine's host name from this machine."""
        for host in self.store.hosts():
            if host.name == self._settings.host and host.live:
                process = ProcessRef.from_dict(dict(host.data))
                if process is not None and process.alive():
                    return process.pid
        return None


def port_is_free(address: str, port: int) -> bool:
    """Return whether no other process listens on this TCP address."""
    with _listening_socket() as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _listening_socket() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yield probe
