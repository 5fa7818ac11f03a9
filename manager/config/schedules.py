"""Builds schedules of `manager.market` from their configuration.

Resolves names and fills in clocks.
"""

import difflib
from collections.abc import Mapping, Set
from datetime import timedelta
from typing import Final

from manager.config.models_schedule import ExceptEntry, RunEntry, ScheduleConfig
from manager.market.calendars import ExchangeRule, HolidaysRule
from manager.market.clocks import MarketClock
from manager.market.cron import CronRule
from manager.market.parsing import EVERY_DAY
from manager.market.rollover import ROLLOVER_DAYS, RolloverRule
from manager.market.rules import AlwaysRule, DailyRule, DatesRule, Rule
from manager.market.schedules import AtEndPositions, Outside, Schedule, SessionRule
from manager.market.sessions import SESSIONS

_DAY: Final = timedelta(days=1)
_BUILT_IN: Final[Mapping[str, Schedule]] = {str(name): schedule for name, schedule in SESSIONS.items()}


class ScheduleBook:
    """The schedules of `schedules.yaml` and the named sessions, by name.

    An entry with the name of a session replaces that session, except in the entry itself.
    """

    def __init__(
        self,
        entries: Mapping[str, ScheduleConfig] | None = None,
        *,
        wrong: Set[str] = frozenset(),
        readable: bool = True,
    ) -> None:
        """`wrong` names entries with a problem.

        `readable` False: the file cannot be read, so any name may have an entry there. A name that is wrong
        is an error where it is used; it never means the session that it replaces.
        """
        self._entries = dict(entries or {})
        self._wrong, self._readable = wrong, readable

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScheduleBook):
            return NotImplemented
        mine, others = (self._entries, self._wrong), (other._entries, other._wrong)
        return mine == others and self._readable == other._readable

    __hash__ = None  # type: ignore[assignment]

    def named(self, name: str) -> Schedule:
        """Return a schedule by its name.

        Raises ValueError if it is unknown, incomplete, or builds on itself.
        """
        return self._named(name, ())

    def build(self, config: ScheduleConfig) -> Schedule:
        """Return the schedule of an account file. Raises ValueError as `named`."""
        if config.only_name is not None:
            return self.named(config.only_name)
        return self._build("", self._merged(config, ()), ())

    def _named(self, name: str, within: tuple[str, ...]) -> Schedule:
        entry = self._entry(name, within)
        if entry is None:
            return _BUILT_IN[name]
        return self._build(name, self._merged(entry, (*within, name)), (*within, name))

    def _entry(self, name: str, within: tuple[str, ...]) -> ScheduleConfig | None:
        """Return the entry of a name, or None if the name means the built-in session."""
        if not self._readable:
            raise ValueError(f"{name[:80]!r} may be in schedules.yaml, which cannot be read")
        if name in self._wrong and name not in within:
            raise ValueError(f"{name[:80]!r} has a problem in schedules.yaml")
        if name in self._entries and name not in within:
            return self._entries[name]
        if name in _BUILT_IN and name not in within[:-1]:
            return None
        if name in within:
            raise ValueError(f"schedules build on each other in a circle: {' → '.join((*within, name))}")
        known = sorted({*self._entries, *_BUILT_IN})
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        raise ValueError(f"{name[:80]!r} is not a schedule or a session; {hint}")

    def _merged(self, config: ScheduleConfig, within: tuple[str, ...]) -> ScheduleConfig:
        """Return a configuration with the keys of those that it builds on."""
        if config.use is None:
            return config
        entry = self._entry(config.use, within)
        if entry is None:
            run = (RunEntry(session=config.use),)
            base = ScheduleConfig(clock=_BUILT_IN[config.use].clock, run=run)
        else:
            base = self._merged(entry, (*within, config.use))
        own = {name: getattr(config, name) for name in config.model_fields_set if name != "use"}
        return base.model_copy(update=own)

    def _build(self, name: str, config: ScheduleConfig, within: tuple[str, ...]) -> Schedule:
        if config.clock is None and config.needs_clock:
            raise ValueError("clock is missing: a time or a date needs one, such as clock: America/New_York")
        clock = config.clock or MarketClock("UTC")
        run = tuple(self._run(entry, clock, within) for entry in config.run or ())
        return Schedule(
            name=name,
            run=run or (AlwaysRule(),),
            rest=tuple(_rest(entry, clock) for entry in config.except_),
            clock=config.clock,
            lead=config.lead,
            spread=config.spread,
            at_end=AtEndPositions(config.at_end.positions),
            at_end_wait=config.at_end.wait,
            outside=Outside(config.outside),
        )

    def _run(self, entry: RunEntry, clock: MarketClock, within: tuple[str, ...]) -> Rule:
        if entry.session is not None:
            return SessionRule(self._named(entry.session, within))
        if entry.exchange is not None:
            return ExchangeRule(entry.exchange)
        if entry.cron is not None:
            return CronRule.parse(clock, entry.cron, entry.lasts or timedelta())
        opens, closes = entry.opens or timedelta(), entry.closes
        if closes is not None and closes <= opens:
            closes += _DAY
        return DailyRule(
            clock=clock,
            days=EVERY_DAY if entry.days is None else entry.days,
            opens=opens,
            closes=closes,
            lasts=entry.lasts,
        )


def _rest(entry: ExceptEntry, clock: MarketClock) -> Rule:
    if entry.dates is not None:
        return DatesRule(clock, entry.dates)
    if entry.holidays is not None:
        return HolidaysRule(entry.holidays)
    rollover = entry.rollover
    if rollover is None:
        raise ValueError("takes exactly one of dates, holidays and rollover")
    return RolloverRule(
        rollover.before, rollover.after, ROLLOVER_DAYS if rollover.days is None else rollover.days
    )
