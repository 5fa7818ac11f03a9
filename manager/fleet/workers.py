"""A worker's actual state, by its record and its last heartbeat."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeGuard

from manager.fleet.hosts import HostState
from manager.fleet.parsing import json_object, number
from manager.fleet.timestamped import Timestamped
from manager.models import WorkerInfo, WorkerMetrics, WorkerPlacement, utc_now
from manager.states import LIVE, NOT_UP, WorkerLifecycleStatus

#: Fields of a heartbeat that identify the process. They are not metrics of its session.
_NOT_METRICS: Final = frozenset({"worker_id", "loop_age_seconds", "start_time"})


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """One host's record of an account's worker, and the heartbeat beside it."""

    info: WorkerInfo
    beat: Timestamped | None
    host: HostState

    def newer_than(self, other: "WorkerRecord") -> bool:
        """Return whether this record's host reported later than the other's."""
        mine, theirs = self.host.age_seconds, other.host.age_seconds
        return mine is not None and (theirs is None or mine < theirs)


def parse_worker(raw: bytes) -> WorkerInfo | None:
    """Parse a worker's record.

    Returns None if it is malformed or of an incompatible version.
    """
    try:
        return WorkerInfo.from_dict(json_object(raw))
    except ValueError:
        return None


def current_worker(records: Sequence[WorkerRecord], stale_after: float) -> WorkerInfo:
    """Return an account's worker by the records of one or more hosts.

    A running worker wins, else the one with the highest epoch. `stale_after` is in seconds; see `observe`.
    """
    if len(records) > 1:
        records = _one_per_worker(records)
    observed = [observe(one.info, one.beat, one.host.live, stale_after) for one in records]
    best = observed[0]
    for other in observed[1:]:
        if _rank(other) > _rank(best):
            best = other
    return best


def observe(info: WorkerInfo, beat: Timestamped | None, host_live: bool, stale_after: float) -> WorkerInfo:
    """Return a recorded worker with the state that its last heartbeat proves.

    The status becomes `unknown` where a live state has no proof: a running worker whose last heartbeat is
    older than `stale_after` seconds, or a worker in another live state whose host agent is silent.
    """
    if info.status not in LIVE:
        return info
    if info.status is WorkerLifecycleStatus.RESTARTING:
        # The heartbeat may still be the ended worker's: it does not describe the account.
        return _not_up(info) if host_live else _unknown(info, "the host agent is silent")
    if beat is not None and beat.data.get("worker_id") == info.worker_id:
        # The worker's heartbeat thread sends even while its loop is stuck in a call: only the loop's age
        # counts.
        age = beat.age_seconds + (number(beat.data.get("loop_age_seconds")) or 0.0)
        metrics = {k: v for k, v in beat.data.items() if k not in _NOT_METRICS}
        if "trading_mode" in info.metadata:
            # The host records a mode once the worker has acknowledged it; the last heartbeat may be older
            # than that.
            metrics.pop("trading_mode", None)
        # A plain dictionary and one copy: a reader does this for thousands of workers a second.
        info = info.with_(metadata={**metrics, "heartbeat_age_seconds": round(age, 3)})
        fresh = age <= stale_after
    else:
        age, fresh = None, False
    if info.status is WorkerLifecycleStatus.RUNNING:
        if fresh:
            return info
        since = "never sent a heartbeat" if age is None else f"sent no heartbeat for {age:.0f} s"
        call = info.metrics.call
        where = f" (it is inside the call {call})" if call else ""
        return _unknown(info, f"the worker {since}{where}")
    if not host_live:
        return _unknown(info, "the host agent is silent")
    return _not_up(info) if info.status in NOT_UP else info


def ended_unobserved(info: WorkerInfo, stopped: bool) -> WorkerInfo:
    """Return the final record of a worker that ended unobserved.

    It ended while its host agent was down. Its status becomes `stopped` if the stop was intended (`stopped`),
    else `failed`.
    """
    status = WorkerLifecycleStatus.STOPPED if stopped else WorkerLifecycleStatus.FAILED
    error = None if stopped else "it was gone when the host agent started"
    return info.with_(status=status, error=error, stopped_at=utc_now())


def _one_per_worker(records: Sequence[WorkerRecord]) -> list[WorkerRecord]:
    """Return one record for each worker.

    Two hosts that record the same worker are one host under two names: it was renamed. `renamed_from` in the
    metadata is the old name. The worker continues to send its heartbeats under the name by which it was
    started.
    """
    workers: dict[str, WorkerRecord] = {}
    for one in records:
        worker_id = one.info.worker_id
        other = workers.get(worker_id)
        if other is None:
            workers[worker_id] = one
            continue
        beats = [beat for beat in (one.beat, other.beat) if _is_of(beat, worker_id)]
        beat = min(beats, key=lambda beat: beat.age_seconds) if beats else None
        newer, older = (one, other) if one.newer_than(other) else (other, one)
        info = newer.info.with_(metadata=WorkerPlacement(renamed_from=older.host.name))
        workers[worker_id] = WorkerRecord(info, beat, newer.host)
    return list(workers.values())


def _is_of(beat: Timestamped | None, worker_id: str) -> TypeGuard[Timestamped]:
    return beat is not None and beat.data.get("worker_id") == worker_id


def _not_up(info: WorkerInfo) -> WorkerInfo:
    """Return a worker that is still starting: its health is unknown."""
    return info.with_(metadata=WorkerMetrics(health="unknown", health_reason=None))


def _unknown(info: WorkerInfo, reason: str) -> WorkerInfo:
    return info.with_(
        status=WorkerLifecycleStatus.UNKNOWN,
        error=f"last recorded as {info.status}: {reason}",
        metadata=WorkerMetrics(health="unknown", health_reason=reason),
    )


def _rank(info: WorkerInfo) -> tuple[bool, int, int, float]:
    """Return the sort key by which one of an account's records wins.

    The command that made the record counts first: an account that rests on its new host has no epoch there.
    The epoch comes before the time of creation, because hosts' clocks differ.
    """
    placement = info.placement
    return (
        info.status is WorkerLifecycleStatus.RUNNING,
        placement.generation or 0,
        placement.epoch or 0,
        info.created_at.timestamp(),
    )
