"""Accounts whose worker lives without a record.

The pool detects them, shows them as `unknown`, and stops them on request.
"""

import contextlib

from manager.errors import FleetUnavailableError, StopFailedError
from manager.host.reporting.record_sink import RecordSink
from manager.host.workers.adoption import Adoption
from manager.host.workers.limits import PoolLimits
from manager.host.workers.records import RecordFiles
from manager.host.workers.runs import RunRecorder
from manager.host.workers.slot import Slot
from manager.host.workers.slots import SlotTable
from manager.host.workers.unrecorded import Unrecorded, UnrecordedWorkers
from manager.models import utc_now
from manager.states import WorkerLifecycleStatus


class LostRecords:
    """Fills slots with workers whose record is lost.

    See `manager.host.workers.unrecorded`.
    """

    def __init__(
        self,
        slots: SlotTable,
        records: RecordFiles,
        unrecorded: UnrecordedWorkers | None,
        adoption: Adoption,
        sink: RecordSink,
        limits: PoolLimits,
        runs: RunRecorder,
    ) -> None:
        """Create the search; `unrecorded` is None for a pool without a fleet.

        Without it, only the notes on this machine are searched.
        """
        self._slots = slots
        self._records = records
        self._unrecorded = unrecorded
        self._adoption = adoption
        self._sink = sink
        self._limits = limits
        self._runs = runs

    def find(self, account_id: str) -> Unrecorded | None:
        """Return the account's live worker without a record, or None.

        Raises FleetUnavailableError.
        """
        if self._unrecorded is None:
            return None
        return self._unrecorded.find(account_id, self._slots.accounts_for)

    def detect_all(self) -> bool:
        """Set the accounts of live workers without a record to `unknown`.

        Returns whether there are any.

        Raises FleetUnavailableError.
        """
        if self._unrecorded is None:
            return False
        found = {one.account_id for one in self._unrecorded.find_all(self._slots.accounts_for)}
        found |= {slot.account_id for slot in self._slots.all() if slot.unrecorded}
        live = [account_id for account_id in found if self._detect(account_id)]
        return bool(live)

    def find_slot(self, account_id: str) -> Slot | None:
        """Search for a live worker of the account without a record.

        Call it before a stop reports "nothing to stop".

        Returns its slot, with the worker adopted from its note or set to `unknown`; None if there is none.
        """
        record = self._records.lost(account_id)
        if record is not None and not self._slots.has_worker(record.worker_id):
            slot = self._slots.get(account_id)
            with slot.lock:
                if not slot.live and record.process.alive():
                    self._adoption.adopt(slot, record, lambda _: False)
            return slot
        try:
            if self.find(account_id) is None:
                return None
        except FleetUnavailableError:
            return None  # Redis is down, and this machine shows no worker; desired state still has the stop
        slot = self._slots.get(account_id)
        with contextlib.suppress(FleetUnavailableError):
            self._detect(account_id)
        return slot

    def end(self, slot: Slot, timeout: float | None) -> None:
        """End the account's worker without a record.

        The caller holds the slot's lock. Raises StopFailedError.
        """
        try:
            found = self.find(slot.account_id)
        except FleetUnavailableError as error:
            raise StopFailedError(
                f"{slot.account_id}: not stopped: this host has lost its record of the worker, and {error}: "
                "stop it again"
            ) from None
        if found is not None and self._unrecorded is not None:
            self._unrecorded.end(found, timeout)
        with slot.guard:
            if slot.info is None:
                return
            ended = slot.set_info(
                slot.info.with_(
                    status=WorkerLifecycleStatus.STOPPED,
                    error="stopped by signal: the host had lost its record of it",
                    stopped_at=utc_now(),
                )
            )
        self._runs.ended_without_record(ended, observed=True)
        self._sink.flush(self._limits.publish_seconds)

    def _detect(self, account_id: str) -> bool:
        """Update the account's record.

        Returns whether it newly has, or still has, a worker without a record.
        """
        slot = self._slots.get(account_id)
        if self._unrecorded is None:
            return False
        found = self.find(account_id)
        unknown = self._unrecorded.info(found) if found is not None else None
        with slot.guard:
            before = slot.info
            if slot.live or slot.starting or (unknown is None and not slot.unrecorded):
                return False
            if unknown is not None and before is not None and before.worker_id == unknown.worker_id:
                return True
            if unknown is not None:
                slot.set_info(unknown)
            elif before is not None:
                reason = "it ended while this host had no record of it"
                ended = slot.set_info(before.with_(status=WorkerLifecycleStatus.FAILED, error=reason))
                self._runs.ended_without_record(ended, observed=False)
        return unknown is not None
