"""One WebSocket client: its subscriptions and its sending task."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from manager.api.auth import Principal
from manager.api.problems import ProblemError, problem_body, problem_of
from manager.api.rendering import utc
from manager.api.stream.hub import Hub
from manager.api.stream.messages import (
    MESSAGES,
    Ping,
    Subscribe,
    Unsubscribe,
    Visible,
    subscription_id,
)
from manager.api.stream.scope import EventScope
from manager.api.stream.topics import Accounts, Batch, Events, Frame, Hosts, Topic, frame
from manager.errors import CursorGoneError, FleetUnavailableError, ManagerError
from manager.fleet.cursors import Cursor
from manager.placement.labels import Selection
from manager.telemetry.view import ViewUpdate
from manager.versions import __version__

logger: Final = logging.getLogger(__name__)

#: Maximum subscriptions of one connection, and maximum bytes of one message from a client.
MAX_SUBSCRIPTIONS: Final = 20
MAX_MESSAGE: Final = 64 * 1024
#: Maximum number of unsent answers to a client's messages.
_MAX_ANSWERS: Final = 1_000
CLOSE_UNAUTHENTICATED: Final = 4001
CLOSE_TOO_SLOW: Final = 4008
CLOSE_TOO_LARGE: Final = 4013

#: Maximum number of wrong members that the answer to a message names.
_MAX_ERRORS: Final = 20

ReadBatch = Callable[[str], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTimes:
    """Intervals and timeouts of a stream, in seconds."""

    #: Interval without an event after which a bookmark reports the reader's new position.
    bookmark: float = 15.0
    #: Interval between two checks that the token is still valid.
    check: float = 15.0
    #: Timeout of sending one frame to a client.
    send: float = 30.0


class _TooSlowError(Exception):
    """Raised when a client does not receive a frame in time."""


class Connection:
    """Serves one client until it disconnects, loses its access, or is too slow."""

    def __init__(
        self,
        socket: WebSocket,
        hub: Hub,
        principal: Principal,
        *,
        read_batch: ReadBatch,
        still_valid: Callable[[], Awaitable[bool]],
        times: StreamTimes,
    ) -> None:
        self._socket = socket
        self._hub = hub
        self._principal = principal
        self._read_batch = read_batch
        self._still_valid = still_valid
        self._times = times
        self._topics: dict[str, Topic] = {}
        self._answers: deque[Frame] = deque()
        self._wake = asyncio.Event()
        self._stale: float | None = hub.stale_since

    async def serve(self) -> None:
        """Return once the connection has ended."""
        self._hub.add(self)
        hello = frame(
            "hello",
            version=__version__,
            view=str(self._hub.head or ""),
            server_time=utc(self._hub.view.as_of),
            limits={"subscriptions": MAX_SUBSCRIPTIONS, "message_bytes": MAX_MESSAGE},
        )
        self._answers.append(hello)
        if self._stale is not None:
            self._answers.append(frame("stale", since=self._stale_text()))
        tasks = [asyncio.create_task(step()) for step in (self._receive, self._send, self._check)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except _TooSlowError:
            await self._close(CLOSE_TOO_SLOW, self._position())
        except ProblemError as error:
            code = CLOSE_TOO_LARGE if error.code == "too_large" else CLOSE_UNAUTHENTICATED
            await self._close(code, error.code)
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass  # the client disconnected
        finally:
            self._hub.remove(self)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def updated(self, update: ViewUpdate) -> None:
        """See `manager.api.stream.hub.Listener`."""
        if (update.stale_since is None) != (self._stale is None):
            self._stale = update.stale_since
            self._answer(frame("fresh") if self._stale is None else frame("stale", since=self._stale_text()))
        for topic in self._topics.values():
            topic.updated(update)
            if topic.ready_at != float("inf"):
                self._wake.set()

    def _position(self) -> str:
        """Return the cursor of the slowest subscription: the client has all events until it."""
        cursors = [topic.cursor for topic in self._topics.values() if isinstance(topic, Events)]
        slowest = min(cursors, key=lambda cursor: cursor.position, default=self._hub.head)
        return str(slowest or "")

    def _stale_text(self) -> str | None:
        return utc(self._hub.view.as_of)

    def _answer(self, answer: Frame) -> None:
        self._answers.append(answer)
        self._wake.set()

    async def _receive(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if text is None:
                self._refuse(None, ProblemError("invalid_request", "a message is JSON in a text frame"))
            elif len(text) > MAX_MESSAGE:
                raise ProblemError("too_large", f"a message has at most {MAX_MESSAGE} bytes")
            else:
                await self._take_text(text)
            if len(self._answers) > _MAX_ANSWERS:
                raise _TooSlowError

    async def _take_text(self, text: str) -> None:
        try:
            message = MESSAGES.validate_json(text)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)[:_MAX_ERRORS]
            errors = [{"where": list(one["loc"]), "message": one["msg"]} for one in found]
            problem = ProblemError("invalid_request", "this message is not understood", errors=errors)
            self._refuse(subscription_id(text), problem)
            return
        try:
            await self._take(message)
        except ProblemError as error:
            self._refuse(getattr(message, "id", None), error)
        except ManagerError as error:
            self._refuse(getattr(message, "id", None), problem_of(error))

    def _refuse(self, asked_id: str | None, error: ProblemError) -> None:
        self._answer(frame("error", id=asked_id, problem=problem_body(error, "/api/v1/stream", "")))

    async def _take(self, message: Subscribe | Visible | Unsubscribe | Ping) -> None:
        if isinstance(message, Ping):
            self._answer(frame("pong", n=message.n))
        elif isinstance(message, Unsubscribe):
            self._topics.pop(message.id, None)
        elif isinstance(message, Visible):
            topic = self._topics.get(message.id)
            if not isinstance(topic, Accounts):
                raise ProblemError("not_found", f"no subscription {message.id!r} to accounts")
            topic.show(message.accounts)
            self._wake.set()
        else:
            if message.id not in self._topics and len(self._topics) >= MAX_SUBSCRIPTIONS:
                raise ProblemError(
                    "rate_limited", f"a connection has at most {MAX_SUBSCRIPTIONS} subscriptions"
                )
            self._topics[message.id] = await self._topic(message)
            self._wake.set()

    async def _topic(self, asked: Subscribe) -> Topic:
        if asked.topic == "accounts":
            lost = asked.after is not None and (await self._continue(asked.after))[1] is not None
            return Accounts(self._hub, asked, self._principal.readable, gone=lost)
        if asked.topic == "hosts":
            return Hosts(self._hub, asked)
        if asked.topic == "events":
            cursor, gone = await self._continue(asked.after)
            select = asked.select
            scope = EventScope(
                types=select.types,
                accounts=select.accounts,
                select=Selection(tuple(select.groups), tuple(select.labels)),
                readable=self._principal.readable,
            )
            return Events(self._hub, asked, cursor, scope, bookmark_seconds=self._times.bookmark, gone=gone)
        batch_id = asked.topic.partition(":")[2]
        await self._read_batch(batch_id)  # refuses an unknown batch
        return Batch(asked, lambda: self._read_batch(batch_id))

    async def _continue(self, after: str | None) -> tuple[Cursor, CursorGoneError | None]:
        """Return the cursor where a client continues, and the error if that is not the cursor it sent.

        Raises InvalidCursorError, FleetUnavailableError.
        """
        if after is None and self._hub.head is not None:
            return self._hub.head, None
        try:
            return await self._hub.cursor(after or "$"), None
        except CursorGoneError as gone:
            return Cursor.parse(gone.oldest), gone

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            ready_at = min((topic.ready_at for topic in self._topics.values()), default=float("inf"))
            wait = ready_at - loop.time()
            if not self._answers and wait > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if wait == float("inf") else wait):
                        await self._wake.wait()
            self._wake.clear()
            await self._send_answers()
            for topic in list(self._topics.values()):
                if topic.ready_at <= loop.time():
                    await self._send_topic(topic, loop.time())

    async def _send_answers(self) -> None:
        while self._answers:
            await self._transmit(self._answers.popleft())

    async def _send_topic(self, topic: Topic, now: float) -> None:
        try:
            async for one in topic.begin(now):
                if self._topics.get(topic.id) is not topic:
                    return  # the client unsubscribed during the send
                await self._transmit(one)
                await self._send_answers()
        except FleetUnavailableError:
            topic.retry(now)
        except ManagerError as error:
            self._topics.pop(topic.id, None)
            self._refuse(topic.id, problem_of(error))

    async def _transmit(self, one: Frame) -> None:
        try:
            async with asyncio.timeout(self._times.send):
                await self._socket.send_text(one.decode())
        except TimeoutError:
            raise _TooSlowError from None

    async def _check(self) -> None:
        """Raise ProblemError once the token or session is no longer valid."""
        while True:
            await asyncio.sleep(self._times.check)
            if not await self._still_valid():
                raise ProblemError("token_expired", "the token was revoked or has expired")

    async def _close(self, code: int, reason: str) -> None:
        if self._socket.application_state is not WebSocketState.DISCONNECTED:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._socket.close(code, reason[:120]), 1.0)
