"""Builds the ASGI app: routes, middleware and error handlers."""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import cache
from typing import Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path

from manager.api.gate import PREFIX, Gate
from manager.api.openapi import DESCRIPTION, ROUTERS, TITLE, document
from manager.api.parts import ApiParts
from manager.api.problems import CODE_OF_STATUS, ProblemError, problem_of, problem_response
from manager.api.routes import health
from manager.errors import ManagerError
from manager.versions import __version__

#: Answers of at least this many bytes are compressed, with this gzip level.
_GZIP_FROM: Final = 1024
_GZIP_LEVEL: Final = 1
#: Headers that scripts of other origins may send and read, beside those that are always allowed.
_SENT_HEADERS: Final = (
    *("Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match", "Last-Event-ID"),
    "Prefer",
)
_READ_HEADERS: Final = (
    *("ETag", "Link", "Location", "Manager-Version", "Preference-Applied", "RateLimit", "RateLimit-Policy"),
    *("Retry-After", "X-Request-Id"),
)


def create_app(
    parts: ApiParts, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None
) -> FastAPI:
    """Return the ASGI app that uses these parts.

    `lifespan` is entered before the first request and left after the last.
    """
    app = FastAPI(
        title=TITLE,
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[
            *_cross_origin(parts.origins),
            Middleware(
                Gate,
                authenticator=parts.authenticator,
                admission=parts.admission,
                limiter=parts.limiter,
                host_allowed=parts.host_allowed,
                **({} if parts.metrics is None else {"measure": parts.metrics.requests.count}),
            ),
            Middleware(GZipMiddleware, minimum_size=_GZIP_FROM, compresslevel=_GZIP_LEVEL),
        ],
    )
    app.state.parts = parts
    for router in ROUTERS:
        app.include_router(router, prefix=PREFIX)
    app.include_router(health.pages)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ProblemError, _problem)
    app.add_exception_handler(ManagerError, _manager)
    app.openapi = document  # type: ignore[method-assign]
    return app


def _cross_origin(origins: Sequence[str]) -> list[Middleware]:
    """Return the middleware that lets scripts of these origins read answers.

    Such scripts send a token; cookies are not allowed.
    """
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=_SENT_HEADERS,
            expose_headers=_READ_HEADERS,
        )
    ]


async def _invalid(request: Request, error: Exception) -> Response:
    """Name the place of each wrong value, but not the value.

    The value may be a secret.
    """
    found = error.errors() if isinstance(error, RequestValidationError) else []
    if any(one["type"] == "json_invalid" for one in found):
        return _respond(request, ProblemError("malformed_json", "the body is not valid JSON"))
    errors = [
        {"where": list(one["loc"]), "message": one["msg"].removeprefix("Value error, ")} for one in found
    ]
    detail = "; ".join(f"{'.'.join(map(str, one['where']))}: {one['message']}" for one in errors[:10])
    return _respond(request, ProblemError("invalid_request", detail, errors=errors))


async def _http(request: Request, error: Exception) -> Response:
    if isinstance(error.__cause__, ProblemError):
        return _respond(request, error.__cause__)  # raised while the framework read the body
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict((error.headers if isinstance(error, HTTPException) else None) or {})
    code = CODE_OF_STATUS.get(status, "internal" if status >= 500 else "invalid_request")
    if status == 405:
        headers["Allow"] = ", ".join(sorted(_methods(request.url.path)))
    texts = {
        "not_found": "there is nothing at this address",
        "method_not_allowed": f"{request.method} is not allowed here",
        "malformed_json": "the body is not valid JSON",
    }
    return _respond(request, ProblemError(code, texts.get(code, ""), headers=headers))


@cache
def _operations() -> tuple[tuple[re.Pattern[str], frozenset[str]], ...]:
    """Return the path patterns of the API with their methods."""
    return tuple(
        (compile_path(path)[0], frozenset(method.upper() for method in operations))
        for path, operations in document()["paths"].items()
    )


def _methods(path: str) -> set[str]:
    """Return the methods that are allowed for a path."""
    return {method for pattern, methods in _operations() if pattern.match(path) for method in methods}


async def _problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, ProblemError):
        raise error
    return _respond(request, error)


async def _manager(request: Request, error: Exception) -> Response:
    if not isinstance(error, ManagerError):
        raise error
    return _respond(request, problem_of(error))


def _respond(request: Request, problem: ProblemError) -> Response:
    return problem_response(problem, request.url.path, request.state.request_id)
