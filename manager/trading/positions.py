"""Management of open positions: breakeven, trailing stop, partial close.

A stop never moves away from the price, and each position gets one change of its stop at a time. Nothing here
sends an order.
"""

from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Final, Literal

from manager.config.models import PositionManagementConfig
from manager.gateways.base import Instrument, Position, Side, Tick
from manager.trading.numbers import exact, is_number, on_grid, price_on_tick
from manager.trading.pips import pip_size

_ZERO: Final = Decimal(0)

StopRuleName = Literal["breakeven", "trailing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagementRules:
    """How positions of a symbol are managed. Distances and gains are in pips.

    Raises ValueError with the key's name for a value that is not allowed.
    """

    enable_breakeven: bool = False
    breakeven_trigger_pips: Decimal = Decimal(15)
    breakeven_offset_pips: Decimal = Decimal(2)
    enable_trailing: bool = False
    trailing_start_pips: Decimal = Decimal(20)
    trailing_distance_pips: Decimal = Decimal(10)
    trailing_step_pips: Decimal = Decimal(1)
    enable_partial_close: bool = False
    partial_close_profit_pips: Decimal = Decimal(25)
    partial_close_percent: Decimal = Decimal(50)
    #: Whether positions that others opened are managed too.
    manage_foreign: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool):
                continue
            least_allowed = field.name == "breakeven_offset_pips"
            if not is_number(value) or value < 0 or (value == 0 and not least_allowed):
                allowed = "0 or more" if least_allowed else "more than 0"
                raise ValueError(f"{field.name}: {value}; {allowed} is allowed")
        if self.breakeven_offset_pips >= self.breakeven_trigger_pips:
            raise ValueError(
                f"breakeven_offset_pips: {self.breakeven_offset_pips} is not below breakeven_trigger_pips "
                f"({self.breakeven_trigger_pips})"
            )
        if self.partial_close_percent >= 100:
            raise ValueError(f"partial_close_percent: {self.partial_close_percent}; less than 100 is allowed")

    @classmethod
    def of(cls, config: PositionManagementConfig) -> "ManagementRules":
        """Return the rules that an account file states for a symbol."""
        return cls(enable_breakeven=config.enable_breakeven, enable_trailing=config.enable_trailing)


@dataclass(frozen=True, slots=True)
class StopChange:
    """A new stop for a position."""

    price: Decimal
    rule: StopRuleName
    why: str


@dataclass(frozen=True, slots=True)
class Management:
    """What to do for a position now: the partial close, then the stop."""

    #: The volume to close, once per position; None: nothing.
    close_volume: Decimal | None = None
    stop: StopChange | None = None
    #: Whether a partial close was due, but the volumes are too small; it is not due again.
    partial_skipped: bool = False


def manage(
    position: Position,
    tick: Tick,
    instrument: Instrument,
    rules: ManagementRules,
    *,
    partial_done: bool = False,
) -> Management:
    """Return what is to be done for a position at the current price.

    `partial_done` says that the position had its partial close, or that it was skipped. A position of
    others is left alone unless the rules include it.

    Raises NoPipError if a rule is enabled for an instrument without pips.
    """
    enabled = rules.enable_breakeven or rules.enable_trailing or rules.enable_partial_close
    usable = is_number(tick.bid) and is_number(tick.ask) and 0 < tick.bid <= tick.ask
    if not enabled or not usable or not (position.ours or rules.manage_foreign):
        return Management()
    gain = gain_pips(position, tick, pip_size(instrument))
    volume: Decimal | None = None
    due = rules.enable_partial_close and not partial_done and gain >= rules.partial_close_profit_pips
    if due:
        volume = partial_volume(position.volume, instrument, rules.partial_close_percent)
    change = stop_change(position, tick, instrument, rules)
    return Management(volume, change, partial_skipped=due and volume is None)


def gain_pips(position: Position, tick: Tick, pip: Decimal) -> Decimal:
    """Return the gain in pips; negative for a loss.

    It is measured at the price at which the position would close.
    """
    if position.side is Side.BUY:
        return (tick.bid - position.open_price) / pip
    return (position.open_price - tick.ask) / pip


def partial_volume(volume: Decimal, instrument: Instrument, percent: Decimal) -> Decimal | None:
    """Return the part of a volume to close, on the step, or None.

    None if the part or the rest is below the least volume.
    """
    part = on_grid(exact(volume) * exact(percent) / 100, instrument.volume_step)
    least = instrument.volume_min
    return part if part >= least and volume - part >= least else None


def stop_change(
    position: Position, tick: Tick, instrument: Instrument, rules: ManagementRules
) -> StopChange | None:
    """Return the better stop that breakeven or trailing gives, or None.

    It is rounded away from the price and keeps the venue's distance. It must improve the present stop, by a
    tick (breakeven) or by the step (trailing). Inside the venue's freeze distance nothing changes.

    Raises NoPipError.
    """
    pip = pip_size(instrument)
    buy = position.side is Side.BUY
    # With `sign`, "better" is "greater" for both directions.
    sign = 1 if buy else -1
    price = tick.bid if buy else tick.ask
    gain = gain_pips(position, tick, pip)
    candidates: list[tuple[Decimal, StopRuleName]] = []
    if rules.enable_breakeven and gain >= rules.breakeven_trigger_pips:
        candidates.append((position.open_price + sign * rules.breakeven_offset_pips * pip, "breakeven"))
    if rules.enable_trailing and gain >= rules.trailing_start_pips:
        candidates.append((price - sign * rules.trailing_distance_pips * pip, "trailing"))
    if not candidates:
        return None
    wanted, rule = max(candidates, key=lambda one: sign * one[0])
    limit = price - sign * instrument.stops_distance
    nearest = min(sign * wanted, sign * limit) * sign
    stop = price_on_tick(nearest, instrument.tick_size, down=buy)
    least = instrument.tick_size if rule == "breakeven" else rules.trailing_step_pips * pip
    now = position.stop_loss
    if sign * (price - stop) <= 0 or (now is not None and sign * (stop - now) < least):
        return None
    if _frozen(price, (now, position.take_profit, stop), instrument.freeze_distance):
        return None
    return StopChange(stop, rule, f"{rule}: gain {gain:.1f} pips, stop {now or 'none'} → {stop}")


def _frozen(price: Decimal, levels: tuple[Decimal | None, ...], distance: Decimal) -> bool:
    """Return whether a level is so near that the venue changes nothing."""
    return any(level is not None and abs(price - level) <= distance for level in levels) and distance > _ZERO
