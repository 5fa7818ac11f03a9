"""Whom a pool has: its accounts, and what may be asked about them."""

import threading
from collections import Counter
from typing import Any

from manager.config import RecoveryConfig
from manager.fleet.timestamped import Timestamped
from manager.fleet.workers import observe
from manager.host.workers.records import WorkerRecord
from manager.host.workers.slot import Slot
from manager.models import WorkerInfo
from manager.session.heartbeat_file import read_heartbeat
from manager.states import LIVE, WorkerLifecycleStatus


class WorkerQueries:
    """The questions that a pool answers. None of them waits for a command that is under way; any thread may ask."""

    def __init__(self, stale_after_seconds: float) -> None:
        self._stale_after = stale_after_seconds
        #: Held for moments, around the table of slots.
        self._guard = threading.Lock()
        self._slots: dict[str, Slot] = {}

    def list_workers(self) -> list[WorkerInfo]:
        """Return every worker that this pool knows of, ended ones too, by account id."""
        with self._guard:
            slots = sorted(self._slots.values(), key=lambda slot: slot.account_id)
        return [self._seen(slot, slot.info) for slot in slots if slot.info is not None]

    def records(self) -> list[WorkerInfo]:
        """Return every worker's record as it is published: without figures that its heartbeat carries."""
        with self._guard:
            return [slot.info for slot in self._slots.values() if slot.info is not None]

    def get_worker_info(self, account_id: str) -> WorkerInfo | None:
        """Return the account's worker as it is now, or None if this pool never had one."""
        with self._guard:
            slot = self._slots.get(account_id)
        return self._seen(slot, slot.info) if slot is not None and slot.info is not None else None

    def has_worker_for_account(self, account_id: str) -> bool:
        """Say whether the account has a worker process, in whichever state, also one that no record names."""
        with self._guard:
            slot = self._slots.get(account_id)
        return slot is not None and (slot.live or slot.unrecorded)

    def occupied(self, account_id: str) -> bool:
        """Say whether the account has a worker, or a start that is under way and may not have made one yet."""
        with self._guard:
            slot = self._slots.get(account_id)
        return slot is not None and (slot.live or slot.starting or slot.unrecorded)

    def get_account_worker_id(self, account_id: str) -> str | None:
        """Return the id of the account's present worker, or None if it has none."""
        with self._guard:
            slot = self._slots.get(account_id)
        return slot.info.worker_id if slot is not None and slot.live and slot.info is not None else None

    def health(self) -> dict[str, Any]:
        """Return how many workers are in each state and health, and whether all that run are well."""
        workers = self.list_workers()
        states: dict[str, int] = {}
        healths: dict[str, int] = {}
        for info in workers:
            states[info.status] = states.get(info.status, 0) + 1
            if info.status in LIVE or info.status is WorkerLifecycleStatus.UNKNOWN:
                healths[info.health] = healths.get(info.health, 0) + 1
        return {"workers": states, "health": healths, "ok": set(healths) <= {"healthy"}}

    def generation(self, account_id: str) -> int | None:
        """Return by which generation of its desired state the account's worker was started; None if it has none."""
        with self._guard:
            slot = self._slots.get(account_id)
        if slot is None or not slot.live or slot.restarting or slot.orphaned:
            return None
        return slot.generation

    def recovery(self, account_id: str) -> RecoveryConfig | None:
        """Return the recovery settings that the account's last worker was started with; None if unknown."""
        with self._guard:
            slot = self._slots.get(account_id)
        return None if slot is None else slot.recovery

    def live_records(self) -> list[WorkerRecord]:
        """Return what this host knows of the workers that live."""
        with self._guard:
            return [slot.record for slot in self._slots.values() if slot.live and slot.record is not None]

    def live_accounts(self) -> list[str]:
        """Return the accounts that have a worker process, or wait for the next one."""
        with self._guard:
            return [slot.account_id for slot in self._slots.values() if slot.live or slot.unrecorded]

    def failed_accounts(self) -> list[str]:
        """Return the accounts whose worker has failed."""
        with self._guard:
            slots = list(self._slots.values())
        return [slot.account_id for slot in slots if slot.status is WorkerLifecycleStatus.FAILED]

    def count_live(self) -> int:
        """Return how many workers have a process."""
        with self._guard:
            return sum(slot.live for slot in self._slots.values())

    def states(self) -> dict[str, int]:
        """Return how many workers are in each state, ended ones too."""
        return dict(Counter(str(info.status) for info in self.records()))

    # inside

    def _slot(self, account_id: str) -> Slot:
        with self._guard:
            return self._slots.setdefault(account_id, Slot(account_id))

    def _seen(self, slot: Slot, info: WorkerInfo) -> WorkerInfo:
        """Return the record with the worker's latest figures, read from its beat file."""
        heartbeat = read_heartbeat(slot.record.beat_file) if slot.record else None
        if heartbeat is None:
            return info
        data = {**heartbeat.status, "call": heartbeat.call, "worker_id": info.worker_id}
        data.pop("phase", None)
        return observe(info, Timestamped(heartbeat.age_seconds, data), True, self._stale_after)
