"""A host agent's view of the fleet, to place accounts by: its hosts, and where every account is wanted."""

import threading
import time
from collections.abc import Callable
from typing import Final

from manager.fleet import FleetStore, HostState
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.models import WorkerInfo
from manager.placement.engine import FleetView, HostFacts, Needs, Placement

#: Seconds that a look at the fleet serves: a batch of starts must not read everything for each.
_FRESH_SECONDS: Final = 0.5


class FleetSnapshot:
    """Thread-safe. What reads Redis raises FleetUnavailableError if it cannot be used."""

    def __init__(
        self, host: str, store: FleetStore, wanted: DesiredStateCache, me: Callable[[], HostFacts]
    ) -> None:
        """`me` is this host as it is now: newer than what it said of itself."""
        self._host = host
        self._store = store
        self._desired_cache = wanted
        self._me = me
        self._lock = threading.RLock()
        self._hosts: list[HostState] = []
        self._view: FleetView | None = None
        self._until = 0.0
        #: Accounts whose start was let in and has not ended.
        self._reserved_here: set[str] = set()
        #: Accounts that are about to leave this host, and the places that are kept for them.
        self._reserved: dict[str, tuple[Needs, str]] = {}

    def live(self, host: str) -> bool:
        """Say whether the host's agent is there."""
        if host == self._host:
            return True
        with self._lock:
            self._look()
            return any(state.live for state in self._hosts if state.name == host)

    def renamed(self, host: str, account_id: str) -> str | None:
        """Return the name that `host` has now; None if it has no other one.

        That is the live host which has recorded the very worker of the account that `host` had.
        """
        info = self._store.get_worker(account_id)
        if info is None or info.placement.renamed_from != host:
            return None
        now = info.placement.host
        return now if now is not None and self.live(now) else None

    def recorded(self, host: str, account_id: str) -> WorkerInfo | None:
        """Return the account's worker as that host recorded it last; None if Redis has no such record."""
        return self._store.recorded(host, account_id)

    def recorded_host(self, account_id: str) -> str | None:
        """Return the host that has the account's latest record; None if no host ever recorded a worker of it."""
        found = self._store.get_worker(account_id)
        return None if found is None else found.placement.host or ""

    def place(self, needs: Needs, last_host: str | None, *, without: str | None = None) -> Placement:
        """Choose a host; see `FleetView.place`. It is counted there at once, until the next look."""
        with self._lock:
            view = self._look()
            placement = view.place(needs, last_host, without=without)
            if placement.host is None:
                view = self._look_again()
                placement = view.place(needs, last_host, without=without)
            if placement.host is not None:
                view.add(needs, placement.host)
            return placement

    def reserve(self, needs: Needs) -> Placement:
        """Choose another host for an account that is to leave this one, and keep its place there until `arrived`."""
        with self._lock:
            self._reserved.pop(needs.account_id, None)
            placement = self.place(needs, None, without=self._host)
            if placement.host is not None:
                self._reserved[needs.account_id] = (needs, placement.host)
            return placement

    def arrived(self, account_id: str) -> None:
        """Note that the account needs its promised place no more: it has got it, or goes elsewhere."""
        with self._lock:
            self._reserved.pop(account_id, None)

    def reserve_here(self, needs: Needs, claimed: int, runs: Callable[[str], bool]) -> str | None:
        """Let the account in here, until `done`; else return why not, counting those that came before it.

        Before it came those that run here or were let in, and those whose host got them earlier: of two that came to
        one place at once the earlier one has it, whichever agent counts. The account's own claim stands in Redis
        before this is asked, so whoever comes later sees it. `claimed`: when this host got it (`Desired.claimed`).
        """
        with self._lock:
            # Where accounts avoid each other over hosts, what was known a moment ago does not do.
            view = self._look_again() if self._store.accounts_avoid() else self._look()
            if view.refusal(needs, self._host) is not None:
                self._look_again()
                why = self._among_earlier(needs, claimed, runs)
                if why is not None:
                    return why
            self._reserved_here.add(needs.account_id)
            if self._view is not None:
                self._view.add(needs, self._host)
        return None

    def done(self, account_id: str) -> None:
        """Note that the start of an account that was let in has ended, well or not."""
        with self._lock:
            self._reserved_here.discard(account_id)

    def _among_earlier(self, needs: Needs, claimed: int, runs: Callable[[str], bool]) -> str | None:
        earlier = FleetView([self._me(), *(s.facts for s in self._hosts if s.name != self._host)])
        for desired in self._desired_cache.running():
            account_id = desired.account_id
            if account_id == needs.account_id or not desired.host:
                continue
            came_before = (desired.claimed, account_id) < (claimed, needs.account_id)
            if came_before or account_id in self._reserved_here or runs(account_id):
                earlier.add(desired.placement_needs, desired.host)
        return earlier.refusal(needs, self._host)

    def _look_again(self) -> FleetView:
        """Look anew: what was full a moment ago may have been stopped since."""
        self._desired_cache.read()
        self._until = 0.0
        return self._look()

    def _look(self) -> FleetView:
        now = time.monotonic()
        if self._view is None or now >= self._until:
            self._hosts = self._store.hosts()
            self._until = now + _FRESH_SECONDS
            view = FleetView([self._me(), *(s.facts for s in self._hosts if s.name != self._host)])
            for desired in self._desired_cache.running():
                if desired.host:
                    view.add(desired.placement_needs, desired.host)
            for needs, host in self._reserved.values():
                view.add(needs, host)
            self._view = view
        return self._view
