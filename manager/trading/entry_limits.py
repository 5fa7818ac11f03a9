"""The sequence of limits before an entry.

Each limit is one function that returns a refusal or None. `entry_refusal` applies them in their sequence.
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Final

from manager.gateways.base import Side, TradeMode
from manager.states import TradingMode
from manager.trading.numbers import exact
from manager.trading.risk import Entry, Refusal, portfolio_refusal

#: How far ahead of the venue's time a tick or a signal may be: two readings of one clock.
_SKEW: Final = timedelta(seconds=5)
_SIDES: Final = {TradeMode.LONG_ONLY: Side.BUY, TradeMode.SHORT_ONLY: Side.SELL}


def entry_refusal(entry: Entry) -> Refusal | None:
    """Return the first limit that refuses the entry, or None."""
    return next((found for limit in _SEQUENCE if (found := limit(entry)) is not None), None)


def _mode(entry: Entry) -> Refusal | None:
    if entry.mode is not TradingMode.NORMAL:
        return Refusal("mode", f"the account's mode is {entry.mode}; entries need normal")
    return None


def _unsettled(entry: Entry) -> Refusal | None:
    if entry.unsettled:
        return Refusal("unsettled_order", f"{entry.unsettled} orders of the symbol have no known outcome yet")
    return None


def _environment(entry: Entry) -> Refusal | None:
    if entry.environment_problem is not None:
        return Refusal("environment", entry.environment_problem)
    return None


def _identity(entry: Entry) -> Refusal | None:
    if not entry.identity_seen:
        return Refusal("identity", "the venue has not confirmed in this cycle which account it answers for")
    return None


def _trade_mode(entry: Entry) -> Refusal | None:
    mode = entry.instrument.trade_mode
    if mode is TradeMode.FULL or _SIDES.get(mode) is entry.side:
        return None
    return Refusal("trade_mode", f"the venue's mode for {entry.instrument.symbol} is {mode}")


def _market_open(entry: Entry) -> Refusal | None:
    return None if entry.market_open else Refusal("market_closed", "the market is closed")


def _tick(entry: Entry) -> Refusal | None:
    tick, most = entry.tick, entry.limits.max_tick_age
    if not (tick.bid.is_finite() and tick.ask.is_finite() and 0 < tick.bid <= tick.ask):
        return Refusal("bad_tick", f"bid {tick.bid} and ask {tick.ask} are not prices")
    age = entry.now - tick.time
    if age > most:
        why = f"the latest tick is {_seconds(age)} old; {_seconds(most)} is allowed"
        return Refusal("tick_age", why)
    if age < -_SKEW:
        return Refusal("tick_age", f"the latest tick is {_seconds(-age)} in the future of the venue's time")
    return None


def _spread(entry: Entry) -> Refusal | None:
    spread, most = entry.tick.ask - entry.tick.bid, entry.limits.max_spread
    if most is not None and spread > most:
        return Refusal("spread", f"the spread is {spread}; {most} is allowed")
    return None


def _signal_age(entry: Entry) -> Refusal | None:
    age, most = entry.now - entry.signal_at, entry.limits.max_signal_age
    if age > most:
        return Refusal("signal_age", f"the signal is {_seconds(age)} old; {_seconds(most)} is allowed")
    if age < -_SKEW:
        return Refusal("signal_age", f"the bar of the signal ends in {_seconds(-age)}")
    return None


def _stop(entry: Entry) -> Refusal | None:
    if entry.stop is None:
        return Refusal("no_stop", "an entry without a stop is not sent")
    buy = entry.side is Side.BUY
    # A stop of a market order is measured from the price at which the position would close.
    price = (entry.tick.bid if buy else entry.tick.ask) if entry.limit_price is None else entry.limit_price
    distance = price - entry.stop if buy else entry.stop - price
    least = entry.instrument.stops_distance
    if not distance.is_finite() or distance <= 0 or distance < least:
        why = f"the stop at {entry.stop} is {distance} away from {price}; the venue asks for {least}"
        return Refusal("stop_too_close", why)
    return None


def _max_positions(entry: Entry) -> Refusal | None:
    count = sum(one.symbol == entry.instrument.symbol for one in entry.exposures)
    most = entry.limits.max_positions
    if count >= most:
        why = f"{count} positions and entries on {entry.instrument.symbol}; {most} are allowed"
        return Refusal("max_positions", why)
    return None


def _max_concurrent_trades(entry: Entry) -> Refusal | None:
    count, most = len(entry.exposures), entry.limits.max_concurrent_trades
    if count >= most:
        why = f"{count} positions and entries on the account; {most} are allowed"
        return Refusal("max_concurrent_trades", why)
    return None


def _cooldown(entry: Entry) -> Refusal | None:
    last = entry.last_entries.get((entry.instrument.symbol, entry.side))
    if last is None:
        return None
    # A last entry in the future counts: the venue's clock may have been set back.
    passed, most = entry.now - last, entry.limits.cooldown
    if passed >= most:
        return None
    why = f"the last entry in this direction was {_seconds(passed)} ago; {_seconds(most)} must pass"
    return Refusal("cooldown", why)


def _rate(entry: Entry) -> Refusal | None:
    return entry.rate.refusal(entry.now)


def _price_collar(entry: Entry) -> Refusal | None:
    if entry.limit_price is None:
        return None
    price = entry.tick.ask if entry.side is Side.BUY else entry.tick.bid
    most = entry.limits.price_collar_percent
    away: Decimal = abs(entry.limit_price - price)
    if exact(away) * 100 > exact(price) * exact(most):
        why = f"the limit price {entry.limit_price} is more than {most} % away from {price}"
        return Refusal("price_collar", why)
    return None


def _size(entry: Entry) -> Refusal | None:
    if entry.size.refused is not None:
        return Refusal(entry.size.refused, entry.size.why)
    if entry.size.volume < entry.instrument.volume_min:
        return Refusal("risk_too_small", f"a volume of {entry.size.volume} is below the least one")
    return None


def _check(entry: Entry) -> Refusal | None:
    return None if entry.check_problem is None else Refusal("check_order", entry.check_problem)


def _seconds(span: timedelta) -> str:
    return f"{span.total_seconds():g} s"


_SEQUENCE: Final[tuple[Callable[[Entry], Refusal | None], ...]] = (
    _mode,
    _unsettled,
    _environment,
    _identity,
    _trade_mode,
    _market_open,
    _tick,
    _spread,
    _signal_age,
    _stop,
    _max_positions,
    _max_concurrent_trades,
    portfolio_refusal,
    _cooldown,
    _rate,
    _price_collar,
    _size,
    _check,
)
