"""What a host's workers hold: taken before a worker is made, given up when it has provably ended."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from manager.config import AccountConfig
from manager.errors import FleetUnavailableError, SessionHeldError, StartCancelledError
from manager.fleet.leases import Holder, LeaseHeld, LeaseStore, Quarantine
from manager.session.lease import lease_clock
from manager.system import logs

logger = logging.getLogger(__name__)

#: Heartbeats, and seconds at least, after which a lease of this very host, whose worker this host knows nothing of, is
#: nobody's any more: its agent was killed between taking the lease and making the worker.
_FORGOTTEN_BEATS: Final = 3
_FORGOTTEN_SECONDS: Final = 5.0


#: Leases that a host remembers to have given up.
_REMEMBERED_RELEASES: Final = 1000

#: Seconds between two looks at a lease that is waited for.
_LOOK_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseGrant:
    """The claims of one worker."""

    claims: tuple[str, ...]
    #: The fencing token; 0 where nobody but this process is asked.
    epoch: int
    #: The lease's time to live; 0: none.
    seconds: float
    #: When it was asked for, by `lease_clock`.
    asked_at: float


class Leases(Protocol):
    def take(
        self,
        config: AccountConfig,
        worker_id: str,
        *,
        before: LeaseGrant | None,
        cancelled: threading.Event,
        known: Callable[[str], bool],
    ) -> LeaseGrant:
        """Take what the account's worker needs.

        `before` is what its ended predecessor held and did not give up; `known` says whether a worker id is one of
        this host's. Raises SessionHeldError, StartCancelledError, FleetUnavailableError.
        """

    def adopt(self, held: LeaseGrant, worker_id: str, account_id: str) -> None:
        """Note what a worker that was found running holds."""

    def give_up(self, held: LeaseGrant) -> None:
        """Give it up. Called when the worker has provably ended, or was never made. Raises nothing."""

    def tend(self) -> None:
        """Do again what could not be done while Redis was away."""


class LocalLeases:
    """For a pool that nobody shares a fleet with: one holder of each claim in this process."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._holders: dict[str, Holder] = {}

    def take(
        self,
        config: AccountConfig,
        worker_id: str,
        *,
        before: LeaseGrant | None,
        cancelled: threading.Event,
        known: Callable[[str], bool],
    ) -> LeaseGrant:
        del cancelled, known
        claims = claims_of(config, self._host)
        now = int(datetime.now(UTC).timestamp() * 1000)
        mine = set(before.claims) if before is not None else set()
        with self._lock:
            for claim in claims:
                holder = self._holders.get(claim)
                if holder is not None and claim not in mine:
                    raise held_error(config.account_id, holder)
            for claim in claims:
                self._holders[claim] = Holder(claim, self._host, worker_id, config.account_id, 0, now, 0)
        return LeaseGrant(claims=claims, epoch=0, seconds=0.0, asked_at=lease_clock())

    def adopt(self, held: LeaseGrant, worker_id: str, account_id: str) -> None:
        now = int(datetime.now(UTC).timestamp() * 1000)
        with self._lock:
            for claim in held.claims:
                self._holders[claim] = Holder(claim, self._host, worker_id, account_id, 0, now, 0)

    def give_up(self, held: LeaseGrant) -> None:
        with self._lock:
            for claim in held.claims:
                self._holders.pop(claim, None)

    def tend(self) -> None:
        pass


class FleetLeases:
    """Leases in Redis."""

    def __init__(
        self,
        store: LeaseStore,
        host: str,
        lease_seconds: float,
        heartbeat_interval_seconds: float = 1.0,
        home: str = "",
        lives: Callable[[Holder], bool] = lambda _holder: False,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """`home` tells this host's state directory from another's under the same name.

        `lives` says whether the process of a lease's holder is on this machine, whatever the host's records say.
        `ready` raises unless this agent may act for its host; it is called before anything is taken.
        """
        self._ready = ready
        self._lives = lives
        self._store = store
        self._host = host
        self._lease_seconds = lease_seconds
        self._home = home
        self._forgotten = max(_FORGOTTEN_SECONDS, heartbeat_interval_seconds * _FORGOTTEN_BEATS)
        self._lock = threading.Lock()
        self._unreleased: list[LeaseGrant] = []
        #: Those given up last: a Redis that lost its last writes still has the leases.
        self._released: deque[LeaseGrant] = deque(maxlen=_REMEMBERED_RELEASES)
        #: Leases of others: when they were renewed last, and since when this host has seen no other time there.
        self._watched: dict[str, tuple[int, float]] = {}
        #: Broker identities that may have a worker without a lease: since when this host has seen none.
        self._gone: dict[str, float] = {}

    def take(
        self,
        config: AccountConfig,
        worker_id: str,
        *,
        before: LeaseGrant | None,
        cancelled: threading.Event,
        known: Callable[[str], bool],
    ) -> LeaseGrant:
        self._ready()
        claims = claims_of(config, self._host)
        seconds = self._lease_seconds if config.failover == "auto" else 0.0
        said = False
        began = lease_clock()
        self.tend()
        if seconds:
            self._wait_out(config, cancelled)
        while True:
            asked_at = lease_clock()
            try:
                epoch = self._store.acquire(
                    claims,
                    host=self._host,
                    worker_id=worker_id,
                    account_id=config.account_id,
                    ttl_seconds=seconds,
                    quarantine_seconds=self._lease_seconds,
                    held_epoch=before.epoch if before is not None else 0,
                    home=self._home,
                )
            except LeaseHeld as error:
                self._wait_for_own(config, error.holder, known, began, cancelled)
                continue
            except Quarantine as error:
                if before is not None and before.seconds == seconds == 0.0 and before.claims == claims:
                    return before
                if not said:
                    logs.event(logger, logging.WARNING, "quarantine", str(error), account=config.account_id)
                said = True
                if cancelled.wait(error.seconds + 0.01):
                    raise _cancelled(config) from None
                continue
            except FleetUnavailableError:
                # Nobody else can have been let in meanwhile: without a time to live it is ours until we give it up.
                if before is not None and before.seconds == seconds == 0.0 and before.claims == claims:
                    return before
                raise
            with self._lock:
                self._gone.pop(config.identity(), None)
            return LeaseGrant(claims=claims, epoch=epoch, seconds=seconds, asked_at=asked_at)

    def clear_broken(self, config: AccountConfig) -> None:
        """Remove leases of the account that were edited into nonsense: an operator has said that nobody holds them."""
        for claim in claims_of(config, self._host):
            holder = self._store.holder(claim)
            if holder is not None and holder.broken:
                self._store.revoke(claim)

    def _wait_out(self, config: AccountConfig, cancelled: threading.Event) -> None:
        """Wait while another host's lease looks old, or is gone, but has not been seen so for its whole time."""
        while True:
            holders = self._holders(config)
            if not holders:
                with self._lock:
                    doubted = config.identity() in self._gone
                if not doubted or self._gone_long(config):
                    return
            elif all(
                holder.host == self._host or not holder.expired or self._unrenewed(holder)
                for holder in holders
            ):
                return  # whether it can be had, acquiring it tells
            if cancelled.wait(_LOOK_SECONDS):
                raise _cancelled(config)

    def _wait_for_own(
        self,
        config: AccountConfig,
        holder: Holder,
        known: Callable[[str], bool],
        began: float,
        cancelled: threading.Event,
    ) -> None:
        """Free a lease of this host's own whose worker ended untold, or was never made. Raises SessionHeldError."""
        own = holder.host == self._host and holder.home == self._home
        if holder.broken or not own or known(holder.worker_id):
            namesake = holder.host == self._host and not own
            raise held_error(config.account_id, holder, namesake=namesake) from None
        left = self._forgotten - holder.renewed_age_ms / 1000
        if left <= 0:
            # A worker that is paused renews nothing: only one whose process is not there was never made, or has ended.
            if self._lives(holder):
                raise held_error(config.account_id, holder) from None
            self._store.release([holder.claim], holder.epoch)
        elif lease_clock() - began > 2 * self._forgotten:
            raise held_error(config.account_id, holder) from None  # somebody renews it
        elif cancelled.wait(min(left + 0.01, _LOOK_SECONDS)):
            raise _cancelled(config) from None

    def adopt(self, held: LeaseGrant, worker_id: str, account_id: str) -> None:
        # Its heartbeat keeps it, and registers it again where Redis has lost it.
        del held, worker_id, account_id

    def release_again(self) -> None:
        """Have `tend` give up again what was given up last: Redis may have lost that. Touches no newer lease."""
        with self._lock:
            self._unreleased.extend(self._released)
            self._released.clear()

    def give_up(self, held: LeaseGrant) -> None:
        with self._lock:
            self._released.append(held)
        try:
            self._store.release(held.claims, held.epoch)
        except FleetUnavailableError as error:
            logs.event(logger, logging.WARNING, "release_failed", f"{error}; it is tried again")
            with self._lock:
                self._unreleased.append(held)

    def kept_by(self, config: AccountConfig, host: str) -> bool:
        """Say whether `host` has the account's session without a time to live. Raises FleetUnavailableError."""
        return any(holder.host == host and holder.ttl_ms == 0 for holder in self._holders(config))

    def held(self, config: AccountConfig) -> bool:
        """Say whether anybody has a lease of the account's broker identity. Raises FleetUnavailableError."""
        return bool(self._holders(config))

    def doubt(self, config: AccountConfig) -> None:
        """Have the next start wait a lease's time in which no lease shows up: its key may have gone by itself.

        A worker whose lease has a time to live registers again with its next heartbeat, or has left by then.
        """
        with self._lock:
            self._gone.setdefault(config.identity(), lease_clock())

    def holds(self, claims: tuple[str, ...], epoch: int) -> bool:
        """Say whether every claim is held with this epoch. Raises FleetUnavailableError."""
        holders = [self._store.holder(claim) for claim in claims]
        return all(holder is not None and holder.epoch == epoch for holder in holders)

    def free(self, config: AccountConfig) -> bool:
        """Say whether nobody has the account's broker identity, or its time is over. Raises FleetUnavailableError.

        Over by Redis's clock and by this host's: a clock that is set forward makes every lease look old at once, so an
        old one must also have gone without renewal for its whole time while this host was looking. A lease that is not
        there may have gone by itself, and its worker may not know: it too must have been gone for so long.
        """
        holders = self._holders(config)
        if not holders:
            self.doubt(config)
            return self._gone_long(config)
        if any(holder.host == self._host or holder.ttl_ms == 0 for holder in holders):
            return False
        # Every one of them is looked at, so that the time of each is counted from now.
        old = [holder for holder in holders if self._unrenewed(holder) and holder.expired]
        return len(old) == len(holders)

    def _holders(self, config: AccountConfig) -> list[Holder]:
        """Return who has the account's broker identity; two while a fleet is upgraded, at most."""
        found = [self._store.holder(claim) for claim in config.identity_claims()]
        holders = [holder for holder in found if holder is not None]
        if holders:
            with self._lock:
                self._gone.pop(config.identity(), None)
        return holders

    def _gone_long(self, config: AccountConfig) -> bool:
        with self._lock:
            since = self._gone.get(config.identity())
        return since is not None and lease_clock() - since >= self._lease_seconds

    def _unrenewed(self, holder: Holder) -> bool:
        """Say whether this host, which may be looking for the first time now, saw no renewal for the lease's whole time."""
        now = lease_clock()
        with self._lock:
            renewed, since = self._watched.get(holder.claim, (holder.renewed_ms, now))
            if renewed != holder.renewed_ms:
                since = now
            self._watched[holder.claim] = (holder.renewed_ms, since)
        return now - since >= holder.ttl_ms / 1000

    def tend(self) -> None:
        with self._lock:
            waiting, self._unreleased = self._unreleased, []
        for held in waiting:
            self.give_up(held)


def _cancelled(config: AccountConfig) -> StartCancelledError:
    return StartCancelledError(f"{config.account_id}: a stop arrived while it was starting")


def claims_of(config: AccountConfig, host: str) -> tuple[str, ...]:
    """Return what only one worker may have: the broker identity, and the host's terminal if the account names one."""
    if config.path is None:
        return config.identity_claims()
    # Links to one folder are one terminal, and so are spellings that differ in case.
    terminal = str(Path(config.path).expanduser().resolve()).casefold()
    return (*config.identity_claims(), f"terminal:{host}:{terminal}")


def held_error(account_id: str, holder: Holder, *, namesake: bool = False) -> SessionHeldError:
    """Return the error that names the holder: host, worker, account, since when; `namesake`: not this host all the same."""
    if holder.broken:
        return SessionHeldError(
            f"{account_id}: the lease of {holder.claim} in Redis cannot be read (edited by hand?): a worker that runs "
            f"mends it with its next heartbeat; if none runs, `manager move {account_id} --to HOST --force` clears it"
        )
    since = datetime.fromtimestamp(holder.since_ms / 1000, UTC)
    if holder.account_id == account_id and not namesake:
        return SessionHeldError(
            f"{account_id} has {holder.claim} already: worker {holder.worker_id} on host {holder.host} since "
            f"{since:%Y-%m-%d %H:%M:%S} UTC, heard of {holder.renewed_age_ms / 1000:.0f} s ago; if that host's agent is silent, "
            f"start it there; if the machine is lost for good, `manager move {account_id} --to HOST --force`"
        )
    other = " (another state directory or machine of that name)" if namesake else ""
    return SessionHeldError(
        f"{account_id}: account {holder.account_id} already has the session of {holder.claim}: worker {holder.worker_id} "
        f"on host {holder.host}{other} since {since:%Y-%m-%d %H:%M:%S} UTC: stop it first, or give the two different logins; "
        f"if that host is lost for good, see `manager move --help`"
    )
