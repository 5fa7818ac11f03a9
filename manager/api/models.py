"""Models of requests and answers, for the OpenAPI document."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from manager.models import WorkerInfo
from manager.placement.labels import Selection
from manager.pool.arguments import MAX_TIMEOUT


def _integral(value: object) -> object:
    """Convert `1.0` to `1`, as JSON Schema does; `true` is not converted."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_INTEGRAL = BeforeValidator(_integral)
AccountId = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Group = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Label = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}(=[A-Za-z0-9._:/@+-]{0,128})?$", max_length=200
    ),
]


def _required(*names: str) -> Callable[[dict[str, Any]], None]:
    """Document members as required that the routes check themselves.

    Their absence has its own status.
    """

    def change(schema: dict[str, Any]) -> None:
        schema["required"] = sorted({*schema.get("required", ()), *names})
        for name in names:
            _without_null(schema["properties"][name])

    return change


def _one_of(*names: str) -> Callable[[dict[str, Any]], None]:
    """Document that exactly one of the members is given."""

    def change(schema: dict[str, Any]) -> None:
        schema["oneOf"] = [{"required": [name]} for name in names]
        for name in names:
            _without_null(schema["properties"][name])

    return change


def _ways(schema: dict[str, Any]) -> None:
    """Document that accounts are selected in exactly one way."""
    properties = schema["properties"]
    _without_null(properties["accounts"])
    for name in ("groups", "labels"):
        properties[name]["minItems"] = 1
        properties[name].pop("default", None)
    properties["all"] = {"const": True, "type": "boolean", "description": properties["all"]["description"]}
    given = {name: {"required": [name]} for name in ("accounts", "all", "groups", "labels")}
    grouped = {"anyOf": [given["groups"], given["labels"]]}
    schema["oneOf"] = [
        {**given["accounts"], "not": {"anyOf": [given["all"], grouped]}},
        {**given["all"], "not": {"anyOf": [given["accounts"], grouped]}},
        {**grouped, "not": {"anyOf": [given["accounts"], given["all"]]}},
    ]


def _without_null(schema: dict[str, Any]) -> None:
    schema |= next(one for one in schema.pop("anyOf") if one.get("type") != "null")
    schema.pop("default", None)


class Strict(BaseModel):
    """A request body without unknown members or type conversion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StartBody(Strict):
    """Options of a start."""

    apply_defaults: Annotated[
        bool, Field(description="Fill missing keys of the account file from the defaults.")
    ] = True
    validate_first: Annotated[
        bool, Field(alias="validate", description="Refuse to start an invalid account.")
    ] = True


class StopBody(Strict):
    """Options of a stop."""

    timeout_seconds: Annotated[
        float | None,
        Field(
            ge=0,
            le=MAX_TIMEOUT,
            description="Kill the worker after this time; null: the time in its account file.",
        ),
    ] = None


class NoOptions(Strict):
    """A command without options."""


class MoveBody(Strict):
    """The target of a move."""

    host: Annotated[
        str, StringConstraints(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    ]
    force: Annotated[
        bool,
        Field(description="Move without proof that the old worker ended: only if its host is lost for good."),
    ] = False


class SelectBody(Strict):
    """Selects accounts: by id, by groups and labels, or all.

    An account must be in one of `groups` and have all of `labels`. `state` narrows the selection further.
    """

    model_config = ConfigDict(json_schema_extra=_ways)

    accounts: Annotated[list[AccountId] | None, Field(min_length=1, max_length=10_000)] = None
    groups: Annotated[list[Group], Field(max_length=100)] = []
    labels: Annotated[list[Label], Field(max_length=100, description="`k` or `k=v`")] = []
    state: (
        Literal["created", "starting", "running", "stopping", "stopped", "failed", "restarting", "unknown"]
        | None
    ) = None
    all: Annotated[bool, Field(description="All accounts; required if no other member selects.")] = False

    @property
    def selection(self) -> Selection:
        """The selection by `groups` and `labels`; all if both are empty."""
        return Selection(tuple(self.groups), tuple(self.labels))


class BatchBody(Strict):
    """One command for many accounts."""

    model_config = ConfigDict(json_schema_extra=_required("expect"))

    do: Literal["start", "stop", "restart", "pause", "resume"]
    select: SelectBody
    expect: Annotated[
        Annotated[int, Field(ge=1, le=1_000_000)] | None,
        Field(description="The number of selected accounts; if it differs, nothing is done."),
        _INTEGRAL,
    ] = None
    apply_defaults: bool = True
    validate_first: Annotated[bool, Field(alias="validate")] = True
    timeout_seconds: Annotated[float | None, Field(ge=0, le=MAX_TIMEOUT)] = None


class DrainBody(Strict):
    """Options of a drain, with its confirmation."""

    model_config = ConfigDict(json_schema_extra=_required("confirm"))

    confirm: Annotated[str | None, Field(max_length=63, description="The host's name.")] = None
    mode: Literal["move", "stop"] = "move"
    when_flat: bool = False
    deadline_seconds: Annotated[float | None, Field(gt=0, le=7 * 86_400)] = None


class ConfirmBody(Strict):
    """The confirmation of a command for a host."""

    model_config = ConfigDict(json_schema_extra=_required("confirm"))

    confirm: Annotated[str | None, Field(max_length=63, description="The host's name.")] = None


class RollbackBody(Strict):
    """The version to push again."""

    version: Annotated[int, Field(ge=1, le=10**9), _INTEGRAL]


class LoginBody(Strict):
    """A one-time code, or a token."""

    model_config = ConfigDict(json_schema_extra=_one_of("code", "token"))

    code: Annotated[str | None, Field(max_length=100)] = None
    token: Annotated[str | None, Field(max_length=100)] = None


class TokenBody(Strict):
    """A token to create."""

    name: Annotated[
        str, StringConstraints(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    ]
    scopes: Annotated[
        list[Literal["read", "metrics", "operate", "configure", "kill", "admin"]],
        Field(min_length=1, max_length=6),
    ]
    groups: Annotated[list[Group], Field(max_length=100)] = []
    labels: Annotated[list[Label], Field(max_length=100)] = []
    read_selection: bool = False
    logs: bool = True
    expires_seconds: Annotated[float | None, Field(gt=0, le=10 * 365 * 86_400)] = 90 * 86_400.0


# answers


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
    """A page of accounts."""

    items: list[Account]
    as_of: datetime
    cursor: str
    stale_seconds: Annotated[
        float | None, Field(description="Seconds since Redis became unreachable; null: it is reachable.")
    ]


class WorkerPage(_Page):
    """A page of workers."""

    items: list[WorkerInfo]
    as_of: datetime
    cursor: str
    stale_seconds: Annotated[
        float | None, Field(description="Seconds since Redis became unreachable; null: it is reachable.")
    ]


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
    stale_seconds: Annotated[
        float | None, Field(description="Seconds since Redis became unreachable; null: it is reachable.")
    ]


class FleetSummary(BaseModel):
    """Counts of accounts and hosts, and sums by currency."""

    as_of: datetime
    cursor: str
    stale_seconds: Annotated[
        float | None, Field(description="Seconds since Redis became unreachable; null: it is reachable.")
    ]
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

    outcome: Literal["done", "already", "skipped", "failed", "pending"]
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


class ConfigVersionSummary(BaseModel):
    """A version of the account files, without their content."""

    version: int
    hash: str
    by: str
    time: datetime
    message: str
    files: int


class ConfigVersionDetail(BaseModel):
    """A version of the account files, with their content."""

    version: int
    hash: str
    by: str
    time: datetime
    message: str
    files: dict[str, str]


class ConfigVersionPage(BaseModel):
    """The stored versions of the account files."""

    items: list[ConfigVersionSummary]
    current: int | None


class ConfigDifference(BaseModel):
    """The difference of two versions, as a unified diff."""

    from_version: int
    to_version: int
    lines: list[str]


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


class PlacementReport(BaseModel):
    """The host that placement chooses, and the reasons."""

    account_id: str
    host: str | None
    reason: str
    refused: dict[str, str]
    hosts: dict[str, dict[str, Any]]


class ValidationReport(BaseModel):
    """The problems of an account's files."""

    account_id: str
    host: str | None
    valid: bool
    errors: list[str]
    warnings: list[str]


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
