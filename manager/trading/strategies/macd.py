"""Strategy `macd`: the cross of the MACD line and its signal."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from manager.gateways.base import Bar, Instrument
from manager.trading import indicators
from manager.trading.strategies.params import Params
from manager.trading.strategies.series import closes, crossed
from manager.trading.strategy import DEFAULT_WARMUP, Decision

DEFAULTS: Final[Mapping[str, Any]] = {"fast_period": 12, "slow_period": 26, "signal_period": 9}
#: A histogram within this fraction of a tick counts as zero.
_NOISE: Final = 1e-6


class MACD:
    """Long when the histogram crosses zero upwards, short when downwards.

    Raises ParameterError.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        read = Params(params, DEFAULTS)
        self._slow = read.integer("slow_period", 2, 500)
        self._fast = read.integer("fast_period", 1, 499)
        self._signal = read.integer("signal_period", 1, 200)
        read.below("fast_period", "slow_period")
        self.params: Mapping[str, Any] = read.values
        # After 7 periods each mean has forgotten all but 1e-5 of where it began.
        self.warmup = max(DEFAULT_WARMUP, 7 * (self._slow + self._signal))

    def decide(self, bars: Sequence[Bar], instrument: Instrument) -> Decision:
        need = self._slow + self._signal
        if len(bars) < need:
            return Decision(why=f"{len(bars)} bars; macd needs {need}")
        found = indicators.macd(closes(bars), self._fast, self._slow, self._signal)
        histogram = found[2]
        now = histogram[-1] or 0.0
        shown = f"macd histogram {now:.4g}"
        cross = crossed(now, reversed(histogram[:-1]), float(instrument.tick_size) * _NOISE)
        if cross > 0:
            return Decision("long", frozenset({"short"}), why=f"{shown}, crossed up: enter long, exit short")
        if cross < 0:
            return Decision(
                "short", frozenset({"long"}), why=f"{shown}, crossed down: enter short, exit long"
            )
        return Decision(why=f"{shown}: no cross")
