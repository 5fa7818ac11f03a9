"""The fleet as one host agent sees it for placement.

That is its hosts, and the host that every account is assigned to.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from manager.fleet import FleetStore, HostState
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.drain_state import DrainState
from manager.models import WorkerInfo
from manager.placement.engine import FleetView, HostFacts, Needs, Placement

#: Seconds for which one read of the fleet is used: a batch of starts must not read everything for each
#: account.
_FRESH_SECONDS: Final = 0.5


class FleetSnapshot:
    """Hosts and assignments at one moment, and the reservations of this agent.

    Thread-safe. Methods that read Redis raise FleetUnavailableError if it cannot be used.
    """

    def __init__(
        self,
        host: str,
        store: FleetStore,
        desired_cache: DesiredStateCache,
        drain_state: DrainState,
        facts: Callable[[], HostFacts],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare, without reading anything.

        `facts` describes this host at the moment of the call, except for `draining`.
        """
        self._host = host
        self._store = store
        self._desired_cache = desired_cache
        self._drain_state = drain_state
        self._facts = facts
        self._clock = clock
        self._lock = threading.RLock()
        self._hosts: list[HostState] = []
        self._view: FleetView | None = None
        self._fresh_until = 0.0
        #: Accounts that have a reservation on this host and whose start has not ended.
        self._reserved_here: set[str] = set()
        #: Accounts that are about to leave this host: what they need, and the host that is reserved for them.
        self._reserved_elsewhere: dict[str, tuple[Needs, str]] = {}

    def live(self, host: str) -> bool:
        """Return whether the host's agent is alive."""
        if host == self._host:
            return True
        with self._lock:
            self._read()
            return any(state.live for state in self._hosts if state.name == host)

    def renamed(self, host: str, account_id: str) -> str | None:
        """Return the present name of a renamed host, or None.

        That is the live host whose record of the account's worker says that it was `host` before.
        """
        info = self._store.get_worker(account_id)
        if info is None or info.placement.renamed_from != host:
            return None
        now = info.placement.host
        return now if now is not None and self.live(now) else None

    def recorded(self, host: str, account_id: str) -> WorkerInfo | None:
        """Return that host's record of the account's worker, or None."""
        return self._store.recorded(host, account_id)

    def recorded_host(self, account_id: str) -> str | None:
        """Return the host with the account's latest worker record, or None."""
        found = self._store.get_worker(account_id)
        return None if found is None else found.placement.host or ""

    def place(self, needs: Needs, last_host: str | None, *, without: str | None = None) -> Placement:
        """Choose a host; see `FleetView.place`.

        The account counts there until the fleet is read again.
        """
        with self._lock:
            view = self._read()
            placement = view.place(needs, last_host, without=without)
            if placement.host is None:
                view = self._read_again()
                placement = view.place(needs, last_host, without=without)
            if placement.host is not None:
                view.add(needs, placement.host)
            return placement

    def reserve_elsewhere(self, needs: Needs) -> Placement:
        """Choose another host for an account and reserve room there.

        The account counts there until `release_elsewhere`.
        """
        with self._lock:
            self._reserved_elsewhere.pop(needs.account_id, None)
            placement = self.place(needs, None, without=self._host)
            if placement.host is not None:
                self._reserved_elsewhere[needs.account_id] = (needs, placement.host)
            return placement

    def release_elsewhere(self, account_id: str) -> None:
        """Drop the reservation of an account that was reassigned or stays."""
        with self._lock:
            self._reserved_elsewhere.pop(account_id, None)

    def reserve_here(self, needs: Needs, claimed: int, runs: Callable[[str], bool]) -> str | None:
        """Reserve room on this host until `release_here`.

        Returns the rejection if accounts before this one leave none. Before it count accounts that run or are
        reserved here, and those assigned earlier than `claimed` (`DesiredState.claimed`). So two agents that
        count the same two accounts prefer the same one. The account's own assignment is in Redis before this
        call, so every later account sees it.
        """
        with self._lock:
            # Accounts that avoid each other on other hosts need the newest state, not that of a moment ago.
            view = self._read_again() if self._store.accounts_avoid() else self._read()
            if view.refusal(needs, self._host) is not None:
                self._read_again()
                rejection = self._rejection_among_earlier(needs, claimed, runs)
                if rejection is not None:
                    return rejection
            self._reserved_here.add(needs.account_id)
            if self._view is not None:
                self._view.add(needs, self._host)
        return None

    def release_here(self, account_id: str) -> None:
        """Drop the reservation of an account whose start has ended."""
        with self._lock:
            self._reserved_here.discard(account_id)

    def _rejection_among_earlier(self, needs: Needs, claimed: int, runs: Callable[[str], bool]) -> str | None:
        earlier = self._empty_view()
        for desired in self._desired_cache.running():
            account_id = desired.account_id
            if account_id == needs.account_id or not desired.host:
                continue
            came_before = (desired.claimed, account_id) < (claimed, needs.account_id)
            if came_before or account_id in self._reserved_here or runs(account_id):
                earlier.add(desired.placement_needs, desired.host)
        return earlier.refusal(needs, self._host)

    def _empty_view(self) -> FleetView:
        # What this host knows of itself is newer than what it reported.
        mine = replace(self._facts(), draining=self._drain_state.active)
        return FleetView([mine, *(state.facts for state in self._hosts if state.name != self._host)])

    def _read_again(self) -> FleetView:
        """Read the fleet even if the last read is fresh.

        A host that was full may have room by now.
        """
        self._desired_cache.read()
        self._fresh_until = 0.0
        return self._read()

    def _read(self) -> FleetView:
        now = self._clock()
        if self._view is None or now >= self._fresh_until:
            self._hosts = self._store.hosts()
            self._fresh_until = now + _FRESH_SECONDS
            view = self._empty_view()
            for desired in self._desired_cache.running():
                if desired.host:
                    view.add(desired.placement_needs, desired.host)
            for needs, host in self._reserved_elsewhere.values():
                view.add(needs, host)
            self._view = view
        return self._view
