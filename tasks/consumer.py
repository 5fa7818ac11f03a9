"""The consumer of a host agent: it refuses messages that would do harm, and tells their senders so.

Celery's setting `worker_consumer` names the class, so that only a Celery worker of this app uses it. The connection that
it reads tasks from gets its own transport class: every other connection of the process, and every process that only
imports `tasks`, keeps kombu's.
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
from tasks.messages import NONSENSE, Sent, check_parts, checked_message, sent_by

logger: Final = logging.getLogger(__name__)

#: Characters of a reason.
_MAX_REASON: Final = 300

#: Broadcasts that an agent answers. The others would end it, make it deaf, or drop tasks, at the word of anyone who may
#: broadcast, Flower's user included.
_HARMLESS: Final = frozenset(
    {
        *("ping", "hello", "heartbeat", "clock", "enable_events", "stats", "report", "conf"),
        *("active", "reserved", "scheduled", "registered", "active_queues", "query_task", "revoked"),
    }
)

#: Seconds for which an agent waits for free files before it ends, and seconds between two tries.
_SHORT_SECONDS: Final = 60.0
_AGAIN_SECONDS: Final = 0.5

#: Called with a message as it was read, and why it is refused.
Refuse = Callable[[Any, str], None]


class _RefusedMessageError(ValueError):
    """Raised while a message is read, to keep it from Celery."""

    def __init__(self, raw: Any, reason: str) -> None:
        super().__init__(reason)
        self.raw = raw


class CheckedRequest(Request):  # type: ignore[misc]
    """A task's request; one that cannot be read is refused and acknowledged, so that it is gone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
            check_parts(self._payload)
        except NONSENSE as error:
            raise InvalidTaskError(f"its body or a header cannot be read ({type(error).__name__})") from None


class CheckedConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, with every message checked before Celery reads it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # First: Celery's own steps of the consumer take the control commands and the tasks as they find them.
        _refuse_harm(kwargs["app"])
        super().__init__(*args, **kwargs)

    def start(self) -> None:
        """Consume until the worker ends. Without free files Celery ends with a traceback; this agent ends with code 75."""
        try:
            super().start()
        except BaseException as error:
            if not is_own_shortage(error):
                raise
            exit_out_of_files()

    def connection_for_read(self, heartbeat: Any = None) -> Any:
        """Connect to the broker; a shortage of files is waited out for a while."""
        deadline = time.monotonic() + _SHORT_SECONDS
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
        # Asked each time the connection is made, so also after it went on to an alternate broker.
        connection.get_transport_cls = partial(
            _checked_transport, connection.get_transport_cls, self.refuse_message
        )
        return self.ensure_connected(connection)

    def refuse_message(self, raw: Any, reason: str) -> None:
        """Log that a message is refused, and give its sender a FAILURE if its task id can be read."""
        self._refuse(sent_by(raw), reason)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        super().on_invalid_task(body, message, exc)
        self._refuse(_sent(message), _reason(exc))

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        super().on_decode_error(message, exc)
        self._refuse(_sent(message), _reason(exc))

    def _refuse(self, sent: Sent, reason: str) -> None:
        logs.event(
            logger,
            logging.ERROR,
            "message_refused",
            f"a message on a task queue is refused: {reason}",
            task_id=sent.task_id or None,
            task=sent.task or None,
            origin=sent.origin or None,
        )
        if sent.task_id and sent.wants_result:
            _store_refusal(self.app, sent, reason)


def _store_refusal(app: Any, sent: Sent, reason: str) -> None:
    """Store the refusal as the task's result, unless there is a result.

    Its id may be another task's, chosen by a forger: whatever is stored of a task, also that it has begun, stays.
    """
    backend = app.backend
    error = InvalidPayloadError(f"{sent.task or 'this task'} was refused by the host agent: {reason}")
    try:
        if not backend.client.exists(backend.get_key_for_task(sent.task_id)):
            backend.store_result(sent.task_id, error, states.FAILURE)
    except Exception as problem:
        logs.event(logger, logging.WARNING, "answer_failed", str(problem), task_id=sent.task_id)


def _sent(message: Any) -> Sent:
    return sent_by({"headers": message.headers, "properties": message.properties})


def _reason(error: Exception) -> str:
    return f"{str(error)[:_MAX_REASON]}: send it with Celery's protocol 2 and the json serializer"


def _refuse_harm(app: Any) -> None:
    """Take away what no sender may have this agent do: control commands, and Celery's own tasks."""
    for name in set(control.Panel.data) - _HARMLESS:
        del control.Panel.data[name]
    app.Task.Request = f"{__name__}:{CheckedRequest.__name__}"
    # They unpack other tasks from their arguments, or send themselves again until something has happened.
    app.finalize()
    for name in [name for name in app.tasks if name.startswith("celery.")]:
        del app.tasks[name]


def _checked_transport(transport: Callable[[], type[Any]], refuse: Refuse) -> type[Any]:
    """Return a subclass of the connection's transport whose channels check what they read from task queues."""
    base = transport()

    class CheckedMessage(base.Channel.Message):  # type: ignore[misc, name-defined]
        """A message as its channel makes it of what was read."""

        def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
            if channel.from_queue:
                try:
                    payload = checked_message(payload)
                except NONSENSE as error:
                    raise _RefusedMessageError(payload, _checked_reason(error)) from None
            super().__init__(payload, channel=channel, **options)

    class CheckedChannel(base.Channel):  # type: ignore[misc, name-defined]
        """A channel that refuses an item which is not a task's message, instead of ending its consumer."""

        Message = CheckedMessage
        #: Whether what is read comes from a queue; broadcasts come another way.
        from_queue = False

        def _brpop_read(self, **options: Any) -> Any:
            self.from_queue = True
            try:
                return super()._brpop_read(**options)
            except _RefusedMessageError as refused:
                refuse(refused.raw, str(refused))
            except NONSENSE as error:
                refuse(None, _checked_reason(error))
            finally:
                self.from_queue = False
            raise Empty

    return type("CheckedTransport", (base,), {"Channel": CheckedChannel})


def _checked_reason(error: BaseException) -> str:
    # The checks' own reasons are ValueErrors without a value of the message in them.
    if type(error) is ValueError:
        return str(error)[:_MAX_REASON]
    return f"it is not a message of a task ({type(error).__name__})"
