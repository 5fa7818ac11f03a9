"""The fleet's records of hosts, workers and events in Redis.

`manager.fleet.keys` lists the keys.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from manager.fleet.event_types import Event, Notice, WorkerChange
from manager.fleet.events import EVENTS_KEPT, EventStream
from manager.fleet.hosts import DrainRequest, HostState
from manager.fleet.keys import (
    HOSTS_KEY,
    RULES_KEY,
    agent_key,
    beats_key,
    claim_key,
    counters_key,
    drain_key,
    mark_key,
    runs_key,
    workers_key,
)
from manager.fleet.parsing import string
from manager.fleet.redis_client import open_client, translated
from manager.fleet.runs import RunStore
from manager.fleet.server import RedisServer
from manager.fleet.state import FleetState, FleetStateReader
from manager.fleet.timestamped import STAMPED_WRITE, Timestamped, clock_seconds, parse_timestamped
from manager.fleet.workers import ended_unobserved, parse_worker
from manager.models import WorkerInfo
from manager.states import LIVE, SETTLED, WorkerLifecycleStatus

#: Commands of `record` whose failure must not fail the records in the same transaction.
_BESIDE_RECORDS: Final = frozenset({"XADD", "HINCRBY", "HINCRBYFLOAT"})


class FleetStore:
    """Reads and writes the fleet's records.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(
        self, url: str, *, stale_after_seconds: float = 10.0, events_kept: int = EVENTS_KEPT
    ) -> None:
        """Create a store for the Redis at `url`.

        `stale_after_seconds` is the age from which a heartbeat no longer proves that a worker runs.
        `events_kept` is the number of entries that the event stream keeps.
        """
        self.url = url
        # redis-py types every answer as bytes, text, a future, or None, whatever the client is set to return.
        self._client: Any = open_client(url)
        self.server = RedisServer(url, self._client)
        self.stream = EventStream(url, self._client, kept=events_kept)
        self.runs = RunStore(url, self._client)
        self._state = FleetStateReader(url, self._client, stale_after_seconds)
        #: The `run_id` of the server process that took this host agent's last report.
        self._run_id: str | None = None

    def close(self) -> None:
        self._client.close()

    def ping(self) -> dict[str, Any]:
        """Return the server's version and clock; see `RedisServer.ping`."""
        return self.server.ping()

    # written by host agents

    def report_agent(
        self, host: str, data: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any] | None, int, str | None]:
        """Write the status report of this host's agent.

        Returns the report before, the number of the host's worker records in Redis, and the mark of the last
        `record`. The report before is None if Redis has none, or if this is another server process than at
        the last report.
        """
        with translated(self.url):
            pipe = self._client.pipeline(transaction=False)
            pipe.sadd(HOSTS_KEY, host)
            pipe.hlen(workers_key(host))
            pipe.get(mark_key(host))
            pipe.eval(STAMPED_WRITE, 1, agent_key(host), "", json.dumps(data, separators=(",", ":")))
            pipe.info("server")
            _, records, mark, before, server = pipe.execute()
        run_id, self._run_id = self._run_id, server.get("run_id")
        if run_id not in {None, self._run_id}:
            # Redis has restarted or failed over: writes since the last report may be lost.
            return None, records, _text(mark)
        report = parse_timestamped(before, 0.0) if isinstance(before, bytes) else None
        return None if report is None else report.data, records, _text(mark)

    def last_mark(self, host: str) -> str | None:
        """Return the mark of the host's last `record`; None if it has none."""
        with translated(self.url):
            return _text(self._client.get(mark_key(host)))

    def forget_agent(self, host: str) -> None:
        """Delete the report of an agent that ends cleanly.

        Readers then need not wait until it is stale.
        """
        with translated(self.url):
            self._client.delete(agent_key(host))

    def record(
        self,
        host: str,
        infos: Iterable[WorkerInfo],
        beats: Mapping[str, Mapping[str, Any]],
        *,
        events: Sequence[WorkerChange | tuple[WorkerInfo, float]] | None = None,
        mark: str = "",
    ) -> None:
        """Write workers, first heartbeats and events of this host.

        Takes one transaction and one round trip. If an account occurs more than once in `infos`, its last
        record stays and each one becomes an event. `events` replaces these events, as where Redis has lost
        records and gets them again. `mark` identifies this write; see `last_mark`. A worker that has ended
        loses its heartbeat in the same transaction, so that readers never pair the two.
        """
        infos = list(infos)
        changes = [WorkerChange(i) for i in infos] if events is None else [WorkerChange(*e) for e in events]
        with translated(self.url):
            pipe = self._client.pipeline(transaction=True)
            pipe.sadd(HOSTS_KEY, host)
            for info in infos:
                pipe.hset(workers_key(host), info.account_id, info.model_dump_json())
                if info.status in SETTLED or info.status is WorkerLifecycleStatus.CREATED:
                    pipe.hdel(beats_key(host), info.account_id)
            for change in changes:
                self.stream.add_to(pipe, host, change)
            if mark:
                pipe.set(mark_key(host), mark)
            for account_id, beat in beats.items():
                text = json.dumps(beat, separators=(",", ":"))
                pipe.eval(STAMPED_WRITE, 1, beats_key(host), account_id, text)
            names = [arguments[0] for arguments, _ in pipe.command_stack]
            for name, answer in zip(names, pipe.execute(raise_on_error=False), strict=True):
                if not isinstance(answer, Exception):
                    continue
                if name not in _BESIDE_RECORDS:
                    raise answer
                self.stream.log_refused(host, answer)

    def settle(
        self, host: str, present: Collection[str], stopped: Callable[[str], bool] = lambda _account_id: False
    ) -> list[WorkerInfo]:
        """Record the end of workers that ended while the host's agent was down; return their records.

        These are the accounts that Redis records as alive on this host and that are not in `present`. A
        worker becomes `stopped` if its stop was under way or `stopped(account_id)` says that it is desired,
        else `failed`.
        """
        with translated(self.url):
            raw = self._client.hgetall(workers_key(host))
        infos = [info for info in map(parse_worker, raw.values()) if info is not None]
        open_ended = LIVE | {WorkerLifecycleStatus.UNKNOWN}
        ended = [
            ended_unobserved(info, info.status is WorkerLifecycleStatus.STOPPING or stopped(info.account_id))
            for info in infos
            if info.status in open_ended and info.account_id not in present
        ]
        if ended:
            self.record(host, ended, {})
        return ended

    # events

    def note(self, notice: Notice) -> None:
        """Write an event that is not a change of a worker."""
        self.stream.add(notice)

    def ensure_stream_id(self) -> None:
        """Give the event stream an id if it has none, so that readers without the right need not write it."""
        self.stream.ensure_id()

    def events(self, *, last: int = 50) -> list[Event]:
        """Return the newest `last` events, oldest first."""
        return self.stream.newest(last)

    def follow_events(self, after: str = "$", *, wait_seconds: float = 1.0) -> list[Event]:
        """Return events newer than the entry `after`.

        Blocks up to `wait_seconds` for the first one.
        """
        return self.stream.follow(after, wait_seconds)

    # hosts

    def hosts(self) -> list[HostState]:
        """Return every host that ever reported, by name."""
        return self._state.read(()).hosts

    def accounts_avoid(self) -> bool:
        """Return whether any account of this fleet ever had an `avoid` rule."""
        with translated(self.url):
            return bool(self._client.exists(RULES_KEY))

    def drain(self, host: str) -> DrainRequest | None:
        """Return the host's drain request."""
        with translated(self.url):
            return DrainRequest.from_json(self._client.get(drain_key(host)))

    def request_drain(self, host: str, request: DrainRequest) -> None:
        """Ask the host to drain, or (`off`) to accept workers again."""
        with translated(self.url):
            self._client.set(drain_key(host), request.to_json())

    def restore_drain(self, host: str, request: DrainRequest) -> None:
        """Write a drain request that Redis has lost, unless there is a newer one."""
        with translated(self.url):
            self._client.set(drain_key(host), request.to_json(), nx=True)

    def forget_host(self, host: str) -> None:
        """Delete all records of a host that no longer exists."""
        with translated(self.url):
            pipe = self._client.pipeline(transaction=True)
            pipe.srem(HOSTS_KEY, host)
            pipe.delete(
                *(agent_key(host), workers_key(host), beats_key(host)),
                *(drain_key(host), mark_key(host), claim_key(host), counters_key(host)),
                runs_key(host),
            )
            pipe.execute()

    # workers

    def beats(self, host: str) -> dict[str, Timestamped]:
        """Return the last heartbeat of every worker of the host, by account id."""
        with translated(self.url):
            raw, time = self._client.pipeline(transaction=False).hgetall(beats_key(host)).time().execute()
        found = {string(key): parse_timestamped(value, clock_seconds(time)) for key, value in raw.items()}
        return {key: beat for key, beat in found.items() if beat is not None}

    def beat(self, host: str, account_id: str) -> Timestamped | None:
        """Return the last heartbeat of the account's worker on the host."""
        with translated(self.url):
            pipe = self._client.pipeline(transaction=False)
            raw, time = pipe.hget(beats_key(host), account_id).time().execute()
        return parse_timestamped(raw, clock_seconds(time))

    def recorded(self, host: str, account_id: str) -> WorkerInfo | None:
        """Return the account's worker as the host recorded it last.

        Ignores its heartbeat.
        """
        with translated(self.url):
            raw = self._client.hget(workers_key(host), account_id)
        return None if raw is None else parse_worker(raw)

    def forget_worker(self, host: str, account_id: str) -> None:
        """Delete the host's record of the account."""
        with translated(self.url):
            pipe = self._client.pipeline(transaction=True)
            pipe.hdel(workers_key(host), account_id)
            pipe.hdel(beats_key(host), account_id)
            pipe.execute()

    def list_workers(self) -> list[WorkerInfo]:
        """Return the current state of every recorded worker, by account id."""
        return self._state.read(None).workers

    def get_worker(self, account_id: str) -> WorkerInfo | None:
        """Return the account's worker with its current state.

        Returns None if no host ever recorded one.
        """
        workers = self._state.read((account_id,)).workers
        return workers[0] if workers else None

    def snapshot(self, account_ids: Sequence[str] | None) -> FleetState:
        """Return all hosts, and the workers of these accounts (None: all).

        Both are of the same moment.
        """
        return self._state.read(account_ids)


def _text(raw: object) -> str | None:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else None
