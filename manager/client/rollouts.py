"""Rollouts of a fleet: start, list, and the commands for those that run."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from manager.change.rollout_planning import FleetState, RolloutRecord, plan_rollout
from manager.change.rollout_store import RolloutStore
from manager.change.rollouts import (
    Aim,
    Member,
    Rollout,
    RolloutOptions,
    RolloutState,
    failures,
)
from manager.client.caller import caller
from manager.config.loaded import LoadedAccount
from manager.errors import InvalidPayloadError, RolloutConflictError
from manager.fleet import FleetStore
from manager.fleet.audit import AuditTrail
from manager.fleet.desired_store import DesiredStore
from manager.fleet.event_types import Notice

#: How often a command that races with a host's step is tried.
_ATTEMPTS = 20


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
        """Return what a rollout over these accounts would do; see `plan_rollout`. Writes nothing.

        Raises InvalidPayloadError.
        """
        fleet = FleetState(
            self._desired.read_many(accounts),
            self._store.list_workers(),
            self._store.hosts(),
            self._rollouts.now(),
        )
        try:
            return plan_rollout(
                accounts,
                aim,
                fleet,
                options,
                by=caller(),
                max_unavailable=max_unavailable,
                window=window,
                rollout_id=rollout_id,
            )
        except ValueError as error:
            raise InvalidPayloadError(str(error)) from None

    def start(self, record: RolloutRecord, *, force: bool = False) -> RolloutRecord:
        """Start a planned rollout.

        If there is one of its id, returns that. Raises RolloutConflictError if it has nothing to do, or if
        one of its accounts belongs to another active rollout, unless `force`.
        """
        rollout = record.rollout
        with self._audit.refusals("rollout start", by=rollout.by):
            if not record.restarts:
                raise RolloutConflictError(
                    "no account needs this rollout: each one runs this already, or rests"
                )
            if not self._rollouts.create(rollout, record.members, force=force):
                return self.get(rollout.id)
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
