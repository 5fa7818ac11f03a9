"""Middleware that checks each request before its route runs.

It checks the host, the size, the media types, the credentials and cross-site requests. It adds headers, and
answers errors as problems.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manager.api.admission import Admission
from manager.api.auth import COOKIE, Authenticator, Principal
from manager.api.limits import RateLimiter
from manager.api.problems import ProblemError, new_request_id, problem_of, problem_response
from manager.errors import ManagerError
from manager.system import logs
from manager.versions import __version__

logger: Final = logging.getLogger(__name__)

#: Maximum bytes of a request's body.
MAX_BODY: Final = 1024 * 1024
PREFIX: Final = "/api/v1"
#: Paths that need no token.
OPEN: Final = frozenset(
    {
        *("/healthz", "/readyz", f"{PREFIX}/healthz", f"{PREFIX}/readyz"),
        "/docs/errors",
        f"{PREFIX}/openapi.json",
    }
)
PUSH: Final = f"{PREFIX}/config/push"
_SESSION: Final = f"{PREFIX}/session"
_UNSAFE: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_TOKEN: Final = re.compile(r"wm_[a-z0-9]{8}_[A-Za-z0-9_-]{20,}")
_TOKEN_IN_URL: Final = re.compile(rf"{_TOKEN.pattern}|(?:^|[?&])(?:access_)?token=")
_JSON: Final = ("*/*", "application/*", "application/json", "application/problem+json")
#: Paths that also answer with other media types.
_OTHER_MEDIA: Final = frozenset(
    {f"{PREFIX}/audit/export", f"{PREFIX}/events/stream", "/docs/errors", "/metrics"}
)

_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Manager-Version": __version__,
}


class Gate:
    """ASGI middleware that checks requests and completes responses.

    Sets `state.request_id` and `state.address`, and `state.principal` unless the path needs no token.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        authenticator: Authenticator,
        admission: Admission,
        limiter: RateLimiter,
        host_allowed: Callable[[str], bool],
        measure: Callable[[str, str, int, float], None] = lambda route, method, code, seconds: None,
    ) -> None:
        """Create the middleware.

        `host_allowed` returns whether the server answers for the name in a Host header, without its port.
        """
        self._app = app
        self._authenticator = authenticator
        self._admission = admission
        self._limiter = limiter
        self._host_allowed = host_allowed
        self._measure = measure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = new_request_id()
        state["address"] = (scope.get("client") or ("unknown", 0))[0]
        request = Request(scope)
        answer = _Answer(send, state["request_id"])
        began = time.perf_counter()
        try:
            await self._admit(request, state)
            await self._app(scope, _Bounded(receive, answer, request.url.path), answer)
        except Exception as error:
            if answer.started:
                raise  # The status is sent already. The broken connection shows a truncated answer.
            await self._problem(error, request)(scope, receive, answer)
        finally:
            route = str(getattr(scope.get("route"), "path", "none"))
            self._measure(route, request.method, answer.status, time.perf_counter() - began)

    async def _admit(self, request: Request, state: dict[str, Any]) -> None:
        headers, path = request.headers, request.url.path
        if not self._host_allowed(host_name(headers.get("host", ""))):
            raise ProblemError(
                "unknown_host", "the Host header names a host that this server does not answer for"
            )
        _refuse_media(request.method, path, headers)
        refuse_token_in_url(path, request.url.query)
        if path in OPEN:
            self._limiter.take("address", state["address"])
            return
        principal = await self._principal(request, state)
        if principal is not None:
            state["principal"] = principal
        elif path != _SESSION or request.method != "POST":
            raise ProblemError(
                "unauthenticated", "send `Authorization: Bearer <token>`; `manager token create` makes one"
            )
        else:
            require_same_site(request)

    async def _principal(self, request: Request, state: dict[str, Any]) -> Principal | None:
        """Return the sender, or None if the request has no credential.

        Raises ProblemError if the credential is not valid.
        """
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        cookie = request.cookies.get(COOKIE, "")
        if scheme and scheme.lower() != "bearer":
            self._limiter.take("address", state["address"])
            raise ProblemError("unauthenticated", "only `Authorization: Bearer <token>` is accepted")
        if not scheme and not cookie:
            self._limiter.take("address", state["address"])
            return None
        credential = text.strip() if scheme else cookie
        login = not scheme and request.url.path == _SESSION and request.method == "POST"
        if login and self._authenticator.trusted(credential) is None:
            if not self._authenticator.known(credential):
                self._limiter.take("address", state["address"])
            return None  # a login replaces an invalid cookie
        found = await self._admission.principal(credential, session=not scheme, address=state["address"])
        if not scheme and request.method in _UNSAFE:
            require_same_site(request)
        return found

    @staticmethod
    def _problem(error: Exception, request: Request) -> Any:
        request_id = request.state.request_id
        if isinstance(error, ProblemError):
            problem = error
        elif isinstance(error, ManagerError):
            problem = problem_of(error)
        else:
            logs.event(
                logger, logging.ERROR, "api_error", f"{request.method} {request.url.path}", request=request_id
            )
            logger.error("request %s failed", request_id, exc_info=error)
            problem = ProblemError(
                "internal", f"an unexpected error happened; the log has it under {request_id}"
            )
        return problem_response(problem, _TOKEN.sub("***", request.url.path), request_id)


class _Answer:
    """Sends a response and adds the headers that every response has."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.started = False
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = int(message["status"])
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            headers["X-Request-Id"] = self._request_id
            headers.setdefault("Cache-Control", "no-store")
        await self._send(message)


class _Bounded:
    """Receives a body of at most MAX_BODY bytes, whatever its declared length."""

    def __init__(self, receive: Receive, answer: _Answer, path: str) -> None:
        self._receive = receive
        self._path = path
        self._answer = answer
        self._size = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if self._size > MAX_BODY:
                raise too_large(self._path)
        return message


def refuse_token_in_url(path: str, query: str) -> None:
    """Raise ProblemError `unauthenticated` if the URL contains a token."""
    if _TOKEN_IN_URL.search(unquote(query)) or _TOKEN_IN_URL.search(unquote(path)):
        raise ProblemError(
            "unauthenticated",
            "a token was sent in the URL, where logs keep it: revoke it, and send Authorization: Bearer",
        )


def too_large(path: str) -> ProblemError:
    """Return the problem of a body that is too large, with advice for a push."""
    detail = f"a body has at most {MAX_BODY} bytes"
    if path == PUSH:
        detail += "; nothing was pushed: push larger sets of files with `manager config push`"
    return ProblemError("too_large", detail, headers={"Connection": "close"})


def require_same_site(request: Request) -> None:
    """Check that a browser's request comes from a page of this server.

    Raises ProblemError `csrf`.
    """
    headers = request.headers
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    same = site == "same-origin" if site is not None else origin is not None
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        same = False
    if not same or headers.get("x-manager") != "1":
        raise ProblemError(
            "csrf",
            "a request by cookie must come from this server's own pages: with `X-Manager: 1`, and "
            "Sec-Fetch-Site or Origin",
        )


def _refuse_media(method: str, path: str, headers: Headers) -> None:
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > MAX_BODY:
        raise too_large(path)
    has_body = length not in {"", "0"} or "transfer-encoding" in headers
    if has_body and method in _UNSAFE:
        media = headers.get("content-type", "").partition(";")[0].strip().lower()
        if media != "application/json":
            raise ProblemError("unsupported_media_type", "send a body as Content-Type: application/json")
    accept = headers.get("accept", "")
    if accept and path not in _OTHER_MEDIA:
        wanted = [one.partition(";")[0].strip().lower() for one in accept.split(",")]
        if not any(one in _JSON for one in wanted):
            raise ProblemError("not_acceptable", "answers are application/json and application/problem+json")


def host_name(header: str) -> str:
    """Return the name in a Host header, in lower case and without the port."""
    name = header.strip().lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0].rstrip(".")
