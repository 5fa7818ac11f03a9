"""The consumer of a host agent, which refuses harmful messages.

The sender of a refused message gets a failure as the result.

Celery's setting `worker_consumer` names the class, so that only a Celery worker of this app uses it. The
connection from which it reads tasks has a special transport class. Other connections, and processes that only
import `tasks`, use kombu's.
"""

import logging
import time
from collections.abc import Callable
from functools import partial
from queue import Empty
from typing import Any, Final

from celery import states
from celery.exceptions import InvalidTaskError
from celery.worker import control
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from celery.worker.state import maybe_shutdown

from manager.errors import InvalidPayloadError
from manager.host.exits import exit_out_of_files
from manager.system import logs
from manager.system.spare_files import is_own_shortage
from tasks.messages import MALFORMED_ERRORS, Sender, check_parts, checked_message, sender_of

logger: Final = logging.getLogger(__name__)

#: Maximum length of a reason.
_MAX_REASON: Final = 300

#: Broadcasts that an agent answers. The others would let anyone who may broadcast, Flower's user included,
#: end it, stop its consumer, or drop tasks.
_HARMLESS: Final = frozenset(
    {
        *("ping", "hello", "heartbeat", "clock", "enable_events", "stats", "report", "conf"),
        *("active", "reserved", "scheduled", "registered", "active_queues", "query_task", "revoked"),
    }
)

#: Seconds that an agent waits for free file descriptors before it exits, and seconds between attempts.
_SHORTAGE_SECONDS: Final = 60.0
_AGAIN_SECONDS: Final = 0.5

#: Called with the raw message and the reason of its refusal.
Refuse = Callable[[Any, str], None]


class _RefusedMessageError(ValueError):
    """Raised while a message is read, so that Celery does not get it."""

    def __init__(self, raw: Any, reason: str) -> None:
        super().__init__(reason)
        self.raw = raw


class CheckedRequest(Request):  # type: ignore[misc]
    """A task's request.

    An unreadable one is refused and acknowledged, which removes it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
            check_parts(self._payload)
        except MALFORMED_ERRORS as error:
            raise InvalidTaskError(f"its body or a header cannot be read ({type(error).__name__})") from None


class CheckedConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer with a check of every message before Celery reads it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Before Celery's consumer steps, which copy the control commands and tasks.
        _refuse_harm(kwargs["app"])
        super().__init__(*args, **kwargs)

    def start(self) -> None:
        """Consume until the worker ends.

        Without free files the agent exits with code 75.
        """
        try:
            super().start()
        except BaseException as error:
            if not is_own_shortage(error):
                raise
            exit_out_of_files()

    def connection_for_read(self, heartbeat: Any = None) -> Any:
        """Connect to the broker; during a shortage of files retry for up to 60 s."""
        deadline = time.monotonic() + _SHORTAGE_SECONDS
        while True:
            try:
                return self._connect(heartbeat)
            except Exception as error:
                if not is_own_shortage(error) or time.monotonic() > deadline:
                    raise
            maybe_shutdown()
            time.sleep(_AGAIN_SECONDS)

    def _connect(self, heartbeat: Any) -> Any:
        connection = self.app.connection_for_read(heartbeat=heartbeat)
        # Called for each connection, so also after a failover to an alternate broker.
        connection.get_transport_cls = partial(
            _checked_transport, connection.get_transport_cls, self.refuse_message
        )
        return self.ensure_connected(connection)

    def refuse_message(self, raw: Any, reason: str) -> None:
        """Log the refusal of a message.

        Store a FAILURE for its sender if its task id is readable.
        """
        self._refuse(sender_of(raw), reason)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        super().on_invalid_task(body, message, exc)
        self._refuse(_sender_of(message), _reason(exc))

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        super().on_decode_error(message, exc)
        self._refuse(_sender_of(message), _reason(exc))

    def _refuse(self, sender: Sender, reason: str) -> None:
        logs.event(
            logger,
            logging.ERROR,
            "message_refused",
            f"a message on a task queue is refused: {reason}",
            task_id=sender.task_id or None,
            task=sender.task or None,
            origin=sender.origin or None,
        )
        if sender.task_id and sender.expects_result:
            _store_refusal(self.app, sender, reason)


def _store_refusal(app: Any, sender: Sender, reason: str) -> None:
    """Store the refusal as the task's result, unless the task has one.

    A forged message may have another task's id, so a stored result or state is never replaced.
    """
    backend = app.backend
    error = InvalidPayloadError(f"{sender.task or 'this task'} was refused by the host agent: {reason}")
    try:
        if not backend.client.exists(backend.get_key_for_task(sender.task_id)):
            backend.store_result(sender.task_id, error, states.FAILURE)
    except Exception as problem:
        logs.event(logger, logging.WARNING, "result_store_failed", str(problem), task_id=sender.task_id)


def _sender_of(message: Any) -> Sender:
    return sender_of({"headers": message.headers, "properties": message.properties})


def _reason(error: Exception) -> str:
    return f"{str(error)[:_MAX_REASON]}: send it with Celery's protocol 2 and the json serializer"


def _refuse_harm(app: Any) -> None:
    """Remove harmful control commands and Celery's built-in tasks."""
    for name in set(control.Panel.data) - _HARMLESS:
        del control.Panel.data[name]
    app.Task.Request = f"{__name__}:{CheckedRequest.__name__}"
    # These tasks unpack other tasks from their arguments, or resend themselves until a condition holds.
    app.finalize()
    for name in [name for name in app.tasks if name.startswith("celery.")]:
        del app.tasks[name]


def _checked_transport(transport: Callable[[], type[Any]], refuse: Refuse) -> type[Any]:
    """Return a transport class that checks messages from task queues."""
    base = transport()

    class CheckedMessage(base.Channel.Message):  # type: ignore[misc, name-defined]
        """A message that its channel has read and checked."""

        def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
            if channel.from_queue:
                try:
                    payload = checked_message(payload)
                except MALFORMED_ERRORS as error:
                    raise _RefusedMessageError(payload, _checked_reason(error)) from None
            super().__init__(payload, channel=channel, **options)

    class CheckedChannel(base.Channel):  # type: ignore[misc, name-defined]
        """A channel that refuses an invalid item instead of ending its consumer."""

        Message = CheckedMessage
        #: Whether the channel reads from a queue; broadcasts arrive by another method.
        from_queue = False

        def _brpop_read(self, **options: Any) -> Any:
            self.from_queue = True
            try:
                return super()._brpop_read(**options)
            except _RefusedMessageError as refused:
                refuse(refused.raw, str(refused))
            except MALFORMED_ERRORS as error:
                refuse(None, _checked_reason(error))
            finally:
                self.from_queue = False
            raise Empty

    return type("CheckedTransport", (base,), {"Channel": CheckedChannel})


def _checked_reason(error: BaseException) -> str:
    # The checks raise plain ValueErrors, whose texts contain no value of the message.
    if type(error) is ValueError:
        return str(error)[:_MAX_REASON]
    return f"it is not a task's message ({type(error).__name__})"
