"""Hosts with everything but processes: their keepers, leases and Redis are real, and a look is taken when the test says so."""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from manager.config import ConfigurationService, RecoveryConfig
from manager.errors import FleetUnavailableError, ManagerError
from manager.fleet import FleetStore
from manager.fleet.desired import DesiredState, DesiredStateRequest, DesiredStore
from manager.fleet.leases import LeaseStore
from manager.host.commands import HostCommands
from manager.host.reconcile.desired_state_file import DesiredStateFile
from manager.host.reconcile.reconciler import Reconciler
from manager.host.workers.fleet_leases import FleetLeases
from manager.host.workers.limits import Clocks
from manager.models import WorkerInfo
from manager.placement.engine import HostFacts
from manager.pool.commands import CommandSpec
from manager.pool.protocol import StartRequest
from manager.pool.start_requests import StartRequestFactory
from manager.states import TradingMode, WorkerLifecycleStatus
from manager.validation import AccountConfigurationValidator


class PoolOfNames:
    """Stands in for a host's pool: a worker is a name, and starts as it is told to."""

    def __init__(self) -> None:
        self.live: dict[str, int] = {}
        self.starting: set[str] = set()
        self.started: list[str] = []
        self.abandoned: dict[str, str] = {}
        self.fails: dict[str, ManagerError] = {}
        #: How the workers trade.
        self.modes: dict[str, TradingMode] = {}
        #: Accounts whose worker has failed.
        self.failed: set[str] = set()
        #: Epoch of the leases of workers here.
        self.epochs: dict[str, tuple[tuple[str, ...], int]] = {}
        #: How workers that were adopted are to be recovered, by what they were started with.
        self.recoveries: dict[str, RecoveryConfig] = {}
        self.while_starting: Callable[[], None] = lambda: None
        self.while_stopping: Callable[[], object] = lambda: None

    def start_worker(self, order: StartRequest) -> WorkerInfo:
        order.prepare()
        self.while_starting()
        if order.account_id in self.fails:
            raise self.fails[order.account_id]
        self.started.append(order.account_id)
        self.live[order.account_id] = order.generation
        return WorkerInfo(worker_id="w", account_id=order.account_id, status=WorkerLifecycleStatus.RUNNING)

    recover_worker = restart_worker = start_worker

    def stop_worker(self, account_id: str, timeout: float | None = None) -> bool:
        del timeout
        self.while_stopping()
        self.live.pop(account_id, None)
        self.starting.discard(account_id)
        self.failed.discard(account_id)
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

    def live_accounts(self) -> list[str]:
        return sorted(self.live)

    def failed_accounts(self) -> list[str]:
        return sorted(self.failed)

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

    def set_mode(self, command: CommandSpec, account_id: str, by: str = "") -> WorkerInfo:
        del by
        assert command.mode is not None
        self.modes[account_id] = command.mode
        return WorkerInfo(worker_id="w", account_id=account_id, status=WorkerLifecycleStatus.RUNNING)

    def apply_mode(self, account_id: str, mode: TradingMode) -> bool:
        self.modes[account_id] = mode
        return True

    def abandon(self, account_id: str, reason: str, *, stopped: bool = False) -> None:
        del stopped
        self.abandoned[account_id] = reason

    def get_worker_info(self, account_id: str) -> WorkerInfo | None:
        del account_id
        return None

    def end_hung_workers(self) -> list[str]:
        return []

    def cancel_start(self, account_id: str) -> None:
        self.starting.discard(account_id)


class ReconciledHost:
    """One host of a fleet in `directory`, whose keeper looks when it is told to."""

    def __init__(
        self,
        directory: Path,
        url: str,
        name: str,
        *,
        capacity: int = 0,
        labels: dict[str, str] | None = None,
        clocks: Clocks | None = None,
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
        configuration = ConfigurationService(self.config_dir)
        self.leases = leases = FleetLeases(self.lease_store, name, 2.0, clocks=clocks)
        self.reconciler = Reconciler(
            host=name,
            pool=pool,
            start_requests=StartRequestFactory(configuration, AccountConfigurationValidator(configuration)),
            config_service=configuration,
            desired=self.desired,
            store=self.store,
            leases=leases,
            desired_state_file=DesiredStateFile(state / "desired.json"),
            answer=lambda _token, _outcome: None,
            me=lambda: self.facts,
            drain_memory=state / "drain.json",
        )
        self.commands = HostCommands(
            host=name,
            pool=pool,
            reconciler=self.reconciler,
            config_service=configuration,
            desired=self.desired,
            fleet_snapshot=self.reconciler.fleet_snapshot,
            leases=leases,
        )
        self.report()

    def account(self, account_id: str, login: int, **more: Any) -> None:
        """Write the account's file, which all hosts of the directory read."""
        data = {
            "gateway": "paper",
            "login": login,
            "server": "S",
            "password": "correct-horse",
            "currencies": [{"symbol": "EURUSD"}],
            **more,
        }
        (self.config_dir / "accounts" / f"{account_id}.yaml").write_text(json.dumps(data))

    def wanted(self, account_id: str, host: str = "", *, token: str = "", **more: Any) -> DesiredState:
        """Have somebody command that the account runs."""
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
        """Say what its agent says each second."""
        self.store.report_agent(
            self.name, {"capacity": self.facts.capacity, "labels": self.facts.labels, "version": "0.2.0"}
        )

    def look(self, times: int = 1) -> None:
        """Compare desired and actual, and see its starts through; what waits for its time is due at once."""
        reconciler = self.reconciler
        for _ in range(times):
            reconciler.fleet_snapshot._until = 0.0
            with contextlib.suppress(FleetUnavailableError):
                self.report()
            reconciler._look()
            for account_id in list(reconciler.restarts._due):
                reconciler.restarts._due[account_id] = 0.0
            reconciler.restarts.launch()
            self._await(lambda: not reconciler.restarts._busy and not reconciler.drain._busy)

    @staticmethod
    def _await(done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not done():
            assert time.monotonic() < deadline, "the host does not come to rest"

    def close(self) -> None:
        self.reconciler.close()
        self.store.close()
        self.desired.close()
