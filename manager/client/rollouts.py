"""Rollouts of a fleet: start, list, and the commands for those that run."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from uuid import uuid4

from manager.change.rollout_store import RolloutStore
from manager.change.rollout_views import observe_accounts
from manager.change.rollouts import (
    OPEN,
    Aim,
    Member,
    MemberState,
    Observed,
    Rollout,
    RolloutOptions,
    RolloutState,
    allowed_unavailable,
    failures,
    sequence,
)
from manager.client.caller import caller
from manager.config import config_version
from manager.config.loaded import LoadedAccount
from manager.errors import InvalidPayloadError, RolloutConflictError
from manager.fleet import FleetStore
from manager.fleet.audit import AuditTrail
from manager.fleet.desired_store import DesiredStore
from manager.fleet.event_types import Notice
from manager.market.daily_text import parse_daily
from manager.models import WorkerInfo

#: How often a command that races with a host's step is tried.
_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """A rollout and its members by account id."""

    rollout: Rollout
    members: Mapping[str, Member] = field(default_factory=dict)

    @property
    def restarts(self) -> int:
        """How many members it has to restart, or has restarted."""
        left_out = (MemberState.SKIPPED, MemberState.DONE)
        return sum(bool(one.generation) or one.state not in left_out for one in self.members.values())


class FleetRollouts:
    """Starts and steers rollouts. Hosts take their steps.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(
        self, rollouts: RolloutStore, store: FleetStore, desired: DesiredStore, audit: AuditTrail
    ) -> None:
        self._rollouts = rollouts
        self._store = store
        self._desired = desired
        self._audit = audit

    def plan(
        self,
        accounts: Mapping[str, LoadedAccount | None],
        aim: Aim,
        options: RolloutOptions | None = None,
        *,
        max_unavailable: str = "5%",
        window: str = "",
        rollout_id: str | None = None,
    ) -> RolloutRecord:
        """Return what a rollout over these accounts would do, and write nothing.

        `accounts` are the selected ones as loaded from their files. `max_unavailable` is a number, or a part
        of the accounts that should run now such as `5%`; `window` as `parse_daily` reads it, or empty. An
        account that does not run is skipped, one that runs this already is done. Raises InvalidPayloadError.
        """
        workers = {info.account_id: info for info in self._store.list_workers()}
        seen = observe_accounts(aim, self._desired.read_many(accounts), workers.values(), self._store.hosts())
        wanted = {key: one for key, one in seen.items() if one.wanted}
        now = self._rollouts.now()
        try:
            if window:
                parse_daily(window)
            most = allowed_unavailable(max_unavailable, len(wanted))
        except ValueError as error:
            raise InvalidPayloadError(str(error)) from None
        options = replace(options or RolloutOptions(), max_unavailable=most)
        todo = [
            key
            for key in _in_sequence(wanted, workers)
            if not _runs_it(aim, accounts.get(key), wanted[key], workers.get(key))
        ]
        members = {
            key: Member(order=order, canary=order < options.canary, since=now, base=wanted[key].generation)
            for order, key in enumerate(todo)
        }
        for key in accounts:
            if key not in members:
                runs = key in wanted
                members[key] = Member(
                    state=MemberState.DONE if runs else MemberState.SKIPPED,
                    since=now,
                    why="it runs this already" if runs else "it does not run",
                )
        rollout = Rollout(
            id=rollout_id or uuid4().hex[:12],
            aim=aim,
            options=options,
            by=caller(),
            started=now,
            window=window,
        )
        return RolloutRecord(rollout, members)

    def start(self, record: RolloutRecord, *, force: bool = False) -> RolloutRecord:
        """Start a planned rollout.

        Raises RolloutConflictError if it has nothing to do, or if one of its accounts belongs to another
        active rollout, unless `force`.
        """
        rollout = record.rollout
        with self._audit.refusals("rollout start", by=rollout.by):
            if not record.restarts:
                raise RolloutConflictError(
                    "no account needs this rollout: each one runs this already, or rests"
                )
            self._rollouts.create(rollout, record.members, force=force)
        self._note("begun", rollout, {"accounts": record.restarts, "to": rollout.aim})
        return record

    def get(self, rollout_id: str) -> RolloutRecord:
        """Return a rollout. Raises NoRolloutError."""
        return RolloutRecord(*self._rollouts.read(rollout_id))

    def list(self, count: int = 20) -> list[Rollout]:
        """Return the newest rollouts, newest first."""
        return self._rollouts.newest(count)

    def pause(self, rollout_id: str) -> Rollout:
        """Begin no further restart; those under way settle. Raises NoRolloutError, RolloutConflictError."""
        me = caller()
        return self._change(
            "pause",
            rollout_id,
            lambda one, _members: replace(one, state=RolloutState.PAUSED, why=f"paused by {me}"),
        )

    def resume(self, rollout_id: str) -> Rollout:
        """Go on; the failures that there were are tolerated. Raises as `pause`."""

        def resumed(rollout: Rollout, members: Mapping[str, Member]) -> Rollout:
            seen = failures(members.values())
            return replace(rollout, state=RolloutState.RUNNING, why="", seen_failures=seen)

        return self._change("resume", rollout_id, resumed)

    def promote(self, rollout_id: str) -> Rollout:
        """End the canary phase: the other accounts may begin. Raises as `pause`."""
        return self._change("promote", rollout_id, lambda one, _members: replace(one, promoted=True))

    def cancel(self, rollout_id: str) -> Rollout:
        """End the rollout; restarts under way finish. Raises as `pause`."""
        me = caller()
        return self._change(
            "cancel",
            rollout_id,
            lambda one, _members: replace(one, state=RolloutState.CANCELLED, why=f"cancelled by {me}"),
        )

    # inside

    def _change(
        self,
        what: str,
        rollout_id: str,
        change: Callable[[Rollout, Mapping[str, Member]], Rollout],
    ) -> Rollout:
        with self._audit.refusals(f"rollout {what}", by=caller()):
            for _ in range(_ATTEMPTS):
                before, members = self._rollouts.read(rollout_id)
                if not before.active:
                    raise RolloutConflictError(f"rollout {rollout_id} is {before.state}: {before.why}")
                after = change(before, members)
                if self._rollouts.write(before, after, {}):
                    past = {"pause": "paused", "resume": "resumed", "promote": "promoted"}
                    self._note(past.get(what, "cancelled"), after, {})
                    return after
            raise RolloutConflictError(f"rollout {rollout_id} changes all the time: try again")

    def _note(self, what: str, rollout: Rollout, data: Mapping[str, object]) -> None:
        by = caller()
        self._store.note(
            Notice(type=f"rollout.{what}", by=by, text=rollout.why, data={"rollout": rollout.id, **data})
        )
        self._audit.note(f"rollout {what}", by=by, text=rollout.id)


def open_members(members: Iterable[Member]) -> int:
    """Return how many members may still be restarted."""
    return sum(one.state in OPEN for one in members)


def _in_sequence(wanted: Mapping[str, Observed], workers: Mapping[str, WorkerInfo]) -> list[str]:
    metrics = {key: workers[key].metrics for key in wanted if key in workers}
    real = [key for key, one in metrics.items() if one.environment == "real"]
    sizes = {key: float(one.equity) for key, one in metrics.items() if one.equity is not None}
    return sequence(wanted, real, sizes)


def _runs_it(aim: Aim, loaded: LoadedAccount | None, seen: Observed, info: WorkerInfo | None) -> bool:
    """Return whether an account runs what the rollout brings.

    Its host notices a changed file within seconds; this machine's file is newer than that.
    """
    if aim != "software" and loaded is not None and loaded.config is not None and info is not None:
        running = info.placement.config_version
        if running is not None and running != config_version(loaded.config):
            return False
    return seen.reached
