"""Limits that an entry must pass, and the risk of what is open.

The limits apply in a fixed sequence. The first one that refuses is the answer; none of them changes an order.
All times are the venue's.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Final, Literal

from manager.config.models import AccountConfig, CurrencyConfiguration
from manager.gateways.base import Instrument, Position, Side, Tick
from manager.states import TradingMode
from manager.trading.conversion import NoConversion, Quotes
from manager.trading.numbers import exact, rounded_up, written
from manager.trading.sizing import Size, loss_per_lot
from manager.trading.timeframes import default_signal_age

#: The built-in limits of the rate of order calls, per minute and in 24 hours.
ORDERS_PER_MINUTE: Final = 10
ORDERS_PER_DAY: Final = 200

_MINUTE: Final = timedelta(minutes=1)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskLimits:
    """The limits of one symbol of an account."""

    #: Positions on the symbol.
    max_positions: int
    #: Positions on the account, whoever opened them.
    max_concurrent_trades: int
    portfolio_risk_percent: Decimal
    max_signal_age: timedelta
    #: Whether a position without a stop forbids entries (`refuse`) or counts as no risk (`ignore`).
    unprotected: Literal["refuse", "ignore"] = "refuse"
    max_tick_age: timedelta = timedelta(seconds=10)
    #: As a price difference; None: no limit.
    max_spread: Decimal | None = None
    #: Between two entries on one symbol in one direction.
    cooldown: timedelta = timedelta(seconds=60)
    #: How far the price of a limit order may be from the current price.
    price_collar_percent: Decimal = Decimal(5)

    @classmethod
    def of(cls, account: AccountConfig, currency: CurrencyConfiguration) -> "RiskLimits":
        """Return what an account file says of one of its symbols.

        The portfolio limits are the account's. Raises ValueError if the file lacks one of them.
        """
        risk = account.default_risk
        if risk.portfolio_risk_percent is None or risk.max_concurrent_trades is None:
            raise ValueError("default_risk needs portfolio_risk_percent and max_concurrent_trades")
        return cls(
            max_positions=currency.risk.max_positions,
            max_concurrent_trades=risk.max_concurrent_trades,
            portfolio_risk_percent=written(risk.portfolio_risk_percent),
            max_signal_age=default_signal_age(currency.strategy.timeframe),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """A position, or an entry order that works or is not settled yet."""

    symbol: str
    side: Side
    #: The loss at its stop, in the account's currency; None if it has no stop or the loss is unknown.
    risk: Decimal | None
    #: What it is, for people: `position 17`.
    what: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an entry is not sent."""

    #: The name of the limit.
    rule: str
    why: str
    #: The mode that follows from the refusal, with an alarm; None: none.
    mode: TradingMode | None = None


class OrderRate:
    """Counts an account's order calls of any kind.

    Keeps the times of the last 24 hours, as many as the daily limit at most.
    """

    def __init__(self, per_minute: int = ORDERS_PER_MINUTE, per_day: int = ORDERS_PER_DAY) -> None:
        if per_minute < 1 or per_day < 1:
            raise ValueError("the limits of order calls are 1 or more")
        self._per_minute = per_minute
        self._per_day = per_day
        self._times: deque[datetime] = deque(maxlen=max(per_minute, per_day))

    def note(self, at: datetime) -> None:
        """Count an order call at the venue's time `at`."""
        self._times.append(at)

    def refusal(self, now: datetime) -> Refusal | None:
        """Return the limit that one more call would exceed, or None.

        A call whose time is after `now` counts: the venue's clock may have been set back.
        """
        for name, most, span in (
            ("max_orders_per_minute", self._per_minute, _MINUTE),
            ("max_orders_per_day", self._per_day, _DAY),
        ):
            count = sum(now - at < span for at in self._times)
            if count >= most:
                why = f"{count} order calls within {span.total_seconds():.0f} s; {most} are allowed"
                return Refusal(name, why, TradingMode.CLOSE_ONLY)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry, and the facts that decide whether it is sent."""

    side: Side
    instrument: Instrument
    tick: Tick
    #: The venue's time.
    now: datetime
    #: When the bar that was decided on ended.
    signal_at: datetime
    stop: Decimal | None
    #: The price of a limit order; None for a market order.
    limit_price: Decimal | None = None
    size: Size
    #: What `portfolio_risk_percent` is a percentage of.
    base: Decimal
    limits: RiskLimits
    exposures: Sequence[Exposure]
    rate: OrderRate
    mode: TradingMode = TradingMode.NORMAL
    #: Orders of the symbol whose outcome is not known.
    unsettled: int = 0
    #: Why the account's environment forbids orders; None: it allows them.
    environment_problem: str | None = None
    #: Whether the venue has named the account in this cycle, and it was the right one.
    identity_seen: bool
    market_open: bool
    #: The last entries, by symbol and side.
    last_entries: Mapping[tuple[str, Side], datetime] = field(default_factory=dict)
    #: What the venue's own check says against the order; None: nothing.
    check_problem: str | None = None


def exposure_of(position: Position, instrument: Instrument | None, currency: str, quotes: Quotes) -> Exposure:
    """Return a position as exposure.

    Its risk is the loss from its open price to its stop: none once the stop is at breakeven. It is unknown
    without a stop, without the instrument, and without a conversion.
    """
    what = f"position {position.id}"
    risk = None if instrument is None else _open_risk(position, instrument, currency, quotes)
    return Exposure(symbol=position.symbol, side=position.side, risk=risk, what=what)


def _open_risk(position: Position, instrument: Instrument, currency: str, quotes: Quotes) -> Decimal | None:
    stop, opened = position.stop_loss, position.open_price
    if stop is None or not stop.is_finite() or stop <= 0:
        return None
    if (stop >= opened) if position.side is Side.BUY else (stop <= opened):
        return Decimal(0)
    try:
        per_lot = loss_per_lot(instrument, opened, stop, currency, quotes)
    except NoConversion:
        return None
    return rounded_up(per_lot * exact(position.volume))


def portfolio_refusal(entry: Entry) -> Refusal | None:
    """Return why the open risk and this entry's would be too much, or None."""
    unknown = [one.what for one in entry.exposures if one.risk is None]
    if unknown and entry.limits.unprotected == "refuse":
        why = f"{', '.join(unknown)} on this account: the loss at the stop is unknown, or there is no stop"
        return Refusal("unprotected_position", why)
    held = sum((exact(one.risk) for one in entry.exposures if one.risk is not None), Fraction(0))
    allowed = exact(entry.base) * exact(entry.limits.portfolio_risk_percent) / 100
    if held + exact(entry.size.risk) <= allowed:
        return None
    why = (
        f"open risk {rounded_up(held):.2f} and {entry.size.risk:.2f} for this entry; "
        f"{rounded_up(allowed):.2f} is allowed ({entry.limits.portfolio_risk_percent} % of {entry.base:.2f})"
    )
    return Refusal("portfolio_risk", why)
