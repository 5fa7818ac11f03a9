"""The fleet's hosts: queries, drains, deletion, placement previews."""

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

#: Longest deadline of a drain, in seconds; a longer one is cut to this.
MAX_DEADLINE: Final = 7 * 86_400


@dataclass(frozen=True, slots=True)
class DrainProgress:
    """The progress of a drain."""

    host: HostState
    #: Workers that still have a process there.
    workers: int
    #: Those that are moving or stopping.
    leaving: int
    #: Accounts that cannot leave now.
    staying: int
    #: Account → reason, for the first of those that cannot leave.
    why: dict[str, str]
    #: Whether no remaining worker can leave, so that waiting changes nothing.
    stuck: bool

    @property
    def done(self) -> bool:
        return self.workers == self.leaving == self.staying == 0


class FleetHosts:
    """Queries and commands for the hosts of a fleet.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

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
        """Return one host. Raises NoSuchHostError, which names the known hosts."""
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
        """Drain a host.

        It accepts no new workers, and its workers move to other hosts or stop. With `when_flat`, workers with
        open positions stay until they have none, or until the deadline. With mode `stop` desired state does
        not change: `resume` starts the stopped workers again. A silent host drains once it is back. Returns
        the host; does not wait for the drain.
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
                f"host {host.name} runs version {host.report.version}, which cannot be drained: upgrade "
                "it to 0.2 or later, or stop or move its workers one by one"
            )

    def resume(self, name: str) -> HostState:
        """End the drain of a host. Its accounts that should run start again.

        Idempotent.
        """
        me = caller()
        with self._audit.refusals("resume-host", by=me, host=name):
            self.get(name)
        self._store.request_drain(name, DrainRequest(mode="off", by=me))
        self._audit.note("resume-host", by=me, host=name)
        return self.get(name)

    def forget(self, name: str) -> None:
        """Delete the records of a host that no longer exists.

        Raises HostUnavailableError if the host is live, or if accounts should run there.
        """
        with self._audit.refusals("forget-host", by=caller(), host=name):
            self._refuse_to_forget(name)
        self._store.forget_host(name)
        self._audit.note("forget-host", by=caller(), host=name)

    def _refuse_to_forget(self, name: str) -> None:
        if self.get(name).live:
            raise HostUnavailableError(f"host {name} is live: stop its agent first")
        snapshot = self._desired.snapshot()
        running = (
            [] if snapshot is None else [d for d in snapshot.desired.values() if d.running and d.host == name]
        )
        if running:
            names = ", ".join(sorted(d.account_id for d in running)[:5])
            raise HostUnavailableError(
                f"host {name} has {len(running)} accounts that should run ({names}): move them first "
                "(`manager move ACCOUNT --to HOST --force`, if it is permanently lost), or stop them"
            )

    def forget_account(self, account_id: str) -> None:
        """Delete the records of an account without a worker.

        Raises:
            AccountBusyError: the account should run, or may have a worker or a session.
            AccountNotFoundError: nothing is recorded of the account.
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
                    f"{account_id}: its session is still held by host {holder.host}: {stop}, while the agent "
                    "there is live; nothing was done"
                )
        me = caller()
        last = (info.placement.host or "") if info is not None else ""
        if not self._desired.forget_account(account_id, desired.generation if desired else 0, last, me):
            raise AccountBusyError(
                f"{account_id}: another command has just changed its desired state; nothing was done"
            )
        # A live agent deletes its own record. For hosts that are not live, this is the only deletion.
        for host in self._store.hosts():
            self._store.forget_worker(host.name, account_id)
        self._audit.note("forget", by=me, account_id=account_id)

    def drain_progress(self, name: str) -> DrainProgress:
        """Return the progress of the host's drain, by its last report."""
        host = self.get(name)
        report = host.report.drain
        drain = report or DrainReport()
        workers = host.workers
        staying, leaving, why = drain.staying or 0, drain.leaving or 0, drain.why or {}
        waits = any("position" in text for text in why.values())
        stuck = report is not None and staying > 0 and leaving == 0 and staying >= workers and not waits
        return DrainProgress(host, workers, leaving, staying, why, stuck)

    def place(self, needs: Needs) -> tuple[Placement, FleetView]:
        """Return where the account would be placed if it were started now.

        Starts nothing.
        """
        snapshot = self._desired.snapshot()
        view = FleetView(host.facts for host in self._store.hosts())
        for desired in () if snapshot is None else snapshot.desired.values():
            if desired.running and desired.host:
                view.add(desired.placement_needs, desired.host)
        info = self._store.get_worker(needs.account_id)
        desired_now = self._desired.read(needs.account_id)
        last = (desired_now.host if desired_now is not None else "") or (
            info.placement.host if info is not None else None
        )
        return view.place(needs, last or None), view
