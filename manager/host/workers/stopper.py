"""Ending one worker: politely, then firmly, and never called ended before it is."""

import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from manager.errors import StopFailedError
from manager.host.workers.exit_reason import describe_exit
from manager.host.workers.slot import Slot
from manager.session.control import ControlError
from manager.session.exit_codes import WorkerExit
from manager.session.heartbeat_file import read_heartbeat
from manager.system import logs

logger = logging.getLogger(__name__)

#: The part of a stop's time that belongs to the polite request; the rest is TERM's, until KILL at the deadline.
_POLITE_PART: Final = 0.7


@dataclass(frozen=True, slots=True)
class StopOutcome:
    """How a worker ended that was asked to stop."""

    #: One line if it did not stop cleanly.
    reason: str | None = None
    #: Whether the worker, or the program that it ran, had to be killed: its orders may be open.
    forced: bool = False


def stop_process(
    slot: Slot, timeout: float | None, kill_seconds: float, clock: Callable[[], float] = time.monotonic
) -> StopOutcome:
    """End the slot's worker within `timeout` seconds (by default the account's own), then kill it.

    Raises StopFailedError if it could not be proven to have ended; it must then be taken to trade on.
    """
    record = slot.record
    if record is None:
        return StopOutcome()
    killed = False
    seconds = record.stop_timeout_seconds if timeout is None else max(0.0, timeout)
    deadline = clock() + seconds
    polite = seconds * _POLITE_PART
    try:
        if seconds > 0:
            slot.ask({"op": "stop", "seconds": polite}, timeout=min(2.0, polite))
    except ControlError as error:
        # A worker whose control channel is gone may still hear a signal.
        logs.event(logger, logging.WARNING, "stop_control", str(error), account=slot.account_id)
        record.process.signal(signal.SIGTERM)
    if not slot.exited.wait(polite):
        _log(slot, "SIGTERM")
        record.process.signal(signal.SIGTERM)
        if not slot.exited.wait(max(0.0, deadline - clock())):
            _log(slot, "SIGKILL")
            kill_process(slot, kill_seconds)
            killed = True
    if not killed:
        return stop_outcome(slot)
    heartbeat = read_heartbeat(record.beat_file)
    call = f" (it was in the call {heartbeat.call})" if heartbeat and heartbeat.call else ""
    text = f"the worker did not stop within {seconds:g} s{call} and was killed by its host agent"
    return StopOutcome(
        f"{text}: {heartbeat.exit_reason}" if heartbeat and heartbeat.exit_reason else text, forced=True
    )


def stop_outcome(slot: Slot) -> StopOutcome:
    """Return how the slot's worker ended that was asked to stop."""
    heartbeat = read_heartbeat(slot.record.beat_file) if slot.record is not None else None
    words = heartbeat.exit_reason if heartbeat is not None else None
    if slot.exit_code == WorkerExit.STOPPED_BY_FORCE:
        return StopOutcome(words or describe_exit(slot.exit_code, None), forced=True)
    if slot.exit_code == 0 or (slot.exit_code is None and not words):
        return StopOutcome()
    return StopOutcome(describe_exit(slot.exit_code, words))


def kill_process(slot: Slot, seconds: float) -> None:
    """Kill the slot's worker and wait for the proof. Raises StopFailedError if there is none."""
    record = slot.record
    if record is None:
        return
    record.process.kill()
    if slot.exited.wait(seconds):
        return
    # Its watcher may be behind on a host where hundreds end at once: the process itself is the proof.
    if record.process.alive():
        raise StopFailedError(
            f"{slot.account_id}: process {record.process.pid} is still there {seconds:g} s after it was killed: "
            f"the account may still trade; look at the host (a hung disk or driver), then stop it again"
        )


def _log(slot: Slot, action: str) -> None:
    logs.event(
        logger,
        logging.WARNING,
        "stop_escalated",
        f"it did not stop when asked; now {action}",
        account=slot.account_id,
        worker=slot.info.worker_id if slot.info else None,
    )
