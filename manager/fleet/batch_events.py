"""Writes the events of batches: the begin, and the outcome of the last account.

Any process may call these methods: a guard key in Redis makes each event appear once.
"""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from redis.exceptions import NoPermissionError, ReadOnlyError

from manager.fleet.batches import KEPT_SECONDS
from manager.fleet.event_types import Notice
from manager.fleet.redis_client import open_client, translated
from manager.fleet.store import FleetStore
from manager.models import BatchResult

#: Guard keys that a process remembers.
_REMEMBERED: Final = 10_000
#: Account → its outcome and the reason.
Settled = Mapping[str, tuple[str, str]]
#: Outcomes that `batch.done` counts.
_COUNTED: Final = ("done", "already", "resting", "skipped", "failed")


def say_once(client: Any, guard: str, seconds: int) -> bool | None:
    """Return whether this call wrote the guard key; None if this Redis user may not write it."""
    try:
        return bool(client.set(guard, "1", nx=True, ex=seconds))
    except (NoPermissionError, ReadOnlyError):
        return None


class BatchAnnouncer:
    """Writes `batch.begun` and `batch.done`.

    Every method raises FleetUnavailableError if Redis cannot be used. Does nothing if this Redis user may not
    write the guard keys, as a reader.
    """

    def __init__(self, store: FleetStore) -> None:
        self._store = store
        self._client: Any = open_client(store.url)
        #: Guard keys that are written, as far as this process knows: batches are read often.
        self._written: set[str] = set()

    def begun(self, batch_id: str, what: str, by: str, accounts: int) -> None:
        """Write `batch.begun`, also for a batch that is sent again: once."""
        self._say(batch_id, "begun", by, {"what": what, "accounts": accounts})

    def done(
        self, batch_id: str, what: str, by: str, result: BatchResult, settled: Settled = MappingProxyType({})
    ) -> None:
        """Write `batch.done` if every account of the batch has an outcome.

        `settled` are the outcomes of accounts that are not in the result.
        """
        if not result.pending:
            ends = Counter(outcome for outcome, _ in settled.values())
            counts = {name: len(getattr(result, name)) + ends[name] for name in _COUNTED}
            self._say(batch_id, "done", by, {"what": what, **counts})

    def is_done(self, batch_id: str) -> bool:
        """Return whether `batch.done` of this batch is written."""
        with translated(self._store.url):
            return bool(self._client.exists(_guard(batch_id, "done")))

    def _say(self, batch_id: str, step: str, by: str, data: dict[str, Any]) -> None:
        guard = _guard(batch_id, step)
        if guard in self._written:
            return
        with translated(self._store.url):
            first = say_once(self._client, guard, KEPT_SECONDS)
        if first is not None:
            if len(self._written) >= _REMEMBERED:
                self._written.clear()
            self._written.add(guard)
        if first:
            self._store.note(Notice(type=f"batch.{step}", by=by, command=batch_id, data=data))


def _guard(batch_id: str, step: str) -> str:
    return f"manager:said:batch:{batch_id}:{step}"
