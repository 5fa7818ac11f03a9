"""Instruments as venues describe them, for tests of `manager.trading`."""

from decimal import Decimal
from typing import Any

from manager.gateways.base import Instrument

D = Decimal


def instrument(symbol: str, **changes: Any) -> Instrument:
    """Return a currency pair with a contract of 100,000, or what `changes` make of it."""
    digits = 3 if symbol.endswith("JPY") else 5
    data: dict[str, Any] = {
        "symbol": symbol,
        "digits": digits,
        "tick_size": D(1).scaleb(-digits),
        "contract_size": D(100_000),
        "volume_min": D("0.01"),
        "volume_max": D(100),
        "volume_step": D("0.01"),
        "base": symbol[:3],
        "profit_currency": symbol[3:6],
        "pip_size": D(1).scaleb(1 - digits),
    }
    return Instrument(**{**data, **changes})


EURUSD = instrument("EURUSD")
USDJPY = instrument("USDJPY")
GOLD = instrument("XAUUSD", digits=2, tick_size=D("0.01"), contract_size=D(100), pip_size=None)
BTC = instrument(
    "BTCUSD",
    digits=2,
    tick_size=D("0.01"),
    contract_size=D(1),
    volume_min=D("0.0001"),
    volume_step=D("0.0001"),
    volume_max=D(1000),
    pip_size=None,
)
#: A perpetual worth 1 USD, settled in BTC.
INVERSE = instrument(
    "XBTUSD.I",
    digits=1,
    tick_size=D("0.5"),
    contract_size=D(1),
    volume_min=D(1),
    volume_step=D(1),
    volume_max=D(1_000_000),
    base="BTC",
    profit_currency="USD",
    inverse=True,
    pip_size=None,
)
