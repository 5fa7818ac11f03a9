"""Prices: a function of seed, symbol and time, or bars from CSV files."""

import csv
import hashlib
import math
import struct
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Final, Protocol

#: Seconds since the epoch.
Clock = Callable[[], float]


class UnknownSymbolError(LookupError):
    """Raised when the venue does not list a symbol.

    The text names the listed symbols.
    """


@dataclass(frozen=True, slots=True)
class Listing:
    """An instrument.

    Profit and loss are in `quote` and converted to the account's currency.
    """

    symbol: str
    base: str
    quote: str
    digits: int
    contract_size: Decimal
    #: The centre of the seeded prices, and the difference of ask and bid, both in the quote currency.
    middle: float
    spread: Decimal
    volume_min: Decimal = Decimal("0.01")
    volume_max: Decimal = Decimal(100)
    volume_step: Decimal = Decimal("0.01")

    @property
    def tick_size(self) -> Decimal:
        return Decimal(1).scaleb(-self.digits)


def _fx(symbol: str, middle: float, digits: int = 5) -> Listing:
    tick = Decimal(1).scaleb(-digits)
    return Listing(symbol, symbol[:3], symbol[3:], digits, Decimal(100_000), middle, 12 * tick)


LISTINGS: Final[Mapping[str, Listing]] = {
    listing.symbol: listing
    for listing in (
        _fx("EURUSD", 1.085),
        _fx("GBPUSD", 1.27),
        _fx("AUDUSD", 0.66),
        _fx("NZDUSD", 0.61),
        _fx("USDJPY", 149.5, 3),
        _fx("USDCHF", 0.88),
        _fx("USDCAD", 1.36),
        Listing("XAUUSD", "XAU", "USD", 2, Decimal(100), 2_350.0, Decimal("0.30")),
        Listing("BTCUSD", "BTC", "USD", 2, Decimal(1), 65_000.0, Decimal("15.00")),
        Listing("ETHUSD", "ETH", "USD", 2, Decimal(1), 3_400.0, Decimal("1.20")),
    )
}


def listing(symbol: str) -> Listing:
    """Return the instrument. Raises UnknownSymbolError."""
    try:
        return LISTINGS[symbol]
    except KeyError:
        raise UnknownSymbolError(f"{symbol!r} is not listed here; {', '.join(LISTINGS)} are") from None


@dataclass(frozen=True, slots=True)
class Quote:
    """The bid and ask price of an instrument."""

    bid: Decimal
    ask: Decimal
    #: Seconds since the epoch.
    time: float


class Prices(Protocol):
    """A source of prices."""

    def quote(self, symbol: str) -> Quote:
        """Return the current quote. Raises UnknownSymbolError."""


def _quoted(instrument: Listing, middle: float, time: float) -> Quote:
    tick = instrument.tick_size
    bid = (Decimal(repr(middle)) - instrument.spread / 2).quantize(tick)
    return Quote(bid, bid + instrument.spread, time)


#: (period in seconds, amplitude as a fraction of the price), from daily to one-second movements.
_OCTAVES: Final = ((86_400.0, 0.012), (7_200.0, 0.004), (600.0, 0.0012), (60.0, 0.0003), (2.0, 0.00004))


class SeededPrices:
    """Value noise over hashes: a price at any time, equal for equal seeds.

    It uses blake2b, because Python's `hash` differs between processes.
    """

    def __init__(self, seed: int, clock: Clock) -> None:
        self._seed = seed
        self._clock = clock

    def quote(self, symbol: str) -> Quote:
        instrument = listing(symbol)
        now = self._clock()
        moved = sum(
            size * self._noise(symbol, octave, now / period) for octave, (period, size) in enumerate(_OCTAVES)
        )
        return _quoted(instrument, instrument.middle * (1 + moved), now)

    def _noise(self, symbol: str, octave: int, at: float) -> float:
        left = math.floor(at)
        part = at - left
        smooth = part * part * (3 - 2 * part)
        a = _lattice(self._seed, symbol, octave, left)
        return a + (_lattice(self._seed, symbol, octave, left + 1) - a) * smooth


@lru_cache(maxsize=4096)
def _lattice(seed: int, symbol: str, octave: int, index: int) -> float:
    """Return a number from -1 to 1."""
    digest = hashlib.blake2b(f"{seed}/{symbol}/{octave}/{index}".encode(), digest_size=8).digest()
    return float(struct.unpack("<Q", digest)[0]) / 2**63 - 1.0


@dataclass(frozen=True, slots=True)
class _Bar:
    time: float
    path: tuple[float, float, float, float]


class ReplayPrices:
    """Bars from `DIRECTORY/SYMBOL.csv` (time,open,high,low,close.

    Time in ISO 8601 or epoch seconds). The first bar begins at construction, and the others follow at `speed`
    times their pace. Within a bar the extreme against the bar's direction comes first. After the last bar the
    price and its time do not change.
    """

    def __init__(self, directory: Path, clock: Clock, speed: float = 1.0) -> None:
        self._clock = clock
        self._speed = speed
        self._began = clock()
        self._bars = {path.stem.upper(): _read_bars(path) for path in sorted(directory.glob("*.csv"))}
        if not self._bars:
            raise ValueError(f"{directory} has no SYMBOL.csv to replay")
        unlisted = sorted(set(self._bars) - set(LISTINGS))
        if unlisted:
            raise ValueError(f"{directory}: {', '.join(unlisted)} not listed; {', '.join(LISTINGS)} are")

    def quote(self, symbol: str) -> Quote:
        instrument = listing(symbol)
        bars = self._bars.get(symbol)
        if bars is None:
            raise UnknownSymbolError(f"{symbol!r} is not replayed here; {', '.join(self._bars)} are")
        now = self._clock()
        first = bars[0].time
        played = first + (now - self._began) * self._speed
        index = bisect_right(bars, played, key=lambda bar: bar.time) - 1
        length = bars[1].time - first if len(bars) > 1 else 60.0
        bar = bars[max(0, index)]
        part = min(1.0, max(0.0, (played - bar.time) / length))
        end = self._began + (bars[-1].time + length - first) / self._speed
        return _quoted(instrument, _along(bar.path, part), min(now, end))


def _along(path: tuple[float, float, float, float], part: float) -> float:
    place = part * 3
    leg = min(2, int(place))
    return path[leg] + (path[leg + 1] - path[leg]) * (place - leg)


def _read_bars(path: Path) -> list[_Bar]:
    bars: list[_Bar] = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                first, high, low, last = (float(row[name]) for name in ("open", "high", "low", "close"))
                time = _moment(row["time"])
            except (KeyError, TypeError, ValueError):
                raise ValueError(
                    f"{path}: line {len(bars) + 2}: columns time,open,high,low,close are required"
                ) from None
            rising = last >= first
            extremes = (low, high) if rising else (high, low)
            bars.append(_Bar(time, (first, *extremes, last)))
    if not bars or any(a.time >= b.time for a, b in pairwise(bars)):
        raise ValueError(f"{path}: bars must be sorted by ascending time")
    return bars


def _moment(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
