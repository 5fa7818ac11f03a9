"""The workers and hosts of an in-memory pool."""

import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final

from manager.config import AccountConfig, config_version
from manager.errors import (
    HostUnavailableError,
    NoHostFitsError,
    NoWorkerError,
    SessionHeldError,
    StartCancelledError,
    StartTimeoutError,
)
from manager.fleet.run_types import Run
from manager.models import WorkerInfo, WorkerMetrics, WorkerPlacement, new_worker_id
from manager.placement.engine import FleetView, HostFacts, Needs
from manager.pool.fake_clock import FakeClock
from manager.pool.fake_events import FakeEvents
from manager.pool.protocol import StartRequest
from manager.states import LIVE, TradingMode, WorkerLifecycleStatus, may_move
from manager.versions import __version__

_S: Final = WorkerLifecycleStatus
#: Greater than any real pid, so that a test that kills by pid hits no process.
_FIRST_PID: Final = 1 << 30


@dataclass(eq=False)
class Slot:
    """One account.

    Each command holds `lock`, so that commands run one after the other.
    """

    account_id: str
    lock: threading.RLock = field(default_factory=threading.RLock)
    info: WorkerInfo | None = None
    request: StartRequest | None = None
    needs: Needs | None = None
    claims: tuple[str, ...] = ()
    #: Number of stops that wait for a start in progress.
    stops: int = 0
    starting: bool = False
    mode: TradingMode = TradingMode.NORMAL

    @property
    def live(self) -> bool:
        return self.info is not None and self.info.status in LIVE

    @property
    def host(self) -> str:
        return "" if self.info is None else self.info.placement.host or ""


class FakeWorkers:
    """Starts and ends fake workers on fake hosts.

    Callers of `start` and `stop` hold the slot's lock. `guard` protects `slots`. `failures` and `seconds`
    script the starts of accounts.
    """

    def __init__(self, hosts: Sequence[str | HostFacts], clock: FakeClock, events: FakeEvents) -> None:
        self.hosts = {one.name: one for one in map(_facts, hosts)}
        self.guard = threading.RLock()
        self.slots: dict[str, Slot] = {}
        self.failures: dict[str, deque[Exception]] = defaultdict(deque)
        self.seconds: dict[str, float] = {}
        #: Runs that have ended, oldest first.
        self.runs: list[Run] = []
        self._clock = clock
        self._events = events
        self._holders: dict[str, str] = {}
        self._pids = count(_FIRST_PID)
        self._epochs = count(1)

    def set_live(self, host: str, live: bool) -> None:
        """Make a host silent or live."""
        self.hosts[host] = replace(self.hosts[host], live=live)

    def end(self, account_id: str, reason: str) -> WorkerInfo:
        """End the account's worker as `failed`. Raises NoWorkerError if it does not run."""
        with self.guard:
            slot = self.slots.get(account_id)
            if slot is None or slot.info is None or slot.info.status is not _S.RUNNING:
                raise NoWorkerError(f"{account_id} has no running worker: nothing to end")
            self._release(slot)
            return self._move(slot, _S.FAILED, reason)

    def view(self, account_id: str) -> FleetView:
        """Return the hosts and their accounts, without this account."""
        with self.guard:
            view = FleetView(self.hosts.values())
            for slot in self.slots.values():
                if slot.live and slot.needs is not None and slot.account_id != account_id:
                    view.add(slot.needs, slot.host)
            return view

    def require_live(self, slot: Slot) -> None:
        if slot.live and not self.hosts[slot.host].live:
            raise HostUnavailableError(
                f"{slot.account_id}: host {slot.host} is silent: its worker may trade; nothing was done"
            )

    def current(self, info: WorkerInfo) -> WorkerInfo:
        host = info.placement.host or ""
        if info.status not in LIVE or self.hosts[host].live:
            return info
        reason = "the host agent is silent"
        return info.with_(
            status=_S.UNKNOWN, error=reason, metadata=WorkerMetrics(health="unknown", health_reason=reason)
        )

    def slot(self, account_id: str) -> Slot:
        with self.guard:
            return self.slots.setdefault(account_id, Slot(account_id))

    def start(
        self,
        slot: Slot,
        request: StartRequest,
        config: AccountConfig | None = None,
        host: str | None = None,
    ) -> WorkerInfo:
        slot.starting = True
        try:
            config = config or request.prepare()
            needs = config.needs()
            with self.guard:
                if host is None:
                    placement = self.view(slot.account_id).place(needs, slot.host or None)
                    if placement.host is None:
                        raise NoHostFitsError(placement.explain())
                    host = placement.host
                self._claim(slot, config)
                slot.request, slot.needs = request, needs
                slot.info = self._created(config, request, host, slot.mode)
                self._move(slot, _S.STARTING)
            with self._undone(slot):
                self._connect(slot, config)
                return self._move(slot, _S.RUNNING)
        finally:
            slot.starting = False

    def _connect(self, slot: Slot, config: AccountConfig) -> None:
        """Take the scripted time, and raise the scripted failure."""
        limit, seconds = config.timeout / 1000, self.seconds.get(slot.account_id, 0.0)
        cancelled = self._clock.wait(min(seconds, limit), lambda: slot.stops > 0)
        if cancelled or slot.stops:
            raise StartCancelledError(f"{slot.account_id}: a stop arrived while it was starting")
        if seconds > limit:
            raise StartTimeoutError(
                f"{slot.account_id}: no connected session after {limit:g} s "
                f"(its `timeout` is {config.timeout} ms)"
            )
        failures = self.failures[slot.account_id]
        if failures:
            raise failures.popleft()

    @contextmanager
    def _undone(self, slot: Slot) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            with self.guard:
                self._release(slot)
                if isinstance(error, StartCancelledError):
                    self._move(slot, _S.STOPPING)
                    self._move(slot, _S.STOPPED, str(error))
                else:
                    self._move(slot, _S.FAILED, str(error))
            raise

    def stop(self, slot: Slot) -> None:
        with self.guard:
            if slot.info is None:
                return
            error = slot.info.error
            if slot.live:
                self._move(slot, _S.STOPPING)
            self._release(slot)
            self._move(slot, _S.STOPPED, error)

    def _created(
        self, config: AccountConfig, request: StartRequest, host: str, mode: TradingMode
    ) -> WorkerInfo:
        return WorkerInfo(
            worker_id=new_worker_id(),
            account_id=config.account_id,
            status=_S.CREATED,
            created_at=self._clock.now(),
            groups=config.groups,
            labels=config.labels,
            metadata=WorkerPlacement(
                host=host,
                pid=next(self._pids),
                gateway=config.gateway,
                epoch=next(self._epochs),
                generation=request.generation,
                restarts=0,
                last_cause=None,
                version=__version__,
                config_version=config_version(config),
                log_file="",
            ).to_dict()
            | WorkerMetrics(health="unknown", trading_mode=mode).to_dict(),
        )

    def _move(self, slot: Slot, status: WorkerLifecycleStatus, error: str | None = None) -> WorkerInfo:
        with self.guard:
            if slot.info is None or not may_move(slot.info.status, status):
                before = None if slot.info is None else slot.info.status
                raise AssertionError(f"{slot.account_id}: {before} cannot become {status}")
            now = self._clock.now()
            if error is not None:
                error = error.removeprefix(f"{slot.account_id}: ")
            changes: dict[str, object] = {"status": status, "error": error}
            if status is _S.RUNNING:
                changes |= {
                    "started_at": now,
                    "metadata": WorkerMetrics(health="healthy", heartbeat_age_seconds=0.0),
                }
            elif status not in LIVE:
                code = 0 if status is _S.STOPPED else 1
                changes |= {"stopped_at": now, "metadata": WorkerPlacement(exit_code=code)}
            was_live, slot.info = slot.live, slot.info.with_(**changes)
            if was_live and status not in LIVE:
                self.runs.append(Run.of_record(slot.info, slot.host))
            self._events.add(slot.host, slot.info, now)
            return slot.info

    def _claim(self, slot: Slot, config: AccountConfig) -> None:
        """Claim the account's broker identity.

        It ensures that no two sessions have one login. Raises SessionHeldError.
        """
        claims = config.identity_claims()
        for claim in claims:
            holder = self._holders.get(claim, slot.account_id)
            if holder != slot.account_id:
                raise SessionHeldError(
                    f"{slot.account_id}: account {holder} already has the session of {claim}"
                )
        self._release(slot)
        slot.claims = claims
        self._holders |= dict.fromkeys(claims, slot.account_id)

    def _release(self, slot: Slot) -> None:
        for claim in slot.claims:
            self._holders.pop(claim, None)
        slot.claims = ()


def _facts(host: str | HostFacts) -> HostFacts:
    return HostFacts(name=host) if isinstance(host, str) else host
