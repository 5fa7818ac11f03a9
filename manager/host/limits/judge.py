"""Judges measured figures by an account's limits. Pure: time is a parameter.

A figure that could not be read is None and is never an excess.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from manager.config.models_limits import LIMITS, LimitsConfig
from manager.market.parsing import show_duration

#: The part of `open_files` that counts as exceeded: a process at its limit cannot work.
_FILES_PART: Final = 0.95
#: A limit counts as exceeded until the figure has fallen to this part of it, so that a figure near its
#: limit does not change the state at each look.
_CLEAR_PARTS: Final = {**dict.fromkeys(LIMITS, 0.95), "open_files": 0.9}
#: Seconds over which a trend is measured.
_TREND_SECONDS: Final = 60.0
#: Seconds by which measurements may be late.
_LATE_SECONDS: Final = 1.0
#: Measurements that are kept of one CPU window.
_WINDOW_PARTS: Final = 12
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Figures:
    """What a worker and everything that it started use; None: not read at this look."""

    #: CPU seconds so far.
    cpu_seconds: float | None = None
    processes: int | None = None
    #: Memory in bytes.
    memory: int | None = None
    #: The most open files of one of the processes.
    open_files: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """A limit that is exceeded."""

    limit: str
    #: In the unit of the limit.
    value: float
    most: float
    #: Change of the figure within the last minute, or within the shorter time that it is known; None: it was
    #: measured once.
    trend: float | None
    trend_seconds: float

    @property
    def text(self) -> str:
        """What was measured, for people."""
        name, unit = _NAMES[self.limit]
        if self.limit == "open_files":
            return f"open files {self.value:g} >= 95 % of limits.open_files {self.most:g}"
        return f"{name} {self.value:g}{unit} > limits.{self.limit} {self.most:g}"

    @property
    def trend_text(self) -> str:
        """How the figure changed within the last minute; empty if unknown."""
        if self.trend is None:
            return ""
        unit = _NAMES[self.limit][1]
        return f"{self.trend:+g}{unit} within {self.trend_seconds:.0f} s"

    def data(self, action: str, when: str | None = None) -> dict[str, Any]:
        """Return the data of its event. `when` says when the action follows, if not at once."""
        data = {
            "limit": self.limit,
            "value": self.value,
            "most": self.most,
            "trend": self.trend,
            "trend_seconds": round(self.trend_seconds) if self.trend is not None else None,
            "action": action,
            "when": when,
            "text": self.text,
        }
        return {key: value for key, value in data.items() if value is not None}


#: Limit → name of the figure and its unit, for messages.
_NAMES: Final[Mapping[str, tuple[str, str]]] = {
    "memory_hard_mb": ("memory", " MB"),
    "memory_mb": ("memory", " MB"),
    "cpu_percent": ("CPU", " %"),
    "open_files": ("open files", ""),
    "processes": ("processes", ""),
}


class Judge:
    """The limits of one worker: takes figures, and says which limits are exceeded."""

    def __init__(self) -> None:
        #: CPU seconds so far; never falls, although the time of a process may get lost with it.
        self._used = 0.0
        self._last_cpu: float | None = None
        self._cpu: deque[tuple[float, float]] = deque()
        self._values: dict[str, deque[tuple[float, float]]] = {}
        #: The limits that are exceeded, in the sequence of `LIMITS`.
        self.exceeded: dict[str, Excess] = {}

    def judge(self, limits: LimitsConfig, figures: Figures, now: float) -> None:
        """Take figures that were measured at `now` (monotonic seconds), and update `exceeded`."""
        percent = self._percent(limits, figures.cpu_seconds, now)
        memory = None if figures.memory is None else float(round(figures.memory / _MIB))
        measured = {
            "memory_hard_mb": memory,
            "memory_mb": memory,
            "cpu_percent": percent,
            "open_files": None if figures.open_files is None else float(figures.open_files),
            "processes": None if figures.processes is None else float(figures.processes),
        }
        given = limits.given
        found: dict[str, Excess] = {}
        for limit in LIMITS:
            most, value = given.get(limit), measured[limit]
            if most is None:
                continue
            before = self.exceeded.get(limit)
            if value is None:
                # Not read: the last state stays.
                if before is not None and before.most == most:
                    found[limit] = before
                continue
            trend, seconds = self._trend(limit, value, now)
            if value > _bound(limit, most):
                found[limit] = Excess(limit=limit, value=value, most=most, trend=trend, trend_seconds=seconds)
            elif before is not None and before.most == most and value > most * _CLEAR_PARTS[limit]:
                found[limit] = before
        self.exceeded = found

    def _percent(self, limits: LimitsConfig, seconds: float | None, now: float) -> float | None:
        """Return the mean CPU use over the window; None before it is known."""
        if seconds is None:
            return None
        if self._last_cpu is not None:
            self._used += max(0.0, seconds - self._last_cpu)
        self._last_cpu = seconds
        window = limits.cpu_window.total_seconds()
        # The newest measurement that is at least a window old begins the mean.
        while len(self._cpu) > 1 and now - self._cpu[1][0] >= window - _LATE_SECONDS:
            self._cpu.popleft()
        percent = None
        if self._cpu and now - self._cpu[0][0] >= window - _LATE_SECONDS:
            began, used = self._cpu[0]
            percent = round(100 * (self._used - used) / (now - began), 1)
        if not self._cpu or now - self._cpu[-1][0] >= window / _WINDOW_PARTS - _LATE_SECONDS:
            self._cpu.append((now, self._used))
        return percent

    def _trend(self, limit: str, value: float, now: float) -> tuple[float | None, float]:
        values = self._values.setdefault(limit, deque())
        while values and now - values[0][0] > _TREND_SECONDS + _LATE_SECONDS:
            values.popleft()
        oldest = values[0] if values else None
        values.append((now, value))
        if oldest is None or now <= oldest[0]:
            return None, 0.0
        return round(value - oldest[1], 1), now - oldest[0]


def _bound(limit: str, most: float) -> float:
    """Return the value above which a limit counts as exceeded."""
    return most * _FILES_PART - 1e-9 if limit == "open_files" else most


def waits_text(limits: LimitsConfig, action: str) -> str | None:
    """Return when the action follows, for messages; None if it follows at once or there is none."""
    if action not in ("restart", "stop") or not limits.when_flat:
        return None
    return f"when it is flat, in {show_duration(limits.grace)} at the latest"
