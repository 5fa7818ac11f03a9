"""The timeframes of bars, and when a bar opens and ends, in UTC."""

from datetime import UTC, datetime, timedelta
from typing import Final

#: A month has no fixed length: `bar_end` knows its end.
LENGTHS: Final[dict[str, timedelta]] = {
    "M1": timedelta(minutes=1),
    "M5": timedelta(minutes=5),
    "M15": timedelta(minutes=15),
    "M30": timedelta(minutes=30),
    "H1": timedelta(hours=1),
    "H4": timedelta(hours=4),
    "D1": timedelta(days=1),
    "W1": timedelta(weeks=1),
    "MN1": timedelta(days=30),
}

#: Bars below this length begin at a multiple of it, whatever zone the venue's days begin in.
_ALIGNED: Final = timedelta(hours=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def length(timeframe: str) -> timedelta:
    """Return the length of a bar. Raises ValueError for an unknown timeframe."""
    try:
        return LENGTHS[timeframe]
    except KeyError:
        raise ValueError(f"timeframe {timeframe!r} is unknown; allowed are {', '.join(LENGTHS)}") from None


def bar_end(opened: datetime, timeframe: str) -> datetime:
    """Return the instant at which a bar that opened at `opened` ends."""
    if timeframe != "MN1":
        return opened + length(timeframe)
    # A venue's month begins within a day of UTC's: the bar ends at the same offset in the next month.
    nearest = opened + timedelta(days=1)
    first = nearest.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    after = (first + timedelta(days=32)).replace(day=1)
    return after + (opened - first)


def is_aligned(opened: datetime, timeframe: str) -> bool:
    """Return whether a bar of the timeframe may open at this instant.

    Bars of four hours and more begin at hours of the venue's own days, which may differ from UTC's by any
    quarter of an hour.
    """
    step = min(length(timeframe), _ALIGNED)
    if step == _ALIGNED:
        step = timedelta(minutes=15)
    return (opened - _EPOCH) % step == timedelta()


def default_signal_age(timeframe: str) -> timedelta:
    """Return how old a signal may be: half of the timeframe, at most 300 s."""
    return min(length(timeframe) / 2, timedelta(seconds=300))
