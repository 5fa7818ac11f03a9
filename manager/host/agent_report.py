"""The status report of a host agent, and its facts for placement.

The publisher writes the report to Redis each second.
"""

import platform
import sys
import time
from collections.abc import Mapping
from typing import Any

from manager.config import ConfigurationService
from manager.fleet.host_report import HostReport
from manager.host.limits.enforcement import Mechanism
from manager.host.reconcile.reconciler import Reconciler
from manager.host.reporting.self_test import SelfTest
from manager.host.reporting.upkeep import StateUpkeep
from manager.host.workers.pool import WorkerPoolManager
from manager.market.clocks import tz_database_version
from manager.models import utc_now
from manager.placement.engine import HostFacts
from manager.pool.commands import COMMANDS
from manager.settings import Settings
from manager.system.essential_threads import ThreadGuard
from manager.system.machine import load, memory_mb
from manager.system.processes import ProcessRef
from manager.versions import __version__


def machine_id() -> str:
    """Return a unique id of this machine that outlives processes."""
    return ProcessRef.me().start_time.partition(":")[0] if sys.platform == "linux" else platform.node()


class AgentReport:
    """Describes one agent.

    Thread-safe; parts that do not exist yet are left out.
    """

    def __init__(
        self,
        settings: Settings,
        config_service: ConfigurationService,
        self_test: SelfTest,
        guard: ThreadGuard,
    ) -> None:
        self._settings = settings
        self._config_service = config_service
        self._self_test = self_test
        self._guard = guard
        self._process = ProcessRef.me()
        self._started_at = utc_now()
        self.pool: WorkerPoolManager | None = None
        self.reconciler: Reconciler | None = None
        self.upkeep: StateUpkeep | None = None
        self.mechanism: Mechanism | None = None

    def describe(self) -> Mapping[str, Any]:
        """Return the status report; see `HostReport`."""
        self._guard.check()  # called by the publisher's thread, so the guard's own thread is watched too
        pool, reconciler = self.pool, self.reconciler
        memory, available = memory_mb()
        received = self._self_test.received_seconds_ago
        return HostReport(
            pid=self._process.pid,
            start_time=self._process.start_time,
            machine=machine_id(),
            version=__version__,
            python=sys.version.split()[0],
            tzdata=tz_database_version(),
            started_at=self._started_at.isoformat(),
            workers=pool.queries.count_live() if pool else 0,
            states=pool.queries.states() if pool else {},
            heard_seconds_ago=None if received is None else round(received, 1),
            looks=reconciler.reconciliations if reconciler else 0,
            trouble=self._trouble(),
            clock_change=reconciler.clocks.explain() if reconciler else None,
            drain=reconciler.drain.explain() if reconciler else None,
            commands=sorted(COMMANDS),
            config_source=self._settings.config_source,
            config_version=self._config_service.version,
            labels=dict(self._settings.labels),
            capacity=self._settings.capacity,
            memory_mb=memory,
            available_mb=available,
            load=load(),
            limits=None if self.mechanism is None else self.mechanism.to_report(),
            time=time.time(),
        ).to_dict()

    def facts(self) -> HostFacts:
        """Return what placement needs to know of this host."""
        memory, available = memory_mb()
        return HostFacts(
            name=self._settings.host,
            labels=self._settings.labels,
            capacity=self._settings.capacity,
            memory_mb=memory,
            available_mb=available,
        )

    def _trouble(self) -> str | None:
        unsaved = self.reconciler.desired_cache.trouble if self.reconciler else None
        files = self.upkeep.trouble if self.upkeep else None
        return unsaved or files or self._guard.trouble()
