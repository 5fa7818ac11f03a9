"""Errors of the API as RFC 9457 problems, and the table of their codes."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec
from starlette.responses import Response

from manager.errors import CursorGoneError, ManagerError

MEDIA_TYPE: Final = "application/problem+json"
_TYPE: Final = "https://worker-manager.invalid/problems/"
#: Seconds after which a retryable 503 may be tried again.
_RETRY_AFTER: Final = "2"
_BASE32: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Row(NamedTuple):
    """The HTTP status and the title of a code."""

    status: int
    title: str


#: Every code of a problem. The codes of `manager.errors` are those of its classes.
PROBLEMS: Final[Mapping[str, Row]] = {
    # of HTTP and of this API
    "malformed_request": Row(400, "The request is not valid HTTP"),
    "malformed_json": Row(400, "The body is not valid JSON"),
    "unauthenticated": Row(401, "A valid token or session is required"),
    "token_expired": Row(401, "The token has expired"),
    "forbidden": Row(403, "The token does not have the required scope"),
    "outside_selection": Row(403, "An account is outside the token's selection"),
    "csrf": Row(403, "The request does not prove that it comes from this site"),
    "no_command": Row(404, "No such command"),
    "not_found": Row(404, "No such resource"),
    "method_not_allowed": Row(405, "The method is not allowed here"),
    "not_acceptable": Row(406, "Only JSON can be returned"),
    "confirmation_wrong": Row(409, "The confirmation does not match"),
    "cursor_gone": Row(410, "Events after this cursor are no longer kept"),
    "too_large": Row(413, "The body is too large"),
    "unsupported_media_type": Row(415, "The body must be application/json"),
    "unknown_host": Row(421, "This server does not answer for this host name"),
    "invalid_request": Row(422, "The request is not valid"),
    "idempotency_mismatch": Row(422, "The idempotency key belongs to a different request"),
    "idempotency_key_required": Row(428, "This request needs an Idempotency-Key"),
    "confirmation_required": Row(428, "This request needs a confirmation"),
    "precondition_required": Row(428, "This request needs If-Match"),
    "rate_limited": Row(429, "Too many requests"),
    "internal": Row(500, "An unexpected error happened"),
    # of manager.errors
    "manager_error": Row(500, "The manager failed"),
    "invalid_account_id": Row(404, "The account id is not valid"),
    "account_not_found": Row(404, "No such account"),
    "invalid_config": Row(422, "The account's configuration is invalid"),
    "import_source_unreadable": Row(422, "The file cannot be translated"),
    "invalid_payload": Row(422, "An argument is not valid"),
    "invalid_cursor": Row(422, "The cursor is not valid"),
    "credential_unavailable": Row(422, "A credential cannot be read on the host"),
    "account_disabled": Row(409, "The account is disabled in its file"),
    "no_worker": Row(409, "The account has no worker"),
    "no_config_version": Row(404, "No such version of the configuration"),
    "config_changed": Row(409, "Another version of the configuration was pushed meanwhile"),
    "no_batch": Row(404, "No such batch"),
    "no_override": Row(404, "The account has no override"),
    "no_rollout": Row(404, "No such rollout"),
    "rollout_conflict": Row(409, "Another rollout has an account, or this one is over"),
    "nothing_held": Row(409, "No such change waits for approval"),
    "no_such_host": Row(404, "No such host"),
    "already_there": Row(409, "The account is on this host already"),
    "bad_settings": Row(500, "A setting of the server is wrong"),
    "start_failed": Row(502, "The worker could not be started"),
    "start_timeout": Row(504, "The worker did not connect in time"),
    "start_cancelled": Row(409, "A stop cancelled the start"),
    "worker_died": Row(502, "The worker ended before it was connected"),
    "authentication_failed": Row(422, "The venue refused the credentials"),
    "wrong_account": Row(422, "The venue answered for a different account"),
    "connection_failed": Row(502, "The venue could not be reached"),
    "session_held": Row(409, "Another worker holds the session"),
    "slow_files": Row(503, "The account's files could not be read in time"),
    "disk_refuses": Row(503, "The host's disk is full or read-only"),
    "stop_failed": Row(502, "The end of the worker could not be proven"),
    "orphans_left": Row(502, "Processes of the worker's program still run"),
    "not_supported": Row(409, "The account's program does not support this"),
    "command_refused": Row(502, "The worker did not carry out the command"),
    "overruled": Row(409, "A later command overrules this one"),
    "host_unavailable": Row(503, "No host agent can carry out the command"),
    "no_host_fits": Row(503, "A rule refuses every live host"),
    "version_mismatch": Row(503, "Manager and host are too many versions apart"),
    "host_agent": Row(503, "The host agent cannot run"),
    "fleet_unavailable": Row(503, "Redis cannot be used"),
    "account_busy": Row(409, "The account has or may have a worker"),
    "command_timeout": Row(504, "No answer to the command came in time"),
    "component_failed": Row(503, "A component cannot run"),
}

#: Codes of HTTP errors that the framework raises.
CODE_OF_STATUS: Final[Mapping[int, str]] = {
    400: "malformed_json",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
}


@dataclass(eq=False)
class ProblemError(Exception):
    """Raised when the API refuses a request; becomes a problem response."""

    code: str
    detail: str
    retryable: bool = False
    errors: Sequence[Mapping[str, Any]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Additional members of the problem.
    more: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.detail


def problem_of(error: ManagerError) -> ProblemError:
    """Return the problem of an error.

    An error whose code is not in the table gets the code of its nearest base class.
    """
    codes = (getattr(cls, "code", "") for cls in type(error).__mro__)
    code = next((one for one in codes if one in PROBLEMS), "internal")
    headers = {"Retry-After": _RETRY_AFTER} if error.retryable and PROBLEMS[code].status == 503 else {}
    more = {"oldest": error.oldest} if isinstance(error, CursorGoneError) else {}
    return ProblemError(code, str(error), error.retryable, headers=headers, more=more)


def problem_body(problem: ProblemError, instance: str, request_id: str) -> dict[str, Any]:
    """Return all members of a problem."""
    status, title = PROBLEMS[problem.code]
    return {
        "type": f"{_TYPE}{problem.code}",
        "title": title,
        "status": status,
        "code": problem.code,
        "detail": problem.detail or title,
        "retryable": problem.retryable,
        "instance": instance,
        "request_id": request_id,
        "errors": list(problem.errors),
        "docs": f"/docs/errors#{problem.code}",
        **problem.more,
    }


def problem_response(problem: ProblemError, instance: str, request_id: str) -> Response:
    """Return the response of a problem."""
    body = problem_body(problem, instance, request_id)
    headers = dict(problem.headers)
    if body["status"] == 401:
        headers.setdefault("WWW-Authenticate", "Bearer")
    return Response(
        msgspec.json.encode(body), status_code=body["status"], headers=headers, media_type=MEDIA_TYPE
    )


def new_request_id() -> str:
    """Return 26 characters that are unique and sort by time, as a ULID."""
    value = (int(time.time() * 1000) << 80) | int.from_bytes(os.urandom(10))
    return "".join(_BASE32[(value >> shift) & 31] for shift in range(125, -1, -5))


def errors_page() -> str:
    """Return the HTML page with every code, its status and its meaning."""
    rows = "".join(
        f'<tr id="{code}"><td>{row.status}</td><td><code>{code}</code></td><td>{row.title}</td></tr>'
        for code, row in sorted(PROBLEMS.items(), key=lambda one: (one[1].status, one[0]))
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Errors</title></head>'
        f"<body><h1>Errors</h1><table><tr><th>Status</th><th>Code</th><th>Meaning</th></tr>{rows}</table></body></html>"
    )
