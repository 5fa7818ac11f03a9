"""The pool's slots, one for each account."""

import threading
from collections.abc import Sequence

from manager.host.workers.changes import Subscriber
from manager.host.workers.slot import Slot


class SlotTable:
    """Maps account ids to slots.

    Thread-safe; its lock is held for single dictionary operations only.
    """

    def __init__(self, subscribers: Sequence[Subscriber] = ()) -> None:
        """`subscribers` receive every change of every worker's record."""
        self._subscribers = subscribers
        self._lock = threading.Lock()
        self._slots: dict[str, Slot] = {}

    def find(self, account_id: str) -> Slot | None:
        """Return the account's slot, or None if this pool has none for it."""
        with self._lock:
            return self._slots.get(account_id)

    def get(self, account_id: str) -> Slot:
        """Return the account's slot; creates it if needed."""
        with self._lock:
            return self._slots.setdefault(account_id, Slot(account_id, self._subscribers))

    def all(self) -> list[Slot]:
        """Return every slot, in the order in which they were created."""
        with self._lock:
            return list(self._slots.values())

    def remove_unused(self, account_id: str) -> bool:
        """Remove the account's slot unless it is in use.

        Returns whether it was removed.

        A slot is in use while it has a worker, a start, a lease, or a command that holds its lock.
        """
        with self._lock:
            slot = self._slots.get(account_id)
            if slot is None or slot.live or slot.starting or slot.lease is not None or slot.lock.locked():
                return False
            del self._slots[account_id]
        return True

    def has_worker(self, worker_id: str) -> bool:
        """Return whether a slot has this worker, or is about to start it."""
        for slot in self.all():
            record = slot.record
            if slot.next_worker == worker_id or (record is not None and record.worker_id == worker_id):
                return True
        return False

    def accounts_for(self, worker_id: str) -> bool:
        """Return whether the pool knows this worker's state.

        It has a record of it, or saw it end.
        """
        return self.has_worker(worker_id) or any(
            slot.info is not None and slot.info.worker_id == worker_id and not slot.unrecorded
            for slot in self.all()
        )
