"""Exit handling: notices and records the end of worker processes."""

import logging
import threading
from collections.abc import Callable
from typing import Final

from manager.errors import OrphansLeftError
from manager.host.reporting.record_sink import RecordSink
from manager.host.workers.exit_reason import describe_exit
from manager.host.workers.leases import Leases
from manager.host.workers.limits import PoolLimits
from manager.host.workers.records import RecordFiles, WorkerRecord
from manager.host.workers.slot import Slot
from manager.host.workers.starter import Starter
from manager.models import WorkerInfo
from manager.session.heartbeat_file import read_heartbeat
from manager.states import WorkerLifecycleStatus
from manager.system import logs
from manager.system.essential_threads import EssentialThread
from manager.system.process_watch import ProcessWatch
from manager.system.processes import ProcessRef
from manager.system.thread_pool import ThreadPool

logger = logging.getLogger(__name__)

#: Exits handled in parallel, so that one account's slow file or process tree delays no other account.
_EXIT_THREADS: Final = 64

#: The exit code of a process that SIGKILL ended.
_KILLED: Final = -9

#: Called with the record and the reason of a worker that ended without a command, on a thread for this exit
#: alone. What it returns is called once the account is `restarting`, and must lead to `recover_worker`. If it
#: returns None, the worker is not replaced.
OnUnexpectedExit = Callable[[WorkerInfo, str], Callable[[], None] | None]


class ExitHandler:
    """Records the ends of workers. Thread-safe."""

    def __init__(
        self,
        starter: Starter,
        records: RecordFiles,
        leases: Leases,
        sink: RecordSink,
        on_unexpected_exit: OnUnexpectedExit | None,
        watch: ProcessWatch,
        limits: PoolLimits,
    ) -> None:
        self._starter = starter
        self._records = records
        self._leases = leases
        self._sink = sink
        self._on_unexpected_exit = on_unexpected_exit
        self._watch = watch
        self._limits = limits
        self._closing = threading.Event()
        self._pool = ThreadPool(_EXIT_THREADS, "worker-exit")

    @property
    def threads(self) -> list[EssentialThread]:
        """The threads without which no exit is noticed."""
        return [self._watch.thread, *self._pool.threads]

    def close(self) -> None:
        """Stop watching. Workers are not affected."""
        self._closing.set()
        self._watch.close()
        self._pool.shutdown(cancel_futures=True)

    def watch(self, slot: Slot, process: ProcessRef) -> None:
        """Handle the future exit of the slot's worker on a thread."""

        def exited(process: ProcessRef) -> None:
            # Not on the watching thread: exit handling reads files and waits for processes.
            self._pool.submit(self._handle_until_done, slot, process)

        self._watch.watch(process, exited)

    def record_end(
        self,
        slot: Slot,
        status: WorkerLifecycleStatus,
        reason: str | None,
        *,
        forced: bool = False,
        observed: bool = True,
    ) -> None:
        """Record the proven end of a worker and release its lease.

        The caller holds the slot's lock. `observed`: whether this agent saw the worker end.

        Raises OrphansLeftError if processes of its program survive; the account then keeps its record and
        lease.
        """
        if slot.record is not None:
            try:
                self._starter.end_orphans(slot.record)
            except OrphansLeftError as error:
                with slot.guard:
                    recovering = status is WorkerLifecycleStatus.RESTARTING or slot.restarting
                    slot.set_orphaned(str(error), recovering=recovering)
                raise
        with slot.guard:
            slot.exited.set()  # proven: `restore_records` must not write the record again
            record = slot.record
        # First, so that a reader of the new state finds the lease free.
        if record is not None:
            self._starter.runs.ended(slot, record, status, reason, forced=forced, observed=observed)
            self.remove_record(record)
        if status is not WorkerLifecycleStatus.RESTARTING:
            self.release_lease(slot)
        with slot.guard:
            slot.orphaned = False
            slot.move(status, error=reason, metadata=slot.ending(forced=forced))
            slot.record = None
        if status is WorkerLifecycleStatus.STOPPED:
            self._sink.flush(self._limits.publish_seconds)

    def release_lease(self, slot: Slot) -> None:
        """Release the slot's lease, if it holds one."""
        lease, slot.lease = slot.lease, None
        if lease is not None:
            self._leases.release(lease)

    def leave_unattended(self, slot: Slot) -> bool:
        """Leave a worker that a command could not end to the exit handler.

        Returns True if the worker has ended meanwhile: then the command still has to record its end.
        """
        with slot.guard:
            slot.unattended = slot.record is not None and not slot.exited.is_set()
            return slot.record is not None and slot.exited.is_set()

    def remove_record(self, record: WorkerRecord) -> None:
        """Remove the record file of an ended worker; a failure is logged."""
        try:
            self._records.remove(record)
        except OSError as error:
            # The next agent finds a record of an ended process and reports it as ended.
            logs.event(logger, logging.WARNING, "record_left", str(error), account=record.account_id)

    def _handle_until_done(self, slot: Slot, process: ProcessRef) -> None:
        """Handle an exit, and retry after any error.

        Otherwise a dead worker would be shown as running.
        """
        while not self._closing.is_set():
            try:
                self._handle(slot, process)
            except BaseException as error:
                self._watch.thread.failed(error)
            else:
                return
            self._closing.wait(self._limits.exit_retry_seconds)

    def _handle(self, slot: Slot, process: ProcessRef) -> None:
        """Handle the exit of a worker, requested or not.

        May be called again after it raised.
        """
        record = self._note_exit(slot, process)
        if record is None:
            return
        heartbeat = read_heartbeat(record.beat_file)
        with slot.guard:
            info, code, now = slot.info, slot.exit_code, slot.record
            # Not the same object: the worker may have got another configuration meanwhile.
            if now is None or now.process != process or info is None:
                return
            record = now
            slot.exited.set()
            if slot.events is not None:
                slot.events.put({"event": "died"})
            if heartbeat is not None:
                # A worker that ends because it is unhealthy writes that health just before it ends.
                slot.update_health(heartbeat.status)
            unexpected = slot.status is WorkerLifecycleStatus.RUNNING
            unattended = slot.unattended
        if not (unexpected or unattended):
            return  # the running start or stop records this end
        reason = self._reason(slot, record, heartbeat.exit_reason if heartbeat else None)
        if unexpected and code == 0 and slot.ended_by_limit is None:
            reason += ", without a command"
        recover = None
        if unexpected and self._on_unexpected_exit is not None:
            ended = info.with_(error=reason, metadata=slot.ending())
            recover = self._on_unexpected_exit(ended, reason)
        survivors: str | None = None
        try:
            # Before the account may get another worker, or lose its lease.
            self._starter.end_orphans(record)
        except OrphansLeftError as error:
            survivors = str(error)
        recorded = self._record_unrequested_end(
            slot, record, reason, recovering=recover is not None, survivors=survivors
        )
        if recorded and recover is not None:
            recover()

    def _reason(self, slot: Slot, record: WorkerRecord, exit_reason: str | None) -> str:
        """Return why the slot's worker ended."""
        code = slot.exit_code
        if slot.kill_reason is None and code in (None, _KILLED) and self._starter.killed_for_memory(record):
            slot.ended_by_limit = "memory_hard_mb"
            most = None if slot.limits is None else slot.limits.memory_hard_mb
            return f"the system killed it because its memory reached limits.memory_hard_mb {most}"
        if slot.ended_by_limit is not None and slot.kill_reason is not None and exit_reason and code:
            return f"{slot.kill_reason}; {exit_reason}"
        return slot.kill_reason or describe_exit(code, exit_reason)

    def _note_exit(self, slot: Slot, process: ProcessRef) -> WorkerRecord | None:
        """Store the exit code.

        Returns the worker's record, or None if the slot has another worker by now.
        """
        code = self._starter.exit_code(process)
        with slot.guard:
            record = slot.record
            if record is None or slot.info is None or record.process != process:
                return None
            if code is not None:
                slot.exit_code = code
        return record

    def _record_unrequested_end(
        self, slot: Slot, record: WorkerRecord, reason: str, *, recovering: bool, survivors: str | None
    ) -> bool:
        """Record the end of a worker that no command waits for.

        Returns False if a command came first.

        That command saw `exited` and records the end itself. `survivors` names processes of the worker's
        program that could not be killed: then the account keeps its record and its lease.

        All of it happens in one hold of the guard. A start may begin as soon as the guard is released, and
        what it creates (record, file, lease) must not be taken for the ended worker's.
        """
        with slot.guard:
            before, exit_code = slot.status, slot.exit_code
            running = before is WorkerLifecycleStatus.RUNNING
            if slot.record is not record or not (running or slot.unattended):
                return False
            slot.unattended, slot.last_cause = False, reason
            slot.restarts += recovering
            if survivors is not None:
                slot.set_orphaned(survivors, recovering=recovering)
                return True
            if recovering:
                status = WorkerLifecycleStatus.RESTARTING
            elif before is WorkerLifecycleStatus.STOPPING or (running and exit_code == 0):
                status = WorkerLifecycleStatus.STOPPED
            else:
                status = WorkerLifecycleStatus.FAILED
            self._starter.runs.ended(slot, record, status, reason)
            self.remove_record(record)
            slot.record = None
            lease = slot.lease
            if not recovering:
                slot.lease = None
            slot.move(status, error=reason, metadata=slot.ending())
        if lease is not None and not recovering:
            self._leases.release(lease)
        return True
