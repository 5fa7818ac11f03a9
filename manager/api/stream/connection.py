"""One WebSocket client: its subscriptions, and the one task that sends to it."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from manager.api.auth import Principal
from manager.api.problems import ProblemError, problem_body, problem_of
from manager.api.rendering import utc
from manager.api.stream.hub import Hub
from manager.api.stream.messages import MESSAGES, Ping, Subscribe, Unsubscribe, Visible
from manager.api.stream.topics import Accounts, Batch, Events, Frame, Hosts, Topic, frame
from manager.errors import ManagerError
from manager.telemetry.view import ViewUpdate
from manager.versions import __version__

logger: Final = logging.getLogger(__name__)

#: Subscriptions of one connection, and bytes of one message from a client.
MAX_SUBSCRIPTIONS: Final = 20
MAX_MESSAGE: Final = 64 * 1024
#: Answers to a client's own messages that wait to be sent, at most.
_MAX_ANSWERS: Final = 1_000
#: Seconds in which changes are merged before they are sent.
_MERGE_SECONDS: Final = 0.1
#: Seconds that one frame may take to be sent.
_SEND_SECONDS: Final = 30.0
#: Seconds between two checks that the token still counts.
_CHECK_SECONDS: Final = 15.0

CLOSE_UNAUTHENTICATED: Final = 4001
CLOSE_TOO_SLOW: Final = 4008
CLOSE_TOO_LARGE: Final = 4013

ReadBatch = Callable[[str], Awaitable[Any]]


class _TooSlowError(Exception):
    """Raised when a client does not take what is sent."""


class Connection:
    """Serves one client until it leaves, its token ends, or it is too slow."""

    def __init__(
        self,
        socket: WebSocket,
        hub: Hub,
        principal: Principal,
        *,
        read_batch: ReadBatch,
        still_valid: Callable[[], Awaitable[bool]],
    ) -> None:
        self._socket = socket
        self._hub = hub
        self._principal = principal
        self._read_batch = read_batch
        self._still_valid = still_valid
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
            await self._close(CLOSE_TOO_SLOW, str(self._hub.head or ""))
        except ProblemError as error:
            code = CLOSE_TOO_LARGE if error.code == "too_large" else CLOSE_UNAUTHENTICATED
            await self._close(code, error.code)
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass  # it left
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
            if topic.updated(update) or topic.due != float("inf"):
                self._wake.set()

    def _stale_text(self) -> str | None:
        return utc(self._hub.view.as_of)

    def _answer(self, answer: Frame) -> None:
        self._answers.append(answer)
        self._wake.set()

    async def _receive(self) -> None:
        while True:
            text = await self._socket.receive_text()
            if len(text) > MAX_MESSAGE:
                raise ProblemError("too_large", f"a message has at most {MAX_MESSAGE} bytes")
            if len(self._answers) > _MAX_ANSWERS:
                raise _TooSlowError
            asked_id = None
            try:
                message = MESSAGES.validate_json(text)
                asked_id = getattr(message, "id", None)
                await self._take(message)
            except ValidationError as error:
                errors = [
                    {"where": list(one["loc"]), "message": one["msg"]}
                    for one in error.errors(include_url=False, include_input=False)
                ]
                self._refuse(
                    asked_id, ProblemError("invalid_request", "this message is not understood", errors=errors)
                )
            except ProblemError as error:
                self._refuse(asked_id, error)
            except ManagerError as error:
                self._refuse(asked_id, problem_of(error))

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
            return Accounts(self._hub, asked, self._principal.readable)
        if asked.topic == "hosts":
            return Hosts(self._hub, asked)
        if asked.topic == "events":
            cursor = self._hub.head if asked.after is None else await self._hub.cursor(asked.after)
            if cursor is None:
                cursor = await self._hub.cursor("$")
            state = await self._hub.state()
            readable = self._principal.readable

            def visible(account_id: str) -> bool:
                account = state.accounts.get(account_id)
                return account is not None and account.within(readable)

            return Events(self._hub, asked, cursor, visible if readable else None)
        batch_id = asked.topic.partition(":")[2]
        await self._read_batch(batch_id)  # an unknown one is refused now

        async def read() -> Any:
            return await self._read_batch(batch_id)

        return Batch(asked, read)

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = min((topic.due for topic in self._topics.values()), default=float("inf"))
            if not self._answers:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(
                        self._wake.wait(), None if due == float("inf") else max(0.0, due - loop.time())
                    )
            self._wake.clear()
            while self._answers:
                await self._transmit(self._answers.popleft())
            for topic in list(self._topics.values()):
                async for one in topic.frames(loop.time()):
                    await self._transmit(one)
                if self._answers:
                    break
            await asyncio.sleep(_MERGE_SECONDS if self._topics and not self._answers else 0)

    async def _transmit(self, one: Frame) -> None:
        try:
            await asyncio.wait_for(self._socket.send_text(one.decode()), _SEND_SECONDS)
        except TimeoutError:
            raise _TooSlowError from None

    async def _check(self) -> None:
        """Raise ProblemError once the token or session no longer counts."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            if not await self._still_valid():
                raise ProblemError("token_expired", "the token was revoked or has expired")

    async def _close(self, code: int, reason: str) -> None:
        if self._socket.application_state is not WebSocketState.DISCONNECTED:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._socket.close(code, reason[:120]), 1.0)
