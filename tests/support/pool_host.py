"""A host without Redis and Celery: real pool, workers and venue."""

import json
from pathlib import Path
from typing import Any, Literal

import psutil

from manager import WorkerManagerService
from manager.config import ConfigurationService
from manager.fleet.run_types import NO_CAUSE, Run
from manager.gateways.paper.client import VenueAdmin
from manager.host import WorkerPoolManager, build_pool
from manager.host.workers.limits import PoolLimits
from manager.host.workers.runs import RunRecorder
from manager.models import WorkerInfo
from manager.settings import Settings
from manager.system.processes import ProcessRef
from manager.system.state_dir import StatePaths
from support.venue import VenueProcess


class Host:
    """A state directory, a venue and a pool."""

    def __init__(self, directory: Path, method: Literal["fork", "spawn"] = "fork") -> None:
        self.paths = StatePaths(directory / "state")
        self.paths.create()
        self.venue = VenueProcess(directory)
        self.settings = Settings(
            config_dir=directory / "config",
            state_dir=self.paths.root,
            host="h",
            venue_url=self.venue.address,
            start_method=method,
            heartbeat_interval_seconds=0.1,
            stale_after_seconds=1.0,
        )
        self.config_service = ConfigurationService(self.settings.config_dir)
        self.config_service.accounts_dir.mkdir(parents=True)
        self.lost: list[tuple[WorkerInfo, str]] = []
        #: Every run that has ended, oldest first.
        self.runs: list[Run] = []
        #: Who asked for the end of a worker.
        self.end_cause = NO_CAUSE
        self.seen: dict[int, ProcessRef] = {}
        self.pool = self.new_pool()

    def new_pool(self, limits: PoolLimits | None = None) -> WorkerPoolManager:
        """Create a pool, as the next agent of this host does; the caller closes the one before."""
        self.pool = build_pool(
            self.settings,
            self.config_service,
            on_unexpected_exit=lambda info, reason: self.lost.append((info, reason)),
            limits=limits,
            runs=RunRecorder(self, self.settings.host, lambda _account_id, _generation: self.end_cause),
        )
        self.service = WorkerManagerService(self.config_service, self.pool)
        return self.pool

    def note(self, run: Run) -> None:
        self.runs.append(run)

    def account(self, account_id: str, login: int | None, **changes: Any) -> None:
        data: dict[str, Any] = {
            "gateway": "paper",
            "login": login,
            "server": "Paper-1",
            "password": "hunter2-hunter2",
            "timeout": 5_000,
            "currencies": [{"symbol": "EURUSD"}],
            "execution": {"interval_seconds": 0.1, "stop_timeout_seconds": 3},
            **changes,
        }
        path = self.config_service.accounts_dir / f"{account_id}.yaml"
        path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))

    def start(self, account_id: str = "a") -> WorkerInfo:
        info = self.service.start_worker_from_config(account_id)
        self.process(info)
        return info

    def process(self, info: WorkerInfo) -> ProcessRef:
        """Return the worker's process, which must be alive."""
        found = ProcessRef.of(info.metadata["pid"])
        assert found is not None
        self.seen[found.pid] = found
        return found

    def fault(self, login: int, kind: str, **script: Any) -> None:
        with VenueAdmin(self.venue.address) as admin:
            admin.script_fault("Paper-1", login, kind, **script)

    def status(self, account_id: str = "a") -> str | None:
        info = self.service.get_worker_info(account_id)
        return None if info is None else str(info.status)

    def sessions(self) -> int:
        with VenueAdmin(self.venue.address) as admin:
            stats = admin.stats()
        assert stats["overlaps"] == 0
        return int(stats["sessions"])

    def close(self) -> None:
        for process in self.seen.values():
            process.kill()
        self.pool.close()
        self.venue.close()
        assert [process for process in self.seen.values() if not process.wait(5)] == []


def children_of(pid: int, *, recursive: bool = True) -> set[int]:
    return {
        child.pid
        for child in psutil.Process(pid).children(recursive=recursive)
        if child.status() != psutil.STATUS_ZOMBIE
    }
