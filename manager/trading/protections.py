"""Stops and targets of entries, as distances from the entry price."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

from manager.gateways.base import Bar, Instrument, Side
from manager.trading import indicators
from manager.trading.numbers import price_on_tick, written
from manager.trading.pips import pip_size
from manager.trading.strategy import Decision, ParameterError

StopKind = Literal["atr", "pips", "percent", "price"]
TargetKind = Literal["r", "pips"]

_STOP_KINDS: Final[tuple[StopKind, ...]] = ("atr", "pips", "percent", "price")
_TARGET_KINDS: Final[tuple[TargetKind, ...]] = ("r", "pips")
#: The period of the average true range, unless the rule names one.
_PERIOD: Final = 14


@dataclass(frozen=True, slots=True)
class StopRule:
    """Where the stop of an entry is."""

    kind: StopKind
    #: Multiples of the average true range, pips, percent of the entry price, or a price difference.
    amount: Decimal
    period: int = _PERIOD

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> "StopRule":
        """Return the rule that a mapping states.

        Examples are `{atr: 2.0, period: 14}`, `{pips: 20}` and `{percent: 1.0}`. Raises ParameterError.
        """
        kinds = [kind for kind in _STOP_KINDS if kind in data]
        others = [key for key in data if key not in _STOP_KINDS and key != "period"]
        if len(kinds) != 1 or others or ("period" in data and kinds != ["atr"]):
            raise ParameterError("stop", "one of atr (with period), pips, percent and price is allowed")
        kind = kinds[0]
        most = Decimal(50) if kind == "percent" else None
        period = data.get("period", _PERIOD)
        if isinstance(period, bool) or not isinstance(period, int) or not 1 <= period <= 200:
            raise ParameterError("stop.period", "an integer from 1 to 200 is allowed")
        return cls(kind, _amount(f"stop.{kind}", data[kind], most), period)


@dataclass(frozen=True, slots=True)
class TargetRule:
    """Where the target of an entry is."""

    kind: TargetKind
    #: Multiples of the stop's distance (`r`), or pips.
    amount: Decimal

    @classmethod
    def read(cls, data: Mapping[str, Any] | str) -> "TargetRule | None":
        """Return the rule of `{r: 2.0}` or `{pips: 40}`; None for `none`.

        Raises ParameterError.
        """
        if data == "none":
            return None
        mapping: Mapping[str, Any] = {} if isinstance(data, str) else data
        kinds = [kind for kind in _TARGET_KINDS if kind in mapping]
        if len(kinds) != 1 or len(mapping) != 1:
            raise ParameterError("target", "one of r and pips, or none, is allowed")
        kind = kinds[0]
        return cls(kind, _amount(f"target.{kind}", mapping[kind], None))


#: Twice the average true range of 14 bars.
DEFAULT_STOP: Final = StopRule("atr", Decimal(2))


def default_target(strategy_type: str) -> TargetRule:
    """Return the target of a strategy whose account file states none."""
    return TargetRule("r", Decimal("1.5") if strategy_type == "rsi" else Decimal(2))


def stop_distance(
    decision: Decision, rule: StopRule, bars: Sequence[Bar], entry: Decimal, instrument: Instrument
) -> Decimal | None:
    """Return the distance of the stop from the entry price, on the tick.

    It is at least one tick. The strategy's own distance takes precedence over the rule. None if the average
    true range is not defined, so that there is no entry. Raises NoPipError.
    """
    distance = decision.stop_distance or _ruled(rule, bars, entry, instrument)
    if distance is None or not distance.is_finite() or distance <= 0:
        return None
    return price_on_tick(distance, instrument.tick_size, down=False)


def _ruled(rule: StopRule, bars: Sequence[Bar], entry: Decimal, instrument: Instrument) -> Decimal | None:
    if rule.kind == "atr":
        closes = [float(bar.close) for bar in bars]
        ranges = indicators.atr(
            [float(bar.high) for bar in bars], [float(bar.low) for bar in bars], closes, rule.period
        )
        latest = ranges[-1] if ranges else None
        return None if latest is None else written(latest) * rule.amount
    if rule.kind == "pips":
        return rule.amount * pip_size(instrument)
    if rule.kind == "percent":
        return entry * rule.amount / 100
    return rule.amount


def target_distance(
    decision: Decision, rule: TargetRule | None, stop: Decimal, instrument: Instrument
) -> Decimal | None:
    """Return the distance of the target from the entry price, or None.

    It is on the tick; None means no target. The strategy's own distance takes precedence over the rule.
    Raises NoPipError.
    """
    if decision.target_distance is not None:
        distance = decision.target_distance
    elif rule is None:
        return None
    else:
        distance = rule.amount * (stop if rule.kind == "r" else pip_size(instrument))
    return price_on_tick(distance, instrument.tick_size, down=False)


def stop_price(side: Side, entry: Decimal, distance: Decimal, instrument: Instrument) -> Decimal:
    """Return the price of the stop, rounded away from the entry.

    The size is computed from this price.
    """
    buy = side is Side.BUY
    return price_on_tick(entry - distance if buy else entry + distance, instrument.tick_size, down=buy)


def target_price(side: Side, entry: Decimal, distance: Decimal, instrument: Instrument) -> Decimal:
    """Return the price of the target, rounded away from the entry."""
    buy = side is Side.BUY
    return price_on_tick(entry + distance if buy else entry - distance, instrument.tick_size, down=not buy)


def _amount(key: str, value: Any, most: Decimal | None) -> Decimal:
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    amount = written(value) if number else Decimal("NaN")
    if not amount.is_finite() or amount <= 0 or (most is not None and amount > most):
        allowed = "a number above 0" if most is None else f"a number above 0, up to {most},"
        raise ParameterError(key, f"{allowed} is allowed")
    return amount
