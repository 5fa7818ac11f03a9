"""Models of answers, for the OpenAPI document."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from manager.fleet.run_types import Run
from manager.models import WorkerInfo

StaleSeconds = Annotated[
    float | None, Field(description="Seconds since Redis became unreachable; null: it is reachable.")
]


class FieldError(BaseModel):
    """One wrong value of a request."""

    where: list[str | int]
    message: str


class Problem(BaseModel):
    """An error (RFC 9457). Some codes have additional members."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    retryable: bool
    instance: str
    request_id: str
    errors: list[FieldError]
    docs: str


class Figures(BaseModel):
    """The figures of an account's last heartbeat."""

    at: str | None
    currency: str | None
    balance: str | None
    equity: str | None
    profit: str | None
    margin: str | None
    free_margin: str | None
    margin_level: Any
    open_positions: int | None
    heartbeat_age_seconds: float | None


class Desired(BaseModel):
    """An account's desired state."""

    state: Literal["running", "stopped"]
    generation: int
    by: str
    why: str
    at: datetime
    host: str | None


class AttentionItem(BaseModel):
    """A problem that needs a person."""

    code: str
    severity: Literal["critical", "warning", "info"]
    text: str
    since: datetime | None
    do: str


class Account(BaseModel):
    """An account: its desired state, worker and attention items."""

    account_id: str
    want: Literal["running", "stopped"]
    status: str | None
    health: str
    mode: str
    resting: dict[str, Any] | None
    enabled: bool | None
    gateway: str | None
    groups: list[str]
    labels: dict[str, str]
    host: str | None
    desired: Desired | None
    figures: Figures | None
    config: dict[str, Any]
    software: dict[str, Any]
    #: The account's limits, what its worker uses now, and `state`: `ok` or `exceeded`; None without limits.
    limits: dict[str, Any] | None
    worker: WorkerInfo | None
    attention: list[AttentionItem]


class _Page(BaseModel):
    next: str | None
    total: int


class AccountPage(_Page):
    """A page of accounts."""

    items: list[Account]
    as_of: datetime
    cursor: str
    stale_seconds: StaleSeconds


class WorkerPage(_Page):
    """A page of workers."""

    items: list[WorkerInfo]
    as_of: datetime
    cursor: str
    stale_seconds: StaleSeconds


class Host(BaseModel):
    """A host, as `manager hosts --json` prints it."""

    model_config = ConfigDict(extra="allow")

    name: str
    state: str
    last_seen_seconds: float | None
    clock_skew_seconds: float | None
    drain: dict[str, Any] | None


class HostPage(BaseModel):
    """All hosts."""

    items: list[Host]
    as_of: datetime
    cursor: str
    stale_seconds: StaleSeconds


class FleetSummary(BaseModel):
    """Counts of accounts and hosts, and sums by currency."""

    as_of: datetime
    cursor: str
    stale_seconds: StaleSeconds
    accounts: int
    status: dict[str, int]
    health: dict[str, int]
    want: dict[str, int]
    currencies: dict[str, dict[str, Any]]
    hosts: dict[str, int]
    attention: dict[str, int]


class AuditItem(BaseModel):
    """An entry of the audit trail."""

    id: str
    time: datetime
    stage: str
    what: str
    account_id: str
    by: str
    host: str
    command: str
    outcome: str
    text: str
    recorded_by: str


class RunPage(_Page):
    """A page of an account's runs."""

    items: list[Run]


class AuditPage(BaseModel):
    """A page of the audit trail."""

    items: list[AuditItem]
    next: str | None


class EventItem(BaseModel):
    """An event of the fleet."""

    model_config = ConfigDict(extra="allow")

    id: str
    cursor: str
    time: datetime
    type: str
    host: str
    account_id: str
    worker_id: str
    status: str
    error: str | None
    by: str
    command: str
    data: dict[str, Any]


class EventPage(BaseModel):
    """A page of events."""

    items: list[EventItem]
    next: str


class Counts(BaseModel):
    """The number of accounts by outcome."""

    done: int
    already: int
    resting: int
    skipped: int
    failed: int
    pending: int


class BatchSummary(BaseModel):
    """A batch with its counts."""

    id: str
    do: str
    by: str
    at: datetime
    counts: Counts


class BatchOutcomeOfAccount(BaseModel):
    """The outcome of one account of a batch."""

    outcome: Literal["done", "already", "resting", "skipped", "failed", "pending"]
    text: str | None
    worker: WorkerInfo | None


class BatchDetail(BatchSummary):
    """A batch with the outcome of each account."""

    trouble: str
    accounts: dict[str, BatchOutcomeOfAccount]


class BatchPage(_Page):
    """A page of batches."""

    items: list[BatchSummary]


class Command(BaseModel):
    """A command and its outcome."""

    id: str
    what: str
    account_id: str | None
    host: str | None
    state: Literal["accepted", "done", "failed"]
    outcome: str | None
    by: str
    asked_at: datetime
    done_at: datetime | None
    seconds: float | None
    result: Any
    problem: Problem | None


class CheckItem(BaseModel):
    """One finding of `manager doctor`."""

    code: str
    name: str
    outcome: Literal["ok", "warning", "failure"]
    where: str
    found: str
    advice: str | None


class DoctorReport(BaseModel):
    """The findings of `manager doctor`."""

    ok: bool
    checks: list[CheckItem]


class Who(BaseModel):
    """The sender of a request, and its rights."""

    name: str
    kind: Literal["token", "session"]
    scopes: list[str]
    groups: list[str]
    labels: list[str]


class TokenItem(BaseModel):
    """A token, without its secret."""

    id: str
    name: str
    scopes: list[str]
    groups: list[str]
    labels: list[str]
    read_selection: bool
    logs: bool
    created: datetime
    expires: datetime | None
    by: str
    last_used: datetime | None


class NewToken(TokenItem):
    """A new token, with its secret."""

    token: str


class TokenPage(BaseModel):
    """All tokens."""

    items: list[TokenItem]


class Health(BaseModel):
    """The server runs."""

    status: Literal["ok"]
