"""Schedules of a fleet's accounts: what they do next, and overrides."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from manager.client.caller import caller
from manager.config import ConfigurationService
from manager.config.exchanges import CALENDARS
from manager.errors import InvalidConfigError, InvalidPayloadError, NoOverrideError
from manager.fleet.audit import AuditTrail
from manager.fleet.desired_store import DesiredStore
from manager.fleet.overrides import OverrideStore
from manager.market.calendars import MissingCalendarError
from manager.market.decisions import Decision, Override, OverrideKind, decide, override_end
from manager.market.schedules import Schedule, Timetable, exchanges_of
from manager.market.until import LONGEST_OVERRIDE, parse_until

#: What an account without a schedule is evaluated with.
_ALWAYS = Timetable(Schedule(name="always"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSchedule:
    """An account's schedule and what it does now."""

    account_id: str
    #: None: the account has no schedule.
    timetable: Timetable | None
    override: Override | None
    decision: Decision


class FleetSchedules:
    """Reads schedules from this machine's account files, and overrides them in the fleet.

    Methods raise FleetUnavailableError if Redis cannot be used.
    """

    def __init__(
        self,
        config_service: ConfigurationService,
        overrides: OverrideStore,
        desired: DesiredStore,
        audit: AuditTrail,
    ) -> None:
        self._config_service = config_service
        self._overrides = overrides
        self._desired = desired
        self._audit = audit

    def timetable(self, account_id: str) -> Timetable | None:
        """Return the account's timetable; None if it has no schedule.

        Raises AccountNotFoundError, InvalidAccountIdError, InvalidConfigError.
        """
        config = self._config_service.load_account_config(account_id)
        if config.schedule is None:
            return None
        file = self._config_service.schedules()
        try:
            schedule = file.book.build(config.schedule)
            return Timetable(schedule, CALENDARS.of(exchanges_of(schedule)))
        except ValueError as error:
            raise InvalidConfigError(
                f"{account_id}: schedule: {error}: `manager validate {account_id}` shows where"
            ) from None

    def get(self, account_id: str) -> AccountSchedule:
        """Return what the account does now and until when.

        Raises AccountNotFoundError, InvalidAccountIdError, InvalidConfigError.
        """
        override, desired = self.overrides().get(account_id), self._desired.read(account_id)
        return self._schedule(
            account_id, override, desired is not None and desired.running, self._overrides.now()
        )

    def all(self) -> list[AccountSchedule]:
        """Return every account that has a schedule or an override, the next change first.

        An account whose file cannot be read is left out: `manager validate` reports it.
        """
        now, overrides = self._overrides.now(), self.overrides()
        accounts = self._config_service.snapshot().accounts
        desired = self._desired.read_many(list(accounts))
        found: list[AccountSchedule] = []
        for account_id, loaded in accounts.items():
            override = overrides.get(account_id)
            if loaded.config is None or (loaded.config.schedule is None and override is None):
                continue
            runs = account_id in desired and desired[account_id].running
            try:
                found.append(self._schedule(account_id, override, runs, now))
            except InvalidConfigError:
                continue
        far = datetime.max.replace(tzinfo=now.tzinfo)
        return sorted(found, key=lambda one: (one.decision.until or far, one.account_id))

    def overrides(self) -> Mapping[str, Override]:
        """Return the overrides in force in the fleet by account id."""
        now = self._overrides.now()
        return {key: one for key, one in self._overrides.all().items() if one.in_force(now)}

    def override(
        self, account_id: str, do: Literal["run", "rest"], *, until: str = "next", reason: str = ""
    ) -> Override:
        """Override the account's schedule until a time; an earlier override is replaced.

        `until` is `next` (when the schedule next changes) or a time as `parse_until` reads it. The account's
        host follows within two seconds; desired state does not change, so an account that should be stopped
        stays stopped.

        Raises InvalidPayloadError, and as `get`.
        """
        me = caller()
        with self._audit.refusals("schedule override", by=me, account_id=account_id):
            timetable, now = self.timetable(account_id) or _ALWAYS, self._overrides.now()
            kind = OverrideKind(do)
            override = Override(
                kind=kind, at=now, until=_end(timetable, account_id, kind, until, now), by=me, reason=reason
            )
            self._overrides.set(account_id, override)
        text = f"{do} until {override.until:%Y-%m-%dT%H:%M:%SZ}" + (f": {reason}" if reason else "")
        self._audit.note("schedule override", by=me, account_id=account_id, text=text)
        return override

    def run_now(self, account_id: str, *, until: str = "next", reason: str = "") -> None:
        """Let a start take effect at once: override the account's schedule, or end its rest.

        An account without a schedule only has its override removed. Raises as `override`.
        """
        if self.timetable(account_id) is not None:
            self.override(account_id, "run", until=until, reason=reason)
            return
        override = self._overrides.get(account_id)
        if override is not None and override.kind is OverrideKind.REST:
            with contextlib.suppress(NoOverrideError):  # it has just ended
                self.clear(account_id)

    def clear(self, account_id: str) -> None:
        """Remove the account's override. Raises NoOverrideError if it has none."""
        me = caller()
        with self._audit.refusals("schedule override", by=me, account_id=account_id):
            if not self._overrides.clear(account_id, by=me):
                raise NoOverrideError(f"{account_id} has no override: its schedule is in force")
        self._audit.note("schedule override", by=me, account_id=account_id, text="cleared")

    def _schedule(
        self, account_id: str, override: Override | None, runs: bool, now: datetime
    ) -> AccountSchedule:
        timetable = self.timetable(account_id)
        try:
            decision = decide(timetable or _ALWAYS, account_id, now, desired_running=runs, override=override)
        except MissingCalendarError as error:
            raise InvalidConfigError(f"{account_id}: schedule: {error}") from None
        return AccountSchedule(
            account_id=account_id, timetable=timetable, override=override, decision=decision
        )


def _end(timetable: Timetable, account_id: str, kind: OverrideKind, until: str, now: datetime) -> datetime:
    try:
        if until != "next":
            return parse_until(until, timetable.schedule.display_clock, now)
        end = override_end(timetable, account_id, kind, now)
    except ValueError as error:
        raise InvalidPayloadError(f"--until: {error}") from None
    if end is None or end > now + LONGEST_OVERRIDE:
        raise InvalidPayloadError(
            f"{account_id}: its schedule has no next change: give the end, such as --until 2h"
        )
    return end


__all__ = ["AccountSchedule", "FleetSchedules"]
