"""Builds the OpenAPI 3.1 document from the routes.

Each operation lists the problems that it may answer with.
"""

from functools import cache
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from manager.api.access import SCOPE_OF
from manager.api.gate import PREFIX
from manager.api.models import Problem
from manager.api.problems import MEDIA_TYPE, PROBLEMS
from manager.api.routes import (
    batches,
    commands,
    configs,
    fleet,
    health,
    records,
    rollouts,
    schedules,
    session,
    stream,
    websocket,
)
from manager.versions import __version__

#: Every router under /api/v1.
ROUTERS: Final[tuple[APIRouter, ...]] = (
    *(health.router, session.router, fleet.router, records.router, configs.router),
    *(commands.router, batches.router, schedules.router, rollouts.router, stream.router, websocket.router),
)
TITLE: Final = "Worker Manager"
DESCRIPTION: Final = (
    "Commands for a fleet of trading workers, and its state. Times are RFC 3339 in UTC, money is decimal "
    "text, and names of durations end with `_seconds`. Errors are RFC 9457 problems. The server refuses "
    "unknown members of a request; clients should ignore unknown members of an answer."
)
#: Error statuses of every operation, and of operations with a body.
_EVERYWHERE: Final = (400, 401, 403, 404, 406, 409, 421, 422, 429, 500, 502, 503, 504)
_WITH_BODY: Final = (413, 415)
#: Error statuses of some operations, by a part of their path.
_CONDITIONAL: Final = {"/batches": 428, "/hosts": 428, "/config/rollback": 428, "/config/push": 428}
#: Required parameters that routes check themselves, because their absence has its own status.
_REQUIRED: Final = {"confirm", "If-Match"}
_PROBLEM: Final[dict[str, Any]] = {
    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
}


@cache
def document() -> dict[str, Any]:
    """Return the document, shared by the whole process: do not change it."""
    app = FastAPI(title=TITLE, version=__version__, description=DESCRIPTION)
    for router in ROUTERS:
        app.include_router(router, prefix=PREFIX)
    found = app.openapi()
    components = found.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components |= schema.pop("$defs")
    schema["properties"]["code"]["enum"] = sorted(PROBLEMS)
    components["Problem"] = schema
    scopes = _scopes()
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            if (method.upper(), path) in scopes:
                operation["x-scope"] = scopes[method.upper(), path]
            _add_problems(path, method, operation)
            _tidy_parameters(path, operation)
    return found


def _scopes() -> dict[tuple[str, str], str]:
    """Return the scope that an operation requires, by method and path; others require none."""
    return {
        (method, PREFIX + route.path): SCOPE_OF[one.call]
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
        for one in route.dependant.dependencies
        if one.call in SCOPE_OF
    }


def _tidy_parameters(path: str, operation: dict[str, Any]) -> None:
    """Document parameters without `null`, which headers and queries lack."""
    parameters = operation.get("parameters", [])
    for parameter in parameters:
        schema = parameter["schema"]
        if "anyOf" in schema:
            parameter["schema"] = next(one for one in schema["anyOf"] if one.get("type") != "null")
        needed = parameter["name"] in _REQUIRED
        needed |= parameter["name"] == "Idempotency-Key" and path.endswith("/batches")
        parameter["required"] = parameter["required"] or needed


def _add_problems(path: str, method: str, operation: dict[str, Any]) -> None:
    statuses = {*_EVERYWHERE, *(_WITH_BODY if "requestBody" in operation else ())}
    if method != "get":
        statuses |= {status for word, status in _CONDITIONAL.items() if word in path}
    else:
        operation["responses"].setdefault("304", {"description": "The client has this state already."})
        statuses |= {410} if "/events" in path else set()
    for status in sorted(statuses):
        codes = ", ".join(f"`{code}`" for code, row in sorted(PROBLEMS.items()) if row.status == status)
        operation["responses"][str(status)] = {"description": codes, **_PROBLEM}
