"""The configuration of a schedule.

It is `schedule` in an account file, or an entry of `schedules.yaml`.

The models check each entry alone. `manager.config.schedules` resolves names and builds the rules of
`manager.market`.
"""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    WrapSerializer,
    model_serializer,
    model_validator,
)

from manager.market.clocks import MarketClock
from manager.market.parsing import (
    DAY_NAMES,
    parse_dates,
    parse_days,
    parse_duration,
    parse_time,
    show_dates,
    show_duration,
    show_time,
)
from manager.market.windows import SHORTEST_REST, SHORTEST_WINDOW

#: Maximum time for which a worker is connected before its window.
_LONGEST_LEAD: Final = timedelta(days=1)
#: Longer windows need days, dates or a session. Each answer computes the firings of this much time.
_LONGEST_FOR: Final = timedelta(days=31)
_LONGEST_WAIT: Final = timedelta(days=7)
_LONGEST_PAUSE: Final = timedelta(hours=12)


def _parsed(parse: Callable[[Any], object], kind: type) -> BeforeValidator:
    """Return a validator that parses texts and accepts parsed values."""
    return BeforeValidator(lambda value: value if isinstance(value, kind) else parse(value))


def _days(value: Any) -> frozenset[int]:
    if not isinstance(value, str | list | tuple):
        raise ValueError("days are written as mon-fri, or as a list: [mon, wed]")  # noqa: TRY004 - pydantic's rule
    return parse_days(value)


def _clock(value: Any) -> MarketClock:
    if not isinstance(value, str):
        raise ValueError("a clock is a text such as Europe/London or America/New_York+7h")  # noqa: TRY004 - as above
    return MarketClock.parse(value)


def _ranges(value: Any) -> tuple[tuple[date, date], ...]:
    listed = value if isinstance(value, list | tuple) else [value]
    if not listed:
        raise ValueError("dates is an empty list; name a date or remove it")
    return tuple(parse_dates(item) if not isinstance(item, tuple) else item for item in listed)


def _as_json(show: Callable[[Any], object]) -> PlainSerializer:
    """Return a serializer that writes JSON as it is read."""
    return PlainSerializer(show, when_used="json")


Duration = Annotated[timedelta, _parsed(parse_duration, timedelta), _as_json(show_duration)]
Opens = Annotated[timedelta, _parsed(parse_time, timedelta), _as_json(show_time)]
Closes = Annotated[
    timedelta, _parsed(lambda value: parse_time(value, end=True), timedelta), _as_json(show_time)
]
Days = Annotated[
    frozenset[int], _parsed(_days, frozenset), _as_json(lambda days: [DAY_NAMES[day] for day in sorted(days)])
]
Clock = Annotated[MarketClock, _parsed(_clock, MarketClock), _as_json(str)]
Dates = Annotated[
    tuple[tuple[date, date], ...],
    BeforeValidator(_ranges),
    _as_json(lambda ranges: [show_dates(*item) for item in ranges]),
]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        populate_by_name=True,
        serialize_by_alias=True,
    )

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> Any:
        """Write only the keys that were given: a key with its default would replace that of `use`."""
        names = {type(self).model_fields[name].alias or name for name in self.model_fields_set}
        return {key: value for key, value in handler(self).items() if key in names}


def _at_most(name: str, value: timedelta, most: timedelta) -> None:
    if value > most:
        hours = int(most.total_seconds()) // 3600
        raise ValueError(f"{name} is at most {hours}h")


class RunEntry(_Section):
    """One item of `run`.

    It has exactly one of `session`, `from`, `cron` and `exchange`.
    """

    #: A named session, or a name of `schedules.yaml`.
    session: str | None = None
    #: Days on which the window opens; None: every day.
    days: Days | None = None
    opens: Opens | None = Field(default=None, alias="from")
    closes: Closes | None = Field(default=None, alias="to")
    #: Real time from the opening.
    lasts: Duration | None = Field(default=None, alias="for")
    cron: str | None = None
    #: The code of an exchange, such as XNYS.
    exchange: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        kinds = {"session": self.session, "from": self.opens, "cron": self.cron, "exchange": self.exchange}
        given = [name for name, value in kinds.items() if value is not None]
        if len(given) != 1:
            found = f"has {' and '.join(given)}" if given else "has none"
            raise ValueError(f"takes exactly one of session, from, cron and exchange; it {found}")
        self._check_end(given[0])
        if self.days is not None and self.opens is None:
            raise ValueError(f"days has no meaning beside {given[0]}")
        if self.lasts is not None:
            if self.lasts < SHORTEST_WINDOW:
                raise ValueError("a window lasts at least 60s")
            _at_most("for", self.lasts, _LONGEST_FOR)
        return self

    def _check_end(self, kind: str) -> None:
        ends = [name for name, value in (("to", self.closes), ("for", self.lasts)) if value is not None]
        if kind == "from" and len(ends) != 1:
            raise ValueError("from needs exactly one of to and for")
        if kind == "cron" and ends != ["for"]:
            raise ValueError("cron needs for (how long each window lasts), and takes no to")
        if kind in ("session", "exchange") and ends:
            raise ValueError(f"{ends[0]} has no meaning beside {kind}")

    @property
    def needs_clock(self) -> bool:
        """Whether it contains a time of the schedule's clock."""
        return self.opens is not None or self.cron is not None


class RolloverEntry(_Section):
    """A pause around 17:00 New York."""

    before: Duration = timedelta()
    after: Duration = timedelta()
    #: None: Monday to Friday; `wed` for the triple swap alone.
    days: Days | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.before + self.after < SHORTEST_REST:
            raise ValueError("before and after together are at least 30s: shorter rests are bridged")
        if self.days is not None and self.days & {5, 6}:
            raise ValueError("there is no rollover on Saturday and Sunday: days are of mon-fri")
        _at_most("before", self.before, _LONGEST_PAUSE)
        _at_most("after", self.after, _LONGEST_PAUSE)
        return self


class ExceptEntry(_Section):
    """One item of `except`: exactly one of `dates`, `holidays` and `rollover`."""

    #: Whole days of the schedule's clock.
    dates: Dates | None = None
    #: The code of an exchange: its whole days without a session.
    holidays: str | None = None
    rollover: RolloverEntry | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in ("dates", "holidays", "rollover") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"has {' and '.join(given)}" if given else "has none"
            raise ValueError(f"takes exactly one of dates, holidays and rollover; it {found}")
        return self


class AtEndConfig(_Section):
    """What happens to open positions when a window closes."""

    positions: Literal["keep", "close", "wait_flat"] = "keep"
    #: Maximum wait of `wait_flat`.
    wait: Duration = timedelta(minutes=30)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _at_most("wait", self.wait, _LONGEST_WAIT)
        return self


class ScheduleConfig(_Section):
    """A schedule as it is written.

    A missing key has the value of the schedule that `use` names, else its default.
    """

    #: A name of `schedules.yaml` or a named session on which this one builds: keys given here replace its
    #: keys.
    use: str | None = None
    clock: Clock | None = None
    #: The account runs inside any of these; None: always.
    run: tuple[RunEntry, ...] | None = None
    except_: tuple[ExceptEntry, ...] = Field(default=(), alias="except")
    lead: Duration = timedelta()
    spread: Duration = timedelta()
    at_end: AtEndConfig = AtEndConfig()
    outside: Literal["stop", "pause", "close_only"] = "stop"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.run is not None and not self.run:
            raise ValueError("run is an empty list, which never runs; leave it out to run always")
        _at_most("lead", self.lead, _LONGEST_LEAD)
        _at_most("spread", self.spread, _LONGEST_LEAD)
        return self

    @property
    def needs_clock(self) -> bool:
        """Whether it contains a time or a date without a clock."""
        return any(entry.needs_clock for entry in self.run or ()) or any(
            entry.dates is not None for entry in self.except_
        )

    @property
    def only_name(self) -> str | None:
        """The schedule's name, if it is written as a name alone."""
        return self.use if self.model_fields_set == {"use"} else None


def _mapping(value: Any) -> Any:
    return {"use": value} if isinstance(value, str) else value


def _as_written(config: ScheduleConfig, handler: SerializerFunctionWrapHandler) -> Any:
    return config.only_name or handler(config)


#: A schedule, or the name of one: `schedule: london-desk`.
NamedOrSchedule = Annotated[ScheduleConfig, BeforeValidator(_mapping), WrapSerializer(_as_written)]
