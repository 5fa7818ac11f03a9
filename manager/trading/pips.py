"""The pip of an instrument, which only currency pairs have by convention."""

from decimal import Decimal
from typing import Final

from manager.gateways.base import Instrument

#: Currencies whose pairs have the conventional pip. Metals and coins have codes too, but no pip.
_CURRENCIES: Final = frozenset({
    "AUD", "BRL", "CAD", "CHF", "CNH", "CNY", "CZK", "DKK", "EUR", "GBP", "HKD", "HUF", "ILS", "INR", "JPY",
    "KRW", "MXN", "NOK", "NZD", "PLN", "RON", "RUB", "SEK", "SGD", "THB", "TRY", "TWD", "USD", "ZAR",
})  # fmt: skip
_PIP: Final = Decimal("0.0001")
_YEN_PIP: Final = Decimal("0.01")


class NoPipError(ValueError):
    """Raised for pips of an instrument that has none.

    The text says what to use instead.
    """


def pip_size(instrument: Instrument) -> Decimal:
    """Return the price difference of one pip.

    It is the venue's, or the convention of currency pairs.

    Raises NoPipError for any other instrument.
    """
    if instrument.pip_size is not None and instrument.pip_size.is_finite() and instrument.pip_size > 0:
        return instrument.pip_size
    base, profit = instrument.base, instrument.profit_currency
    is_pair = base in _CURRENCIES and profit in _CURRENCIES and instrument.symbol.startswith(base + profit)
    if not is_pair:
        raise NoPipError(f"{instrument.symbol} has no pip; use atr or percent instead of pips")
    return _YEN_PIP if profit == "JPY" else _PIP
