"""The payloads of tasks: frozen pydantic models with a JSON form."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self
from uuid import uuid4

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    model_validator,
)

from manager.errors import InvalidPayloadError
from manager.states import TradingMode, WorkerHealth, WorkerLifecycleStatus
from manager.versions import __version__


def utc_now() -> datetime:
    """Return the current time, timezone-aware, in UTC."""
    return datetime.now(UTC)


def _to_utc(value: object) -> object:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo else value


#: A timezone-aware time, converted to UTC; a naive datetime is invalid.
UtcDatetime = Annotated[AwareDatetime, BeforeValidator(_to_utc)]


class _Payload(BaseModel):
    """Base of payloads.

    Unknown fields are ignored, so that a host one minor version older can read newer payloads.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: plain dicts, lists, strings and numbers."""
        return self.model_dump(mode="json")

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form with the version of the software that wrote it."""
        return {**self.to_dict(), "version": __version__}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Build from the JSON form.

        Raises InvalidPayloadError (a ValueError) that names both versions if `data` does not fit.
        """
        if not isinstance(data, Mapping):
            raise InvalidPayloadError(f"a {cls.__name__} is an object, not {type(data).__name__}")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, one['loc']))}: {one['msg']}"
                for one in error.errors(include_input=False, include_url=False)
            )
            raise InvalidPayloadError(
                f"a {cls.__name__} of version {str(data.get('version') or 'unknown')[:40]} "
                f"that version {__version__} cannot read: {problems}"
            ) from None


class OpenPayload(BaseModel):
    """Typed view of a JSON object that several versions write.

    A key that is missing or has an invalid value reads as None; unknown keys are kept.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Self:
        """Read a JSON object. Raises for no value in it."""
        return cls.model_validate(dict(data))

    @model_validator(mode="wrap")
    @classmethod
    def _leave_out_invalid(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # A false value in Redis must not break a reader, nor an odd value of a gateway its session.
        try:
            return handler(data)
        except ValidationError as error:
            if not isinstance(data, dict):
                raise
            invalid = {one["loc"][0] for one in error.errors(include_input=False, include_url=False)}
            return handler({name: value for name, value in data.items() if name not in invalid})

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form.

        It has the keys that were set, including those set to None, and unknown keys.
        """
        return self.model_dump(mode="json", exclude_unset=True)


def key(meaning: str, *, by: str, unit: str = "") -> Any:
    """Declare a key of an `OpenPayload`; `by` is the component that writes it.

    docs/reference/payloads.md is generated from these declarations.
    """
    return Field(default=None, description=meaning, json_schema_extra={"unit": unit, "by": by})


#: Bounds beyond any count, clock or figure: arithmetic on a value within them does not overflow.
_BOUND: Final = 10**15
Integer = Annotated[int, Field(ge=-_BOUND, le=_BOUND)]
Count = Annotated[int, Field(ge=0, le=_BOUND)]
Number = Annotated[float, Field(ge=-_BOUND, le=_BOUND)]

_AGENT: Final = "host agent"
_WORKER: Final = "worker"
_READER: Final = "reader"


class WorkerPlacement(OpenPayload):
    """Metadata keys: where and as what the worker runs, and how it ended."""

    host: str | None = key("The host that runs the worker or ran it last.", by=_AGENT)
    pid: Count | None = key("The process id of the worker.", by="host agent, worker")
    gateway: str | None = key("The gateway of the account.", by=_AGENT)
    epoch: Integer | None = key(
        "The fencing token of the worker's lease; it grows with each start.", by=_AGENT
    )
    generation: Integer | None = key("The command that started the worker; 0 if none is recorded.", by=_AGENT)
    version: str | None = key("The version of the software that started the worker.", by=_AGENT)
    config_version: str | None = key("The hash of the configuration that the worker runs with.", by=_AGENT)
    log_file: str | None = key("The path of the worker's log on its host.", by=_AGENT)
    adopted: bool | None = key("Whether a later host agent adopted the running worker.", by=_AGENT)
    restarts: Count | None = key(
        "How often recovery has restarted the worker since the last command.", by=_AGENT
    )
    last_cause: str | None = key("The reason of the last restart by recovery.", by=_AGENT)
    exit_code: Integer | None = key("The exit code of the ended process; negative: a signal.", by=_AGENT)
    error_code: str | None = key("The code of the error that ended the start.", by=_AGENT)
    forced: bool | None = key("Whether the stop had to kill a process.", by=_AGENT)
    renamed_from: str | None = key("The earlier name of the host that runs the worker.", by=_READER)
    already_running: bool | None = key("In a start's result: whether the worker ran before it.", by=_AGENT)
    resting: dict[str, Any] | None = key(
        "Why the account has no worker although it should run: `for` (schedule), `until` (ISO 8601 or null), "
        "`text`, `unmet`.",
        by=_AGENT,
    )
    config: dict[str, Any] | None = key(
        "How the running configuration differs from the account file: `state` (pending, invalid), `file` "
        "(the file's version or null), `text`, `changes` (of each key: `key`, `class`, `old`, `new`). Null: "
        "it does not differ.",
        by=_AGENT,
    )
    limits: dict[str, Any] | None = key("The account's limits; see docs/reference/limits.md.", by=_AGENT)
    exceeded: dict[str, str] | None = key("Limits that it exceeds now → what was measured.", by=_AGENT)
    ended_by_limit: str | None = key("The limit that ended the worker, for example `memory_mb`.", by=_AGENT)
    outcome: str | None = key("In the result of a batch: what the batch did to the account.", by="batch task")


class WorkerMetrics(OpenPayload):
    """Metadata keys: the session's state in the latest heartbeat."""

    health: str | None = key(
        "`healthy`, `degraded`, `unhealthy` or `unknown`.", by="worker, host agent, reader"
    )
    health_reason: str | None = key("Why the health is not `healthy`.", by="worker, host agent, reader")
    can_trade: bool | None = key("Whether the venue accepts orders in this session.", by=_WORKER)
    trading_mode: str | None = key("`normal`, `waiting`, `close_only` or `paused`.", by="worker, host agent")
    program_status: str | None = key(
        "What the program of `gateway: command` reports about itself.", by=_WORKER
    )
    checks: Count | None = key("Health checks of the session so far.", by=_WORKER)
    failed_checks: Count | None = key("How many of them found a problem.", by=_WORKER)
    refusals: Count | None = key("Requests that the venue refused.", by=_WORKER)
    last_refusal: str | None = key(
        "The latest refusal: its code and text, cut at 200 characters.", by=_WORKER
    )
    heartbeat_age_seconds: Number | None = key("Age of the last heartbeat.", by=_READER, unit="seconds")
    last_heartbeat: str | None = key(
        "When the worker sent its last heartbeat.", by=_WORKER, unit="ISO 8601, UTC"
    )
    call: str | None = key("The gateway call that the worker is inside.", by=_WORKER)
    environment: str | None = key("The account's environment as the venue reports it.", by=_WORKER)
    currency: str | None = key("The account's currency.", by=_WORKER)
    balance: str | None = key(
        "The account's balance, as text so that JSON loses no digit.", by=_WORKER, unit="`currency`"
    )
    equity: str | None = key("The account's equity, as text.", by=_WORKER, unit="`currency`")
    profit: str | None = key(
        "Unrealised profit of the open positions, equity less balance, as text.",
        by=_WORKER,
        unit="`currency`",
    )
    margin: str | None = key("The margin in use, as text.", by=_WORKER, unit="`currency`")
    free_margin: str | None = key("The margin that is left, as text.", by=_WORKER, unit="`currency`")
    margin_level: Number | None = key(
        "Equity in percent of the margin in use; missing without an open position.",
        by=_WORKER,
        unit="percent",
    )
    open_positions: Count | None = key("The number of open positions.", by=_WORKER)
    last_tick_age_seconds: Number | None = key(
        "Age of the oldest of the latest ticks, one for each symbol, in the latest cycle.",
        by=_WORKER,
        unit="seconds",
    )
    cycle_seconds: Number | None = key("Duration of the latest cycle.", by=_WORKER, unit="seconds")
    refused_symbols: list[str] | None = key("Symbols that the venue refused in the latest cycle.", by=_WORKER)
    cpu_percent: Number | None = key(
        "CPU time of the worker and every process below it, over about the last ten seconds.",
        by=_WORKER,
        unit="percent of one core",
    )
    cpu_seconds: Number | None = key(
        "CPU time of these processes since the worker started; it never decreases.",
        by=_WORKER,
        unit="seconds",
    )
    memory_bytes: Count | None = key(
        "Memory of these processes, read every 15 seconds while it changes, else every minute. "
        "Shared pages are divided by the number of processes that share them (PSS). "
        "For a program in a control group with a memory controller: the group's memory without inactive file "
        "pages. Outside Linux: each process's private memory.",
        by=_WORKER,
        unit="bytes",
    )
    processes: Count | None = key(
        "How many processes: the worker, its guard and guardian, the program and all that it started.",
        by=_WORKER,
    )
    rss_bytes: Count | None = key(
        "Resident memory of the worker process alone. Do not add it up: it counts shared pages in full.",
        by=_WORKER,
        unit="bytes",
    )
    log_lines_missing: Count | None = key("Log lines lost because the disk refused them.", by=_WORKER)

    def updated(self, *others: "WorkerMetrics") -> "WorkerMetrics":
        """Return a copy with every key that one of `others` sets; later ones win."""
        changes = {name: getattr(one, name) for one in others for name in one.model_fields_set}
        return self.model_copy(update=changes)


class WorkerCreationRequest(_Payload):
    """What a host needs to open one session.

    Contains the password: never send it to another host.
    """

    account_id: str
    login: int | str | None
    password: SecretStr | None = Field(repr=False)
    server: str | None
    #: Login timeout in milliseconds.
    timeout: int = 60_000
    portable: bool = False
    path: str | None = None
    auto_connect: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; the password is `***`."""
        return {**self.model_dump(mode="json"), "password": "***"}


class WorkerInfo(_Payload):
    """What is known of one worker.

    `metadata` holds the keys of `WorkerPlacement` and `WorkerMetrics`. Read them typed with `placement` and
    `metrics`.
    """

    worker_id: str
    account_id: str
    status: WorkerLifecycleStatus
    created_at: UtcDatetime = Field(default_factory=utc_now)
    started_at: UtcDatetime | None = None
    stopped_at: UtcDatetime | None = None
    error: str | None = None
    #: The account's groups and labels when this worker started; empty if an older host did not record them.
    groups: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)

    @property
    def placement(self) -> WorkerPlacement:
        """The metadata about where the worker runs and how it ended.

        Parsed on each access.
        """
        return WorkerPlacement.read(self.metadata)

    @property
    def metrics(self) -> WorkerMetrics:
        """The metadata that the worker measures; parsed on each access."""
        return WorkerMetrics.read(self.metadata)

    @property
    def health(self) -> WorkerHealth:
        """The last reported health; `unknown` if none was reported."""
        try:
            return WorkerHealth(self.metadata.get("health", "unknown"))
        except ValueError:
            return WorkerHealth.UNKNOWN

    @property
    def rest_text(self) -> str:
        """Until when the account rests and why, as one line; empty if it does not rest."""
        resting = self.placement.resting
        return "" if resting is None else str(resting.get("text") or "rests")

    @property
    def trading_mode(self) -> TradingMode:
        """The session's trading mode; `normal` if none was reported."""
        try:
            return TradingMode(self.metadata.get("trading_mode", "normal"))
        except ValueError:
            return TradingMode.NORMAL

    def with_(self, **changes: Any) -> Self:
        """Return a copy with `changes`.

        `metadata`, a mapping or an `OpenPayload`, is merged into the present one.
        """
        if "metadata" in changes:
            new = changes["metadata"]
            changes["metadata"] = {
                **self.metadata,
                **(new.to_dict() if isinstance(new, OpenPayload) else new),
            }
        return self.model_copy(update=changes)


class ValidationResult(_Payload):
    """The result of a validation: errors prevent a start, warnings do not."""

    valid: bool
    account_id: str
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def has_errors(self) -> bool:
        return bool(self.errors)

    @property
    def has_warnings(self) -> bool:
        return bool(self.warnings)


class BatchResult(_Payload):
    """The result of a batch: each account is in exactly one of six mappings."""

    #: Started or stopped by this batch.
    done: dict[str, WorkerInfo] = Field(default_factory=dict)
    #: Already running when the start arrived.
    already: dict[str, WorkerInfo] = Field(default_factory=dict)
    #: Accepted, but at rest until its schedule opens; see `metadata.resting`.
    resting: dict[str, WorkerInfo] = Field(default_factory=dict)
    #: Not attempted → the reason.
    skipped: dict[str, str] = Field(default_factory=dict)
    #: Attempted without success → the reason.
    failed: dict[str, str] = Field(default_factory=dict)
    #: Outcome unknown, because the caller did not wait or because of `trouble` → the id of its task.
    pending: dict[str, str] = Field(default_factory=dict)
    #: Id for reading the batch's progress later; empty if no progress is stored.
    batch_id: str = ""
    #: Why results of `pending` accounts did not arrive although the caller waited; empty if none are missing.
    trouble: str = ""

    @property
    def ok(self) -> bool:
        """Whether no account failed and no awaited result is missing."""
        return not self.failed and not self.trouble

    @property
    def running(self) -> dict[str, WorkerInfo]:
        """The accounts that run after a start: newly started or already running."""
        return {**self.already, **self.done}


def start_part(info: WorkerInfo) -> Literal["done", "already", "resting"]:
    """Return the field of a BatchResult to which a start's answer belongs."""
    if info.metadata.get("resting") is not None:
        return "resting"
    return "already" if info.placement.already_running else "done"


def new_worker_id() -> str:
    """Return a new worker id, unique in the fleet. Each start uses a new one."""
    return f"w-{uuid4().hex[:16]}"
