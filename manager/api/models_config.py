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
