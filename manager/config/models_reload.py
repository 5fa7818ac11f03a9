"""The configuration of what a host does with changes of an account's file."""

from datetime import timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict

from manager.config.models_schedule import Duration


class ReloadConfig(BaseModel):
    """When a restart for a changed file happens, and which changes of a real account wait for a person."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: When the host restarts the worker for a change that needs it. `manual`: by a command alone.
    restart: Literal["when_flat", "at_once", "manual"] = "when_flat"
    #: How long `when_flat` waits for the account to have no open position. None: for ever.
    deadline: Duration | None = None
    #: Which changes of a real account wait for `manager approve`: those that raise exposure, all, or none.
    hold: Literal["raises", "all", "none"] = "raises"

    @property
    def deadline_seconds(self) -> float | None:
        """`deadline` in seconds."""
        wait: timedelta | None = self.deadline
        return None if wait is None else wait.total_seconds()
