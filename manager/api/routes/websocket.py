"""The WebSocket stream: who may open one, and how one is refused."""

import contextlib
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, WebSocket
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocketDisconnect

from manager.api.auth import Principal
from manager.api.gate import host_name, refuse_token_in_url
from manager.api.parts import ApiParts
from manager.api.problems import ProblemError, problem_body, problem_of
from manager.api.recheck import Recheck, credential_of, recheck_of
from manager.api.routes.records import batch_summary
from manager.api.stream.connection import CLOSE_UNAUTHENTICATED, Connection
from manager.api.stream.topics import frame
from manager.errors import ManagerError

router = APIRouter(tags=["streams"])

#: The WebSocket subprotocol.
SUBPROTOCOL: Final = "manager.v1"
CLOSE_TOO_MANY: Final = 4029
CLOSE_FORBIDDEN: Final = 4003
#: WebSocket's own "try again later".
CLOSE_UNAVAILABLE: Final = 1013
#: Code of a refusal → close code; others close as unauthenticated.
_CLOSING: Final = {
    "forbidden": CLOSE_FORBIDDEN,
    "csrf": CLOSE_FORBIDDEN,
    "unknown_host": CLOSE_FORBIDDEN,
    "rate_limited": CLOSE_TOO_MANY,
    "fleet_unavailable": CLOSE_UNAVAILABLE,
}
#: Seconds that a handshake waits while its address has tried too many unknown credentials.
_PATIENCE_SECONDS: Final = 5.0


@router.websocket("/stream")
async def stream(socket: WebSocket) -> None:
    """Serve a stream connection; see docs/reference/streams.md for its messages."""
    parts: ApiParts = socket.app.state.parts
    try:
        principal, recheck = await _who(socket, parts)
        hub = parts.require_hub()
        parts.streams.enter(principal.key)
    except (ProblemError, ManagerError) as error:
        await _refuse(socket, error if isinstance(error, ProblemError) else problem_of(error))
        return
    try:
        await socket.accept(subprotocol=_subprotocol(socket))

        async def read_batch(batch_id: str) -> Any:
            record, result = await run_in_threadpool(parts.batches.batch_result, batch_id)
            return batch_summary(record, result)

        await Connection(
            socket,
            hub,
            principal,
            read_batch=read_batch,
            still_valid=recheck,
            times=parts.stream_times,
        ).serve()
    finally:
        parts.streams.leave(principal.key)


async def _refuse(socket: WebSocket, error: ProblemError) -> None:
    """Accept the connection, send the problem, and close.

    A browser sees neither the status nor the body of a refused handshake.
    """
    problem = problem_body(error, socket.url.path, "")
    if "Retry-After" in error.headers:
        problem["retry_after"] = int(error.headers["Retry-After"])
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):  # it left
        await socket.accept(subprotocol=_subprotocol(socket))
        await socket.send_text(frame("error", id=None, problem=problem).decode())
        await socket.close(_CLOSING.get(error.code, CLOSE_UNAUTHENTICATED), error.code)


def _subprotocol(socket: WebSocket) -> str | None:
    return SUBPROTOCOL if SUBPROTOCOL in socket.scope.get("subprotocols", ()) else None


async def _who(socket: WebSocket, parts: ApiParts) -> tuple[Principal, Recheck]:
    """Return who connects, and what checks again that they may.

    A browser sends its cookie with a connection that any page opened: only the Origin header tells that page.
    Raises ProblemError, FleetUnavailableError.
    """
    headers = socket.headers
    if not parts.host_allowed(host_name(headers.get("host", ""))):
        raise ProblemError(
            "unknown_host", "the Host header names a host that this server does not answer for"
        )
    refuse_token_in_url(socket.url.path, socket.url.query)
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        raise ProblemError("csrf", "a page of another origin may not open this stream")
    credential, session = credential_of(socket, cookie_allowed=origin is not None)
    principal = await parts.admission.principal(
        credential,
        session=session,
        address=socket.client.host if socket.client else "unknown",
        wait_seconds=_PATIENCE_SECONDS,
    )
    principal.require("read")
    return principal, recheck_of(socket, parts)
