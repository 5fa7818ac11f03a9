"""Schedules of this host's accounts: what each account does now.

A decision is a level, never an edge: it depends on the schedule, the override and the time alone. A host
agent that was down, a suspended machine and a clock that was set therefore miss nothing.
"""

import logging
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from manager.config import AccountConfig
from manager.config.exchanges import ExchangeCalendars
from manager.config.schedule_file import ScheduleFile
from manager.errors import InvalidConfigError, ManagerError, StartCancelledError
from manager.host.reconcile.config_sweep import ConfigSweep
from manager.host.reconcile.overrides import OverrideCache
from manager.host.workers.bounded_reads import BoundedConfiguration
from manager.market.calendars import MissingCalendarError
from manager.market.decisions import Action, Decision, Override, decide
from manager.market.schedules import AtEndPositions, Schedule, Timetable, exchanges_of
from manager.states import TradingMode
from manager.system import logs
from manager.validation.schedule_rules import not_supported

logger = logging.getLogger(__name__)

#: Files of accounts of this host that one `read` reads one by one, while the whole directory cannot be read.
_READ_ONE_BY_ONE: Final = 50

_MODES: Final = {
    Action.WAIT: TradingMode.WAITING,
    Action.PAUSE: TradingMode.PAUSED,
    Action.CLOSE_ONLY: TradingMode.CLOSE_ONLY,
}


class AccountRestsError(StartCancelledError):
    """Raised instead of a start while the account's schedule is closed.

    The command is accepted: the account starts when its schedule opens. It never leaves the host.
    """

    def __init__(self, account_id: str, decision: Decision) -> None:
        super().__init__(f"{account_id} {decision.text}")
        self.decision = decision


def mode_of(decision: Decision | None, desired: TradingMode) -> TradingMode:
    """Return the stricter of the desired mode and that of the schedule."""
    scheduled = None if decision is None else _MODES.get(decision.action)
    return desired if scheduled is None else desired.stricter(scheduled)


@dataclass(frozen=True, slots=True)
class _Read:
    """An account's schedule as it was last read."""

    config: AccountConfig
    file: ScheduleFile
    #: None: the account has no schedule.
    timetable: Timetable | None

    def is_of(self, config: AccountConfig, file: ScheduleFile) -> bool:
        """Return whether it was read from these. Calendars of exchanges are renewed in between."""
        calendars = self.timetable is not None and bool(self.timetable.calendars)
        return self.config is config and self.file is file and not calendars


@dataclass(frozen=True, slots=True)
class _Decided:
    """A decision, and how long it counts. Times are seconds since 1970."""

    at: float
    until: float
    timetable: Timetable
    override: Override | None
    decision: Decision


class AccountSchedules:
    """Decides what this host's accounts do now.

    Thread-safe. An account whose files cannot be read, or are gone, keeps its last known schedule.
    """

    def __init__(
        self,
        config_service: BoundedConfiguration,
        sweep: ConfigSweep,
        overrides: OverrideCache,
        calendars: ExchangeCalendars,
        own: Callable[[], Mapping[str, bool]],
        epoch: Callable[[], float],
    ) -> None:
        """`epoch` returns seconds since 1970 by Redis's clock. `sweep` looks at the account files.

        `calendars` keeps the calendars of exchanges. `own` returns the accounts that should run on this host,
        each with whether `defaults.yaml` applies to it.
        """
        self._calendars = calendars
        self._own = own
        self._config_service = config_service
        self.overrides = overrides
        self._epoch = epoch
        self._sweep = sweep
        self._lock = threading.Lock()
        self._read: dict[str, _Read] = {}
        self._decided: dict[str, _Decided] = {}
        #: Timetables by schedule: accounts with one schedule share its computed windows.
        self._timetables: dict[Schedule, Timetable] = {}
        self._logged: dict[str, str] = {}

    def now(self) -> datetime:
        """Return the time by which schedules are decided: Redis's, in UTC."""
        return datetime.fromtimestamp(self._epoch(), UTC)

    def read(self) -> None:
        """Read overrides, and the account files if they are due. Raises nothing."""
        self.overrides.read(self.now())
        own = self._own()
        try:
            if not self._sweep.look():
                return
        except (ManagerError, OSError) as error:
            self._log("", str(error))
            with self._lock:
                unknown = sorted(own.keys() - self._read.keys())[:_READ_ONE_BY_ONE]
            # One file on a share that hangs may make the directory unreadable.
            self._read_one_by_one({account_id: own[account_id] for account_id in unknown})
            return
        self._logged.pop("", None)
        alone = {account_id: False for account_id, with_defaults in own.items() if not with_defaults}
        for loaded in self._sweep.settled.values():
            if loaded.config is not None and loaded.account_id not in alone:
                self._note(loaded.config, self._sweep.schedules)
        self._read_one_by_one(alone)
        with self._lock:
            # An account that should run here keeps the schedule of its file, although the file is gone: its
            # worker may still trade.
            for account_id in self._read.keys() - self._sweep.present - own.keys():
                del self._read[account_id]
            if len(self._timetables) > 2 * len(self._read) + 16:
                used = [one.timetable for one in self._read.values() if one.timetable is not None]
                self._timetables = {one.schedule: one for one in used}

    def _read_one_by_one(self, accounts: Mapping[str, bool]) -> None:
        """Read the schedules of some accounts, each with whether `defaults.yaml` applies to it."""
        for account_id, with_defaults in accounts.items():
            try:
                config = self._config_service.load_account_config(account_id, with_defaults)
                self._note(config, self._config_service.run(account_id, self._config_service.schedules))
            except (ManagerError, OSError) as error:
                self._log(account_id, str(error))

    def read_account(self, config: AccountConfig) -> None:
        """Take the schedule of a configuration that was just read.

        Raises InvalidConfigError if it has none that can be evaluated.
        """
        if config.schedule is None:
            self._note(config, ScheduleFile())
            return
        file = self._config_service.run(config.account_id, self._config_service.schedules)
        problem = self._note(config, file, wait=True)
        if problem is not None:
            raise InvalidConfigError(f"{config.account_id}: schedule: {problem}")

    def known(self, account_id: str) -> bool:
        """Return whether it is known what the account's schedule is, or that it has none."""
        read = self._read.get(account_id)
        return read is not None and (read.timetable is None or self.decision(account_id) is not None)

    def decision(self, account_id: str) -> Decision | None:
        """Return what the account does now if it should run.

        None: it has no schedule and no override, or its schedule was never readable; see `known`.
        """
        # Without the lock: this is called several times a second for each account.
        read, before = self._read.get(account_id), self._decided.get(account_id)
        override, seconds = self.overrides.get(account_id), self._epoch()
        timetable = None if read is None else read.timetable
        if timetable is None:
            if override is None or not override.in_force(datetime.fromtimestamp(seconds, UTC)):
                return None
            timetable = _ALWAYS
        if (
            before is not None
            and before.timetable is timetable
            and before.override is override
            and before.at <= seconds < before.until
        ):
            return before.decision
        now = datetime.fromtimestamp(seconds, UTC)
        try:
            decision = decide(timetable, account_id, now, desired_running=True, override=override)
        except MissingCalendarError as error:
            self._log(account_id, str(error))
            return None
        until = math.inf if decision.until is None else decision.until.timestamp()
        with self._lock:
            self._decided[account_id] = _Decided(seconds, until, timetable, override, decision)
        return decision

    def rests(self, account_id: str) -> Decision | None:
        """Return the decision by which the account has no worker now, or None."""
        decision = self.decision(account_id)
        return None if decision is None or decision.runs else decision

    def rests_after_read(self, account_id: str) -> Decision | None:
        """Return what `rests` returns, by overrides as they are in Redis now.

        A start may follow its override at once.
        """
        if self.rests(account_id) is None:
            return None
        self.overrides.read_account(account_id, self.now())
        return self.rests(account_id)

    def waits_flat(self, account_id: str, decision: Decision) -> bool:
        """Return whether a resting account may stay connected until it is flat."""
        schedule = self._schedule(account_id, decision)
        if schedule is None or decision.since is None:
            return False
        waits = schedule.at_end is AtEndPositions.WAIT_FLAT
        return waits and self.now() < decision.since + schedule.at_end_wait

    def closes_positions(self, account_id: str, decision: Decision) -> bool:
        """Return whether a worker that rests by `decision` closes its positions first."""
        schedule = self._schedule(account_id, decision)
        return schedule is not None and schedule.at_end is AtEndPositions.CLOSE

    def _schedule(self, account_id: str, decision: Decision) -> Schedule | None:
        """Return the schedule by which a decision was made; None if an override made it."""
        with self._lock:
            read = self._read.get(account_id)
        if read is None or read.timetable is None or decision.override is not None:
            return None
        return read.timetable.schedule

    def next_change(self) -> float | None:
        """Return in how many seconds the next decision changes, or None."""
        now = self._epoch()
        with self._lock:
            times = [one.until for one in self._decided.values()]
        earliest = min((until for until in times if until > now), default=math.inf)
        return None if earliest == math.inf else earliest - now

    def forget(self, account_ids: set[str]) -> None:
        """Drop the decisions of all accounts but these."""
        with self._lock:
            for account_id in self._decided.keys() - account_ids:
                del self._decided[account_id]

    def _note(self, config: AccountConfig, file: ScheduleFile, *, wait: bool = False) -> str | None:
        """Note the account's schedule; returns what is wrong with it.

        `wait`: this thread may block for a second, while the calendar of an exchange is prepared.
        """
        account_id = config.account_id
        with self._lock:
            before = self._read.get(account_id)
        if before is not None and before.is_of(config, file):
            return None
        timetable: Timetable | None = None
        if config.schedule is not None:
            try:
                schedule = file.book.build(config.schedule)
                for finding in not_supported(config, schedule):
                    raise ValueError(f"{'.'.join(map(str, finding.place[1:]))}: {finding.text}")
                timetable = self._timetable(schedule, wait)
            except ValueError as error:
                self._log(account_id, str(error))
                return str(error)
        self._logged.pop(account_id, None)
        with self._lock:
            self._read[account_id] = _Read(config, file, timetable)
        return None

    def _timetable(self, schedule: Schedule, wait: bool) -> Timetable:
        calendars = self._calendars.of(exchanges_of(schedule), wait=wait)
        with self._lock:
            known = self._timetables.get(schedule)
            if known is None or any(known.calendars[mic] is not calendars[mic] for mic in calendars):
                known = self._timetables[schedule] = Timetable(schedule, calendars)
            return known

    def _log(self, account_id: str, text: str) -> None:
        """Log a schedule that cannot be read, once until that changes."""
        if self._logged.get(account_id) != text:
            self._logged[account_id] = text
            logs.event(
                logger,
                logging.ERROR,
                "schedule_unreadable",
                f"{text}; the last known schedule stays in force",
                **({"account": account_id} if account_id else {}),
            )


#: What an override of an account without a schedule is evaluated with.
_ALWAYS: Final = Timetable(Schedule(name="always"))

__all__ = ["AccountRestsError", "AccountSchedules", "mode_of"]
