"""The stop of one worker process.

Control channel, then SIGTERM, then SIGKILL at the deadline.
"""

import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from manager.errors import StopFailedError
from manager.host.workers.exit_reason import describe_exit
from manager.host.workers.slot import Slot
from manager.session.control import ControlError
from manager.session.exit_codes import WorkerExit
from manager.session.heartbeat_file import read_heartbeat
from manager.system import logs

logger = logging.getLogger(__name__)

#: The share of a stop's time for the request on the control channel; the rest is for SIGTERM.
_REQUEST_SHARE: Final = 0.7


@dataclass(frozen=True, slots=True)
class StopOutcome:
    """How a worker ended after a stop request."""

    #: One line if it did not stop cleanly.
    reason: str | None = None
    #: Whether the worker, or the program that it ran, had to be killed: its orders may be open.
    forced: bool = False


def stop_process(
    slot: Slot, timeout: float | None, kill_seconds: float, clock: Callable[[], float] = time.monotonic
) -> StopOutcome:
    """Stop the slot's worker within `timeout` seconds, then kill it. Blocks.

    By default the timeout is the account's own.

    Raises StopFailedError if its end could not be proven: it must then be assumed to trade.
    """
    record = slot.record
    if record is None:
        return StopOutcome()
    killed = False
    seconds = record.stop_timeout_seconds if timeout is None else max(0.0, timeout)
    deadline = clock() + seconds
    request_seconds = seconds * _REQUEST_SHARE
    try:
        if seconds > 0:
            request: dict[str, Any] = {"op": "stop", "seconds": request_seconds}
            if slot.closes_positions:
                request["open_positions"] = "close"
            slot.ask(request, timeout=min(2.0, request_seconds))
    except ControlError as error:
        # A worker whose control channel is gone may still receive a signal.
        logs.event(logger, logging.WARNING, "stop_request_failed", str(error), account=slot.account_id)
        record.process.signal(signal.SIGTERM)
    if not slot.exited.wait(request_seconds):
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
    """Return how the slot's worker ended."""
    heartbeat = read_heartbeat(slot.record.beat_file) if slot.record is not None else None
    reason = heartbeat.exit_reason if heartbeat is not None else None
    if slot.exit_code == WorkerExit.STOPPED_BY_FORCE:
        return StopOutcome(reason or describe_exit(slot.exit_code, None), forced=True)
    if slot.exit_code == 0 or (slot.exit_code is None and not reason):
        return StopOutcome()
    return StopOutcome(describe_exit(slot.exit_code, reason))


def kill_process(slot: Slot, seconds: float) -> None:
    """Kill the slot's worker and wait until it has provably ended.

    Raises StopFailedError after `seconds`.
    """
    record = slot.record
    if record is None:
        return
    record.process.kill()
    if slot.exited.wait(seconds):
        return
    # If hundreds of workers end at once, the exit handler may be late: the process itself is the proof.
    if record.process.alive():
        raise StopFailedError(
            f"{slot.account_id}: process {record.process.pid} still exists {seconds:g} s after it was "
            "killed and may still trade; check the host for a hung disk or driver, then stop the account "
            "again"
        )


def _log(slot: Slot, action: str) -> None:
    logs.event(
        logger,
        logging.WARNING,
        "stop_escalated",
        f"the worker did not stop on request; sending {action}",
        account=slot.account_id,
        worker=slot.info.worker_id if slot.info else None,
    )
