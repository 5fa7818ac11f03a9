"""Writes a host's records and events to Redis.

From one thread, many at a time, and again when Redis was away.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from manager.errors import ManagerError
from manager.fleet.events import HealthChange, WorkerChange
from manager.host.reporting.outbox import Batch, Change, Outbox
from manager.models import WorkerInfo
from manager.system import logs
from manager.system.essential_threads import EssentialThread

logger = logging.getLogger(__name__)

#: Seconds between two words of the agent, and between two tries while Redis is away.
_INTERVAL: Final = 1.0


class Store(Protocol):
    def record(
        self,
        host: str,
        infos: Iterable[WorkerInfo],
        beats: Mapping[str, Mapping[str, Any]],
        *,
        events: Sequence[WorkerChange] | None = None,
        mark: str = "",
    ) -> None: ...
    def last_mark(self, host: str) -> str | None: ...
    def forget_worker(self, host: str, account_id: str) -> None: ...
    def report_agent(
        self, host: str, data: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any] | None, int, str | None]: ...
    def forget_agent(self, host: str) -> None: ...


class Publisher:
    """Brings every record and every event to the store, in order; a start never waits for an outage.

    What Redis has not got waits in memory, and is lost only if this process ends while Redis is away. The
    events of the last minute before Redis lost data are written again.
    """

    def __init__(
        self,
        store: Store,
        host: str,
        describe: Callable[[], Mapping[str, Any]],
        everything: Callable[[], Iterable[WorkerInfo]] = list,
        first: Callable[[], None] = lambda: None,
    ) -> None:
        """`first` is called before anything is written, and again until it raises no ManagerError."""
        self._store = store
        self._host = host
        self._describe = describe
        self._everything = everything
        self._first: Callable[[], None] | None = first
        self._words = 0
        #: Accounts of which Redis has been told.
        self._recorded: set[str] = set()
        #: Accounts whose records are to go.
        self._forgotten: set[str] = set()
        self._announced = False
        self._changed = threading.Condition()
        self._outbox = Outbox()
        self._closed = False
        self.thread = EssentialThread("publisher", self._run)

    def start(self) -> None:
        """Begin to write records; that the agent lives is not said before `announce`."""
        self.thread.start()

    def announce(self) -> None:
        """Say from now on that the agent lives: after what was handed over so far."""
        with self._changed:
            self._announced = True
            self._changed.notify()

    def publish(
        self, info: WorkerInfo, beat: Mapping[str, Any] | None = None, *, wait_seconds: float = 0.0
    ) -> bool:
        """Hand over a record; with `wait_seconds`, wait that long for it to be in Redis, and say whether it is."""
        with self._changed:
            self._forgotten.discard(info.account_id)  # it came back
            written = self._outbox.add(info, beat)
            self._changed.notify()
        return written.wait(wait_seconds) if wait_seconds > 0 else False

    def publish_health(self, info: WorkerInfo, change: HealthChange) -> None:
        """Hand over the record of a worker whose health has changed, and the event that says so."""
        with self._changed:
            self._outbox.add(info, None, change)
            self._changed.notify()

    def flush(self, seconds: float) -> bool:
        """Wait at most `seconds` until all that was handed over is in Redis; say whether it is."""
        with self._changed:
            written = self._outbox.flushed()
        return written.wait(seconds)

    def forget(self, account_id: str) -> None:
        """Have an account's record removed, after what was handed over so far."""
        with self._changed:
            self._forgotten.add(account_id)
            self._changed.notify()

    def close(self) -> None:
        """Write what is left if Redis answers, take the agent's word back, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self.thread.join()

    def _run(self) -> None:
        failing = ""
        next_word = 0.0
        while True:
            with self._changed:
                if self._outbox.empty and not self._forgotten and not self._closed:
                    pause = next_word - time.monotonic() if self._announced else _INTERVAL
                    self._changed.wait(max(0.0, pause))
                elif failing and not self._closed:
                    self._changed.wait(_INTERVAL)
                batch = self._outbox.next()
                closed = self._closed
            try:
                if self._first is not None:
                    self._first()
                    self._first = None
                if batch is not None:
                    self._write(batch)
                self._forget_now()
                if closed:
                    self._store.forget_agent(self._host)
                elif self._announced and time.monotonic() >= next_word:
                    self._speak()
                    next_word = time.monotonic() + _INTERVAL
            except BaseException as error:
                # Whatever it is: a host that ceases to publish is lost to its fleet while its workers trade.
                self._tell(error, again=failing == str(error))
                failing = str(error) or type(error).__name__
                next_word = max(next_word, time.monotonic() + _INTERVAL)
            else:
                if failing:
                    self._resumed(batch)
                failing = ""
            if closed:
                return

    def _tell(self, error: BaseException, *, again: bool) -> None:
        if not isinstance(error, ManagerError):
            self.thread.failed(error)
        elif not again:
            text = f"{error}; the workers continue, and records and events wait here until Redis takes them"
            logs.event(logger, logging.WARNING, "publish_failed", text)

    def _forget_now(self) -> None:
        with self._changed:
            # What was handed over before comes first; what is handed over later is written again.
            forgotten = list(self._forgotten) if self._outbox.empty else []
        for account_id in forgotten:
            self._store.forget_worker(self._host, account_id)
            self._recorded.discard(account_id)
            with self._changed:
                self._forgotten.discard(account_id)

    def _resumed(self, batch: Batch | None) -> None:
        with self._changed:
            dropped, self._outbox.dropped = self._outbox.dropped, 0
        logs.event(
            logger,
            logging.WARNING if dropped else logging.INFO,
            "publish_resumed",
            f"{dropped} older events found no room and are lost" if dropped else "",
            records=0 if batch is None else len(batch.changes),
        )

    def _write(self, batch: Batch) -> None:
        found = self._store.last_mark(self._host)
        if not self._outbox.took(batch, found):
            # First what came before it, so that events stay in order.
            if not self._outbox.has(found):
                self._tell_again(found)
            with self._changed:
                mark = self._outbox.mark(batch)
            infos = [change.info for change in batch.changes]
            self._store.record(self._host, infos, batch.beats, events=_dated(batch.changes), mark=mark)
        self._recorded.update(change.info.account_id for change in batch.changes)
        with self._changed:
            self._outbox.written(batch)

    def _speak(self) -> None:
        """Say that the agent lives, and tell Redis again what it has lost.

        Redis may have lost a part: one that reads its file with other rights than it was written with leaves
        out transactions, and those alone.
        """
        word = {**self._describe(), "word": self._words + 1}
        before, records, found = self._store.report_agent(self._host, word)
        said, self._words = self._words, self._words + 1
        heard = not said or (before is not None and before.get("word") == said)
        if not heard or records < len(self._recorded) or not self._outbox.has(found):
            self._tell_again(found)
            return
        with self._changed:
            self._outbox.intact()

    def _tell_again(self, found: str | None) -> None:
        with self._changed:
            lost = self._outbox.lost(found)
            mark = self._outbox.again()
        infos = list(self._everything())
        # If this fails, the mark in Redis stays an old one, and it is tried again.
        self._store.record(self._host, infos, {}, events=_dated(lost), mark=mark)
        logs.event(
            logger,
            logging.WARNING,
            "told_again",
            "Redis had lost records",
            records=len(infos),
            events=len(lost),
        )


def _dated(changes: Iterable[Change]) -> list[WorkerChange]:
    """Return each change with the seconds that it has waited."""
    now = time.monotonic()
    return [WorkerChange(change.info, now - change.at, change.health) for change in changes]
