"""Whether an account's worker may live on a host that is silent, although no lease says so.

A lease without a time to live is what keeps a second session out while its host is silent. A key of Redis can go by
itself: deleted by hand, evicted, lost with a snapshot. What this prevents:

    host A holds the lease and is cut off; the lease's key goes; a plain start comes to host B; B finds the claim free

Absence of the lease is then not the end of the worker. The account counts as ended only by the word of its host (its
record there says `stopped` or `failed`), or, where another host may take over, once a whole lease time has gone by without
a lease: a worker that cannot renew for so long has left its session.
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
    """A host where the account is or was wanted."""

    host: str
    running: bool
    #: Whether its worker has a lease that ends by itself.
    failover: bool


class Whereabouts:
    """Judges silent hosts. Every method raises FleetUnavailableError if Redis cannot be used."""

    def __init__(self, host: str, fleet_snapshot: FleetSnapshot, leases: FleetLeases) -> None:
        self._host = host
        self._fleet_snapshot = fleet_snapshot
        self._leases = leases

    def rejection_here(
        self, desired: DesiredState, config: AccountConfig, *, generation: int = 0, other: str | None = None
    ) -> str | None:
        """Return why the account may not be started on this host now; None if no other host can have its worker.

        `generation` is that of the command at hand, which has overwritten what was wanted before; `other` is a host
        that has a record of the account besides.
        """
        if desired.why in OPERATOR_PLACED and desired.host == self._host:
            return None  # an operator has said so; without force, whoever sent it has looked
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
            why = self._judge(desired.account_id, trace, config)
            if why is not None:
                return why
        return None

    def _judge(self, account_id: str, trace: _Trace, config: AccountConfig) -> str | None:
        if trace.host in {"", self._host} or self._fleet_snapshot.live(trace.host):
            return None
        if self._leases.is_held_permanently(config, trace.host):
            return (
                f"{account_id} has its worker on host {trace.host}, whose agent is silent: start the agent there; if the "
                f"machine is lost for good, `manager move {account_id} --to HOST --force`"
            )
        if self._leases.is_held(config):
            return None  # the lease tells, not the silence
        recorded = self._fleet_snapshot.recorded(trace.host, account_id)
        if recorded is None and not trace.running:
            return None
        if recorded is not None and recorded.status not in _MAY_LIVE:
            return None  # its host has said that it ended
        if trace.failover and config.failover == "auto":
            self._leases.suspect_missing(config)  # a start waits until such a worker must have left
            return None
        return (
            f"{account_id} was to run on host {trace.host}, whose agent is silent, and its lease is gone from Redis: its "
            f"worker may trade there; start the agent there; if the machine is lost for good, `manager move {account_id} "
            "--to HOST --force`"
        )


__all__ = ["Whereabouts"]
