"""Parses and formats days, times, durations and dates of schedules.

Every function raises ValueError.
"""

import re
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import Final

DAY_NAMES: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
EVERY_DAY: Final = frozenset(range(7))

_TIME: Final = re.compile(r"(\d{2}):(\d{2})")
_DURATION: Final = re.compile(r"(?:(\d{1,4})d)?(?:(\d{1,5})h)?(?:(\d{1,6})m)?(?:(\d{1,7})s)?")


def parse_days(value: str | Iterable[str]) -> frozenset[int]:
    """Parse `mon-fri`, `sun`, `mon,wed` or a list of these; Monday is 0.

    `fri-mon` includes the weekend.
    """
    parts = value.split(",") if isinstance(value, str) else list(value)
    days: set[int] = set()
    for part in parts:
        first, dash, last = str(part).strip().lower().partition("-")
        start = _day(first)
        end = _day(last) if dash else start
        days.update((start + step) % 7 for step in range((end - start) % 7 + 1))
    if not days:
        raise ValueError("contains no day; write days such as mon-fri, or leave it out for every day")
    return frozenset(days)


def _day(text: str) -> int:
    name = text.strip()
    if name not in DAY_NAMES:
        raise ValueError(
            f"{name[:40]!r} is not a day; days are {', '.join(DAY_NAMES)}, and ranges such as mon-fri"
        )
    return DAY_NAMES.index(name)


def show_days(days: frozenset[int]) -> str:
    """Format days: `mon-fri`, `sun, wed`, or `every day`."""
    if days == EVERY_DAY:
        return "every day"
    ordered = sorted(days)
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{DAY_NAMES[ordered[0]]}-{DAY_NAMES[ordered[-1]]}"
    return ", ".join(DAY_NAMES[day] for day in ordered)


def parse_time(text: object, *, end: bool = False) -> timedelta:
    """Parse `08:00` as a distance from midnight.

    `24:00` is valid only as the end of a window (`end`).
    """
    match = _TIME.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(
            f'{str(text)[:40]!r} is not a time of day; write hours and minutes in quotes, such as "08:00"'
        )
    hours, minutes = int(match[1]), int(match[2])
    if minutes < 60 and (hours < 24 or (end and (hours, minutes) == (24, 0))):
        return timedelta(hours=hours, minutes=minutes)
    allowed = "00:00 to 24:00" if end else "00:00 to 23:59"
    raise ValueError(f"{text!r} is not a time of day; it must be from {allowed}")


def show_time(since_midnight: timedelta) -> str:
    """Format a distance from midnight as a time of day, up to `24:00`."""
    hours, minutes = divmod(int(since_midnight.total_seconds()) // 60, 60)
    return f"{hours if hours == 24 and not minutes else hours % 24:02}:{minutes:02}"


def parse_duration(text: object) -> timedelta:
    """Parse `90s`, `30m`, `6h30m` or `2d`."""
    match = _DURATION.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None or not match[0]:
        raise ValueError(
            f"{str(text)[:40]!r} is not a duration; write a number with its unit: 90s, 30m, 6h30m, 2d"
        )
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def show_duration(duration: timedelta) -> str:
    """Format a duration: `6h30m`, or `0s` for zero."""
    left = int(duration.total_seconds())
    text = ""
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, seconds)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def parse_dates(value: object) -> tuple[date, date]:
    """Parse `2026-12-25` or `2026-12-31..2027-01-02`.

    Returns the first and the last day, both included.
    """
    if isinstance(value, date) and not isinstance(value, datetime):
        return value, value
    first, dots, last = str(value).strip().partition("..")
    start = _date(first)
    end = _date(last) if dots else start
    if end < start:
        raise ValueError(f"{value!r} ends before it begins")
    return start, end


def show_dates(first: date, last: date) -> str:
    """Format days: `2026-12-25`, or `2026-12-31..2027-01-02`."""
    return f"{first}" if first == last else f"{first}..{last}"


def _date(text: str) -> date:
    # fromisoformat also accepts 20261225 and 2026-W52-5, which are likely errors in a list of holidays.
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text.strip()):
        raise ValueError(
            f"{text[:40]!r} is not a date; write 2026-12-25, or 2026-12-31..2027-01-02 for several days"
        )
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is not a day of the calendar") from None
