"""Metrics of single accounts: the families whose names start with `manager_account_`."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final, Literal, NamedTuple

from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus
from manager.telemetry.fleet_reader import AccountRow
from manager.telemetry.metrics_text import MetricsText, escaped, number

#: Accounts up to which `auto` shows every account.
_AUTO_ACCOUNTS: Final = 1_000
_MAX_GROUPS: Final = 128

AccountsShown = Literal["auto", "all", "attention", "none"]

#: Account → name of an amount → its value, of running workers.
Amounts = Mapping[str, Mapping[str, Decimal]]

#: (metric, kind, key of the metadata, text, of running workers only).
_FIGURES: Final = (
    ("manager_account_margin_level", "gauge", "margin_level", "Equity in percent of margin.", True),
    ("manager_account_open_positions", "gauge", "open_positions", "Open positions of the account.", True),
    (
        *("manager_account_memory_bytes", "gauge", "memory_bytes"),
        *("Memory of the worker and its processes (PSS).", True),
    ),
    (
        *("manager_account_cpu_seconds_total", "counter", "cpu_seconds"),
        *("CPU time of the worker and its processes.", True),
    ),
    ("manager_account_restarts_total", "counter", "restarts", "Restarts since the last command.", False),
)


class _Shown(NamedTuple):
    """An account that has series, its id as the value of a label, and its worker."""

    account: AccountRow
    name: str
    worker: WorkerInfo


def chosen_accounts(
    accounts: Sequence[AccountRow], noticed: set[str], shown: AccountsShown
) -> Sequence[AccountRow]:
    """Return the accounts that get their own series; `noticed` are those that need attention."""
    if shown == "none":
        return ()
    if shown == "attention" or (shown == "auto" and len(accounts) > _AUTO_ACCOUNTS):
        return [account for account in accounts if account.account_id in noticed]
    return accounts


def add_accounts(
    page: MetricsText, chosen: Sequence[AccountRow], amounts: Amounts, heartbeat_ages: Mapping[str, float]
) -> None:
    """Add the series of the chosen accounts that have a worker."""
    rows = [_Shown(one, escaped(one.account_id), one.worker) for one in chosen if one.worker is not None]
    running = [row for row in rows if row.worker.status is WorkerLifecycleStatus.RUNNING]
    known = [row for row in rows if row.worker.status is not WorkerLifecycleStatus.UNKNOWN]
    _states(page, rows, running)
    _money(page, running, amounts)
    _figures(page, known, running)
    _times(page, known, running, heartbeat_ages)


def _states(page: MetricsText, rows: Sequence[_Shown], running: Sequence[_Shown]) -> None:
    name = "manager_account_info"
    page.lines(name, "gauge", "What the account runs.", [f"{name}{_info(row)} 1" for row in rows])
    name = "manager_account_state"
    page.lines(
        name,
        "gauge",
        "The state of the account's worker; the present one only.",
        [f'{name}{{account="{row.name}",state="{row.worker.status}"}} 1' for row in rows],
    )
    name = "manager_account_health"
    page.lines(
        name,
        "gauge",
        "The health of the account's worker; the present one only.",
        [f'{name}{{account="{row.name}",health="{row.worker.health}"}} 1' for row in running],
    )


def _info(row: _Shown) -> str:
    data = row.worker.metadata
    return (
        f'{{account="{row.name}",host="{escaped(data.get("host", ""))}",'
        f'gateway="{escaped(data.get("gateway", ""))}",'
        f'environment="{escaped(data.get("environment") or "")}",'
        f'groups="{escaped(",".join(row.account.groups)[:_MAX_GROUPS])}",'
        f'version="{escaped(data.get("version", ""))}",'
        f'config_version="{escaped(data.get("config_version", ""))}"}}'
    )


def _money(page: MetricsText, running: Sequence[_Shown], amounts: Amounts) -> None:
    for key, text in (("equity", "Equity"), ("balance", "Balance")):
        name = f"manager_account_{key}"
        lines = []
        for row in running:
            value = amounts[row.account.account_id].get(key)
            if value is not None:
                currency = escaped(row.worker.metadata.get("currency") or "")
                lines.append(f'{name}{{account="{row.name}",currency="{currency}"}} {float(value)}')
        page.lines(name, "gauge", f"{text} of the account.", lines)


def _figures(page: MetricsText, known: Sequence[_Shown], running: Sequence[_Shown]) -> None:
    for name, kind, key, text, only_running in _FIGURES:
        lines = [
            f'{name}{{account="{row.name}"}} {figure}'
            for row in (running if only_running else known)
            if (figure := number(row.worker.metadata.get(key))) is not None
        ]
        page.lines(name, kind, text, lines)


def _times(
    page: MetricsText,
    known: Sequence[_Shown],
    running: Sequence[_Shown],
    heartbeat_ages: Mapping[str, float],
) -> None:
    name = "manager_account_heartbeat_age_seconds"
    page.lines(
        name,
        "gauge",
        "Seconds since the worker's last heartbeat.",
        [
            f'{name}{{account="{row.name}"}} {age:.3f}'
            for row in running
            if (age := heartbeat_ages.get(row.account.account_id)) is not None
        ],
    )
    name = "manager_account_start_time_seconds"
    page.lines(
        name,
        "gauge",
        "When the account's worker was started, seconds since the epoch.",
        [
            f'{name}{{account="{row.name}"}} {row.worker.started_at.timestamp():.3f}'
            for row in known
            if row.worker.started_at is not None
        ],
    )
