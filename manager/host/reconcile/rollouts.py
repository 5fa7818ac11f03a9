"""Takes the steps of rollouts. Any host may: one takes each step."""

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final
from uuid import NAMESPACE_OID, uuid5

from manager.change.rollout_store import RolloutStore
from manager.change.rollout_views import observe_accounts
from manager.change.rollouts import UNDER_WAY, Member, MemberState, Rollout, RolloutState, Step, plan
from manager.errors import FleetUnavailableError, NoRolloutError
from manager.fleet import FleetStore
from manager.fleet.desired import ROLLOUT, DesiredState, DesiredStateRequest
from manager.fleet.desired_store import DesiredStore
from manager.fleet.event_types import Notice
from manager.market.daily_text import parse_daily
from manager.system import logs
from manager.system.thread_pool import ThreadPool

logger = logging.getLogger(__name__)

#: State of a rollout → type of the event about it.
_EVENTS: Final = {
    RolloutState.PAUSED: "rollout.paused",
    RolloutState.DONE: "rollout.done",
    RolloutState.CANCELLED: "rollout.cancelled",
}


class RolloutSteps:
    """Takes steps of the fleet's active rollouts. `tick` never blocks.

    A step that this host began and did not finish, because it was killed, is finished by the next one: the
    restart of a member has the same token then, so it happens once.
    """

    def __init__(
        self,
        host: str,
        rollouts: RolloutStore,
        fleet: FleetStore,
        desired: DesiredStore,
        thread_pool: ThreadPool,
    ) -> None:
        self._host = host
        self._rollouts = rollouts
        self._fleet = fleet
        self._desired = desired
        self._lock = threading.Lock()
        self._busy = False
        self.thread_pool = thread_pool

    def close(self) -> None:
        """End the thread."""
        self.thread_pool.shutdown(cancel_futures=True)

    def tick(self) -> None:
        """Begin the next step of every active rollout, unless the last one still runs."""
        with self._lock:
            if self._busy:
                return
            self._busy = True
        self.thread_pool.submit(self._run)

    def step(self, rollout_id: str) -> None:
        """Take one step of a rollout. Raises FleetUnavailableError."""
        if not self._rollouts.begin_step(rollout_id, self._host):
            return
        try:
            self._step(rollout_id)
        except NoRolloutError:
            pass  # it was deleted
        finally:
            self._rollouts.end_step(rollout_id)

    # inside

    def _run(self) -> None:
        try:
            for rollout_id in self._rollouts.active():
                self.step(rollout_id)
        except FleetUnavailableError:
            pass  # the next tick tries again
        except Exception:
            logger.exception("a step of a rollout failed; the next one tries again")
        finally:
            with self._lock:
                self._busy = False

    def _step(self, rollout_id: str) -> None:
        rollout, members = self._rollouts.read(rollout_id)
        desired = self._desired.read_many(members)
        hosts, workers = self._fleet.hosts(), self._fleet.list_workers()
        seen = observe_accounts(rollout.aim, desired, workers, hosts)
        now = self._rollouts.now()
        found = plan(rollout, members, seen, now, window_open=_is_open(rollout, now))
        if not self._rollouts.write(rollout, found.rollout, found.changed):
            return  # it was changed meanwhile: the next step reads that
        self._report(rollout, found, members)
        # Those that were begun and not asked for belong to a host that was killed in between.
        after = {**members, **found.changed}
        asked = {key: one for key, one in after.items() if one.state in UNDER_WAY and not one.generation}
        self._ask(rollout_id, asked, desired)

    def _ask(self, rollout_id: str, begun: Mapping[str, Member], desired: Mapping[str, DesiredState]) -> None:
        """Ask for the restarts that have begun, and record their generations."""
        changed: dict[str, Member] = {}
        for account_id, member in begun.items():
            before = desired.get(account_id)
            if before is not None:
                changed[account_id] = self._restart(rollout_id, before, member)
        if not changed:
            return
        rollout, members = self._rollouts.read(rollout_id)
        still = {key: one for key, one in changed.items() if members[key].generation == 0}
        self._rollouts.write(rollout, rollout, still)  # else the next step asks again, with the same tokens

    def _restart(self, rollout_id: str, before: DesiredState, member: Member) -> Member:
        token = f"rollout-{uuid5(NAMESPACE_OID, f'{rollout_id}:{before.account_id}')}"
        request = DesiredStateRequest(
            account_id=before.account_id,
            state="running",
            token=token,
            by=f"rollout {rollout_id}",
            why=ROLLOUT,
            restart=True,
            host=before.host,
            apply_defaults=before.apply_defaults,
            validate=before.validate,
            failover=before.failover,
            writer=self._host,
            given=member.base + 1,
        )
        generation, now = self._desired.set_desired(request)
        if now.token != token:
            return replace(member, state=MemberState.OVERRULED, why="a later command came first")
        logs.event(logger, logging.INFO, "rollout_restarts", account=before.account_id, rollout=rollout_id)
        return replace(member, generation=generation)

    def _report(self, before: Rollout, step: Step, members: Mapping[str, Member]) -> None:
        after, who = step.rollout, {"rollout": before.id}
        for key, one in step.changed.items():
            if one.state is MemberState.FAILED and members[key].state is not MemberState.FAILED:
                self._fleet.note(Notice(type="rollout.failed", account_id=key, text=one.why, data=who))
        if after.promoted and not before.promoted:
            self._fleet.note(Notice(type="rollout.promoted", data=who))
        if after.state is not before.state:
            self._fleet.note(Notice(type=_EVENTS[after.state], text=after.why, data=who))


def _is_open(rollout: Rollout, now: float) -> bool:
    """Return whether the rollout may begin restarts now. One with a broken window may not."""
    if not rollout.window:
        return True
    try:
        return parse_daily(rollout.window).is_open(datetime.fromtimestamp(now, UTC))
    except ValueError:
        return False
