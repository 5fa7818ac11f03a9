"""The configuration of an account's limits.

The models check types and structure; `manager.validation.limit_rules` checks ranges.
"""

from datetime import timedelta
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from manager.config.field_types import Count, Number, Switch
from manager.config.models_schedule import Duration

#: The limits, in the sequence in which they are judged.
LIMITS: Final = ("memory_hard_mb", "memory_mb", "cpu_percent", "open_files", "processes")


class LimitsConfig(BaseModel):
    """What the worker and everything that it starts may use. None: no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: Megabytes (MiB) of memory. Shared pages are divided by the number of processes that share them (PSS).
    memory_mb: Count | None = None
    #: Megabytes at which the worker is killed at once.
    memory_hard_mb: Count | None = None
    #: Percent of one core, as the mean over `cpu_window`.
    cpu_percent: Number | None = None
    cpu_window: Duration = timedelta(seconds=60)
    #: Open files of one process.
    open_files: Count | None = None
    processes: Count | None = None
    #: What happens to a worker that exceeds a limit; `throttle` is for `cpu_percent` alone.
    on_exceed: Literal["restart", "stop", "pause", "warn", "throttle"] = "restart"
    #: Whether a restart or stop waits until the account has no open position, at most `grace`.
    when_flat: Switch = True
    grace: Duration = timedelta(minutes=10)

    @property
    def given(self) -> dict[str, float]:
        """The limits that are set, by name."""
        values = {name: getattr(self, name) for name in LIMITS}
        return {name: value for name, value in values.items() if value is not None}

    def action(self, limit: str) -> str:
        """Return what happens when `limit` is exceeded: a value of `on_exceed`, or `kill`."""
        if limit == "memory_hard_mb":
            return "kill"
        if self.on_exceed == "throttle" and limit != "cpu_percent":
            return "restart"
        return self.on_exceed

    def to_record(self) -> dict[str, Any]:
        """Return the JSON form without limits that are not set."""
        return {name: value for name, value in self.model_dump(mode="json").items() if value is not None}
