"""Batches of commands: sent as one Celery group, and waited for.

A restart of Redis meanwhile costs no account: each is accounted for, at the end or later by the batch's id.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from celery import group

from manager.client.commands import BatchOutcome, Command, changed, error_text, started
from manager.client.outcomes import settled
from manager.client.results import Answers, forget
from manager.client.sender import Sender
from manager.errors import FleetUnavailableError, HostUnavailableError, NoBatchError, NoWorkerError
from manager.fleet import FleetStore
from manager.fleet.batches import BatchRecord, BatchStore
from manager.fleet.desired_store import DesiredStore
from manager.models import BatchResult, WorkerInfo
from manager.pool.commands import MODE_COMMANDS, STOP
from manager.pool.protocol import Batch, Progress
from manager.states import WorkerLifecycleStatus

T = TypeVar("T")

#: Seconds that a batch which has begun waits for a Redis that went away: a restart takes a few.
_PATIENCE: Final = 30.0
#: Seconds between two tries while Redis is away.
_PAUSE: Final = 0.25
#: Seconds between two looks at what has become of accounts: after an outage, and while no answer comes. Redis
#: may have lost their answers, or their tasks, in a restart that was too short to be noticed here.
_LOOK_SECONDS: Final = 1.0
_QUIET_SECONDS: Final = 10.0
_MODE_NAMES: Final = frozenset(spec.name for spec in MODE_COMMANDS)


class BatchSender:
    """Sends batches of commands and accounts for every account of each."""

    def __init__(
        self,
        app: Any,
        store: FleetStore,
        desired: DesiredStore,
        records: BatchStore,
        answers: Answers,
        sender: Sender,
    ) -> None:
        self._app = app
        self._store = store
        self._desired = desired
        self._records = records
        self._answers = answers
        self._sender = sender

    def run(
        self,
        commands: Sequence[Command],
        wait_seconds: float,
        progress: Progress | None,
        batch: Batch | None,
    ) -> BatchResult:
        """Send the commands and wait for their answers, but for a batch that nobody waits for.

        Raises FleetUnavailableError or HostUnavailableError if nothing was sent. Once something may have been
        sent it raises nothing: accounts whose outcome is unknown are `pending`, and `trouble` says why.
        """
        batch = batch or Batch()
        if not commands and not batch.settled:
            return BatchResult()
        parts = BatchOutcome(progress)
        # Before anything is wanted: hosts act on that at once, and may be too busy to let this through.
        what = commands[0].name if commands else "start"
        tokens = {command.account_id: command.token for command in commands}
        try:
            self._records.save(batch.id, what, self._sender.me, tokens, batch.settled)
        except FleetUnavailableError as error:
            raise FleetUnavailableError(f"nothing was sent: {error}") from None
        waiting = {command.token: command.account_id for command in commands}
        trouble = ""
        try:
            ready, refused = _patiently(lambda: self._sender.accept(commands))
            for account_id, refusal in refused.items():
                parts.put(account_id, "failed", str(refusal))
                waiting.pop(tokens[account_id])
            if refused:
                ends = {account_id: ("failed", str(refusal)) for account_id, refusal in refused.items()}
                _patiently(lambda: self._records.settle(batch.id, ends))
            if ready:
                _patiently(lambda: self._send(ready, batch.id))
                if batch.wait:
                    trouble = self._wait(what, waiting, wait_seconds, parts)
        except FleetUnavailableError as error:
            trouble = str(error)
        finally:
            for token in tokens.values():
                forget(self._app.AsyncResult(token))
        if batch.wait and not trouble:
            for task_id, account_id in waiting.items():
                text = (
                    f"{account_id}: no answer within {wait_seconds:g} s (task {task_id}); it may still be "
                    "carried out"
                )
                parts.put(account_id, "failed", text)
            waiting = {}
        for account_id in waiting.values() if trouble else ():
            parts.tell(account_id, "pending")
        return parts.result(batch.id, _by_account(waiting), trouble if waiting else "")

    def result(self, batch_id: str) -> tuple[BatchRecord, BatchResult]:
        """Return a batch and what has become of it by now; `pending` are those of which nothing is known yet.

        Raises NoBatchError if there is none of that id (they are kept for a day).
        """
        record = self._records.read(batch_id)
        if record is None:
            raise NoBatchError(f"no batch {batch_id}: they are kept for a day; `manager batch` lists them")
        parts = BatchOutcome()
        for account_id, (outcome, text) in record.settled.items():
            parts.put(account_id, outcome, text)
        waiting = {token: account_id for account_id, token in record.tasks.items()}
        self._collect(record.what, waiting, 0.0, parts)
        self._look(record.what, waiting, parts)
        return record, parts.result(batch_id, _by_account(waiting))

    # inside

    def _send(self, commands: Sequence[Command], batch_id: str) -> None:
        """Send the tasks. Idempotent: each keeps its id, by which its host knows the command."""
        with self._answers.translated():
            group(
                # As the root of each, the batch is named by every one of its tasks in Flower.
                [self._sender.signature(command).set(root_id=batch_id) for command in commands],
                app=self._app,
            ).apply_async(task_id=batch_id)

    def _wait(self, what: str, waiting: dict[str, str], wait_seconds: float, parts: BatchOutcome) -> str:
        """Take answers until all have come, or the time is over.

        Returns what went wrong with Redis meanwhile; empty if nothing did.
        """
        deadline = time.monotonic() + wait_seconds
        trouble = ""
        away_since: float | None = None
        while waiting:
            left = deadline - time.monotonic()
            try:
                before = len(waiting)
                slice_seconds = _LOOK_SECONDS if trouble else _QUIET_SECONDS
                self._collect(what, waiting, max(0.0, min(left, slice_seconds)), parts)
                if trouble or len(waiting) == before or left <= slice_seconds:
                    self._look(what, waiting, parts)
                away_since = None
            except FleetUnavailableError as error:
                now = time.monotonic()
                trouble, away_since = str(error), away_since or now
                if now - away_since > _PATIENCE:
                    break
                time.sleep(_PAUSE)
            if time.monotonic() >= deadline:
                break
        return trouble

    def _collect(self, what: str, waiting: dict[str, str], seconds: float, parts: BatchOutcome) -> None:
        with self._answers.translated():
            for task_id, outcome in self._answers.collect(set(waiting), seconds):
                account_id = waiting.pop(task_id)
                sort = self._stopped if what == STOP.name else changed if what in _MODE_NAMES else started
                parts.put(account_id, *sort(account_id, outcome))

    def _look(self, what: str, waiting: dict[str, str], parts: BatchOutcome) -> None:
        """Account for those of whose command the records tell what became of it."""
        if not waiting:
            return
        generations = self._desired.generations(list(waiting))
        desired = self._desired.read_many(waiting.values())
        workers = {info.account_id: info for info in self._store.list_workers()}
        for token, account_id in list(waiting.items()):
            found = settled(what, generations.get(token), desired.get(account_id), workers.get(account_id))
            if found is not None:
                del waiting[token]
                parts.put(account_id, *found)

    def _stopped(self, account_id: str, outcome: Any) -> tuple[str, Any]:
        if isinstance(outcome, NoWorkerError):
            return "skipped", str(outcome)
        if isinstance(outcome, BaseException):
            return "failed", error_text(outcome)
        try:
            info = self._store.get_worker(account_id)
        except FleetUnavailableError:
            # What its host answered counts; only its record cannot be read.
            return "done", WorkerInfo(
                worker_id="", account_id=account_id, status=WorkerLifecycleStatus.STOPPED
            )
        if info is None:
            return "skipped", f"{account_id}: its record is gone"
        return "done", info


def _patiently(call: Callable[[], T]) -> T:
    """Call, and again while Redis is away or has not heard of its hosts again.

    Raises what the call raises, once the patience is over.
    """
    deadline: float | None = None
    while True:
        try:
            return call()
        except (FleetUnavailableError, HostUnavailableError) as error:
            if deadline is None:
                if not isinstance(error, FleetUnavailableError):
                    raise
                deadline = time.monotonic() + _PATIENCE
            if time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE)


def _by_account(waiting: Mapping[str, str]) -> dict[str, str]:
    return {account_id: token for token, account_id in waiting.items()}
