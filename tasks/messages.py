"""Messages that are none: whoever reaches Redis can put anything on a queue, and no message may end or deafen a host agent.

Celery itself refuses other serializers and unknown tasks. But much of what it reads it does not look at: a body that is
not arguments, keywords and embedded parts, a header of another type, a delivery tag that Redis does not take end its
consumer or hold its place for ever, and a small message may unpack into gigabytes. So each is looked at before Celery
gets it. Found by tests/e2e/test_forged.py.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from queue import Empty
from typing import Any, Final
from uuid import uuid4

from celery.exceptions import InvalidTaskError
from celery.worker import control
from celery.worker.request import Request
from kombu.transport import redis as redis_transport
from kombu.transport import virtual
from redis.exceptions import DataError

from manager import logs

logger: Final = logging.getLogger(__name__)

#: What reading something that is not what it should be raises.
_NONSENSE: Final = (
    *(ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError),
    DataError,
)

#: Characters of a header. A task's arguments stand in two of them, shortened by their sender.
_MAX_TEXT: Final = 10_000
#: A task for later waits in an agent's memory, and is lost with it.
_MAX_ETA: Final = timedelta(minutes=5)


def _text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_TEXT


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1_000_000


def _limits(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(one is None or (isinstance(one, int | float) and one >= 0) for one in value)
    )


#: What Celery's own headers may be, beside not being there or null.
_HEADERS: Final[Mapping[str, Callable[[object], bool]]] = {
    **dict.fromkeys(
        (
            "lang",
            "root_id",
            "parent_id",
            "group",
            "shadow",
            "origin",
            "argsrepr",
            "kwargsrepr",
            "eta",
            "expires",
        ),
        _text,
    ),
    "retries": _count,
    "group_index": _count,
    "replaced_task_nesting": _count,
    "timelimit": _limits,
    "ignore_result": lambda value: isinstance(value, bool),
    "stamped_headers": lambda value: isinstance(value, list) and all(map(_text, value)),
    "stamps": lambda value: isinstance(value, dict),
}


def checked_message(raw: Any) -> dict[str, Any]:
    """Return a task's message as it may be handed to Celery. Raises one of `_NONSENSE` if it is none.

    Its delivery tag is a new one: the sender's may be anything, and another message's.
    """
    headers, properties = raw["headers"], raw["properties"]
    if not _text(headers["task"]) or not (_text(headers["id"]) and headers["id"]):
        raise ValueError("task and id")
    if headers.get("compression"):
        raise ValueError("compression")
    for name, fits in _HEADERS.items():
        value = headers.get(name)
        if value is not None and not fits(value):
            raise ValueError(name)
    if (eta := headers.get("eta")) is not None:
        when = datetime.fromisoformat(eta)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        if when > datetime.now(UTC) + _MAX_ETA:
            raise ValueError("eta")
    return {**raw, "properties": {**properties, "delivery_tag": str(uuid4())}}


class CheckedRequest(Request):  # type: ignore[misc]
    """A task's request; one that cannot be read is refused and acknowledged, so that it is gone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except _NONSENSE as error:
            raise InvalidTaskError(f"not a task's message: {type(error).__name__}") from None


class CheckedMessage(virtual.Message):
    """A message as its channel makes it of what was read."""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            checked_message(payload) if channel.from_queue else payload, channel=channel, **options
        )


class CheckedChannel(redis_transport.Channel):
    """A channel that drops an item which is no task's message, instead of ending its consumer."""

    Message = CheckedMessage
    #: Whether what is read comes from a queue of tasks; broadcasts come another way.
    from_queue = False

    def _brpop_read(self, **options: Any) -> Any:
        self.from_queue = True
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except _NONSENSE as error:
            logs.event(
                logger,
                logging.ERROR,
                "message_dropped",
                f"something on a queue is no message of a task ({type(error).__name__}: {str(error)[:40]!r}): it is dropped",
            )
            raise Empty from None
        finally:
            self.from_queue = False


#: Broadcasts that an agent answers. The others would end it, make it deaf, or drop tasks, at the word of anybody who may
#: broadcast, Flower's user included.
_HARMLESS: Final = frozenset(
    {
        *("ping", "hello", "heartbeat", "clock", "enable_events", "stats", "report", "conf"),
        *("active", "reserved", "scheduled", "registered", "active_queues", "query_task", "revoked"),
    }
)


def check_messages(app: Any) -> None:
    """Have every task of the app, and every connection of this process, refuse what is no message, or does harm."""
    for name in set(control.Panel.data) - _HARMLESS:
        del control.Panel.data[name]
    app.Task.Request = f"{__name__}:CheckedRequest"
    redis_transport.Transport.Channel = CheckedChannel
    # Celery's own tasks unpack others from their arguments, or send themselves anew until something has happened.
    app.finalize()
    for name in [name for name in app.tasks if name.startswith("celery.")]:
        del app.tasks[name]
