"""What answers contain, as the OpenAPI document describes it."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from manager.models import WorkerInfo


class FieldError(BaseModel):
    where: list[str | int]
    message: str


class Problem(BaseModel):
    """RFC 9457. Every member is always there; some codes have more of their own."""

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
    state: Literal["running", "stopped"]
    generation: int
    by: str
    why: str
    at: datetime
    host: str | None


class AttentionItem(BaseModel):
    code: str
    severity: Literal["critical", "warning", "info"]
    text: str
    since: datetime | None
    do: str


class Account(BaseModel):
    account_id: str
    want: Literal["running", "stopped"]
    status: str | None
    health: str
    mode: str
    enabled: bool | None
    gateway: str | None
    groups: list[str]
    labels: dict[str, str]
    host: str | None
    desired: Desired | None
    figures: Figures | None
    config: dict[str, Any]
    software: dict[str, Any]
    worker: WorkerInfo | None
    attention: list[AttentionItem]


class _Page(BaseModel):
    next: str | None
    total: int


class AccountPage(_Page):
    items: list[Account]
    as_of: datetime
    cursor: str
    stale_seconds: Annotated[
        float | None, Field(description="Seconds since Redis went away; null: it is there.")
    ]


class WorkerPage(_Page):
    items: list[WorkerInfo]
    as_of: datetime
    cursor: str
    stale_seconds: Annotated[
        float | None, Field(description="Seconds since Redis went away; null: it is there.")
    ]


class Host(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str
    state: str
    last_seen_seconds: float | None
    clock_skew_seconds: float | None
    drain: dict[str, Any] | None


class HostPage(BaseModel):
    items: list[Host]
    as_of: datetime
    cursor: str
    stale_seconds: Annotated[
        float | None, Field(description="Seconds since Redis went away; null: it is there.")
    ]


class FleetSummary(BaseModel):
    as_of: datetime
    cursor: str
    stale_seconds: Annotated[
        float | None, Field(description="Seconds since Redis went away; null: it is there.")
    ]
    accounts: int
    status: dict[str, int]
    health: dict[str, int]
    want: dict[str, int]
    currencies: dict[str, dict[str, Any]]
    hosts: dict[str, int]
    attention: dict[str, int]


class AuditItem(BaseModel):
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


class AuditPage(BaseModel):
    items: list[AuditItem]
    next: str | None


class EventItem(BaseModel):
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
    items: list[EventItem]
    next: str


class Counts(BaseModel):
    done: int
    already: int
    skipped: int
    failed: int
    pending: int


class BatchSummary(BaseModel):
    id: str
    do: str
    by: str
    at: datetime
    counts: Counts


class BatchOutcomeOfAccount(BaseModel):
    outcome: Literal["done", "already", "skipped", "failed", "pending"]
    text: str | None
    worker: WorkerInfo | None


class BatchDetail(BatchSummary):
    trouble: str
    accounts: dict[str, BatchOutcomeOfAccount]


class BatchPage(_Page):
    items: list[BatchSummary]


class Command(BaseModel):
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


class ConfigVersionSummary(BaseModel):
    version: int
    hash: str
    by: str
    time: datetime
    message: str
    files: int


class ConfigVersionDetail(BaseModel):
    version: int
    hash: str
    by: str
    time: datetime
    message: str
    files: dict[str, str]


class ConfigVersionPage(BaseModel):
    items: list[ConfigVersionSummary]
    current: int | None


class ConfigValue(BaseModel):
    key: str
    value: Any
    origin: str


class AccountConfigReport(BaseModel):
    account_id: str
    #: Hash of what the file and the defaults say; None for an invalid file.
    version: str | None
    problems: list[str]
    values: dict[str, Any] | None
    origins: list[ConfigValue] | None


class AccountConfigDifference(BaseModel):
    account_id: str
    running: str | None
    file: str | None
    state: Literal["current", "pending", "not_running", "invalid"]
    problems: list[str]


class ConfigDifference(BaseModel):
    from_version: int
    to_version: int
    lines: list[str]


class CheckItem(BaseModel):
    code: str
    name: str
    outcome: Literal["ok", "warning", "failure"]
    where: str
    found: str
    advice: str | None


class DoctorReport(BaseModel):
    ok: bool
    checks: list[CheckItem]


class PlacementReport(BaseModel):
    account_id: str
    host: str | None
    reason: str
    refused: dict[str, str]
    hosts: dict[str, dict[str, Any]]


class ValidationReport(BaseModel):
    account_id: str
    host: str | None
    valid: bool
    errors: list[str]
    warnings: list[str]


class Who(BaseModel):
    name: str
    kind: Literal["token", "session"]
    scopes: list[str]
    groups: list[str]
    labels: list[str]


class TokenItem(BaseModel):
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
    token: str


class TokenPage(BaseModel):
    items: list[TokenItem]


class Health(BaseModel):
    status: Literal["ok"]
