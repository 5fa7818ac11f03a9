"""Trading modes of workers: reads the reported mode and requests changes."""

from manager.errors import CommandRefusedError, NoWorkerError
from manager.gateways import runs_programs
from manager.host.reporting.record_sink import RecordSink
from manager.host.workers.limits import PoolLimits
from manager.host.workers.queries import WorkerQueries
from manager.host.workers.records import WorkerRecord
from manager.host.workers.slot import Slot
from manager.host.workers.slots import SlotTable
from manager.models import WorkerInfo
from manager.pool.commands import CommandSpec, mode_not_supported
from manager.session.control import ControlError
from manager.session.heartbeat_file import read_heartbeat
from manager.states import TradingMode, WorkerLifecycleStatus


class ModeChanges:
    """Changes the trading modes of a pool's workers."""

    def __init__(
        self, slots: SlotTable, queries: WorkerQueries, sink: RecordSink, limits: PoolLimits
    ) -> None:
        self._slots = slots
        self._queries = queries
        self._sink = sink
        self._limits = limits

    def set_mode(
        self, command: CommandSpec, account_id: str, by: str, mode: TradingMode | None = None
    ) -> WorkerInfo:
        """Change the mode as `command` says, or to `mode`.

        Waits for a running start or stop of the account.

        Raises:
            NoWorkerError: The account has no worker.
            CommandRefusedError: The worker did not reply, or refused.
            ValueError: The command does not change a mode.
        """
        mode = mode or command.mode
        if mode is None:
            raise ValueError(f"{command.name} does not change the trading mode")
        slot = self._slots.find(account_id)
        if slot is None or slot.info is None:
            raise NoWorkerError(f"{account_id} has no worker here: nothing to {command.name}")
        with slot.lock:
            return self._set(slot, mode, by, command.name)

    def apply_mode(self, account_id: str, mode: TradingMode, by: str = "") -> bool:
        """Bring the account's worker to the desired mode.

        Returns False if nothing was changed.

        Returns False if the worker does not run, already has the mode, or a command of the account is
        running. Raises CommandRefusedError.
        """
        slot = self._slots.find(account_id)
        if slot is None or not slot.lock.acquire(blocking=False):
            return False
        try:
            if slot.status is not WorkerLifecycleStatus.RUNNING or slot.mode is mode:
                return False
            self._set(slot, mode, by or "desired state", str(mode))
        finally:
            slot.lock.release()
        return True

    def _set(self, slot: Slot, mode: TradingMode, by: str, command: str) -> WorkerInfo:
        info = slot.info
        if info is None:
            raise NoWorkerError(f"{slot.account_id} has no worker here: nothing to {command}")
        if slot.status is WorkerLifecycleStatus.RUNNING:
            if slot.record is not None and runs_programs(slot.record.gateway):
                raise mode_not_supported(slot.account_id, command)
            request_mode(slot, mode, by, self._limits)
        slot.mode = mode
        with slot.guard:
            if slot.info is not None:
                info = slot.set_mode(mode, by)
        self._sink.flush(self._limits.publish_seconds)
        return self._queries.with_metrics(slot, info)


def reported_mode(record: WorkerRecord) -> TradingMode:
    """Return the mode in the worker's heartbeat file; `normal` if it has none."""
    heartbeat = read_heartbeat(record.beat_file)
    try:
        return TradingMode(str(heartbeat.status.get("trading_mode", "normal") if heartbeat else "normal"))
    except ValueError:
        return TradingMode.NORMAL


def request_mode(slot: Slot, mode: TradingMode, by: str, limits: PoolLimits) -> None:
    """Have the slot's worker change its mode; blocks until it has.

    The caller holds the slot's lock.

    Raises CommandRefusedError if the worker does not reply, or if an order in flight takes too long.
    """
    request = {"op": "mode", "mode": str(mode), "seconds": limits.order_seconds, "by": by}
    try:
        reply = slot.ask(request, timeout=limits.order_seconds + limits.reply_seconds)
    except ControlError as error:
        raise CommandRefusedError(
            f"{slot.account_id}: its worker did not answer ({error}); its host tries again until it is {mode}"
        ) from None
    if not reply.get("ok"):
        raise CommandRefusedError(
            f"{slot.account_id}: {reply.get('error', 'no reason given')}; its host tries again until it is "
            f"{mode}"
        )
    slot.mode = mode
