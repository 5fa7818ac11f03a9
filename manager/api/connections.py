"""HTTP connections of the server, with limits so that slow and idle ones do not block others.

uvicorn limits the time between two requests, but not the time in which a request or an answer is transferred.
"""

import asyncio
import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from manager.api.problems import MEDIA_TYPE, ProblemError, problem_body
from manager.api.rendering import to_json

#: Seconds in which a whole request must arrive, from a new connection or from its first byte.
REQUEST_SECONDS: Final = 30.0
#: Seconds in which a client must read some of an answer.
STALL_SECONDS: Final = 30.0
#: Maximum connections without a whole request; the one that has been idle longest is closed for a new one.
MOST_IDLE: Final = 1000
#: Seconds between two log lines with the same text.
_REPEAT_SECONDS: Final = 60.0
#: Maximum bytes of a request's head, and maximum requests that wait for the answer to an earlier one.
MAX_HEAD: Final = 64 * 1024
_PIPELINED: Final = 16
_END: Final = b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout" + _END
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large" + _END


class IdleConnections:
    """Connections that wait for a whole request, the one that waits longest first."""

    def __init__(self, most: int = MOST_IDLE) -> None:
        self._most = most
        self._found: OrderedDict[Connection, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def add(self, connection: "Connection") -> None:
        """Add a connection; if there are too many, the first one is closed."""
        self._found.setdefault(connection)
        if len(self._found) > self._most:
            oldest, _ = self._found.popitem(last=False)
            oldest.drop()

    def discard(self, connection: "Connection") -> None:
        self._found.pop(connection, None)


class Connection(HttpToolsProtocol):
    """A connection that ends when its client is too slow.

    A client that sends only a part of a request gets status 408.
    """

    request_seconds: ClassVar[float] = REQUEST_SECONDS
    stall_seconds: ClassVar[float] = STALL_SECONDS
    idle: ClassVar[IdleConnections]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._received = False
        #: Bytes since the last part of a request that was read as a whole.
        self._unread = 0
        self._running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        self._end_answer()
        if self._stall is not None:
            self._stall.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.timeout_keep_alive_task is not None:
            self._unwatch()  # the first bytes of the next request
        self._received = True
        self._unread += len(data)
        super().data_received(data)
        if self.transport.get_protocol() is not self:
            return
        if self._unread > MAX_HEAD and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP with a problem, and close the connection."""
        body = to_json(problem_body(ProblemError("malformed_request", msg), "", ""))
        head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        self.transport.close()

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= _PIPELINED:
            raise ValueError("too many requests wait for their answers")  # answered with status 400
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._unread = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread = 0
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._unwatch()
        super().handle_websocket_upgrade()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._received = False
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(self.stall_seconds, self.drop)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch()

    def drop(self) -> None:
        """End the connection at once, also if its client does not read."""
        self._unwatch()
        self._end_answer()
        self.transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _end_answer(self) -> None:
        """Discard the rest of the answer that is being sent.

        uvicorn discards only the answer to the last request. It would write an answer to an earlier one to a
        closed connection.
        """
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def _watch(self) -> None:
        """Begin or end the time in which the next request must arrive."""
        if self.parser is None:  # the connection is lost
            return
        if self.transport.is_closing():
            self._unwatch()
            if self._stall is None:
                # It stays open until the client has read the rest of the answer.
                self._stall = self.loop.call_later(self.stall_seconds, self.drop)
        elif self._answers():
            self._unwatch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.request_seconds, self._too_slow)
            self.idle.add(self)

    def _unwatch(self) -> None:
        self.idle.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _answers(self) -> bool:
        """Return whether a request has arrived as a whole and is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    def _too_slow(self) -> None:
        self._deadline = None
        begun = self.cycle is not None and not self.cycle.response_complete
        if self._received and not begun and not self.transport.is_closing():
            self.transport.write(_TOO_SLOW)
        self.transport.close()
        self._watch()


def connection_class(
    idle: IdleConnections | None = None,
    request_seconds: float = REQUEST_SECONDS,
    stall_seconds: float = STALL_SECONDS,
) -> type[Connection]:
    """Return the protocol class of one server, whose connections count together."""
    members = {
        "idle": idle or IdleConnections(_most_idle()),
        "request_seconds": request_seconds,
        "stall_seconds": stall_seconds,
    }
    return type("ServerConnection", (Connection,), members)


def _most_idle() -> int:
    """Return MOST_IDLE, or less where this process may open only few files."""
    if sys.platform == "win32":
        return MOST_IDLE
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_IDLE if soft == resource.RLIM_INFINITY else max(1, min(MOST_IDLE, soft // 2))


class OncePerMinute(logging.Filter):
    """Passes a log line once a minute: clients without a token can cause as many as they send requests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._passed: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text, now = record.getMessage(), self._clock()
        if record.levelno >= logging.ERROR:
            return True
        if now - self._passed.get(text, -_REPEAT_SECONDS) < _REPEAT_SECONDS:
            return False
        if len(self._passed) > 100:
            self._passed.clear()
        self._passed[text] = now
        return True
