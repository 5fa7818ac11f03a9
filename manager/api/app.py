"""The ASGI app: routes under /api/v1, behind the gate, with every error as a problem."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response

from manager.api.gate import PREFIX, Gate
from manager.api.models import Problem
from manager.api.parts import ApiParts
from manager.api.problems import (
    CODE_OF_STATUS,
    MEDIA_TYPE,
    PROBLEMS,
    ProblemError,
    problem_of,
    problem_response,
)
from manager.api.routes import batches, commands, fleet, health, records, session, stream
from manager.errors import ManagerError
from manager.versions import __version__

#: Bytes from which on an answer is compressed, and how hard.
_GZIP_FROM: Final = 1024
_GZIP_LEVEL: Final = 1
#: What every operation may answer.
_PROBLEM: Final[dict[str, Any]] = {
    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
}
_EVERYWHERE: Final = (401, 403, 404, 406, 409, 421, 422, 429, 500, 502, 503, 504)
_WITH_BODY: Final = (400, 413, 415, 428)

_DESCRIPTION: Final = (
    "Command a fleet of trading workers. Times are RFC 3339 in UTC, money is decimal text, durations are in fields named "
    "`_seconds`. Errors are RFC 9457 problems. Unknown members of a request are refused; ignore those of an answer."
)


def create_app(parts: ApiParts) -> FastAPI:
    """Return the app over these parts."""
    app = FastAPI(
        title="Worker Manager",
        version=__version__,
        description=_DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(
                Gate,
                authenticator=parts.authenticator,
                limiter=parts.limiter,
                host_allowed=parts.host_allowed,
            ),
            Middleware(GZipMiddleware, minimum_size=_GZIP_FROM, compresslevel=_GZIP_LEVEL),
        ],
    )
    app.state.parts = parts
    for router in (
        *(health.router, session.router, fleet.router, records.router),
        commands.router,
        batches.router,
        stream.router,
    ):
        app.include_router(router, prefix=PREFIX)
    app.include_router(health.pages)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ProblemError, _problem)
    app.add_exception_handler(ManagerError, _manager)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


async def _invalid(request: Request, error: Exception) -> Response:
    """Tell each wrong value by its place. What was sent is not repeated: it may be a secret."""
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
        return _respond(request, error.__cause__)  # of the body, which the framework reads
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict((error.headers if isinstance(error, HTTPException) else None) or {})
    code = CODE_OF_STATUS.get(status, "internal" if status >= 500 else "invalid_request")
    texts = {
        "not_found": "there is nothing at this address",
        "method_not_allowed": f"{request.method} is not allowed here",
        "malformed_json": "the body is not valid JSON",
    }
    return _respond(request, ProblemError(code, texts.get(code, ""), headers=headers))


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


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document: as FastAPI makes it, with the problems that each operation may answer."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        components = document.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            components.pop(name, None)
        schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        components |= schema.pop("$defs")
        schema["properties"]["code"]["enum"] = sorted(PROBLEMS)
        components["Problem"] = schema
        for operations in document["paths"].values():
            for operation in operations.values():
                statuses = [*_EVERYWHERE, *(_WITH_BODY if "requestBody" in operation else ())]
                responses = operation["responses"]
                for status in sorted(statuses):
                    responses[str(status)] = {"description": _titles(status), **_PROBLEM}
        app.openapi_schema = document
    return app.openapi_schema


def _titles(status: int) -> str:
    return ", ".join(f"`{code}`" for code, row in sorted(PROBLEMS.items()) if row.status == status)
