"""The fleet at one moment: what the API and metrics read, and the first source of it, which lists at most once a second."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol

from manager.fleet import FleetStore
from manager.fleet.desired import DesiredState
from manager.fleet.desired_store import DesiredStore
from manager.fleet.hosts import HostState
from manager.models import WorkerInfo
from manager.placement.labels import Selection

#: Seconds for which a list is served again, and for which the account files are not looked at again.
LIST_SECONDS: Final = 1.0
FILES_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFile:
    """What an account's file says that readers show or select by."""

    #: None: the file is broken.
    enabled: bool | None
    gateway: str = ""
    groups: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Whether its groups and labels could be read.
    readable: bool = True


@dataclass(frozen=True, slots=True)
class AccountState:
    """One account: its worker, what is desired of it, and its file, each None where there is none."""

    account_id: str
    worker: WorkerInfo | None = None
    desired: DesiredState | None = None
    file: AccountFile | None = None
    #: Rendered forms, by their name; filled by readers.
    rendered: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    @property
    def groups(self) -> tuple[str, ...]:
        return self._membership[0]

    @property
    def labels(self) -> Mapping[str, str]:
        return self._membership[1]

    @property
    def _membership(self) -> tuple[tuple[str, ...], Mapping[str, str]]:
        """By its file; where that is gone or broken, as it was when the account was started last."""
        if self.file is not None and self.file.readable:
            return self.file.groups, self.file.labels
        if self.worker is not None and (self.worker.groups or self.worker.labels):
            return self.worker.groups, self.worker.labels
        tenant = None if self.desired is None else self.desired.placement_needs
        return ((), {}) if tenant is None else (tenant.groups or (), tenant.labels)

    def within(self, selection: Selection) -> bool:
        """Return whether the selection takes this account."""
        return selection.matches(self.groups, self.labels)

    @property
    def want(self) -> str:
        return "running" if self.desired is not None and self.desired.running else "stopped"

    @property
    def status(self) -> str | None:
        return None if self.worker is None else str(self.worker.status)

    @property
    def health(self) -> str:
        return "unknown" if self.worker is None else str(self.worker.health)

    @property
    def host(self) -> str | None:
        """The host that has its worker or had its last one; else the one that is to run it."""
        recorded = "" if self.worker is None else str(self.worker.metadata.get("host") or "")
        return recorded or (self.desired.host if self.desired is not None else "") or None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetState:
    """The whole fleet at one moment."""

    #: By Redis's clock.
    as_of: datetime
    #: Where a reader of events goes on so that it misses nothing after this state.
    cursor: str
    #: Changes whenever anything else here does.
    version: str
    #: Account id → account, in the order of the ids.
    accounts: Mapping[str, AccountState]
    #: By name.
    hosts: Sequence[HostState]
    #: Orders of accounts, by their name; filled by readers.
    orders: dict[str, Sequence[AccountState]] = field(default_factory=dict, compare=False, repr=False)


class FleetReader(Protocol):
    """Where the API gets the fleet from."""

    def read(self) -> FleetState:
        """Return the fleet as it is now, at most a second old. Blocks; thread-safe.

        Raises FleetUnavailableError if Redis cannot be used.
        """


class ListingReader:
    """Lists the fleet from Redis, at most once a second however many ask."""

    def __init__(
        self,
        store: FleetStore,
        desired: DesiredStore,
        files: Callable[[], Mapping[str, AccountFile]] = dict,
        *,
        list_seconds: float = LIST_SECONDS,
        files_seconds: float = FILES_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`files` returns the accounts that have a file on this machine."""
        self._store = store
        self._desired = desired
        self._read_files = files
        self._list_seconds = list_seconds
        self._files_seconds = files_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._state: tuple[float, FleetState] | None = None
        self._files: tuple[float, Mapping[str, AccountFile]] | None = None

    def read(self) -> FleetState:
        """See `FleetReader.read`."""
        known = self._state
        if known is not None and self._clock() - known[0] < self._list_seconds:
            return known[1]
        with self._lock:
            known = self._state
            if known is not None and self._clock() - known[0] < self._list_seconds:
                return known[1]
            began = self._clock()
            state = self._list()
            self._state = (began, state)
            return state

    def forget(self) -> None:
        """List again at the next read, as after a command."""
        self._state = None

    def _list(self) -> FleetState:
        # The cursor comes first: an event that happens while the fleet is listed is seen twice rather than never.
        newest = self._store.events(last=1)
        hosts, workers = self._store.snapshot(None)
        snapshot = self._desired.snapshot()
        desired = {} if snapshot is None else snapshot.desired
        now = 0 if snapshot is None else snapshot.now
        files = self._account_files()
        recorded = {info.account_id: info for info in workers}
        accounts = {
            account_id: AccountState(
                account_id, recorded.get(account_id), desired.get(account_id), files.get(account_id)
            )
            for account_id in sorted({*recorded, *desired, *files})
        }
        return FleetState(
            as_of=datetime.fromtimestamp(now / 1000, UTC),
            cursor=newest[0].id if newest else "0",
            version=str(now),
            accounts=accounts,
            hosts=tuple(hosts),
        )

    def _account_files(self) -> Mapping[str, AccountFile]:
        known = self._files
        if known is None or self._clock() - known[0] >= self._files_seconds:
            known = self._files = (self._clock(), self._read_files())
        return known[1]
