"""Run history: one entry for each worker that has ended.

    manager:host:<name>:runs   stream: `run` (the worker's id), `account_id`, `data` (JSON of a `Run`)

The host writes an entry when a run ends, and keeps about the newest `RUNS_KEPT`. It may write a run twice if
its agent dies at that moment; readers keep the first entry of each worker id.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from manager.fleet.keys import HOSTS_KEY, runs_key
from manager.fleet.parsing import string
from manager.fleet.redis_client import open_client, translated
from manager.models import UtcDatetime

#: Runs that the stream of a host keeps: about 2 MB of Redis's memory.
RUNS_KEPT: Final = 2_000
#: Entries of a host that one command reads.
_PAGE: Final = 500
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


class RunStore:
    """Reads and writes the run history.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, url: str, client: Any = None, *, kept: int = RUNS_KEPT) -> None:
        """`kept`: runs that the stream of each host keeps, about."""
        self._url = url
        self._client: Any = client or open_client(url)
        self._kept = kept

    def close(self) -> None:
        self._client.close()

    # written by host agents

    def write(self, host: str, runs: Sequence[Run]) -> list[str]:
        """Add runs to the host's stream; return the id of each entry."""
        with translated(self._url):
            pipe = self._client.pipeline(transaction=False)
            for run in runs:
                fields = {"run": run.worker_id, "account_id": run.account_id, "data": run.model_dump_json()}
                pipe.xadd(runs_key(host), fields, maxlen=self._kept, approximate=True)
            return [entry_id.decode() for entry_id in pipe.execute()]

    def written(self, host: str) -> dict[str, str]:
        """Return the worker ids in the host's stream, each with the id of its newest entry."""
        return {
            string(fields.get(b"run", b"")): entry_id.decode() for entry_id, fields in self._entries(host)
        }

    def lost(self, host: str, entry_ids: Iterable[str]) -> list[str]:
        """Return the entries that the stream has lost, as after a crash of Redis.

        An entry that is older than every kept one was trimmed and is not lost.
        """
        ids = list(entry_ids)
        with translated(self._url):
            pipe = self._client.pipeline(transaction=False)
            pipe.xrange(runs_key(host), count=1)
            for entry_id in ids:
                pipe.xrange(runs_key(host), min=entry_id, max=entry_id, count=1)
            oldest, *found = pipe.execute()
        first = _order(oldest[0][0].decode()) if oldest else None
        return [
            entry_id
            for entry_id, entries in zip(ids, found, strict=True)
            if not entries and (first is None or _order(entry_id) >= first)
        ]

    # read by everyone

    def of(self, account_id: str, last: int | None = None) -> list[Run]:
        """Return the account's newest runs on every host, newest first; all if `last` is None.

        Reads whole streams: about 2,000 entries for each host.
        """
        with translated(self._url):
            hosts = sorted(map(string, self._client.smembers(HOSTS_KEY)))
        wanted = account_id.encode()
        found: dict[str, Run] = {}
        for host in hosts:
            # Newest first, so that the oldest entry of a run that was written twice comes last and stays.
            for _, fields in self._entries(host):
                if fields.get(b"account_id") != wanted:
                    continue
                run = Run.from_json(fields.get(b"data", b""))
                if run is not None and run.account_id == account_id and run.host == host:
                    found[run.worker_id] = run
        return sorted(found.values(), key=position, reverse=True)[:last]

    def _entries(self, host: str) -> Iterator[tuple[bytes, Mapping[bytes, bytes]]]:
        """Yield the entries of a host's stream, newest first."""
        before = "+"
        while True:
            with translated(self._url):
                found = self._client.xrevrange(runs_key(host), max=before, count=_PAGE)
            yield from found
            if len(found) < _PAGE:
                return
            before = f"({found[-1][0].decode()}"


def cut(text: str | None) -> str | None:
    """Return a text of a run, cut at `MAX_TEXT` characters."""
    return text if text is None or len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)


__all__ = [
    "NO_CAUSE",
    "RECOVERY",
    "RUNS_KEPT",
    "SCHEDULE",
    "Run",
    "RunCause",
    "RunPosition",
    "RunStore",
    "cut",
    "position",
]
