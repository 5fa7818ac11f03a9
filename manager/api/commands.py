"""Runs commands of HTTP requests, idempotent by key.

A request that is sent again with the same key runs its command once. The answer is sent at once, or when
the command is done.
"""

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4
from weakref import WeakValueDictionary

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from manager.api.gate import PREFIX
from manager.api.problems import ProblemError, problem_body, problem_of, problem_response
from manager.api.rendering import answer, utc
from manager.client.caller import Request as Behalf
from manager.client.caller import on_behalf_of
from manager.errors import CommandTimeoutError, FleetUnavailableError, HostUnavailableError, ManagerError
from manager.fleet.api_commands import CommandHead, CommandRecord, CommandRecords
from manager.models import WorkerInfo
from manager.system import logs

logger = logging.getLogger(__name__)

#: Maximum seconds that a request waits for its command.
MAX_WAIT: Final = 60.0
#: Seconds after which a request that waits looks whether its client is still there.
_LOOK_SECONDS: Final = 1.0
KEY_PATTERN: Final = r"^[A-Za-z0-9._:-]{8,128}$"
_KEY: Final = re.compile(KEY_PATTERN)
_WAIT: Final = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?=$|[,;])", re.IGNORECASE)
#: After these errors the command may still run, or be sent again: its record stays open.
_OPEN: Final = (FleetUnavailableError, HostUnavailableError, CommandTimeoutError)

#: Looks up the answer to a command that another process sent; None: no answer is known.
Answered = Callable[[str], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandCall:
    """The command of one request."""

    #: The command's name in the audit trail.
    what: str
    call: Callable[[], Awaitable[Any]]
    #: The command whose task has the request's id; see `manager.client.caller.Request`.
    command: str = ""
    account_id: str = ""
    host: str = ""


@dataclass(eq=False)
class _Job:
    """A command that this process runs now."""

    task: "asyncio.Task[CommandRecord]"
    sent: asyncio.Event = field(default_factory=asyncio.Event)


class CommandRunner:
    """Sends commands and records them by key. Used from one event loop."""

    def __init__(self, records: CommandRecords, answered: Answered = lambda _: None) -> None:
        self.records = records
        self._answered = answered
        self._jobs: dict[str, _Job] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._background: dict[str, asyncio.Task[None]] = {}

    def lock(self, key: str) -> asyncio.Lock:
        """Return the lock of a key. In this process, only its holder sends."""
        found = self._locks.get(key)
        if found is None:
            found = self._locks[key] = asyncio.Lock()
        return found

    def runs(self, key: str) -> bool:
        """Return whether work for this key goes on in the background."""
        return key in self._background

    def in_background(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        """Do work that continues after the answer. A failure is logged; the key's record stays open."""

        def ended(task: "asyncio.Task[None]") -> None:
            self._background.pop(key, None)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                logs.event(logger, logging.ERROR, "background_failed", str(error), command=key)

        self._background[key] = asyncio.create_task(work)
        self._background[key].add_done_callback(ended)

    async def run(self, request: Request, command: CommandCall, body: BaseModel | None, by: str) -> Response:
        """Run the command once, and answer as the request prefers.

        Raises ProblemError, ManagerError.
        """
        key, wait = idempotency_key(request) or str(uuid4()), preferred_wait(request)
        head = CommandHead(
            fingerprint=fingerprint(request, body),
            what=command.what,
            by=by,
            account_id=command.account_id,
            host=command.host,
        )
        async with self.lock(key):
            new, record = await run_in_threadpool(self.records.claim, key, head)
            if record.head.fingerprint != head.fingerprint:
                raise mismatch(key)
            if not record.done and not new and key not in self._jobs:
                record = await self._recover(record)
            if record.done:
                return self._finished(request, record, wait)
            job = self._jobs.get(key) or self._start(request, key, command, record)
        if wait is None:
            sent = asyncio.create_task(job.sent.wait())
            await asyncio.wait({job.task, sent}, return_when=asyncio.FIRST_COMPLETED)
            sent.cancel()
        else:
            await _finish(request, job.task, wait)
        if job.task.done():
            return self._finished(request, job.task.result(), wait)
        return self._response(record, 202, wait)

    async def read(self, key: str) -> CommandRecord:
        """Return a command's current record. Raises ProblemError `no_command`."""
        record = await run_in_threadpool(self.records.read, key) if _KEY.fullmatch(key) else None
        if record is None:
            raise ProblemError("no_command", "no command of this API has this id; they are kept for a day")
        return record if record.done or key in self._jobs else await self._recover(record)

    def _start(self, request: Request, key: str, command: CommandCall, record: CommandRecord) -> _Job:
        loop, instance, request_id = asyncio.get_running_loop(), request.url.path, request.state.request_id
        sent = asyncio.Event()

        def note_sent() -> None:
            loop.call_soon_threadsafe(sent.set)

        behalf = Behalf(by=record.head.by, token=key, command=command.command, sent=note_sent)

        async def carry_out() -> CommandRecord:
            outcome: dict[str, Any]
            try:
                try:
                    with on_behalf_of(behalf):
                        outcome = {"result": _plain(await command.call())}
                except _OPEN:
                    raise
                except ManagerError as error:
                    outcome = {"problem": problem_body(problem_of(error), instance, request_id)}
                return await run_in_threadpool(self.records.finish, key, outcome) or record
            finally:
                # Only after the outcome is recorded: a request that finds no job then finds the outcome.
                self._jobs.pop(key, None)

        job = self._jobs[key] = _Job(asyncio.create_task(carry_out()), sent)
        # Reads the error, so that asyncio does not log it. A repeated request sends the command again.
        job.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return job

    async def _recover(self, record: CommandRecord) -> CommandRecord:
        """Look up the outcome of a command that this process does not run.

        Returns the record unchanged if the outcome is unknown.
        """
        again = await run_in_threadpool(self.records.read, record.id)
        record = again or record
        if record.done:
            return record
        found = await run_in_threadpool(self._answered, record.id)
        if found is None or isinstance(found, _OPEN):
            return record
        if isinstance(found, BaseException):
            problem = (
                problem_of(found) if isinstance(found, ManagerError) else ProblemError("internal", str(found))
            )
            outcome = {"problem": problem_body(problem, f"{PREFIX}/commands/{record.id}", "")}
        else:
            outcome = {"result": _plain(found)}
        return await run_in_threadpool(self.records.finish, record.id, outcome) or record

    def _finished(self, request: Request, record: CommandRecord, wait: float | None) -> Response:
        problem = None if record.outcome is None else record.outcome.get("problem")
        if problem is None:
            return self._response(record, 202 if wait is None else 200, wait)
        error = ProblemError(
            problem["code"], problem["detail"], problem["retryable"], more={"command": command_data(record)}
        )
        return problem_response(error, request.url.path, request.state.request_id)

    @staticmethod
    def _response(record: CommandRecord, status: int, wait: float | None) -> Response:
        headers = {"Location": f"{PREFIX}/commands/{record.id}"}
        if wait is not None:
            headers["Preference-Applied"] = f"wait={wait:g}"
        return answer(command_data(record), status, headers)


async def _finish(request: Request, job: "asyncio.Task[CommandRecord]", seconds: float) -> None:
    """Wait until the command is done, the time is over or the client leaves. The command continues."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while not job.done() and clock() < deadline and not await request.is_disconnected():
        await asyncio.wait({job}, timeout=min(_LOOK_SECONDS, deadline - clock()))


def command_data(record: CommandRecord) -> dict[str, Any]:
    """Return the JSON members of a `Command`."""
    outcome = record.outcome or {}
    problem = outcome.get("problem")
    ended = None if record.done_at is None else (record.done_at - record.asked_at).total_seconds()
    return {
        "id": record.id,
        "what": record.head.what,
        "account_id": record.head.account_id or None,
        "host": record.head.host or None,
        "state": "accepted" if not record.done else "failed" if problem else "done",
        "outcome": None if not record.done else problem["code"] if problem else "ok",
        "by": record.head.by,
        "asked_at": utc(record.asked_at),
        "done_at": utc(record.done_at),
        "seconds": ended,
        "result": outcome.get("result"),
        "problem": problem,
    }


def idempotency_key(request: Request, *, required: bool = False) -> str | None:
    """Return the request's Idempotency-Key.

    Raises ProblemError if the key is malformed, or if it is required and missing.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        if required:
            raise ProblemError(
                "idempotency_key_required",
                "a command for many accounts needs an Idempotency-Key, such as a UUID: a repeated "
                "request then acts once",
            )
        return None
    if not _KEY.fullmatch(key):
        raise ProblemError(
            "invalid_request",
            "an Idempotency-Key is 8 to 128 letters, digits, '.', '_', ':' or '-'",
            errors=[{"where": ["header", "Idempotency-Key"], "message": "does not fit the pattern"}],
        )
    return key


def preferred_wait(request: Request) -> float | None:
    """Return the seconds of `Prefer: wait=N`, at most MAX_WAIT, or None."""
    found = _WAIT.search(",".join(request.headers.getlist("prefer")))
    return None if found is None else min(float(found[1]), MAX_WAIT)


def fingerprint(request: Request, body: BaseModel | None) -> str:
    """Return a hash of the request; different requests have different ones."""
    data = None if body is None else body.model_dump(mode="json")
    text = json.dumps([request.method, request.url.path, data], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def mismatch(key: str) -> ProblemError:
    """Return the problem of a key that was used for another request."""
    return ProblemError(
        "idempotency_mismatch",
        f"the key {key} was used within a day for a different request; nothing was done: use a new key",
    )


def _plain(result: Any) -> Any:
    """Return a result as plain JSON data."""
    if isinstance(result, WorkerInfo):
        return result.to_dict()
    if isinstance(result, Mapping) and "worker_id" in result:
        return WorkerInfo.from_dict(result).to_dict()
    return {"stopped": result} if isinstance(result, bool) else result
