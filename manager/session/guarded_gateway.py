"""Makes a gateway call only while the lease holds, and notes it in the beat file first: one which never returns is seen."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

from manager.gateways.base import Account, Gateway, Health, Position, Session, Tick
from manager.session.heartbeat_file import HeartbeatWriter
from manager.session.lease import Lease

T = TypeVar("T")

#: Seconds. No read of an account, a position or a tick takes this long at a venue that is well.
CALL_SECONDS: Final = 10.0


class GuardedGateway:
    """The gateway as the session's loop uses it."""

    def __init__(self, gateway: Gateway, beat: HeartbeatWriter, lease: Lease) -> None:
        self._gateway = gateway
        self._beat = beat
        self._lease = lease

    def connect(self, deadline: float) -> Session:
        return self._call("connect", deadline, lambda: self._gateway.connect(deadline))

    def disconnect(self, deadline: float) -> None:
        self._noted("disconnect", deadline, self._gateway.disconnect)

    def check(self) -> Health:
        return self._call("check", self._deadline(), self._gateway.check)

    def account(self) -> Account:
        return self._call("account", self._deadline(), self._gateway.account)

    def positions(self) -> list[Position]:
        return self._call("positions", self._deadline(), lambda: list(self._gateway.positions()))

    def tick(self, symbol: str) -> Tick:
        return self._call("tick", self._deadline(), lambda: self._gateway.tick(symbol))

    def close_position(self, position_id: str) -> None:
        self._call("close_position", self._deadline(), lambda: self._gateway.close_position(position_id))

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
    def _deadline() -> float:
        return time.monotonic() + CALL_SECONDS
