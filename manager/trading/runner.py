"""Runs a strategy over bars: one decision for each new closed bar.

A live session and a replay use the same runner. It sends nothing; what follows from a decision is for the
caller.
"""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from manager.gateways.base import Bar, Instrument
from manager.trading.bars import BarsError, MarketHours, check_bars
from manager.trading.strategy import Decision, Strategy, decision_problem
from manager.trading.timeframes import bar_end


class StepKind(StrEnum):
    """What one step of a runner came to."""

    #: Fewer closed bars than the strategy needs.
    WARMING_UP = "warming_up"
    #: The newest bar has its decision already.
    NO_NEW_BAR = "no_new_bar"
    DECIDED = "decided"
    #: No decision, because the bars or the strategy are wrong.
    DEGRADED = "degraded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The result of one step."""

    kind: StepKind
    #: For people: the strategy's reason, or what is wrong.
    why: str
    #: Set if and only if the kind is `decided`.
    decision: Decision | None = None
    #: When the bar of the decision opened, for the order's id, and when it ended, for the signal's age.
    bar_time: datetime | None = None
    signal_at: datetime | None = None


class StrategyRunner:
    """Runs one strategy on one symbol and timeframe.

    Remembers which bar was decided on last, so that a bar has one decision. After a restart the newest
    bar is decided on again, with the same result: the order's id is a function of it.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        symbol: str,
        timeframe: str,
        hours: MarketHours,
        warmup: int | None = None,
    ) -> None:
        """Take the strategy; without `warmup`, the strategy's own applies."""
        self._strategy = strategy
        self._symbol = symbol
        self._timeframe = timeframe
        self._hours = hours
        #: How many closed bars the caller has to fetch.
        self.warmup = strategy.warmup if warmup is None else warmup
        self._last: datetime | None = None
        #: The window that passed the checks last: its bars need no second check.
        self._checked: tuple[Bar, ...] = ()

    def step(self, bars: Sequence[Bar], instrument: Instrument, now: datetime) -> Step:
        """Decide on the newest of the closed bars (oldest first).

        `now` is the venue's time. The strategy sees exactly the last `warmup` of them. Raises
        nothing that the strategy raises.
        """
        window = tuple(bars[-self.warmup :])
        try:
            check_bars(
                window,
                symbol=self._symbol,
                timeframe=self._timeframe,
                now=now,
                hours=self._hours,
                known=self._known(window),
            )
            self._check_continuity(window)
        except BarsError as error:
            self._checked = ()
            return Step(kind=StepKind.DEGRADED, why=f"bars: {error}")
        self._checked = window
        if len(window) < self.warmup:
            why = f"{len(window)} of {self.warmup} closed bars"
            return Step(kind=StepKind.WARMING_UP, why=why)
        newest = window[-1].time
        if newest == self._last:
            return Step(kind=StepKind.NO_NEW_BAR, why=f"no bar since {newest:%Y-%m-%d %H:%M} UTC")
        return self._decide(window, instrument)

    def _known(self, window: tuple[Bar, ...]) -> int:
        """Return how many bars at the window's beginning are checked already."""
        if not window:
            return 0
        first = window[0].time
        for at, bar in enumerate(self._checked):
            if bar.time >= first:
                rest = self._checked[at:]
                return len(rest) if window[: len(rest)] == rest else 0
        return 0

    def _check_continuity(self, window: Sequence[Bar]) -> None:
        """Raise BarsError if the bar that was decided on last is gone."""
        if self._last is None or not window:
            return
        if window[-1].time < self._last:
            raise BarsError(
                f"the newest bar is of {window[-1].time:%Y-%m-%d %H:%M}, before that of "
                f"{self._last:%Y-%m-%d %H:%M}, which was decided on"
            )
        if window[0].time <= self._last and all(bar.time != self._last for bar in window):
            raise BarsError(f"the bar of {self._last:%Y-%m-%d %H:%M} is missing now, but was decided on")

    def _decide(self, window: Sequence[Bar], instrument: Instrument) -> Step:
        newest = window[-1].time
        try:
            decision = self._strategy.decide(window, instrument)
        except Exception as error:
            return Step(kind=StepKind.DEGRADED, why=f"strategy: {_where(error)}")
        problem = decision_problem(decision)
        if problem is not None:
            return Step(kind=StepKind.DEGRADED, why=f"strategy: {problem}")
        self._last = newest
        return Step(
            kind=StepKind.DECIDED,
            why=decision.why,
            decision=decision,
            bar_time=newest,
            signal_at=bar_end(newest, self._timeframe),
        )


def _where(error: Exception) -> str:
    """Return the error with the file and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
