"""Checks an account's schedule: names, clocks, calendars, and windows that are probably wrong."""

from collections.abc import Iterator
from datetime import UTC, datetime

from manager.config import AccountConfig
from manager.config.exchanges import CALENDARS, ExchangeCalendars
from manager.config.findings import Finding
from manager.config.schedule_file import ScheduleFile
from manager.gateways import runs_programs
from manager.market.calendars import MissingCalendarError
from manager.market.checks import schedule_warnings
from manager.market.schedules import AtEndPositions, Outside, Schedule, Timetable, exchanges_of


def schedule_findings(
    config: AccountConfig,
    file: ScheduleFile,
    now: datetime | None = None,
    calendars: ExchangeCalendars = CALENDARS,
) -> Iterator[Finding]:
    """Yield findings about the account's schedule, as seen at `now` (aware; None: the present)."""
    if config.schedule is None:
        return
    for problem in file.problems:
        yield Finding(("schedule",), f"the named schedules have a problem: {problem}")
    if file.problems:
        return
    try:
        schedule = file.book.build(config.schedule)
    except ValueError as error:
        yield Finding(("schedule",), str(error))
        return
    yield from not_supported(config, schedule)
    try:
        timetable = Timetable(schedule, calendars.of(exchanges_of(schedule)))
        for text in schedule_warnings(timetable, now or datetime.now(UTC)):
            yield Finding(("schedule",), text, warning=True)
    except MissingCalendarError as error:
        yield Finding(("schedule",), str(error))


def not_supported(config: AccountConfig, schedule: Schedule) -> Iterator[Finding]:
    """Yield what the account's gateway cannot do of its schedule."""
    if not runs_programs(config.gateway):
        return
    if schedule.outside is not Outside.STOP:
        text = (
            f"{schedule.outside} is not supported with gateway {config.gateway}: the program decides by "
            "itself when to trade; allowed is stop"
        )
        yield Finding(("schedule", "outside"), text)
    if schedule.at_end is not AtEndPositions.KEEP:
        text = (
            f"{schedule.at_end} is not supported with gateway {config.gateway}: the positions of a program "
            "are unknown; allowed is keep"
        )
        yield Finding(("schedule", "at_end", "positions"), text)
    if schedule.lead:
        text = (
            f"is not supported with gateway {config.gateway}: a program trades as soon as it runs; remove it"
        )
        yield Finding(("schedule", "lead"), text)
