"""Read-only queries over a pool's workers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from manager.config import RecoveryConfig
from manager.fleet.timestamped import Timestamped
from manager.fleet.workers import observe
from manager.host.workers.records import WorkerRecord
from manager.host.workers.slot import Slot
from manager.host.workers.slots import SlotTable
from manager.models import WorkerInfo
from manager.session.heartbeat_file import read_heartbeat
from manager.states import LIVE, TradingMode, WorkerLifecycleStatus


class WorkerQueries:
    """Read-only queries over a pool's workers.

    Thread-safe; no query waits for a running command.
    """

    def __init__(self, slots: SlotTable, stale_after_seconds: float) -> None:
        self._slots = slots
        self._stale_after = stale_after_seconds

    def list_workers(self) -> list[WorkerInfo]:
        """Return all workers with their latest metrics, sorted by account id.

        Ended workers are included.
        """
        slots = sorted(self._slots.all(), key=lambda slot: slot.account_id)
        return [self.with_metrics(slot, slot.info) for slot in slots if slot.info is not None]

    def records(self) -> list[WorkerInfo]:
        """Return every worker's record as published, without metrics."""
        return [slot.info for slot in self._slots.all() if slot.info is not None]

    def get_worker_info(self, account_id: str) -> WorkerInfo | None:
        """Return the account's worker with its latest metrics, or None."""
        slot = self._slots.find(account_id)
        return self.with_metrics(slot, slot.info) if slot is not None and slot.info is not None else None

    def has_worker_for_account(self, account_id: str) -> bool:
        """Return whether the account has a worker process in any state.

        That includes a live worker without a record.
        """
        slot = self._slots.find(account_id)
        return slot is not None and (slot.live or slot.unrecorded)

    def occupied(self, account_id: str) -> bool:
        """Return whether the account has a worker or a start in progress."""
        slot = self._slots.find(account_id)
        return slot is not None and (slot.live or slot.starting or slot.unrecorded)

    def get_account_worker_id(self, account_id: str) -> str | None:
        """Return the id of the account's current worker, or None if it has none."""
        slot = self._slots.find(account_id)
        return slot.info.worker_id if slot is not None and slot.live and slot.info is not None else None

    def health(self) -> dict[str, Any]:
        """Return the number of workers by state and by health.

        `ok` says whether all live workers are healthy.
        """
        states: dict[str, int] = {}
        healths: dict[str, int] = {}
        for info in self.list_workers():
            states[info.status] = states.get(info.status, 0) + 1
            if info.status in LIVE or info.status is WorkerLifecycleStatus.UNKNOWN:
                healths[info.health] = healths.get(info.health, 0) + 1
        return {"workers": states, "health": healths, "ok": set(healths) <= {"healthy"}}

    def generation(self, account_id: str) -> int | None:
        """Return the generation that started the account's worker, or None.

        The generation is that of the account's desired state.
        """
        slot = self._slots.find(account_id)
        if slot is None or not slot.live or slot.restarting or slot.orphaned:
            return None
        return slot.generation

    def mode(self, account_id: str) -> TradingMode | None:
        """Return the running worker's last trading mode, or None."""
        slot = self._slots.find(account_id)
        running = slot is not None and slot.status is WorkerLifecycleStatus.RUNNING
        return slot.mode if slot is not None and running else None

    def resting(self, account_id: str) -> Mapping[str, Any] | None:
        """Return why the account has no worker, by its record; None if it does not rest."""
        slot = self._slots.find(account_id)
        info = None if slot is None else slot.info
        found = None if info is None else info.metadata.get("resting")
        return found if isinstance(found, Mapping) else None

    def recovery(self, account_id: str) -> RecoveryConfig | None:
        """Return the recovery settings of the account's last worker, or None."""
        slot = self._slots.find(account_id)
        return None if slot is None else slot.recovery

    def venue_is_away(self, account_id: str) -> bool:
        """Return whether all workers here of the account's gateway and server are without a session.

        False if the account is the only one.
        """
        own = self._slots.find(account_id)
        lease = None if own is None else own.lease
        if lease is None:
            return False
        venue = _venue(lease.claims)
        leases = [(slot, slot.lease) for slot in self._slots.all() if slot is not own]
        others = [slot for slot, lease in leases if lease is not None and _venue(lease.claims) == venue]
        return bool(others) and not any(one.status is WorkerLifecycleStatus.RUNNING for one in others)

    def live_records(self) -> list[WorkerRecord]:
        """Return the on-disk records of the live workers."""
        records = [slot.record for slot in self._slots.all() if slot.live]
        return [record for record in records if record is not None]

    def live_accounts(self) -> list[str]:
        """Return the accounts that have a worker process or await its restart."""
        return [slot.account_id for slot in self._slots.all() if slot.live or slot.unrecorded]

    def failed_or_resting(self) -> list[str]:
        """Return the accounts without a worker because it has failed or because of their schedule."""
        failed = WorkerLifecycleStatus.FAILED
        return [slot.account_id for slot in self._slots.all() if slot.status is failed or slot.resting]

    def count_live(self) -> int:
        """Return how many workers may have a process."""
        return sum(slot.live for slot in self._slots.all())

    def states(self) -> dict[str, int]:
        """Return the number of workers by state, ended ones included."""
        return dict(Counter(str(info.status) for info in self.records()))

    def with_metrics(self, slot: Slot, info: WorkerInfo) -> WorkerInfo:
        """Return the record with the metrics from the worker's heartbeat file."""
        heartbeat = read_heartbeat(slot.record.beat_file) if slot.record else None
        if heartbeat is None:
            return info
        data = {**heartbeat.status, "call": heartbeat.call, "worker_id": info.worker_id}
        data.pop("phase", None)
        return observe(info, Timestamped(heartbeat.age_seconds, data), True, self._stale_after)


def _venue(claims: Sequence[str]) -> str:
    """Return the gateway and the server in an account's identity."""
    return claims[-1].rpartition(":")[0]
