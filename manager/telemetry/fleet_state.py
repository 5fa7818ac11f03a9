"""State of a fleet in memory: hosts, records, heartbeats, desired state.

This module reads neither Redis nor a clock. It does not decode bytes again that did not change. It derives
an account's worker with `current_worker`, which every listing uses, so that view and listing never differ.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from manager.fleet.desired import DesiredState
from manager.fleet.hosts import DrainRequest, HostState, host_state
from manager.fleet.live_reads import RawAccounts, RawHost
from manager.fleet.parsing import number, string
from manager.fleet.timestamped import Timestamped, parse_timestamped
from manager.fleet.workers import WorkerRecord, current_worker, parse_worker
from manager.models import WorkerInfo
from manager.states import SETTLED, WorkerLifecycleStatus
from manager.telemetry.attention import GRACE_SECONDS

_RUNNING: Final = WorkerLifecycleStatus.RUNNING
#: Keys of a heartbeat that are state of the worker; all others are figures.
_STATE_KEYS: Final = ("worker_id", "health", "health_reason", "trading_mode")

_decode: Final = msgspec.json.Decoder(type=dict[str, Any]).decode

RawHash = Mapping[bytes, bytes]


@dataclass(slots=True)
class _Beat:
    """A worker's last heartbeat.

    After `fresh_until` (Redis's clock) it is stale.
    """

    raw: bytes
    stamp: float
    data: dict[str, Any]
    fresh_until: float
    #: Age of the loop's last beat when the heartbeat was sent, in seconds.
    loop_age: float = 0.0

    def like(self, other: "_Beat") -> bool:
        """Whether both contain the same state of the worker."""
        mine, theirs = self.data, other.data
        for key in _STATE_KEYS:  # noqa: SIM110 - a generator takes twice the time, for each of thousands a second
            if mine.get(key) != theirs.get(key):
                return False
        return True


@dataclass(slots=True)
class _Entry:
    """One host's record of an account, and the heartbeat beside it."""

    account: "_Account"
    raw: bytes
    info: WorkerInfo
    beat: _Beat | None = None


@dataclass(slots=True)
class _Account:
    account_id: str
    entries: dict[str, _Entry] = field(default_factory=dict)
    desired: DesiredState | None = None
    #: Time (Redis's clock) until which the derived `worker` stays valid without new data.
    holds_until: float = math.inf
    #: Time (Redis's clock) from which it counts as missing if it should run and has no worker.
    missed_from: float = math.inf
    worker: WorkerInfo | None = None

    @property
    def recorded_status(self) -> WorkerLifecycleStatus:
        """The status in its newest record, without the age of its heartbeat."""
        return max((one.info for one in self.entries.values()), key=lambda info: info.created_at).status


@dataclass(slots=True)
class Changes:
    """What one update changed.

    `accounts` changed their state, `figures` only their figures; `gone` no longer exist.
    """

    accounts: set[str] = field(default_factory=set)
    figures: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)
    #: The members of `accounts` that have a new record.
    records: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.accounts or self.figures or self.gone or self.hosts)


class FleetState:
    """Hosts and accounts of a fleet. Not thread-safe: its owner locks."""

    def __init__(self, *, stale_after_seconds: float) -> None:
        self._stale_after = stale_after_seconds
        self._accounts: dict[str, _Account] = {}
        #: Host → account id (bytes, as in Redis) → the host's record.
        self._entries: dict[str, dict[bytes, _Entry]] = {}
        self._sorted: list[str] | None = None
        self.hosts: dict[str, HostState] = {}
        #: Redis's clock at the last update, seconds since the epoch.
        self.now = 0.0
        #: Why the state of workers is unknown, as during an outage of Redis; empty otherwise.
        self.blind = ""

    # reading

    def __contains__(self, account_id: object) -> bool:
        return account_id in self._accounts

    def account_ids(self) -> list[str]:
        if self._sorted is None:
            self._sorted = sorted(self._accounts)
        return self._sorted

    def desired(self, account_id: str) -> DesiredState | None:
        account = self._accounts.get(account_id)
        return None if account is None else account.desired

    def worker(self, account_id: str) -> WorkerInfo | None:
        """Return the account's current worker, as `FleetStore.get_worker` does."""
        account = self._accounts.get(account_id)
        if account is None or not account.entries:
            return None
        if account.worker is None:
            account.worker = self._judge(account)
        return account.worker

    def workers(self) -> Iterator[WorkerInfo]:
        for account_id in self.account_ids():
            info = self.worker(account_id)
            if info is not None:
                yield info

    def heartbeat_ages(self) -> dict[str, float]:
        """Return account → seconds since its latest heartbeat, by Redis's clock."""
        return {
            account.account_id: min(abs(self.now - beat.stamp) + beat.loop_age for beat in beats)
            for account in self._accounts.values()
            if (beats := [entry.beat for entry in account.entries.values() if entry.beat is not None])
        }

    # updates

    def replace(
        self, hosts: Mapping[str, RawHost], desired: Mapping[str, DesiredState], now: float
    ) -> Changes:
        """Replace everything by a listing; return what changed."""
        changes = Changes()
        records: dict[str, dict[str, bytes | None]] = {
            account.account_id: dict.fromkeys(account.entries) for account in self._accounts.values()
        }
        for name, host in hosts.items():
            for key, raw in (host.records or {}).items():
                records.setdefault(string(key), {})[name] = raw
        self._begin(hosts, now, changes)
        self._take_desired(desired, changes)
        self._take_records(records, changes)
        self._take_all_beats(hosts, changes)
        return self._finish(changes)

    def refresh(
        self, hosts: Mapping[str, RawHost], desired: Mapping[str, DesiredState] | None, now: float
    ) -> Changes:
        """Update agents' reports, and heartbeats and desired state if given.

        Records stay.
        """
        changes = Changes()
        self._begin(hosts, now, changes)
        if desired is not None:
            self._take_desired(desired, changes)
        self._take_all_beats(hosts, changes)
        return self._finish(changes)

    def take_accounts(self, raw: RawAccounts) -> Changes:
        """Update the records, heartbeats and desired state of some accounts."""
        changes = Changes()
        self.now = max(self.now, raw.now)
        for account_id, text in raw.desired.items():
            desired = None if text is None else DesiredState.from_json(account_id, string(text))
            if desired is not None:  # a listing sees that one was deleted, which no event tells of
                self._take_desired_of(account_id, desired, changes)
        self._take_records(raw.records, changes)
        for host, beats in raw.beats.items():
            self._take_beats(host, beats, changes)
        return self._finish(changes)

    def record_counts_differ(self, hosts: Mapping[str, RawHost]) -> bool:
        """Return whether the number of records of any host differs.

        A host that was forgotten is not in `hosts` and has no records.
        """
        if any(host.count != len(self._entries.get(name, ())) for name, host in hosts.items()):
            return True
        return any(entries and name not in hosts for name, entries in self._entries.items())

    def turn_blind(self, reason: str, now: float) -> Changes:
        """Mark every live worker as `unknown` during an outage of Redis."""
        changes = Changes()
        self.now = now
        if self.blind != reason:
            self.blind = reason
            self._doubt_all(changes)
        return changes

    def _begin(self, hosts: Mapping[str, RawHost], now: float, changes: Changes) -> None:
        self.now = now
        if self.blind:
            self.blind = ""
            self._doubt_all(changes)
        before, self.hosts = self.hosts, {}
        for name, host in hosts.items():
            state = host_state(name, parse_timestamped(host.agent, now), DrainRequest.from_json(host.drain))
            self.hosts[name] = state
            known = before.pop(name, None)
            if known is None or known.state != state.state:
                changes.hosts.add(name)
            entries = self._entries.get(name, {}).values()
            if known is None:
                # Records may arrive before the first report of their host. Only a heartbeat decides about a
                # running worker.
                self._doubt((one for one in entries if one.info.status is not _RUNNING), changes)
            elif known.live != state.live:
                self._doubt(entries, changes)
        changes.hosts |= before.keys()

    def _finish(self, changes: Changes) -> Changes:
        """Add the accounts that changed only because time passed.

        Their heartbeat became stale, or they should run and got no worker in time.
        """
        for account in self._accounts.values():
            if account.missed_from < self.now:
                account.missed_from = math.inf
                if all(entry.info.status in SETTLED for entry in account.entries.values()):
                    changes.accounts.add(account.account_id)
            if account.holds_until < self.now:
                self._settle(account)
                changes.accounts.add(account.account_id)
        changes.accounts -= changes.gone
        changes.figures -= changes.accounts
        return changes

    def _doubt_all(self, changes: Changes) -> None:
        for entries in self._entries.values():
            self._doubt(entries.values(), changes)

    def _doubt(self, entries: Iterable[_Entry], changes: Changes) -> None:
        """Derive the workers of these entries again, unless they ended."""
        for entry in entries:
            if entry.info.status not in SETTLED:
                entry.account.worker = None
                changes.accounts.add(entry.account.account_id)

    def _take_records(self, records: Mapping[str, Mapping[str, bytes | None]], changes: Changes) -> None:
        for account_id, of_hosts in records.items():
            for host, raw in of_hosts.items():
                self._take_record(account_id, host, raw, changes)
            account = self._accounts.get(account_id)
            if account is not None and not account.entries and account.desired is None:
                self._remove(account_id, changes)

    def _take_record(self, account_id: str, host: str, raw: bytes | None, changes: Changes) -> None:
        account = self._accounts.get(account_id)
        before = None if account is None else account.entries.get(host)
        if (None if before is None else before.raw) == raw:
            return
        info = None if raw is None else parse_worker(raw)
        if raw is None or info is None:
            if account is not None and before is not None:
                del account.entries[host]
                del self._entries[host][account_id.encode()]
                account.worker = None
                changes.accounts.add(account_id)
            return
        if account is None:
            account = self._add(account_id)
        entry = _Entry(account, raw, info, before.beat if before is not None else None)
        account.entries[host] = entry
        self._entries.setdefault(host, {})[account_id.encode()] = entry
        self._settle(account)
        changes.accounts.add(account_id)
        changes.records.add(account_id)

    def _take_desired(self, desired: Mapping[str, DesiredState], changes: Changes) -> None:
        for account_id, state in desired.items():
            self._take_desired_of(account_id, state, changes)
        for account_id in [key for key, one in self._accounts.items() if one.desired is not None]:
            account = self._accounts[account_id]
            if account_id in desired:
                continue
            account.desired, account.missed_from = None, math.inf
            changes.accounts.add(account_id)
            if not account.entries:
                self._remove(account_id, changes)

    def _take_desired_of(self, account_id: str, state: DesiredState, changes: Changes) -> None:
        account = self._accounts.get(account_id) or self._add(account_id)
        if account.desired is not state and account.desired != state:
            account.desired = state
            account.missed_from = self._missed_from(state)
            changes.accounts.add(account_id)

    def _missed_from(self, desired: DesiredState) -> float:
        """Return when an account with this desired state becomes missing."""
        # A millisecond more: readers take the time as a datetime, which is rounded down.
        moment = max(desired.at, desired.claimed) / 1000 + GRACE_SECONDS + 0.001
        return moment if desired.running and moment >= self.now else math.inf

    def _take_all_beats(self, hosts: Mapping[str, RawHost], changes: Changes) -> None:
        for name, host in hosts.items():
            if host.beats is None:
                continue
            self._take_beats(name, host.beats, changes)
            for key, entry in self._entries.get(name, {}).items():
                if entry.beat is not None and key not in host.beats:
                    entry.beat = None
                    self._settle(entry.account)

    def _take_beats(self, host: str, beats: RawHash, changes: Changes) -> None:
        entries = self._entries.get(host, {})
        for key, raw in beats.items():
            entry = entries.get(key)
            if entry is None or (entry.beat is not None and entry.beat.raw == raw):
                continue
            before, account = entry.beat, entry.account
            entry.beat = self._read_beat(raw)
            alike = before is not None and entry.beat is not None and entry.beat.like(before)
            if not alike or account.holds_until == math.inf:
                changes.accounts.add(account.account_id)
            else:
                changes.figures.add(account.account_id)
            self._settle(account)

    def _settle(self, account: _Account) -> None:
        """Drop the derived worker, and compute how long the next one holds."""
        account.worker = None
        holds = math.inf
        entries = account.entries.values()
        # A renamed host records the worker under one name, and the worker sends heartbeats under the other.
        if any(entry.info.status is WorkerLifecycleStatus.RUNNING for entry in entries):
            for entry in entries:
                beat = entry.beat
                if beat is not None and self.now <= beat.fresh_until < holds:
                    holds = beat.fresh_until
        account.holds_until = holds

    def _add(self, account_id: str) -> _Account:
        self._sorted = None
        return self._accounts.setdefault(account_id, _Account(account_id))

    def _remove(self, account_id: str, changes: Changes) -> None:
        self._sorted = None
        del self._accounts[account_id]
        changes.gone.add(account_id)
        changes.accounts.discard(account_id)

    def _read_beat(self, raw: bytes) -> _Beat | None:
        stamp, _, payload = raw.partition(b" ")
        try:
            written, data = float(stamp), _decode(payload)
        except (ValueError, msgspec.DecodeError, RecursionError):
            return None
        if not math.isfinite(written):
            return None
        loop_age = number(data.get("loop_age_seconds")) or 0.0
        return _Beat(raw, written, data, written + self._stale_after - loop_age, loop_age)

    def _judge(self, account: _Account) -> WorkerInfo:
        found = []
        for name, entry in account.entries.items():
            beat = entry.beat
            report = (
                Timestamped(abs(self.now - beat.stamp), beat.data, beat.stamp) if beat is not None else None
            )
            state = self.hosts.get(name) or HostState(name, live=False, age_seconds=None, data={})
            found.append(WorkerRecord(entry.info, report, state))
        info = current_worker(found, self._stale_after)
        if not self.blind or info.status in SETTLED:
            return info
        return info.with_(
            status=WorkerLifecycleStatus.UNKNOWN,
            error=f"last seen as {account.recorded_status}: {self.blind}",
            metadata={"health": "unknown", "health_reason": self.blind},
        )
