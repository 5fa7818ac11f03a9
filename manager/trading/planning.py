"""From a decision to what is to be sent: exits first, then at most one entry.

Pure: the same bars, prices and account give the same plan, in a session and in a replay. A plan becomes an
order only if `entry_limits.entry_refusal` does not refuse it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from manager.gateways.base import Bar, Instrument, Position, Side, Tick
from manager.trading.conversion import Quotes
from manager.trading.orderids import entry_intent, exit_intent
from manager.trading.pips import NoPipError
from manager.trading.protections import (
    DEFAULT_STOP,
    StopRule,
    TargetRule,
    stop_distance,
    stop_price,
    target_distance,
    target_price,
)
from manager.trading.risk import Refusal
from manager.trading.sizing import Size, size
from manager.trading.strategy import Decision, Direction

_SIDES: Final[dict[Direction, Side]] = {"long": Side.BUY, "short": Side.SELL}
_DIRECTIONS: Final[dict[Side, Direction]] = {side: direction for direction, side in _SIDES.items()}


@dataclass(frozen=True, slots=True)
class PlannedExit:
    """A position that the strategy closes."""

    position: Position
    #: The intent of its order's id.
    intent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedEntry:
    """A market order with its stop and target."""

    side: Side
    #: The price that the size was computed with: the ask for a buy, the bid for a sell.
    price: Decimal
    stop: Decimal
    target: Decimal | None
    #: Its volume is 0 if it is refused; the limits then refuse the entry.
    size: Size
    #: The intent of its order's id.
    intent: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryRules:
    """What an account file says of the entries on one symbol."""

    risk_percent: Decimal | float
    direction: Literal["both", "long", "short"] = "both"
    stop: StopRule = DEFAULT_STOP
    #: None: no target.
    target: TargetRule | None
    commission_per_lot: Decimal = Decimal(0)
    max_volume: Decimal | None = None


def plan_exits(decision: Decision, positions: Iterable[Position], symbol: str) -> list[PlannedExit]:
    """Return the positions on the symbol that the decision closes.

    Positions of others are never closed by a strategy.
    """
    return [
        PlannedExit(position, exit_intent(position.id))
        for position in positions
        if position.symbol == symbol and position.ours and _DIRECTIONS[position.side] in decision.exit
    ]


def plan_entry(
    decision: Decision,
    bars: Sequence[Bar],
    *,
    instrument: Instrument,
    tick: Tick,
    rules: EntryRules,
    base: Decimal,
    currency: str,
    quotes: Quotes,
    held: Decimal = Decimal(0),
) -> PlannedEntry | Refusal | None:
    """Return the entry of a decision, why there is none, or None if none is wanted.

    `bars` are those of the decision. `base`, `currency`, `quotes` and `held` are as for `sizing.size`. The
    size is computed from the stop as it will be sent, after rounding.
    """
    if decision.enter is None:
        return None
    if rules.direction not in ("both", decision.enter):
        return Refusal(
            "direction", f"{decision.enter} entries are not enabled; direction is {rules.direction}"
        )
    if not (tick.bid.is_finite() and tick.ask.is_finite() and 0 < tick.bid <= tick.ask):
        return Refusal("bad_tick", f"bid {tick.bid} and ask {tick.ask} are not prices")
    side = _SIDES[decision.enter]
    price = tick.ask if side is Side.BUY else tick.bid
    try:
        away = stop_distance(decision, rules.stop, bars, price, instrument)
        beyond = None if away is None else target_distance(decision, rules.target, away, instrument)
    except NoPipError as error:
        return Refusal("no_pip", str(error))
    if away is None:
        return Refusal("no_stop", f"the average true range of {rules.stop.period} bars is not defined")
    stop = stop_price(side, price, away, instrument)
    target = None if beyond is None else target_price(side, price, beyond, instrument)
    if target is not None and target <= 0:
        return Refusal("target_too_far", f"the target at {target} is not a price")
    found = size(
        base=base,
        risk_percent=rules.risk_percent,
        side=side,
        entry=price,
        stop=stop,
        instrument=instrument,
        currency=currency,
        quotes=quotes,
        commission_per_lot=rules.commission_per_lot,
        max_volume=rules.max_volume,
        held=held,
    )
    intent = entry_intent(side)
    return PlannedEntry(
        side=side, price=price, stop=stop, target=target, size=found, intent=intent, why=decision.why
    )
