"""The host's pool of workers: one process an account, started, watched and stopped here."""

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from manager.errors import (
    FleetUnavailableError,
    HostUnavailableError,
    ManagerError,
    NoWorkerError,
    OrphansLeftError,
    SessionHeldError,
    StartCancelledError,
    StartFailedError,
    StopFailedError,
)
from manager.gateways import runs_programs
from manager.host.reporting.record_sink import NoSink, RecordSink
from manager.host.workers.exit_reason import describe_exit
from manager.host.workers.hang_check import why_hung
from manager.host.workers.leases import LeaseGrant, Leases
from manager.host.workers.login_throttle import LoginThrottle
from manager.host.workers.modes import ask_for_mode, reported_mode
from manager.host.workers.parallel import run_batch
from manager.host.workers.queries import WorkerQueries
from manager.host.workers.records import RecordFiles, WorkerRecord
from manager.host.workers.slot import Slot
from manager.host.workers.slots import SlotTable
from manager.host.workers.starter import Starter
from manager.host.workers.stopper import StopOutcome, how_ended, stop_process
from manager.host.workers.unrecorded import UnrecordedWorkers
from manager.models import BatchResult, WorkerInfo, new_worker_id, utc_now
from manager.placement.engine import Needs
from manager.pool.arguments import check_timeout
from manager.pool.commands import CommandSpec, mode_not_supported
from manager.pool.protocol import Batch, Progress, StartRequest
from manager.session.heartbeat_file import Heartbeat, read_heartbeat
from manager.session.lease import lease_clock
from manager.states import TradingMode, WorkerLifecycleStatus
from manager.system import logs
from manager.system.essential_threads import EssentialThread
from manager.system.process_watch import ProcessWatch
from manager.system.processes import ProcessRef
from manager.system.thread_pool import ThreadPool

logger = logging.getLogger(__name__)

#: Seconds that a start waits for its record to be in Redis, so that a listing right after it shows it.
_PUBLISH_SECONDS: Final = 2.0
#: Ends of workers that are accounted for at once. One account's slow file or process tree delays none of the others.
_ENDS: Final = 64
#: Seconds before an end that could not be accounted for is tried again.
_AGAIN_SECONDS: Final = 0.5


#: See `WorkerPoolManager`.
OnUnexpectedExit = Callable[[WorkerInfo, str], Callable[[], None] | None]


class WorkerPoolManager:
    """Starts, stops, restarts and lists the workers of this host. Every method may be called from any thread.

    Commands to one account happen one after the other; accounts never wait for each other. Workers outlive the pool:
    `close` touches none of them, and `adopt` finds them again. `on_unexpected_exit` hears of every worker that ended
    without being asked to, on a thread of this end alone; what it returns is called once the account is `restarting`, and has
    `recover_worker` called soon; if it returns None the worker is not replaced.
    """

    def __init__(
        self,
        starter: Starter,
        records: RecordFiles,
        *,
        sink: RecordSink | None = None,
        stale_after_seconds: float = 10.0,
        leases: Leases,
        logins_per_second: float = 100.0,
        on_unexpected_exit: OnUnexpectedExit | None = None,
        unrecorded: UnrecordedWorkers | None = None,
    ) -> None:
        self.slots = SlotTable()
        self.queries = WorkerQueries(self.slots, stale_after_seconds)
        self._starter = starter
        self._records = records
        self._sink: RecordSink = sink or NoSink()
        self._on_unexpected_exit = on_unexpected_exit
        self._leases = leases
        self._unrecorded = unrecorded
        self._login_throttle = LoginThrottle(logins_per_second)
        self._closing = threading.Event()
        self._ends = ThreadPool(_ENDS, "ended")
        self._watch = ProcessWatch()

    # commands

    def start_worker(self, request: StartRequest) -> WorkerInfo:
        """See `manager.pool.protocol.WorkerPool.start_worker`."""
        slot = self.slots.get(request.account_id)
        with slot.lock:
            if slot.unattended and slot.record is not None:
                raise StartFailedError(
                    f"{request.account_id}: process {slot.record.process.pid} of its last worker could not be "
                    f"ended and may still trade: stop it again (`manager stop {request.account_id}`), then start it"
                )
            if slot.live and slot.info is not None and not (slot.restarting or slot.orphaned):
                # Of its own generation, it was started by this very command, which came another way as well.
                already = slot.generation != request.generation or request.generation == 0
                return self.queries.with_metrics(slot, slot.info).with_(
                    metadata={"already_running": True} if already else {}
                )
            slot.restarts, slot.last_cause = 0, None
            return self._start(slot, request)

    def recover_worker(self, request: StartRequest) -> WorkerInfo | None:
        """Start the account's worker again after it ended unasked; None if it has a worker by now.

        If that fails, what the worker held stays with the account: another try, `abandon` or a stop follows.
        """
        slot = self.slots.get(request.account_id)
        with slot.lock:
            if slot.live and not (slot.restarting or slot.orphaned):
                return None
            return self._start(slot, request, recovering=True)

    def abandon(self, account_id: str, reason: str, *, stopped: bool = False) -> None:
        """Give up the recovery of an account that has no worker; the account then holds nothing.

        The account becomes `failed` with the reason, or `stopped` where `stopped` says that a stop is
        desired.
        """
        slot = self.slots.get(account_id)
        with slot.lock:
            if stopped and (slot.record is None or slot.orphaned):
                with contextlib.suppress(OrphansLeftError):  # a stop tries again
                    self._stop(slot, None)
            elif slot.restarting:
                with contextlib.suppress(OrphansLeftError):  # a stop tries again
                    self._ended(slot, WorkerLifecycleStatus.FAILED, reason)
            elif not slot.live:
                self._tell_why(slot, reason)
                self._give_up(slot)

    def forget(self, account_id: str) -> bool:
        """Drop what is known of an account that has no worker; False if nothing is, or if it has one."""
        return self.slots.remove_unused(account_id)

    def finds(self, account_id: str) -> bool:
        """Say whether this host has anything of the account; looks for a worker that no record names."""
        return self.slots.find(account_id) is not None or self._recall(account_id) is not None

    def cancel_start(self, account_id: str) -> None:
        """Break off a start of the account that is under way."""
        slot = self.slots.get(account_id)
        slot.cancelled.set()
        slot.tell({"event": "cancelled"})

    def end_hung_workers(self) -> list[str]:
        """Kill every worker whose loop gave no sign of life for too long, or that is in a call past its deadline.

        Returns their accounts. Judged by their beat files: one that hangs cannot say so itself. Changes of
        health, which those files tell too, become events.
        """
        running = [slot for slot in self.slots.all() if slot.status is WorkerLifecycleStatus.RUNNING]
        return [slot.account_id for slot in running if self._end_if_hung(slot)]

    def restart_worker(self, request: StartRequest) -> WorkerInfo:
        """See `manager.pool.protocol.WorkerPool.restart_worker`. The new configuration is checked before anything stops."""
        slot = self.slots.get(request.account_id)
        with slot.lock:
            if (
                slot.live
                and slot.info is not None
                and not (slot.restarting or slot.orphaned)
                and 0 < request.generation <= slot.generation
            ):
                return self.queries.with_metrics(slot, slot.info)
            config = request.prepare()
            if slot.live:
                self._stop(slot, None)
            slot.restarts, slot.last_cause = 0, None
            return self._start(slot, replace(request, prepare=lambda: config))

    def stop_worker(self, account_id: str, timeout: float | None = None) -> bool:
        """See `manager.pool.protocol.WorkerPool.stop_worker`. A start that is under way is broken off.

        An account whose worker has failed, or that waits for its recovery, is recorded as stopped: True.
        """
        timeout = check_timeout(timeout)
        slot = self.slots.find(account_id)
        if slot is None or not (slot.live or slot.starting):
            slot = self._recall(account_id) or slot
        if slot is None:
            raise _no_worker(account_id)
        slot.cancelled.set()
        # A worker, a start that is under way, or another try that is to come: there is something to stop, and whoever
        # stops it while this one waits for its turn stops it for both.
        present = slot.live or slot.starting or slot.unrecorded or slot.held is not None
        slot.tell({"event": "cancelled"})
        with slot.lock:
            slot.cancelled.clear()
            if slot.unrecorded and not slot.live:
                self._end_unrecorded(slot, timeout)
                self._give_up(slot)
                return True
            if not (self._stop(slot, timeout) or present):
                raise _no_worker(account_id)
        return True

    def set_mode(self, command: CommandSpec, account_id: str, by: str = "") -> WorkerInfo:
        """See `manager.pool.protocol.WorkerPool.set_mode`. Waits for a start or stop of the account that is under way."""
        mode = command.mode
        if mode is None:
            raise ValueError(f"{command.name} changes no trading mode")
        slot = self.slots.find(account_id)
        if slot is None or slot.info is None:
            raise NoWorkerError(f"{account_id} has no worker here: nothing to {command.name}")
        with slot.lock:
            return self._set_mode(slot, mode, by, command.name)

    def apply_mode(self, account_id: str, mode: TradingMode) -> bool:
        """Have the account's worker trade as is desired; False if it has none now, or a command is under way.

        Raises CommandRefusedError.
        """
        slot = self.slots.find(account_id)
        if slot is None or not slot.lock.acquire(blocking=False):
            return False
        try:
            if slot.status is not WorkerLifecycleStatus.RUNNING or slot.mode is mode:
                return False
            self._set_mode(slot, mode, "desired state", str(mode))
        finally:
            slot.lock.release()
        return True

    def _set_mode(self, slot: Slot, mode: TradingMode, by: str, command: str) -> WorkerInfo:
        info = slot.info
        if info is None:
            raise _no_worker(slot.account_id)
        if slot.status is WorkerLifecycleStatus.RUNNING:
            if slot.record is not None and runs_programs(slot.record.gateway):
                raise mode_not_supported(slot.account_id, command)
            ask_for_mode(slot, mode, by)
        slot.mode = mode
        with slot.guard:
            if slot.info is not None:
                slot.info = info = slot.info.with_(metadata={"trading_mode": mode})
                self._note(info)
        self._sink.flush(_PUBLISH_SECONDS)
        return self.queries.with_metrics(slot, info)

    def move_worker(
        self, account_id: str, host: str, *, force: bool = False, needs: Needs | None = None
    ) -> WorkerInfo:
        """A pool is one host's: raises HostUnavailableError."""
        del force, needs
        raise HostUnavailableError(
            f"{account_id} cannot be moved to {host}: this pool of workers is one host's"
        )

    def start_many(
        self, requests: Sequence[StartRequest], progress: Progress | None = None, batch: Batch | None = None
    ) -> BatchResult:
        """See `manager.pool.protocol.WorkerPool.start_many`. Blocks, whatever `batch` says, and keeps no record of it."""
        del batch
        return self._many(self.start_worker, requests, progress)

    def restart_many(
        self, requests: Sequence[StartRequest], progress: Progress | None = None, batch: Batch | None = None
    ) -> BatchResult:
        """See `manager.pool.protocol.WorkerPool.restart_many`, and `start_many` here."""
        del batch
        return self._many(self.restart_worker, requests, progress)

    def set_mode_many(
        self,
        command: CommandSpec,
        account_ids: Sequence[str],
        progress: Progress | None = None,
        batch: Batch | None = None,
    ) -> BatchResult:
        """See `manager.pool.protocol.WorkerPool.set_mode_many`, and `start_many` here."""
        del batch

        def one(account_id: str) -> tuple[str, WorkerInfo | str]:
            try:
                return "done", self.set_mode(command, account_id)
            except NoWorkerError as error:
                return "skipped", str(error)
            except ManagerError as error:
                return "failed", str(error)

        return run_batch([(account_id, account_id) for account_id in account_ids], one, progress)

    def _many(
        self,
        command: Callable[[StartRequest], WorkerInfo],
        requests: Sequence[StartRequest],
        progress: Progress | None,
    ) -> BatchResult:
        def one(request: StartRequest) -> tuple[str, WorkerInfo | str]:
            try:
                info = command(request)
            except ManagerError as error:
                return "failed", str(error)
            return ("already" if info.metadata.get("already_running") else "done"), info

        return run_batch([(request.account_id, request) for request in requests], one, progress)

    def stop_many(
        self,
        account_ids: Sequence[str],
        timeout: float | None = None,
        progress: Progress | None = None,
        batch: Batch | None = None,
    ) -> BatchResult:
        """See `manager.pool.protocol.WorkerPool.stop_many`, and `start_many` here."""
        del batch

        def one(account_id: str) -> tuple[str, WorkerInfo | str]:
            try:
                self.stop_worker(account_id, timeout)
            except NoWorkerError as error:
                return "skipped", str(error)
            except ManagerError as error:
                return "failed", str(error)
            info = self.get_worker_info(account_id)
            return ("done", info) if info else ("skipped", "its record is gone")

        return run_batch([(account_id, account_id) for account_id in account_ids], one, progress)

    # queries

    def list_workers(self) -> list[WorkerInfo]:
        """See `WorkerQueries.list_workers`."""
        return self.queries.list_workers()

    def get_worker_info(self, account_id: str) -> WorkerInfo | None:
        """See `WorkerQueries.get_worker_info`."""
        return self.queries.get_worker_info(account_id)

    def has_worker_for_account(self, account_id: str) -> bool:
        """See `WorkerQueries.has_worker_for_account`."""
        return self.queries.has_worker_for_account(account_id)

    def get_account_worker_id(self, account_id: str) -> str | None:
        """See `WorkerQueries.get_account_worker_id`."""
        return self.queries.get_account_worker_id(account_id)

    def health(self) -> dict[str, Any]:
        """See `WorkerQueries.health`."""
        return self.queries.health()

    def validate_many(self, needs: Mapping[str, Needs]) -> None:
        """See `manager.pool.protocol.WorkerPool.validate_many`: they would run here."""
        del needs

    def stoppable(self) -> list[str]:
        """See `manager.pool.protocol.WorkerPool.stoppable`."""
        return self.queries.live_accounts()

    def recorded_needs(self, account_ids: Sequence[str]) -> Mapping[str, Needs]:
        """See `manager.pool.protocol.WorkerPool.recorded_needs`: a pool keeps none."""
        del account_ids
        return {}

    # life of the pool

    def preload(self) -> None:
        """Get ready to start workers, so that the first start need not wait for it. Blocks for about a second."""
        self._starter.preload()

    def adopt(self, wants_stopped: Callable[[str], bool] = lambda _account_id: False) -> list[WorkerInfo]:
        """Take over the workers that an earlier agent left running, without touching their sessions.

        Records whose process has ended become `failed` workers with what is known of their end, or `stopped`
        ones where `wants_stopped` says that a stop is desired. A worker that was still connecting is ended:
        the start that it belonged to has failed with its agent.
        """
        adopted: list[WorkerInfo] = []
        for record in self._records.load_all():
            slot = self.slots.get(record.account_id)
            with slot.lock:
                info = self._adopt(slot, record, wants_stopped)
            logs.event(
                logger,
                logging.INFO,
                "adopt",
                info.error or "",
                account=info.account_id,
                worker=info.worker_id,
                pid=record.process.pid,
                status=info.status,
            )
            adopted.append(info)
        return adopted

    def note_unrecorded(self) -> bool:
        """Note workers of this host that live without a record: `unknown` until they end.

        Returns whether there are any, so that the caller looks again. Raises FleetUnavailableError.
        """
        if self._unrecorded is None:
            return False
        found = {one.account_id for one in self._unrecorded.find_all(self.slots.accounts_for)}
        found |= {slot.account_id for slot in self.slots.all() if slot.unrecorded}
        live = [account_id for account_id in found if self._look_for_unrecorded(account_id)]
        return bool(live)

    def mend_records(self) -> None:
        """Write again the records of workers that somebody removed while this pool runs. Raises OSError."""
        for slot in self.slots.all():
            record = slot.record
            if record is None or not self._records.missing(record):
                continue
            with slot.guard:
                # Under the guard, as its removal is: the record of a worker that has ended must not come back.
                if slot.record is record and slot.live and not slot.exited.is_set():
                    self._records.save(record)
                    logs.event(logger, logging.WARNING, "record_made_again", account=slot.account_id)

    def close(self) -> None:
        """Stop watching. Workers go on: only a command stops them."""
        self._closing.set()
        self._watch.close()
        self._ends.shutdown(cancel_futures=True)
        self._starter.close()

    @property
    def threads(self) -> list[EssentialThread]:
        """The threads that notice the ends of workers."""
        return [self._watch.thread, *self._ends.threads]

    # inside

    def _start(self, slot: Slot, request: StartRequest, *, recovering: bool = False) -> WorkerInfo:
        slot.starting = True
        try:
            return self._start_now(slot, request, recovering)
        finally:
            slot.starting = False
            slot.next_worker = None

    def _start_now(self, slot: Slot, request: StartRequest, recovering: bool) -> WorkerInfo:
        config = request.prepare()
        if slot.orphaned and slot.info is not None:
            # Nothing may start beside what the last worker's program left running.
            self._ended(slot, WorkerLifecycleStatus.FAILED, slot.info.error)
        if slot.unrecorded and self._unrecorded is not None:
            found = self._unrecorded.find(request.account_id, self.slots.accounts_for)
            if found is not None:
                raise SessionHeldError(found.explain(self._starter.host))
        if request.trading_mode is not None:
            slot.mode = request.trading_mode()
        slot.next_worker = worker_id = new_worker_id()
        before = slot.held
        held = self._leases.take(
            config, worker_id, before=before, cancelled=slot.cancelled, known=self._lives
        )
        slot.held = held
        if before is not None and before.claims != held.claims:
            self._leases.give_up(before)
        try:
            self._login_throttle.wait((config.gateway, config.server or ""), slot.cancelled)
            if slot.cancelled.is_set():
                raise StartCancelledError(f"{request.account_id}: a stop arrived while it was starting")
            info = self._starter.start(
                slot, config, worker_id, held, self._note, self._watch_worker, request.generation
            )
        except BaseException as error:
            # While its record stands, the process of a start that failed could not be ended, and may hold the session.
            if self._left_alone(slot):
                self._ended(slot, WorkerLifecycleStatus.FAILED, str(error))
            elif not recovering and slot.record is None:
                self._give_up(slot)
            raise
        self._sink.flush(_PUBLISH_SECONDS)
        return self.queries.with_metrics(slot, info)

    @staticmethod
    def _left_alone(slot: Slot) -> bool:
        """Note that a command gave its worker up without proof of its end.

        Returns True if the proof came in this moment.

        From then on no command waits for that end: the watching thread records it.
        """
        with slot.guard:
            slot.unattended = slot.record is not None and not slot.exited.is_set()
            return slot.record is not None and slot.exited.is_set()

    def _lives(self, worker_id: str) -> bool:
        """Say whether a lease's worker may live here: it is known, or its process holds its files."""
        return self.slots.has_worker(worker_id) or self._records.runs(worker_id)

    def _recall(self, account_id: str) -> Slot | None:
        """Look once more for a worker of the account that no record names, before a stop says that there is none.

        Returns its slot, with the worker adopted from its note, or noted as `unknown`; None if none is found.
        """
        record = self._records.lost(account_id)
        if record is not None and not self.slots.has_worker(record.worker_id):
            slot = self.slots.get(account_id)
            with slot.lock:
                if not slot.live and record.process.alive():
                    self._adopt(slot, record, lambda _: False)
            return slot
        try:
            if self._unrecorded is None or self._unrecorded.find(account_id, self.slots.accounts_for) is None:
                return None
        except FleetUnavailableError:
            return None  # what this machine shows is all that can be known now; the stop stays written down
        slot = self.slots.get(account_id)
        with contextlib.suppress(FleetUnavailableError):
            self._look_for_unrecorded(account_id)
        return slot

    def _look_for_unrecorded(self, account_id: str) -> bool:
        """Have the account's record say whether a worker lives that this host has no record of; returns that."""
        slot = self.slots.get(account_id)
        if self._unrecorded is None:
            return False
        found = self._unrecorded.find(account_id, self.slots.accounts_for)
        told = self._unrecorded.info(found) if found is not None else None
        with slot.guard:
            before = slot.info
            if slot.live or slot.starting or (told is None and not slot.unrecorded):
                return False
            if told is not None and before is not None and before.worker_id == told.worker_id:
                return True
            if told is not None:
                info = slot.info = told
            elif before is not None:
                info = slot.info = before.with_(
                    status=WorkerLifecycleStatus.FAILED, error="it ended while this host had no record of it"
                )
        self._note(info)
        logs.event(
            logger, logging.WARNING, "unrecorded", info.error or "", account=account_id, worker=info.worker_id
        )
        return told is not None

    def _end_unrecorded(self, slot: Slot, timeout: float | None) -> None:
        """End the account's worker that no record names; the caller holds the slot's lock. Raises StopFailedError."""
        try:
            found = (
                self._unrecorded.find(slot.account_id, self.slots.accounts_for) if self._unrecorded else None
            )
        except FleetUnavailableError as error:
            raise StopFailedError(
                f"{slot.account_id}: not stopped: this host has lost its record of the worker, and {error}: stop it again"
            ) from None
        if found is not None and self._unrecorded is not None:
            self._unrecorded.end(found, timeout)
        with slot.guard:
            if slot.info is None:
                return
            info = slot.info = slot.info.with_(
                status=WorkerLifecycleStatus.STOPPED,
                error="stopped by signal: the host had lost its record of it",
                stopped_at=utc_now(),
            )
        self._note(info, wait_seconds=_PUBLISH_SECONDS)

    def _give_up(self, slot: Slot) -> None:
        held, slot.held = slot.held, None
        if held is not None:
            self._leases.give_up(held)

    def _tell_why(self, slot: Slot, reason: str) -> None:
        """Have readers see why an account without a worker has none."""
        reason = slot.without_account(reason)
        with slot.guard:
            if slot.info is None:  # it failed before there was a worker to tell of, as after a reboot
                slot.info = WorkerInfo(
                    worker_id=new_worker_id(),
                    account_id=slot.account_id,
                    status=WorkerLifecycleStatus.CREATED,
                    metadata={"host": self._starter.host},
                )
                info = slot.move(WorkerLifecycleStatus.FAILED, error=reason)
            elif slot.info.error == reason:
                return
            else:
                info = slot.info = slot.info.with_(error=reason)
        self._note(info)

    def _end_if_hung(self, slot: Slot) -> bool:
        record = slot.record
        if record is None:
            return False
        heartbeat = read_heartbeat(record.beat_file)
        with slot.guard:
            if slot.record is not record or slot.status is not WorkerLifecycleStatus.RUNNING:
                return False
            if heartbeat is not None:
                self._note_health(slot, heartbeat)
            why = why_hung(record, heartbeat)
            if why is None:
                return False
            slot.ended_because = why
        logs.event(
            logger,
            logging.ERROR,
            "hung",
            why,
            account=slot.account_id,
            worker=record.worker_id,
            pid=record.process.pid,
        )
        record.process.kill()
        return True

    def _note_health(self, slot: Slot, heartbeat: Heartbeat) -> None:
        """Make an event of a changed health; the caller holds the slot's guard."""
        change = slot.note_health(heartbeat.status)
        if change is None or slot.info is None:
            return
        self._sink.publish_health(slot.info, change)
        logs.event(
            logger,
            logging.INFO if change.reason is None else logging.WARNING,
            "health",
            change.reason or "",
            account=slot.account_id,
            worker=slot.info.worker_id,
            old=change.old,
            new=change.new,
        )

    def _stop(self, slot: Slot, timeout: float | None) -> bool:
        """Stop what the slot has and record it as stopped; False if it has nothing to stop.

        A worker that has failed, and a recovery that is waited for, count as something to stop.
        """
        with slot.guard:
            info = slot.info if slot.live or slot.status is WorkerLifecycleStatus.FAILED else None
            ended = slot.record is None
            # A stop that could not prove the end has left it `stopping`, and is tried again.
            if info is not None and slot.live and info.status is not WorkerLifecycleStatus.STOPPING:
                info = slot.move(WorkerLifecycleStatus.STOPPING)
                self._note(info)
            slot.unattended = False
        if info is None:
            self._give_up(slot)
            return False
        logs.event(logger, logging.INFO, "stop", account=slot.account_id, worker=info.worker_id)
        outcome = StopOutcome(info.error)
        if not ended:
            try:
                outcome = stop_process(slot, timeout)
            except StopFailedError:
                if not self._left_alone(slot):
                    raise
                outcome = how_ended(slot)
            outcome = replace(outcome, reason=slot.ended_because or outcome.reason)
        self._ended(slot, WorkerLifecycleStatus.STOPPED, outcome.reason, forced=outcome.forced)
        return True

    def _ended(
        self, slot: Slot, status: WorkerLifecycleStatus, reason: str | None, *, forced: bool = False
    ) -> None:
        """Record the proven end of a worker and give up all that it held; the caller holds the slot's lock.

        Raises OrphansLeftError if processes of its program live on; then the account keeps its record and its lease.
        """
        if slot.record is not None:
            try:
                self._starter.end_orphans(slot.record)
            except OrphansLeftError as error:
                with slot.guard:
                    recovering = status is WorkerLifecycleStatus.RESTARTING or slot.restarting
                    info = slot.orphan(str(error), recovering=recovering)
                self._note(info)
                raise
        with slot.guard:
            slot.orphaned = False
            record = slot.record
            ending = {"exit_code": slot.exit_code, **({"forced": True} if forced else {})}
            info = slot.move(status, error=reason, metadata=ending)
            slot.record = None
        if record is not None:
            self._remove_record(record)
        if status is not WorkerLifecycleStatus.RESTARTING:
            self._give_up(slot)
        self._note(info, wait_seconds=_PUBLISH_SECONDS if status is WorkerLifecycleStatus.STOPPED else 0.0)
        _log_end(info, reason, slot.exit_code)

    def _remove_record(self, record: WorkerRecord) -> None:
        try:
            self._records.remove(record)
        except OSError as error:
            # The next agent finds a record whose process has ended, and says so; the end itself stands.
            logs.event(logger, logging.WARNING, "record_left", str(error), account=record.account_id)

    def _watch_worker(self, slot: Slot, process: ProcessRef) -> None:
        def ended(process: ProcessRef) -> None:
            # The watching thread hands over and goes on: what follows reads files and waits for processes.
            self._ends.submit(self._account_for, slot, process)

        self._watch.watch(process, ended)

    def _account_for(self, slot: Slot, process: ProcessRef) -> None:
        """Account for the end of a worker; what fails is tried again, for otherwise a dead worker is shown running."""
        while not self._closing.is_set():
            try:
                self._on_exit(slot, process)
            except BaseException as error:
                self._watch.thread.failed(error)
            else:
                return
            self._closing.wait(_AGAIN_SECONDS)

    def _on_exit(self, slot: Slot, process: ProcessRef) -> None:
        """Runs the moment a worker has ended, asked to or not. May be called again after it raised."""
        code = self._starter.exit_code(process)
        with slot.guard:
            record, info = slot.record, slot.info
            if record is None or info is None or record.process != process:
                return
            if code is not None:
                slot.exit_code = code
            code = slot.exit_code
        heartbeat = read_heartbeat(record.beat_file)
        with slot.guard:
            if slot.record is not record:
                return
            slot.exited.set()
            if slot.events is not None:
                slot.events.put({"event": "died"})
            if heartbeat is not None:
                self._note_health(
                    slot, heartbeat
                )  # what it said last, as of one that ends because it is unhealthy
            unexpected = slot.status is WorkerLifecycleStatus.RUNNING
            unattended = slot.unattended
        if not (unexpected or unattended):
            return  # a start or a stop is under way and accounts for it
        reason = slot.ended_because or describe_exit(code, heartbeat.exit_reason if heartbeat else None)
        if unexpected and code == 0:
            reason += ", without a command"
        lost = info.with_(error=reason, metadata={"exit_code": code})
        recover = None
        if unexpected and self._on_unexpected_exit is not None:
            recover = self._on_unexpected_exit(lost, reason)
        left: str | None = None
        try:
            # Before the account may have another worker, or lose its lease.
            self._starter.end_orphans(record)
        except OrphansLeftError as error:
            left = str(error)
        recovering = recover is not None
        if (
            self._ended_unasked(slot, record, reason, recovering=recovering, left=left)
            and recover is not None
        ):
            recover()

    def _ended_unasked(
        self, slot: Slot, record: WorkerRecord, reason: str, *, recovering: bool, left: str | None
    ) -> bool:
        """Record the end of a worker for which no command waits; False if a command came in between.

        `left` says what of its program could not be ended: then the account keeps its record and its lease.

        That command saw `exited` and records the end itself. All in one hold of the guard: a start may begin as soon
        as it is let go, and what it then makes (record, file, lease) must not be taken for the ended worker's.
        """
        with slot.guard:
            before, exit_code = slot.status, slot.exit_code
            running = before is WorkerLifecycleStatus.RUNNING
            if slot.record is not record or not (running or slot.unattended):
                return False
            slot.unattended, slot.last_cause = False, reason
            slot.restarts += recovering
            if left is not None:
                self._note(slot.orphan(left, recovering=recovering))
                return True
            if recovering:
                status = WorkerLifecycleStatus.RESTARTING
            elif before is WorkerLifecycleStatus.STOPPING or (running and exit_code == 0):
                status = WorkerLifecycleStatus.STOPPED
            else:
                status = WorkerLifecycleStatus.FAILED
            self._remove_record(record)
            slot.record = None
            held = slot.held
            if not recovering:
                slot.held = None
            info = slot.move(status, error=reason, metadata={"exit_code": exit_code})
            self._note(info)
        if held is not None and not recovering:
            self._leases.give_up(held)
        _log_end(info, reason, exit_code)
        return True

    def _adopt(self, slot: Slot, record: WorkerRecord, wants_stopped: Callable[[str], bool]) -> WorkerInfo:
        heartbeat = read_heartbeat(record.beat_file)
        slot.record = record
        slot.held = LeaseGrant(
            claims=record.claims, epoch=record.epoch, seconds=record.lease_seconds, asked_at=lease_clock()
        )
        slot.restarts, slot.last_cause = record.restarts, record.last_cause
        slot.recovery = self._records.recovery(record)
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
            metadata=self._starter.metadata(record) | {"adopted": True, "trading_mode": slot.mode},
        )
        alive = record.process.alive()
        # One that never got its order has no beat file, and ends by itself. One that goes on without a beat file trades:
        # its run directory was removed, and nobody has asked to stop it.
        unordered = alive and heartbeat is None
        if alive and (unordered or (heartbeat is not None and heartbeat.status.get("phase") == "connecting")):
            if not unordered:
                record.process.kill()
            alive = not record.process.wait(_PUBLISH_SECONDS)
            reason = "the host agent died while it was starting"
        else:
            reason = describe_exit(None, heartbeat.exit_reason if heartbeat else None)
        self._leases.adopt(slot.held, record.worker_id, record.account_id)
        if not alive:
            slot.exited.set()
            with contextlib.suppress(OrphansLeftError):  # recovery or a stop tries again to end them
                if wants_stopped(record.account_id):
                    # The stop that was under way when its agent died has reached its end.
                    slot.move(WorkerLifecycleStatus.STOPPING)
                    ending = how_ended(slot)
                    self._ended(slot, WorkerLifecycleStatus.STOPPED, ending.reason, forced=ending.forced)
                else:
                    self._ended(slot, WorkerLifecycleStatus.FAILED, reason)
            return slot.info
        status = heartbeat.status if heartbeat else {}
        self._note(slot.run(status, started_at=record.created_at), beat=_first_beat(record, status))
        self._watch_worker(slot, record.process)
        return slot.info

    def _note(
        self, info: WorkerInfo, beat: Mapping[str, Any] | None = None, wait_seconds: float = 0.0
    ) -> None:
        self._sink.publish(info, beat, wait_seconds=wait_seconds)


def _no_worker(account_id: str) -> NoWorkerError:
    return NoWorkerError(f"{account_id} has no worker here: nothing to stop")


def _log_end(info: WorkerInfo, reason: str | None, exit_code: int | None) -> None:
    logs.event(
        logger,
        logging.INFO if reason is None else logging.WARNING,
        "ended",
        reason or "",
        account=info.account_id,
        worker=info.worker_id,
        status=info.status,
        code=exit_code,
    )


def _first_beat(record: WorkerRecord, status: Mapping[str, Any]) -> dict[str, Any]:
    return {"worker_id": record.worker_id, **{k: v for k, v in status.items() if k != "phase"}}
