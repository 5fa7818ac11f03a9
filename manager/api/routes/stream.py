"""Routes for events: pages, SSE and WebSocket.

Each continues after a cursor, without loss or repetition.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Final, Self

from fastapi import APIRouter, Header, Path, Query, Request
from pydantic import BaseModel, Field, JsonValue, StringConstraints
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from manager.api.access import Reader, readable
from manager.api.auth import Principal
from manager.api.models import EventPage
from manager.api.pages import Text
from manager.api.parts import ApiParts, Parts, principal_of
from manager.api.recheck import Recheck, recheck_of
from manager.api.rendering import answer, to_json
from manager.api.stream.connection import StreamTimes
from manager.api.stream.hub import Hub
from manager.api.stream.scope import EventScope
from manager.errors import CursorGoneError, FleetUnavailableError, InvalidCursorError
from manager.fleet.cursors import Cursor, Position
from manager.fleet.event_types import Event
from manager.placement.labels import Selection
from manager.telemetry.fleet_reader import FleetListing
from manager.telemetry.view import ViewUpdate

router = APIRouter(tags=["streams"])

#: Seconds after which a waiting reader reads again without an update, as after an outage of Redis.
_REREAD_SECONDS: Final = 1.0
#: Milliseconds after which an SSE client connects again.
_RETRY_MS: Final = 2000


#: Maximum number of account ids: a URL with them must fit the 64 KiB that the server reads.
_ACCOUNTS: Final = 500
_AccountId = Annotated[str, StringConstraints(min_length=1, max_length=64)]
#: For the document only. The code that reads cursors checks them, because a wrong one has its own error code.
_CURSOR: Final[dict[str, JsonValue]] = {"pattern": r"^([0-9a-f]{8}:)?([0-9]{1,19}(-[0-9]{1,19})?|\$)$"}
#: An empty header counts as none.
_LAST_EVENT: Final[dict[str, JsonValue]] = {"pattern": r"^(([0-9a-f]{8}:)?([0-9]{1,19}(-[0-9]{1,19})?|\$))?$"}


class AccountEventQuery(BaseModel):
    """Which events of one account, and after which one."""

    model_config = {"extra": "forbid"}

    after: Annotated[
        str,
        Field(
            max_length=60,
            description="A cursor; `0`: the oldest kept; `$`: only what comes.",
            json_schema_extra=_CURSOR,
        ),
    ] = "0"
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    type: Annotated[list[Text], Field(max_length=100, description="Types, `worker.*`.")] = []
    wait: Annotated[float, Field(ge=0, le=60, description="Seconds to wait for the first event.")] = 0.0


class EventQuery(AccountEventQuery):
    """Which events, and after which one."""

    account: Annotated[list[_AccountId], Field(max_length=_ACCOUNTS)] = []
    group: Annotated[list[Text], Field(max_length=100, description="Of any of these groups.")] = []


class StreamQuery(BaseModel):
    """Which events of an SSE stream."""

    model_config = {"extra": "forbid"}

    after: Annotated[Annotated[str, Field(max_length=60, json_schema_extra=_CURSOR)] | None, Field()] = None
    type: Annotated[list[Text], Field(max_length=100)] = []
    account: Annotated[list[_AccountId], Field(max_length=_ACCOUNTS)] = []
    group: Annotated[list[Text], Field(max_length=100)] = []


def _scope(query: EventQuery | StreamQuery, principal: Principal) -> EventScope:
    return EventScope(
        types=query.type,
        accounts=query.account or None,
        select=Selection(tuple(query.group)),
        readable=principal.readable,
    )


@router.get("/events", response_model=EventPage)
async def events(
    request: Request, parts: Parts, principal: Reader, query: Annotated[EventQuery, Query()]
) -> Response:
    """Return events after a cursor, oldest first; `next` continues exactly there.

    A request that waits counts as an open stream.
    """
    return await _page(request, parts, query, _scope(query, principal))


@router.get("/accounts/{account_id}/events", response_model=EventPage)
async def account_events(
    request: Request,
    parts: Parts,
    principal: Reader,
    account_id: Annotated[str, Path(min_length=1, max_length=255)],
    query: Annotated[AccountEventQuery, Query()],
) -> Response:
    """Return events of one account after a cursor, oldest first; `next` continues exactly there."""
    readable(principal, await parts.state(), account_id)
    scope = EventScope(
        types=query.type, accounts=[account_id], select=Selection(), readable=principal.readable
    )
    return await _page(request, parts, query, scope)


async def _page(request: Request, parts: ApiParts, query: AccountEventQuery, scope: EventScope) -> Response:
    """Return a page; waits for its first event until the client leaves or the time is over."""
    stream = parts.require_events()
    cursor = await run_in_threadpool(stream.cursor, query.after)
    clock = asyncio.get_running_loop().time
    deadline = clock() + query.wait
    place = parts.streams.place(principal_of(request).key) if query.wait else contextlib.nullcontext()
    with place, _Waker(parts.hub) as waker:
        while True:
            waker.clear()
            state = await parts.state() if scope.needs_state else None
            only, until = scope.filter(state), None if state is None else _newest(state, cursor.stream)
            page = await run_in_threadpool(stream.page, cursor, count=query.limit, only=only, until=until)
            if page.events or clock() >= deadline or await request.is_disconnected():
                break
            cursor = page.cursor
            await waker.wait(min(deadline - clock(), _REREAD_SECONDS))
    return answer({"items": [one.to_dict() for one in page.events], "next": str(page.cursor)})


def _newest(state: FleetListing, stream: str) -> Position | None:
    """Return the position of the last event in a state; None if it is of another stream.

    A selection is judged by the state, so later events have to wait: one of them may bring its account into
    the selection.
    """
    try:
        found = Cursor.parse(state.cursor)
    except InvalidCursorError:
        return None
    return found.position if found.stream == stream else None


class _Waker:
    """Wakes one reader of events for updates of the view."""

    def __init__(self, hub: Hub | None) -> None:
        """Without a hub, `wait` only waits."""
        self._hub = hub
        self._event = asyncio.Event()

    def __enter__(self) -> Self:
        if self._hub is not None:
            self._hub.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._hub is not None:
            self._hub.remove(self)

    def updated(self, update: ViewUpdate) -> None:
        """See `manager.api.stream.hub.Listener`."""
        if update.events or update.lost:
            self._event.set()

    def clear(self) -> None:
        self._event.clear()

    async def wait(self, seconds: float) -> None:
        """Return after the next update with events, or after `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()


class _EventStreamResponse(StreamingResponse):
    """Calls `leave` when the stream ends, also if its client left before it began."""

    def __init__(self, frames: AsyncIterator[bytes], leave: Callable[[], None]) -> None:
        super().__init__(frames, media_type="text/event-stream")
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


@router.get(
    "/events/stream",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}},
        400: {"description": "Not a request of HTTP.", "content": {"text/plain": {}}},
    },
)
async def event_stream(
    request: Request,
    parts: Parts,
    principal: Reader,
    query: Annotated[StreamQuery, Query()],
    last_event_id: Annotated[
        Annotated[str, Field(max_length=60, json_schema_extra=_LAST_EVENT)] | None, Header()
    ] = None,
) -> StreamingResponse:
    """Send events as server-sent events, from now on or after `Last-Event-ID` or `after`."""
    hub = parts.require_hub()
    gone = None
    try:
        cursor = await hub.cursor(last_event_id or query.after or "$")
    except CursorGoneError as error:
        gone, cursor = error, Cursor.parse(error.oldest)
    reader = _SseReader(request, hub, cursor, _scope(query, principal), parts.stream_times, gone)
    parts.streams.enter(principal.key)
    return _EventStreamResponse(
        reader.frames(recheck_of(request, parts)), lambda: parts.streams.leave(principal.key)
    )


class _SseReader:
    """One client of server-sent events."""

    def __init__(
        self,
        request: Request,
        hub: Hub,
        cursor: Cursor,
        scope: EventScope,
        times: StreamTimes,
        gone: CursorGoneError | None,
    ) -> None:
        """`gone` says that events after the client's own cursor are no longer kept."""
        self._request = request
        self._hub = hub
        self._cursor = cursor
        self._scope = scope
        self._times = times
        self._gone = gone

    async def frames(self, still_valid: Recheck) -> AsyncIterator[bytes]:
        """Yield events until the client leaves, its token ends, or its cursor is gone."""
        clock = asyncio.get_running_loop().time
        sent_at = checked_at = clock()
        yield f"retry: {_RETRY_MS}\n\n".encode()
        with _Waker(self._hub) as waker:
            while not await self._request.is_disconnected():
                waker.clear()
                try:
                    if self._gone is not None:
                        raise self._gone
                    found = await self._next()
                except CursorGoneError as gone:
                    yield b"event: gone\ndata: " + to_json({"oldest": gone.oldest}) + b"\n\n"
                    return
                if found:
                    sent_at = clock()
                    yield b"".join(found)
                    continue
                if clock() - checked_at >= self._times.check:
                    checked_at = clock()
                    if not await still_valid():
                        return
                if clock() - sent_at >= self._times.bookmark:
                    sent_at = clock()
                    yield f": bookmark {self._cursor}\nid: {self._cursor}\n\n".encode()
                due = min(sent_at + self._times.bookmark, checked_at + self._times.check)
                await waker.wait(max(0.001, min(due - clock(), _REREAD_SECONDS)))

    async def _next(self) -> list[bytes]:
        """Return the next events that the client asked for. Raises CursorGoneError."""
        while True:
            try:
                found = await self._hub.events_after(self._cursor)
                # After the events: an event may itself bring its account into the selection.
                only = await self._scope.current(self._hub)
            except FleetUnavailableError:
                return []
            sent = []
            for one in found:
                self._cursor = Cursor(self._cursor.stream, one.position)
                if only.matches(one.event):
                    sent.append(_sse_event(self._cursor, one.event, one.json))
            if sent or not found:
                return sent


def _sse_event(cursor: Cursor, event: Event, data: bytes) -> bytes:
    # A type comes from Redis; a line break in it would begin another field.
    kind = "".join(event.type.split())
    return f"id: {cursor}\nevent: {kind}\ndata: ".encode() + data + b"\n\n"
