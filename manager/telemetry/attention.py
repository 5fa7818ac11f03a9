"""Attention items: problems of accounts and hosts that need a person.

Doctor, `ps`, the API, metrics and notifications all use this module. An `Attention` has a stable code, a
severity, a start time, a text that names the cause, and the next step.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from manager.errors import AuthenticationRefusedError, CredentialError, WrongAccountError
from manager.fleet.desired import DesiredState
from manager.fleet.desired_store import DesiredSnapshot
from manager.fleet.hosts import HostState
from manager.models import WorkerInfo
from manager.states import SETTLED, WorkerHealth, WorkerLifecycleStatus

#: Seconds after a command or a move in which an account may have no worker yet.
GRACE_SECONDS: Final = 5.0
#: Seconds by which a host's clock may differ from Redis's.
CLOCK_SKEW_SECONDS: Final = 2.0


class Severity(StrEnum):
    """The urgency of an attention item. The values are wire contract."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


_URGENCY: Final = {Severity.CRITICAL: 0, Severity.WARNING: 1, Severity.INFO: 2}

#: Every code with its severity, the most urgent first.
CODES: Final = {
    "not_running": Severity.CRITICAL,
    "failed": Severity.CRITICAL,
    "wrong_account": Severity.CRITICAL,
    "credential_refused": Severity.CRITICAL,
    "host_lost": Severity.CRITICAL,
    "unhealthy": Severity.WARNING,
    "unknown": Severity.WARNING,
    "degraded": Severity.WARNING,
    "invalid_config": Severity.WARNING,
    "rolled_back": Severity.WARNING,
    "hold": Severity.WARNING,
    "config_vanished": Severity.WARNING,
    "limit_exceeded": Severity.WARNING,
    "clock_skew": Severity.WARNING,
    "version_old": Severity.INFO,
    "config_pending": Severity.INFO,
}

_PLACES: Final = {code: place for place, code in enumerate(CODES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """One attention item. `since` is None if unknown."""

    code: str
    text: str
    do: str
    since: datetime | None = None
    account_id: str = ""
    host: str = ""

    @property
    def severity(self) -> Severity:
        return CODES[self.code]

    @property
    def urgency(self) -> int:
        """The place of its code in `CODES`; 0 is the most urgent."""
        return _PLACES[self.code]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; times are RFC 3339 in UTC."""
        since = None if self.since is None else self.since.isoformat()
        return {**asdict(self), "severity": str(self.severity), "since": since}


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountState:
    """One account: its desired state, its worker and its host."""

    account_id: str
    worker: WorkerInfo | None = None
    desired: DesiredState | None = None
    #: The host of its current or last worker, else the host in desired state. None if that host never
    #: reported.
    host: HostState | None = None


def account_states(
    hosts: Iterable[HostState], workers: Iterable[WorkerInfo], snapshot: DesiredSnapshot | None
) -> tuple[list[AccountState], float]:
    """Return every account that has a worker or a desired state, by account id, and Redis's clock.

    The clock is in seconds since the epoch; 0 without a snapshot of desired state.
    """
    by_name = {host.name: host for host in hosts}
    known = {info.account_id: info for info in workers}
    desired = {} if snapshot is None else snapshot.desired
    accounts: list[AccountState] = []
    for account_id in sorted({*known, *desired}):
        worker, state = known.get(account_id), desired.get(account_id)
        recorded = "" if worker is None else str(worker.metadata.get("host") or "")
        host = by_name.get(recorded or ("" if state is None else state.host))
        accounts.append(AccountState(account_id=account_id, worker=worker, desired=state, host=host))
    return accounts, 0.0 if snapshot is None else snapshot.now / 1000


def account_attention(account: AccountState, now: float) -> list[Attention]:
    """Return an account's attention items, most urgent first.

    `now` is Redis's clock in seconds since the epoch.
    """
    found = list(_of_account(account, now))
    return sorted(found, key=lambda one: _URGENCY[one.severity])


def host_attention(host: HostState, accounts: int) -> Iterator[Attention]:
    """Yield a host's attention items.

    `accounts` is the number of its accounts that should run.
    """
    skew = host.clock_skew_seconds
    if host.state == "lost" and accounts:
        age = host.age_seconds or 0.0
        yield Attention(
            code="host_lost",
            host=host.name,
            text=f"host {host.name} has not reported for {age:.0f} s; {accounts} of its accounts should run",
            do=(
                f"start the host agent on {host.name}; if the host is permanently lost, move its accounts "
                "with --force"
            ),
        )
    if host.live and skew is not None and abs(skew) > CLOCK_SKEW_SECONDS:
        yield Attention(
            code="clock_skew",
            host=host.name,
            text=f"the clock of host {host.name} differs by {skew:+.1f} s from Redis's",
            do=f"set the clock of {host.name} by NTP",
        )


def worst(found: Iterable[Attention]) -> Severity | None:
    """Return the highest severity of some items, or None."""
    return min((one.severity for one in found), key=_URGENCY.__getitem__, default=None)


def should_run_but_does_not(account: AccountState, now: float) -> bool:
    """Return whether an account lacks its worker after the grace time."""
    desired, worker = account.desired, account.worker
    if desired is None or not desired.running or (worker is not None and worker.status not in SETTLED):
        return False
    if worker is not None and _rests(worker, now):
        return False
    return now - max(desired.at, desired.claimed) / 1000 > GRACE_SECONDS


def _rests(worker: WorkerInfo, now: float) -> bool:
    """Return whether the account has no worker because of its schedule, and its rest has not ended."""
    resting = worker.placement.resting
    if resting is None:
        return False
    try:
        until = datetime.fromisoformat(str(resting["until"])).timestamp()
    except (KeyError, ValueError):
        return True  # it has no end within the horizon of a schedule
    return now < until + GRACE_SECONDS


def _of_account(account: AccountState, now: float) -> Iterator[Attention]:
    worker = account.worker
    missing = should_run_but_does_not(account, now)
    if worker is not None and worker.status is WorkerLifecycleStatus.FAILED:
        if missing or account.desired is None or account.desired.running:
            yield _failed(worker)
    elif missing:
        yield _not_running(account)
    if worker is None:
        return
    if worker.status is WorkerLifecycleStatus.UNKNOWN:
        yield Attention(
            code="unknown",
            account_id=account.account_id,
            text=worker.error or "nothing is known of its worker",
            do=(
                f"`manager doctor` checks its host; `manager info {account.account_id}` shows what was "
                "last known"
            ),
        )
    elif worker.status is WorkerLifecycleStatus.RUNNING:
        yield from _of_running(account.account_id, worker, account.host)


def _failed(worker: WorkerInfo) -> Attention:
    code = _FAILURES.get(str(worker.metadata.get("error_code") or ""), "failed")
    return Attention(
        code=code,
        account_id=worker.account_id,
        since=worker.stopped_at,
        text=worker.error or "its worker failed",
        do=(
            f"`manager logs {worker.account_id}` shows why; `manager start {worker.account_id}` starts it "
            "again"
        ),
    )


#: Code of the error that ended a worker → attention code.
_FAILURES: Final = {
    AuthenticationRefusedError.code: "credential_refused",
    CredentialError.code: "credential_refused",
    WrongAccountError.code: "wrong_account",
}


def _not_running(account: AccountState) -> Attention:
    desired, host = account.desired, account.host
    assert desired is not None
    since = datetime.fromtimestamp(max(desired.at, desired.claimed) / 1000, UTC)
    account_id = account.account_id
    if host is not None and host.live and host.draining:
        text = f"should run, but its host {host.name} is drained"
        do = f"`manager resume-host {host.name}` starts it again"
    elif host is not None and not host.live:
        text = f"should run, but its host {host.name} is {host.state}"
        do = (
            f"start the host agent on {host.name}; if the host is permanently lost: "
            f"`manager move {account_id} --to HOST --force`"
        )
    else:
        text = f"should run on {desired.host or 'any host'} but has no worker"
        do = f"`manager info {account_id}` shows why"
    return Attention(code="not_running", account_id=account_id, since=since, text=text, do=do)


def _of_running(account_id: str, worker: WorkerInfo, host: HostState | None) -> Iterator[Attention]:
    health = worker.health
    if health in (WorkerHealth.UNHEALTHY, WorkerHealth.DEGRADED):
        yield Attention(
            code=str(health),
            account_id=account_id,
            text=str(worker.metadata.get("health_reason") or f"its session is {health}"),
            do=f"`manager logs {account_id}` shows what the session reports",
        )
    yield from _of_config(account_id, worker)
    for limit, text in sorted((worker.placement.exceeded or {}).items()):
        yield Attention(
            code="limit_exceeded",
            account_id=account_id,
            text=text,
            do=f"raise limits.{limit}, or find why it needs more; `manager events` shows the trend",
        )
    version = str(worker.metadata.get("version") or "")
    current = str(host.data.get("version") or "") if host is not None and host.live else ""
    if version and current and version != current:
        yield Attention(
            code="version_old",
            account_id=account_id,
            text=f"runs version {version}; its host has {current}",
            do=f"`manager restart {account_id}` brings it to version {current}",
        )


#: State of `metadata.config` → code, text and what to do; `{text}` is the state's text.
_CONFIG: Final[Mapping[str, tuple[str, str, str]]] = {
    "invalid": (
        "invalid_config",
        "its file is invalid, so it runs as before: {text}",
        "correct the file; `manager validate {account}` shows every problem",
    ),
    "rolled_back": (
        "rolled_back",
        "{text}",
        "correct the file, or `manager restart {account}` tries it again",
    ),
    "held": (
        "hold",
        "{text}",
        "`manager reload {account}` shows the changes, `manager approve` applies them",
    ),
    "vanished": (
        "config_vanished",
        "{text}",
        "bring the files back, or `manager stop {account}` if it is meant to end",
    ),
}
_PENDING: Final = ("config_pending", "{text}", "`manager reload {account}` shows what waits")


def _of_config(account_id: str, worker: WorkerInfo) -> Iterator[Attention]:
    state = worker.placement.config
    if state is None:
        return
    code, text, do = _CONFIG.get(str(state.get("state")), _PENDING)
    reason = str(state.get("text") or "it differs from its file")
    yield Attention(
        code=code,
        account_id=account_id,
        text=text.replace("{text}", reason),
        do=do.replace("{account}", account_id),
    )


def count_by_code(found: Iterable[Attention]) -> Mapping[tuple[str, Severity], int]:
    """Count attention items by code."""
    counts: dict[tuple[str, Severity], int] = {}
    for one in found:
        key = (one.code, one.severity)
        counts[key] = counts.get(key, 0) + 1
    return counts
