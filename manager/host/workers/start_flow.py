"""The steps of a start, from the configuration to the connected session."""

from manager.errors import SessionHeldError, StartCancelledError
from manager.fleet.run_types import RECOVERY, SCHEDULE, RunCause
from manager.host.reporting.record_sink import RecordSink
from manager.host.workers.exits import ExitHandler
from manager.host.workers.leases import LeaseRequest, Leases
from manager.host.workers.limits import PoolLimits
from manager.host.workers.login_throttle import LoginThrottle
from manager.host.workers.lost_records import LostRecords
from manager.host.workers.queries import WorkerQueries
from manager.host.workers.records import RecordFiles
from manager.host.workers.slot import Slot
from manager.host.workers.slots import SlotTable
from manager.host.workers.starter import Starter
from manager.models import WorkerInfo, new_worker_id
from manager.pool.protocol import StartRequest
from manager.states import WorkerLifecycleStatus


class StartFlow:
    """Starts a worker in a slot: lease, login throttle, process, record."""

    def __init__(
        self,
        slots: SlotTable,
        queries: WorkerQueries,
        starter: Starter,
        records: RecordFiles,
        leases: Leases,
        login_throttle: LoginThrottle,
        lost_records: LostRecords,
        exits: ExitHandler,
        sink: RecordSink,
        limits: PoolLimits,
    ) -> None:
        self._slots = slots
        self._queries = queries
        self._starter = starter
        self._records = records
        self._leases = leases
        self._login_throttle = login_throttle
        self._lost_records = lost_records
        self._exits = exits
        self._sink = sink
        self._limits = limits

    def start(self, slot: Slot, request: StartRequest, *, recovering: bool = False) -> WorkerInfo:
        """Start a worker; the caller holds the slot's lock.

        Blocks until its session is connected.

        If a recovery fails, the account keeps its lease for the next attempt; any other start releases it.
        """
        slot.starting = True
        try:
            return self._start(slot, request, recovering)
        finally:
            slot.starting = False
            slot.next_worker = None

    def _start(self, slot: Slot, request: StartRequest, recovering: bool) -> WorkerInfo:
        config = request.prepare()
        if slot.orphaned and slot.info is not None:
            # No worker may start beside surviving processes of the last worker's program.
            self._exits.record_end(slot, WorkerLifecycleStatus.FAILED, slot.info.error)
        if slot.unrecorded:
            found = self._lost_records.find(request.account_id)
            if found is not None:
                raise SessionHeldError(found.explain(self._starter.host))
        slot.origin = _origin(slot, request, recovering)
        if request.trading_mode is not None:
            slot.mode = request.trading_mode()
        slot.next_worker = worker_id = new_worker_id()
        previous = slot.lease
        lease = self._leases.acquire(
            LeaseRequest(
                config=config,
                worker_id=worker_id,
                previous=previous,
                cancelled=slot.cancelled,
                may_live=self._may_live,
            )
        )
        slot.lease = lease
        if previous is not None and previous.claims != lease.claims:
            self._leases.release(previous)
        try:
            self._login_throttle.wait((config.gateway, config.server or ""), slot.cancelled)
            if slot.cancelled.is_set():
                raise StartCancelledError(f"{request.account_id}: a stop arrived while it was starting")
            info = self._starter.start(slot, config, worker_id, lease, self._exits.watch, request.generation)
        except BaseException as error:
            if slot.info is not None and slot.info.worker_id == worker_id:
                self._sink.flush(self._limits.publish_seconds)
            # If the process of the failed start could not be ended, its record stays: it may still hold the
            # session.
            if self._exits.leave_unattended(slot):
                self._exits.record_end(slot, WorkerLifecycleStatus.FAILED, str(error))
            elif not recovering and slot.record is None:
                self._exits.release_lease(slot)
            raise
        self._sink.flush(self._limits.publish_seconds)
        return self._queries.with_metrics(slot, info)

    def _may_live(self, worker_id: str) -> bool:
        """Return whether the worker of a lease may live here.

        It is known, or a process holds its files.
        """
        return self._slots.has_worker(worker_id) or self._records.runs(worker_id)


def _origin(slot: Slot, request: StartRequest, recovering: bool) -> RunCause:
    """Return who asked for a start, and why.

    If the account had a worker of the same command, or rested after it, nobody asked for this one.
    """
    info = slot.info
    again = info is not None and 0 < request.generation == info.placement.generation
    if not (recovering and again):
        return request.origin or RunCause()
    return RunCause(why=SCHEDULE if slot.resting else RECOVERY)
