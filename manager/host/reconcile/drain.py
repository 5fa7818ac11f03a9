"""Emptying a host: nothing new starts on it, and its workers move or stop, those with positions when they are flat."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from manager.errors import FleetUnavailableError, ManagerError
from manager.fleet import FleetStore
from manager.fleet.desired import DRAIN, DesiredState
from manager.fleet.host_report import DrainReport
from manager.fleet.hosts import DrainRequest
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.fleet_snapshot import FleetSnapshot
from manager.host.workers.bounded_reads import BoundedConfiguration
from manager.host.workers.pool import WorkerPoolManager
from manager.placement.engine import Needs
from manager.system import atomic_file, logs
from manager.system.text import counted
from manager.system.thread_pool import ThreadPool

logger = logging.getLogger(__name__)

#: Workers that leave at once.
_AT_ONCE: Final = 32
#: Accounts that the agent's word names among those that stay.
_NAMED: Final = 10


class Drain:
    """One host's drain order, and what is done by it. `look` from the keeper's thread, the rest from any."""

    def __init__(
        self,
        host: str,
        pool: WorkerPoolManager,
        wanted: DesiredStateCache,
        store: FleetStore,
        config_service: BoundedConfiguration,
        fleet_snapshot: Callable[[], FleetSnapshot],
        memory: Path,
    ) -> None:
        """`memory` is a file: a host that was drained stays so when it starts again without Redis."""
        self._host = host
        self._pool = pool
        self._desired_cache = wanted
        self._store = store
        self._config_service = config_service
        self._fleet_snapshot = fleet_snapshot
        self._memory = memory
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._stays: dict[str, str] = {}
        self._request: DrainRequest | None = None
        if memory.exists():
            self._request = DrainRequest.from_json(memory.read_text())
        self.crew = ThreadPool(_AT_ONCE, "drain")

    @property
    def active(self) -> bool:
        """Whether this host takes no new workers."""
        return self._request is not None and self._request.active

    @property
    def moves(self) -> bool:
        """Whether what is here is to go on elsewhere."""
        return self._request is not None and self._request.mode == "move"

    def close(self) -> None:
        self.crew.shutdown(cancel_futures=True)

    def read(self) -> None:
        """Learn what is ordered, if Redis is there; tell it if it has lost that."""
        try:
            request = self._store.drain(self._host)
            if request is None and self._request is not None:
                self._store.restore_drain(self._host, self._request)
        except FleetUnavailableError:
            return
        if request is not None and request != self._request:
            logs.event(
                logger, logging.INFO, "drain", mode=request.mode, by=request.by, when_flat=request.when_flat
            )
            self._request = request
            self._stays = {}
            self._remember(request)

    def mend(self) -> None:
        """Write down again what is ordered, if somebody has removed that."""
        request = self._request
        if request is not None and not self._memory.exists():
            self._remember(request)

    def look(self) -> None:
        """Have every worker leave that may."""
        request = self._request
        if request is None or not request.active:
            return
        stays: dict[str, str] = {}
        for desired in self._desired_cache.running():
            if desired.host != self._host:
                continue
            try:
                why = self._leave(desired, request)
            except FleetUnavailableError as error:
                why = str(error)
            if why is not None:
                stays[desired.account_id] = why
        self._stays = stays

    def explain(self) -> DrainReport | None:
        """Return how far the drain is, or None if this host is not draining."""
        if not self.active:
            return None
        stays = dict(self._stays)
        with self._lock:
            busy = len(self._busy)
        return DrainReport(leaving=busy, staying=len(stays), why=dict(sorted(stays.items())[:_NAMED]))

    def _remember(self, request: DrainRequest) -> None:
        try:
            atomic_file.write(self._memory, request.to_json())
        except OSError as error:
            logs.event(logger, logging.WARNING, "drain_not_remembered", str(error))

    def _leave(self, desired: DesiredState, request: DrainRequest) -> str | None:
        """Begin to have one account leave; returns why it cannot now."""
        account_id = desired.account_id
        with self._lock:
            if account_id in self._busy:
                return None
        live = self._pool.queries.occupied(account_id)
        if live and request.when_flat and not 0 < request.deadline <= self._desired_cache.redis_time():
            open_positions = self._positions(account_id)
            if open_positions != 0:
                return (
                    "nobody knows its positions"
                    if open_positions is None
                    else f"{counted(open_positions, 'position')} open"
                )
        move = request.mode == "move"
        if move:
            placement = self._fleet_snapshot().reserve(self._needs(desired))
            if placement.host is None:
                return placement.rejection()
        elif not live:
            return None
        with self._lock:
            # Handed over first: if that fails, the next look tries again. The work waits for this lock to end.
            self.crew.submit(self._carry_out, desired, move, live)
            self._busy.add(account_id)
        return None

    def _carry_out(self, desired: DesiredState, move: bool, live: bool) -> None:
        account_id = desired.account_id
        try:
            if live:
                self._pool.stop_worker(account_id)
            if move:
                # Anew: the stop may have taken a minute, and the host that had room then may be gone.
                placement = self._fleet_snapshot().reserve(self._needs(desired))
                handed = placement.host is not None and self._desired_cache.reassign(
                    desired, placement.host, DRAIN
                )
                logs.event(
                    logger,
                    logging.INFO if handed else logging.WARNING,
                    "drained",
                    placement.explain(),
                    account=account_id,
                    to=placement.host if handed else "nobody",
                )
        except ManagerError as error:
            logs.event(logger, logging.WARNING, "drain_failed", str(error), account=account_id)
        except Exception:
            logger.exception("a drain met a fault of its own")
        finally:
            self._fleet_snapshot().arrived(account_id)
            with self._lock:
                self._busy.discard(account_id)

    def _positions(self, account_id: str) -> int | None:
        info = self._pool.get_worker_info(account_id)
        return info.metrics.open_positions if info is not None else None

    def _needs(self, desired: DesiredState) -> Needs:
        try:
            return self._config_service.load_account_config(
                desired.account_id, desired.apply_defaults
            ).needs()
        except ManagerError:
            return desired.placement_needs  # its file cannot be read: its start there will tell
