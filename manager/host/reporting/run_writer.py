"""Writes ended runs to Redis.

It has its own thread, so that no end of a worker waits for Redis.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from manager.errors import FleetUnavailableError
from manager.fleet.run_types import Run
from manager.host.reporting.run_spool import RunSpool
from manager.system import logs
from manager.system.essential_threads import EssentialThread

logger = logging.getLogger(__name__)

#: Seconds after which a written run is looked up once more: Redis may lose its latest writes
#: (`appendfsync everysec`, a replica that lags).
CONFIRM_SECONDS: Final = 60.0
#: Seconds between two attempts while Redis is down.
_RETRY_SECONDS: Final = 1.0
#: Runs of one round trip.
_MOST: Final = 200


class Store(Protocol):
    """The methods of `RunStore` that the writer uses."""

    def write(self, host: str, runs: Sequence[Run]) -> list[str]: ...
    def written(self, host: str) -> dict[str, str]: ...
    def lost(self, host: str, entry_ids: Iterable[str]) -> list[str]: ...
    def close(self) -> None: ...


class RunWriter:
    """Writes each run at least once, and once only unless Redis or this agent dies at that moment.

    A run stays on disk until Redis has had it for `CONFIRM_SECONDS`. `note` from any thread; `start` and
    `close` once each.
    """

    def __init__(
        self, store: Store, host: str, spool: RunSpool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` returns monotonic seconds."""
        self._store = store
        self._host = host
        self._spool = spool
        self._clock = clock
        #: Worker id → (id of its entry, when it was written or found), for runs that are in Redis.
        self._written: dict[str, tuple[str, float]] = {}
        #: Whether Redis may have runs that this writer does not know to be written.
        self._unsure = bool(spool.waiting())
        self._failing = False
        self._closing = False
        self._changed = threading.Condition()
        self.thread = EssentialThread("runs", self._run)

    def start(self) -> None:
        self.thread.start()

    def note(self, run: Run) -> None:
        """Save a run that has ended and queue it for Redis. Does not wait for Redis."""
        self._spool.add(run)
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """Write what is queued and end the thread; the next agent writes what Redis does not take now."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self.thread.alive:
            self.thread.join()
        self._store.close()

    def tick(self) -> None:
        """Write what is queued, and confirm what was written long enough ago.

        Raises FleetUnavailableError.
        """
        waiting = {run.worker_id: run for run in self._spool.waiting()}
        self._written = {key: one for key, one in self._written.items() if key in waiting}
        if self._unsure:
            self._find_written(waiting)
        self._write([run for key, run in waiting.items() if key not in self._written])
        self._confirm()
        self._spool.set_written(self._written)

    def _find_written(self, waiting: Iterable[str]) -> None:
        """Find out which runs Redis has already, after a failed write or another agent's."""
        there, now = self._store.written(self._host), self._clock()
        for worker_id in waiting:
            if worker_id in there:
                self._written.setdefault(worker_id, (there[worker_id], now))
        self._unsure = False

    def _write(self, runs: Sequence[Run]) -> None:
        for first in range(0, len(runs), _MOST):
            # This host's name may have changed since the run ended, and a host writes for itself only.
            part = [run.model_copy(update={"host": self._host}) for run in runs[first : first + _MOST]]
            self._unsure = True
            entry_ids = self._store.write(self._host, part)
            self._unsure = False
            now = self._clock()
            for run, entry_id in zip(part, entry_ids, strict=True):
                self._written[run.worker_id] = (entry_id, now)

    def _confirm(self) -> None:
        before = self._clock() - CONFIRM_SECONDS
        due = {key: entry_id for key, (entry_id, at) in self._written.items() if at <= before}
        if not due:
            return
        lost = set(self._store.lost(self._host, due.values()))
        for worker_id in due:
            del self._written[worker_id]  # a lost one counts as queued again
        self._spool.remove(worker_id for worker_id, entry_id in due.items() if entry_id not in lost)
        if lost:
            text = "Redis had lost runs; they are written again"
            logs.event(logger, logging.WARNING, "runs_restored", text, runs=len(lost))
            self.tick()

    def _run(self) -> None:
        while True:
            try:
                self.tick()
            except FleetUnavailableError as error:
                if not self._failing:
                    text = f"{error}; ended runs wait in the state directory until Redis takes them"
                    logs.event(logger, logging.WARNING, "runs_waiting", text)
                self._failing = True
            except BaseException as error:
                self._failing = True
                self.thread.failed(error)
            else:
                self._failing = False
            with self._changed:
                if self._closing:
                    return
                self._changed.wait(self._pause())

    def _pause(self) -> float | None:
        """Return the seconds until the next tick; None: until a run ends."""
        if self._failing:
            return _RETRY_SECONDS
        waiting = self._spool.waiting()
        if any(run.worker_id not in self._written for run in waiting):
            return 0.0
        due = min((at for _, at in self._written.values()), default=None)
        return None if due is None else max(0.0, due + CONFIRM_SECONDS - self._clock())
