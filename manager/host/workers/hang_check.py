"""Hang detection from a worker's heartbeat file.

A hung worker cannot report itself.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from manager.host.workers.records import WorkerRecord
from manager.host.workers.slot import Slot
from manager.host.workers.slots import SlotTable
from manager.session.heartbeat_file import Heartbeat, read_heartbeat
from manager.states import WorkerLifecycleStatus
from manager.system import logs

logger = logging.getLogger(__name__)

#: Seconds that a call may exceed its deadline before it counts as hung: the gateway's own timeout comes
#: first.
_OVERDUE_SECONDS: Final = 1.0


class HangCheck:
    """Kills hung workers and updates the health of running ones.

    Both are read from the workers' heartbeat files.
    """

    def __init__(self, slots: SlotTable, read: Callable[[Path], Heartbeat | None] = read_heartbeat) -> None:
        """Create the check; `read` returns the content of a heartbeat file."""
        self._slots = slots
        self._read = read

    def tick(self) -> list[str]:
        """Check every running worker once.

        Returns the accounts whose worker was killed.
        """
        running = [slot for slot in self._slots.all() if slot.status is WorkerLifecycleStatus.RUNNING]
        return [slot.account_id for slot in running if self._check(slot)]

    def _check(self, slot: Slot) -> bool:
        record = slot.record
        if record is None:
            return False
        heartbeat = self._read(record.beat_file)
        with slot.guard:
            if slot.record is not record or slot.status is not WorkerLifecycleStatus.RUNNING:
                return False
            if heartbeat is not None:
                slot.update_health(heartbeat.status)
            reason = hang_reason(record, heartbeat)
            if reason is None:
                return False
            slot.kill_reason = reason
        logs.event(
            logger,
            logging.ERROR,
            "worker_hung",
            reason,
            account=slot.account_id,
            worker=record.worker_id,
            pid=record.process.pid,
        )
        record.process.kill()
        return True


def hang_reason(record: WorkerRecord, heartbeat: Heartbeat | None) -> str | None:
    """Return why the worker counts as hung.

    Returns None if it is healthy or its heartbeat file is unreadable.
    """
    if heartbeat is None:
        return None
    if heartbeat.overdue_seconds is not None and heartbeat.overdue_seconds > _OVERDUE_SECONDS:
        return f"it hung: the call {heartbeat.call} was {heartbeat.overdue_seconds:.1f} s past its deadline"
    if heartbeat.age_seconds > record.hang_after_seconds:
        return f"it hung: no heartbeat for {heartbeat.age_seconds:.0f} s"
    return None
