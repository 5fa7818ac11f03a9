"""The start of one worker process, up to its connected session.

A failed start leaves nothing behind.
"""

import contextlib
import signal
from collections.abc import Callable, Mapping
from typing import Any

from manager.config import AccountConfig
from manager.config.models_limits import LimitsConfig
from manager.config.placeholders import filled
from manager.errors import (
    DiskRefusesError,
    ManagerError,
    OrphansLeftError,
    SettingsError,
    StartCancelledError,
    StartFailedError,
    StartTimeoutError,
)
from manager.host.limits.enforcement import Enforcement
from manager.host.workers.connect_wait import ConnectWait, Events
from manager.host.workers.kept_configs import KeptConfig, KeptConfigs
from manager.host.workers.launch_builder import (
    Credentials,
    LaunchBuilder,
    ResolvedConfig,
    WorkerEnvironment,
    limits_metadata,
)
from manager.host.workers.launcher import Launched, Launcher
from manager.host.workers.leases import LeaseGrant
from manager.host.workers.limits import Clocks, PoolLimits
from manager.host.workers.orphans import end_orphans
from manager.host.workers.records import RecordFiles, WorkerRecord
from manager.host.workers.runs import NoRuns, RunRecorder
from manager.host.workers.slot import Slot
from manager.host.workers.stopper import kill_process, stop_outcome
from manager.models import WorkerInfo, WorkerMetrics, WorkerPlacement
from manager.states import WorkerLifecycleStatus
from manager.system.processes import ProcessRef
from manager.system.spare_files import with_spare
from manager.system.storage import disk_refuses, explain

#: Called with each new process: its exit must be handled.
Watch = Callable[[Slot, ProcessRef], None]


class Starter:
    """Starts worker processes and waits until their sessions are connected."""

    def __init__(
        self,
        launcher: Launcher,
        records: RecordFiles,
        credentials: Credentials,
        environment: WorkerEnvironment,
        limits: PoolLimits | None = None,
        clocks: Clocks | None = None,
        runs: RunRecorder | None = None,
        enforcement: Enforcement | None = None,
    ) -> None:
        #: Records the runs that end.
        self.runs = runs or RunRecorder(NoRuns(), environment.host)
        self._enforcement = enforcement
        self._launcher = launcher
        self._records = records
        self._environment = environment
        self.paths = environment.paths
        self._home = environment.paths.home
        self._builder = LaunchBuilder(credentials, environment)
        self.kept = KeptConfigs(environment.paths.running_dir)
        self._limits = limits or PoolLimits()
        self._clocks = clocks or Clocks()

    @property
    def host(self) -> str:
        return self._environment.host

    def close(self) -> None:
        """Close the launcher. Workers keep running."""
        self._launcher.close()

    def preload(self) -> None:
        """Prepare the launcher.

        The first start reports a failure, with its reason.
        """
        with contextlib.suppress(StartFailedError, OSError):
            self._launcher.preload()

    def preloaded_pid(self) -> int | None:
        """See `Launcher.preloaded_pid`."""
        return self._launcher.preloaded_pid()

    def exit_code(self, process: ProcessRef) -> int | None:
        """See `Launcher.exit_code`."""
        return self._launcher.exit_code(process)

    def killed_for_memory(self, record: WorkerRecord) -> bool:
        """Return whether the kernel killed the worker because its memory reached its limit."""
        return self._enforcement is not None and self._enforcement.killed_for_memory(record)

    def update_limits(self, record: WorkerRecord, limits: LimitsConfig) -> None:
        """Give a running worker other limits. Raises nothing."""
        if self._enforcement is not None:
            self._enforcement.update(record, limits)

    def metadata(self, record: WorkerRecord) -> dict[str, Any]:
        """See `LaunchBuilder.metadata`."""
        return self._builder.metadata(record)

    def filled(self, config: AccountConfig) -> AccountConfig:
        """Return the account's configuration as its session uses it, with placeholders filled."""
        return filled(config, self.paths.account_dir(config.account_id))

    def end_orphans(self, record: WorkerRecord) -> None:
        """Kill what a dead worker's program left running.

        Raises OrphansLeftError with the survivors.
        """
        try:
            left = with_spare(
                lambda: end_orphans(record, self._launcher.end_strays, self._limits.orphan_seconds)
            )
        except OSError as error:
            raise OrphansLeftError(
                f"{record.account_id}: its worker has ended, but the search for processes of its program "
                f"failed ({error.strerror or error}); they may still trade. The host agent tries again; see "
                "`manager doctor`"
            ) from None
        if left:
            raise OrphansLeftError(
                f"{record.account_id}: its worker has ended, but processes of its program could not be "
                f"killed and may still trade: {', '.join(left)}. End them on host {self.host}, then stop "
                "the account again"
            )

    def start(
        self,
        slot: Slot,
        config: AccountConfig,
        worker_id: str,
        lease: LeaseGrant,
        watch: Watch,
        generation: int = 0,
    ) -> WorkerInfo:
        """Start a worker in `slot`, whose lock the caller holds.

        Blocks until its session is connected.

        On any error the caller releases `lease`.

        Raises CredentialError, InvalidConfigError or StartFailedError; then no process and no record is left.
        """
        resolved = self._builder.resolve(config)
        self._ensure_paths(config.account_id)
        wait = ConnectWait(
            config, self.paths.worker_log(config.account_id), self._limits, self._clocks.monotonic
        )
        launched = self._launcher.launch()
        try:
            record = self._fill(slot, config, worker_id, lease, launched, wait.events, generation)
            # First of all: its exit must be noticed, whatever fails from here on.
            watch(slot, launched.process)
            # Before the launch specification is sent: if this agent is killed, every worker that works has a
            # record.
            self._records.save(record)
            self.kept.save(KeptConfig.of(worker_id, config))
            with slot.guard:
                slot.announce()
            if self._enforcement is not None:
                self._enforcement.at_start(record, config.limits)
            self._send_spec(slot, record, resolved, lease, launched)
            wait.listen(launched)
            connected = wait.wait(slot)
        except BaseException as error:
            self._undo(slot, launched, error, runs_program=config.command is not None)
            reported = self._start_error(config.account_id, error)
            if reported is error:
                raise
            raise reported from None
        if not _set_running(slot, connected.get("beat")):
            death = wait.died(slot)
            self._undo(slot, launched, death, runs_program=config.command is not None)
            raise death
        return _info(slot)

    def _start_error(self, account_id: str, error: BaseException) -> BaseException:
        """Return the error that the caller gets for the failure of a start."""
        if isinstance(error, OSError) and disk_refuses(error):
            return DiskRefusesError(f"{account_id}: {explain(error, self.paths.root)}")
        if isinstance(error, OSError | RuntimeError | MemoryError) and not isinstance(error, ManagerError):
            return StartFailedError(f"{account_id}: {error}")
        return error

    def _ensure_paths(self, account_id: str) -> None:
        """Create the directories that a worker needs, if they were removed.

        Raises StartFailedError.
        """
        try:
            self.paths.create(self._home)
        except SettingsError as error:
            raise StartFailedError(f"{account_id}: {error}") from None

    def _fill(
        self,
        slot: Slot,
        config: AccountConfig,
        worker_id: str,
        lease: LeaseGrant,
        launched: Launched,
        events: Events,
        generation: int,
    ) -> WorkerRecord:
        """Put the new worker into the slot.

        It is announced once its record is on disk.
        """
        info = WorkerInfo(
            worker_id=worker_id,
            account_id=config.account_id,
            status=WorkerLifecycleStatus.STARTING,
            groups=config.groups,
            labels=config.labels,
        )
        record = self._builder.record(slot, info, config, lease, launched.process, generation)
        with slot.guard:
            slot.record = record
            slot.exited.clear()
            slot.exit_code = None
            slot.unattended = False
            slot.kill_reason = None
            slot.ended_by_limit = None
            slot.recovery, slot.limits = config.recovery, config.limits
            slot.events = events
            slot.info = info.with_(
                metadata=self.metadata(record)
                | limits_metadata(config.limits)
                | WorkerMetrics(trading_mode=slot.mode).to_dict()
            )
        return record

    def _send_spec(
        self,
        slot: Slot,
        record: WorkerRecord,
        resolved: ResolvedConfig,
        lease: LeaseGrant,
        launched: Launched,
    ) -> None:
        spec = self._builder.spec(slot, record, resolved, lease)
        if resolved.filled.user is not None or resolved.filled.group is not None:
            self.paths.open_for_users()
        launched.writer.write(spec.to_json())
        launched.writer.flush()

    def _undo(self, slot: Slot, launched: Launched, error: BaseException, *, runs_program: bool) -> None:
        """End the process of a failed start and record the failure."""
        with slot.guard:
            slot.events = None
        record = slot.record
        if record is None or record.process != launched.process:
            launched.process.kill()
            launched.close()
            return
        cancelled = isinstance(error, StartCancelledError)
        if cancelled and runs_program:
            # The program may trade already: it gets the signal and the time of a regular stop.
            record.process.signal(signal.SIGTERM)
            slot.exited.wait(record.stop_timeout_seconds)
        elif not isinstance(error, StartCancelledError | StartTimeoutError):
            slot.exited.wait(self._limits.exit_seconds)
        if not slot.exited.is_set():
            kill_process(slot, self._limits.kill_seconds)
        try:
            self.end_orphans(record)
        except OrphansLeftError as left:
            with slot.guard:
                slot.set_orphaned(str(left), recovering=False)
            raise
        ending = stop_outcome(slot)
        forced = cancelled and ending.forced
        # Only now: closing waits for the listening thread while it reads from the stream, however long that
        # takes.
        launched.close()
        with slot.guard:
            slot.exited.set()  # proven: `restore_records` must not write the record again
        status = WorkerLifecycleStatus.STOPPED if cancelled else WorkerLifecycleStatus.FAILED
        reason = f"{error}; {ending.reason}" if forced else str(error)
        code = getattr(error, "code", None)
        self.runs.ended(slot, record, status, reason, forced=forced, error_code=None if cancelled else code)
        self._records.remove(record)
        with slot.guard:
            slot.record = None
            slot.move(
                status,
                through=WorkerLifecycleStatus.STOPPING if cancelled else None,
                code=code or type(error).__name__,
                error=reason,
                metadata=slot.ending(forced=forced) | ({} if cancelled else _failure(error)),
            )


def _set_running(slot: Slot, beat: Mapping[str, Any] | None) -> bool:
    """Move a connected worker to `running`; returns False if it has died."""
    with slot.guard:
        slot.events = None
        if slot.exited.is_set():
            return False
        slot.set_running(beat or {}, beat=beat)
    return True


def _info(slot: Slot) -> WorkerInfo:
    if slot.info is None:
        raise StartFailedError(f"{slot.account_id}: its record is gone")
    return slot.info


def _failure(error: BaseException) -> dict[str, Any]:
    """Return the metadata of a start that failed."""
    code = getattr(error, "code", None)
    return {} if code is None else WorkerPlacement(error_code=str(code)).to_dict()
