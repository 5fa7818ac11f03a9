"""Answers of tasks, read many at a time from Celery's result backend, and its troubles in our words."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from celery import states
from celery.exceptions import TaskRevokedError
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from manager.errors import CommandTimeoutError, FleetUnavailableError, ManagerError
from manager.fleet import FleetStore, safe_url

#: Seconds between two looks at the results of a batch.
_POLL_SECONDS: Final = 0.05
#: How Celery's own words begin for a result backend that went away while somebody waited for a result.
_BACKEND_GONE: Final = "Retry limit exceeded"
#: Results read in one round trip.
_RESULTS_AT_ONCE: Final = 500


class Answers:
    """The answers that one app's tasks get."""

    def __init__(self, app: Any, store: FleetStore) -> None:
        self._app = app
        self._store = store

    def collect(self, task_ids: set[str], wait_seconds: float) -> Iterator[tuple[str, Any]]:
        """Yield (task id, value or exception) as they come, many for one round trip, until the time is over."""
        backend = self._app.backend
        deadline = time.monotonic() + wait_seconds
        while task_ids:
            found = False
            pending = sorted(task_ids)
            for first in range(0, len(pending), _RESULTS_AT_ONCE):
                some = pending[first : first + _RESULTS_AT_ONCE]
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
                    yield task_id, expired() if isinstance(answer, TaskRevokedError) else answer
            if not task_ids or time.monotonic() >= deadline:
                return
            if not found:
                time.sleep(_POLL_SECONDS)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn Celery's and Redis's troubles into FleetUnavailableError."""
        try:
            yield
        except ManagerError:
            raise
        except TaskRevokedError:
            raise expired() from None
        except (OperationalError, RedisError, OSError) as error:
            raise self._unavailable(str(error)) from None
        except RuntimeError as error:
            if not str(error).strip().startswith(_BACKEND_GONE):
                raise
            raise self._unavailable("it went away while the answer was waited for") from None

    def _unavailable(self, why: str) -> FleetUnavailableError:
        return FleetUnavailableError(
            f"Redis at {safe_url(self._store.url)} cannot be used ({why}): the command may or may not have been "
            "sent; `manager ps` shows what is so once Redis is back"
        )


def expired() -> CommandTimeoutError:
    """Return the error for a command that its host dropped by its time, which Celery compares with the host's clock."""
    return CommandTimeoutError(
        "the host took this command for more than a day old and dropped it: its clock is ahead, or the command waited "
        "that long for its host; it may still be carried out. Compare the clocks with `manager hosts`, set them, then "
        "send the command again"
    )


def forget(result: Any) -> None:
    """Wait for a result no more."""
    # Now, and not whenever the object is collected: then, with Redis away, its traceback would go to stderr.
    with suppress(RuntimeError, RedisError, OSError):
        result.backend.remove_pending_result(result)
