"""The gateway protocol: how a worker talks to its venue.

A gateway is synchronous, single-threaded and used inside one worker only. Datetimes are aware UTC. Prices,
volumes and money are Decimal. Money is in the account's currency, volume in the venue's native unit
(see `Instrument`).
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
    """How the venue keeps positions of one instrument."""

    NETTING = "netting"
    HEDGING = "hedging"


class Side(StrEnum):
    """The direction of a position or an order."""

    BUY = "buy"
    SELL = "sell"


class TradeMode(StrEnum):
    """Which orders the venue accepts for an instrument."""

    FULL = "full"
    LONG_ONLY = "long_only"
    SHORT_ONLY = "short_only"
    CLOSE_ONLY = "close_only"
    DISABLED = "disabled"


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
    """The account's figures, as the venue reports them."""

    balance: Decimal
    equity: Decimal
    margin: Decimal
    free_margin: Decimal
    currency: str
    open_positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """An instrument that the venue lists.

    The fields with defaults are what sizes, limits and stops need; a default means that the venue does not
    report the value. Without currencies no size is computed.
    """

    symbol: str
    digits: int
    tick_size: Decimal
    contract_size: Decimal
    volume_min: Decimal
    volume_max: Decimal
    volume_step: Decimal
    base: str = ""
    #: The currency of profit and loss.
    profit_currency: str = ""
    margin_currency: str = ""
    #: The price difference that people call a pip, if the venue or its market has one.
    pip_size: Decimal | None = None
    #: The least distance of a stop from the price, as a price difference.
    stops_distance: Decimal = Decimal(0)
    #: Closer than this to the price, the venue refuses to change a stop.
    freeze_distance: Decimal = Decimal(0)
    #: The most volume that the account may hold in one direction; None: no limit.
    volume_limit: Decimal | None = None
    trade_mode: TradeMode = TradeMode.FULL
    #: Whether a contract is worth a fixed amount of the profit currency and settles in `base`.
    inverse: bool = False
    #: The loss of one unit of volume at one tick, in the account's currency, as the venue states it.
    loss_tick_value: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A closed bar; `time` is the instant at which it opened (aware UTC)."""

    symbol: str
    timeframe: str
    time: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """The latest prices of an instrument."""

    symbol: str
    bid: Decimal
    ask: Decimal
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """An open position."""

    id: str
    symbol: str
    side: Side
    volume: Decimal
    open_price: Decimal
    opened_at: datetime
    profit: Decimal
    #: The stop that the venue holds for the position; None: none, or the gateway does not report it.
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    client_order_id: str | None = None
    #: Whether an order of this account's worker opened it.
    ours: bool = False
    swap: Decimal = Decimal(0)
    current_price: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Health report of a gateway; `reason` is set if anything is wrong."""

    ipc_ok: bool
    venue_connected: bool
    can_trade: bool
    account_matches: bool
    last_tick_age_s: float | None = None
    latency_ms: float | None = None
    reason: str | None = None
    #: Whether the problem has lasted longer than its threshold, so that it will not pass by itself.
    unhealthy: bool = False
    #: Status text of the session, for people.
    status: str | None = None


class GatewayError(Exception):
    """Base class of gateway errors.

    The class states what happened; its flags state how the caller may react.
    """

    code: ClassVar[str] = "gateway_error"
    retryable: ClassVar[bool] = False
    #: The venue may or may not have acted: check its state before sending again.
    outcome_unknown: ClassVar[bool] = False
    #: The session is over, and its worker ends. Any other error is about one request: the session continues.
    ends_session: ClassVar[bool] = False

    def __init__(self, message: str = "") -> None:
        super().__init__(message)


class InvalidRequest(GatewayError):
    """Raised when the venue or the gateway cannot interpret a request."""

    code = "invalid_request"


class AuthenticationFailed(GatewayError):
    """Raised when the venue refuses the credentials.

    Do not retry: brokers lock accounts after repeated failures.
    """

    code = "authentication_failed"
    ends_session = True


class VenueNotFound(GatewayError):
    """Raised when the venue, or the program to reach it, is not found."""

    code = "venue_not_found"
    ends_session = True


class ConnectTimeout(GatewayError):
    """Raised when the venue did not connect or answer in time."""

    code = "connect_timeout"
    retryable = True
    ends_session = True


class ConnectionLost(GatewayError):
    """Raised when an established connection broke."""

    code = "connection_lost"
    retryable = True
    ends_session = True


class WrongAccount(GatewayError):
    """Raised when the venue answers for another account."""

    code = "wrong_account"
    ends_session = True


class TradingDisabled(GatewayError):
    """Raised when the venue gives the account read-only access."""

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
    """Raised when the venue refuses an order for any other reason."""

    code = "order_rejected"


class PriceMoved(GatewayError):
    """Raised when the price of an order is no longer available (a requote)."""

    code = "price_moved"
    retryable = True


class RateLimited(GatewayError):
    """Raised when the venue asks for fewer requests."""

    code = "rate_limited"
    retryable = True


class OutcomeUnknown(GatewayError):
    """Raised when an order was sent but its outcome was not confirmed."""

    code = "outcome_unknown"
    outcome_unknown = True


class NotSupported(GatewayError):
    """Raised when a gateway does not support the operation."""

    code = "not_supported"


class ForcedEnd(GatewayError):
    """Raised by `disconnect` if a process of the gateway had to be killed.

    The session is closed.
    """

    code = "forced_end"


@runtime_checkable
class CancelsConnect(Protocol):
    """A gateway whose `connect` can be cancelled (optional).

    Without it, a worker that is stopped while it connects is killed.
    """

    def cancel_connect(self) -> None:
        """Make a running `connect` release its resources and raise ConnectionLost.

        Does not block. Callable at any time, from any thread and from a signal handler.
        """


class Gateway(Protocol):
    """Operations that a worker uses on a venue.

    A method reports an expected failure only as a `GatewayError`.
    """

    def connect(self, deadline: float) -> Session:
        """Open the session.

        Blocks until `deadline` (`time.monotonic()` seconds) at most.

        Raises AuthenticationFailed, WrongAccount, VenueNotFound, ConnectTimeout, ConnectionLost or
        InvalidRequest.
        """

    def check(self) -> Health:
        """Ask the venue and return the session's health.

        Raises nothing; the returned `Health` reports problems.
        """

    def disconnect(self, deadline: float | None = None) -> None:
        """Close the session and wait until it is closed.

        Idempotent. Returns after the venue received the request, or is unreachable.
        `deadline` (`time.monotonic()` seconds) limits a clean end; None: the gateway's own limit.
        Raises ForcedEnd once everything has ended, if some of it had to be killed.
        """

    def account(self) -> Account: ...

    def instrument(self, symbol: str) -> Instrument: ...

    def tick(self, symbol: str) -> Tick: ...

    def positions(self) -> Sequence[Position]: ...

    def submit_order(
        self, client_order_id: str, *, symbol: str, side: Side, volume: Decimal, comment: str = ""
    ) -> Position:
        """Send a market order and return its position.

        Idempotent by `client_order_id`: sending it again returns the position of the first call.

        Raises InvalidRequest, TradingDisabled, MarketClosed, InsufficientFunds, PriceMoved, OrderRejected, or
        OutcomeUnknown where the order left and no answer came.
        """

    def close_position(self, position_id: str, volume: Decimal | None = None) -> None:
        """Close a position, or `volume` of it.

        Idempotent: closing a closed position succeeds.
        """


@runtime_checkable
class WakesLoop(Protocol):
    """A gateway that can wake the session's loop (optional).

    It does so when its session may have ended. The loop then calls `check`. Without it, the loop calls
    `check` at each heartbeat.
    """

    def wake_source(self) -> socket | None:
        """Return a socket that is readable while `check` is due, or None.

        `check` must make it unreadable, or report that the session is over.
        """
