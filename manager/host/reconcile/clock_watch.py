"""Detects that this machine was suspended, or that its clock was set.

The monotonic clock stops while a machine is suspended, the boot clock does not, and the wall clock can be
set.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from manager.fleet.host_report import ClockChangeReport

#: Seconds by which two clocks must diverge between two ticks; less may be a reading error.
_MIN_SECONDS: Final = 1.0
#: Drift of the wall clock that is ignored, as a fraction of the time between two ticks: after a suspend it is
#: inexact.
_DRIFT: Final = 0.001
#: Seconds: with a clock set forward by as much, new commands may look expired; a task expires after a day.
_EXPIRES_SECONDS: Final = 3_600.0
#: Seconds for which `explain` returns the latest change.
_EXPLAINED_SECONDS: Final = 86_400.0

Kind = Literal["suspended", "set_forward", "set_back"]


class Reading(NamedTuple):
    """The three clocks at one moment, in seconds."""

    monotonic: float
    #: Continues while the machine is suspended; equals `monotonic` on systems without such a clock.
    boot: float
    wall: float


def read_clocks() -> Reading:
    """Read this machine's clocks."""
    monotonic = boot = time.monotonic()
    if sys.platform == "linux":
        boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    elif sys.platform == "darwin":
        # On macOS Python's monotonic clock stops while the machine is suspended; CLOCK_MONOTONIC does not.
        boot = time.clock_gettime(time.CLOCK_MONOTONIC)
    return Reading(monotonic, boot, time.time())


@dataclass(frozen=True, slots=True)
class ClockChange:
    """One suspend of the machine, or one change of its clock."""

    kind: Kind
    seconds: float
    #: When it was detected, by the boot clock.
    noticed_at: float

    @property
    def text(self) -> str:
        """What happened, as one line."""
        if self.kind == "suspended":
            return f"this machine was suspended for {self.seconds:.0f} s"
        way = "forward" if self.kind == "set_forward" else "back"
        return f"the clock of this machine was set {way} by {self.seconds:.0f} s"

    @property
    def effect(self) -> str:
        """What the host agent does about it."""
        if self.kind == "suspended":
            return (
                "desired state is read again now, and workers get time to show that they run; leases that "
                "expired meanwhile end their workers"
            )
        if self.kind == "set_forward" and self.seconds >= _EXPIRES_SECONDS:
            return (
                "leases, heartbeats and restarts use other clocks and are not affected, but new commands "
                "may look expired: run NTP on this machine"
            )
        return "leases, heartbeats and restarts use other clocks and are not affected; times in logs jump"


class ClockWatch:
    """Compares the clocks at each `tick`.

    `tick` from one thread, `explain` from any.
    """

    def __init__(self, read: Callable[[], Reading] = read_clocks) -> None:
        self._read = read
        self._before = read()
        self._latest: ClockChange | None = None

    def tick(self) -> list[ClockChange]:
        """Return what happened to the clocks since the last call.

        A suspend comes first, then a clock that was set.
        """
        before, now = self._before, self._read()
        self._before = now
        passed = now.boot - before.boot
        suspended = passed - (now.monotonic - before.monotonic)
        stepped = (now.wall - before.wall) - passed
        found: list[ClockChange] = []
        if suspended > _MIN_SECONDS:
            found.append(ClockChange("suspended", suspended, now.boot))
        if abs(stepped) > _MIN_SECONDS + _DRIFT * passed:
            kind: Kind = "set_forward" if stepped > 0 else "set_back"
            found.append(ClockChange(kind, abs(stepped), now.boot))
        if found:
            self._latest = found[0]
        return found

    def explain(self) -> ClockChangeReport | None:
        """Return the latest change within a day, for the status report, or None."""
        latest = self._latest
        if latest is None:
            return None
        age = self._read().boot - latest.noticed_at
        if age > _EXPLAINED_SECONDS:
            return None
        return ClockChangeReport(
            kind=latest.kind,
            seconds=round(latest.seconds, 1),
            text=latest.text,
            age_seconds=round(age, 1),
        )
