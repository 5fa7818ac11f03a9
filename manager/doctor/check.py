"""One finding of `manager doctor`, and the codes that a finding can have."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from manager.fleet import FleetStore
from manager.fleet.desired_store import DesiredStore
from manager.settings import Settings

Outcome = Literal["ok", "warning", "failure"]

#: Code → what is checked. docs/reference/doctor.md has the same list.
CODES: Final[Mapping[str, str]] = {
    "versions": "the versions of Python and of the packages that the manager depends on",
    "config": "every account file, by the host that would run it if a host agent answers",
    "secrets": "files with secrets that others may read, and a Redis URL that trusts any certificate",
    "state": "whether the state directory can be written, and how much room its disk has",
    "redis": "whether Redis answers, its version and its speed",
    "redis_writes": "whether Redis takes writes from this user",
    "redis_role": "whether this Redis is the primary",
    "redis_connections": "how many of Redis's connections are in use",
    "redis_settings": "the settings of Redis that a fleet depends on",
    "clock": "the clocks of this machine and of each live host, compared with Redis's clock",
    "clock_change": "whether a live host was suspended, or its clock was set, within the last day",
    "time_zones": "whether the live hosts and this machine have the same time zone rules",
    "host_agent": "each host agent: whether it is live, its version, and its problems",
    "limits": "how each live host enforces limits of accounts, and why not by a better mechanism",
    "workers": "how many workers run, and which of them need attention",
    "wanted": "accounts that should run and have no worker",
    "drained": "accounts that should run and whose host is drained",
    "file_gone": "recorded accounts that have no account file",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding. A warning or failure always has advice."""

    #: One of CODES.
    code: str
    outcome: Outcome
    #: The machine, host, file or server that the finding is about.
    where: str
    found: str
    #: What to do; None if no action is needed.
    advice: str | None = None

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"{self.code} is not a code of `manager doctor`")
        if self.outcome != "ok" and not self.advice:
            raise ValueError(f"{self.code}: a finding without advice: {self.found}")

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form.

        `name` is the code with spaces, for programs written for version 0.2.
        """
        return {
            "code": self.code,
            "name": self.code.replace("_", " "),
            "outcome": self.outcome,
            "where": self.where,
            "found": self.found,
            "advice": self.advice,
        }


@dataclass(slots=True)
class Context:
    """Shared state of the checks of one run."""

    settings: Settings
    store: FleetStore
    desired: DesiredStore
    #: Redis's error code if it refuses writes; then host agents cannot report.
    writes_refused: str | None = field(default=None)


#: One step: its code, and a function that yields findings. The function raises ManagerError if it cannot
#: check.
Step = tuple[str, Callable[[Context], Iterator[Check]]]
