"""Live workers without a record, known by their heartbeats.

`manager.host.workers.held_files` restores most lost records. Two cases remain: a worker whose files this
agent cannot see (another container, a system without `/proc`), and one of an older version, which has no
note. Its account is `unknown`, never `failed`. A start is rejected. A stop ends the process, or fails and
names what still lives.
"""

import contextlib
import logging
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from manager.errors import FleetUnavailableError, StopFailedError
from manager.fleet import FleetStore
from manager.fleet.leases import Holder, LeaseStore
from manager.fleet.timestamped import Timestamped
from manager.host.workers.held_files import HeldFiles
from manager.host.workers.orphans import end_program
from manager.models import WorkerInfo, WorkerMetrics, WorkerPlacement, new_worker_id
from manager.session.note import process_name
from manager.states import WorkerLifecycleStatus
from manager.system import logs
from manager.system.processes import ProcessRef

logger = logging.getLogger(__name__)

#: Default timeout of a stop, in seconds: this host may not have the worker's configuration.
_STOP_SECONDS: Final = 30.0
#: Seconds for a killed process to be gone.
_KILL_SECONDS: Final = 5.0

#: Returns whether the pool accounts for the worker with this id.
AccountsFor = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """A live worker without a record."""

    account_id: str
    worker_id: str
    epoch: int
    #: Seconds since its last heartbeat.
    age_seconds: float
    #: Its process; None if it was not found on this machine, or is not provably the worker.
    process: ProcessRef | None

    def explain(self, host: str) -> str:
        """Return one line for people: what is known, and what to do."""
        where = f"process {self.process.pid}" if self.process is not None else "its process was not found"
        return (
            f"{self.account_id}: this host's record of worker {self.worker_id} is lost, but the worker "
            f"lives on host {host} ({where}, last heartbeat {self.age_seconds:.0f} s ago) and may trade; "
            f"end it with `manager stop {self.account_id}`"
        )


class UnrecordedWorkers:
    """Finds and ends live workers without a record. Thread-safe."""

    def __init__(
        self, store: FleetStore, leases: LeaseStore, held: HeldFiles, host: str, fresh_seconds: float
    ) -> None:
        self._store = store
        self._leases = leases
        self._held = held
        self._host = host
        self._fresh = fresh_seconds

    def find_all(self, accounts_for: AccountsFor) -> list[Unrecorded]:
        """Return every live worker without a record. Raises FleetUnavailableError."""
        found = (self._judge(key, beat, accounts_for) for key, beat in self._store.beats(self._host).items())
        return [one for one in found if one is not None]

    def find(self, account_id: str, accounts_for: AccountsFor) -> Unrecorded | None:
        """Return the account's live worker without a record, or None.

        Raises FleetUnavailableError.
        """
        return self._judge(account_id, self._store.beat(self._host, account_id), accounts_for)

    def holds(self, holder: Holder) -> bool:
        """Return whether the process of a lease's holder lives here.

        A suspended worker renews nothing. Without this check its lease would count as abandoned and be
        released. Raises FleetUnavailableError.
        """
        if self._held.process(holder.worker_id) is not None:
            return True
        beat = self._store.beat(self._host, holder.account_id)
        if beat is None or beat.data.get("worker_id") != holder.worker_id:
            return False
        process = ProcessRef.from_dict(beat.data)
        return process is not None and process.alive()

    def end(self, found: Unrecorded, timeout: float | None) -> None:
        """End the worker: SIGTERM, then SIGKILL at the deadline.

        Blocks until it has provably ended.

        Raises StopFailedError if its process cannot be found or killed.
        """
        process = found.process
        if process is None:
            raise StopFailedError(
                f"{found.account_id}: not stopped: worker {found.worker_id} still renews its lease (last "
                f"heartbeat {found.age_seconds:.0f} s ago), but this host has lost its record and does not "
                f"find its process: end the process on host {self._host} yourself, then stop the account "
                "again"
            )
        logs.event(
            logger,
            logging.WARNING,
            "unrecorded_worker_signalled",
            "stopping a worker without a record by signal",
            account=found.account_id,
            worker=found.worker_id,
            pid=process.pid,
        )
        process.signal(signal.SIGTERM)
        if not process.wait(_STOP_SECONDS if timeout is None else max(0.0, timeout)):
            process.kill()
            if not process.wait(_KILL_SECONDS):
                raise StopFailedError(
                    f"{found.account_id}: process {process.pid} still exists {_KILL_SECONDS:g} s after it "
                    "was killed and may still trade; check the host for a hung disk or driver, then stop "
                    "the account again"
                )
        # Its gateway is unknown here: orphans of its program, if it ran one, are found by the worker's mark.
        left = end_program(found.worker_id, found.account_id, seconds=_KILL_SECONDS)
        if left:
            raise StopFailedError(
                f"{found.account_id}: the worker has ended, but processes of its program could not be "
                f"killed and may still trade: {', '.join(left)}. End them on host {self._host}, then stop "
                "the account again"
            )
        with contextlib.suppress(
            FleetUnavailableError
        ):  # then the lease is released later, as an abandoned one
            for holder in self._leases.holders():
                if holder.worker_id == found.worker_id and holder.host == self._host:
                    self._leases.release([holder.claim], holder.epoch)

    def info(self, found: Unrecorded) -> WorkerInfo:
        """Return the worker's record with status `unknown` and the reason.

        Raises FleetUnavailableError.
        """
        info = self._store.recorded(self._host, found.account_id)
        if info is None or info.worker_id != found.worker_id:
            info = WorkerInfo(
                worker_id=found.worker_id or new_worker_id(),
                account_id=found.account_id,
                status=WorkerLifecycleStatus.UNKNOWN,
                metadata=WorkerPlacement(host=self._host, epoch=found.epoch).to_dict(),
            )
        reason = found.explain(self._host)
        return info.with_(
            status=WorkerLifecycleStatus.UNKNOWN,
            error=reason,
            metadata=WorkerMetrics(health="unknown", health_reason=reason),
        )

    def _judge(
        self, account_id: str, beat: Timestamped | None, accounts_for: AccountsFor
    ) -> Unrecorded | None:
        if beat is None:
            return None
        worker_id, epoch = str(beat.data.get("worker_id", "")), beat.data.get("epoch")
        if not worker_id or accounts_for(worker_id):
            return None
        process = _worker_process(account_id, beat) or self._held.process(worker_id)
        if process is None and beat.age_seconds > self._fresh:
            return None
        return Unrecorded(
            account_id, worker_id, epoch if isinstance(epoch, int) else 0, beat.age_seconds, process
        )


def _worker_process(account_id: str, beat: Timestamped) -> ProcessRef | None:
    """Return the process that a heartbeat names, if it is such a worker.

    Any client of Redis can write a pid there, so a process without a worker's name must never be killed.
    """
    process = ProcessRef.from_dict(beat.data)
    if process is None or not process.alive():
        return None
    with contextlib.suppress(OSError, psutil.Error):
        if sys.platform == "linux":
            name = Path(f"/proc/{process.pid}/comm").read_text(errors="replace").rstrip("\n")
            return process if name == process_name(account_id) else None
        command = psutil.Process(process.pid).cmdline()
        return process if any(part.startswith("manager.") for part in command) else None
    return None


__all__ = ["AccountsFor", "Unrecorded", "UnrecordedWorkers"]
