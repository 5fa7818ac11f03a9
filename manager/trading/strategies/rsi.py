"""Strategy `rsi`: the return of the index from an extreme."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from manager.gateways.base import Bar, Instrument
from manager.trading import indicators
from manager.trading.strategies.params import Params
from manager.trading.strategies.series import closes
from manager.trading.strategy import DEFAULT_WARMUP, Decision, Direction

DEFAULTS: Final[Mapping[str, Any]] = {"rsi_period": 14, "oversold": 30, "overbought": 70}


class RSI:
    """Long when the index leaves oversold, short when it leaves overbought.

    Raises ParameterError.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        read = Params(params, DEFAULTS)
        self._period = read.integer("rsi_period", 2, 200)
        self._low = read.number("oversold", 1, 99)
        self._high = read.number("overbought", 1, 99)
        read.below("oversold", "overbought")
        for key in ("oversold", "overbought"):
            read.respell(key, DEFAULTS[key])
        self.params: Mapping[str, Any] = read.values
        # After 17 periods the first average has a weight of 4e-8.
        self.warmup = max(DEFAULT_WARMUP, 17 * self._period)

    def decide(self, bars: Sequence[Bar], instrument: Instrument) -> Decision:
        if len(bars) < self._period + 2:
            return Decision(why=f"{len(bars)} bars; rsi needs {self._period + 2}")
        before, now = indicators.rsi(closes(bars), self._period)[-2:]
        if now is None:
            return Decision(why=f"no change of price in {self._period} bars: rsi is undefined")
        low, high = self._low, self._high
        out: frozenset[Direction] = frozenset()
        reasons = []
        if now >= high:
            out = frozenset({"long"})
            reasons.append(f"rsi {now:.1f} ≥ {high:g}: exit long")
        elif now <= low:
            out = frozenset({"short"})
            reasons.append(f"rsi {now:.1f} ≤ {low:g}: exit short")
        enter: Direction | None = None
        if before is not None and before <= low < now:
            enter = "long"
            reasons.append(f"rsi {before:.1f} → {now:.1f}, rose above {low:g}: enter long")
        elif before is not None and before >= high > now:
            enter = "short"
            reasons.append(f"rsi {before:.1f} → {now:.1f}, fell below {high:g}: enter short")
        return Decision(enter, out, why="; ".join(reasons) or f"rsi {now:.1f}: no signal")
