"""Strategy `simple_ma`: the cross of two simple moving averages."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from manager.gateways.base import Bar, Instrument
from manager.trading.strategies.params import Params
from manager.trading.strategies.series import crossed, whole_closes
from manager.trading.strategy import DEFAULT_WARMUP, Decision

DEFAULTS: Final[Mapping[str, Any]] = {"fast_period": 10, "slow_period": 20}


class SimpleMA:
    """Long when the fast average crosses above the slow one.

    Short when it crosses below. Raises ParameterError.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        read = Params(params, DEFAULTS)
        self._slow = read.integer("slow_period", 2, 500)
        self._fast = read.integer("fast_period", 1, 499)
        read.below("fast_period", "slow_period")
        self.params: Mapping[str, Any] = read.values
        # The bars in front of the two averages show which side the fast one was on before.
        self.warmup = max(DEFAULT_WARMUP, 2 * self._slow)

    def decide(self, bars: Sequence[Bar], instrument: Instrument) -> Decision:
        fast, slow = self._fast, self._slow
        if len(bars) <= slow:
            return Decision(why=f"{len(bars)} bars; simple_ma needs {slow + 1}")
        values = whole_closes(bars)
        latest_first = (
            slow * sum(values[end - fast : end]) - fast * sum(values[end - slow : end])
            for end in range(len(values), slow - 1, -1)
        )
        last = bars[-slow:]
        means = (sum(float(bar.close) for bar in some) / len(some) for some in (last[-fast:], last))
        shown = f"sma({fast}) {next(means):.6g}, sma({slow}) {next(means):.6g}"
        cross = crossed(next(latest_first), latest_first)
        if cross > 0:
            return Decision("long", frozenset({"short"}), why=f"{shown}, crossed up: enter long, exit short")
        if cross < 0:
            return Decision(
                "short", frozenset({"long"}), why=f"{shown}, crossed down: enter short, exit long"
            )
        return Decision(why=f"{shown}: no cross")
