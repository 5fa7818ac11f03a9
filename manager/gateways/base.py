"""The gateway protocol: how a worker talks to its venue.

A gateway is synchronous, single-threaded and used inside one worker only. Datetimes are aware UTC. Prices, volumes and
money are Decimal, money in the account's currency, volume in the venue's native unit (`Instrument` says which).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from socket import socket
from typing import ClassVar, Protocol, runtime_checkable


class Environment(StrEnum):
    """What kind of money an account trades."""

    DEMO = "demo"
    CONTEST = "contest"
    REAL = "real"


class PositionMode(StrEnum):
    NETTING = "netting"
    HEDGING = "hedging"


class Side(StrEnum):
    BUY = "buy"
    SELL = "sell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A connected session, as the venue describes it."""

    account_id: str
    server: str
    environment: Environment
    position_mode: PositionMode
    can_trade: bool
    blocked_reason: str | None
    currency: str
    leverage: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    balance: Decimal
    equity: Decimal
    margin: Decimal
    free_margin: Decimal
    currency: str
    open_positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    symbol: str
    digits: int
    tick_size: Decimal
    contract_size: Decimal
    volume_min: Decimal
    volume_max: Decimal
    volume_step: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    symbol: str
    bid: Decimal
    ask: Decimal
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    id: str
    symbol: str
    side: Side
    volume: Decimal
    open_price: Decimal
    opened_at: datetime
    profit: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What a gateway says of itself; `reason` is set wherever something is not well."""

    ipc_ok: bool
    venue_connected: bool
    can_trade: bool
    account_matches: bool
    last_tick_age_s: float | None = None
    latency_ms: float | None = None
    reason: str | None = None
    #: Whether the trouble has lasted for as long as its own threshold says: it does not pass by itself.
    unhealthy: bool = False
    #: What the session says of itself, for people.
    status: str | None = None


class GatewayError(Exception):
    """Root of what a gateway raises; the class says what happened, the flags what may be done about it."""

    code: ClassVar[str] = "gateway_error"
    retryable: ClassVar[bool] = False
    #: The venue may or may not have acted: look before anything is sent again.
    outcome_unknown: ClassVar[bool] = False
    #: The session is over, and its worker ends. Any other error is about one request: the session goes on.
    ends_session: ClassVar[bool] = False

    def __init__(self, message: str = "") -> None:
        super().__init__(message)


class InvalidRequest(GatewayError):
    """Raised when the venue or the gateway cannot make sense of a request."""

    code = "invalid_request"


class AuthenticationFailed(GatewayError):
    """Raised when the venue refuses the credentials; brokers lock accounts that try again."""

    code = "authentication_failed"
    ends_session = True


class VenueNotFound(GatewayError):
    """Raised when the venue, or the program that leads to it, is not where the configuration says."""

    code = "venue_not_found"
    ends_session = True


class ConnectTimeout(GatewayError):
    """Raised when the venue did not finish the connection, or did not answer on it, in time."""

    code = "connect_timeout"
    retryable = True
    ends_session = True


class ConnectionLost(GatewayError):
    """Raised when an established connection broke."""

    code = "connection_lost"
    retryable = True
    ends_session = True


class WrongAccount(GatewayError):
    """Raised when the venue answers for another account than the configured one."""

    code = "wrong_account"
    ends_session = True


class TradingDisabled(GatewayError):
    """Raised when the venue lets the account look but not trade."""

    code = "trading_disabled"


class TradingPaused(GatewayError):
    """Raised instead of an order that a paused session would send."""

    code = "trading_paused"
    retryable = True


class MarketClosed(GatewayError):
    """Raised when the instrument does not trade at this time."""

    code = "market_closed"
    retryable = True


class InsufficientFunds(GatewayError):
    """Raised when free margin does not cover an order."""

    code = "insufficient_funds"


class OrderRejected(GatewayError):
    """Raised when the venue refuses an order for a reason of its own."""

    code = "order_rejected"


class PriceMoved(GatewayError):
    """Raised when the price of an order is gone (a requote)."""

    code = "price_moved"
    retryable = True


class RateLimited(GatewayError):
    """Raised when the venue asks for fewer requests."""

    code = "rate_limited"
    retryable = True


class OutcomeUnknown(GatewayError):
    """Raised when an order was sent and no answer says what became of it."""

    code = "outcome_unknown"
    outcome_unknown = True


class NotSupported(GatewayError):
    """Raised when a gateway cannot do what is asked."""

    code = "not_supported"


class ForcedEnd(GatewayError):
    """Raised by `disconnect` when the session is closed, but what the gateway runs did not end in time and was killed."""

    code = "forced_end"


@runtime_checkable
class CancelsConnect(Protocol):
    """A gateway whose `connect` can give up early; without this, a worker that is stopped while it connects is killed."""

    def cancel_connect(self) -> None:
        """Have a `connect` that is under way close what it has opened and raise ConnectionLost.

        Callable at any time, in any thread and in a signal handler; returns at once.
        """


class Gateway(Protocol):
    """What a worker needs of a venue. Every method may raise a `GatewayError`, nothing else on purpose."""

    def connect(self, deadline: float) -> Session:
        """Open the session; blocks until `deadline` (`time.monotonic()` seconds) at most.

        Raises AuthenticationFailed, WrongAccount, VenueNotFound, ConnectTimeout, ConnectionLost or InvalidRequest.
        """

    def check(self) -> Health:
        """Say how the session is, by asking the venue. Raises nothing: trouble is in the answer."""

    def disconnect(self, deadline: float | None = None) -> None:
        """Close the session. Idempotent; returns only when the venue was told or is gone.

        `deadline` (`time.monotonic()` seconds) shortens what a polite end may take; None: the gateway's own time.
        Raises ForcedEnd once everything has ended, if some of it had to be killed.
        """

    def account(self) -> Account: ...

    def instrument(self, symbol: str) -> Instrument: ...

    def tick(self, symbol: str) -> Tick: ...

    def positions(self) -> Sequence[Position]: ...

    def submit_order(
        self, client_order_id: str, *, symbol: str, side: Side, volume: Decimal, comment: str = ""
    ) -> Position:
        """Send a market order. Sending the same `client_order_id` again answers with the first one's position.

        Raises InvalidRequest, TradingDisabled, MarketClosed, InsufficientFunds, PriceMoved, OrderRejected, or
        OutcomeUnknown where the order left and no answer came.
        """

    def close_position(self, position_id: str, volume: Decimal | None = None) -> None:
        """Close a position, or `volume` of it. One that is closed already is success."""


@runtime_checkable
class WakesLoop(Protocol):
    """A gateway that can say at once that its session may have ended: the session's loop then checks it.

    It is optional: any other gateway is checked at each heartbeat.
    """

    def wake_source(self) -> socket | None:
        """Return a socket that is readable while `check` should be called; None where there is none now.

        `check` must make it unreadable, or report that the session is over.
        """
