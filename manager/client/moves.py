"""Checks moves of accounts between hosts, and ends their workers on the former host."""

from collections.abc import Callable, Collection

from manager.client.sender import Sender, may_have_process
from manager.errors import (
    AccountNotFoundError,
    AlreadyThereError,
    HostUnavailableError,
    NoHostFitsError,
)
from manager.fleet import FleetStore
from manager.fleet.desired_store import DesiredStore
from manager.fleet.leases import LeaseStore
from manager.models import WorkerInfo
from manager.placement.engine import Needs


class Moves:
    """Prepares moves. `stop` stops an account's worker and returns once it has ended."""

    def __init__(
        self,
        store: FleetStore,
        desired: DesiredStore,
        leases: LeaseStore,
        sender: Sender,
        stop: Callable[[str], bool],
    ) -> None:
        self._store = store
        self._desired = desired
        self._leases = leases
        self._sender = sender
        self._stop = stop

    def prepare(self, account_id: str, host: str, *, force: bool, needs: Needs | None) -> None:
        """Check a move, and stop the account's worker on its present host.

        With `force`, revokes the account's lease if that host is silent.

        Raises HostUnavailableError if `host` is silent, or if the present host is (without `force`);
        RuntimeErrors as a stop does.
        """
        if not self._sender.knows(account_id):
            raise AccountNotFoundError(
                f"no account {account_id}: it has no file on this machine, no worker and nothing desired; "
                "nothing was done"
            )
        hosts = self._store.hosts()
        live = {state.name for state in hosts if state.live}
        if host not in live:
            known = ", ".join(sorted(live)) or "none"
            raise HostUnavailableError(
                f"host {host} has no live agent (live: {known}): start one there first"
            )
        info = self._store.get_worker(account_id)
        here = info.placement.host if info is not None else None
        present = may_have_process(info)
        if here == host and present:
            raise AlreadyThereError(f"{account_id} is on host {host} already")
        why = None if needs is None or force else self._sender.fleet_view(hosts).refusal(needs, host)
        if why is not None:
            raise NoHostFitsError(f"{account_id}: host {host}: {why}; nothing was done")
        if not present and not force:
            self._refuse_uncertain(account_id, host, info, live)
        if present and (here in live or not force):
            self._stop(account_id)
        if force and (here not in live or not present):
            for holder in self._leases.holders():
                if holder.account_id == account_id:
                    self._leases.revoke(holder.claim)

    def _refuse_uncertain(
        self, account_id: str, host: str, info: WorkerInfo | None, live: Collection[str]
    ) -> None:
        """Refuse to move an account that may run on a silent host.

        This is for a host whose records Redis has lost.
        """
        desired = self._desired.read(account_id)
        if desired is None or not desired.running or desired.host in {"", host} or desired.host in live:
            return
        if info is not None and info.placement.host == desired.host:
            return  # the host has recorded its end
        raise HostUnavailableError(
            f"{account_id} should run on host {desired.host}, whose agent is silent, and Redis has no record "
            "of its worker, which may trade there: start the agent there; if the machine is permanently "
            f"lost, `manager move {account_id} --to {host} --force`"
        )
