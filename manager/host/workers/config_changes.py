"""Brings a changed configuration to a running worker and into its record."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from manager.change.reload_classes import FieldChange
from manager.config import AccountConfig
from manager.fleet.event_types import Remark
from manager.host.workers.config_difference import ConfigDifference
from manager.host.workers.kept_configs import KeptConfig
from manager.host.workers.launch_builder import limits_metadata
from manager.host.workers.records import RecordFiles, WorkerRecord
from manager.host.workers.slot import Slot
from manager.host.workers.slots import SlotTable
from manager.host.workers.starter import Starter
from manager.models import WorkerPlacement
from manager.session.control import ControlError, ask
from manager.session.reload import SECTIONS_OF_START, WAIT_SECONDS
from manager.states import WorkerLifecycleStatus
from manager.system import logs
from manager.system.storage import explain

logger = logging.getLogger(__name__)

#: Seconds beyond the session's own wait until it counts as silent.
_REPLY_SECONDS: Final = 1.0
#: Who changes what an account file changes.
BY_FILE: Final = "account file"


class NotNowError(Exception):
    """Raised when the worker cannot take a change now: a later attempt may succeed."""


class NotTakenError(Exception):
    """Raised when the session is busy and will not take the change later either."""


class RefusedError(Exception):
    """Raised when the session refuses a change; it trades on as before."""


class ConfigChanges:
    """Changes the configurations of a pool's running workers. Thread-safe."""

    def __init__(self, slots: SlotTable, records: RecordFiles, starter: Starter) -> None:
        self._slots = slots
        self._records = records
        self._starter = starter
        self.kept = starter.kept
        #: The state directory.
        self.paths = starter.paths

    def record(self, account_id: str) -> WorkerRecord | None:
        """Return the record of the account's running worker, or None."""
        slot = self._slots.find(account_id)
        running = slot is not None and slot.status is WorkerLifecycleStatus.RUNNING
        return slot.record if slot is not None and running else None

    def apply(self, difference: ConfigDifference) -> None:
        """Give a running worker the changes of its file that need no restart.

        Blocks for a few seconds at most; commands of the account do not wait for it.

        Raises RefusedError if the session refuses; it trades on as before. Raises NotNowError if nothing was
        changed, or if it is unknown whether the session has taken the change: `KeptConfig.confirmed` tells.
        """
        running, target, config = difference.running, difference.target, difference.merged
        if difference.for_session:
            self._offer(running, config)
        with self._running(config.account_id, running.worker_id) as (slot, record):
            changed = replace(
                record,
                config_version=target.version,
                stop_timeout_seconds=config.stop_seconds(),
                hang_after_seconds=config.health.hang_after_seconds,
                groups=config.groups,
                labels=config.labels,
            )
            self.kept.save(target)
            with slot.guard:
                # As where records are restored: the record of an ended worker must not come back.
                if slot.record is not record or not slot.live or slot.exited.is_set() or slot.info is None:
                    raise NotNowError
                self._save(changed)
                slot.record, slot.recovery, slot.limits = changed, config.recovery, config.limits
                slot.info = slot.info.with_(groups=config.groups, labels=config.labels)
                slot.remark(
                    Remark(
                        "config.applied",
                        event_data(record.config_version, target.version, difference.now),
                        BY_FILE,
                    ),
                    {"limits": None}
                    | limits_metadata(config.limits)
                    | WorkerPlacement(config_version=changed.config_version, config=None).to_dict(),
                )
            self._starter.update_limits(changed, config.limits)

    def _offer(self, running: KeptConfig, config: AccountConfig) -> None:
        """Ask the session to take a configuration. Raises as `apply`."""
        with self._running(config.account_id, running.worker_id) as (_slot, record):
            # First of all: if the answer is lost, or this agent dies, nobody may rely on `running`.
            if not self.kept.save(replace(running, confirmed=False)):
                raise NotNowError
        try:
            self._ask(record, config)  # without the lock: a stop must not wait for it
        except (NotTakenError, RefusedError) as error:
            if running.confirmed:
                with self._running(config.account_id, running.worker_id):
                    self.kept.save(running)
            if isinstance(error, NotTakenError):
                raise NotNowError from None
            raise

    def note(
        self, account_id: str, worker_id: str, state: Mapping[str, Any], data: Mapping[str, Any]
    ) -> None:
        """Record how the worker's configuration differs from its file: the value of `metadata.config`.

        Emits the event `config.pending` or `config.invalid`, by the state. Raises NotNowError.
        """
        with self._running(account_id, worker_id) as (slot, _record), slot.guard:
            if slot.info is not None and slot.info.metadata.get("config") != state:
                remark = Remark(f"config.{state['state']}", data, BY_FILE)
                slot.remark(remark, WorkerPlacement(config=dict(state)).to_dict())

    def clear(self, account_id: str, worker_id: str) -> None:
        """Record that the worker's configuration is that of its file. Raises NotNowError."""
        with self._running(account_id, worker_id) as (slot, record), slot.guard:
            if slot.info is not None and slot.info.metadata.get("config") is not None:
                data = {"to": record.config_version}
                slot.remark(Remark("config.applied", data, BY_FILE), WorkerPlacement(config=None).to_dict())

    @contextlib.contextmanager
    def _running(self, account_id: str, worker_id: str) -> Iterator[tuple[Slot, WorkerRecord]]:
        """Hold the account's lock; commands of the account come first."""
        slot = self._slots.find(account_id)
        if slot is None or not slot.lock.acquire(blocking=False):
            raise NotNowError
        try:
            record = slot.record
            if slot.status is not WorkerLifecycleStatus.RUNNING or record is None:
                raise NotNowError
            if record.worker_id != worker_id:
                raise NotNowError
            yield slot, record
        finally:
            slot.lock.release()

    def _ask(self, record: WorkerRecord, config: AccountConfig) -> None:
        """Raises NotTakenError, RefusedError, and NotNowError if there was no answer."""
        complete = self._starter.filled(config)
        request = {"op": "reload", "config": complete.model_dump(mode="json", exclude=set(SECTIONS_OF_START))}
        try:
            reply = ask(
                record.control_address,
                record.control_token,
                request,
                timeout=WAIT_SECONDS + _REPLY_SECONDS,
            )
        except ControlError as error:
            raise NotNowError from error
        if reply.get("busy"):
            raise NotTakenError
        if not reply.get("ok"):
            raise RefusedError(str(reply.get("error"))[:500])

    def _save(self, record: WorkerRecord) -> None:
        try:
            self._records.save(record)
        except OSError as error:
            # A later agent corrects the record by the kept configuration.
            text = explain(error, Path(error.filename or "."))
            logs.event(logger, logging.WARNING, "record_not_saved", text, account=record.account_id)


def event_data(before: str, after: str, changes: Sequence[FieldChange]) -> dict[str, Any]:
    """Return the data of an event about a changed configuration: versions and keys.

    It has no values, which may be secret.
    """
    return {
        "from": before,
        "to": after,
        "fields": [one.key for one in changes],
        "classes": sorted({str(one.reload_class) for one in changes}),
    }
