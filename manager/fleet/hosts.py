"""The state of a host by its status report, and its drain request."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from manager.fleet.host_report import HostReport
from manager.fleet.parsing import json_object, number
from manager.fleet.timestamped import Timestamped
from manager.placement.engine import HostFacts

#: Seconds without a status report after which a host is lost. Its agent writes one each second.
HOST_STALE_AFTER: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainRequest:
    """A request to empty a host.

    The host accepts no new workers, and moves or stops those that it has. The mode `off` ends a drain. It is
    written rather than deleted: if the key is missing, Redis has lost it, and the host restores the request
    that it remembers.
    """

    #: `move`: workers move to other hosts. `stop`: they are stopped until the drain ends.
    mode: Literal["move", "stop", "off"]
    by: str = ""
    #: Whether workers with open positions stay until they have none, or until the deadline.
    when_flat: bool = False
    #: Seconds since the epoch, by Redis's clock; 0: none.
    deadline: float = 0.0

    @property
    def active(self) -> bool:
        return self.mode != "off"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes | None) -> "DrainRequest | None":
        """Parse a request; None if it is missing or malformed."""
        data = json_object(text) or {}
        mode, deadline = data.get("mode"), number(data.get("deadline", 0.0))
        if mode not in ("move", "stop", "off") or deadline is None:
            return None
        return cls(
            mode=mode,
            by=str(data.get("by", "")),
            when_flat=data.get("when_flat") is True,
            deadline=deadline,
        )


@dataclass(frozen=True, slots=True)
class HostState:
    """A host's state at one moment."""

    name: str
    #: Whether its agent reported within HOST_STALE_AFTER.
    live: bool
    #: Seconds since the agent's last report; None if there is none.
    age_seconds: float | None
    #: The agent's last report: pid, version, started_at, workers, ...
    data: Mapping[str, Any]
    drain: DrainRequest | None = None
    #: Seconds by which the host's clock is ahead of Redis's; None if the report has no time.
    clock_skew_seconds: float | None = None

    @property
    def report(self) -> HostReport:
        """What the agent reported, typed; parsed on each access."""
        return HostReport.read(self.data)

    @property
    def draining(self) -> bool:
        return self.drain is not None and self.drain.active

    @property
    def state(self) -> str:
        """`live`, `draining`, `drained`, `lost` or `ended`.

        `lost` is a host without a recent report, `ended` one whose agent ended cleanly.
        """
        if not self.live:
            return "ended" if self.age_seconds is None else "lost"
        if not self.draining:
            return "live"
        return "draining" if self.workers else "drained"

    @property
    def workers(self) -> int:
        """Number of workers with a process there, by its last report."""
        return self.report.workers or 0

    @property
    def facts(self) -> HostFacts:
        """The host's properties for placement."""
        report = self.report
        known = {
            "capacity": report.capacity,
            "memory_mb": report.memory_mb,
            "available_mb": report.available_mb,
        }
        return HostFacts(
            name=self.name,
            live=self.live,
            draining=self.draining,
            labels=report.labels or {},
            version=report.version or "",
            **{name: value for name, value in known.items() if value},
        )

    def to_dict(self) -> dict[str, Any]:
        data = dict(self.data)
        return {
            "name": self.name,
            "state": self.state,
            "last_seen_seconds": None if self.age_seconds is None else round(self.age_seconds, 3),
            "clock_skew_seconds": self.clock_skew_seconds,
            "drain": None if self.drain is None or not self.drain.active else asdict(self.drain),
            **{key: data[key] for key in sorted(data)},
        }


def host_state(name: str, report: Timestamped | None, drain: DrainRequest | None = None) -> HostState:
    """Return a host's state by its agent's last report."""
    if report is None:
        return HostState(name, live=False, age_seconds=None, data={}, drain=drain)
    time = number(report.data.get("time"))
    return HostState(
        name,
        live=report.age_seconds <= HOST_STALE_AFTER,
        age_seconds=report.age_seconds,
        data=report.data,
        drain=drain,
        clock_skew_seconds=None if time is None else round(time - report.stamp, 3),
    )
