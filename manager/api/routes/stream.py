"""Events by page, by SSE and by WebSocket. Every one continues after a cursor, without loss or repetition."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Header, Path, Query, Request, WebSocket
from pydantic import BaseModel, Field, JsonValue, StringConstraints
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from manager.api.access import Reader, readable
from manager.api.auth import COOKIE, Principal
from manager.api.gate import host_name
from manager.api.models import EventPage
from manager.api.pages import Text
from manager.api.parts import ApiParts, Parts
from manager.api.problems import ProblemError
from manager.api.rendering import answer, to_json
from manager.api.routes.records import batch_summary
from manager.api.stream.connection import CLOSE_UNAUTHENTICATED, Connection
from manager.api.stream.hub import Hub
from manager.api.stream.topics import BOOKMARK_SECONDS
from manager.errors import CursorGoneError, FleetUnavailableError, ManagerError
from manager.fleet.cursors import Cursor
from manager.fleet.event_types import Event, EventFilter
from manager.telemetry.fleet_reader import FleetListing
from manager.telemetry.view import ViewUpdate

router = APIRouter(tags=["streams"])

#: The WebSocket subprotocol.
SUBPROTOCOL: Final = "manager.v1"
CLOSE_TOO_MANY: Final = 4029
CLOSE_FORBIDDEN: Final = 4003
#: Milliseconds after which an SSE client connects again.
_RETRY_MS: Final = 2000


#: Of account ids so many that a URL of them is below the 64 KiB that the server reads.
_ACCOUNTS: Final = 500
_AccountId = Annotated[str, StringConstraints(min_length=1, max_length=64)]
#: Documented, but checked where cursors are read: a wrong one has a code of its own.
_CURSOR: Final[dict[str, JsonValue]] = {"pattern": r"^([0-9a-f]{8}:)?([0-9]{1,19}(-[0-9]{1,19})?|\$)$"}
#: An empty header is as good as none.
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


def _only(query: EventQuery | StreamQuery, state: FleetListing | None, principal: Principal) -> EventFilter:
    """Return the filter of a query; groups and a token's selection count as they are now."""
    accounts = frozenset(query.account) if query.account else None
    if state is not None and (query.group or principal.readable):
        inside = {
            one.account_id
            for one in state.accounts.values()
            if one.within(principal.readable) and (not query.group or set(query.group) & set(one.groups))
        }
        accounts = frozenset(inside if accounts is None else accounts & inside)
    return EventFilter(types=tuple(query.type), accounts=accounts)


async def _state_for(
    parts: ApiParts, query: EventQuery | StreamQuery, principal: Principal
) -> FleetListing | None:
    return await parts.state() if query.group or principal.readable else None


@router.get("/events", response_model=EventPage)
async def events(parts: Parts, principal: Reader, query: Annotated[EventQuery, Query()]) -> Response:
    """Return events after a cursor, oldest first; `next` continues exactly there."""
    only = _only(query, await _state_for(parts, query, principal), principal)
    return await _page(parts, query, only)


@router.get("/accounts/{account_id}/events", response_model=EventPage)
async def account_events(
    parts: Parts,
    principal: Reader,
    account_id: Annotated[str, Path(min_length=1, max_length=255)],
    query: Annotated[AccountEventQuery, Query()],
) -> Response:
    """Return events of one account after a cursor, oldest first; `next` continues exactly there."""
    readable(principal, await parts.state(), account_id)
    return await _page(parts, query, EventFilter(types=tuple(query.type), accounts=frozenset({account_id})))


async def _page(parts: ApiParts, query: AccountEventQuery, only: EventFilter) -> Response:
    stream = parts.require_events()
    cursor = await run_in_threadpool(stream.cursor, query.after)
    deadline = asyncio.get_running_loop().time() + query.wait
    while True:
        page = await run_in_threadpool(stream.page, cursor, count=query.limit, only=only)
        left = deadline - asyncio.get_running_loop().time()
        if page.events or left <= 0:
            break
        waited = await run_in_threadpool(stream.next, page.cursor, wait_seconds=min(left, 1.0))
        cursor = page.cursor if waited.events else waited.cursor
    return answer({"items": [one.to_dict() for one in page.events], "next": str(page.cursor)})


class _Waker:
    """Wakes an SSE stream for every update of the view."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def updated(self, update: ViewUpdate) -> None:
        if update.events or update.lost:
            self.event.set()


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
    only = _only(query, await _state_for(parts, query, principal), principal)
    asked = last_event_id or query.after
    cursor = await hub.cursor(asked or "$")
    parts.streams.enter(principal.key)
    return StreamingResponse(
        _sse(request, hub, cursor, only, lambda: parts.streams.leave(principal.key)),
        media_type="text/event-stream",
    )


async def _sse(
    request: Request, hub: Hub, cursor: Cursor, only: EventFilter, leave: Any
) -> AsyncIterator[bytes]:
    waker = _Waker()
    hub.add(waker)
    try:
        yield f"retry: {_RETRY_MS}\n\n".encode()
        while not await request.is_disconnected():
            waker.event.clear()
            try:
                found = await hub.events_after(cursor)
            except CursorGoneError as gone:
                yield b"event: gone\ndata: " + to_json({"oldest": gone.oldest}) + b"\n\n"
                return
            except FleetUnavailableError:
                found = ()
            for one in found:
                cursor = Cursor(cursor.stream, one.position)
                if only.matches(one.event):
                    yield _sse_event(cursor, one.event, one.json)
            if found:
                continue
            try:
                await asyncio.wait_for(waker.event.wait(), BOOKMARK_SECONDS)
            except TimeoutError:
                yield f": bookmark {cursor}\nid: {cursor}\n\n".encode()
    finally:
        hub.remove(waker)
        leave()


def _sse_event(cursor: Cursor, event: Event, data: bytes) -> bytes:
    return f"id: {cursor}\nevent: {event.type}\ndata: ".encode() + data + b"\n\n"


@router.websocket("/stream")
async def stream(socket: WebSocket) -> None:
    """Serve a stream connection; see docs/reference/streams.md for its messages."""
    parts: ApiParts = socket.app.state.parts
    try:
        principal, recheck = await _who(socket, parts)
        hub = parts.require_hub()
        parts.streams.enter(principal.key)
    except (ProblemError, ManagerError) as error:
        code = error.code
        await socket.accept(subprotocol=_subprotocol(socket))
        closing = {"forbidden": CLOSE_FORBIDDEN, "csrf": CLOSE_FORBIDDEN, "rate_limited": CLOSE_TOO_MANY}
        await socket.close(closing.get(code, CLOSE_UNAUTHENTICATED), code)
        return
    try:
        await socket.accept(subprotocol=_subprotocol(socket))

        async def read_batch(batch_id: str) -> Any:
            record, result = await run_in_threadpool(parts.batches.batch_result, batch_id)
            return batch_summary(record, result)

        await Connection(socket, hub, principal, read_batch=read_batch, still_valid=recheck).serve()
    finally:
        parts.streams.leave(principal.key)


def _subprotocol(socket: WebSocket) -> str | None:
    return SUBPROTOCOL if SUBPROTOCOL in socket.scope.get("subprotocols", ()) else None


async def _who(socket: WebSocket, parts: ApiParts) -> tuple[Principal, Any]:
    """Return who connects, and what checks again that they may. Raises ProblemError.

    A browser sends its cookie with a connection that any page opened: only the Origin header tells that page.
    """
    headers = socket.headers
    if not parts.host_allowed(host_name(headers.get("host", ""))):
        raise ProblemError(
            "unknown_host", "the Host header names a host that this server does not answer for"
        )
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        raise ProblemError("csrf", "a page of another origin may not open this stream")
    scheme, _, text = headers.get("authorization", "").partition(" ")
    cookie = socket.cookies.get(COOKIE, "")
    if scheme.lower() == "bearer":
        credential = text.strip()
        check: Callable[[str], Principal] = parts.authenticator.by_token
    elif cookie and origin is not None:
        credential, check = cookie, parts.authenticator.by_session
    else:
        raise ProblemError(
            "unauthenticated", "send Authorization: Bearer, or a session's cookie with an Origin"
        )
    principal = await run_in_threadpool(check, credential)
    principal.require("read")

    async def recheck() -> bool:
        try:
            await run_in_threadpool(check, credential)
        except ProblemError:
            return False
        except FleetUnavailableError:
            return True  # Redis is away: the view says so, and nobody is let in meanwhile
        return True

    return principal, recheck
