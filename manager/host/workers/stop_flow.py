"""The steps of a stop, from the stop request to the recorded end."""

import logging
from dataclasses import replace

from manager.errors import StopFailedError
from manager.host.workers.exits import ExitHandler
from manager.host.workers.limits import Clocks, PoolLimits
from manager.host.workers.slot import Slot
from manager.host.workers.stopper import StopOutcome, stop_outcome, stop_process
from manager.states import WorkerLifecycleStatus
from manager.system import logs

logger = logging.getLogger(__name__)


class StopFlow:
    """Stops the worker of a slot."""

    def __init__(self, exits: ExitHandler, limits: PoolLimits, clocks: Clocks) -> None:
        self._exits = exits
        self._limits = limits
        self._clocks = clocks

    def stop(self, slot: Slot, timeout: float | None) -> bool:
        """Stop the slot's worker and record it as stopped.

        The caller holds the slot's lock. Blocks.

        Returns False if there is nothing to stop. A failed worker and a pending recovery count as something
        to stop.

        Raises StopFailedError, OrphansLeftError.
        """
        with slot.guard:
            info = slot.info if slot.live or slot.status is WorkerLifecycleStatus.FAILED else None
            ended = slot.record is None
            # An earlier stop that could not prove the end has left the worker `stopping`.
            if info is not None and slot.live and info.status is not WorkerLifecycleStatus.STOPPING:
                info = slot.move(WorkerLifecycleStatus.STOPPING)
            slot.unattended = False
        if info is None:
            self._exits.release_lease(slot)
            return False
        logs.event(logger, logging.INFO, "stop_requested", account=slot.account_id, worker=info.worker_id)
        outcome = StopOutcome(info.error)
        if not ended:
            try:
                outcome = stop_process(slot, timeout, self._limits.kill_seconds, self._clocks.monotonic)
            except StopFailedError:
                if not self._exits.leave_unattended(slot):
                    raise
                outcome = stop_outcome(slot)
            outcome = replace(outcome, reason=slot.kill_reason or outcome.reason)
        self._exits.record_end(slot, WorkerLifecycleStatus.STOPPED, outcome.reason, forced=outcome.forced)
        return True
