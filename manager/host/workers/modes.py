"""Trading modes of workers: what one reports, and how it is asked to change."""

from manager.errors import CommandRefusedError
from manager.host.workers.records import WorkerRecord
from manager.host.workers.slot import Slot
from manager.session.control import ControlError
from manager.session.heartbeat_file import read_heartbeat
from manager.states import TradingMode

#: Seconds that an order which is on its way may take before a change of the mode is refused, and more for the answer.
_ORDER_SECONDS = 10.0
_ANSWER_SECONDS = 2.0


def reported_mode(record: WorkerRecord) -> TradingMode:
    """Return the mode that the worker of this record reported last; `normal` if it reported none."""
    heartbeat = read_heartbeat(record.beat_file)
    try:
        return TradingMode(str(heartbeat.status.get("trading_mode", "normal") if heartbeat else "normal"))
    except ValueError:
        return TradingMode.NORMAL


def ask_for_mode(slot: Slot, mode: TradingMode, by: str) -> None:
    """Have the slot's worker change its mode; once this returns, it has. The caller holds the slot's lock.

    Raises CommandRefusedError if the worker did not answer, or an order of it is on its way for too long.
    """
    request = {"op": "mode", "mode": str(mode), "seconds": _ORDER_SECONDS, "by": by}
    try:
        answer = slot.ask(request, timeout=_ORDER_SECONDS + _ANSWER_SECONDS)
    except ControlError as error:
        raise CommandRefusedError(
            f"{slot.account_id}: its worker did not answer ({error}); its host tries again until it is {mode}"
        ) from None
    if not answer.get("ok"):
        raise CommandRefusedError(
            f"{slot.account_id}: {answer.get('error', 'no reason given')}; its host tries again until it is {mode}"
        )
    slot.mode = mode
