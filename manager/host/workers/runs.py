"""The history entry of a worker, made when its run ends."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from manager.fleet.run_types import NO_CAUSE, SCHEDULE, Run, RunCause, cut
from manager.host.workers.records import WorkerRecord
from manager.host.workers.slot import Slot
from manager.models import WorkerInfo, utc_now
from manager.session.heartbeat_file import Heartbeat, read_heartbeat
from manager.states import WorkerLifecycleStatus
from manager.system import logs

logger = logging.getLogger(__name__)

#: Returns who asked that the worker of an account and a generation ends, and why.
EndCause = Callable[[str, int], RunCause]

_STOPS: Final = frozenset({WorkerLifecycleStatus.STOPPING, WorkerLifecycleStatus.STOPPED})


class RunSink(Protocol):
    """Keeps the runs that have ended. Thread-safe."""

    def note(self, run: Run) -> None:
        """Save a run, so that it survives this process. Raises nothing."""


class NoRuns:
    """Discards runs: for a pool in a script without Redis."""

    def note(self, run: Run) -> None:
        del run


class RunRecorder:
    """Makes an entry of each run that ends on this host. Thread-safe."""

    def __init__(
        self, sink: RunSink, host: str, end_cause: EndCause = lambda _account_id, _generation: NO_CAUSE
    ) -> None:
        self._sink = sink
        self._host = host
        self._end_cause = end_cause

    def ended(
        self,
        slot: Slot,
        record: WorkerRecord,
        status: WorkerLifecycleStatus,
        reason: str | None,
        *,
        forced: bool = False,
        error_code: str | None = None,
        observed: bool = True,
    ) -> None:
        """Record the end of the slot's worker. Call it before the worker's files are removed.

        Raises nothing: the end of a worker must not wait for its history.
        """
        try:
            run = self._run(
                slot, record, status, reason, forced=forced, error_code=error_code, observed=observed
            )
            self._sink.note(run)
        except Exception as error:
            self._lost(record.account_id, error)

    def _run(
        self,
        slot: Slot,
        record: WorkerRecord,
        status: WorkerLifecycleStatus,
        reason: str | None,
        *,
        forced: bool,
        error_code: str | None,
        observed: bool,
    ) -> Run:
        heartbeat = read_heartbeat(record.beat_file)
        measured: Mapping[str, Any] = {} if heartbeat is None else heartbeat.run
        ended = utc_now()
        if not observed:
            ended = _time(measured.get("seen_at")) or ended
        cause = self._why_ended(slot, record) if status in _STOPS else NO_CAUSE
        return Run(
            **_begin(record, slot.origin),
            **_figures(measured, heartbeat),
            host=self._host,
            connected_at=_time(measured.get("connected_at")) or _running_since(slot, record),
            # A clock that was set back meanwhile must not make a run end before it started.
            ended_at=max(record.created_at, ended),
            observed=observed,
            status=str(status),
            exit_code=slot.exit_code,
            error_code=error_code,
            reason=cut(None if reason is None else slot.strip_account(reason)),
            forced=forced,
            ended_by=cut(cause.by) or "",
            ended_why=cut(cause.why) or "",
        )

    def ended_without_record(self, info: WorkerInfo, *, observed: bool) -> None:
        """Record the end of a worker of which this host has only the status that it published."""
        try:
            self._sink.note(Run.of_record(info, self._host, observed=observed))
        except Exception as error:
            self._lost(info.account_id, error)

    @staticmethod
    def _lost(account_id: str, error: Exception) -> None:
        text = f"a run is missing in the history: {type(error).__name__}: {error}"
        logs.event(logger, logging.ERROR, "run_not_recorded", text, account=account_id)

    def _why_ended(self, slot: Slot, record: WorkerRecord) -> RunCause:
        if slot.rests:
            return RunCause(why=SCHEDULE)
        return self._end_cause(record.account_id, record.generation)


def _begin(record: WorkerRecord, origin: RunCause) -> dict[str, Any]:
    """Return what is known of a run since its start."""
    return {
        "account_id": record.account_id,
        "worker_id": record.worker_id,
        "pid": record.process.pid,
        "gateway": record.gateway,
        "epoch": record.epoch,
        "generation": record.generation,
        "by": cut(origin.by) or "",
        "why": cut(origin.why) or "",
        "command": cut(origin.command) or "",
        "asked_at": _moment(origin.at),
        "started_at": record.created_at,
        "restarts": record.restarts,
        "version": record.software_version,
        "config_version": record.config_version,
    }


def _moment(milliseconds: int) -> datetime | None:
    with contextlib.suppress(ValueError, OverflowError, OSError):  # beyond every calendar
        return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
    return None


def _running_since(slot: Slot, record: WorkerRecord) -> datetime | None:
    """Return when the worker was seen connected: one of an earlier version writes no notes."""
    info = slot.info
    return info.started_at if info is not None and info.worker_id == record.worker_id else None


def _figures(measured: Mapping[str, Any], heartbeat: Heartbeat | None) -> dict[str, Any]:
    status: Mapping[str, Any] = {} if heartbeat is None else heartbeat.status
    peak = measured.get("memory_peak_bytes")
    return {
        "memory_peak_bytes": peak if type(peak) is int and peak >= 0 else None,
        "currency": _text(status.get("currency")),
        "equity_first": _text(measured.get("equity_first")),
        "equity_last": _text(status.get("equity")),
    }


def _text(value: object) -> str | None:
    return value[:100] if isinstance(value, str) else None


def _time(value: object) -> datetime | None:
    with contextlib.suppress(ValueError, OverflowError):
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
        return found.astimezone(UTC) if found is not None and found.tzinfo is not None else None
    return None


__all__ = ["EndCause", "NoRuns", "RunRecorder", "RunSink"]
