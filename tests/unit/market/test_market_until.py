"""The end of an override, as people write it."""

from datetime import UTC, datetime

import pytest

from manager.market.clocks import MarketClock
from manager.market.until import parse_until

LONDON = MarketClock.parse("Europe/London")
NEW_YORK = MarketClock.parse("America/New_York")
#: In New York 12:00, in London 17:00.
NOW = datetime(2026, 12, 1, 17, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "clock", "until"),
    [
        ("90m", LONDON, datetime(2026, 12, 1, 18, 30, tzinfo=UTC)),
        ("2d", LONDON, datetime(2026, 12, 3, 17, tzinfo=UTC)),
        ("17:30", LONDON, datetime(2026, 12, 1, 17, 30, tzinfo=UTC)),
        ("17:00", LONDON, datetime(2026, 12, 2, 17, tzinfo=UTC)),
        ("11:00", NEW_YORK, datetime(2026, 12, 2, 16, tzinfo=UTC)),
        ("2026-12-24T18:00", NEW_YORK, datetime(2026, 12, 24, 23, tzinfo=UTC)),
        ("2026-12-24T18:00+01:00", NEW_YORK, datetime(2026, 12, 24, 17, tzinfo=UTC)),
    ],
)
def test_times_that_people_write(text: str, clock: MarketClock, until: datetime) -> None:
    assert parse_until(text, clock, NOW) == until


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("tomorrow", "is no time"),
        ("2026-11-30T18:00", "in the past"),
        ("25:00", "time of day"),
        ("9999d", "366 days"),
        ("0s", "in the past"),
        ("", "is no time"),
    ],
)
def test_other_texts_are_refused_with_what_is_allowed(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        parse_until(text, LONDON, NOW)
