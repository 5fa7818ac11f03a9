"""The beginning of a rollout: its members, their sequence and its canaries."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from uuid import uuid4

from manager.change.rollout_views import observe_accounts
from manager.change.rollouts import (
    Aim,
    Member,
    MemberState,
    Observed,
    Rollout,
    RolloutOptions,
    allowed_unavailable,
    sequence,
)
from manager.config import config_version
from manager.config.loaded import LoadedAccount
from manager.fleet.desired import DesiredState
from manager.fleet.hosts import HostState
from manager.market.daily_text import parse_daily
from manager.models import WorkerInfo


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


@dataclass(frozen=True, slots=True)
class FleetState:
    """The state of a fleet's accounts and hosts at one moment; `now` is in seconds since 1970."""

    desired: Mapping[str, DesiredState]
    workers: Iterable[WorkerInfo]
    hosts: Iterable[HostState]
    now: float


def plan_rollout(
    accounts: Mapping[str, LoadedAccount | None],
    aim: Aim,
    fleet: FleetState,
    options: RolloutOptions | None = None,
    *,
    by: str,
    max_unavailable: str = "5%",
    window: str = "",
    rollout_id: str | None = None,
) -> RolloutRecord:
    """Return what a rollout over these accounts would do.

    `accounts` are the selected ones as loaded from their files. `max_unavailable` is a number, or a part of
    the accounts that should run now such as `5%`; `window` as `parse_daily` reads it, or empty. An account
    that does not run is skipped, one that runs this already is done. Raises ValueError.
    """
    workers = {info.account_id: info for info in fleet.workers}
    chosen = {key: one for key, one in fleet.desired.items() if key in accounts}
    seen = observe_accounts(aim, chosen, workers.values(), fleet.hosts)
    wanted = {key: one for key, one in seen.items() if one.wanted}
    if window:
        parse_daily(window)
    most = allowed_unavailable(max_unavailable, len(wanted))
    options = replace(options or RolloutOptions(), max_unavailable=most)
    todo = [
        key
        for key in _in_sequence(wanted, workers)
        if not _runs_it(aim, accounts.get(key), wanted[key], workers.get(key))
    ]
    members = {
        key: Member(order=order, canary=order < options.canary, since=fleet.now, base=wanted[key].generation)
        for order, key in enumerate(todo)
    }
    for key in accounts:
        if key not in members:
            runs = key in wanted
            members[key] = Member(
                state=MemberState.DONE if runs else MemberState.SKIPPED,
                since=fleet.now,
                why="it runs this already" if runs else "it does not run",
            )
    rollout = Rollout(
        id=rollout_id or uuid4().hex[:12],
        aim=aim,
        options=options,
        by=by,
        started=fleet.now,
        window=window,
    )
    return RolloutRecord(rollout, members)


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
