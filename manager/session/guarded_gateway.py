"""The gateway of a session: each call checks the lease and has a deadline.

The call and its deadline are in the heartbeat file, so that the host detects a call that never returns. A
worker without a lease sends nothing to the venue.
"""

import inspect
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from decimal import Decimal
from socket import socket
from typing import Final, TypeVar

from manager.gateways.base import (
    Account,
    Gateway,
    Health,
    Instrument,
    Position,
    Session,
    Side,
    Tick,
    TradingPaused,
    WakesLoop,
)
from manager.session.heartbeat_file import HeartbeatWriter
from manager.session.lease import Lease
from manager.states import TradingMode

T = TypeVar("T")

#: Seconds. A healthy venue reads an account, a position or a tick faster.
READ_SECONDS: Final = 10.0
#: Seconds. A venue may take longer for an order than for a read, and killing the worker before the answer
#: leaves the outcome of the order unknown.
ORDER_SECONDS: Final = 30.0
#: Seconds that a disconnect without a deadline may take.
DISCONNECT_SECONDS: Final = 10.0

#: Why a session in this trading mode sends no order.
_NO_ORDERS: Final = {
    TradingMode.WAITING: "the session waits for its window to open: no order is sent before",
    TradingMode.CLOSE_ONLY: "the session is close-only: no order that opens a position is sent",
    TradingMode.PAUSED: "the session is paused: no order is sent until it is resumed",
}


class GuardedGateway(Gateway):
    """A `Gateway` that wraps the account's gateway; strategies get this one.

    Once the lease is lost every method except `disconnect` raises LeaseLost instead of calling the venue.
    """

    def __init__(
        self,
        gateway: Gateway,
        beat: HeartbeatWriter,
        lease: Lease,
        disconnect_seconds: float = DISCONNECT_SECONDS,
    ) -> None:
        """Wrap `gateway`.

        A disconnect without a deadline that takes longer than `disconnect_seconds` counts as hung.
        """
        self._gateway = gateway
        self._wakes = gateway if isinstance(gateway, WakesLoop) else None
        self._beat = beat
        self._lease = lease
        self._disconnect_seconds = disconnect_seconds
        self._takes_deadline = _takes_deadline(gateway)
        #: Held while an order is in flight, so that no order is sent after a pause was acknowledged.
        self._ordering = threading.Lock()
        self._mode = TradingMode.NORMAL

    def connect(self, deadline: float) -> Session:
        return self._call("connect", deadline, lambda: self._gateway.connect(deadline))

    def disconnect(self, deadline: float | None = None) -> None:
        """Close the session, even without a lease.

        The next holder of the lease must not find it open.
        """
        noted = time.monotonic() + self._disconnect_seconds if deadline is None else deadline
        options = (deadline,) if self._takes_deadline else ()
        self._noted("disconnect", noted, lambda: self._gateway.disconnect(*options))

    def check(self) -> Health:
        return self._call("check", self._within(READ_SECONDS), self._gateway.check)

    def wake_source(self) -> socket | None:
        """Return a socket that is readable when `check` should be called.

        None if there is none.
        """
        return None if self._wakes is None else self._wakes.wake_source()

    def account(self) -> Account:
        return self._call("account", self._within(READ_SECONDS), self._gateway.account)

    def instrument(self, symbol: str) -> Instrument:
        return self._call("instrument", self._within(READ_SECONDS), lambda: self._gateway.instrument(symbol))

    def positions(self) -> Sequence[Position]:
        return self._call("positions", self._within(READ_SECONDS), lambda: list(self._gateway.positions()))

    def tick(self, symbol: str) -> Tick:
        return self._call("tick", self._within(READ_SECONDS), lambda: self._gateway.tick(symbol))

    def submit_order(
        self, client_order_id: str, *, symbol: str, side: Side, volume: Decimal, comment: str = ""
    ) -> Position:
        """See `Gateway.submit_order`.

        Raises TradingPaused in every trading mode but `normal`.
        """
        with self._ordering:
            if self._mode is not TradingMode.NORMAL:
                raise TradingPaused(_NO_ORDERS[self._mode])
            return self._call(
                "submit_order",
                self._within(ORDER_SECONDS),
                lambda: self._gateway.submit_order(
                    client_order_id, symbol=symbol, side=side, volume=volume, comment=comment
                ),
            )

    def set_mode(self, mode: TradingMode, seconds: float) -> bool:
        """Set the trading mode, which blocks orders or allows them again. Thread-safe.

        Waits up to `seconds` for an order in flight. Returns False and changes nothing if it has not ended by
        then.
        """
        if not self._ordering.acquire(timeout=max(0.0, seconds)):
            return False
        try:
            self._mode = mode
        finally:
            self._ordering.release()
        return True

    def close_position(self, position_id: str, volume: Decimal | None = None) -> None:
        self._call(
            "close_position",
            self._within(ORDER_SECONDS),
            lambda: self._gateway.close_position(position_id, volume),
        )

    def _call(self, name: str, deadline: float, call: Callable[[], T]) -> T:
        self._lease.check()
        return self._noted(name, deadline, call)

    def _noted(self, name: str, deadline: float, call: Callable[[], T]) -> T:
        self._beat.begin_call(name, deadline)
        try:
            return call()
        finally:
            self._beat.end_call()

    @staticmethod
    def _within(seconds: float) -> float:
        return time.monotonic() + seconds


def _takes_deadline(gateway: Gateway) -> bool:
    """Return whether the gateway's `disconnect` takes a deadline (since 0.3)."""
    try:
        inspect.signature(gateway.disconnect).bind(0.0)
    except TypeError:
        warnings.warn(
            f"{type(gateway).__name__}.disconnect() takes no deadline: give it the parameter "
            "`deadline: float | None = None`; from version 0.4 it is required",
            DeprecationWarning,
            stacklevel=3,
        )
        return False
    return True
