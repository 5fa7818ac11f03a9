"""Renders answers as JSON, with entity tags.

Times are in UTC with `Z`. The JSON of an account is cached with its row, and lists join the cached bytes.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from manager.fleet.hosts import HostState
from manager.telemetry.attention import Attention
from manager.telemetry.fleet_reader import AccountRow, FleetListing

_encode: Final = msgspec.json.Encoder(decimal_format="string", enc_hook=str).encode
#: Figures of a worker, by their keys in its metadata.
_FIGURES: Final = (
    *("currency", "balance", "equity", "profit", "margin", "free_margin", "margin_level"),
    *("open_positions", "heartbeat_age_seconds"),
)


def utc(moment: datetime | None) -> str | None:
    """Return a time as RFC 3339 in UTC, with milliseconds."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def to_json(data: object) -> bytes:
    """Return plain data as JSON; NaN and infinity become null."""
    return _encode(data)


def answer(data: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response."""
    return Response(to_json(data), status, dict(headers or {}), media_type="application/json")


def live_answer(request: Request, state: FleetListing, body: bytes) -> Response:
    """Return a response about the live fleet, with its entity tag."""
    return Response(body, headers={"ETag": _tag(state)}, media_type="application/json")


def not_modified(request: Request, state: FleetListing) -> Response | None:
    """Return status 304 if the client already has this state, else None."""
    known = request.headers.get("if-none-match", "")
    tag = _tag(state)
    if not known or not any(one.strip() in {tag, tag[2:], "*"} for one in known.split(",")):
        return None
    return Response(status_code=304, headers={"ETag": tag})


def _tag(state: FleetListing) -> str:
    return f'W/"{state.version}"'


def moment_of(state: FleetListing) -> dict[str, Any]:
    """Return the members that every answer about the live fleet has."""
    stale = None if state.stale_seconds is None else round(state.stale_seconds, 3)
    return {"as_of": utc(state.as_of), "cursor": state.cursor, "stale_seconds": stale}


def page_json(items: Iterable[bytes], rest: Mapping[str, Any]) -> bytes:
    """Return a page of items that are JSON already."""
    return b'{"items":[' + b",".join(items) + b"]," + to_json(rest)[1:]


def worker_json(account: AccountRow) -> bytes:
    """Return the worker as `manager ps --json` prints it, or `null`."""
    found = account.rendered.get("worker")
    if found is None:
        found = b"null" if account.worker is None else account.worker.model_dump_json().encode()
        account.rendered["worker"] = found
    return found


def account_json(listing: FleetListing, account: AccountRow) -> bytes:
    """Return the JSON of an account of this listing."""
    found = account.rendered.get("account")
    if found is None:
        found = to_json(_account(account))[:-1] + b',"worker":' + worker_json(account) + b',"attention":'
        account.rendered["account"] = found
    # Not cached: attention also depends on the time and on the host.
    return found + to_json([attention_data(one) for one in listing.attention(account)]) + b"}"


def attention_data(attention: Attention) -> dict[str, Any]:
    """Return the JSON members of an attention item."""
    return {
        "code": attention.code,
        "severity": str(attention.severity),
        "text": attention.text,
        "since": utc(attention.since),
        "do": attention.do,
    }


def _account(account: AccountRow) -> dict[str, Any]:
    worker, desired, file = account.worker, account.desired, account.file
    metadata: Mapping[str, Any] = {} if worker is None else worker.metadata
    return {
        "account_id": account.account_id,
        "want": account.want,
        "status": account.status,
        "health": account.health,
        "mode": str(account.mode),
        "resting": account.resting,
        "enabled": None if file is None else file.enabled,
        "gateway": metadata.get("gateway") or (file.gateway if file is not None else None) or None,
        "groups": list(account.groups),
        "labels": dict(account.labels),
        "host": account.host,
        "desired": None
        if desired is None
        else {
            "state": desired.state,
            "generation": desired.generation,
            "by": desired.by,
            "why": desired.why,
            "at": utc(datetime.fromtimestamp(desired.at / 1000, UTC)),
            "host": desired.host or None,
        },
        "figures": _figures(metadata),
        "config": _config(metadata),
        "software": {"running": metadata.get("version")},
    }


def _config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the version of the configuration that runs, and how it differs from the account's file."""
    found = metadata.get("config")
    found = found if isinstance(found, Mapping) else {}
    running = metadata.get("config_version")
    return {
        "running": running,
        "state": found.get("state"),
        "file": found.get("file"),
        "text": found.get("text"),
    }


def _figures(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the figures of the last heartbeat, or None."""
    if "last_heartbeat" not in metadata and "heartbeat_age_seconds" not in metadata:
        return None
    return {"at": metadata.get("last_heartbeat"), **{name: metadata.get(name) for name in _FIGURES}}


def host_data(host: HostState) -> dict[str, Any]:
    """Return a host as `manager hosts --json` prints it."""
    return host.to_dict()


def decimal_of(value: object) -> Decimal | None:
    """Parse an amount of money; None if it is not a finite number."""
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        return None
    return found if found.is_finite() else None
