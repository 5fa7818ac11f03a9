"""Leases of a host's workers.

A host acquires a lease before it creates a worker, and releases it when the worker has provably ended.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from manager.config import AccountConfig
from manager.errors import SessionHeldError
from manager.fleet.leases import Holder
from manager.host.workers.limits import Clocks


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseGrant:
    """The claims that one worker holds."""

    claims: tuple[str, ...]
    #: The fencing token; 0 in a pool without a fleet.
    epoch: int
    #: Time to live; 0 means that the lease does not expire.
    seconds: float
    #: When the lease was requested, on `lease_clock`.
    asked_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRequest:
    """A request for the lease of a new worker."""

    config: AccountConfig
    worker_id: str
    #: The lease that the account's ended worker left.
    previous: LeaseGrant | None
    #: Set to end a wait.
    cancelled: threading.Event
    #: Whether the worker with an id may live on this host.
    may_live: Callable[[str], bool]


class Leases(Protocol):
    """Acquires and releases the leases of a host's workers."""

    def acquire(self, request: LeaseRequest) -> LeaseGrant:
        """Acquire the claims that a new worker needs.

        May block until `request.cancelled` is set.

        Raises:
            SessionHeldError: Another worker holds a claim.
            StartCancelledError: `cancelled` was set while it waited.
            FleetUnavailableError: Redis is down.
        """

    def adopt(self, lease: LeaseGrant, worker_id: str, account_id: str) -> None:
        """Register the lease of a worker that was found running."""

    def release(self, lease: LeaseGrant) -> None:
        """Release a lease whose worker has provably ended or was never created.

        Raises nothing.
        """

    def retry_releases(self) -> None:
        """Repeat the releases that failed while Redis was down."""


class LocalLeases:
    """Leases in the memory of one process, for a pool without a fleet."""

    def __init__(self, host: str, clocks: Clocks | None = None) -> None:
        self._host = host
        self._clocks = clocks or Clocks()
        self._lock = threading.Lock()
        self._holders: dict[str, Holder] = {}

    def acquire(self, request: LeaseRequest) -> LeaseGrant:
        account_id = request.config.account_id
        claims = claims_of(request.config, self._host)
        mine = set(request.previous.claims) if request.previous is not None else set()
        with self._lock:
            for claim in claims:
                holder = self._holders.get(claim)
                if holder is not None and claim not in mine:
                    raise held_error(account_id, holder)
            self._hold(claims, request.worker_id, account_id)
        return LeaseGrant(claims=claims, epoch=0, seconds=0.0, asked_at=self._clocks.lease())

    def adopt(self, lease: LeaseGrant, worker_id: str, account_id: str) -> None:
        with self._lock:
            self._hold(lease.claims, worker_id, account_id)

    def release(self, lease: LeaseGrant) -> None:
        with self._lock:
            for claim in lease.claims:
                self._holders.pop(claim, None)

    def retry_releases(self) -> None:
        pass

    def _hold(self, claims: tuple[str, ...], worker_id: str, account_id: str) -> None:
        now = int(self._clocks.utc().timestamp() * 1000)
        for claim in claims:
            self._holders[claim] = Holder(claim, self._host, worker_id, account_id, 0, now, 0)


def claims_of(config: AccountConfig, host: str) -> tuple[str, ...]:
    """Return the claims that only one worker may hold.

    They are the broker identity and the account's terminal on this host.
    """
    if config.path is None:
        return config.identity_claims()
    # Links to one folder are one terminal, and so are spellings that differ in case.
    terminal = str(Path(config.path).expanduser().resolve()).casefold()
    return (*config.identity_claims(), f"terminal:{host}:{terminal}")


def held_error(account_id: str, holder: Holder, *, namesake: bool = False) -> SessionHeldError:
    """Return the error that names the holder of a claim.

    `namesake` says that the holder is another state directory or machine with this host's name.
    """
    if holder.broken:
        return SessionHeldError(
            f"{account_id}: the lease of {holder.claim} in Redis cannot be read (was it edited?). If a "
            f"worker runs, its next heartbeat repairs the lease; if none runs, `manager move {account_id} "
            "--to HOST --force` removes it"
        )
    since = datetime.fromtimestamp(holder.since_ms / 1000, UTC)
    if holder.account_id == account_id and not namesake:
        return SessionHeldError(
            f"{account_id} has {holder.claim} already: worker {holder.worker_id} on host {holder.host} "
            f"since {since:%Y-%m-%d %H:%M:%S} UTC, last renewed {holder.renewed_age_ms / 1000:.0f} s ago; "
            "if that host's agent is silent, start it there; if the machine is permanently lost, `manager "
            f"move {account_id} --to HOST --force`"
        )
    other = " (another state directory or machine of that name)" if namesake else ""
    return SessionHeldError(
        f"{account_id}: account {holder.account_id} already has the session of {holder.claim}: worker "
        f"{holder.worker_id} on host {holder.host}{other} since {since:%Y-%m-%d %H:%M:%S} UTC: stop it "
        "first, or give the two different logins; if that host is permanently lost, see `manager move --help`"
    )
