"""Position sizes from the distance of the stop.

A size never exceeds the risk that the account file allows. A volume below the venue's minimum is refused,
never raised. All divisions are exact.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final

from manager.gateways.base import Account, Instrument, Side
from manager.trading.conversion import NoConversion, Quotes, convert_loss
from manager.trading.numbers import exact, is_number, on_grid, rounded_down, written

#: How far the venue's own figure of a loss may differ from ours.
_TOLERANCE: Final = Fraction(5, 100)
_ZERO: Final = Decimal(0)
#: Figures of an instrument without which there is no size.
_POSITIVE: Final = ("contract_size", "volume_min", "volume_step", "tick_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The volume of a new position, or why there is none."""

    #: 0 if refused.
    volume: Decimal = _ZERO
    #: `risk_too_small`, `no_conversion`, `size_disputed`, `volume_limit`, `insufficient_funds`,
    #: `stop_wrong_side` or `bad_figures`; None if there is a volume.
    refused: str | None = None
    #: The loss at the stop, in the account's currency, with the commission.
    risk: Decimal = _ZERO
    #: The same for one unit of volume.
    per_lot: Decimal = _ZERO
    #: The calculation or the refusal, for people.
    why: str = ""


def risk_base(account: Account, rule: str = "lower") -> Decimal:
    """Return what `risk_percent` is a percentage of.

    `rule` is `balance`, `equity`, or the `lower` of both. NaN if the venue reports one that is no number:
    then there is no size.


    Raises ValueError for another rule.
    """
    if not (account.balance.is_finite() and account.equity.is_finite()):
        return Decimal("NaN")
    if rule == "balance":
        return account.balance
    if rule == "equity":
        return account.equity
    if rule == "lower":
        return min(account.balance, account.equity)
    raise ValueError(f"risk_base {rule!r} is unknown; allowed are lower, balance, equity")


def size(
    *,
    base: Decimal,
    risk_percent: Decimal | float,
    side: Side,
    entry: Decimal,
    stop: Decimal,
    instrument: Instrument,
    currency: str,
    quotes: Quotes,
    commission_per_lot: Decimal = _ZERO,
    max_volume: Decimal | None = None,
    held: Decimal = _ZERO,
) -> Size:
    """Return the greatest volume whose loss at the stop is allowed.

    Allowed is `risk_percent` of `base`. `entry` is the ask for a buy and the bid for a sell, so that the
    spread is inside the distance. `currency` is the account's; `commission_per_lot` is for opening and
    closing, in that currency. `quotes` contains recent ticks only (`fresh_quotes`). `held` is the volume that
    the account has on the symbol in this direction.

    Figures that make no sense are refused, whatever the venue says. Raises TypeError for floats (except
    `risk_percent`, which is taken as a person writes it).
    """
    percent = written(risk_percent)
    positive = {"entry": entry, "stop": stop, "risk_percent": percent}
    not_negative = {"commission_per_lot": commission_per_lot, "held volume": held}
    finite = {"base": base, "max_volume": max_volume}
    for problem in _bad_figures(instrument, positive, not_negative, finite):
        return Size(refused="bad_figures", why=problem)
    if not (stop < entry if side is Side.BUY else stop > entry):
        below = "below" if side is Side.BUY else "above"
        return Size(refused="stop_wrong_side", why=f"stop {stop} is not {below} the entry at {entry}")
    try:
        price_loss = loss_per_lot(instrument, entry, stop, currency, quotes)
    except NoConversion as error:
        return Size(refused="no_conversion", why=str(error))
    dispute = _tick_value_problem(instrument, entry, stop, price_loss)
    if dispute is not None:
        return Size(refused="size_disputed", per_lot=rounded_down(price_loss), why=dispute)
    per_lot = price_loss + exact(commission_per_lot)
    allowed = exact(base) * exact(percent) / 100
    return _fitted(instrument, allowed, per_lot, currency, _cap(instrument, max_volume, held))


def loss_per_lot(
    instrument: Instrument, entry: Decimal, stop: Decimal, currency: str, quotes: Quotes
) -> Fraction:
    """Return the loss of one unit of volume between two prices.

    In the account's currency, without commission. Raises NoConversion.
    """
    if instrument.inverse:
        difference = abs(1 / exact(stop) - 1 / exact(entry))
        return convert_loss(exact(instrument.contract_size) * difference, instrument.base, currency, quotes)
    distance = abs(exact(entry) - exact(stop))
    amount = distance * exact(instrument.contract_size)
    return convert_loss(amount, instrument.profit_currency, currency, quotes)


def _bad_figures(
    instrument: Instrument,
    positive: Mapping[str, Decimal],
    not_negative: Mapping[str, Decimal],
    finite: Mapping[str, Decimal | None],
) -> Iterator[str]:
    own = {name: getattr(instrument, name) for name in _POSITIVE}
    for name, value in {**positive, **own}.items():
        if not is_number(value) or value <= 0:
            yield f"{name} is {value}; a number above 0 is required"
    for name, value in not_negative.items():
        if not is_number(value) or value < 0:
            yield f"{name} is {value}; 0 or more is required"
    limits = {"volume_max": instrument.volume_max, "volume_limit": instrument.volume_limit}
    for name, limit in {**finite, **limits}.items():
        if limit is not None and not is_number(limit):
            yield f"{name} is {limit}; a number is required"


def _tick_value_problem(
    instrument: Instrument, entry: Decimal, stop: Decimal, price_loss: Fraction
) -> str | None:
    """Return why the venue's tick value contradicts the loss, or None."""
    value = instrument.loss_tick_value
    if value is None:
        return None
    if not is_number(value) or value <= 0:
        return f"the venue states a tick value of {value}"
    ticks = abs(exact(entry) - exact(stop)) / exact(instrument.tick_size)
    return _dispute(price_loss, ticks * exact(value), "by its tick value")


def size_dispute(ours: Decimal, venues: Decimal) -> str | None:
    """Return why two figures of one loss are too different, or None.

    `ours` is `loss_per_lot` times the volume, and `venues` what the venue computes (`loss_at`); both without
    commission. They may differ by 5 percent.
    """
    return _dispute(exact(ours), exact(venues), "as it computes it")


def _dispute(ours: Fraction, venues: Fraction, how: str) -> str | None:
    if abs(ours - venues) <= _TOLERANCE * ours:
        return None
    return (
        f"the loss is {rounded_down(ours):.2f} by price and contract size, but the venue says "
        f"{rounded_down(venues):.2f} {how}; the two differ by more than 5 %"
    )


def _cap(instrument: Instrument, max_volume: Decimal | None, held: Decimal) -> Decimal:
    caps = [instrument.volume_max]
    if max_volume is not None:
        caps.append(max_volume)
    if instrument.volume_limit is not None:
        caps.append(instrument.volume_limit - held)
    return min(caps)


def _fitted(
    instrument: Instrument, allowed: Fraction, per_lot: Fraction, currency: str, cap: Decimal
) -> Size:
    least, step = instrument.volume_min, instrument.volume_step
    shown = rounded_down(per_lot)
    raw = allowed / per_lot
    if raw < exact(least):
        would = rounded_down(per_lot * exact(least))
        why = f"{least} would risk {would:.2f} {currency}, {rounded_down(allowed):.2f} is allowed"
        return Size(refused="risk_too_small", per_lot=shown, why=why)
    volume = on_grid(min(raw, exact(cap)), step, least)
    if volume < least:
        why = f"at most {cap} may be opened, which is below the least volume of {least}"
        return Size(refused="volume_limit", per_lot=shown, why=why)
    risk = rounded_down(per_lot * exact(volume))
    why = f"{volume} risks {risk:.2f} of {rounded_down(allowed):.2f} {currency}"
    return Size(volume=volume, risk=risk, per_lot=shown, why=why)


def fit_margin(
    wanted: Size,
    *,
    margin: Decimal,
    free_margin: Decimal,
    use_percent: Decimal | float,
    instrument: Instrument,
) -> Size:
    """Return the size reduced to what free margin covers, or refused.

    The refusal is `insufficient_funds`, or `bad_figures` for a margin that is not a number.

    For a size that the venue's own check has refused for lack of margin. `margin` is what the venue asks for
    `wanted.volume`. The result may use `use_percent` of the free margin. The caller asks the venue again for
    a reduced volume, because margin need not be proportional to it.
    """
    if wanted.refused is not None:
        return wanted
    if not is_number(margin) or not is_number(free_margin):
        why = f"margin {margin} or free margin {free_margin} is not a number"
        return Size(refused="bad_figures", per_lot=wanted.per_lot, why=why)
    usable = exact(free_margin) * exact(written(use_percent)) / 100
    need = exact(margin)
    if need <= usable:
        return wanted
    raw = exact(wanted.volume) * max(usable, Fraction(0)) / need
    volume = on_grid(raw, instrument.volume_step, instrument.volume_min)
    if volume < instrument.volume_min:
        why = f"{wanted.volume} needs a margin of {margin}; {rounded_down(usable):.2f} may be used"
        return Size(refused="insufficient_funds", per_lot=wanted.per_lot, why=why)
    risk = rounded_down(exact(wanted.risk) * exact(volume) / exact(wanted.volume))
    why = f"{volume} instead of {wanted.volume}: free margin allows {rounded_down(usable):.2f}"
    return Size(volume=volume, risk=risk, per_lot=wanted.per_lot, why=why)
