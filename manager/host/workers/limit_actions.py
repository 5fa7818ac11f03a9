"""What the watch of limits may do to this pool's workers.

A command to an account comes first: while one runs, or waits, the watch leaves the worker alone.
"""

import logging
import signal
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from manager.config.models_limits import LimitsConfig
from manager.errors import StopFailedError
from manager.fleet.event_types import Remark
from manager.host.limits.processes import resident_of
from manager.host.workers.limits import Clocks, PoolLimits
from manager.host.workers.records import WorkerRecord
from manager.host.workers.slot import Slot
from manager.host.workers.slots import SlotTable
from manager.host.workers.starter import Starter
from manager.host.workers.stopper import kill_process
from manager.models import WorkerPlacement
from manager.session.control import ControlError
from manager.session.heartbeat_file import read_heartbeat
from manager.states import WorkerLifecycleStatus
from manager.system import logs

logger = logging.getLogger(__name__)

#: Seconds between two checks whether a command waits for the end of this stop.
_POLL_SECONDS: Final = 0.05
#: The share of a stop's time for the request on the control channel; the rest is for SIGTERM.
_REQUEST_SHARE: Final = 0.7


class Limited(NamedTuple):
    """A running worker and its limits."""

    record: WorkerRecord
    limits: LimitsConfig


class LimitActions:
    """Reads which workers are limited, and ends those that exceed a limit. Thread-safe."""

    def __init__(self, slots: SlotTable, starter: Starter, limits: PoolLimits, clocks: Clocks) -> None:
        self._slots = slots
        self._starter = starter
        self._limits = limits
        self._clocks = clocks

    def limited(self) -> list[Limited]:
        """Return the running workers that have a limit."""
        found = []
        for slot in self._slots.all():
            record, limits = slot.record, slot.limits
            if record is None or limits is None or slot.status is not WorkerLifecycleStatus.RUNNING:
                continue
            if limits.given:
                found.append(Limited(record, limits))
        return found

    def shared_bytes(self) -> int:
        """Return the resident memory of the process that workers are forked from; 0 if there is none."""
        pid = self._starter.preloaded_pid()
        return 0 if pid is None else resident_of(pid)

    def worker_ids(self) -> set[str]:
        """Return the workers that may have a process."""
        records = [slot.record for slot in self._slots.all()]
        return {record.worker_id for record in records if record is not None}

    def open_positions(self, record: WorkerRecord) -> int | None:
        """Return how many positions the worker last reported; None if unknown."""
        heartbeat = read_heartbeat(record.beat_file)
        found = None if heartbeat is None else heartbeat.status.get("open_positions")
        return found if isinstance(found, int) and not isinstance(found, bool) else None

    def note(self, record: WorkerRecord, exceeded: Mapping[str, str], change: Remark) -> None:
        """Record which limits a running worker exceeds, with an event."""
        slot = self._slots.find(record.account_id)
        if slot is None:
            return
        with slot.guard:
            if _runs(slot, record):
                slot.remark(change, _exceeded(exceeded))

    def kill(self, record: WorkerRecord, limit: str, reason: str, change: Remark) -> bool:
        """Kill a running worker at once; its exit is handled as that of one that exited unexpectedly.

        Returns False if it does not run, or a stop of it runs.
        """
        slot = self._slots.find(record.account_id)
        if slot is None:
            return False
        with slot.guard:
            if not _runs(slot, record):
                return False
            slot.kill_reason, slot.ended_by_limit = reason, limit
            slot.remark(change, _exceeded({}))
        record.process.kill()
        return True

    def end(self, record: WorkerRecord, limit: str, reason: str, change: Remark) -> bool:
        """Stop a running worker cleanly, and kill it after its own stop timeout. Blocks.

        Its exit is handled as that of one that exited unexpectedly: recovery decides about a restart. Returns
        False, and changes nothing, if a command of the account runs or waits. A stop that arrives meanwhile
        takes over.
        """
        slot = self._slots.find(record.account_id)
        if slot is None or not slot.lock.acquire(blocking=False):
            return False
        try:
            with slot.guard:
                if not _runs(slot, record) or slot.cancelled.is_set():
                    return False
                slot.kill_reason, slot.ended_by_limit = reason, limit
                slot.remark(change, _exceeded({}))
            self._stop(slot, record, reason)
        finally:
            slot.lock.release()
        return True

    def _stop(self, slot: Slot, record: WorkerRecord, reason: str) -> None:
        began = self._clocks.monotonic()
        seconds = record.stop_timeout_seconds
        request: dict[str, Any] = {"op": "stop", "seconds": seconds * _REQUEST_SHARE}
        try:
            slot.ask(request, timeout=min(2.0, seconds))
        except ControlError as error:
            logs.event(logger, logging.WARNING, "stop_request_failed", str(error), account=slot.account_id)
            record.process.signal(signal.SIGTERM)
        if self._ended_or_overruled(slot, began + seconds * _REQUEST_SHARE):
            return
        record.process.signal(signal.SIGTERM)
        if self._ended_or_overruled(slot, began + seconds):
            return
        with slot.guard:
            slot.kill_reason = f"{reason}; it did not stop within {seconds:g} s and was killed"
        try:
            kill_process(slot, self._limits.kill_seconds)
        except StopFailedError as error:
            # The next look tries again.
            logs.event(logger, logging.ERROR, "limit_stop_failed", str(error), account=slot.account_id)

    def _ended_or_overruled(self, slot: Slot, deadline: float) -> bool:
        """Wait until the worker has ended, or a stop by a command waits for this one."""
        while not slot.exited.wait(_POLL_SECONDS):
            if slot.cancelled.is_set():
                with slot.guard:
                    if not slot.exited.is_set():
                        slot.kill_reason = slot.ended_by_limit = None
                return True
            if self._clocks.monotonic() >= deadline:
                return False
        return True


def _runs(slot: Slot, record: WorkerRecord) -> bool:
    """Return whether the slot's worker is still the one of `record` and runs. The caller holds `guard`."""
    return (
        slot.record is not None
        and slot.record.worker_id == record.worker_id
        and slot.status is WorkerLifecycleStatus.RUNNING
        and not slot.exited.is_set()
    )


def _exceeded(exceeded: Mapping[str, str]) -> dict[str, Any]:
    """Return the metadata of a worker that exceeds these limits."""
    return WorkerPlacement(exceeded=dict(exceeded) or None).to_dict()
