"""The paper gateway: sessions at the paper venue."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NoReturn

from manager.gateways import GatewayOptions
from manager.gateways.base import (
    Account,
    ConnectionLost,
    ConnectTimeout,
    Environment,
    GatewayError,
    Health,
    Instrument,
    InvalidRequest,
    OutcomeUnknown,
    Position,
    PositionMode,
    Session,
    Side,
    Tick,
    VenueNotFound,
    WrongAccount,
)
from manager.gateways.paper.client import VenueLink, result_of

#: Timeout of one call, in seconds.
CALL_SECONDS: Final = 5.0


class PaperGateway:
    """A session at the paper venue.

    Never reconnects: ConnectionLost ends the session.
    """

    def __init__(self, options: GatewayOptions) -> None:
        self._options = options
        self._link: VenueLink | None = None
        self._last_tick: float | None = None

    def connect(self, deadline: float) -> Session:
        options = self._options
        if options.venue_address is None:
            raise VenueNotFound(
                "no paper venue is known here: `manager up` starts one, or set `venue` in the account's file "
                "or MANAGER_VENUE_URL"
            )
        if options.password is None:
            raise InvalidRequest("gateway paper needs a password: set `password` in the account's file")
        self.disconnect()
        self._link = VenueLink(options.venue_address, deadline)
        try:
            answer = self._ask(
                "login",
                deadline,
                server=options.server,
                login=options.login,
                password=options.password.get_secret_value(),
                worker=options.worker_id,
                pid=os.getpid(),
            )
            self._check_identity(answer)
        except GatewayError:
            self._close()
            raise
        return Session(
            account_id=str(answer["account_id"]),
            server=str(answer["server"]),
            environment=Environment(answer["environment"]),
            position_mode=PositionMode(answer["position_mode"]),
            can_trade=bool(answer["can_trade"]),
            blocked_reason=answer["blocked_reason"],
            currency=str(answer["currency"]),
            leverage=int(answer["leverage"]),
        )

    def check(self) -> Health:
        started = time.monotonic()
        try:
            answer = self._ask("check")
        except GatewayError as error:
            lost = isinstance(error, ConnectionLost | ConnectTimeout)
            return Health(
                ipc_ok=not lost,
                venue_connected=False,
                can_trade=False,
                account_matches=False,
                reason=str(error),
            )
        now = time.monotonic()
        matches = self._is_own_account(answer)
        reason = answer.get("blocked_reason")
        return Health(
            ipc_ok=True,
            venue_connected=True,
            can_trade=bool(answer.get("can_trade")),
            account_matches=matches,
            last_tick_age_s=None if self._last_tick is None else now - self._last_tick,
            latency_ms=round((now - started) * 1000, 3),
            reason=reason if matches else f"the venue now answers for login {answer.get('account_id')}",
        )

    def disconnect(self, deadline: float | None = None) -> None:
        if self._link is None:
            return
        try:
            latest = time.monotonic() + CALL_SECONDS
            self._ask("logout", latest if deadline is None else min(deadline, latest))
        except GatewayError:
            pass  # the venue is unreachable, so the session has ended
        finally:
            self._close()

    def account(self) -> Account:
        found = self._ask("account")
        return Account(
            balance=Decimal(found["balance"]),
            equity=Decimal(found["equity"]),
            margin=Decimal(found["margin"]),
            free_margin=Decimal(found["free_margin"]),
            currency=found["currency"],
            open_positions=found["open_positions"],
        )

    def instrument(self, symbol: str) -> Instrument:
        found = self._ask("instrument", symbol=symbol)
        return Instrument(
            symbol=symbol,
            digits=found["digits"],
            tick_size=Decimal(found["tick_size"]),
            contract_size=Decimal(found["contract_size"]),
            volume_min=Decimal(found["volume_min"]),
            volume_max=Decimal(found["volume_max"]),
            volume_step=Decimal(found["volume_step"]),
        )

    def tick(self, symbol: str) -> Tick:
        found = self._ask("tick", symbol=symbol)
        self._last_tick = time.monotonic()
        return Tick(
            symbol=symbol,
            bid=Decimal(found["bid"]),
            ask=Decimal(found["ask"]),
            time=datetime.fromtimestamp(found["time"], UTC),
        )

    def positions(self) -> Sequence[Position]:
        return [_position(found) for found in self._ask("positions")["positions"]]

    def submit_order(
        self, client_order_id: str, *, symbol: str, side: Side, volume: Decimal, comment: str = ""
    ) -> Position:
        return _position(
            self._send_order(
                "order",
                client_order_id=client_order_id,
                symbol=symbol,
                side=str(side),
                volume=str(volume),
                comment=comment,
            )
        )

    def close_position(self, position_id: str, volume: Decimal | None = None) -> None:
        self._send_order("close", position_id=position_id, volume=None if volume is None else str(volume))

    def _send_order(self, op: str, **request: Any) -> dict[str, Any]:
        if self._link is None:
            raise ConnectionLost("the session is not connected")
        try:
            return self._ask(op, **request)
        except (ConnectionLost, ConnectTimeout) as error:
            raise OutcomeUnknown(f"{error}: check the positions before you send it again") from None

    def _ask(self, op: str, deadline: float | None = None, **request: Any) -> dict[str, Any]:
        if self._link is None:
            raise ConnectionLost("the session is not connected")
        until = time.monotonic() + CALL_SECONDS if deadline is None else deadline
        answer = self._link.ask({"op": op, **request}, until)
        if "fault" in answer:
            _apply_fault(str(answer["fault"]))
        return result_of(answer)

    def _check_identity(self, answer: dict[str, Any]) -> None:
        if not self._is_own_account(answer):
            raise WrongAccount(
                f"login {self._options.login} at {self._options.server} was requested; "
                f"the venue answered for {answer.get('account_id')} at {answer.get('server')}"
            )

    def _is_own_account(self, answer: dict[str, Any]) -> bool:
        asked = (str(self._options.login), self._options.server)
        return (answer.get("account_id"), answer.get("server")) == asked

    def _close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def _position(found: dict[str, Any]) -> Position:
    return Position(
        id=found["id"],
        symbol=found["symbol"],
        side=Side(found["side"]),
        volume=Decimal(found["volume"]),
        open_price=Decimal(found["open_price"]),
        opened_at=datetime.fromtimestamp(found["opened_at"], UTC),
        profit=Decimal(found["profit"]),
    )


def _apply_fault(fault: str) -> NoReturn:
    """Apply a fault that the venue scripted to this process: crash or hang."""
    if fault == "crash":
        os.abort()
    import ctypes

    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        # PyDLL holds the GIL, like a gateway's library in a blocked call: no thread and no signal handler of
        # this process runs any more.
        libc: Any = ctypes.PyDLL(None)
        while True:
            libc.pause()
    while True:
        ctypes.PyDLL("kernel32").Sleep(60_000)
