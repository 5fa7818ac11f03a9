"""A host as readers see it, and the order to empty it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from manager.fleet.host_report import HostReport
from manager.fleet.parsing import json_object, number
from manager.fleet.timestamped import Timestamped
from manager.placement.engine import HostFacts

#: Seconds. A host agent writes each second; one that missed this many is lost to readers.
HOST_STALE_AFTER: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainRequest:
    """That a host takes no new workers, and what becomes of those that it has.

    `off` is written when the host takes workers again: no order at all means that Redis has lost it, and the host
    knows better.
    """

    #: `move`: to other hosts; `stop`: stopped until the host takes workers again.
    mode: Literal["move", "stop", "off"]
    by: str = ""
    #: Workers with open positions go on until they have none, or until the deadline.
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
        """Read one; None if there is none, or if it cannot be read."""
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
    """A host as readers see it."""

    name: str
    #: Whether its agent reported within HOST_STALE_AFTER.
    live: bool
    #: Seconds since the agent's last word; None if it never gave one.
    age_seconds: float | None
    #: What the agent said: pid, version, started_at, workers.
    data: Mapping[str, Any]
    drain: DrainRequest | None = None
    #: Seconds that the host's clock is before Redis's; None if it does not say.
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
        """`live`, `draining`, `drained`, `lost` (it fell silent) or `ended` (in order)."""
        if not self.live:
            return "ended" if self.age_seconds is None else "lost"
        if not self.draining:
            return "live"
        return "draining" if self.workers else "drained"

    @property
    def workers(self) -> int:
        """How many workers have a process there, as it said last."""
        return self.report.workers or 0

    @property
    def facts(self) -> HostFacts:
        """The host as placement sees it."""
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


def host_state(name: str, word: Timestamped | None, drain: DrainRequest | None = None) -> HostState:
    """Judge a host by its agent's last word."""
    if word is None:
        return HostState(name, live=False, age_seconds=None, data={}, drain=drain)
    said = number(word.data.get("time"))
    return HostState(
        name,
        live=word.age_seconds <= HOST_STALE_AFTER,
        age_seconds=word.age_seconds,
        data=word.data,
        drain=drain,
        clock_skew_seconds=None if said is None else round(said - word.stamp, 3),
    )
