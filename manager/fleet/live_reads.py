"""Reads the whole fleet from Redis as raw values.

For readers that hold the fleet in memory and parse only changed values.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from manager.fleet.cursors import Cursor, Position
from manager.fleet.desired_store import DESIRED_KEY
from manager.fleet.event_places import StreamPlace, queue_place, read_cursor, read_place, stream_id
from manager.fleet.event_types import Event, parse_event
from manager.fleet.keys import EVENTS_KEY, HOSTS_KEY, agent_key, beats_key, drain_key, workers_key
from manager.fleet.parsing import string
from manager.fleet.redis_client import open_client, translated
from manager.settings import HOST_NAME


@dataclass(frozen=True, slots=True)
class RawHost:
    """The raw values of one host.

    `records` and `beats` map account ids to values; None: not read.
    """

    agent: bytes | None
    drain: bytes | None
    #: Number of records.
    count: int = 0
    records: Mapping[bytes, bytes] | None = None
    beats: Mapping[bytes, bytes] | None = None


@dataclass(frozen=True, slots=True)
class RawFleet:
    """The raw values of all hosts at one moment.

    `now` is Redis's clock in seconds since the epoch.
    """

    now: float
    #: The event stream as it was read with the hosts.
    place: StreamPlace
    hosts: Mapping[str, RawHost]


@dataclass(frozen=True, slots=True)
class RawAccounts:
    """The raw values of some accounts at one moment."""

    now: float
    #: Account → host → record, or None if the host has none.
    records: Mapping[str, Mapping[str, bytes | None]]
    #: Host → account → heartbeat. Accounts without one are missing.
    beats: Mapping[str, Mapping[bytes, bytes]]
    #: Account → desired state, or None if it has none.
    desired: Mapping[str, bytes | None]
    #: The event stream as it was read with the accounts. Its id is empty after Redis lost its data.
    place: StreamPlace


class LiveReads:
    """Reads raw values. Thread-safe.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, url: str, *, events_kept: int) -> None:
        self._url = url
        self._client: Any = open_client(url)
        self._kept = events_kept
        self._names: list[str] = []

    def close(self) -> None:
        self._client.close()

    def cursor(self, text: str = "$") -> Cursor:
        """Return the cursor that `text` names; see `EventStream.cursor`."""
        with translated(self._url):
            return read_cursor(self._client, text, kept=self._kept)

    def fleet(self, *, records: bool, beats: bool) -> RawFleet:
        """Read every host, optionally with records and heartbeats.

        Usually takes one round trip.
        """
        keys = [key for key, read in ((workers_key, records), (beats_key, beats)) if read]
        with translated(self._url):
            while True:
                names = self._names
                pipe = self._client.pipeline(transaction=False)
                pipe.smembers(HOSTS_KEY)
                pipe.time()
                queue_place(pipe)
                for name in names:
                    pipe.get(agent_key(name))
                    pipe.get(drain_key(name))
                    pipe.hlen(workers_key(name))
                    for key in keys:
                        pipe.hgetall(key(name))
                members, (seconds, micros), *answers = _executed(pipe, spared=3)  # XINFO
                place, answers = read_place(answers[:2]), answers[2:]
                self._names = sorted(name for name in map(string, members) if HOST_NAME.fullmatch(name))
                if self._names == names:
                    break
            if not place.stream:
                place = replace(place, stream=stream_id(self._client))
        width = 3 + len(keys)
        hosts = {}
        for index, name in enumerate(names):
            agent, drain, count, *hashes = answers[index * width : (index + 1) * width]
            found = dict(zip(keys, hashes, strict=True))
            hosts[name] = RawHost(agent, drain, count, found.get(workers_key), found.get(beats_key))
        return RawFleet(seconds + micros / 1e6, place, hosts)

    def accounts(self, account_ids: Sequence[str], hosts: Collection[str]) -> RawAccounts:
        """Read the records and heartbeats of some accounts on some hosts, and their desired state."""
        records: dict[str, dict[str, bytes | None]] = {account_id: {} for account_id in account_ids}
        beats: dict[str, dict[bytes, bytes]] = {host: {} for host in hosts}
        with translated(self._url):
            pipe = self._client.pipeline(transaction=False)
            pipe.time()
            queue_place(pipe)
            if account_ids:
                pipe.hmget(DESIRED_KEY, account_ids)
            for host in hosts if account_ids else ():
                pipe.hmget(workers_key(host), account_ids)
                pipe.hmget(beats_key(host), account_ids)
            (seconds, micros), *answers = _executed(pipe, spared=2)  # XINFO
            place, answers = read_place(answers[:2]), answers[2:]
        desired: dict[str, bytes | None] = {}
        if account_ids:
            desired = dict(zip(account_ids, answers.pop(0), strict=True))
        read = hosts if account_ids else ()
        for host, found, sent in zip(read, answers[::2], answers[1::2], strict=True):
            for account_id, record, beat in zip(account_ids, found, sent, strict=True):
                records[account_id][host] = record
                if beat is not None:
                    beats[host][account_id.encode()] = beat
        return RawAccounts(seconds + micros / 1e6, records, beats, desired, place)

    def require(self, cursor: Cursor, place: StreamPlace) -> None:
        """Raise CursorGoneError if a reader could not continue at the cursor when `place` was read."""
        place.require(cursor, kept=self._kept)

    def follow(self, after: Position, *, wait_seconds: float) -> list[Event]:
        """Return the events after a position.

        Blocks up to `wait_seconds` for the first one.
        """
        wait_ms = max(1, int(wait_seconds * 1000))
        with translated(self._url):
            answer = self._client.xread({EVENTS_KEY: str(after)}, count=1000, block=wait_ms)
        entries = answer[0][1] if answer else []
        return [parse_event(entry_id, fields) for entry_id, fields in entries]


def _executed(pipe: Any, spared: int) -> list[Any]:
    """Return the answers of a pipeline. Its first error is raised, except that of the answer `spared`."""
    answers: list[Any] = pipe.execute(raise_on_error=False)
    for number, found in enumerate(answers):
        if isinstance(found, Exception) and number != spared:
            raise found
    return answers
