"""Models of answers about account files, schedules and placement, for the OpenAPI document."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel


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
    #: What the running worker does not have yet, as its host reports it: `key`, `class`, and `old` and `new`
    #: where they may be shown.
    changes: list[dict[str, Any]]


class ConfigDifference(BaseModel):
    """The difference of two versions, as a unified diff."""

    from_version: int
    to_version: int
    lines: list[str]


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


class OverrideReport(BaseModel):
    """An override of an account's schedule."""

    do: Literal["run", "rest"]
    at: str
    until: str
    by: str
    reason: str


class WindowReport(BaseModel):
    """One window of a schedule, in UTC and on the schedule's clock."""

    opens: str
    closes: str
    opens_wall: str
    closes_wall: str
    #: Changes of the clock since the window before, or inside.
    marks: list[str]


class AccountScheduleReport(BaseModel):
    """What an account does now by its schedule, and its windows."""

    account_id: str
    #: The schedule's name; `its own` for one in the account's file, null without a schedule.
    schedule: str | None
    action: Literal["run", "wait", "pause", "close_only", "rest", "stop"]
    until: str | None
    since: str | None
    text: str
    override: OverrideReport | None
    windows: list[WindowReport]


class RolloutSettings(BaseModel):
    """How a rollout proceeds. Times are in seconds."""

    max_unavailable: int
    canary: int
    bake: float
    promote_manually: bool
    min_healthy: float
    healthy_deadline: float
    max_failures: int
    on_failure: Literal["pause", "cancel"]
    when_flat: bool
    flat_deadline: float | None
    on_deadline: Literal["skip", "force"]
    per_host: int


class RolloutReport(BaseModel):
    """A rollout without its accounts."""

    id: str
    to: Literal["config", "software", "both"]
    state: Literal["running", "paused", "done", "cancelled"]
    why: str
    by: str
    started: str
    promoted: bool
    window: str
    options: RolloutSettings


class RolloutMember(BaseModel):
    """One account of a rollout."""

    account_id: str
    state: Literal["waiting", "flat_wait", "restarting", "settling", "done", "failed", "skipped", "overruled"]
    since: str
    canary: bool
    why: str


class RolloutDetail(RolloutReport):
    """A rollout and its accounts, in its sequence."""

    members: list[RolloutMember]


class RolloutList(BaseModel):
    """Rollouts, newest first."""

    items: list[RolloutReport]


class Hold(BaseModel):
    """Changes of an account's file that wait for approval."""

    account_id: str
    version: str
    text: str
    changes: list[dict[str, Any]]


class HoldList(BaseModel):
    """Everything that waits for approval."""

    items: list[Hold]


class Approval(BaseModel):
    """The approved version of an account's file."""

    account_id: str
    version: str
