"""Batches of commands, each sent as one Celery group.

A restart of Redis loses no account: the result contains each one, at once or later by the batch's
id.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from celery import group

from manager.client.batch_checks import VALIDATE
from manager.client.commands import BatchOutcome, Command, error_text, mode_outcome, start_outcome
from manager.client.outcomes import recorded_outcome
from manager.client.results import TaskResults, forget
from manager.client.sender import Sender
from manager.errors import FleetUnavailableError, HostUnavailableError, NoBatchError, NoWorkerError
from manager.fleet import FleetStore
from manager.fleet.batch_events import BatchAnnouncer
from manager.fleet.batches import BatchRecord, BatchStore
from manager.fleet.desired_store import DesiredStore
from manager.models import BatchResult, WorkerInfo
from manager.pool.commands import MODE_COMMANDS, STOP
from manager.pool.protocol import Batch, Progress
from manager.states import WorkerLifecycleStatus

T = TypeVar("T")

#: Seconds for which a batch retries while Redis is unreachable. A restart of Redis takes a few.
_RETRY_LIMIT_SECONDS: Final = 30.0
_RETRY_SECONDS: Final = 0.25
#: Seconds between two reads of the accounts' records: after an outage, and while no result arrives. A restart
#: of Redis that was too short to be noticed here may have lost results or tasks.
_RECHECK_SECONDS: Final = 1.0
_QUIET_RECHECK_SECONDS: Final = 10.0
_MODE_NAMES: Final = frozenset(spec.name for spec in MODE_COMMANDS)


class BatchSender:
    """Sends batches of commands.

    Each result contains every account of its batch.
    """

    def __init__(
        self,
        app: Any,
        store: FleetStore,
        desired: DesiredStore,
        records: BatchStore,
        results: TaskResults,
        sender: Sender,
    ) -> None:
        self._app = app
        self._store = store
        self._desired = desired
        self._records = records
        self._results = results
        self._sender = sender
        self._announcer = BatchAnnouncer(store)

    def run(
        self,
        commands: Sequence[Command],
        wait_seconds: float,
        progress: Progress | None,
        batch: Batch | None,
    ) -> BatchResult:
        """Send the commands.

        Unless `batch.wait` is false, blocks until their results arrive. `wait_seconds` limits the wait. Once
        a command may have been sent, nothing is raised: accounts whose outcome is unknown are `pending`, and
        `trouble` says why.

        Raises:
            FleetUnavailableError: Redis cannot be used, and nothing was sent.
            HostUnavailableError: no host is live, and nothing was sent.
        """
        batch = batch or Batch()
        if not commands and not batch.settled:
            return BatchResult()
        parts = BatchOutcome(progress)
        what, by = commands[0].name if commands else "start", self._sender.me
        tokens = {command.account_id: command.token for command in commands}
        # Written before desired state: hosts act on that at once, and may then delay this write.
        self._record(batch, what, by, tokens)
        waiting = {command.token: command.account_id for command in commands}
        trouble = ""
        try:
            ready, refused = _retried(lambda: self._sender.accept(commands))
            for account_id, refusal in refused.items():
                parts.put(account_id, "failed", str(refusal))
                waiting.pop(tokens[account_id])
            if refused:
                ends = {account_id: ("failed", str(refusal)) for account_id, refusal in refused.items()}
                _retried(lambda: self._records.settle(batch.id, ends))
            if ready:
                _retried(lambda: self._send(ready, batch.id))
                if batch.wait:
                    trouble = self._wait(what, waiting, wait_seconds, parts)
        except FleetUnavailableError as error:
            trouble = str(error)
        finally:
            for token in tokens.values():
                forget(self._app.AsyncResult(token))
        answered = not waiting
        if batch.wait and not trouble:
            _give_up(waiting, wait_seconds, parts)
            waiting = {}
        for account_id in waiting.values() if trouble else ():
            parts.notify(account_id, "pending")
        result = parts.result(batch.id, _by_account(waiting), trouble if waiting else "")
        if answered:
            with contextlib.suppress(FleetUnavailableError):
                self._announcer.done(batch.id, what, by, result, batch.settled)
        return result

    def result(self, batch_id: str) -> tuple[BatchRecord, BatchResult]:
        """Return a batch and its outcomes so far.

        Accounts without one are `pending`. Raises NoBatchError if the batch does not exist or is more than a
        day old.
        """
        record = self._records.read(batch_id)
        if record is None:
            raise NoBatchError(f"no batch {batch_id}: batches are kept for a day; `manager batch` lists them")
        parts = BatchOutcome()
        for account_id, (outcome, text) in record.settled.items():
            parts.put(account_id, outcome, _without_worker(account_id) if outcome == "done" else text)
        waiting = {token: account_id for account_id, token in record.tasks.items()}
        if record.what != VALIDATE:
            self._collect(record.what, waiting, 0.0, parts)
            self._check_records(record.what, waiting, parts)
        result = parts.result(batch_id, _by_account(waiting))
        with contextlib.suppress(FleetUnavailableError):
            self._announcer.done(batch_id, record.what, record.by, result)
        return record, result

    def accepted(self, batch_id: str) -> set[str]:
        """Return the accounts of a batch whose command is in desired state: hosts carry it out.

        Raises NoBatchError if the batch does not exist.
        """
        record = self._records.read(batch_id)
        if record is None:
            raise NoBatchError(f"no batch {batch_id}")
        written = self._desired.generations(record.tasks.values())
        return {account_id for account_id, token in record.tasks.items() if token in written}

    def announce_ended(self, newest: int) -> None:
        """Write the missing `batch.done` events of the newest batches, for which no reader waited.

        Raises FleetUnavailableError if Redis cannot be used.
        """
        for batch_id in self._records.newest(newest):
            if not self._announcer.is_done(batch_id):
                with contextlib.suppress(NoBatchError):
                    self.result(batch_id)

    # inside

    def _record(self, batch: Batch, what: str, by: str, tokens: Mapping[str, str]) -> None:
        """Record a batch before its tasks are sent. Raises FleetUnavailableError."""
        try:
            self._records.save(batch.id, what, by, tokens, batch.settled)
        except FleetUnavailableError as error:
            raise FleetUnavailableError(f"nothing was sent: {error}") from None
        with contextlib.suppress(FleetUnavailableError):
            self._announcer.begun(batch.id, what, by, len(tokens) + len(batch.settled))

    def _send(self, commands: Sequence[Command], batch_id: str) -> None:
        """Send the tasks.

        Idempotent: a host recognizes a command that it receives again by the task's id.
        """
        with self._results.translated():
            group(
                # Flower then shows the batch's id as the root of each task.
                [self._sender.signature(command).set(root_id=batch_id) for command in commands],
                app=self._app,
            ).apply_async(task_id=batch_id)

    def _wait(self, what: str, waiting: dict[str, str], wait_seconds: float, parts: BatchOutcome) -> str:
        """Collect results until none is missing or the time is over.

        Returns the last error of Redis; empty if there was none.
        """
        deadline = time.monotonic() + wait_seconds
        trouble = ""
        away_since: float | None = None
        while waiting:
            left = deadline - time.monotonic()
            try:
                before = len(waiting)
                slice_seconds = _RECHECK_SECONDS if trouble else _QUIET_RECHECK_SECONDS
                self._collect(what, waiting, max(0.0, min(left, slice_seconds)), parts)
                if trouble or len(waiting) == before or left <= slice_seconds:
                    self._check_records(what, waiting, parts)
                away_since = None
            except FleetUnavailableError as error:
                now = time.monotonic()
                trouble, away_since = str(error), away_since or now
                if now - away_since > _RETRY_LIMIT_SECONDS:
                    break
                time.sleep(_RETRY_SECONDS)
            if time.monotonic() >= deadline:
                break
        return trouble

    def _collect(self, what: str, waiting: dict[str, str], seconds: float, parts: BatchOutcome) -> None:
        with self._results.translated():
            for task_id, outcome in self._results.collect(set(waiting), seconds):
                account_id = waiting.pop(task_id)
                parts.put(account_id, *self._outcome(what, account_id, outcome))

    def _check_records(self, what: str, waiting: dict[str, str], parts: BatchOutcome) -> None:
        """Settle the accounts whose records show the outcome of their command."""
        if not waiting:
            return
        generations = self._desired.generations(list(waiting))
        desired = self._desired.read_many(waiting.values())
        workers = {info.account_id: info for info in self._store.list_workers()}
        for token, account_id in list(waiting.items()):
            info = workers.get(account_id)
            found = recorded_outcome(what, generations.get(token), desired.get(account_id), info)
            if found is not None:
                del waiting[token]
                parts.put(account_id, *found)

    def _outcome(self, what: str, account_id: str, result: Any) -> tuple[str, Any]:
        """Return the part of a task's result or error in the batch's outcome."""
        if what == STOP.name:
            return self._stop_outcome(account_id, result)
        return mode_outcome(result) if what in _MODE_NAMES else start_outcome(result)

    def _stop_outcome(self, account_id: str, outcome: Any) -> tuple[str, Any]:
        if isinstance(outcome, NoWorkerError):
            return "skipped", str(outcome)
        if isinstance(outcome, BaseException):
            return "failed", error_text(outcome)
        try:
            info = self._store.get_worker(account_id)
        except FleetUnavailableError:
            # The host's answer counts, although the worker's record cannot be read.
            return "done", _without_worker(account_id)
        if info is None:
            return "skipped", f"{account_id}: its record was deleted"
        return "done", info


def _retried(call: Callable[[], T]) -> T:
    """Call, and retry while Redis is unreachable.

    After that, also retries while no host has reported to the restarted Redis yet. Raises the call's error
    once the retry limit is over.
    """
    deadline: float | None = None
    while True:
        try:
            return call()
        except (FleetUnavailableError, HostUnavailableError) as error:
            if deadline is None:
                if not isinstance(error, FleetUnavailableError):
                    raise
                deadline = time.monotonic() + _RETRY_LIMIT_SECONDS
            if time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_SECONDS)


def _give_up(waiting: Mapping[str, str], waited_seconds: float, parts: BatchOutcome) -> None:
    """Count accounts without an answer as failed."""
    for task_id, account_id in waiting.items():
        text = (
            f"{account_id}: no answer within {waited_seconds:g} s (task {task_id}); "
            f"it may still be carried out: check with `manager info {account_id}`"
        )
        parts.put(account_id, "failed", text)


def _without_worker(account_id: str) -> WorkerInfo:
    """Return a record for an account whose outcome comes without one."""
    return WorkerInfo(worker_id="", account_id=account_id, status=WorkerLifecycleStatus.STOPPED)


def _by_account(waiting: Mapping[str, str]) -> dict[str, str]:
    return {account_id: token for token, account_id in waiting.items()}
