"""Task results, read in bulk from Celery's result backend."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from celery import states
from celery.exceptions import TaskRevokedError
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from manager.errors import CommandTimeoutError, FleetUnavailableError, ManagerError
from manager.fleet import FleetStore, HostState, safe_url

#: Seconds between two reads of a batch's results.
_POLL_SECONDS: Final = 0.05
#: Start of Celery's error for a result backend that became unreachable during a wait.
_BACKEND_GONE: Final = "Retry limit exceeded"
#: Seconds by which a host's clock must be ahead to be named as the reason for a dropped command.
_AHEAD_SECONDS: Final = 60.0
#: Results read in one round trip.
_RESULTS_PER_READ: Final = 500


class TaskResults:
    """Reads the results of one app's tasks."""

    def __init__(self, app: Any, store: FleetStore) -> None:
        self._app = app
        self._store = store

    def collect(self, task_ids: set[str], wait_seconds: float) -> Iterator[tuple[str, Any]]:
        """Yield (task id, value or exception) as results arrive.

        Blocks for up to `wait_seconds`. Removes each yielded id from `task_ids`.
        """
        backend = self._app.backend
        deadline = time.monotonic() + wait_seconds
        while task_ids:
            found = False
            pending = sorted(task_ids)
            for first in range(0, len(pending), _RESULTS_PER_READ):
                some = pending[first : first + _RESULTS_PER_READ]
                raw = backend.mget([backend.get_key_for_task(task_id) for task_id in some])
                for task_id, value in zip(some, raw, strict=True):
                    if not value:
                        continue
                    meta = backend.decode_result(value)
                    if meta["status"] not in states.READY_STATES:
                        continue
                    task_ids.discard(task_id)
                    found = True
                    failed = meta["status"] in states.EXCEPTION_STATES
                    answer = backend.exception_to_python(meta["result"]) if failed else meta["result"]
                    yield task_id, self._expired() if isinstance(answer, TaskRevokedError) else answer
            if not task_ids or time.monotonic() >= deadline:
                return
            if not found:
                time.sleep(_POLL_SECONDS)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn errors of Celery and redis-py into our own.

        These are FleetUnavailableError and CommandTimeoutError.
        """
        try:
            yield
        except ManagerError:
            raise
        except TaskRevokedError:
            raise self._expired() from None
        except (OperationalError, RedisError, OSError) as error:
            raise self._unavailable(str(error)) from None
        except RuntimeError as error:
            if not str(error).strip().startswith(_BACKEND_GONE):
                raise
            raise self._unavailable("it became unreachable during the wait for the answer") from None

    def _expired(self) -> CommandTimeoutError:
        try:
            hosts = self._store.hosts()
        except FleetUnavailableError:
            hosts = []
        return expired(hosts)

    def _unavailable(self, why: str) -> FleetUnavailableError:
        return FleetUnavailableError(
            f"Redis at {safe_url(self._store.url)} cannot be used ({why}): the command may or may not have "
            "been sent; `manager ps` shows the actual state once Redis is back"
        )


def expired(hosts: Sequence[HostState]) -> CommandTimeoutError:
    """Return the error for a command that its host dropped as expired.

    Celery compares the expiry with the host's clock. The error names each live host whose clock is far ahead,
    because only such a host can take a new command for an expired one.
    """
    ahead = [
        f"host {host.name}'s clock is {duration(host.clock_skew_seconds)} ahead of Redis's"
        for host in hosts
        if host.live and host.clock_skew_seconds is not None and host.clock_skew_seconds > _AHEAD_SECONDS
    ]
    if ahead:
        return CommandTimeoutError(
            f"the host dropped this command as expired: {'; '.join(ahead)}; it may still carry the command "
            "out, as desired state. Set the clock there and run NTP, then send the command again; `manager "
            "doctor` compares all clocks"
        )
    return CommandTimeoutError(
        "the host dropped this command as expired: its clock is ahead, or the command waited more than a "
        "day for its host; it may still be carried out. Compare the clocks with `manager hosts`, set them, "
        "then send the command again"
    )


def duration(seconds: float) -> str:
    """Return seconds as text, for example `3.0 h`.

    Uses the largest unit of which there are at least two.
    """
    for name, length in (("years", 31_557_600.0), ("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:.0f} s"


def forget(result: Any) -> None:
    """Stop waiting for a result."""
    # The garbage collector would do it too, but with Redis unreachable its traceback would go to stderr.
    with suppress(RuntimeError, RedisError, OSError):
        result.backend.remove_pending_result(result)
