"""FakeGateway: a gateway without a venue, for tests.

It passes the same contract suite as the real gateways.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count

from manager.gateways.base import (
    Account,
    AuthenticationFailed,
    ConnectionLost,
    Environment,
    GatewayError,
    Health,
    Instrument,
    InvalidRequest,
    Position,
    PositionMode,
    Session,
    Side,
    Tick,
)

_PRICE = Decimal("1.10000")
_SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY", "XAUUSD")


class FakeGateway:
    """One account at a fixed price.

    `script` injects errors; `calls` lists the calls.
    """

    def __init__(
        self, *, login: int | str = 1, server: str = "Fake-1", right: str = "right", given: str = "right"
    ) -> None:
        self._login = login
        self._server = server
        self._right = right == given
        self._connected = False
        self._scripted: dict[str, list[Callable[[], None]]] = {}
        self._positions: dict[str, Position] = {}
        self._orders: dict[str, Position] = {}
        self._numbers = count(1)
        self.calls: list[str] = []
        #: The result of `check`; assign another value to simulate a degraded or lost session.
        self.health = Health(ipc_ok=True, venue_connected=True, can_trade=True, account_matches=True)

    def script(self, call: str, trouble: GatewayError | Callable[[], None]) -> None:
        """Make the next `call` raise an error, or run a function first."""

        def act() -> None:
            if isinstance(trouble, GatewayError):
                raise trouble
            trouble()

        self._scripted.setdefault(call, []).append(act)

    def connect(self, deadline: float) -> Session:
        del deadline
        self._note("connect", connected=False)
        if not self._right:
            raise AuthenticationFailed("invalid login or password")
        self._connected = True
        return Session(
            account_id=str(self._login),
            server=self._server,
            environment=Environment.DEMO,
            position_mode=PositionMode.HEDGING,
            can_trade=True,
            blocked_reason=None,
            currency="USD",
            leverage=100,
        )

    def check(self) -> Health:
        try:
            self._note("check")
        except GatewayError as error:
            return Health(
                ipc_ok=False,
                venue_connected=False,
                can_trade=False,
                account_matches=False,
                reason=str(error),
            )
        return self.health

    def disconnect(self, deadline: float | None = None) -> None:
        del deadline
        self._note("disconnect", connected=False)
        self._connected = False

    def account(self) -> Account:
        self._note("account")
        return Account(
            balance=Decimal("10000.00"),
            equity=Decimal("10000.00"),
            margin=Decimal(0),
            free_margin=Decimal("10000.00"),
            currency="USD",
            open_positions=len(self._positions),
        )

    def instrument(self, symbol: str) -> Instrument:
        self._note("instrument", symbol)
        return Instrument(
            symbol=symbol,
            digits=5,
            tick_size=Decimal("0.00001"),
            contract_size=Decimal(100_000),
            volume_min=Decimal("0.01"),
            volume_max=Decimal(100),
            volume_step=Decimal("0.01"),
        )

    def tick(self, symbol: str) -> Tick:
        self._note("tick", symbol)
        return Tick(symbol=symbol, bid=_PRICE, ask=_PRICE + Decimal("0.00012"), time=datetime.now(UTC))

    def positions(self) -> Sequence[Position]:
        self._note("positions")
        return list(self._positions.values())

    def submit_order(
        self, client_order_id: str, *, symbol: str, side: Side, volume: Decimal, comment: str = ""
    ) -> Position:
        del comment
        self._note("submit_order", symbol)
        if client_order_id in self._orders:
            return self._orders[client_order_id]
        if not Decimal("0.01") <= volume <= 100:
            raise InvalidRequest(f"volume {volume}; 0.01 to 100 is allowed")
        position = Position(
            id=str(next(self._numbers)),
            symbol=symbol,
            side=side,
            volume=volume,
            open_price=_PRICE,
            opened_at=datetime.now(UTC),
            profit=Decimal(0),
        )
        self._positions[position.id] = self._orders[client_order_id] = position
        return position

    def close_position(self, position_id: str, volume: Decimal | None = None) -> None:
        del volume
        self._note("close_position")
        self._positions.pop(position_id, None)

    def _note(self, call: str, symbol: str | None = None, *, connected: bool = True) -> None:
        self.calls.append(call)
        waiting = self._scripted.get(call)
        if waiting:
            waiting.pop(0)()
        if connected and not self._connected:
            raise ConnectionLost("the session is not connected")
        if symbol is not None and symbol not in _SYMBOLS:
            raise InvalidRequest(f"{symbol!r} is not listed here; {', '.join(_SYMBOLS)} are")
