"""What the fleet knows of its hosts and workers, in Redis.

One host's records lie under that host's own keys, so that a host needs to write nobody else's:

    manager:hosts                  set of host names
    manager:host:<name>:agent      what the host agent says of itself, each second
    manager:host:<name>:workers    hash: account id → WorkerInfo, as the host agent recorded it last
    manager:host:<name>:drain      that the host is to be emptied, or was and takes workers again (see `DrainRequest`)
    manager:host:<name>:mark       which of its writes the host agent made last, written with it at once
    manager:host:<name>:claim      which agent has the name (see `manager.fleet.host_names`)
    manager:host:<name>:beats      hash: account id → heartbeat, as the worker itself sent it last
    manager:events                 stream: one entry for each change of a worker's state or health

Freshness is judged by Redis's own clock alone: it stamps what is written and dates what is read, so hosts whose
clocks differ by an hour still agree on how old a heartbeat is.
"""

import json
import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeGuard, cast

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from manager.fleet.health_change import HealthChange
from manager.fleet.host_names import claim_key
from manager.fleet.hosts import DrainRequest, HostState, Timestamped, host_state
from manager.fleet.outages import outage_of
from manager.fleet.parsing import json_object, number, string
from manager.fleet.redis_client import open_client, translated
from manager.models import WorkerInfo, utc_now
from manager.settings import HOST_NAME
from manager.states import LIVE, NOT_UP, SETTLED, WorkerLifecycleStatus
from manager.system import logs

logger = logging.getLogger(__name__)

HOSTS_KEY: Final = "manager:hosts"
EVENTS_KEY: Final = "manager:events"
#: Written with the first desired state that says `avoid`, by the scripts of desired state.
RULES_KEY: Final = "manager:desired:rules"

#: Hosts and managers may write such keys; it never exists.
_PROBE_KEY: Final = "manager:seen:doctor"

#: Entries kept in the stream of events: about a week of a fleet of a hundred that restarts daily.
EVENTS_KEPT: Final = 10_000

#: Seconds by which an event is written later than it happened, from which on it says so.
_LATE_SECONDS: Final = 1.0
#: Of a heartbeat, what says which process sent it, not how its session is.
_NOT_FIGURES: Final = frozenset({"worker_id", "loop_age_seconds", "start_time"})

#: Stores `<seconds of Redis's clock> <payload>` in a hash field, or as a string where no field is given.
_STAMPED_WRITE: Final = """
local t = redis.call('TIME')
local value = string.format('%d.%06d %s', t[1], t[2], ARGV[2])
if ARGV[1] == '' then return redis.call('GETSET', KEYS[1], value) end
redis.call('HSET', KEYS[1], ARGV[1], value)
return 1
"""


def agent_key(host: str) -> str:
    return f"manager:host:{host}:agent"


def workers_key(host: str) -> str:
    return f"manager:host:{host}:workers"


def beats_key(host: str) -> str:
    return f"manager:host:{host}:beats"


def mark_key(host: str) -> str:
    return f"manager:host:{host}:mark"


def drain_key(host: str) -> str:
    return f"manager:host:{host}:drain"


class Happened(NamedTuple):
    """What becomes an event: a worker's record as it was, and how many seconds ago that was."""

    info: WorkerInfo
    late: float = 0.0
    #: Of a change of health alone: which.
    health: HealthChange | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One change of a worker's state or health. `id` orders events and is where a reader goes on after it.

    `time` is when it happened, by Redis's clock: one that was written late, as after an outage, is dated
    back.
    """

    id: str
    time: datetime
    host: str
    account_id: str
    worker_id: str
    status: str
    error: str | None
    #: The fencing token of the worker's lease; 0 where it had none.
    epoch: int = 0
    #: `state`, or `health`: the state is as it was, and the worker's health is another one.
    kind: str = "state"
    #: The worker's health from then on, where it runs; and of a `health` event the one before.
    health: str | None = None
    health_before: str | None = None
    #: Why its health is not `healthy`.
    reason: str | None = None
    #: Changes of health in between that have no event, because there were too many.
    untold: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "time": self.time.isoformat()}


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a server says of its role and its connections."""

    #: `master` or `slave`, as Redis calls them.
    role: str
    connections: int
    #: Its `maxclients`; None where this user may not read it.
    most_connections: int | None


@dataclass(frozen=True, slots=True)
class WriteRefusal:
    """Why a server refuses writes."""

    #: As the server spells it: MISCONF, OOM, READONLY, NOREPLICAS, NOPERM, ...
    code: str
    #: What it is, as the end of "it ...".
    what: str
    advice: str
    #: The server's own text.
    said: str


class FleetStore:
    """Reads and writes the keys above. Every method raises FleetUnavailableError if Redis cannot be used."""

    def __init__(self, url: str, *, stale_after_seconds: float = 10.0) -> None:
        self.url = url
        self._stale_after = stale_after_seconds
        # redis-py types every answer as bytes, text, a future, or None, whatever the client is set to return.
        self._client: Any = open_client(url)
        #: Which run of which server took the last report of this host's agent.
        self._run_id: str | None = None
        #: The hosts that there were at the last look.
        self._names: list[str] = []

    def close(self) -> None:
        self._client.close()

    def ping(self) -> dict[str, Any]:
        """Return Redis's own `INFO server` section, its `name` with its version, and its clock (`time`, seconds)."""
        with translated(self.url):
            info = cast(dict[str, Any], self._client.info("server"))
            seconds, micros = cast(tuple[int, int], self._client.time())
        return {**info, "time": seconds + micros / 1e6, "name": server_name(info)}

    def server_settings(self) -> dict[str, str] | None:
        """Return those of Redis's settings that a fleet depends on; None where this user may not read them."""
        with translated(self.url):
            try:
                return {
                    name: value
                    for asked in ("maxmemory-policy", "appendonly", "min-replicas-*")
                    for name, value in self._client.config_get(asked).items()
                }
            except ResponseError:
                return None

    def server_limits(self) -> ServerLimits:
        """Return what of the server may end or stop a fleet: its role, and how many connections it has left."""
        with translated(self.url):
            pipe = self._client.pipeline(transaction=False)
            pipe.info("clients")
            pipe.info("replication")
            clients, replication = pipe.execute()
            most = clients.get("maxclients")
            if most is None:
                # Before Redis 7 it is a setting only.
                try:
                    most = self._client.config_get("maxclients").get("maxclients")
                except ResponseError:
                    most = None
        return ServerLimits(
            role=str(replication.get("role", "")),
            connections=int(clients.get("connected_clients", 0)),
            most_connections=None if most is None else int(most),
        )

    def write_refusal(self) -> WriteRefusal | None:
        """Return why this server refuses a write of this user; None if it takes it. Changes nothing.

        Raises FleetUnavailableError if the server cannot be reached.
        """
        try:
            # A write that needs memory, of nothing: a server that refuses any of our writes refuses this one.
            self._client.setrange(_PROBE_KEY, 0, b"")
        except (RedisError, OSError) as error:
            said = (str(error).strip().splitlines() or [""])[0][:200]
            if isinstance(error, NoPermissionError):
                return WriteRefusal("NOPERM", "does not permit this user to write", "check its ACL", said)
            outage = outage_of(error)
            if outage is None:
                with translated(self.url):
                    raise
            return WriteRefusal(outage.code, outage.what, outage.advice, said)
        return None

    # written by host agents

    def report_agent(
        self, host: str, data: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any] | None, int, str | None]:
        """Say that this host's agent lives.

        Returns what it said before, how many workers of the host Redis has records of, and the mark of the last `record`.
        What it said before is None if Redis knows of nothing, or is another server than before.
        """
        with translated(self.url):
            pipe = self._client.pipeline(transaction=False)
            pipe.sadd(HOSTS_KEY, host)
            pipe.hlen(workers_key(host))
            pipe.get(mark_key(host))
            pipe.eval(_STAMPED_WRITE, 1, agent_key(host), "", json.dumps(data, separators=(",", ":")))
            pipe.info("server")
            _, records, mark, before, server = pipe.execute()
        run_id, self._run_id = self._run_id, server.get("run_id")
        if run_id not in {None, self._run_id}:
            # Another process or, after a failover, another server: what was written last may be missing.
            return None, records, _text(mark)
        word = _stamped(before, 0.0) if isinstance(before, bytes) else None
        return None if word is None else word.data, records, _text(mark)

    def last_mark(self, host: str) -> str | None:
        """Return the mark of the host's last `record`; None if there is none."""
        with translated(self.url):
            return _text(self._client.get(mark_key(host)))

    def forget_agent(self, host: str) -> None:
        """Take the agent's word back when it ends in order, so that readers need not wait until it is stale."""
        with translated(self.url):
            self._client.delete(agent_key(host))

    def record(
        self,
        host: str,
        infos: Iterable[WorkerInfo],
        beats: Mapping[str, Mapping[str, Any]],
        *,
        events: Sequence[Happened | tuple[WorkerInfo, float]] | None = None,
        mark: str = "",
    ) -> None:
        """Record workers of this host, first heartbeats, and events, in one transaction and one round trip.

        Of an account that changed more than once the last record stays, and every change becomes an event.
        `events` are other ones than those changes, each with the seconds since it happened, as where Redis is
        told again what it has lost. `mark` is kept with all that. A worker that has ended loses its heartbeat
        in the same transaction, so that no reader pairs the two.
        """
        infos = list(infos)
        happened = [Happened(info) for info in infos] if events is None else [Happened(*e) for e in events]
        with translated(self.url):
            pipe = self._client.pipeline(transaction=True)
            pipe.sadd(HOSTS_KEY, host)
            for info in infos:
                pipe.hset(workers_key(host), info.account_id, info.model_dump_json())
                if info.status in SETTLED or info.status is WorkerLifecycleStatus.CREATED:
                    pipe.hdel(beats_key(host), info.account_id)
            for one in happened:
                pipe.xadd(EVENTS_KEY, _event(host, one), maxlen=EVENTS_KEPT, approximate=True)
            if mark:
                pipe.set(mark_key(host), mark)
            for account_id, beat in beats.items():
                text = json.dumps(beat, separators=(",", ":"))
                pipe.eval(_STAMPED_WRITE, 1, beats_key(host), account_id, text)
            names = [arguments[0] for arguments, _ in pipe.command_stack]
            for name, answer in zip(names, pipe.execute(raise_on_error=False), strict=True):
                if not isinstance(answer, Exception):
                    continue
                if name != "XADD":
                    raise answer
                # Whoever may add to the stream can make it unusable; the records beside it are written all the same.
                logs.event(logger, logging.ERROR, "event_lost", f"{EVENTS_KEY}: {answer}", host=host)

    def settle(
        self, host: str, present: Collection[str], stopped: Callable[[str], bool] = lambda _account_id: False
    ) -> None:
        """Record the end of workers that ended while no agent was there.

        They are those that Redis calls alive on this host and that are not among `present`.

        They become `stopped` where that is desired (`stopped`) or where a stop was under way, else `failed`.
        """
        with translated(self.url):
            raw = self._client.hgetall(workers_key(host))
        infos = [info for info in map(_worker_info, raw.values()) if info is not None]
        open_ended = LIVE | {WorkerLifecycleStatus.UNKNOWN}
        lost = [info for info in infos if info.status in open_ended and info.account_id not in present]
        if lost:
            self.record(
                host,
                [_gone(i, i.status is WorkerLifecycleStatus.STOPPING or stopped(i.account_id)) for i in lost],
                {},
            )

    # read by everyone

    def events(self, *, last: int = 50) -> list[Event]:
        """Return the newest `last` events, the oldest of them first."""
        with translated(self.url):
            found = self._client.xrevrange(EVENTS_KEY, count=last)
        return [_read_event(entry_id, fields) for entry_id, fields in reversed(found or [])]

    def follow_events(self, after: str = "$", *, wait_seconds: float = 1.0) -> list[Event]:
        """Return events newer than the entry `after`, waiting for the first one at most `wait_seconds`."""
        with translated(self.url):
            answer = self._client.xread({EVENTS_KEY: after}, block=int(wait_seconds * 1000))
        entries = answer[0][1] if answer else []
        return [_read_event(entry_id, fields) for entry_id, fields in entries]

    def hosts(self) -> list[HostState]:
        """Return every host that ever reported, by name."""
        return self._survey(())[0]

    def accounts_avoid(self) -> bool:
        """Say whether any account of this fleet ever asked not to share something with others."""
        with translated(self.url):
            return bool(self._client.exists(RULES_KEY))

    def drain(self, host: str) -> DrainRequest | None:
        """Return the host's drain order."""
        with translated(self.url):
            return DrainRequest.from_json(self._client.get(drain_key(host)))

    def request_drain(self, host: str, request: DrainRequest) -> None:
        """Have the host emptied, or (`off`) take workers again."""
        with translated(self.url):
            self._client.set(drain_key(host), request.to_json())

    def restore_drain(self, host: str, request: DrainRequest) -> None:
        """Write again what Redis has lost, unless somebody has ordered something since."""
        with translated(self.url):
            self._client.set(drain_key(host), request.to_json(), nx=True)

    def forget_host(self, host: str) -> None:
        """Remove a host that does not exist any more from the fleet's memory, with all its records."""
        with translated(self.url):
            pipe = self._client.pipeline(transaction=True)
            pipe.srem(HOSTS_KEY, host)
            pipe.delete(
                *(agent_key(host), workers_key(host), beats_key(host)),
                *(drain_key(host), mark_key(host), claim_key(host)),
            )
            pipe.execute()

    def beats(self, host: str) -> dict[str, Timestamped]:
        """Return the last heartbeat of every worker of the host, by account id."""
        with translated(self.url):
            raw, time = self._client.pipeline(transaction=False).hgetall(beats_key(host)).time().execute()
        found = {string(key): _stamped(value, _seconds(time)) for key, value in raw.items()}
        return {key: beat for key, beat in found.items() if beat is not None}

    def beat(self, host: str, account_id: str) -> Timestamped | None:
        """Return the last heartbeat of the account's worker on the host."""
        with translated(self.url):
            pipe = self._client.pipeline(transaction=False)
            raw, time = pipe.hget(beats_key(host), account_id).time().execute()
        return _stamped(raw, _seconds(time))

    def recorded(self, host: str, account_id: str) -> WorkerInfo | None:
        """Return the account's worker as the host itself recorded it last, whatever its heartbeat says."""
        with translated(self.url):
            raw = self._client.hget(workers_key(host), account_id)
        return None if raw is None else _worker_info(raw)

    def forget_worker(self, host: str, account_id: str) -> None:
        """Remove an account's record from one host's."""
        with translated(self.url):
            pipe = self._client.pipeline(transaction=True)
            pipe.hdel(workers_key(host), account_id)
            pipe.hdel(beats_key(host), account_id)
            pipe.execute()

    def list_workers(self) -> list[WorkerInfo]:
        """Return every recorded worker as it is now, by account id; one or two round trips however many there are."""
        return self._survey(None)[1]

    def get_worker(self, account_id: str) -> WorkerInfo | None:
        """Return the account's worker as it is now, or None if no host ever recorded one."""
        found = self._survey((account_id,))[1]
        return found[0] if found else None

    def look(self, account_ids: Sequence[str] | None) -> tuple[list[HostState], list[WorkerInfo]]:
        """Return every host, and the workers of these accounts (None: of all), as they are at one moment."""
        return self._survey(account_ids)

    def _survey(self, account_ids: Sequence[str] | None) -> tuple[list[HostState], list[WorkerInfo]]:
        names = self._names
        wanted = account_ids is None or len(account_ids) > 0
        with translated(self.url):
            # Read by the names of the last time, and again if there are others: mostly it is one round trip.
            while True:
                pipe = self._client.pipeline(transaction=False)
                pipe.smembers(HOSTS_KEY)
                pipe.time()
                for name in names:
                    pipe.get(agent_key(name))
                    pipe.get(drain_key(name))
                    for key in (workers_key(name), beats_key(name)) if wanted else ():
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
        now = _seconds(time)
        width = 4 if wanted else 2
        hosts: list[HostState] = []
        found_of: dict[str, list[_Found]] = {}
        for index, name in enumerate(names):
            word, drain, *kept = answers[index * width : (index + 1) * width]
            host = host_state(name, _stamped(word, now), DrainRequest.from_json(drain))
            hosts.append(host)
            if not kept:
                continue
            records, beats = (
                part if account_ids is None else dict(zip(account_ids, part, strict=True)) for part in kept
            )
            for key, raw in records.items():
                info = None if raw is None else _worker_info(raw)
                if info is not None:
                    one = _Found(info, _stamped(beats.get(key), now), host)
                    found_of.setdefault(info.account_id, []).append(one)
        return hosts, [_newest(found_of[key], self._stale_after) for key in sorted(found_of)]


@dataclass(frozen=True, slots=True)
class _Found:
    """One host's record of an account, and the heartbeat beside it."""

    info: WorkerInfo
    beat: Timestamped | None
    host: HostState

    def newer_than(self, other: "_Found") -> bool:
        """Say whether this record of a worker counts, and not the other one.

        The one of the host whose agent is there, or was there last, does.
        """
        mine, theirs = self.host.age_seconds, other.host.age_seconds
        return mine is not None and (theirs is None or mine < theirs)


def _newest(found: Sequence[_Found], stale_after: float) -> WorkerInfo:
    """Return what a reader may say of an account that one or more hosts have recorded."""
    if len(found) > 1:
        found = _one_each(found)
    seen = [observe(one.info, one.beat, one.host.live, stale_after) for one in found]
    best = seen[0]
    for other in seen[1:]:
        if _rank(other) > _rank(best):
            best = other
    return best


def _one_each(found: Sequence[_Found]) -> list[_Found]:
    """Return one record for each worker.

    Two hosts with one worker are one host that has another name now, and `renamed_from` in the metadata says
    which it had. The worker goes on to send its heartbeats under the name by which it was started.
    """
    workers: dict[str, _Found] = {}
    for one in found:
        worker_id = one.info.worker_id
        other = workers.get(worker_id)
        if other is None:
            workers[worker_id] = one
            continue
        beats = [beat for beat in (one.beat, other.beat) if _beat_of(beat, worker_id)]
        beat = min(beats, key=lambda found: found.age_seconds) if beats else None
        kept, old = (one, other) if one.newer_than(other) else (other, one)
        info = kept.info.with_(metadata={"renamed_from": old.host.name})
        workers[worker_id] = _Found(info, beat, kept.host)
    return list(workers.values())


def _beat_of(beat: Timestamped | None, worker_id: str) -> TypeGuard[Timestamped]:
    return beat is not None and beat.data.get("worker_id") == worker_id


def observe(info: WorkerInfo, beat: Timestamped | None, host_live: bool, stale_after: float) -> WorkerInfo:
    """Return what a reader may say of a recorded worker, given its last heartbeat: never more than is proven."""
    if info.status not in LIVE:
        return info
    if info.status is WorkerLifecycleStatus.RESTARTING:
        # What the worker that has ended said last, and may still be there to read, is not how the account is.
        return _not_up(info) if host_live else _unknown(info, "the host agent is silent")
    if beat is not None and beat.data.get("worker_id") == info.worker_id:
        # The worker's own thread sends even while its loop is stuck in a call: only the loop's beat counts.
        age = beat.age_seconds + (number(beat.data.get("loop_age_seconds")) or 0.0)
        figures = {k: v for k, v in beat.data.items() if k not in _NOT_FIGURES}
        if "trading_mode" in info.metadata:
            # The host's record changes once the worker has acknowledged; the last heartbeat may be older than that.
            figures.pop("trading_mode", None)
        info = info.with_(metadata={**figures, "heartbeat_age_seconds": round(age, 3)})
        fresh = age <= stale_after
    else:
        age, fresh = None, False
    if info.status is WorkerLifecycleStatus.RUNNING:
        if fresh:
            return info
        since = "never sent a heartbeat" if age is None else f"sent no heartbeat for {age:.0f} s"
        call = info.metadata.get("call")
        where = f" (it is inside the call {call})" if call else ""
        return _unknown(info, f"the worker {since}{where}")
    if not host_live:
        return _unknown(info, "the host agent is silent")
    return _not_up(info) if info.status in NOT_UP else info


def _not_up(info: WorkerInfo) -> WorkerInfo:
    """Return a worker that is about to be there: nothing is known of its health."""
    return info.with_(metadata={"health": "unknown", "health_reason": None})


def _gone(info: WorkerInfo, stopped: bool) -> WorkerInfo:
    status = WorkerLifecycleStatus.STOPPED if stopped else WorkerLifecycleStatus.FAILED
    error = None if stopped else "it was gone when the host agent started"
    return info.with_(status=status, error=error, stopped_at=utc_now())


def _unknown(info: WorkerInfo, reason: str) -> WorkerInfo:
    return info.with_(
        status=WorkerLifecycleStatus.UNKNOWN,
        error=f"last recorded as {info.status}: {reason}",
        metadata={"health": "unknown", "health_reason": reason},
    )


def _rank(info: WorkerInfo) -> tuple[bool, int, float]:
    """Of an account's records on several hosts the one that runs is told, else the newest: by epoch, which is no clock."""
    epoch = info.metadata.get("epoch")
    return (
        info.status is WorkerLifecycleStatus.RUNNING,
        epoch if isinstance(epoch, int) else 0,
        info.created_at.timestamp(),
    )


def _event(host: str, happened: Happened) -> dict[Any, Any]:
    info, late, change = happened
    event = {
        "host": host,
        "account_id": info.account_id,
        "worker_id": info.worker_id,
        "status": str(info.status),
        "error": info.error or "",
        "epoch": str(info.metadata.get("epoch") or 0),
        "kind": "state" if change is None else "health",
    }
    if info.status is WorkerLifecycleStatus.RUNNING:
        event["health"] = str(info.metadata.get("health") or "unknown")
        event["reason"] = str(info.metadata.get("health_reason") or "")
    if change is not None:
        event |= {"health": change.new, "health_before": change.old, "reason": change.reason or ""}
        event |= {"untold": str(change.untold)} if change.untold else {}
    # In seconds, since the clocks of hosts differ.
    return {**event, "late": f"{late:.3f}"} if late >= _LATE_SECONDS else event


def _read_event(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Event:
    text = {string(key): string(value) for key, value in fields.items()}
    written = int(entry_id.split(b"-")[0]) / 1000
    return Event(
        id=entry_id.decode(),
        time=_moment(written - _late(text.get("late"), written)),
        host=text.get("host", ""),
        account_id=text.get("account_id", ""),
        worker_id=text.get("worker_id", ""),
        status=text.get("status", ""),
        error=text.get("error") or None,
        epoch=_whole(text.get("epoch")),
        kind=text.get("kind") or "state",
        health=text.get("health") or None,
        health_before=text.get("health_before") or None,
        reason=text.get("reason") or None,
        untold=_whole(text.get("untold")),
    )


def _late(text: str | None, most: float) -> float:
    try:
        late = float(text or 0.0)
    except ValueError:
        return 0.0
    return late if 0.0 <= late <= most else 0.0


def _text(raw: object) -> str | None:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else None


def _moment(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        # A time that no clock shows: a client that may add events may give them any id.
        return datetime.fromtimestamp(0, UTC)


def _whole(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def _worker_info(raw: bytes) -> WorkerInfo | None:
    try:
        return WorkerInfo.from_dict(json_object(raw))
    except ValueError:
        return None  # written by hand or by a version that does not fit: nothing can be said of it


def _stamped(raw: bytes | None, now: float) -> Timestamped | None:
    if raw is None:
        return None
    stamp, _, payload = raw.partition(b" ")
    data = json_object(payload)
    try:
        written = float(stamp)
    except ValueError:
        return None
    # One that is said to come from the future tells nothing either, as after a clock that was set back.
    return (
        Timestamped(abs(now - written), data, written)
        if data is not None and math.isfinite(written)
        else None
    )


def _seconds(answer: tuple[int, int]) -> float:
    return answer[0] + answer[1] / 1e6


def server_name(info: Mapping[str, Any]) -> str:
    """Return what a server is, by its `INFO server`: Valkey says there which Redis it passes for as well."""
    if info.get("valkey_version"):
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', 'of unknown version')}"
