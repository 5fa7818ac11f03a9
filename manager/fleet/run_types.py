"""The run of a worker, as the run history has it.

Needs no Redis; `manager.fleet.runs` reads and writes the history.
"""

from datetime import datetime
from typing import Any, Final, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manager.models import UtcDatetime, WorkerInfo, utc_now

#: Runs that the stream of a host keeps: about 2 MB of Redis's memory.
RUNS_KEPT: Final = 2_000
#: Characters to which each text of a run is cut.
MAX_TEXT: Final = 500

#: Values of `why` and `ended_why` besides those of `manager.fleet.desired`.
RECOVERY: Final = "recovery"
SCHEDULE: Final = "schedule"
#: A host agent ended that has `MANAGER_STOP_WORKERS_ON_EXIT`.
SHUTDOWN: Final = "shutdown"


class RunCause(NamedTuple):
    """Who asked for a start or an end, and why. Empty if it is unknown or nobody asked."""

    by: str = ""
    why: str = ""
    #: The command's id.
    command: str = ""
    #: When it was asked for, in milliseconds since 1970 by Redis's clock; 0 if unknown.
    at: int = 0

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read the JSON form, which is a list. Values that do not fit become empty."""
        values: list[object] = data if isinstance(data, list) else []
        by, why, command = ("" if not isinstance(one, str) else one for one in (*values[:3], *[""] * 3)[:3])
        at = values[3] if len(values) > 3 else 0
        return cls(by, why, command, at if type(at) is int and 0 <= at < 10**15 else 0)


#: The cause of what nobody asked for.
NO_CAUSE: Final = RunCause()


class Run(BaseModel):
    """One run of an account: the life of one worker process. Contains no secret.

    Times are UTC by the host's clock, except `asked_at`, which is by Redis's clock. Amounts are text in
    `currency`, so that JSON loses no digit. A value is None, or an empty text, if it is unknown: a run that
    ended before its session was connected has neither equity nor `connected_at`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    account_id: str = Field(description="The account.")
    worker_id: str = Field(description="Identifies the run: each start creates a new worker.")
    host: str = Field(description="The host that ran it.")
    pid: int | None = Field(None, description="The process id of the worker.")
    gateway: str = Field("", description="The gateway of the account.")
    epoch: int = Field(0, description="The fencing token of its lease.")
    generation: int = Field(
        0, description="The generation of the desired state that started it; 0 if none is recorded."
    )
    by: str = Field(
        "", description="Who asked for the start; empty if nobody did, as for a restart after a crash."
    )
    why: str = Field(
        "",
        description="`start`, `restart`, `move`, `drain`, ...; `recovery` or `schedule` for a start that "
        "nobody asked for; empty if unknown.",
    )
    command: str = Field("", description="The id of the command that started it.")
    asked_at: UtcDatetime | None = Field(
        None, description="When the start was asked for, by Redis's clock; null if nobody asked."
    )
    started_at: UtcDatetime = Field(description="When its process was started.")
    connected_at: UtcDatetime | None = Field(
        None, description="When its session was connected first; null if it never was."
    )
    ended_at: UtcDatetime = Field(
        description="When it ended. If `observed` is false, the time of its last known sign of life."
    )
    observed: bool = Field(
        True,
        description="Whether a host agent saw the end. If not, a later agent found the worker dead.",
    )
    status: str = Field(description="`stopped`, `failed`, or `restarting` if recovery followed.")
    exit_code: int | None = Field(
        None, description="Exit code of the process; negative: the number of a signal; null: unknown."
    )
    error_code: str | None = Field(
        None, description="The code of the error that ended the start, as in docs/reference/errors.md."
    )
    reason: str | None = Field(None, description="Why it ended; null after a clean stop.")
    forced: bool = Field(False, description="Whether a stop had to kill a process.")
    ended_by: str = Field("", description="Who asked for the end; empty if nobody did.")
    ended_why: str = Field(
        "",
        description="`stop`, `restart`, `drain`, `schedule`, `shutdown`, ...; empty if it ended alone.",
    )
    restarts: int = Field(
        0, description="How often recovery had restarted the account since the last command."
    )
    version: str = Field("", description="The version of the software that started it.")
    config_version: str = Field("", description="The hash of the configuration that it used last.")
    memory_peak_bytes: int | None = Field(
        None,
        description="Largest measured memory (PSS) of the worker and all processes below it, in bytes. "
        "The first measurement is after one second.",
    )
    currency: str | None = Field(None, description="The account's currency.")
    equity_first: str | None = Field(
        None, description="The equity when the session was connected, as text in `currency`."
    )
    equity_last: str | None = Field(
        None, description="The equity in the last heartbeat, as text in `currency`."
    )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, text: str | bytes) -> Self | None:
        """Parse the JSON of a run; None if it is malformed."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None

    @classmethod
    def of_record(cls, info: WorkerInfo, host: str, *, observed: bool = True) -> Self:
        """Return the run of a worker of which only the published record is known."""
        placed = info.placement
        return cls(
            account_id=info.account_id,
            worker_id=info.worker_id,
            host=host,
            pid=placed.pid,
            gateway=placed.gateway or "",
            epoch=placed.epoch or 0,
            generation=placed.generation or 0,
            started_at=info.created_at,
            connected_at=info.started_at,
            ended_at=max(info.created_at, info.stopped_at or utc_now()),
            observed=observed,
            status=str(info.status),
            exit_code=placed.exit_code,
            reason=cut(info.error),
            restarts=placed.restarts or 0,
            version=placed.version or "",
            config_version=placed.config_version or "",
        )

    @property
    def seconds(self) -> float:
        """Seconds from the start of the process to its end."""
        return max(0.0, (self.ended_at - self.started_at).total_seconds())


class RunPosition(NamedTuple):
    """The place of a run in a list ordered by its end."""

    ended_at: datetime
    worker_id: str


def position(run: Run) -> RunPosition:
    return RunPosition(run.ended_at, run.worker_id)


def cut(text: str | None) -> str | None:
    """Return a text of a run, cut at `MAX_TEXT` characters.

    Lone surrogates, which JSON cannot hold, become `?`.
    """
    if text is None:
        return None
    text = text.encode(errors="replace").decode()
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
