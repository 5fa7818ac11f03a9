"""Hosts without worker processes, for tests.

Reconciler, leases and Redis are real. A host reconciles when the test calls it.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from manager.change.rollout_store import RolloutStore
from manager.config import ConfigurationService, RecoveryConfig
from manager.config.exchanges import ExchangeCalendars
from manager.errors import FleetUnavailableError, ManagerError
from manager.fleet import FleetStore
from manager.fleet.approvals import ApprovalStore
from manager.fleet.desired import DesiredState, DesiredStateRequest
from manager.fleet.desired_store import DesiredStore
from manager.fleet.host_events import HostAnnouncer
from manager.fleet.leases import LeaseStore
from manager.fleet.overrides import OverrideStore
from manager.host.commands import HostCommands
from manager.host.reconcile.clock_watch import ClockWatch
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.desired_state_file import DesiredStateFile
from manager.host.reconcile.drain_state import DrainState
from manager.host.reconcile.factory import build_reconciler
from manager.host.reconcile.overrides import OverrideCache
from manager.host.reconcile.stop_notes import PendingStops, StopNotes
from manager.host.routing import Router
from manager.host.workers.bounded_reads import BoundedConfiguration
from manager.host.workers.fleet_leases import FleetLeases
from manager.host.workers.limits import Clocks
from manager.host.workers.slot import Rest
from manager.models import WorkerInfo
from manager.placement.engine import HostFacts
from manager.pool.commands import CommandSpec
from manager.pool.protocol import StartRequest
from manager.pool.start_requests import StartRequestFactory
from manager.states import TradingMode, WorkerLifecycleStatus
from manager.system.state_dir import StatePaths
from manager.validation import AccountConfigurationValidator
from support.waiting import eventually


class PoolOfNames:
    """A pool whose workers are only names; a test can make starts fail."""

    def __init__(self) -> None:
        self.live: dict[str, int] = {}
        self.starting: set[str] = set()
        self.started: list[str] = []
        self.abandoned: dict[str, str] = {}
        self.fails: dict[str, ManagerError] = {}
        #: Trading modes of the workers.
        self.modes: dict[str, TradingMode] = {}
        #: Accounts whose worker has failed.
        self.failed: set[str] = set()
        #: Claims and epoch of the leases of workers here.
        self.epochs: dict[str, tuple[tuple[str, ...], int]] = {}
        #: Recovery settings that adopted workers were started with.
        self.recoveries: dict[str, RecoveryConfig] = {}
        #: How often workers were checked for hanging.
        self.hang_checks = 0
        #: Why accounts rest, accounts whose worker was stopped for that, and open positions of workers.
        self.at_rest: dict[str, Mapping[str, Any] | None] = {}
        self.rested: list[str] = []
        #: Accounts whose worker was asked to close its positions before it rests.
        self.closed: list[str] = []
        self.positions: dict[str, int] = {}
        #: Its workers run the configurations of their files.
        self.config_changes = SimpleNamespace(
            record=lambda _account_id: None,
            kept=SimpleNamespace(remove=lambda _account_id: None),
            paths=StatePaths(Path("nowhere")),
        )
        self.while_starting: Callable[[], None] = lambda: None
        self.while_stopping: Callable[[], object] = lambda: None

    def start_worker(self, request: StartRequest) -> WorkerInfo:
        request.prepare()
        self.while_starting()
        if request.account_id in self.fails:
            raise self.fails[request.account_id]
        self.started.append(request.account_id)
        self.at_rest.pop(request.account_id, None)
        self.live[request.account_id] = request.generation
        return WorkerInfo(worker_id="w", account_id=request.account_id, status=WorkerLifecycleStatus.RUNNING)

    recover_worker = restart_worker = start_worker

    def stop_worker(self, account_id: str, timeout: float | None = None) -> bool:
        del timeout
        self.while_stopping()
        self.live.pop(account_id, None)
        self.starting.discard(account_id)
        self.failed.discard(account_id)
        self.at_rest.pop(account_id, None)
        return True

    @property
    def queries(self) -> "PoolOfNames":
        return self

    def has_worker_for_account(self, account_id: str) -> bool:
        return account_id in self.live

    def occupied(self, account_id: str) -> bool:
        return account_id in self.live or account_id in self.starting

    def has_account(self, account_id: str) -> bool:
        return self.occupied(account_id)

    def generation(self, account_id: str) -> int | None:
        return self.live.get(account_id)

    def recovery(self, account_id: str) -> RecoveryConfig | None:
        return self.recoveries.get(account_id)

    def venue_is_away(self, _account_id: str) -> bool:
        return False

    def live_accounts(self) -> list[str]:
        return sorted(self.live)

    def failed_or_resting(self) -> list[str]:
        return sorted(self.failed | {key for key, resting in self.at_rest.items() if resting})

    def live_records(self) -> list[Any]:
        return [
            SimpleNamespace(
                account_id=key, claims=self.epochs[key][0], epoch=self.epochs[key][1], gateway="paper"
            )
            for key in self.live
            if key in self.epochs
        ]

    def mode(self, account_id: str) -> TradingMode | None:
        return self.modes.get(account_id, TradingMode.NORMAL) if account_id in self.live else None

    def set_mode(
        self, command: CommandSpec, account_id: str, by: str = "", *, mode: TradingMode | None = None
    ) -> WorkerInfo:
        del by
        assert command.mode is not None
        self.modes[account_id] = mode or command.mode
        return WorkerInfo(worker_id="w", account_id=account_id, status=WorkerLifecycleStatus.RUNNING)

    def apply_mode(self, account_id: str, mode: TradingMode, by: str = "") -> bool:
        self.modes[account_id] = mode
        return True

    def abandon(self, account_id: str, reason: str, *, stopped: bool = False) -> None:
        del stopped
        self.abandoned[account_id] = reason

    def resting(self, account_id: str) -> Mapping[str, Any] | None:
        return self.at_rest.get(account_id)

    def rest_worker(self, account_id: str, rest: Callable[[], Rest | None]) -> WorkerInfo | None:
        found = rest()
        if found is None:
            return self.get_worker_info(account_id)
        if found.close_positions:
            self.closed.append(account_id)
        if account_id in self.live:
            self.stop_worker(account_id)
            self.rested.append(account_id)
        resting = self.at_rest[account_id] = found.resting
        return WorkerInfo(
            worker_id="w",
            account_id=account_id,
            status=WorkerLifecycleStatus.STOPPED,
            metadata={"resting": resting},
        )

    def get_worker_info(self, account_id: str) -> WorkerInfo | None:
        if account_id not in self.live:
            return None
        return WorkerInfo(
            worker_id="w",
            account_id=account_id,
            status=WorkerLifecycleStatus.RUNNING,
            metadata={"open_positions": self.positions.get(account_id, 0)},
        )

    def end_hung_workers(self) -> list[str]:
        self.hang_checks += 1
        return []

    def cancel_start(self, account_id: str) -> None:
        self.starting.discard(account_id)


class SkippingClock:
    """A monotonic clock that a test can set forward."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._skipped

    def skip(self, seconds: float) -> None:
        self._skipped += seconds


class ReconciledHost:
    """One host of a fleet, which reconciles when the test calls `reconcile`.

    `directory` holds the configuration that its hosts share.
    """

    def __init__(
        self,
        directory: Path,
        url: str,
        name: str,
        *,
        capacity: int = 0,
        labels: dict[str, str] | None = None,
        task_grace_seconds: float = 30.0,
        clocks: ClockWatch | None = None,
        settle: Callable[[], bool] = lambda: True,
        lease_clocks: Clocks | None = None,
        epoch: Callable[[], float] | None = None,
    ) -> None:
        self.name = name
        self.config_dir = directory / "config"
        (self.config_dir / "accounts").mkdir(parents=True, exist_ok=True)
        state = directory / name
        state.mkdir(exist_ok=True)
        self.facts = HostFacts(name=name, capacity=capacity, labels=labels or {})
        self.store, self.desired = FleetStore(url), DesiredStore(url)
        self.pool = PoolOfNames()
        pool: Any = self.pool
        self.lease_store = LeaseStore(url)
        self.configuration = configuration = ConfigurationService(self.config_dir)
        self.leases = leases = FleetLeases(self.lease_store, name, 2.0, clocks=lease_clocks)
        self.clock = SkippingClock()
        account_files = BoundedConfiguration(configuration)
        self.reconciler = build_reconciler(
            host=name,
            pool=pool,
            start_requests=StartRequestFactory(configuration, AccountConfigurationValidator(configuration)),
            config_service=account_files,
            desired=self.desired,
            desired_cache=DesiredStateCache(
                name,
                self.desired,
                DesiredStateFile(state / "desired.json"),
                task_grace_seconds=task_grace_seconds,
            ),
            store=self.store,
            leases=leases,
            drain_state=DrainState(name, self.store, state / "drain.json"),
            overrides=OverrideCache(OverrideStore(url), state / "overrides.json"),
            approvals=ApprovalStore(url),
            rollouts=RolloutStore(url),
            calendars=ExchangeCalendars(state / "calendars"),
            pending_stops=PendingStops(StopNotes(state / "stops")),
            facts=lambda: self.facts,
            report_stop=lambda _token, _outcome: None,
            settle=settle,
            clocks=clocks,
            clock=self.clock,
            epoch=epoch,
        )
        self.router = Router(name, pool, self.reconciler, self.desired)
        self.commands = HostCommands(
            host=name,
            pool=pool,
            reconciler=self.reconciler,
            router=self.router,
            config_service=configuration,
            account_files=account_files,
            desired=self.desired,
            leases=leases,
            announcer=HostAnnouncer(self.store),
        )
        self.report()

    def account(self, account_id: str, login: int, **more: Any) -> None:
        """Write an account file for all hosts of the directory."""
        data = {
            "gateway": "paper",
            "login": login,
            "server": "S",
            "password": "correct-horse",
            "currencies": [{"symbol": "EURUSD"}],
            **more,
        }
        (self.config_dir / "accounts" / f"{account_id}.yaml").write_text(json.dumps(data))

    def set_running(self, account_id: str, host: str = "", *, token: str = "", **more: Any) -> DesiredState:
        """Record a command that the account should run."""
        change = DesiredStateRequest(
            account_id=account_id,
            state="running",
            token=token or f"t-{account_id}",
            by="me",
            host=host,
            **{"why": "start", **more},
        )
        return self.desired.set_desired(change)[1]

    def report(self) -> None:
        """Write the agent's report, as the agent does each second."""
        self.store.report_agent(
            self.name, {"capacity": self.facts.capacity, "labels": self.facts.labels, "version": "0.2.0"}
        )

    def reconcile(self, times: int = 1) -> None:
        """Reconcile, and wait for the starts, rests and moves that begin.

        Delayed starts begin at once.
        """
        reconciler = self.reconciler
        for _ in range(times):
            self.clock.skip(1.0)  # the fleet is read again
            with contextlib.suppress(FleetUnavailableError):
                self.report()
            reconciler.reconcile()
            reconciler.restarts.tick(math.inf)
            eventually(
                lambda: (
                    not (
                        reconciler.restarts.in_progress
                        or reconciler.resting.in_progress
                        or reconciler.reload.in_progress
                        or reconciler.drain.leaving
                    )
                ),
                what="the host comes to rest",
            )

    def close(self) -> None:
        self.reconciler.close()
        self.store.close()
        self.desired.close()


class MakeHost(Protocol):
    """The fixture `make_host`: makes a host with the keyword arguments of `ReconciledHost`."""

    def __call__(self, name: str, **more: Any) -> ReconciledHost: ...


def assigned_host(host: ReconciledHost, account_id: str) -> str:
    """Return the host that an account which should run is assigned to; empty if there is none."""
    desired = host.desired.read(account_id)
    assert desired is not None
    assert desired.running
    return desired.host
