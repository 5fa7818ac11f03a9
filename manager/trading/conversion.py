"""Conversion of a loss into the account's currency, against the account."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Final

from manager.gateways.base import Instrument, Tick
from manager.trading.numbers import exact

#: Bid and ask by the two currencies, base first: `EURUSD`.
Quotes = Mapping[str, tuple[Decimal, Decimal]]

#: Currencies over which a conversion may go, best first.
_BRIDGES: Final = ("USD", "EUR")
#: A tick older than this does not convert.
MAX_AGE: Final = timedelta(seconds=60)


class NoConversion(LookupError):  # noqa: N818 - the name of the refusal that follows from it
    """Raised when no usable quote connects two currencies."""


def convert_loss(amount: Fraction, currency: str, account: str, quotes: Quotes) -> Fraction:
    """Return a loss of `amount` in the account's currency.

    A direct quote is preferred, then one over USD, then one over EUR. The side of each quote is the one that
    makes the loss larger.

    Raises NoConversion if a currency is not known, or no quote connects them.
    """
    if not currency or not account:
        raise NoConversion("the venue does not report the currencies of the instrument and the account")
    direct = _direct(amount, currency, account, quotes)
    if direct is not None:
        return direct
    for bridge in _BRIDGES:
        half = _direct(amount, currency, bridge, quotes)
        whole = None if half is None else _direct(half, bridge, account, quotes)
        if whole is not None:
            return whole
    raise NoConversion(
        f"no quote from the last {MAX_AGE.seconds} s converts {currency} to {account}, "
        f"directly or over {' or '.join(_BRIDGES)}"
    )


def _direct(amount: Fraction, currency: str, account: str, quotes: Quotes) -> Fraction | None:
    if currency == account:
        return amount
    divide = _price(quotes, account + currency, 0)
    if divide is not None:
        return amount / divide
    multiply = _price(quotes, currency + account, 1)
    return None if multiply is None else amount * multiply


def _price(quotes: Quotes, pair: str, side: int) -> Fraction | None:
    """Return the bid (0) or ask (1) of a pair, or None if it is not usable."""
    quote = quotes.get(pair)
    if quote is None:
        return None
    bid, ask = quote
    usable = bid.is_finite() and ask.is_finite() and 0 < bid <= ask
    return exact(quote[side]) if usable else None


def fresh_quotes(
    ticks: Iterable[tuple[Instrument, Tick]], now: datetime, max_age: timedelta = MAX_AGE
) -> dict[str, tuple[Decimal, Decimal]]:
    """Return the quotes of ticks that are recent at the venue's time `now`.

    A pair's key is its base and profit currency, also if the venue names it `EURUSD.m`. An instrument whose
    name does not contain that pair is left out: some brokers report one base currency for every instrument.
    Inverse instruments are left out, and ticks more than `max_age` in the future.
    """
    return {
        pair: (tick.bid, tick.ask)
        for instrument, tick in ticks
        if (pair := _pair(instrument)) and abs(now - tick.time) <= max_age
    }


def _pair(instrument: Instrument) -> str | None:
    if not instrument.base or not instrument.profit_currency or instrument.inverse:
        return None
    pair = instrument.base + instrument.profit_currency
    return pair if pair in instrument.symbol.upper().replace("/", "") else None
