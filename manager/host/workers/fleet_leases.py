"""Leases in Redis."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from manager.config import AccountConfig
from manager.errors import FleetUnavailableError, StartCancelledError
from manager.fleet.leases import Holder, LeaseHeld, LeaseStore, Quarantine
from manager.host.workers.leases import LeaseGrant, LeaseRequest, claims_of, held_error
from manager.host.workers.limits import Clocks
from manager.system import logs

logger = logging.getLogger(__name__)

#: A lease of this host whose worker is unknown here is abandoned after so many heartbeats without renewal,
#: and at least so many seconds: its agent was killed between acquiring the lease and creating the worker.
_ABANDONED_BEATS: Final = 3
_ABANDONED_SECONDS: Final = 5.0

#: Released leases that a host remembers, to release them again if Redis loses its last writes.
_REMEMBERED_RELEASES: Final = 1000

#: Seconds between two reads of a lease that a start waits for.
_POLL_SECONDS: Final = 0.5


class FleetLeases:
    """The leases of one host in a fleet. Thread-safe."""

    def __init__(
        self,
        store: LeaseStore,
        host: str,
        lease_seconds: float,
        heartbeat_interval_seconds: float = 1.0,
        home: str = "",
        process_lives: Callable[[Holder], bool] = lambda _holder: False,
        check_ready: Callable[[], None] = lambda: None,
        clocks: Clocks | None = None,
        abandoned_seconds: float = _ABANDONED_SECONDS,
    ) -> None:
        """Create the leases of one host.

        `home` distinguishes this host's state directory from another one under the same host name.

        `process_lives` returns whether the process of a lease's holder runs on this machine, recorded or not.
        `check_ready` raises unless this agent may act for its host; it is called before anything is acquired.
        """
        self._check_ready = check_ready
        self._process_lives = process_lives
        self._store = store
        self._host = host
        self._lease_seconds = lease_seconds
        self._home = home
        self._now = (clocks or Clocks()).lease
        self._abandoned = max(abandoned_seconds, heartbeat_interval_seconds * _ABANDONED_BEATS)
        self._lock = threading.Lock()
        self._unreleased: list[LeaseGrant] = []
        #: The last released leases: a Redis that lost its last writes still has them.
        self._released: deque[LeaseGrant] = deque(maxlen=_REMEMBERED_RELEASES)
        #: Leases of other hosts: their last renewal, and since when this host has seen no newer one.
        self._observed: dict[str, tuple[int, float]] = {}
        #: Broker identities that may have a worker without a lease: since when this host has seen no lease.
        self._missing_since: dict[str, float] = {}

    def acquire(self, request: LeaseRequest) -> LeaseGrant:
        self._check_ready()
        config, previous = request.config, request.previous
        claims = claims_of(config, self._host)
        seconds = self._lease_seconds if config.failover == "auto" else 0.0
        # A lease without a time to live stays this host's until it is released, whatever became of Redis.
        still_held = (
            previous
            if previous is not None and previous.seconds == seconds == 0.0 and previous.claims == claims
            else None
        )
        logged = False
        began = self._now()
        self.retry_releases()
        if seconds:
            self._wait_until_free(config, request.cancelled)
        while True:
            try:
                grant = self._request(request, claims, seconds)
            except LeaseHeld as error:
                self._wait_for_own(request, error.holder, began)
                continue
            except Quarantine as error:
                if still_held is not None:
                    return still_held
                if not logged:
                    logs.event(
                        logger, logging.WARNING, "lease_quarantined", str(error), account=config.account_id
                    )
                logged = True
                if request.cancelled.wait(error.seconds + 0.01):
                    raise _cancelled(config) from None
                continue
            except FleetUnavailableError:
                if still_held is not None:
                    return still_held
                raise
            with self._lock:
                self._missing_since.pop(config.identity(), None)
            return grant

    def _request(self, request: LeaseRequest, claims: tuple[str, ...], seconds: float) -> LeaseGrant:
        """Request the lease once.

        Raises LeaseHeld, Quarantine, FleetUnavailableError.
        """
        asked_at = self._now()
        epoch = self._store.acquire(
            claims,
            host=self._host,
            worker_id=request.worker_id,
            account_id=request.config.account_id,
            ttl_seconds=seconds,
            quarantine_seconds=self._lease_seconds,
            held_epoch=request.previous.epoch if request.previous is not None else 0,
            home=self._home,
        )
        return LeaseGrant(claims=claims, epoch=epoch, seconds=seconds, asked_at=asked_at)

    def adopt(self, lease: LeaseGrant, worker_id: str, account_id: str) -> None:
        # The worker's heartbeat renews the lease, and registers it again if Redis has lost it.
        del lease, worker_id, account_id

    def release(self, lease: LeaseGrant) -> None:
        with self._lock:
            self._released.append(lease)
        try:
            self._store.release(lease.claims, lease.epoch)
        except FleetUnavailableError as error:
            logs.event(logger, logging.WARNING, "release_failed", f"{error}; this host tries again")
            with self._lock:
                self._unreleased.append(lease)

    def retry_releases(self) -> None:
        with self._lock:
            waiting, self._unreleased = self._unreleased, []
        for lease in waiting:
            self.release(lease)

    def repeat_releases(self) -> None:
        """Queue the last releases again, because Redis may have lost them.

        Does not affect newer leases.
        """
        with self._lock:
            self._unreleased.extend(self._released)
            self._released.clear()

    def remove_unreadable(self, config: AccountConfig) -> None:
        """Remove unreadable leases of the account.

        Call it after an operator has said that no worker holds them.
        """
        for claim in claims_of(config, self._host):
            holder = self._store.holder(claim)
            if holder is not None and holder.broken:
                self._store.revoke(claim)

    def is_held(self, config: AccountConfig) -> bool:
        """Return whether a lease of the account's broker identity exists.

        Raises FleetUnavailableError.
        """
        return bool(self._holders(config))

    def is_held_permanently(self, config: AccountConfig, host: str) -> bool:
        """Return whether `host` holds the account's lease without a time to live.

        Raises FleetUnavailableError.
        """
        return any(holder.host == host and holder.ttl_ms == 0 for holder in self._holders(config))

    def holds(self, claims: tuple[str, ...], epoch: int) -> bool:
        """Return whether every claim is held with this epoch.

        Raises FleetUnavailableError.
        """
        holders = [self._store.holder(claim) for claim in claims]
        return all(holder is not None and holder.epoch == epoch for holder in holders)

    def suspect_missing(self, config: AccountConfig) -> None:
        """Make the next start wait for a lease's time without a lease.

        Its key may have vanished from Redis.

        A worker whose lease has a time to live registers again with its next heartbeat, or has left by then.
        """
        with self._lock:
            self._missing_since.setdefault(config.identity(), self._now())

    def is_free(self, config: AccountConfig) -> bool:
        """Return whether the account's broker identity may be acquired.

        Raises FleetUnavailableError.

        An expired lease counts as free only if this host saw no renewal for the lease's whole time: if
        Redis's clock is set forward, every lease looks expired at once. A missing lease must have been
        missing for that time too: its key may have vanished while its worker trades.
        """
        holders = self._holders(config)
        if not holders:
            self.suspect_missing(config)
            return self._missing_long(config)
        if any(holder.host == self._host or holder.ttl_ms == 0 for holder in holders):
            return False
        # A list, not a generator: reading each holder starts the observation of its lease.
        expired = [holder for holder in holders if self._unrenewed(holder) and holder.expired]
        return len(expired) == len(holders)

    def _wait_until_free(self, config: AccountConfig, cancelled: threading.Event) -> None:
        """Wait until another host's lease was expired or missing long enough.

        It must have been observed so for the lease's whole time.
        """
        while True:
            holders = self._holders(config)
            if not holders:
                with self._lock:
                    suspected = config.identity() in self._missing_since
                if not suspected or self._missing_long(config):
                    return
            elif all(
                holder.host == self._host or not holder.expired or self._unrenewed(holder)
                for holder in holders
            ):
                return  # acquiring it decides
            if cancelled.wait(_POLL_SECONDS):
                raise _cancelled(config)

    def _wait_for_own(self, request: LeaseRequest, holder: Holder, began: float) -> None:
        """Release an abandoned lease of this host, or wait for its time.

        Raises SessionHeldError if the lease is not this host's, or if its worker lives; StartCancelledError.
        """
        config = request.config
        own = holder.host == self._host and holder.home == self._home
        if holder.broken or not own or request.may_live(holder.worker_id):
            namesake = holder.host == self._host and not own
            raise held_error(config.account_id, holder, namesake=namesake) from None
        left = self._abandoned - holder.renewed_age_ms / 1000
        if left <= 0:
            # A suspended worker renews nothing either: the lease is abandoned only if there is no process.
            if self._process_lives(holder):
                raise held_error(config.account_id, holder) from None
            self._store.release([holder.claim], holder.epoch)
        elif self._now() - began > 2 * self._abandoned:
            raise held_error(config.account_id, holder) from None  # a worker renews it
        elif request.cancelled.wait(min(left + 0.01, _POLL_SECONDS)):
            raise _cancelled(config) from None

    def _holders(self, config: AccountConfig) -> list[Holder]:
        """Return the holders of the account's broker identity.

        There are two at most, while a fleet is upgraded.
        """
        found = [self._store.holder(claim) for claim in config.identity_claims()]
        holders = [holder for holder in found if holder is not None]
        if holders:
            with self._lock:
                self._missing_since.pop(config.identity(), None)
        return holders

    def _missing_long(self, config: AccountConfig) -> bool:
        with self._lock:
            since = self._missing_since.get(config.identity())
        return since is not None and self._now() - since >= self._lease_seconds

    def _unrenewed(self, holder: Holder) -> bool:
        """Return whether this host has seen no renewal for the lease's whole time.

        The first call starts that time.
        """
        now = self._now()
        with self._lock:
            renewed, since = self._observed.get(holder.claim, (holder.renewed_ms, now))
            if renewed != holder.renewed_ms:
                since = now
            self._observed[holder.claim] = (holder.renewed_ms, since)
        return now - since >= holder.ttl_ms / 1000


def _cancelled(config: AccountConfig) -> StartCancelledError:
    return StartCancelledError(f"{config.account_id}: a stop arrived while it was starting")
