"""Rows and figures of accounts in streams, by column to save space."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from manager.api.rendering import utc
from manager.fleet.hosts import HostState
from manager.telemetry.attention import Attention
from manager.telemetry.fleet_reader import AccountRow

#: The columns of a row, in this order. `id` is the row's number on this connection; figures refer to it.
COLUMNS: Final = (
    *("id", "account_id", "want", "status", "health", "mode", "host", "error", "reason", "enabled"),
    *("gateway", "environment", "groups", "labels", "started_at", "restarts", "version"),
    *(
        "currency",
        "balance",
        "equity",
        "profit",
        "margin_level",
        "open_positions",
        "age",
        "resting",
        "attention",
    ),
)
#: Figure in a frame → key of the worker's metadata.
FIGURES: Final = {
    "equity": "equity",
    "balance": "balance",
    "profit": "profit",
    "margin_level": "margin_level",
    "positions": "open_positions",
    "age": "heartbeat_age_seconds",
}


def row(account: AccountRow, attention: list[Attention]) -> list[Any]:
    """Return an account's row without its number."""
    worker = account.worker
    data: Mapping[str, Any] = {} if worker is None else worker.metadata
    return [
        account.account_id,
        account.want,
        account.status,
        account.health,
        str(account.mode),
        account.host,
        None if worker is None else worker.error,
        data.get("health_reason"),
        None if account.file is None else account.file.enabled,
        data.get("gateway") or (account.file.gateway if account.file is not None else None),
        data.get("environment"),
        list(account.groups),
        dict(account.labels),
        None if worker is None else utc(worker.started_at),
        data.get("restarts"),
        data.get("version"),
        data.get("currency"),
        data.get("balance"),
        data.get("equity"),
        data.get("profit"),
        data.get("margin_level"),
        data.get("open_positions"),
        data.get("heartbeat_age_seconds"),
        account.resting,
        [[one.code, str(one.severity), one.text, one.do, _since(one.since)] for one in attention],
    ]


def figures(account: AccountRow) -> list[Any]:
    """Return an account's figures in the order of `FIGURES`."""
    data: Mapping[str, Any] = {} if account.worker is None else account.worker.metadata
    return [data.get(key) for key in FIGURES.values()]


def host_row(host: HostState) -> dict[str, Any]:
    """Return a host as `manager hosts --json` has it."""
    return host.to_dict()


def _since(moment: datetime | None) -> str | None:
    return utc(moment)
