"""The credential of a stream's request, which is checked again while the stream is open."""

from collections.abc import Awaitable, Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from manager.api.auth import COOKIE
from manager.api.parts import ApiParts
from manager.api.problems import ProblemError
from manager.errors import FleetUnavailableError

#: Returns whether the sender of an accepted request may still read.
Recheck = Callable[[], Awaitable[bool]]


def credential_of(connection: HTTPConnection, *, cookie_allowed: bool) -> tuple[str, bool]:
    """Return the credential of a request, and whether it is a session's cookie. Raises ProblemError."""
    scheme, _, text = connection.headers.get("authorization", "").partition(" ")
    cookie = connection.cookies.get(COOKIE, "")
    if scheme.lower() == "bearer":
        return text.strip(), False
    if cookie and not scheme and cookie_allowed:
        return cookie, True
    raise ProblemError("unauthenticated", "send Authorization: Bearer, or a session's cookie with an Origin")


def recheck_of(connection: HTTPConnection, parts: ApiParts) -> Recheck:
    """Return what checks again that the sender of an accepted request may read."""
    credential, session = credential_of(connection, cookie_allowed=True)
    check = parts.authenticator.by_session if session else parts.authenticator.by_token

    async def recheck() -> bool:
        try:
            principal = await run_in_threadpool(check, credential)
        except ProblemError:
            return False
        except FleetUnavailableError:
            return True  # Redis is away: the stream says so, and no new client is accepted meanwhile
        return principal.allows("read")

    return recheck
