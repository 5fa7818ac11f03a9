"""The fleet's hosts: what they are, taking one out of service and back, and where an account would go."""

from dataclasses import dataclass
from typing import Final, Literal

from manager.client.caller import caller
from manager.errors import (
    AccountBusyError,
    AccountNotFoundError,
    HostUnavailableError,
    NoSuchHostError,
)
from manager.fleet import FleetStore, HostState
from manager.fleet.audit import AuditTrail
from manager.fleet.desired_store import DesiredStore
from manager.fleet.host_report import DrainReport
from manager.fleet.hosts import DrainRequest
from manager.fleet.leases import LeaseStore
from manager.placement.engine import FleetView, Needs, Placement
from manager.states import SETTLED, WorkerLifecycleStatus
from manager.versions import at_least

#: Seconds. A deadline further away than that is a mistake.
MAX_DEADLINE: Final = 7 * 86_400


@dataclass(frozen=True, slots=True)
class DrainProgress:
    """How far a drain is."""

    host: HostState
    #: Workers that have a process there still.
    workers: int
    #: Of these, those that are on their way.
    leaving: int
    #: Accounts that cannot leave now; `why` names the first of them.
    staying: int
    why: dict[str, str]
    #: Whether all that are left are left for good: waiting changes nothing.
    stuck: bool

    @property
    def done(self) -> bool:
        return self.workers == self.leaving == self.staying == 0


class FleetHosts:
    """Every method raises FleetUnavailableError if Redis cannot be used."""

    def __init__(
        self, store: FleetStore, desired: DesiredStore, audit: AuditTrail, leases: LeaseStore
    ) -> None:
        self._leases = leases
        self._store = store
        self._desired = desired
        self._audit = audit

    def list(self) -> list[HostState]:
        """Return every host that ever reported, by name."""
        return self._store.hosts()

    def get(self, name: str) -> HostState:
        """Return one host. Raises NoSuchHostError, which names those that there are."""
        hosts = self._store.hosts()
        for host in hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in hosts) or "none yet"
        raise NoSuchHostError(f"no host {name} in this fleet (known: {known})")

    def drain(
        self,
        name: str,
        *,
        mode: Literal["move", "stop"] = "move",
        when_flat: bool = False,
        deadline_seconds: float | None = None,
    ) -> HostState:
        """Have a host take no new workers, and its workers move to other hosts, or stop until it is back.

        With `when_flat` those with open positions go on until they have none, or until the deadline. Nothing of what is
        wanted changes: `resume` brings back what stopped here. Returns the host; a silent one is emptied when it is back.
        """
        with self._audit.refusals("drain", by=caller(), host=name):
            host = self.get(name)
            self._refuse_old(host)
        now = float(self._store.ping()["time"])
        deadline = now + min(deadline_seconds, MAX_DEADLINE) if deadline_seconds is not None else 0.0
        me = caller()
        request = DrainRequest(mode=mode, by=me, when_flat=when_flat, deadline=deadline)
        self._store.request_drain(name, request)
        text = "its workers stop" if mode == "stop" else "its workers move"
        if when_flat:
            text += ", those with positions when they are flat"
            text += f", in {deadline_seconds:g} s at the latest" if deadline_seconds is not None else ""
        self._audit.note("drain", by=me, host=name, text=text)
        return self.get(name)

    @staticmethod
    def _refuse_old(host: HostState) -> None:
        if host.live and not at_least(host.report.version, "0.2"):
            raise HostUnavailableError(
                f"host {host.name} runs version {host.report.version}, which cannot be drained: bring it "
                "to 0.2 first, or stop and move its workers one by one"
            )

    def resume(self, name: str) -> HostState:
        """Have a drained host take workers again; those that are its own and should run start. Idempotent."""
        me = caller()
        with self._audit.refusals("resume-host", by=me, host=name):
            self.get(name)
        self._store.request_drain(name, DrainRequest(mode="off", by=me))
        self._audit.note("resume-host", by=me, host=name)
        return self.get(name)

    def forget(self, name: str) -> None:
        """Remove a host that exists no more from the lists. Raises HostUnavailableError if it does, or may have workers."""
        with self._audit.refusals("forget-host", by=caller(), host=name):
            self._refuse_to_forget(name)
        self._store.forget_host(name)
        self._audit.note("forget-host", by=caller(), host=name)

    def _refuse_to_forget(self, name: str) -> None:
        if self.get(name).live:
            raise HostUnavailableError(f"host {name} is live: stop its agent first")
        snapshot = self._desired.snapshot()
        wanted = (
            [] if snapshot is None else [d for d in snapshot.desired.values() if d.running and d.host == name]
        )
        if wanted:
            names = ", ".join(sorted(d.account_id for d in wanted)[:5])
            raise HostUnavailableError(
                f"host {name} has {len(wanted)} accounts that should run ({names}): move them first "
                "(`manager move ACCOUNT --to HOST --force`, if it is lost for good), or stop them"
            )

    def forget_account(self, account_id: str) -> None:
        """Clear the record of an account that has no worker, and is not to have one.

        Raises AccountBusyError if it has, or may have, a worker or a session, or should run; AccountNotFoundError if nothing
        is known of it.
        """
        with self._audit.refusals("forget", by=caller(), account_id=account_id):
            self._forget_account(account_id)

    def _forget_account(self, account_id: str) -> None:
        desired = self._desired.read(account_id)
        info = self._store.get_worker(account_id)
        if desired is None and info is None:
            raise AccountNotFoundError(f"{account_id}: nothing is recorded of this account")
        stop = f"`manager stop {account_id}` first"
        if info is not None and info.status not in SETTLED:
            what = "may have a worker" if info.status is WorkerLifecycleStatus.UNKNOWN else "has a worker"
            where = info.placement.host
            raise AccountBusyError(
                f"{account_id} {what} on host {where} ({info.status}): {stop}; nothing was done"
            )
        if desired is not None and desired.running:
            raise AccountBusyError(f"{account_id} should run: {stop}; nothing was done")
        for holder in self._leases.holders():
            if holder.account_id == account_id:
                raise AccountBusyError(
                    f"{account_id}: its session is still held by host {holder.host}: {stop}, while the agent there is live; "
                    "nothing was done"
                )
        me = caller()
        last = (info.placement.host or "") if info is not None else ""
        if not self._desired.forget_account(account_id, desired.generation if desired else 0, last, me):
            raise AccountBusyError(
                f"{account_id}: somebody has asked something of it just now; nothing was done"
            )
        # Live agents drop their own records; of the others nobody else does.
        for host in self._store.hosts():
            self._store.forget_worker(host.name, account_id)
        self._audit.note("forget", by=me, account_id=account_id)

    def drain_progress(self, name: str) -> DrainProgress:
        """Say how far the host's drain is."""
        host = self.get(name)
        report = host.report.drain
        drain = report or DrainReport()
        workers = host.workers
        staying, leaving, why = drain.staying or 0, drain.leaving or 0, drain.why or {}
        waits = any("position" in text for text in why.values())
        stuck = report is not None and staying > 0 and leaving == 0 and staying >= workers and not waits
        return DrainProgress(host, workers, leaving, staying, why, stuck)

    def place(self, needs: Needs) -> tuple[Placement, FleetView]:
        """Say where the account would go if it were started now; starts nothing."""
        snapshot = self._desired.snapshot()
        view = FleetView(host.facts for host in self._store.hosts())
        for desired in () if snapshot is None else snapshot.desired.values():
            if desired.running and desired.host:
                view.add(desired.placement_needs, desired.host)
        info = self._store.get_worker(needs.account_id)
        wanted = self._desired.read(needs.account_id)
        last = (wanted.host if wanted is not None else "") or (
            info.placement.host if info is not None else None
        )
        return view.place(needs, last or None), view
