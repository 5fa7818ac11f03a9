"""Strategy `bollinger`: the touch of a Bollinger band."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from manager.gateways.base import Bar, Instrument
from manager.trading import indicators
from manager.trading.strategies.params import Params
from manager.trading.strategies.series import band_side, closes, whole_closes
from manager.trading.strategy import DEFAULT_WARMUP, Decision, Direction

DEFAULTS: Final[Mapping[str, Any]] = {
    "bb_period": 20,
    "bb_std": 2.0,
    "rsi_filter": True,
    "rsi_period": 14,
    "rsi_oversold": 35,
    "rsi_overbought": 65,
}


class Bollinger:
    """Long at the first close at the lower band, short at the upper one.

    Positions are closed beyond the middle band. Raises ParameterError.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        read = Params(params, DEFAULTS)
        self._period = read.integer("bb_period", 2, 500)
        self._k = Fraction(Decimal(repr(read.number("bb_std", 0.1, 10))))
        self._filter = read.switch("rsi_filter")
        self._rsi = read.integer("rsi_period", 2, 200)
        self._low = read.number("rsi_oversold", 1, 99)
        self._high = read.number("rsi_overbought", 1, 99)
        read.below("rsi_oversold", "rsi_overbought")
        for key in ("bb_std", "rsi_oversold", "rsi_overbought"):
            read.respell(key, DEFAULTS[key])
        self.params: Mapping[str, Any] = read.values
        self.warmup = max(DEFAULT_WARMUP, self._period + 1, 17 * self._rsi if self._filter else 0)

    def decide(self, bars: Sequence[Bar], instrument: Instrument) -> Decision:
        n = self._period
        need = max(n + 1, self._rsi + 1 if self._filter else 0)
        if len(bars) < need:
            return Decision(why=f"{len(bars)} bars; bollinger needs {need}")
        values = whole_closes(bars[-n - 1 :])
        side = band_side(values[1:], self._k)
        total = sum(values[1:])
        out: frozenset[Direction] = frozenset()
        where = "at the middle band"
        if n * values[-1] > total:
            out, where = frozenset({"long"}), "above the middle band: exit long"
        elif n * values[-1] < total:
            out, where = frozenset({"short"}), "below the middle band: exit short"
        shown = f"close {bars[-1].close} {where}"
        # A first touch only: a close that stays outside the band is no second signal.
        if side == 0 or band_side(values[:-1], self._k) == side or _is_flat(values[:-1]):
            return Decision(None, out, why=shown)
        return self._touch(bars, side, out, shown)

    def _touch(self, bars: Sequence[Bar], side: int, out: frozenset[Direction], shown: str) -> Decision:
        enter: Direction = "long" if side < 0 else "short"
        band = "lower" if side < 0 else "upper"
        text = f"{shown}; touched the {band} band"
        if not self._filter:
            return Decision(enter, out, why=f"{text}: enter {enter}")
        strength = indicators.rsi(closes(bars), self._rsi)[-1]
        if strength is None:
            return Decision(None, out, why=f"{text}, but rsi is undefined: no entry")
        confirmed = strength < self._low if side < 0 else strength > self._high
        sign, limit = ("<", self._low) if side < 0 else (">", self._high)
        if confirmed:
            return Decision(enter, out, why=f"{text}, rsi {strength:.1f} {sign} {limit:g}: enter {enter}")
        return Decision(None, out, why=f"{text}, but rsi {strength:.1f} is not {sign} {limit:g}: no entry")


def _is_flat(values: Sequence[int]) -> bool:
    return len(set(values)) == 1
