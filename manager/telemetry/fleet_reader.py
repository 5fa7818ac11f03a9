"""Lists the fleet at one moment, from the live view."""

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Protocol

from manager.errors import FleetUnavailableError
from manager.fleet.desired import DesiredState
from manager.fleet.hosts import HostState
from manager.models import WorkerInfo
from manager.placement.labels import Selection
from manager.states import SETTLED, TradingMode, WorkerLifecycleStatus
from manager.telemetry.attention import (
    AccountState,
    Attention,
    account_attention,
    host_attention,
    should_run_but_does_not,
)
from manager.telemetry.view import FleetView

#: Seconds for which a listing is reused, and for which account files are not read again.
LIST_SECONDS: Final = 1.0
FILES_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFile:
    """The facts of an account file that readers show or select by."""

    #: None: the file is broken.
    enabled: bool | None
    gateway: str = ""
    groups: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Whether its groups and labels could be read.
    readable: bool = True


@dataclass(frozen=True, slots=True)
class AccountRow:
    """One account: its worker, desired state and file, each may be None."""

    account_id: str
    worker: WorkerInfo | None = None
    desired: DesiredState | None = None
    file: AccountFile | None = None
    #: Cache of rendered forms, by name; filled by readers.
    rendered: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    @property
    def groups(self) -> tuple[str, ...]:
        return self._membership[0]

    @property
    def labels(self) -> Mapping[str, str]:
        return self._membership[1]

    @property
    def _membership(self) -> tuple[tuple[str, ...], Mapping[str, str]]:
        """The groups and labels of the file, else those of the last start.

        The last start counts if the file is missing or broken.
        """
        if self.file is not None and self.file.readable:
            return self.file.groups, self.file.labels
        if self.worker is not None and (self.worker.groups or self.worker.labels):
            return self.worker.groups, self.worker.labels
        tenant = None if self.desired is None else self.desired.placement_needs
        return ((), {}) if tenant is None else (tenant.groups or (), tenant.labels)

    def within(self, selection: Selection) -> bool:
        """Return whether the selection includes this account."""
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
    def mode(self) -> TradingMode:
        """The trading mode: of the desired one and that of a running worker, the stricter one."""
        desired = TradingMode.NORMAL if self.desired is None else self.desired.mode
        if self.worker is None or self.worker.status is not WorkerLifecycleStatus.RUNNING:
            return desired
        return max(desired, self.worker.trading_mode, key=lambda mode: mode.strictness)

    @property
    def resting(self) -> Mapping[str, Any] | None:
        """Why the account has no worker although it should run; None if it does not rest."""
        rests = self.worker is not None and self.worker.status in SETTLED
        return self.worker.placement.resting if self.worker is not None and rests else None

    @property
    def host(self) -> str | None:
        """The host of the current or last worker, else of desired state."""
        recorded = "" if self.worker is None else str(self.worker.metadata.get("host") or "")
        return recorded or (self.desired.host if self.desired is not None else "") or None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetListing:
    """The whole fleet at one moment."""

    #: By Redis's clock.
    as_of: datetime
    #: The cursor from which a reader of events misses nothing after this state.
    cursor: str
    #: Changes whenever anything else in the listing does.
    version: str
    #: Account id → account, in the order of the ids.
    accounts: Mapping[str, AccountRow]
    #: Name → host, in the order of the names.
    hosts: Mapping[str, HostState]
    #: Seconds since Redis became unreachable; None: it is reachable.
    stale_seconds: float | None = None
    #: Cache of sorted accounts, by the name of the sort key.
    sorted: dict[str, Sequence[AccountRow]] = field(default_factory=dict, compare=False, repr=False)
    #: Cache of rendered answers, by request: the body, and its suffix.
    pages: dict[str, tuple[bytes, str | None]] = field(default_factory=dict, compare=False, repr=False)

    def attention(self, account: AccountRow) -> list[Attention]:
        """Return an account's attention items, most urgent first."""
        return account_attention(self._account_state(account), self.as_of.timestamp())

    def attention_mark(self, account: AccountRow) -> tuple[Any, ...]:
        """Return what `attention` depends on in addition to the account.

        That is its host and the time.
        Equal marks of one account mean equal attention. Much cheaper than `attention`.
        """
        host = self.hosts.get(account.host or "")
        about = () if host is None else (host.name, host.state, host.draining, host.data.get("version"))
        return (*about, should_run_but_does_not(self._account_state(account), self.as_of.timestamp()))

    def _account_state(self, account: AccountRow) -> AccountState:
        return AccountState(
            account_id=account.account_id,
            worker=account.worker,
            desired=account.desired,
            host=self.hosts.get(account.host or ""),
        )

    def host_attention(self) -> list[Attention]:
        """Return the attention items of all hosts."""
        should_run = Counter(one.host for one in self.accounts.values() if one.want == "running")
        return [one for host in self.hosts.values() for one in host_attention(host, should_run[host.name])]


class FleetReader(Protocol):
    """Source of fleet listings."""

    def known(self) -> FleetListing | None:
        """Return the listing of `read` if it is cached. Does not block."""

    def read(self) -> FleetListing:
        """Return a listing that is at most a second old. Blocks; thread-safe.

        Raises FleetUnavailableError if Redis cannot be used.
        """


class ViewReader:
    """Lists the fleet from the live view, at most once a second.

    Rows of accounts that did not change are reused.
    """

    def __init__(
        self,
        view: FleetView,
        files: Callable[[], Mapping[str, AccountFile]] = dict,
        *,
        list_seconds: float = LIST_SECONDS,
        files_seconds: float = FILES_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a reader.

        `files` returns the accounts that have a file on this machine. The caller starts and closes the view.
        """
        self.view = view
        self._read_files = files
        self._list_seconds = list_seconds
        self._files_seconds = files_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._listing: tuple[float, FleetListing] | None = None
        self._files: tuple[float, Mapping[str, AccountFile]] | None = None
        #: Whether the next read must not reuse the previous listing.
        self._listing_due = False
        #: Distinguishes the versions of this reader from those of other processes.
        self._life = secrets.token_hex(4)
        #: Counts changes of the files.
        self._files_version = 0

    def known(self) -> FleetListing | None:
        """See `FleetReader.known`."""
        known = self._listing
        return known[1] if known is not None and self._clock() - known[0] < self._list_seconds else None

    def read(self) -> FleetListing:
        """See `FleetReader.read`."""
        with self._lock:
            known = self._listing
            now = self._clock()
            if known is not None and now - known[0] < self._list_seconds and not self._listing_due:
                return known[1]
            self._listing_due = False
            self.view.refresh()
            if self.view.cursor is None:
                raise FleetUnavailableError(
                    "the fleet has not been read from Redis yet: is Redis up, and does MANAGER_REDIS_URL "
                    "name it?"
                )
            files = self._account_files(now)
            listing = self._list(files, None if known is None else known[1])
            self._listing = (now, listing)
            return listing

    def read_now(self) -> FleetListing:
        """Return a listing of this moment, for streams; otherwise as `read`."""
        self._listing_due = True
        return self.read()

    def _list(self, files: Mapping[str, AccountFile], before: FleetListing | None) -> FleetListing:
        with self.view.reading() as state:
            # While the version of the view stays the same, only ages and the time have changed.
            version = f"{self._life}-{self.view.version}-{self._files_version}"
            cursor, as_of, away = str(self.view.cursor), self.view.as_of, self.view.away_since_seconds
            hosts = {name: state.hosts[name] for name in sorted(state.hosts)}
            if before is not None and before.version == version:
                return replace(
                    before,
                    cursor=cursor,
                    as_of=as_of,
                    hosts=hosts,
                    stale_seconds=away,
                    sorted={},
                    pages={},
                )
            known = {} if before is None else before.accounts
            ids: Sequence[str] = state.account_ids()
            if any(account_id not in state for account_id in files):
                ids = sorted({*ids, *files})
            accounts = {
                one: _row(known.get(one), one, state.worker(one), state.desired(one), files.get(one))
                for one in ids
            }
        return FleetListing(
            as_of=as_of, cursor=cursor, version=version, accounts=accounts, hosts=hosts, stale_seconds=away
        )

    def _account_files(self, now: float) -> Mapping[str, AccountFile]:
        known = self._files
        if known is None or now - known[0] >= self._files_seconds:
            found = self._read_files()
            if known is None or found != known[1]:
                self._files_version += 1
            known = self._files = (now, found)
        return known[1]


def _row(
    known: AccountRow | None,
    account_id: str,
    worker: WorkerInfo | None,
    desired: DesiredState | None,
    file: AccountFile | None,
) -> AccountRow:
    """Return the known row if it is still current, else a new one.

    The known row has its rendered forms.
    """
    if known is not None and known.worker is worker and known.desired is desired and known.file == file:
        return known
    return AccountRow(account_id, worker, desired, file)
