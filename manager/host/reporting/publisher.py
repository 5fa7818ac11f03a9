"""Writes a host's worker records and events to Redis.

It writes in batches from one thread, and again after an outage.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from manager.errors import ManagerError
from manager.fleet.event_types import Cause, HealthChange, ModeChange, Notice, Remark, WorkerChange
from manager.host.reporting.outbox import Batch, Change, Outbox
from manager.models import WorkerInfo
from manager.system import logs
from manager.system.essential_threads import EssentialThread

logger = logging.getLogger(__name__)

#: Seconds between two status reports of the agent, and between two tries while Redis is down.
_INTERVAL: Final = 1.0


class Store(Protocol):
    """The methods of `FleetStore` that the publisher uses."""

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
    def note(self, notice: Notice) -> None: ...
    def ensure_stream_id(self) -> None: ...


class Publisher:
    """Writes every record and every event to the store, in their order.

    Thread-safe; `tick` from one thread. Changes wait in memory while Redis is down, so a start never waits
    for an outage. They are lost only if this process ends meanwhile. Events that Redis lost within the last
    minute are written again.
    """

    def __init__(
        self,
        store: Store,
        host: str,
        describe: Callable[[], Mapping[str, Any]],
        all_records: Callable[[], Iterable[WorkerInfo]] = list,
        prepare: Callable[[], None] = lambda: None,
        *,
        cause: Callable[[WorkerInfo], Cause] = lambda info: Cause(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare, without starting the thread. `clock` returns monotonic seconds.

        `cause` returns the command that led to a record; called when the record is written. `describe`
        returns the agent's status report; `all_records` every worker record, for a Redis that lost some.
        `prepare` is called before anything is written, and again until it raises no ManagerError.
        """
        self._store = store
        self._host = host
        self._describe = describe
        self._all_records = all_records
        self._cause = cause
        self._prepare: Callable[[], None] | None = prepare
        self._clock = clock
        self._reports = 0
        #: Accounts whose record is in Redis.
        self._recorded: set[str] = set()
        #: Accounts whose record is to be removed.
        self._forgotten: set[str] = set()
        self._announced = False
        self._changed = threading.Condition()
        self._outbox = Outbox(clock)
        self._closed = False
        #: When (monotonic seconds) the next status report is due.
        self._next_report = float("-inf")
        #: Text of the error of the last tick; empty if it had none.
        self._failing = ""
        self.thread = EssentialThread("publisher", self._run)

    def start(self) -> None:
        """Start the thread.

        It writes records; the agent counts as alive only after `announce`.
        """
        self.thread.start()

    def announce(self) -> None:
        """Report the agent as alive, after everything that is already queued."""
        with self._changed:
            self._announced = True
            self._changed.notify()

    def publish(
        self, info: WorkerInfo, beat: Mapping[str, Any] | None = None, *, wait_seconds: float = 0.0
    ) -> bool:
        """Queue a record.

        Returns whether it is in Redis after at most `wait_seconds`. Without them, return False at once.
        """
        with self._changed:
            self._forgotten.discard(info.account_id)  # the account has a worker again
            written = self._outbox.add(info, beat)
            self._changed.notify()
        return written.wait(wait_seconds) if wait_seconds > 0 else False

    def publish_health(self, info: WorkerInfo, change: HealthChange) -> None:
        """Queue the record of a worker whose health has changed, and an event."""
        with self._changed:
            self._outbox.add(info, None, change)
            self._changed.notify()

    def publish_mode(self, info: WorkerInfo, change: ModeChange) -> None:
        """Queue the record of a worker whose trading mode has changed, and an event."""
        with self._changed:
            self._outbox.add(info, None, mode=change)
            self._changed.notify()

    def publish_remark(self, info: WorkerInfo, remark: Remark) -> None:
        """Queue the record of a worker of which something else has changed, and an event."""
        with self._changed:
            self._outbox.add(info, None, remark=remark)
            self._changed.notify()

    def flush(self, seconds: float) -> bool:
        """Wait at most `seconds` until everything queued so far is in Redis.

        Returns whether it is.
        """
        with self._changed:
            written = self._outbox.flushed()
        return written.wait(seconds)

    def forget(self, account_id: str) -> None:
        """Remove an account's record, after everything queued is written."""
        with self._changed:
            self._forgotten.add(account_id)
            self._changed.notify()

    def close(self) -> None:
        """Write what is queued, withdraw the status report, end the thread.

        If Redis does not answer, what is queued is lost.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        self.thread.join()

    def tick(self, now: float) -> None:
        """Write what is queued, and the status report if it is due.

        `now` is in monotonic seconds. Raises nothing: an error is logged, and the next tick tries again.
        """
        self._write_queued(now, closing=False)

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._outbox.empty and not self._forgotten and not self._closed:
                    pause = self._next_report - self._clock() if self._announced else _INTERVAL
                    self._changed.wait(max(0.0, pause))
                elif self._failing and not self._closed:
                    self._changed.wait(_INTERVAL)
                closing = self._closed
            self._write_queued(self._clock(), closing=closing)
            if closing:
                return

    def _write_queued(self, now: float, *, closing: bool) -> None:
        with self._changed:
            batch = self._outbox.next()
        try:
            if self._prepare is not None:
                self._prepare()
                self._prepare = None
            if batch is not None:
                self._write(batch)
            self._remove_forgotten()
            if closing:
                self._store.forget_agent(self._host)
                self._store.note(self._notice("host.ended", self._describe()))
            elif self._announced and now >= self._next_report:
                self._report()
                self._next_report = self._clock() + _INTERVAL
        except BaseException as error:
            # Any error: a host that stops publishing looks dead to its fleet while its workers trade.
            self._log_failure(error, again=self._failing == str(error))
            self._failing = str(error) or type(error).__name__
            self._next_report = max(self._next_report, self._clock() + _INTERVAL)
        else:
            if self._failing:
                self._log_recovery(batch)
            self._failing = ""

    def _log_failure(self, error: BaseException, *, again: bool) -> None:
        if not isinstance(error, ManagerError):
            self.thread.failed(error)
        elif not again:
            text = f"{error}; the workers continue, and records and events wait here until Redis takes them"
            logs.event(logger, logging.WARNING, "publish_failed", text)

    def _log_recovery(self, batch: Batch | None) -> None:
        with self._changed:
            dropped, self._outbox.dropped = self._outbox.dropped, 0
        logs.event(
            logger,
            logging.WARNING if dropped else logging.INFO,
            "publish_resumed",
            f"{dropped} older events were dropped because too many were waiting" if dropped else "",
            records=0 if batch is None else len(batch.changes),
        )

    def _remove_forgotten(self) -> None:
        with self._changed:
            # Only with an empty queue: a record that was queued before must not come back after the removal.
            forgotten = list(self._forgotten) if self._outbox.empty else []
        for account_id in forgotten:
            self._store.forget_worker(self._host, account_id)
            self._recorded.discard(account_id)
            with self._changed:
                self._forgotten.discard(account_id)

    def _write(self, batch: Batch) -> None:
        mark_there = self._store.last_mark(self._host)
        if not self._outbox.was_written(batch, mark_there):
            # What Redis lost comes first, so that events stay in their order.
            if not self._outbox.is_complete(mark_there):
                self._write_lost(mark_there)
            with self._changed:
                mark = self._outbox.mark(batch)
            infos = [change.info for change in batch.changes]
            events = self._dated(batch.changes)
            self._store.record(self._host, infos, batch.beats, events=events, mark=mark)
        self._recorded.update(change.info.account_id for change in batch.changes)
        with self._changed:
            self._outbox.written(batch)

    def _report(self) -> None:
        """Write the agent's status report, and again what Redis has lost.

        Redis may have lost only some keys: one that loads its append-only file with other user rights than it
        was written with skips the transactions.
        """
        report = {**self._describe(), "word": self._reports + 1}
        before, records, mark_there = self._store.report_agent(self._host, report)
        earlier, self._reports = self._reports, self._reports + 1
        report_kept = not earlier or (before is not None and before.get("word") == earlier)
        if not report_kept or not earlier:
            self._store.ensure_stream_id()
        if not earlier:
            self._store.note(self._notice("host.live", report))
        if not report_kept or records < len(self._recorded) or not self._outbox.is_complete(mark_there):
            self._write_lost(mark_there)
            return
        with self._changed:
            self._outbox.trim()

    def _notice(self, kind: str, report: Mapping[str, Any]) -> Notice:
        data = {key: report.get(key) for key in ("workers", "version")}
        return Notice(type=kind, host=self._host, data=data)

    def _write_lost(self, mark_there: str | None) -> None:
        """Write every record again, and the events that Redis has lost.

        `mark_there` is the mark in Redis.
        """
        with self._changed:
            lost = self._outbox.lost(mark_there)
            mark = self._outbox.new_mark()
        infos = list(self._all_records())
        # If this fails, the mark in Redis stays the old one, and the next tick tries again.
        self._store.record(self._host, infos, {}, events=self._dated(lost), mark=mark)
        logs.event(
            logger,
            logging.WARNING,
            "records_restored",
            "Redis had lost records",
            records=len(infos),
            events=len(lost),
        )

    def _dated(self, changes: Iterable[Change]) -> list[WorkerChange]:
        """Return each change with the seconds that it has waited."""
        now = self._clock()
        found = []
        for change in changes:
            by, command = self._cause_of(change)
            age = now - change.at
            found.append(
                WorkerChange(
                    change.info, age, change.health, change.before, by, command, change.mode, change.remark
                )
            )
        return found

    def _cause_of(self, change: Change) -> Cause:
        if change.mode is not None:
            return Cause(by=change.mode.by)
        if change.remark is not None:
            return Cause(by=change.remark.by)
        return Cause() if change.health is not None else self._cause(change.info)
