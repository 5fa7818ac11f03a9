"""The gateway as a session uses it: every call checks the lease, has a deadline, and is written to the heartbeat file.

A call that never returns is so seen from outside, and a worker that lost its lease sends nothing more.
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

T = TypeVar("T")

#: Seconds. No read of an account, a position or a tick takes this long at a venue that is well.
READ_SECONDS: Final = 10.0
#: Seconds. A venue may hold a market order for longer than a read; a worker killed meanwhile leaves its outcome open.
ORDER_SECONDS: Final = 30.0
#: Seconds that a disconnect without a deadline may take.
DISCONNECT_SECONDS: Final = 10.0


class GuardedGateway(Gateway):
    """A `Gateway` around another one. A strategy is given this one and cannot tell the difference.

    Every method but `disconnect` raises LeaseLost instead of calling the venue once the lease is lost.
    """

    def __init__(
        self,
        gateway: Gateway,
        beat: HeartbeatWriter,
        lease: Lease,
        disconnect_seconds: float = DISCONNECT_SECONDS,
    ) -> None:
        """`disconnect_seconds`: what a disconnect without a deadline may take before the worker counts as hung."""
        self._gateway = gateway
        self._wakes = gateway if isinstance(gateway, WakesLoop) else None
        self._beat = beat
        self._lease = lease
        self._disconnect_seconds = disconnect_seconds
        self._takes_deadline = _takes_deadline(gateway)
        #: Held while an order is on its way, so that a pause that was acknowledged is one.
        self._ordering = threading.Lock()
        self._paused = False

    def connect(self, deadline: float) -> Session:
        return self._call("connect", deadline, lambda: self._gateway.connect(deadline))

    def disconnect(self, deadline: float | None = None) -> None:
        """Close the session, also without a lease: whoever has it now must not find this session open."""
        noted = time.monotonic() + self._disconnect_seconds if deadline is None else deadline
        options = (deadline,) if self._takes_deadline else ()
        self._noted("disconnect", noted, lambda: self._gateway.disconnect(*options))

    def check(self) -> Health:
        return self._call("check", self._within(READ_SECONDS), self._gateway.check)

    def wake_source(self) -> socket | None:
        """Return what is readable while `check` should be called; None where the gateway has none."""
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
        """See `Gateway.submit_order`. Raises TradingPaused, and sends nothing, while the session is paused."""
        with self._ordering:
            if self._paused:
                raise TradingPaused("the session is paused: no order is sent until it is resumed")
            return self._call(
                "submit_order",
                self._within(ORDER_SECONDS),
                lambda: self._gateway.submit_order(
                    client_order_id, symbol=symbol, side=side, volume=volume, comment=comment
                ),
            )

    def pause(self, paused: bool, seconds: float) -> bool:
        """Let no more orders through, or let them through again. Thread-safe.

        Waits up to `seconds` for an order that is on its way. Returns False, and changes nothing, if it is still.
        """
        if not self._ordering.acquire(timeout=max(0.0, seconds)):
            return False
        try:
            self._paused = paused
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
    """Say whether the gateway's `disconnect` takes a deadline; one written before 0.3 does not."""
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
