"""A fleet that has every metric, and a parser of metric pages.

Run as a program it prints the page, for `promtool check metrics`.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from manager.api.metrics_page import RequestMeter
from manager.fleet.hosts import HostState
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus as S
from manager.telemetry.attention import Attention
from manager.telemetry.fleet_reader import AccountFile, AccountRow
from manager.telemetry.metrics import FleetFigures, render
from manager.telemetry.metrics_accounts import AccountsShown

STARTED: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

#: What a running worker of the paper gateway reports.
RUNS: Final[Mapping[str, Any]] = {
    "host": "host-1",
    "gateway": "paper",
    "environment": "demo",
    "currency": "USD",
    "balance": "10000.00",
    "equity": "10050.25",
    "profit": "50.25",
    "margin_level": 2100.5,
    "open_positions": 2,
    "health": "healthy",
    "heartbeat_age_seconds": 0.4,
    "memory_bytes": 12_000_000,
    "cpu_seconds": 3.25,
    "restarts": 1,
    "version": "0.3.0",
    "config_version": "abc123",
}


def row(
    account_id: str = "account-001",
    status: S | None = S.RUNNING,
    groups: tuple[str, ...] = ("fx",),
    **metadata: Any,
) -> AccountRow:
    """Return an account whose worker has the metadata of RUNS, changed by `metadata`."""
    if status is None:
        return AccountRow(account_id, None, None, AccountFile(enabled=True, groups=groups))
    worker = WorkerInfo(
        worker_id=f"w-{account_id}",
        account_id=account_id,
        status=status,
        created_at=STARTED - timedelta(seconds=1),
        started_at=STARTED,
        groups=groups,
        metadata={**RUNS, **metadata},
    )
    return AccountRow(account_id, worker)


def host(name: str = "host-1", **report: Any) -> HostState:
    """Return a host that reports."""
    data = {
        "version": "0.3.0",
        "python": "3.11.7",
        "tzdata": "2026a",
        "config_version": 7,
        "workers": 3,
        "states": {"running": 2, "starting": 1},
        "memory_mb": 2048,
        "available_mb": 512,
        "load": 0.75,
        **report,
    }
    return HostState(name, True, 0.5, data, clock_skew_seconds=-0.02)


def figures(accounts: Iterable[AccountRow] = (), **changes: Any) -> FleetFigures:
    """Return what one scrape shows of these accounts."""
    known = tuple(accounts)
    given: dict[str, Any] = {
        "redis_up": True,
        "view_age_seconds": 0.2,
        "view_drift": 0,
        "accounts": known,
        "heartbeat_ages": {one.account_id: 0.4 for one in known},
    }
    return FleetFigures(**(given | changes))


def full_figures() -> FleetFigures:
    """Return a fleet with a value for every family."""
    accounts = [row(), row("account-002", S.UNKNOWN), row("account-003", S.FAILED), row("account-004", None)]
    attention = [Attention(code="failed", text="it failed", do="check the log", account_id="account-003")]
    counters = {"host-1": {"running": 3, "start_seconds:0.25": 2, "start_seconds:sum": 0.4}}
    return figures(accounts, hosts=[host()], attention=attention, counters=counters)


def full_page(shown: AccountsShown = "all") -> str:
    """Return a page that holds every family."""
    meter = RequestMeter()
    meter.count("/api/v1/workers", "GET", 200, 0.004)
    return render(full_figures(), shown=shown) + meter.render(1, 0.001)


def parsed(page: str) -> dict[str, Metric]:
    """Return name → family, by Prometheus's own parser; a counter's name ends in `_total`."""
    found: dict[str, Metric] = {}
    for family in text_string_to_metric_families(page):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert name not in found, f"{name} is on the page twice"
        found[name] = family
    return found


def series(page: str) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """Return every series of a page: name and labels. Fails on one that is there twice."""
    found = [
        (sample.name, frozenset(sample.labels.items()))
        for family in parsed(page).values()
        for sample in family.samples
    ]
    assert len(found) == len(set(found)), "a series is on the page twice"
    return set(found)


def value(page: str, name: str, **labels: str) -> float | None:
    """Return the value of one series; None if it is not on the page."""
    for family in parsed(page).values():
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    return None


def sample_names() -> set[str]:
    """Return the name of every series that a page can hold, such as a histogram's `_bucket`."""
    return {name for name, _ in series(full_page())}


if __name__ == "__main__":
    print(full_page(), end="")
