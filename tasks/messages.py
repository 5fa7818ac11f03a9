"""Messages that are none: whoever reaches Redis can put anything on a queue, and no message may end a host agent.

Celery itself refuses other serializers and unknown tasks. But a body that is not arguments, keywords and embedded parts
ends its consumer, and is put back on the queue for the next one to end by; and an item that is no message at all ends
it as well. Found by tests/e2e/test_forged.py.
"""

import logging
from queue import Empty
from typing import Any, Final

from celery.exceptions import InvalidTaskError
from celery.worker import control
from celery.worker.request import Request
from kombu.transport import redis as redis_transport

from manager import logs

logger: Final = logging.getLogger(__name__)

#: What reading something that is not what it should be raises.
_NONSENSE: Final = (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError)


class CheckedRequest(Request):  # type: ignore[misc]
    """A task's request; one that cannot be read is refused and acknowledged, so that it is gone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except _NONSENSE as error:
            raise InvalidTaskError(f"not a task's message: {type(error).__name__}") from None


class CheckedChannel(redis_transport.Channel):
    """A channel that drops an item which is no message, instead of ending its consumer."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except _NONSENSE as error:
            logs.event(
                logger,
                logging.ERROR,
                "message_dropped",
                f"something on a queue is no message of Celery's ({type(error).__name__}): it is dropped",
            )
            raise Empty from None


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
