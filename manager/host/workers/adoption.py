"""Adoption of workers that an earlier host agent left running."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

from manager.errors import OrphansLeftError
from manager.host.workers.exit_reason import describe_exit
from manager.host.workers.exits import ExitHandler
from manager.host.workers.launch_builder import limits_metadata
from manager.host.workers.leases import LeaseGrant, Leases
from manager.host.workers.limits import Clocks, PoolLimits
from manager.host.workers.modes import reported_mode
from manager.host.workers.records import RecordFiles, WorkerRecord
from manager.host.workers.slot import Slot
from manager.host.workers.slots import SlotTable
from manager.host.workers.starter import Starter
from manager.host.workers.stopper import stop_outcome
from manager.models import WorkerInfo, WorkerMetrics, WorkerPlacement
from manager.session.heartbeat_file import Heartbeat, read_heartbeat
from manager.states import WorkerLifecycleStatus
from manager.system import logs

logger = logging.getLogger(__name__)

#: Returns whether a stop of the account is desired.
IsStopDesired = Callable[[str], bool]


class Adoption:
    """Fills slots from the records on disk; no session is touched."""

    def __init__(
        self,
        slots: SlotTable,
        starter: Starter,
        records: RecordFiles,
        leases: Leases,
        exits: ExitHandler,
        limits: PoolLimits,
        clocks: Clocks,
    ) -> None:
        self._slots = slots
        self._starter = starter
        self._records = records
        self._leases = leases
        self._exits = exits
        self._limits = limits
        self._clocks = clocks

    def adopt_all(self, is_stop_desired: IsStopDesired) -> list[WorkerInfo]:
        """Adopt the worker of every record on disk; see `WorkerPoolManager.adopt`."""
        adopted: list[WorkerInfo] = []
        for record in self._records.load_all():
            slot = self._slots.get(record.account_id)
            with slot.lock:
                info = self.adopt(slot, record, is_stop_desired)
            logs.event(
                logger,
                logging.INFO,
                "worker_adopted",
                info.error or "",
                account=info.account_id,
                worker=info.worker_id,
                pid=record.process.pid,
                status=info.status,
            )
            adopted.append(info)
        return adopted

    def adopt(self, slot: Slot, record: WorkerRecord, is_stop_desired: IsStopDesired) -> WorkerInfo:
        """Adopt one worker, or record its end; the caller holds the slot's lock."""
        heartbeat = read_heartbeat(record.beat_file)
        self._fill(slot, record)
        alive, reason = _end_interrupted_start(record, heartbeat, self._limits.exit_seconds)
        if slot.lease is not None:
            self._leases.adopt(slot.lease, record.worker_id, record.account_id)
        if not alive:
            slot.exited.set()
            with contextlib.suppress(OrphansLeftError):  # recovery or a stop tries again to end them
                self._record_end(slot, reason, stopped=is_stop_desired(record.account_id))
        else:
            status = heartbeat.status if heartbeat else {}
            with slot.guard:
                slot.set_running(status, beat=_first_beat(record, status), started_at=record.created_at)
            self._exits.watch(slot, record.process)
        if slot.info is None:
            raise RuntimeError(f"{record.account_id}: the slot lost its worker during adoption")
        return slot.info

    def restore_records(self) -> None:
        """Write the missing record files of live workers again. Raises OSError."""
        for slot in self._slots.all():
            record = slot.record
            if record is None or not self._records.missing(record):
                continue
            with slot.guard:
                # Removal holds the guard too: the record of an ended worker must not come back.
                if slot.record is record and slot.live and not slot.exited.is_set():
                    self._records.save(record)
                    logs.event(logger, logging.WARNING, "record_restored", account=slot.account_id)

    def _fill(self, slot: Slot, record: WorkerRecord) -> None:
        slot.record = record
        slot.lease = LeaseGrant(
            claims=record.claims,
            epoch=record.epoch,
            seconds=record.lease_seconds,
            asked_at=self._clocks.lease(),
        )
        slot.restarts, slot.last_cause = record.restarts, record.last_cause
        extras = self._records.extras(record)
        slot.origin = extras.origin
        # The note has the settings of the start, which the account's file may have changed since.
        kept = self._starter.kept.load(record.account_id, record.worker_id)
        slot.recovery = extras.recovery if kept is None else kept.config.recovery
        slot.limits = extras.limits if kept is None else kept.config.limits
        slot.ended_by_limit = None
        slot.mode = reported_mode(record)
        slot.exited.clear()
        slot.exit_code = None
        slot.info = WorkerInfo(
            worker_id=record.worker_id,
            account_id=record.account_id,
            status=WorkerLifecycleStatus.STARTING,
            created_at=record.created_at,
            groups=record.groups,
            labels=record.labels,
            metadata=self._starter.metadata(record)
            | limits_metadata(slot.limits)
            | WorkerPlacement(adopted=True).to_dict()
            | WorkerMetrics(trading_mode=slot.mode).to_dict(),
        )

    def _record_end(self, slot: Slot, reason: str, *, stopped: bool) -> None:
        if stopped:
            # Completes the stop that was in progress when its agent died.
            with slot.guard:
                if slot.info is not None:
                    slot.info = slot.info.with_(status=WorkerLifecycleStatus.STOPPING)
            ending = stop_outcome(slot)
            self._exits.record_end(
                slot,
                WorkerLifecycleStatus.STOPPED,
                ending.reason,
                forced=ending.forced,
                observed=False,
            )
        else:
            self._exits.record_end(slot, WorkerLifecycleStatus.FAILED, reason, observed=False)


def _end_interrupted_start(
    record: WorkerRecord, heartbeat: Heartbeat | None, seconds: float
) -> tuple[bool, str]:
    """End a worker whose start died with its agent.

    Returns whether a worker lives, and else why it ended.

    A worker that never received its launch specification has no heartbeat file and ends by itself. One that
    stays alive without a heartbeat file trades: its run directory was removed, and no stop was requested.
    """
    alive = record.process.alive()
    connecting = heartbeat is not None and heartbeat.status.get("phase") == "connecting"
    if alive and (heartbeat is None or connecting):
        if connecting:
            record.process.kill()
        alive = not record.process.wait(seconds)
        return alive, "the host agent died while it was starting"
    return alive, describe_exit(None, heartbeat.exit_reason if heartbeat else None)


def _first_beat(record: WorkerRecord, status: Mapping[str, Any]) -> dict[str, Any]:
    return {"worker_id": record.worker_id, **{k: v for k, v in status.items() if k != "phase"}}
