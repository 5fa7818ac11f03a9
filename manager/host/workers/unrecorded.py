"""Workers of this host that its pool has no record of, known by the heartbeat that they still send.

`manager.host.workers.held_files` rebuilds most lost records. What is left: a worker that the system does not show to this agent
(another container, a system without `/proc`), or one of an older version, which keeps no note. Its account is `unknown`,
never `failed`; no start gets past it; a stop ends its process, or fails and says what still lives.
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

#: Seconds that a stop waits by default for a worker whose configuration this host may not know.
_STOP_SECONDS: Final = 30.0
#: Seconds within which a killed process must be gone.
_KILL_SECONDS: Final = 5.0

#: Says whether a worker id is one that the pool has a record of.
Knows = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """One such worker."""

    account_id: str
    worker_id: str
    epoch: int
    #: Seconds since its last heartbeat.
    age_seconds: float
    #: Its process, if it is on this machine and provably the worker.
    process: ProcessRef | None

    def explain(self, host: str) -> str:
        """Return one line for readers: what is known, and what to do."""
        where = (
            f"process {self.process.pid}" if self.process is not None else "a process that is not found here"
        )
        return (
            f"{self.account_id}: this host's record of worker {self.worker_id} is lost, but the worker lives on host "
            f"{host} ({where}, last heartbeat {self.age_seconds:.0f} s ago) and may trade; end it with "
            f"`manager stop {self.account_id}`"
        )


class UnrecordedWorkers:
    """Finds and ends such workers. Thread-safe."""

    def __init__(
        self, store: FleetStore, leases: LeaseStore, held: HeldFiles, host: str, fresh_seconds: float
    ) -> None:
        self._store = store
        self._leases = leases
        self._held = held
        self._host = host
        self._fresh = fresh_seconds

    def find_all(self, knows: Knows) -> list[Unrecorded]:
        """Return every such worker. Raises FleetUnavailableError."""
        found = (self._judge(key, beat, knows) for key, beat in self._store.beats(self._host).items())
        return [one for one in found if one is not None]

    def find(self, account_id: str, knows: Knows) -> Unrecorded | None:
        """Return the account's such worker; None if it has none. Raises FleetUnavailableError."""
        return self._judge(account_id, self._store.beat(self._host, account_id), knows)

    def holds(self, holder: Holder) -> bool:
        """Say whether the process of a lease's holder still lives here, though it has not renewed the lease lately.

        A worker that is paused renews nothing; without this, its lease would be freed as one of a worker that was never
        made. Raises FleetUnavailableError.
        """
        if self._held.process(holder.worker_id) is not None:
            return True
        beat = self._store.beat(self._host, holder.account_id)
        if beat is None or beat.data.get("worker_id") != holder.worker_id:
            return False
        process = ProcessRef.from_dict(beat.data)
        return process is not None and process.alive()

    def end(self, found: Unrecorded, timeout: float | None) -> None:
        """End the worker: SIGTERM, then SIGKILL at the deadline. Blocks; returns once it has provably ended.

        Raises StopFailedError if it cannot be found or killed, FleetUnavailableError if its lease cannot be given up.
        """
        process = found.process
        if process is None:
            raise StopFailedError(
                f"{found.account_id}: not stopped: worker {found.worker_id} still renews its lease (last heartbeat "
                f"{found.age_seconds:.0f} s ago), but this host has lost its record and finds no process of it: end "
                f"the process by hand on host {self._host}, then stop the account again"
            )
        logs.event(
            logger,
            logging.WARNING,
            "stop_unrecorded",
            "a worker without a record is stopped by signal",
            account=found.account_id,
            worker=found.worker_id,
            pid=process.pid,
        )
        process.signal(signal.SIGTERM)
        if not process.wait(_STOP_SECONDS if timeout is None else max(0.0, timeout)):
            process.kill()
            if not process.wait(_KILL_SECONDS):
                raise StopFailedError(
                    f"{found.account_id}: process {process.pid} is still there {_KILL_SECONDS:g} s after it was killed: "
                    f"the account may still trade; look at the host (a hung disk or driver), then stop it again"
                )
        # Which gateway it has is not known here: what its program left, if it ran one, is found by the worker's mark.
        left = end_program(found.worker_id, found.account_id, seconds=_KILL_SECONDS)
        if left:
            raise StopFailedError(
                f"{found.account_id}: the worker has ended, but processes of its program could not be killed and may "
                f"still trade: {', '.join(left)}. End them on host {self._host}, then stop the account again"
            )
        with contextlib.suppress(FleetUnavailableError):  # then it is freed later: nothing renews it any more
            for holder in self._leases.holders():
                if holder.worker_id == found.worker_id and holder.host == self._host:
                    self._leases.release([holder.claim], holder.epoch)

    def info(self, found: Unrecorded) -> WorkerInfo:
        """Return the record by which readers see such a worker: `unknown`, with the reason. Raises FleetUnavailableError."""
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

    def _judge(self, account_id: str, beat: Timestamped | None, knows: Knows) -> Unrecorded | None:
        if beat is None:
            return None
        worker_id, epoch = str(beat.data.get("worker_id", "")), beat.data.get("epoch")
        if not worker_id or knows(worker_id):
            return None
        process = _worker_process(account_id, beat) or self._held.process(worker_id)
        if process is None and beat.age_seconds > self._fresh:
            return None
        return Unrecorded(
            account_id, worker_id, epoch if isinstance(epoch, int) else 0, beat.age_seconds, process
        )


def _worker_process(account_id: str, beat: Timestamped) -> ProcessRef | None:
    """Return the live process that a heartbeat names, if it is a worker of the account.

    Anybody who may write to Redis can name a process there: one that does not bear a worker's name is not ended.
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


__all__ = ["Knows", "Unrecorded", "UnrecordedWorkers"]
