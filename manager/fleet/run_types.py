"""The run of a worker, as the run history has it.

Needs no Redis; `manager.fleet.runs` reads and writes the history.
"""

from datetime import datetime
from typing import Any, Final, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from manager.models import UtcDatetime, WorkerInfo, utc_now

#: Runs that the stream of a host keeps: about 2 MB of Redis's memory.
RUNS_KEPT: Final = 2_000
#: Characters to which each text of a run is cut.
MAX_TEXT: Final = 500

#: Values of `why` and `ended_why` besides those of `manager.fleet.desired`.
RECOVERY: Final = "recovery"
SCHEDULE: Final = "schedule"


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

    account_id: str
    #: Identifies the run: each start creates a new worker.
    worker_id: str
    host: str
    pid: int | None = None
    gateway: str = ""
    #: The fencing token of its lease.
    epoch: int = 0
    #: The generation of the desired state that started it; 0 if none is recorded.
    generation: int = 0
    #: Who asked for the start; empty if nobody did, as after a crash.
    by: str = ""
    #: `start`, `restart`, `move`, `drain`, ...; `recovery` or `schedule` for a start without a command.
    why: str = ""
    #: The id of the command that started it.
    command: str = ""
    asked_at: UtcDatetime | None = None
    #: When its process was started.
    started_at: UtcDatetime
    #: When its session was connected first.
    connected_at: UtcDatetime | None = None
    #: When it ended. If `observed` is false, the time of its last sign of life that is known.
    ended_at: UtcDatetime
    #: Whether a host agent saw the end. If not, the next agent found the worker dead.
    observed: bool = True
    #: `stopped`, `failed`, or `restarting` if recovery followed.
    status: str
    #: Negative: the number of a signal. None: unknown.
    exit_code: int | None = None
    #: The code of the error that ended the start, as in docs/reference/errors.md.
    error_code: str | None = None
    #: Why it ended; None after a clean stop.
    reason: str | None = None
    #: Whether a stop had to kill a process.
    forced: bool = False
    #: Who asked for the end, and why (`stop`, `restart`, `move`, `schedule`, ...); empty if nobody did.
    ended_by: str = ""
    ended_why: str = ""
    #: How often recovery had restarted the account since the last command.
    restarts: int = 0
    version: str = ""
    config_version: str = ""
    #: Largest measured memory (PSS) of the worker and all processes below it, in bytes.
    memory_peak_bytes: int | None = None
    currency: str | None = None
    #: The equity when the session was connected, and in the last heartbeat.
    equity_first: str | None = None
    equity_last: str | None = None

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
    """Return a text of a run, cut at `MAX_TEXT` characters."""
    return text if text is None or len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
