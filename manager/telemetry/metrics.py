"""Prometheus metrics of a fleet, rendered from the live view at each scrape.

The series of an account end with the account: there is no gauge object that outlives it. While Redis is
unreachable, the page has `manager_redis_up 0` and no account or host, never the last values. The only label
of account series is the account; `manager_account_info` has the labels that change (host, version, groups).
The text format is 0.0.4, without timestamps.
"""

import platform
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from manager.fleet.events import START_BUCKETS
from manager.fleet.host_report import HostReport
from manager.fleet.hosts import HostState
from manager.states import WorkerLifecycleStatus
from manager.telemetry.attention import Attention
from manager.telemetry.fleet_reader import AccountRow
from manager.telemetry.metrics_accounts import AccountsShown, Amounts, add_accounts, chosen_accounts
from manager.telemetry.metrics_text import MetricsText, amount, labels, number
from manager.versions import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetFigures:
    """The figures of one scrape.

    If `redis_up` is false, only the view's age is shown.
    """

    redis_up: bool
    view_age_seconds: float
    view_drift: int
    accounts: Sequence[AccountRow] = ()
    hosts: Sequence[HostState] = ()
    attention: Sequence[Attention] = ()
    #: Account → seconds since its worker's last heartbeat, of running workers.
    heartbeat_ages: Mapping[str, float] = field(default_factory=dict)
    #: Host → event type, or `start_seconds:<bound>`, → value.
    counters: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def render(figures: FleetFigures, *, shown: AccountsShown = "auto") -> str:
    """Return the page of one scrape."""
    page = MetricsText()
    build = labels(version=__version__, python=platform.python_version())
    page.family("manager_build_info", "gauge", "The software that serves this page.", [(build, 1)])
    page.family("manager_redis_up", "gauge", "Whether Redis can be reached.", [("", int(figures.redis_up))])
    age = round(min(figures.view_age_seconds, 1e9), 3)
    page.family("manager_view_age_seconds", "gauge", "Seconds since the view agreed with Redis.", [("", age)])
    page.family(
        "manager_view_drift_total",
        "counter",
        "Accounts that a listing had to correct.",
        [("", figures.view_drift)],
    )
    if figures.redis_up:
        amounts = _amounts(figures.accounts)
        _states(page, figures)
        _money(page, figures.accounts, amounts)
        _hosts(page, figures.hosts)
        _counters(page, figures.counters)
        noticed = {one.account_id for one in figures.attention}
        chosen = chosen_accounts(figures.accounts, noticed, shown)
        omitted = len(figures.accounts) - len(chosen)
        page.family(
            "manager_accounts_omitted", "gauge", "Accounts without their own series.", [("", omitted)]
        )
        add_accounts(page, chosen, amounts, figures.heartbeat_ages)
    return page.text()


def _amounts(accounts: Sequence[AccountRow]) -> Amounts:
    """Return the amounts of money of every running account."""
    return {
        one.account_id: {
            name: value for name in _MONEY if (value := amount(one.worker.metadata.get(name))) is not None
        }
        for one in accounts
        if one.worker is not None and one.worker.status is WorkerLifecycleStatus.RUNNING
    }


def _states(page: MetricsText, figures: FleetFigures) -> None:
    states = Counter((one.status or "none", one.want) for one in figures.accounts)
    page.family(
        "manager_accounts",
        "gauge",
        "Accounts by the state of their worker and by desired state.",
        [(labels(state=state, want=want), count) for (state, want), count in sorted(states.items())],
    )
    health = Counter(one.health for one in figures.accounts if one.status == WorkerLifecycleStatus.RUNNING)
    page.family(
        "manager_accounts_health",
        "gauge",
        "Running accounts by health.",
        [(labels(health=name), count) for name, count in sorted(health.items())],
    )
    codes = Counter((one.code, str(one.severity)) for one in figures.attention)
    page.family(
        "manager_attention",
        "gauge",
        "Problems that need a person, by code.",
        [(labels(code=code, severity=severity), count) for (code, severity), count in sorted(codes.items())],
    )


class _Sums:
    """Money and positions of the running accounts, by currency, environment and group."""

    def __init__(self, accounts: Sequence[AccountRow], amounts: Amounts) -> None:
        #: Name → (currency, environment) → amount.
        self.money: dict[str, dict[tuple[str, str], Decimal]] = {one: defaultdict(Decimal) for one in _MONEY}
        #: Environment → positions.
        self.positions: Counter[str] = Counter()
        #: (group, currency, environment) → amount, and → positions.
        self.group_equity: dict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
        self.group_positions: Counter[tuple[str, str, str]] = Counter()
        for account in accounts:
            own = amounts.get(account.account_id)
            if own is not None and account.worker is not None:
                self._add(account, account.worker.metadata, own)

    def _add(self, account: AccountRow, data: Mapping[str, Any], own: Mapping[str, Decimal]) -> None:
        where = (str(data.get("currency") or ""), str(data.get("environment") or ""))
        for name, value in own.items():
            self.money[name][where] += value
        held = number(data.get("open_positions"))
        positions = held if isinstance(held, int) else 0
        self.positions[where[1]] += positions
        for group in account.groups:
            self.group_positions[(group, *where)] += positions
            if "equity" in own:
                self.group_equity[(group, *where)] += own["equity"]


def _money(page: MetricsText, accounts: Sequence[AccountRow], amounts: Amounts) -> None:
    sums = _Sums(accounts, amounts)
    for name, text in _MONEY.items():
        page.family(
            f"manager_{name}",
            "gauge",
            f"{text} of the running accounts of the fleet.",
            [
                (labels(currency=currency, environment=environment), float(value))
                for (currency, environment), value in sorted(sums.money[name].items())
            ],
        )
    page.family(
        "manager_group_equity",
        "gauge",
        "Equity of a group's running accounts; an account of two groups counts in each.",
        [(_group_labels(key), float(value)) for key, value in sorted(sums.group_equity.items())],
    )
    page.family(
        "manager_group_open_positions",
        "gauge",
        "Open positions of a group's running accounts.",
        [(_group_labels(key), value) for key, value in sorted(sums.group_positions.items())],
    )
    page.family(
        "manager_open_positions",
        "gauge",
        "Open positions of the running accounts.",
        [(labels(environment=environment), count) for environment, count in sorted(sums.positions.items())],
    )


_MONEY: Final = {"equity": "Equity", "balance": "Balance", "profit": "Unrealised profit"}


def _group_labels(key: tuple[str, str, str]) -> str:
    group, currency, environment = key
    return labels(group=group, currency=currency, environment=environment)


def _hosts(page: MetricsText, hosts: Sequence[HostState]) -> None:
    counts = Counter(host.state for host in hosts)
    page.family(
        "manager_hosts", "gauge", "Hosts by state.", [(labels(state=s), n) for s, n in sorted(counts.items())]
    )
    page.family(
        "manager_host_up",
        "gauge",
        "Whether the host's agent reports.",
        [(labels(host=host.name), int(host.live)) for host in hosts],
    )
    reports = {host.name: host.report for host in hosts}
    live = [host for host in hosts if host.live]
    page.family(
        "manager_host_workers",
        "gauge",
        "Workers of the host by state.",
        [
            (labels(host=host.name, state=state), count)
            for host in live
            for state, count in sorted((reports[host.name].states or {}).items())
        ],
    )
    for name, factor, text in _HOST_FIGURES:
        page.family(
            f"manager_host_{name}",
            "gauge",
            text,
            [
                (labels(host=host.name), value * factor)
                for host in live
                if (value := _host_figure(reports[host.name], name)) is not None
            ],
        )
    page.family(
        "manager_host_clock_skew_seconds",
        "gauge",
        "Seconds that the host's clock is ahead of Redis's.",
        [(labels(host=h.name), h.clock_skew_seconds) for h in live if h.clock_skew_seconds is not None],
    )
    page.family(
        "manager_host_last_seen_seconds",
        "gauge",
        "Seconds since the host's agent reported.",
        [(labels(host=h.name), round(h.age_seconds, 3)) for h in hosts if h.age_seconds is not None],
    )
    page.family(
        "manager_host_info",
        "gauge",
        "What the host runs.",
        [
            (
                labels(
                    host=host.name,
                    version=report.version or "",
                    python=report.python or "",
                    tzdata=report.tzdata or "",
                    config_version=report.config_version or "",
                    state=host.state,
                ),
                1,
            )
            for host in hosts
            for report in (reports[host.name],)
        ],
    )


#: (metric, factor to its unit, text).
_HOST_FIGURES: Final = (
    ("memory_available_bytes", 1 << 20, "Memory that the host has left."),
    ("memory_bytes", 1 << 20, "Memory of the host."),
    ("load1", 1, "Load average of the last minute for each processor."),
)


def _host_figure(report: HostReport, metric: str) -> float | None:
    if metric == "load1":
        return report.load
    return report.memory_mb if metric == "memory_bytes" else report.available_mb


def _counters(page: MetricsText, counters: Mapping[str, Mapping[str, float]]) -> None:
    events = [
        (labels(host=host, type=kind), int(value))
        for host, values in sorted(counters.items())
        for kind, value in sorted(values.items())
        if not kind.startswith("start_seconds:")
    ]
    page.family("manager_events_total", "counter", "Events that the host wrote, by type.", events)
    name = "manager_start_seconds"
    rows: list[str] = []
    for host, values in sorted(counters.items()):
        total = 0
        bounds = [*(f"{bound:g}" for bound in START_BUCKETS), "+Inf"]
        if not any(f"start_seconds:{bound}" in values for bound in bounds):
            continue
        for bound in bounds:
            total += int(values.get(f"start_seconds:{bound}", 0))
            rows.append(f"{name}_bucket{labels(host=host, le=bound)} {total}")
        rows.append(f"{name}_sum{labels(host=host)} {values.get('start_seconds:sum', 0.0)}")
        rows.append(f"{name}_count{labels(host=host)} {total}")
    page.lines(name, "histogram", "Seconds from a worker's creation to its connected session.", rows)
