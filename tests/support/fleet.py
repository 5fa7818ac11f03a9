"""A real fleet for a test: Redis, venue, host agent and workers."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import psutil

from manager.fleet import FleetStore
from manager.fleet.leases import LeaseStore
from manager.gateways.paper.client import VenueAdmin
from manager.system.processes import ProcessRef
from manager.system.state_dir import StatePaths
from support.servers import RedisServer
from support.waiting import eventually

SIGKILL: int = getattr(signal, "SIGKILL", signal.SIGTERM)
SIGSTOP: int = getattr(signal, "SIGSTOP", signal.SIGTERM)
#: The password of every account of a test fleet; tests search for it where it must not be.
PASSWORD = "correct-horse-battery-staple"


class Fleet:
    """A fleet's directories, environment and processes."""

    def __init__(
        self, directory: Path, redis: RedisServer, host: str = "test-host", beside: "Fleet | None" = None
    ) -> None:
        """Create a fleet, or another host of the fleet `beside`."""
        self.host = host
        self.redis = redis
        self.redis_url = redis.url
        self.extra_environment: dict[str, str] = {}
        self.config_dir: Path = beside.config_dir if beside else directory / "config"
        self.paths = StatePaths(directory / "state")
        (self.config_dir / "accounts").mkdir(parents=True, exist_ok=True)
        self.paths.create()
        self.venue_socket: Path = beside.venue_socket if beside else self.paths.venue_socket
        self.store = FleetStore(redis.url)
        LeaseStore(redis.url).trust()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.agent: subprocess.Popen[bytes] | None = None
        secret = self.config_dir / "secrets" / "password"
        secret.parent.mkdir(mode=0o700, exist_ok=True)
        secret.write_text(PASSWORD + "\n")
        secret.chmod(0o600)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith("MANAGER_")},
            "MANAGER_REDIS_URL": self.redis_url,
            "MANAGER_VENUE_URL": f"unix:{self.venue_socket}",
            "MANAGER_CONFIG_DIR": str(self.config_dir),
            "MANAGER_STATE_DIR": str(self.paths.root),
            "MANAGER_HOST": self.host,
            "MANAGER_LEASE_SECONDS": "3",
            "PYTHONWARNINGS": "default",
            **self.extra_environment,
        }

    # accounts

    def add_account(self, account_id: str, login: int | None, **changes: Any) -> None:
        """Write an account file for the paper venue, in JSON, which is valid YAML."""
        data: dict[str, Any] = {
            "gateway": "paper",
            "login": login,
            "server": "Paper-1",
            "password": "file:secrets/password",
            "timeout": 10_000,
            "currencies": [{"symbol": "EURUSD"}],
            "execution": {"interval_seconds": 1, "stop_timeout_seconds": 10},
            **changes,
        }
        path = self.config_dir / "accounts" / f"{account_id}.yaml"
        path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))

    def add_accounts(self, count: int) -> list[str]:
        ids = [f"account-{number:03}" for number in range(1, count + 1)]
        for number, account_id in enumerate(ids, 1):
            self.add_account(account_id, 5000 + number)
        return ids

    # processes

    def spawn(self, *argv: str, log: str) -> "subprocess.Popen[bytes]":
        """Start a process of the fleet with its output in `<logs>/<log>.log`."""
        with self.paths.component_log(log).open("ab") as output:
            process = self.start_process(argv, output)
        self.processes.append(process)
        return process

    def start_process(self, argv: tuple[str, ...], output: IO[bytes]) -> "subprocess.Popen[bytes]":
        """Start a process; subclasses start it in another network namespace."""
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=self.environment,
            start_new_session=True,
        )

    def start_venue(self) -> None:
        address = f"unix:{self.paths.venue_socket}"
        self.spawn(
            *(sys.executable, "-m", "manager.venue", "--dir", str(self.paths.venue_dir), "--listen", address),
            log="venue",
        )
        eventually(self.paths.venue_socket.exists, what="the venue listens")

    def start_agent(self) -> None:
        """Start the host agent with plain Celery, and wait until it has reported."""
        self.spawn_agent()
        self.await_agent()

    def await_agent(self) -> None:
        """Wait until the started agent has reported."""
        eventually(self._agent_is_live, within=30, what=f"the host agent is live: {self.log('agent')}")

    def spawn_agent(self) -> None:
        self.agent = self.spawn(
            *(sys.executable, "-m", "celery", "-A", "tasks", "worker", "-P", "threads", "-c", "64"),
            *("-Q", f"celery,host.{self.host}", "-n", f"agent@{self.host}"),
            *("--without-gossip", "--without-mingle"),
            log="agent",
        )

    def _agent_is_live(self) -> bool:
        assert self.agent is not None
        assert self.agent.poll() is None, self.log("agent")
        return any(state.live and state.report.pid == self.agent.pid for state in self.store.hosts())

    def log(self, name: str) -> str:
        path = self.paths.component_log(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def run(self, *arguments: str, timeout: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run a `manager` command as an operator would."""
        return subprocess.run(
            [sys.executable, "-m", "manager.cli", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def run_json(self, *arguments: str, timeout: float = 60) -> Any:
        done = self.run(*arguments, "--json", timeout=timeout)
        return json.loads(done.stdout)

    def workers(self) -> dict[str, ProcessRef]:
        """Return the processes of the workers in the host's records."""
        found: dict[str, ProcessRef] = {}
        for path in self.paths.workers_dir.glob("*.json"):
            with contextlib.suppress(ValueError, OSError):
                ref = ProcessRef.from_dict(json.loads(path.read_text()))
                if ref is not None:
                    found[path.stem] = ref
        return found

    def admin(self) -> VenueAdmin:
        """Return the venue's administration (faults, counters), a context manager."""
        return VenueAdmin(f"unix:{self.venue_socket}")

    def stats(self) -> dict[str, Any]:
        with self.admin() as admin:
            return admin.stats()

    def await_ticks(self, times: int = 2) -> None:
        """Wait for this number of further ticks of the agent's reconciler."""

        def ticks() -> int:
            return next(state.report.looks or 0 for state in self.store.hosts() if state.name == self.host)

        before = ticks()
        eventually(lambda: ticks() >= before + times, within=30, what="the reconciler ticks")

    def end_agent(self, number: int = SIGKILL) -> None:
        """End the agent by a signal, as a crash or an operator would."""
        assert self.agent is not None
        self.agent.send_signal(number)
        self.agent.wait(timeout=20)

    def status(self, account_id: str) -> str | None:
        info = self.store.get_worker(account_id)
        return None if info is None else str(info.status)

    def close(self) -> None:
        """End every process of the fleet; fail if one survives."""
        ours = list(self._everything())
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()  # paused by its test, or hung
        ours += self._everything()
        for ref in ours:
            ref.kill()
        for process in self.processes:
            process.wait(timeout=10)
        self.store.close()
        left = [ref for ref in ours if not ref.wait(5)]
        assert not left, f"processes left behind: {left}"

    def _everything(self) -> Iterator[ProcessRef]:
        yield from self.workers().values()
        for process in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    ref = ProcessRef.of(child.pid)
                    if ref is not None:
                        yield ref


def plain_celery(fleet: Fleet, script: str, extra: Mapping[str, str] | None = None) -> str:
    """Run a script in an interpreter with Celery and without the project.

    Return its output.
    """
    prelude = (
        "import sys\n"
        "sys.modules['manager'] = sys.modules['tasks'] = None\n"
        "from celery import Celery, group\n"
        f"app = Celery(broker={_celery(fleet.redis.url)!r}, backend={_celery(fleet.redis.url)!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", prelude + script],
        env={"PATH": os.environ.get("PATH", ""), **(extra or {})},
        cwd=fleet.paths.root,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _celery(url: str) -> str:
    return "redis+socket://" + url.removeprefix("unix://")
