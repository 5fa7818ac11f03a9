"""Prometheus metrics of a fleet, rendered from the live view at each scrape.

No gauge object outlives its account: an account that is gone is gone in the next scrape. While Redis is away
the page holds `manager_redis_up 0` and no account or host at all, never the last values. Labels of account
series are the account alone; what changes (host, version, groups) is on `manager_account_info`. Text format
0.0.4, without timestamps.
"""

import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal, NamedTuple

from manager.fleet.events import START_BUCKETS
from manager.fleet.host_report import HostReport
from manager.fleet.hosts import HostState
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus
from manager.telemetry.attention import Attention
from manager.telemetry.fleet_reader import AccountRow
from manager.versions import __version__

#: Accounts up to which `auto` shows every account.
_AUTO_ACCOUNTS: Final = 1_000
_MAX_GROUPS: Final = 128
#: A figure beyond this is not shown: Prometheus refuses the whole page for a number that it cannot read.
_MOST: Final = 1e18

AccountsShown = Literal["auto", "all", "attention", "none"]


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


class _Page:
    """Collects lines in the text format."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, text: str, samples: Iterable[tuple[str, object]]) -> None:
        """Add a family; `samples` are (labels in braces or empty, value). One without samples is left out."""
        rows = [f"{name}{labels} {value}" for labels, value in samples]
        if rows:
            self._lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *rows]

    def histogram(self, name: str, text: str, rows: Iterable[tuple[str, object]]) -> None:
        """Add a histogram; `rows` are (suffix and labels, value)."""
        lines = [f"{name}{suffix} {value}" for suffix, value in rows]
        if lines:
            self._lines += [f"# HELP {name} {text}", f"# TYPE {name} histogram", *lines]

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def render(figures: FleetFigures, *, shown: AccountsShown = "auto") -> str:
    """Return the page of one scrape."""
    page = _Page()
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
        _fleet(page, figures)
        _hosts(page, figures.hosts)
        _counters(page, figures.counters)
        _accounts(page, figures, shown)
    return page.text()


def labels(**values: object) -> str:
    """Return labels in braces, escaped as the text format demands."""
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in values.items())
    return f"{{{inside}}}"


def _escaped(value: object) -> str:
    text = str(value)
    if '"' in text or "\\" in text or "\n" in text:
        text = text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return text


def _fleet(page: _Page, figures: FleetFigures) -> None:
    states: Counter[tuple[str, str]] = Counter()
    health: Counter[str] = Counter()
    positions: Counter[str] = Counter()
    money: dict[str, dict[tuple[str, str], Decimal]] = {name: defaultdict(Decimal) for name in _MONEY}
    group_equity: dict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
    group_positions: Counter[tuple[str, str, str]] = Counter()
    for account in figures.accounts:
        worker = account.worker
        states[account.status or "none", account.want] += 1
        if worker is None or worker.status != WorkerLifecycleStatus.RUNNING:
            continue
        health[str(worker.health)] += 1
        data = worker.metadata
        where = (str(data.get("currency") or ""), str(data.get("environment") or ""))
        for name in _MONEY:
            value = _decimal(data.get(name))
            if value is not None:
                money[name][where] += value
        held = _count(data.get("open_positions"))
        positions[where[1]] += held
        equity = _decimal(data.get("equity"))
        for group in account.groups:
            group_positions[(group, *where)] += held
            if equity is not None:
                group_equity[(group, *where)] += equity
    page.family(
        "manager_accounts",
        "gauge",
        "Accounts by the state of their worker and by desired state.",
        [(labels(state=state, want=want), count) for (state, want), count in sorted(states.items())],
    )
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
        "What a person should look at, by code.",
        [(labels(code=code, severity=severity), count) for (code, severity), count in sorted(codes.items())],
    )
    for name, text in _MONEY.items():
        page.family(
            f"manager_{name}",
            "gauge",
            f"{text} of the running accounts of the fleet.",
            [
                (labels(currency=currency, environment=environment), float(value))
                for (currency, environment), value in sorted(money[name].items())
            ],
        )
    page.family(
        "manager_group_equity",
        "gauge",
        "Equity of a group's running accounts; an account of two groups counts in each.",
        [(_group_labels(key), float(value)) for key, value in sorted(group_equity.items())],
    )
    page.family(
        "manager_group_open_positions",
        "gauge",
        "Open positions of a group's running accounts.",
        [(_group_labels(key), value) for key, value in sorted(group_positions.items())],
    )
    page.family(
        "manager_open_positions",
        "gauge",
        "Open positions of the running accounts.",
        [(labels(environment=environment), count) for environment, count in sorted(positions.items())],
    )


_MONEY: Final = {"equity": "Equity", "balance": "Balance", "profit": "Unrealised profit"}


def _group_labels(key: tuple[str, str, str]) -> str:
    group, currency, environment = key
    return labels(group=group, currency=currency, environment=environment)


def _hosts(page: _Page, hosts: Sequence[HostState]) -> None:
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


def _counters(page: _Page, counters: Mapping[str, Mapping[str, float]]) -> None:
    events = [
        (labels(host=host, type=kind), int(value))
        for host, values in sorted(counters.items())
        for kind, value in sorted(values.items())
        if not kind.startswith("start_seconds:")
    ]
    page.family("manager_events_total", "counter", "Events that the host wrote, by type.", events)
    rows: list[tuple[str, object]] = []
    for host, values in sorted(counters.items()):
        total = 0
        bounds = [*(f"{bound:g}" for bound in START_BUCKETS), "+Inf"]
        if not any(f"start_seconds:{bound}" in values for bound in bounds):
            continue
        for bound in bounds:
            total += int(values.get(f"start_seconds:{bound}", 0))
            rows.append((f"_bucket{labels(host=host, le=bound)}", total))
        rows.append((f"_sum{labels(host=host)}", values.get("start_seconds:sum", 0.0)))
        rows.append((f"_count{labels(host=host)}", total))
    page.histogram(
        "manager_start_seconds", "Seconds from a worker's creation to its connected session.", rows
    )


def _accounts(page: _Page, figures: FleetFigures, shown: AccountsShown) -> None:
    accounts = figures.accounts
    noticed = {one.account_id for one in figures.attention}
    if shown == "none":
        chosen: list[AccountRow] = []
    elif shown == "attention" or (shown == "auto" and len(accounts) > _AUTO_ACCOUNTS):
        chosen = [account for account in accounts if account.account_id in noticed]
    else:
        chosen = list(accounts)
    omitted = len(accounts) - len(chosen)
    page.family("manager_accounts_omitted", "gauge", "Accounts without their own series.", [("", omitted)])
    rows = [
        _Shown(one, labels(account=one.account_id), one.worker) for one in chosen if one.worker is not None
    ]
    page.family(
        "manager_account_info", "gauge", "What the account runs.", [(_info_labels(row), 1) for row in rows]
    )
    page.family(
        "manager_account_state",
        "gauge",
        "The state of the account's worker; the present one only.",
        [(labels(account=row.account.account_id, state=row.worker.status), 1) for row in rows],
    )
    running = [row for row in rows if row.worker.status == WorkerLifecycleStatus.RUNNING]
    page.family(
        "manager_account_health",
        "gauge",
        "The health of the account's worker; the present one only.",
        [(labels(account=row.account.account_id, health=row.worker.health), 1) for row in running],
    )
    known = [row for row in rows if row.worker.status != WorkerLifecycleStatus.UNKNOWN]
    _account_figures(page, known, running, figures.heartbeat_ages)


class _Shown(NamedTuple):
    """An account with series of its own."""

    account: AccountRow
    #: The label `account` in braces.
    label: str
    worker: WorkerInfo


def _account_figures(
    page: _Page, known: Sequence[_Shown], running: Sequence[_Shown], heartbeat_ages: Mapping[str, float]
) -> None:
    for name, text in (("equity", "Equity"), ("balance", "Balance")):
        page.family(
            f"manager_account_{name}",
            "gauge",
            f"{text} of the account.",
            [
                (_money_labels(row), float(value))
                for row in running
                if (value := _decimal(row.worker.metadata.get(name))) is not None
            ],
        )
    for metric, kind, key, text, only_running in _ACCOUNT_FIGURES:
        page.family(
            f"manager_account_{metric}",
            kind,
            text,
            [
                (row.label, figure)
                for row in (running if only_running else known)
                if (figure := _number(row.worker.metadata.get(key))) is not None
            ],
        )
    page.family(
        "manager_account_heartbeat_age_seconds",
        "gauge",
        "Seconds since the worker's last heartbeat.",
        [
            (row.label, round(age, 3))
            for row in running
            if (age := heartbeat_ages.get(row.account.account_id)) is not None
        ],
    )
    page.family(
        "manager_account_start_time_seconds",
        "gauge",
        "When the account's worker was started, seconds since the epoch.",
        [
            (row.label, round(row.worker.started_at.timestamp(), 3))
            for row in known
            if row.worker.started_at is not None
        ],
    )


#: (metric, kind, key of the metadata, text, of running workers only).
_ACCOUNT_FIGURES: Final = (
    ("margin_level", "gauge", "margin_level", "Equity in percent of margin.", True),
    ("open_positions", "gauge", "open_positions", "Open positions of the account.", True),
    ("memory_bytes", "gauge", "memory_bytes", "Memory of the worker and its processes (PSS).", True),
    ("cpu_seconds_total", "counter", "cpu_seconds", "CPU time of the worker and its processes.", True),
    ("restarts_total", "counter", "restarts", "Restarts since the last command.", False),
)


def _money_labels(row: _Shown) -> str:
    return labels(account=row.account.account_id, currency=row.worker.metadata.get("currency") or "")


def _info_labels(row: _Shown) -> str:
    data = row.worker.metadata
    return labels(
        account=row.account.account_id,
        host=data.get("host", ""),
        gateway=data.get("gateway", ""),
        environment=data.get("environment") or "",
        groups=",".join(row.account.groups)[:_MAX_GROUPS],
        version=data.get("version", ""),
        config_version=data.get("config_version", ""),
    )


def _number(value: object) -> float | int | None:
    """Return a figure that Prometheus can read; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_MOST < value < _MOST:
        return None
    return value


def _count(value: object) -> int:
    found = _number(value)
    return found if isinstance(found, int) else 0


def _decimal(value: Any) -> Decimal | None:
    """Return an amount that Prometheus can read; None for anything else."""
    try:
        found = Decimal(str(value)) if isinstance(value, str | int) else None
    except InvalidOperation:
        return None
    return found if found is not None and found.is_finite() and -_MOST < found < _MOST else None
