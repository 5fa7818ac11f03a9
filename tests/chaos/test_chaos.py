"""Random faults on twenty accounts, three hosts and two managers.

    python -m pytest tests/chaos -m chaos            CHAOS_SECONDS=120 and a new CHAOS_SEED by default

No account may ever have two sessions, and no stop may be lost. The seed is printed; equal seeds give equal
schedules of faults and commands, but the machine's timing differs. The invariants are checked throughout, and
at the end the actual state must equal desired state.
"""

import contextlib
import json
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, Literal

import psutil
import pytest
import redis
from pydantic import SecretStr
from support import bot, slow_share
from support.fleet import PASSWORD, SIGKILL, SIGSTOP, Fleet
from support.proxy import Proxy
from support.servers import RedisServer
from support.waiting import eventually

from manager.change.rollout_store import RolloutStore
from manager.change.rollouts import UNDER_WAY, RolloutOptions
from manager.client.hosts import FleetHosts
from manager.client.rollouts import FleetRollouts
from manager.errors import FleetUnavailableError, ManagerError
from manager.factory import build_service
from manager.fleet import FleetStore
from manager.fleet.audit import AuditTrail
from manager.fleet.desired_store import DesiredStore
from manager.fleet.leases import LeaseStore
from manager.fleet.overrides import OverrideStore
from manager.market.decisions import Override, OverrideKind
from manager.settings import Settings
from manager.states import WorkerLifecycleStatus
from manager.system.processes import ProcessRef

if sys.platform != "linux":
    pytest.skip("limits and signals of Linux", allow_module_level=True)
assert sys.platform == "linux", "what follows is not type-checked for other platforms"

pytestmark = [pytest.mark.chaos, pytest.mark.e2e]

SECONDS = float(os.environ.get("CHAOS_SECONDS", "120"))
SEED = int(os.environ.get("CHAOS_SEED", str(random.SystemRandom().randrange(1_000_000))))
ACCOUNTS = 20
#: Seconds after the last fault within which everything must be in its desired state.
SETTLE_SECONDS = 60.0
STALE_SECONDS = 5.0
#: Number of accounts, the last ones, with a program: a shell whose bot has detached from it.
WRAPPERS = 5
BOT = bot.__file__
#: Directory for a limit of one process's threads (cgroup v1); on other systems this fault does nothing.
PIDS_CGROUP = Path("/sys/fs/cgroup/pids")
SIGCONT = int(getattr(signal, "SIGCONT", 0))


@dataclass
class History:
    """The commands that managers sent for one account, and their results."""

    starts_open: int = 0
    last_start_issued: float = 0.0
    #: Time from which no session may exist: a stop returned, and no start was pending then or sent since.
    quiet_since: float | None = None


@dataclass
class Watch:
    """The violations that were found."""

    wrong: list[str] = field(default_factory=list)
    commands: dict[str, int] = field(default_factory=dict)

    def say(self, text: str) -> None:
        if text not in self.wrong:
            self.wrong.append(text)

    def count(self, what: str) -> None:
        self.commands[what] = self.commands.get(what, 0) + 1


class ChaosHost(Fleet):
    """A host whose Redis is behind a proxy, and whose agent is started again when it dies."""

    def __init__(self, directory: Path, redis: RedisServer, host: str, beside: "Fleet | None") -> None:
        super().__init__(directory, redis, host, beside)
        self.store = FleetStore(redis.url, stale_after_seconds=STALE_SECONDS)
        self.proxy = Proxy(redis.socket)
        self.redis_url = f"redis://127.0.0.1:{self.proxy.port}/0"
        self.log_readers: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {
            "MANAGER_LEASE_SECONDS": "4",
            "MANAGER_STALE_AFTER_SECONDS": str(STALE_SECONDS),
            "MANAGER_HEARTBEAT_INTERVAL_SECONDS": "0.5",
            # Python imports this first in every process of the fleet: see `slow_share`.
            "PYTHONPATH": str(Path(slow_share.__file__).parent / "slow_share_site"),
            slow_share.DIRECTORY: str(self.config_dir),
        }

    def start_process(self, argv: tuple[str, ...], output: IO[bytes]) -> "subprocess.Popen[bytes]":
        """Start a process whose output goes to a pipe; another process copies it and can be paused."""
        reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=output)
        assert reader.stdin is not None
        self.log_readers.append(reader)
        with reader.stdin as pipe:
            return super().start_process(argv, pipe)

    def keep_agent(self) -> None:
        if self.agent is None or self.agent.poll() is not None:
            self.spawn_agent()

    def close(self) -> None:
        for ref in [*self.workers().values(), *self._agents()]:
            ref.signal(SIGCONT)
        for reader in self.log_readers:
            reader.send_signal(SIGCONT)
        super().close()
        self.proxy.close()
        for reader in self.log_readers:
            reader.wait(timeout=10)

    def _agents(self) -> list[ProcessRef]:
        found = [ProcessRef.of(process.pid) for process in self.processes if process.poll() is None]
        return [ref for ref in found if ref is not None]


class Chaos:
    def __init__(self, directory: Path) -> None:
        (directory / "redis").mkdir()
        self.redis = RedisServer(directory / "redis")
        one = ChaosHost(directory / "one", self.redis, "one", None)
        self.hosts = [one, *(ChaosHost(directory / name, self.redis, name, one) for name in ("two", "three"))]
        self.fleet_hosts = FleetHosts(
            FleetStore(self.redis.url),
            DesiredStore(self.redis.url),
            AuditTrail(self.redis.url),
            LeaseStore(self.redis.url),
        )
        self.rollout_store = RolloutStore(self.redis.url)
        self.rollouts = FleetRollouts(
            self.rollout_store,
            FleetStore(self.redis.url),
            DesiredStore(self.redis.url),
            AuditTrail(self.redis.url),
        )
        self.ids = [f"account-{number:03}" for number in range(1, ACCOUNTS + 1)]
        for number, account_id in enumerate(self.ids, 1):
            program = self.wrapper(5000 + number) if account_id in self.ids[-WRAPPERS:] else {}
            one.add_account(
                account_id,
                5000 + number,
                failover="auto" if number % 4 == 0 else "never",
                host=None if number % 5 else one.host,
                **program,
                recovery={"max_restarts": 1000, "max_backoff_seconds": 2, "backoff_seconds": 0.2},
                health={"hang_after_seconds": 3},
                execution={"interval_seconds": 1, "stop_timeout_seconds": 5},
            )
        #: Account → what its file should contain.
        self.files = {
            account_id: (one.config_dir / "accounts" / f"{account_id}.yaml").read_text()
            for account_id in self.ids
        }
        self.histories = {account_id: History() for account_id in self.ids}
        self.lock = threading.Lock()
        self.watch = Watch()
        self.over = threading.Event()
        self.redis_lock = threading.Lock()
        self.undo: list[Callable[[], None]] = []

    def wrapper(self, login: int) -> dict[str, Any]:
        """Return keys of an account whose bot detaches from its shell.

        The bot has another session and an empty environment.
        """
        bot = shlex.join([sys.executable, BOT, f"unix:{self.hosts[0].venue_socket}", str(login), PASSWORD])
        return {
            "gateway": "command",
            "command": ["/bin/sh", "-c", f"env -i setsid {bot} & wait"],
            "ready": {"line": "session"},
            "stop": {"deadline_seconds": 2},
            "password": None,
            "currencies": None,
        }

    def close(self) -> None:
        for host in reversed(self.hosts):
            host.close()
        self.redis.close()

    # commands

    def manage(self, number: int) -> None:
        """One manager: sends random commands until the end."""
        dice = random.Random(f"{SEED}-manager-{number}")
        settings = Settings(
            redis_url=SecretStr(self.redis.url),
            config_dir=self.hosts[0].config_dir,
            state_dir=self.hosts[0].paths.root,
            command_timeout_seconds=15.0,
        )
        service = build_service(settings)
        if number == 1:
            service.start_all()
        while not self.over.wait(dice.uniform(0.02, 0.4)):
            account_id = dice.choice(self.ids)
            action = dice.choice(["start", "start", "start", "stop", "stop", "restart", "move"])
            outcome = "done"
            began = self._issued(account_id, action)
            try:
                match action:
                    case "start":
                        service.start_worker_from_config(account_id)
                    case "stop":
                        service.stop_worker(account_id, timeout=dice.choice([None, 1.0]))
                    case "move":
                        service.move_worker(account_id, dice.choice(self.hosts).host)
                    case _:
                        service.restart_worker(account_id)
            except ManagerError as error:
                outcome = error.code
            self._answered(account_id, action, began, outcome)

    def _issued(self, account_id: str, action: str) -> float:
        now = time.monotonic()
        with self.lock:
            history = self.histories[account_id]
            if action != "stop":
                history.starts_open += 1
                history.last_start_issued = now
                history.quiet_since = None
        return now

    def _answered(self, account_id: str, action: str, began: float, outcome: str) -> None:
        self.watch.count(f"{action}: {outcome}")
        with self.lock:
            history = self.histories[account_id]
            if action != "stop":
                history.starts_open -= 1
                # The start may have been placed before a stop that returned while the start was pending.
                history.last_start_issued = time.monotonic()
            elif outcome == "done" and history.starts_open == 0 and history.last_start_issued < began:
                history.quiet_since = time.monotonic()

    # faults

    def harm(self) -> None:
        """The schedule of faults; each is undone after a random time."""
        dice = random.Random(f"{SEED}-faults")
        faults = [
            self.kill_agent,
            self.pause_agent,
            *[self.kill_worker] * 3,
            *[self.kill_guard] * 2,
            self.kill_worker_and_guard,
            *[self.pause_worker] * 2,
            self.cut,
            self.swallow,
            self.restart_redis,
            self.kill_redis,
            self.empty_redis,
            self.lose_venue,
            *[self.drain_host] * 2,
            self.run_out_of_files,
            self.run_out_of_threads,
            self.leave_log_unread,
            self.hang_share,
            self.lose_records,
            self.lose_lease,
            self.kill_guardian,
            *[self.rest] * 2,
            *[self.edit_file] * 2,
            *[self.roll_out] * 2,
        ]
        while not self.over.wait(dice.uniform(0.5, 3.0)):
            fault = dice.choice(faults)
            self.watch.count(f"fault: {fault.__name__}")
            with contextlib.suppress(OSError, psutil.Error, ManagerError):
                fault(dice)

    def kill_agent(self, dice: random.Random) -> None:
        agent = dice.choice(self.hosts).agent
        if agent is not None and agent.poll() is None:
            agent.send_signal(SIGKILL)

    def pause_agent(self, dice: random.Random) -> None:
        host, seconds = dice.choice(self.hosts), dice.uniform(1, 9)
        if host.agent is not None and (ref := ProcessRef.of(host.agent.pid)):
            self._pause(ref, seconds)

    def kill_worker(self, dice: random.Random) -> None:
        if worker := self._some_worker(dice):
            worker.kill()

    def kill_guard(self, dice: random.Random) -> None:
        if guard := self._some_guard(dice):
            guard.kill()

    def kill_worker_and_guard(self, dice: random.Random) -> None:
        guard = self._some_guard(dice)
        worker = None if guard is None else ProcessRef.of(psutil.Process(guard.pid).ppid())
        if guard is not None and worker is not None and worker.pid > 1:
            guard.kill()
            worker.kill()

    def pause_worker(self, dice: random.Random) -> None:
        seconds = dice.uniform(1, 8)
        if worker := self._some_worker(dice):
            self._pause(worker, seconds)

    def cut(self, dice: random.Random) -> None:
        self._break(dice.choice(self.hosts).proxy, "cut", dice.uniform(0.1, 8))

    def swallow(self, dice: random.Random) -> None:
        self._break(dice.choice(self.hosts).proxy, "swallow", dice.uniform(0.5, 8))

    def restart_redis(self, dice: random.Random) -> None:
        self._without_redis(dice.uniform(0, 4), SIGKILL + 6)

    def kill_redis(self, dice: random.Random) -> None:
        self._without_redis(dice.uniform(0, 4), SIGKILL)

    def empty_redis(self, dice: random.Random) -> None:
        self._without_redis(dice.uniform(0, 2), SIGKILL, empty=True)

    def lose_venue(self, dice: random.Random) -> None:
        number = dice.randrange(1, ACCOUNTS + 1)
        with self.hosts[0].admin() as admin:
            admin.script_fault("Paper-1", 5000 + number, "connection_lost", count=1)

    def lose_records(self, dice: random.Random) -> None:
        """Kill an agent, and remove the records by which it would adopt workers."""
        host = dice.choice(self.hosts)
        how = dice.choice(["empty", "garbage", "remove", "all records", "all sockets"])
        if host.agent is not None and host.agent.poll() is None:
            host.agent.send_signal(SIGKILL)
        if how == "all records":
            shutil.rmtree(host.paths.workers_dir, ignore_errors=True)
            return
        if how == "all sockets":
            for file in [*host.paths.run_dir.glob("*.sock"), *host.paths.run_dir.glob("*.beat")]:
                file.unlink(missing_ok=True)
            return
        records = sorted(host.paths.workers_dir.glob("*.json"))
        path = dice.choice(records) if records else None
        if path is not None and how == "remove":
            path.unlink()
        elif path is not None:
            path.write_bytes(b"" if how == "empty" else dice.randbytes(200))

    def lose_lease(self, dice: random.Random) -> None:
        """Delete an account's leases, often while its host is cut off."""
        if dice.random() < 0.7:
            self.cut(dice)
        login = 5000 + dice.randrange(1, ACCOUNTS + 1)
        with contextlib.suppress(redis.RedisError), self.redis.client() as client:
            for key in client.keys(f"manager:lease:*:{login}"):
                client.delete(key)

    def kill_guardian(self, dice: random.Random) -> None:
        """Kill a worker's guardian, and sometimes pause the worker too."""
        worker = self._some_worker(dice)
        children = psutil.Process(worker.pid).children() if worker is not None else []
        if worker is not None and dice.random() < 0.5:
            self._pause(worker, dice.uniform(4, 10))
        for child in children:
            child.kill()

    def run_out_of_files(self, dice: random.Random) -> None:
        """Let an agent open no more files for a while."""
        agent = self._some_agent(dice)
        if agent is None:
            return
        soft, hard = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)
        self._later(dice.uniform(1, 5), lambda: _limit_files(agent, soft, hard))
        _limit_files(agent, psutil.Process(agent.pid).num_fds(), hard)

    def run_out_of_threads(self, dice: random.Random) -> None:
        """Let an agent start no threads for a while, if the limit can be set."""
        agent = self._some_agent(dice)
        group = PIDS_CGROUP / f"chaos-{os.getpid()}-{agent.pid}" if agent is not None else None
        if agent is None or group is None:
            return
        group.mkdir(exist_ok=True)
        (group / "cgroup.procs").write_text(str(agent.pid))
        (group / "pids.max").write_text((group / "pids.current").read_text())
        self.watch.count("threads limited")
        self._later(dice.uniform(1, 12), lambda: (group / "pids.max").write_text("max"))

    def leave_log_unread(self, dice: random.Random) -> None:
        """Stop reading the pipe that an agent logs to."""
        readers = [reader for host in self.hosts for reader in host.log_readers if reader.poll() is None]
        if readers:
            reader = dice.choice(readers)
            reader.send_signal(SIGSTOP)
            self._later(dice.uniform(2, 12), lambda: reader.send_signal(SIGCONT))

    def hang_share(self, dice: random.Random) -> None:
        """Block opening an account's file for a while, as on a lost file share."""
        name = f"{dice.choice(self.ids)}.yaml"
        self._later(dice.uniform(2, 12), lambda: slow_share.release(self.hosts[0].config_dir, name))
        slow_share.hold(self.hosts[0].config_dir, name)

    def drain_host(self, dice: random.Random) -> None:
        """Drain a host, and resume it after a while."""
        name = dice.choice(self.hosts).host
        mode: Literal["move", "stop"] = dice.choice(["move", "move", "stop"])
        seconds = dice.uniform(2, 12)

        def resume() -> None:
            # A timer cannot do this while Redis is down; the end of the test does it again.
            with contextlib.suppress(ManagerError):
                self.fleet_hosts.resume(name)

        self._later(seconds, resume)
        self.fleet_hosts.drain(name, mode=mode)

    def rest(self, dice: random.Random) -> None:
        """Let an account rest for a few seconds, or end its rest, against every command."""
        account_id, seconds = dice.choice(self.ids), dice.uniform(2, 8)
        store = OverrideStore(self.redis.url)
        at = store.now()
        kind = dice.choice([OverrideKind.REST, OverrideKind.REST, OverrideKind.RUN])
        with contextlib.closing(store):
            store.set(
                account_id,
                Override(kind=kind, at=at, until=at + timedelta(seconds=seconds), by="chaos"),
            )

    def edit_file(self, dice: random.Random) -> None:
        """Change an account's file, in two halves with a pause, or after it was gone for a while."""
        account_id = dice.choice(self.ids[:-WRAPPERS])
        path = self.hosts[0].config_dir / "accounts" / f"{account_id}.yaml"
        data = json.loads(self.files[account_id])
        data |= {
            "groups": [f"g{dice.randrange(100)}"],
            "default_risk": {"risk_percent": dice.uniform(0.1, 2)},
        }
        if dice.random() < 0.4:  # needs a restart
            data["strategy"] = {"timeframe": dice.choice(["M5", "M15", "H1"])}
        text = self.files[account_id] = json.dumps(data)
        half, way = len(text) // 2, dice.choice(["at once", "halves", "gone"])
        self._later(dice.uniform(0.5, 5), lambda: _replace(path, self.files[account_id]))
        match way:
            case "at once":
                _replace(path, text)
            case "halves":
                path.write_text(text[:half])
            case _:
                path.unlink(missing_ok=True)

    def roll_out(self, dice: random.Random) -> None:
        """Begin a rollout over the accounts whose files wait for a restart, or pause or end one."""
        for rollout in self.rollouts.list(5):
            if rollout.active and dice.random() < 0.3:
                dice.choice([self.rollouts.pause, self.rollouts.cancel])(rollout.id)
        self.apply_files(dice.randrange(1, 6))

    def apply_files(self, most: int) -> None:
        """Begin a rollout over the accounts whose files wait for a restart."""
        options = RolloutOptions(
            canary=1, bake=1, min_healthy=1, healthy_deadline=15, max_failures=99, when_flat=False, per_host=9
        )
        record = self.rollouts.plan(dict.fromkeys(self.ids), "config", options, max_unavailable=str(most))
        if record.restarts:
            self.watch.count("rollout")
            self.rollouts.start(record, force=True)

    def _some_agent(self, dice: random.Random) -> ProcessRef | None:
        agents = [host.agent for host in self.hosts if host.agent is not None and host.agent.poll() is None]
        return ProcessRef.of(dice.choice(agents).pid) if agents else None

    def _some_worker(self, dice: random.Random) -> ProcessRef | None:
        workers = [ref for host in self.hosts for _, ref in sorted(host.workers().items())]
        return dice.choice(workers) if workers else None

    def _some_guard(self, dice: random.Random) -> ProcessRef | None:
        """Return the guard of a program, between a worker and a shell."""
        found = [guard for host in self.hosts for guard in self._guards(host)]
        return dice.choice(found) if found else None

    @staticmethod
    def _guards(host: ChaosHost) -> list[ProcessRef]:
        found: list[ProcessRef] = []
        for _, worker in sorted(host.workers().items()):
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(worker.pid).children():
                    if any(part.endswith("program_guard.py") for part in child.cmdline()):
                        found += [ref for ref in [ProcessRef.of(child.pid)] if ref is not None]
        return found

    def _pause(self, ref: ProcessRef, seconds: float) -> None:
        ref.signal(SIGSTOP)
        self._later(seconds, lambda: ref.signal(SIGCONT))

    def _break(self, proxy: Proxy, how: str, seconds: float) -> None:
        getattr(proxy, how)()
        self._later(seconds, proxy.restore)

    def _later(self, seconds: float, undo: Callable[[], Any]) -> None:
        timer = threading.Timer(seconds, undo)
        timer.daemon = True
        timer.start()

        def now() -> None:
            timer.cancel()
            undo()

        self.undo.append(now)

    def _without_redis(self, seconds: float, number: int, *, empty: bool = False) -> None:
        with self.redis_lock:
            self.redis.process.send_signal(number)
            self.redis.process.wait(timeout=20)
            if empty:
                self.redis.empty()
            self.over.wait(seconds)
            self.redis.start()

    # invariants

    def observe(self) -> None:
        """Check the invariants repeatedly."""
        dead_since: dict[str, float] = {}
        while not self.over.wait(0.2):
            self._check(dead_since)

    def _check(self, dead_since: dict[str, float]) -> None:
        with self.lock:
            quiet = {a: h.quiet_since for a, h in self.histories.items() if h.quiet_since is not None}
        stats = self.hosts[0].stats()
        if stats["overlaps"]:
            self.watch.say(f"{stats['overlaps']} overlaps: {stats}")
        for live in stats["live"]:
            account_id = f"account-{int(live['login']) - 5000:03}"
            with self.lock:
                still = self.histories[account_id].quiet_since
            if account_id in quiet and still == quiet[account_id]:
                self.watch.say(f"{account_id} has a session after its stop was answered: {live}")
        try:
            infos = self.hosts[0].store.list_workers()
        except FleetUnavailableError:
            return
        self._check_rollouts()
        now = time.monotonic()
        for info in infos:
            pid = info.metadata.get("pid")
            key = info.worker_id
            if info.status is not WorkerLifecycleStatus.RUNNING or pid is None or psutil.pid_exists(pid):
                dead_since.pop(key, None)
            elif now - dead_since.setdefault(key, now) > STALE_SECONDS + 2:
                self.watch.say(f"{info.account_id} is reported running, but {key} (pid {pid}) is dead")

    def _check_rollouts(self) -> None:
        with contextlib.suppress(ManagerError):
            for rollout_id in self.rollout_store.active():
                rollout, members = self.rollout_store.read(rollout_id)
                under_way = sum(one.state in UNDER_WAY for one in members.values())
                if under_way > rollout.options.max_unavailable:
                    self.watch.say(f"rollout {rollout_id} restarts {under_way} accounts at once: {rollout}")

    def worker_processes(self) -> list[int]:
        """Return the pids of all worker processes of these hosts, recorded or not."""
        roots = tuple(str(host.paths.logs_dir) for host in self.hosts)
        found: list[int] = []
        for process in psutil.process_iter(["name"]):
            with contextlib.suppress(OSError):
                if str(process.info["name"]).startswith("wm:") and str(
                    Path(f"/proc/{process.pid}/fd/2").readlink()
                ).startswith(roots):
                    found.append(process.pid)
        return found

    def bots(self) -> list[int]:
        """Return the pids of all bots of this test, recorded or not."""
        venue = f"unix:{self.hosts[0].venue_socket}"
        found: list[int] = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                if BOT in line and venue in line:
                    found.append(process.pid)
        return found

    def tell(self) -> None:
        """Print the log lines of hosts and workers about accounts with violations."""
        with self.hosts[0].admin() as admin:
            overlapped = {
                f"account-{int(one['login']) - 5000:03}" for one in admin.accounts() if one["overlaps"]
            }
        accounts = overlapped | {text.split()[0] for text in self.watch.wrong if text.startswith("account-")}
        print(f"wrong with {sorted(accounts)}: {self.watch.wrong[:5]}")
        for host in self.hosts:
            lines = host.log("agent").splitlines()
            reported = [line for line in lines if "agent_started" in line or any(a in line for a in accounts)]
            print(f"--- agent of {host.host}", *reported, sep="\n")
            for account_id in sorted(accounts):
                log = host.paths.worker_log(account_id)
                if log.exists():
                    print(f"--- {account_id} on {host.host}", log.read_text()[-20_000:], sep="\n")
        print("--- venue", self.hosts[0].log("venue")[-5_000:], sep="\n")

    def unsettled(self) -> list[str]:
        """Return the differences of actual and desired state."""
        wanted = DesiredStore(self.redis.url).read_many(self.ids)
        infos = {info.account_id: info for info in self.hosts[0].store.list_workers()}
        live = {f"account-{int(one['login']) - 5000:03}" for one in self.hosts[0].stats()["live"]}
        processes = set(self.worker_processes())
        wrong: list[str] = []
        expected = 0
        for account_id in self.ids:
            desired, info = wanted.get(account_id), infos.get(account_id)
            should = desired is not None and desired.running
            expected += should
            does = info is not None and info.status is WorkerLifecycleStatus.RUNNING
            if should != does or should != (account_id in live):
                wrong.append(f"{account_id}: wanted {desired}, is {info}, session {account_id in live}")
            elif does and info is not None and info.metadata.get("pid") not in processes:
                wrong.append(f"{account_id}: {info} has no process")
            elif does and info is not None and account_id not in self.ids[-WRAPPERS:]:
                file = json.loads(self.files[account_id])
                if list(info.groups) != file.get("groups", []) or info.placement.config is not None:
                    wrong.append(f"{account_id}: {info} does not run what its file says: {file}")
        bots = sum(
            desired is not None and desired.running
            for desired in (wanted.get(account_id) for account_id in self.ids[-WRAPPERS:])
        )
        if len(self.bots()) != bots:
            wrong.append(f"{len(self.bots())} bots for {bots} wrapper accounts that should run")
        if len(processes) != expected:
            wrong.append(f"{len(processes)} worker processes for {expected} accounts that should run")
        return wrong


def _replace(path: Path, text: str) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.replace(path)


def _limit_files(agent: ProcessRef, soft: int, hard: int) -> None:
    if agent.alive():
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def chaos(short_dir: Path) -> Iterator[Chaos]:
    found = Chaos(short_dir)
    yield found
    found.close()


@pytest.mark.timeout(SECONDS + 240)
def test_one_session_no_lost_stop_no_lie(chaos: Chaos) -> None:
    print(f"CHAOS_SEED={SEED} CHAOS_SECONDS={SECONDS:g}")
    chaos.hosts[0].start_venue()
    for host in chaos.hosts:
        host.start_agent()
    threads = [
        threading.Thread(target=chaos.manage, args=(1,)),
        threading.Thread(target=chaos.manage, args=(2,)),
        threading.Thread(target=chaos.observe),
        threading.Thread(target=chaos.harm),
    ]
    for thread in threads:
        thread.start()
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends and all(thread.is_alive() for thread in threads):
        chaos.over.wait(1)
        for host in chaos.hosts:
            host.keep_agent()
    failed = [thread.name for thread in threads if not thread.is_alive()]
    chaos.over.set()
    for thread in threads:
        thread.join()
    for undo in chaos.undo:
        undo()
    for rollout_id in chaos.rollout_store.active():
        chaos.rollouts.cancel(rollout_id)
    assert not failed, "threads of the test itself have failed"

    def settled() -> bool:
        for host in chaos.hosts:
            host.keep_agent()
        chaos._check({})
        wrong = chaos.unsettled()
        waits = any("does not run what its file says" in text for text in wrong)
        with contextlib.suppress(ManagerError):
            if waits and not chaos.rollout_store.active():
                chaos.apply_files(9)
        return wrong == []

    try:
        eventually(settled, within=SETTLE_SECONDS)
    except AssertionError:
        for host in chaos.hosts:
            print(host.log("agent")[-20_000:])
        pytest.fail(f"seed {SEED}: not settled after {SETTLE_SECONDS:g} s: " + "\n".join(chaos.unsettled()))
    print(dict(sorted(chaos.watch.commands.items())))
    if chaos.watch.wrong:
        chaos.tell()
    assert chaos.watch.wrong == [], f"seed {SEED}"
    assert chaos.watch.commands.get("start: done", 0) > 0
    assert chaos.watch.commands.get("stop: done", 0) > 0
