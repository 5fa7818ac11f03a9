"""What a dead worker may have left running: the program that it ran, and what that started."""

import logging
from typing import Final

from manager import logs
from manager.gateways.programs import kill_marked
from manager.host.records import WorkerRecord

logger = logging.getLogger(__name__)

#: Seconds within which killed processes must be gone.
_KILL_SECONDS: Final = 2.0


def end_remains(record: WorkerRecord) -> None:
    """End what the worker left behind; called when it has provably ended, before anybody may start the next one.

    A program dies with its worker where the system can see to that, but its own children do not.
    """
    if record.gateway == "command" and not kill_marked(record.worker_id, _KILL_SECONDS):
        logs.event(
            logger,
            logging.CRITICAL,
            "remains",
            "a process of its program could not be killed and may still trade: end it by hand",
            account=record.account_id,
            worker=record.worker_id,
        )
