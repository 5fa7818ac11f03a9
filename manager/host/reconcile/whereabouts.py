"""Whether an account's worker may be alive on a silent host.

This is about workers whose lease is missing. A lease without a time to live keeps a second session out while
its host is silent. But a Redis key can disappear: deleted by an operator, evicted, or lost with a snapshot.
Without this module:

    host A holds the lease and is cut off; the lease's key disappears; host B gets a start and finds the
    account free

So a missing lease does not prove that the worker has ended. Two things do: its host's record says `stopped`
or `failed`; or, with failover, a whole lease time has passed without a lease. A worker that cannot renew for
so long has left its session.
"""

from dataclasses import dataclass
from typing import Final

from manager.config import AccountConfig
from manager.fleet.desired import OPERATOR_PLACED, DesiredState
from manager.host.reconcile.fleet_snapshot import FleetSnapshot
from manager.host.workers.fleet_leases import FleetLeases
from manager.states import LIVE, WorkerLifecycleStatus

_MAY_LIVE: Final = LIVE | {WorkerLifecycleStatus.UNKNOWN}


@dataclass(frozen=True, slots=True)
class _Trace:
    """A host that the account is or was assigned to."""

    host: str
    running: bool
    #: Whether the lease of its worker there expires.
    failover: bool


class Whereabouts:
    """Decides whether a silent host prevents a start. Thread-safe."""

    def __init__(self, host: str, fleet_snapshot: FleetSnapshot, leases: FleetLeases) -> None:
        self._host = host
        self._fleet_snapshot = fleet_snapshot
        self._leases = leases

    def rejection_here(
        self, desired: DesiredState, config: AccountConfig, *, generation: int = 0, other: str | None = None
    ) -> str | None:
        """Return why the account must not start on this host now.

        None if no other host can have its worker. `generation` is that of the present command, which has
        replaced an earlier desired state. `other` is another host with a record of the account. Raises
        FleetUnavailableError if Redis cannot be used.
        """
        if desired.why in OPERATOR_PLACED and desired.host == self._host:
            return None  # an operator moved it here; without --force the manager has checked its former host
        traces = []
        if desired.host not in {"", self._host} and generation != desired.generation:
            traces.append(_Trace(desired.host, desired.running, desired.failover))
        if not desired.handed:
            before = desired.before
            traces.append(
                _Trace(
                    str(before.get("host", "")),
                    before.get("state") == "running",
                    before.get("failover") is True,
                )
            )
        if other is not None:
            traces.append(_Trace(other, running=False, failover=False))
        for trace in traces:
            rejection = self._rejection(desired.account_id, trace, config)
            if rejection is not None:
                return rejection
        return None

    def _rejection(self, account_id: str, trace: _Trace, config: AccountConfig) -> str | None:
        if trace.host in {"", self._host} or self._fleet_snapshot.live(trace.host):
            return None
        if self._leases.is_held_permanently(config, trace.host):
            return (
                f"{account_id} has its worker on host {trace.host}, whose agent is silent: start the agent "
                f"there; if the machine is permanently lost, `manager move {account_id} --to HOST --force`"
            )
        if self._leases.is_held(config):
            return None  # the lease decides, not the silence
        recorded = self._fleet_snapshot.recorded(trace.host, account_id)
        if recorded is None and not trace.running:
            return None
        if recorded is not None and recorded.status not in _MAY_LIVE:
            return None  # its host recorded that it has ended
        if trace.failover and config.failover == "auto":
            self._leases.suspect_missing(config)  # a start waits until such a worker must have left
            return None
        return (
            f"{account_id} was to run on host {trace.host}, whose agent is silent, and its lease is gone "
            "from Redis: its worker may trade there; start the agent there; if the machine is lost for "
            f"good, `manager move {account_id} --to HOST --force`"
        )


__all__ = ["Whereabouts"]
