"""Reads hosts and workers at one moment.

Takes one or two round trips, however many hosts and workers there are.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from manager.fleet.hosts import DrainRequest, HostState, host_state
from manager.fleet.keys import HOSTS_KEY, agent_key, beats_key, drain_key, workers_key
from manager.fleet.parsing import string
from manager.fleet.redis_client import translated
from manager.fleet.timestamped import clock_seconds, parse_timestamped
from manager.fleet.workers import WorkerRecord, current_worker, parse_worker
from manager.models import WorkerInfo
from manager.settings import HOST_NAME


class FleetState(NamedTuple):
    """Hosts by name, and workers by account id, at one moment."""

    hosts: list[HostState]
    workers: list[WorkerInfo]


class FleetStateReader:
    """Reads the records of all hosts. Thread-safe."""

    def __init__(self, url: str, client: Any, stale_after_seconds: float) -> None:
        self._url = url
        self._client = client
        self._stale_after = stale_after_seconds
        #: The hosts that the last read found.
        self._names: list[str] = []

    def read(self, account_ids: Sequence[str] | None) -> FleetState:
        """Return every host, and the workers of these accounts (None: of all).

        Raises FleetUnavailableError if Redis cannot be used.
        """
        with_workers = account_ids is None or len(account_ids) > 0
        names, time, answers = self._answers(account_ids, with_workers)
        now = clock_seconds(time)
        width = 4 if with_workers else 2
        hosts: list[HostState] = []
        found: dict[str, list[WorkerRecord]] = {}
        for index, name in enumerate(names):
            report, drain, *hashes = answers[index * width : (index + 1) * width]
            host = host_state(name, parse_timestamped(report, now), DrainRequest.from_json(drain))
            hosts.append(host)
            if not hashes:
                continue
            records, beats = (
                part if account_ids is None else dict(zip(account_ids, part, strict=True)) for part in hashes
            )
            for key, raw in records.items():
                info = None if raw is None else parse_worker(raw)
                if info is not None:
                    record = WorkerRecord(info, parse_timestamped(beats.get(key), now), host)
                    found.setdefault(info.account_id, []).append(record)
        return FleetState(hosts, [current_worker(found[key], self._stale_after) for key in sorted(found)])

    def _answers(
        self, account_ids: Sequence[str] | None, with_workers: bool
    ) -> tuple[list[str], tuple[int, int], list[Any]]:
        """Return hosts' names, Redis's clock, and each host's raw records."""
        names = self._names
        with translated(self._url):
            # Reads the hosts of the last time, and again if the set has changed: mostly one round trip.
            while True:
                pipe = self._client.pipeline(transaction=False)
                pipe.smembers(HOSTS_KEY)
                pipe.time()
                for name in names:
                    pipe.get(agent_key(name))
                    pipe.get(drain_key(name))
                    for key in (workers_key(name), beats_key(name)) if with_workers else ():
                        if account_ids is None:
                            pipe.hgetall(key)
                        else:
                            pipe.hmget(key, account_ids)
                members, time, *answers = pipe.execute()
                found = sorted(name for name in map(string, members) if HOST_NAME.fullmatch(name))
                if found == names:
                    break
                names = found
        self._names = names
        return names, time, answers
