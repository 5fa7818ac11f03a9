"""The wire contract: what tasks take and return, as frozen pydantic models that are JSON both ways."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Self
from uuid import uuid4

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)

from manager.errors import InvalidPayloadError
from manager.states import TradingMode, WorkerHealth, WorkerLifecycleStatus
from manager.versions import __version__


def utc_now() -> datetime:
    """Return the present moment, timezone-aware, in UTC."""
    return datetime.now(UTC)


def _to_utc(value: object) -> object:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo else value


#: A timezone-aware moment, always in UTC; a naive datetime is refused.
UtcDatetime = Annotated[AwareDatetime, BeforeValidator(_to_utc)]


class _Payload(BaseModel):
    """Ignores unknown fields, so that a host one minor version older reads what a newer one writes."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: plain dicts, lists, strings and numbers."""
        return self.model_dump(mode="json")

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form as it travels: with the version of the software that wrote it."""
        return {**self.to_dict(), "version": __version__}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Build from the JSON form. Raises InvalidPayloadError, a ValueError, which names both versions, if it does not fit."""
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
                f"a {cls.__name__} of version {str(data.get('version') or 'unknown')[:40]} that version {__version__} "
                f"cannot read: {problems}"
            ) from None


class WorkerCreationRequest(_Payload):
    """What a host needs to open one session. Never leaves the host: it holds the password."""

    account_id: str
    login: int | str | None
    password: SecretStr | None = Field(repr=False)
    server: str | None
    #: Milliseconds that the login may take.
    timeout: int = 60_000
    portable: bool = False
    path: str | None = None
    auto_connect: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form with the password masked as `***`."""
        return {**self.model_dump(mode="json"), "password": "***"}


class WorkerInfo(_Payload):
    """What is known of one worker.

    `metadata` carries host, pid, gateway, software and configuration version, and the latest health and account
    figures (`health`, `balance`, `equity`, `currency`, `open_positions`, `last_heartbeat`, …). Money is text, in
    the account's currency, so that no digit is lost in JSON.
    """

    worker_id: str
    account_id: str
    status: WorkerLifecycleStatus
    created_at: UtcDatetime = Field(default_factory=utc_now)
    started_at: UtcDatetime | None = None
    stopped_at: UtcDatetime | None = None
    error: str | None = None
    #: By which commands select the account, as they were when this worker started; empty where an older host says
    #: nothing of them.
    groups: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)

    @property
    def health(self) -> WorkerHealth:
        """The health that the worker last reported, `unknown` where it reported none."""
        try:
            return WorkerHealth(self.metadata.get("health", "unknown"))
        except ValueError:
            return WorkerHealth.UNKNOWN

    @property
    def trading_mode(self) -> TradingMode:
        """How its session may trade; `normal` where the worker reported nothing else."""
        try:
            return TradingMode(self.metadata.get("trading_mode", "normal"))
        except ValueError:
            return TradingMode.NORMAL

    def with_(self, **changes: Any) -> Self:
        """Return a copy with `changes`; `metadata` is merged over the present one."""
        if "metadata" in changes:
            changes["metadata"] = {**self.metadata, **changes["metadata"]}
        return self.model_copy(update=changes)


class ValidationResult(_Payload):
    """The outcome of validating one account: errors forbid a start, warnings do not."""

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
    """What became of every account that a batch was asked about; each account is in exactly one of the fields."""

    #: Started by this batch, or stopped by it.
    done: dict[str, WorkerInfo] = Field(default_factory=dict)
    #: Ran already when the start arrived.
    already: dict[str, WorkerInfo] = Field(default_factory=dict)
    #: Not attempted, and why.
    skipped: dict[str, str] = Field(default_factory=dict)
    #: Attempted without success, and why.
    failed: dict[str, str] = Field(default_factory=dict)
    #: Not answered, since the caller did not stay or `trouble` kept the answer away → the id of its task.
    pending: dict[str, str] = Field(default_factory=dict)
    #: By which its progress is found again; empty where nobody keeps that.
    batch_id: str = ""
    #: Why the answers of those that are `pending` did not come though they were waited for; empty if none
    #: are.
    trouble: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing failed, and nothing that was waited for is unknown."""
        return not self.failed and not self.trouble

    @property
    def running(self) -> dict[str, WorkerInfo]:
        """Those that a start left running: newly started or already there."""
        return {**self.already, **self.done}


def new_worker_id() -> str:
    """Return a new worker id: unique in the fleet, new at every start."""
    return f"w-{uuid4().hex[:16]}"
