"""The OpenAPI 3.1 document: made from the routes, with the problems that each operation may answer."""

from functools import cache
from typing import Any, Final

from fastapi import APIRouter, FastAPI

from manager.api.gate import PREFIX
from manager.api.models import Problem
from manager.api.problems import MEDIA_TYPE, PROBLEMS
from manager.api.routes import batches, commands, configs, fleet, health, records, session, stream
from manager.versions import __version__

#: Every router under /api/v1.
ROUTERS: Final[tuple[APIRouter, ...]] = (
    *(health.router, session.router, fleet.router, records.router, configs.router),
    *(commands.router, batches.router, stream.router),
)
TITLE: Final = "Worker Manager"
DESCRIPTION: Final = (
    "Command a fleet of trading workers. Times are RFC 3339 in UTC, money is decimal text, durations are "
    "in fields named "
    "`_seconds`. Errors are RFC 9457 problems. Unknown members of a request are refused; ignore those of "
    "an answer."
)
#: What every operation may answer, and those with a body.
_EVERYWHERE: Final = (401, 403, 404, 406, 409, 421, 422, 429, 500, 502, 503, 504)
_WITH_BODY: Final = (400, 413, 415)
#: Codes that only some operations answer, by a word in their address.
_CONDITIONAL: Final = {"/batches": 428, "/hosts": 428, "/config/rollback": 428, "/config/push": 428}
#: Parameters that are checked by hand, because their absence has a status of its own.
_REQUIRED: Final = {"Idempotency-Key", "confirm", "If-Match"}
_KEY_TEXT: Final = (
    " Give an `Idempotency-Key` header of 8 to 128 characters, best a UUID: it becomes the id of the "
    "command, and a request "
    "that is sent again with it within a day acts once."
)
_PROBLEM: Final[dict[str, Any]] = {
    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
}


@cache
def document() -> dict[str, Any]:
    """Return the document. Do not change it: there is one for the whole process."""
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
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            _add_problems(path, method, operation)
            _tidy_parameters(path, operation)
    return found


def _tidy_parameters(path: str, operation: dict[str, Any]) -> None:
    """Document parameters without `null`, which no header and no query can carry."""
    parameters = operation.get("parameters", [])
    for parameter in parameters:
        schema = parameter["schema"]
        if "anyOf" in schema:
            parameter["schema"] = next(one for one in schema["anyOf"] if one.get("type") != "null")
        parameter["required"] = parameter["required"] or parameter["name"] in _REQUIRED
    # A key belongs to one request: a client that makes one up for each operation, as tools that read this do,
    # would be told of a mismatch. Only batches demand one.
    if not path.endswith("/batches"):
        kept = [one for one in parameters if one["name"] != "Idempotency-Key"]
        if len(kept) < len(parameters):
            operation["parameters"] = kept
            operation["description"] = operation.get("description", "") + _KEY_TEXT


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
