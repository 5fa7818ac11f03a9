"""Starting one worker: from a configuration to a connected session, or to nothing at all."""

import contextlib
import json
import logging
import os
import queue
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from pydantic import SecretStr

from manager.config import AccountConfig, Resolved, config_version
from manager.config.placeholders import filled, uses_state_dir
from manager.errors import (
    AuthenticationRefusedError,
    ConnectionFailedError,
    DiskRefusesError,
    ManagerError,
    OrphansLeftError,
    SettingsError,
    StartCancelledError,
    StartFailedError,
    StartTimeoutError,
    WorkerDiedError,
    WrongAccountError,
)
from manager.host.workers.exit_reason import describe_exit
from manager.host.workers.launcher import Launched, Launcher
from manager.host.workers.leases import LeaseGrant
from manager.host.workers.orphans import end_orphans
from manager.host.workers.records import RecordFiles, WorkerRecord, note_of, private_dir
from manager.host.workers.slot import Slot
from manager.host.workers.stopper import kill_process, stop_outcome
from manager.models import WorkerInfo, WorkerMetrics, WorkerPlacement
from manager.session.heartbeat_file import read_heartbeat
from manager.session.launch_spec import LaunchSpec
from manager.states import TradingMode, WorkerLifecycleStatus
from manager.system import logs
from manager.system.processes import ProcessRef
from manager.system.spare_files import with_spare
from manager.system.state_dir import StatePaths
from manager.system.storage import disk_refuses, explain
from manager.versions import __version__

logger = logging.getLogger(__name__)

#: Seconds beyond the account's own timeout in which a worker must have said how its connecting ended.
_START_MARGIN: Final = 5.0
#: Seconds in which a worker that reported a failure ends by itself.
_LEAVE_SECONDS: Final = 2.0
#: Seconds that a start waits for its record to be in Redis, so that a listing right after it shows it.
_PUBLISH_SECONDS: Final = 2.0

_ERRORS: Final[dict[str, type[StartFailedError]]] = {
    "authentication_failed": AuthenticationRefusedError,
    "wrong_account": WrongAccountError,
    "connect_timeout": ConnectionFailedError,
    "connection_lost": ConnectionFailedError,
    "venue_not_found": ConnectionFailedError,
    DiskRefusesError.code: DiskRefusesError,
}


class Publish(Protocol):
    """See `RecordSink.publish`."""

    def __call__(
        self, info: WorkerInfo, beat: Mapping[str, Any] | None = None, *, wait_seconds: float = 0.0
    ) -> bool: ...


class Credentials(Protocol):
    @property
    def config_dir(self) -> Path: ...

    def resolve_password(self, config: AccountConfig) -> SecretStr | None:
        """Return the password that the configuration refers to. Raises CredentialError."""

    def resolve_values(self, config: AccountConfig) -> Resolved:
        """Return `environment` and `options` with their references resolved. Raises CredentialError."""


@dataclass(frozen=True, kw_only=True)
class WorkerEnvironment:
    """What every worker of this host is told."""

    host: str
    paths: StatePaths
    redis_url: str | None
    venue_address: Callable[[], str | None]
    heartbeat_interval_seconds: float
    log_level: str
    log_json: bool
    log_file_bytes: int = 5_000_000
    log_files: int = 4


class Starter:
    """Makes worker processes and sees them through to a connected session."""

    def __init__(
        self,
        launcher: Launcher,
        records: RecordFiles,
        credentials: Credentials,
        environment: WorkerEnvironment,
    ) -> None:
        self._launcher = launcher
        self._records = records
        self._credentials = credentials
        self._at = environment
        self._home = environment.paths.home

    @property
    def host(self) -> str:
        return self._at.host

    def close(self) -> None:
        self._launcher.close()

    def preload(self) -> None:
        """Make the launcher ready; a failure shows at the first start, with its reason."""
        with contextlib.suppress(StartFailedError, OSError):
            self._launcher.preload()

    def exit_code(self, process: ProcessRef) -> int | None:
        return self._launcher.exit_code(process)

    def end_orphans(self, record: WorkerRecord) -> None:
        """End what a dead worker's program left running. Raises OrphansLeftError, which names what could not be ended."""
        try:
            left = with_spare(lambda: end_orphans(record, self._launcher.end_strays))
        except OSError as error:
            raise OrphansLeftError(
                f"{record.account_id}: its worker has ended, but what its program left running could not be looked for "
                f"({error.strerror or error}); it may still trade. The host agent tries again; see `manager doctor`"
            ) from None
        if left:
            raise OrphansLeftError(
                f"{record.account_id}: its worker has ended, but processes of its program could not be killed and may "
                f"still trade: {', '.join(left)}. End them on host {self._at.host}, then stop the account again"
            )

    def metadata(self, record: WorkerRecord) -> dict[str, Any]:
        placement = record.placement(self._at.host, self._at.paths.worker_log(record.account_id))
        return placement.to_dict() | WorkerMetrics(health="unknown").to_dict()

    def start(
        self,
        slot: Slot,
        config: AccountConfig,
        worker_id: str,
        held: LeaseGrant,
        publish: Publish,
        watch: Callable[[Slot, ProcessRef], None],
        generation: int = 0,
    ) -> WorkerInfo:
        """Start a worker in `slot`, whose lock the caller holds; returns it once its session is connected.

        `held` is what it holds in the fleet; the caller gives that up if this fails.

        Raises CredentialError, InvalidConfigError or StartFailedError; then no process, record or claim is left.
        """
        password = self._credentials.resolve_password(config)
        told = filled(config, self._at.paths.account_dir(config.account_id))
        values = self._credentials.resolve_values(told)
        began = time.monotonic()
        self._ensure_paths(config.account_id)
        launched = self._launcher.launch()
        events: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        try:
            record = self._begin(slot, config, worker_id, held, launched, events, generation)
            # First of all: its end must be noticed, whatever fails from here on.
            watch(slot, launched.process)
            # Before the order is given: a worker that works has a record, whenever this agent is killed.
            self._records.save(record)
            publish(_info(slot))
            spec = self._spec(
                record, told, password, values, held, slot.mode, own_files=uses_state_dir(config)
            )
            if told.user is not None or told.group is not None:
                self._at.paths.open_for_users()
            launched.writer.write(spec.to_json())
            launched.writer.flush()
            threading.Thread(
                target=_listen, args=(launched, events), name=f"launch-{config.account_id}", daemon=True
            ).start()
            connected = self._wait(slot, config, events)
        except BaseException as error:
            self._undo(slot, launched, publish, error, runs_program=config.command is not None)
            if isinstance(error, OSError) and disk_refuses(error):
                raise DiskRefusesError(
                    f"{config.account_id}: {explain(error, self._at.paths.root)}"
                ) from None
            if isinstance(error, OSError | RuntimeError | MemoryError) and not isinstance(
                error, ManagerError
            ):
                raise StartFailedError(f"{config.account_id}: {error}") from None
            raise
        with slot.guard:
            slot.events = None
            died = slot.exited.is_set()
            if not died:
                # Under the guard, as its end is: readers get what happened in the order in which it happened.
                beat = connected.get("beat")
                publish(slot.set_running(beat or {}), beat=beat)
        if died:  # between its word and this line
            death = self._died(slot, config)
            self._undo(slot, launched, publish, death, runs_program=config.command is not None)
            raise death
        logs.event(
            logger,
            logging.INFO,
            "start",
            account=config.account_id,
            worker=record.worker_id,
            pid=record.process.pid,
            seconds=round(time.monotonic() - began, 3),
        )
        return _info(slot)

    def _ensure_paths(self, account_id: str) -> None:
        """Have every directory that a worker needs, whoever has removed one. Raises StartFailedError that names it."""
        try:
            self._at.paths.create(self._home)
        except SettingsError as error:
            raise StartFailedError(f"{account_id}: {error}") from None

    def _begin(
        self,
        slot: Slot,
        config: AccountConfig,
        worker_id: str,
        held: LeaseGrant,
        launched: Launched,
        events: "queue.SimpleQueue[Mapping[str, Any]]",
        generation: int,
    ) -> WorkerRecord:
        info = WorkerInfo(
            worker_id=worker_id,
            account_id=config.account_id,
            status=WorkerLifecycleStatus.CREATED,
            groups=config.groups,
            labels=config.labels,
        )
        run_dir = self._at.paths.run_dir
        record = WorkerRecord(
            worker_id=worker_id,
            account_id=config.account_id,
            claims=held.claims,
            epoch=held.epoch,
            lease_seconds=held.seconds,
            generation=generation,
            process=launched.process,
            control_address=_control_address(run_dir, worker_id),
            control_token=secrets.token_hex(16),
            beat_file=run_dir / f"{worker_id}.beat",
            gateway=config.gateway,
            config_version=config_version(config),
            software_version=__version__,
            stop_timeout_seconds=config.stop_seconds(),
            hang_after_seconds=config.health.hang_after_seconds,
            created_at=info.created_at,
            restarts=slot.restarts,
            last_cause=slot.last_cause,
            groups=config.groups,
            labels=config.labels,
        )
        with slot.guard:
            slot.record = record
            slot.exited.clear()
            slot.exit_code = None
            slot.unattended = False
            slot.kill_reason = None
            slot.recovery = config.recovery
            slot.events = events
            slot.info = info.with_(
                metadata=self.metadata(record) | WorkerMetrics(trading_mode=slot.mode).to_dict()
            )
            slot.move(WorkerLifecycleStatus.STARTING)
        return record

    def _spec(
        self,
        record: WorkerRecord,
        config: AccountConfig,
        password: SecretStr | None,
        values: Resolved,
        held: LeaseGrant,
        mode: TradingMode,
        *,
        own_files: bool,
    ) -> LaunchSpec:
        at = self._at
        return LaunchSpec(
            worker_id=record.worker_id,
            config=config,
            password=password,
            environment=values.environment,
            options=values.options,
            secrets=values.secrets,
            redis_url=None if at.redis_url is None else SecretStr(at.redis_url),
            host=at.host,
            home=self._home,
            claims=held.claims,
            epoch=held.epoch,
            lease_seconds=held.seconds,
            leased_at=held.asked_at,
            venue_address=config.venue or at.venue_address(),
            log_file=at.paths.worker_log(config.account_id),
            beat_file=record.beat_file,
            private_dir=private_dir(record.beat_file),
            directory=self._credentials.config_dir / os.path.expanduser(config.directory or "."),  # noqa: PTH111
            state_dir=at.paths.account_dir(config.account_id) if own_files else None,
            control_address=record.control_address,
            control_token=SecretStr(record.control_token),
            heartbeat_interval_seconds=at.heartbeat_interval_seconds,
            log_level=at.log_level,
            log_json=at.log_json,
            trading_mode=str(mode),
            log_file_bytes=at.log_file_bytes,
            log_files=at.log_files,
            note=SecretStr(note_of(record, self._home, config.recovery)),
        )

    def _wait(
        self, slot: Slot, config: AccountConfig, events: "queue.SimpleQueue[Mapping[str, Any]]"
    ) -> Mapping[str, Any]:
        deadline = time.monotonic() + config.timeout / 1000 + _START_MARGIN
        if config.command is not None:
            # A program that is not ready in time is asked to stop, as at any stop: it may have orders already.
            deadline += config.stop.deadline_seconds
        died = closed = False
        while not (died and closed):
            try:
                event = events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                if died:
                    break
                raise StartTimeoutError(
                    f"{config.account_id}: no connected session after {config.timeout / 1000:g} s "
                    f"(its `timeout` is {config.timeout} ms) and no word from the worker: see "
                    f"{self._at.paths.worker_log(config.account_id)}"
                ) from None
            match event.get("event"):
                case "connected":
                    return event
                case "failed":
                    error = _ERRORS.get(str(event.get("code")), StartFailedError)
                    raise error(f"{config.account_id}: {event.get('message')}")
                case "cancelled":
                    raise StartCancelledError(f"{config.account_id}: a stop arrived while it was starting")
                case "died":
                    # Its own word on why, written before the end, may still be in the pipe.
                    died, deadline = True, min(deadline, time.monotonic() + _LEAVE_SECONDS)
                case "closed":
                    closed = True
        raise self._died(slot, config)

    def _died(self, slot: Slot, config: AccountConfig) -> WorkerDiedError:
        heartbeat = read_heartbeat(slot.record.beat_file) if slot.record else None
        reason = describe_exit(slot.exit_code, heartbeat.exit_reason if heartbeat else None)
        log = self._at.paths.worker_log(config.account_id)
        return WorkerDiedError(f"{config.account_id}: while starting, {reason}; see {log}")

    def _undo(
        self, slot: Slot, launched: Launched, publish: Publish, error: BaseException, *, runs_program: bool
    ) -> None:
        with slot.guard:
            slot.events = None
        record = slot.record
        if record is None or record.process != launched.process:
            launched.process.kill()
            launched.close()
            return
        cancelled = isinstance(error, StartCancelledError)
        if cancelled and runs_program:
            # The program may trade already: it is asked to stop and has its time, as at any stop.
            record.process.signal(signal.SIGTERM)
            slot.exited.wait(record.stop_timeout_seconds)
        elif not isinstance(error, StartCancelledError | StartTimeoutError):
            slot.exited.wait(_LEAVE_SECONDS)
        if not slot.exited.is_set():
            kill_process(slot)
        try:
            self.end_orphans(record)
        except OrphansLeftError as left:
            with slot.guard:
                info = slot.set_orphaned(str(left), recovering=False)
            publish(info)
            raise
        ending = stop_outcome(slot)
        forced = cancelled and ending.forced
        with slot.guard:
            slot.record = None
            if cancelled:
                slot.move(WorkerLifecycleStatus.STOPPING)
            info = slot.move(
                WorkerLifecycleStatus.STOPPED if cancelled else WorkerLifecycleStatus.FAILED,
                error=f"{error}; {ending.reason}" if forced else str(error),
                metadata=slot.ending(forced=forced) | ({} if cancelled else _failure(error)),
            )
        # Only now: a stream that the listening thread still reads from would be waited for, however long that is.
        launched.close()
        self._records.remove(record)
        publish(info, wait_seconds=_PUBLISH_SECONDS)
        logs.event(
            logger,
            logging.WARNING,
            "start_failed",
            str(error),
            account=slot.account_id,
            worker=info.worker_id,
            code=getattr(error, "code", type(error).__name__),
        )


def _info(slot: Slot) -> WorkerInfo:
    if slot.info is None:
        raise StartFailedError(f"{slot.account_id}: its record is gone")
    return slot.info


def _listen(launched: Launched, events: "queue.SimpleQueue[Mapping[str, Any]]") -> None:
    """Pass the worker's words on until it has said how the start ended; then the pipe has served."""
    try:
        for line in launched.reader:
            message = json.loads(line)
            events.put(message)
            if message.get("event") in ("connected", "failed"):
                return
    except (OSError, ValueError) as error:
        logs.event(logger, logging.DEBUG, "launch_pipe", str(error))
    finally:
        events.put({"event": "closed"})
        launched.close()


def _control_address(run_dir: Path, worker_id: str) -> str:
    if sys.platform == "win32":
        return rf"\\.\pipe\worker-manager-{worker_id}"
    return str(run_dir / f"{worker_id}.sock")


def _failure(error: BaseException) -> dict[str, Any]:
    """Return the metadata of a start that failed."""
    code = getattr(error, "code", None)
    return {} if code is None else WorkerPlacement(error_code=str(code)).to_dict()
