"""Client of the paper venue, for its gateway and for administration."""

import contextlib
import socket
import time
from collections.abc import Mapping
from typing import Any, Self

from manager.gateways.base import (
    AuthenticationFailed,
    ConnectionLost,
    ConnectTimeout,
    GatewayError,
    InsufficientFunds,
    InvalidRequest,
    MarketClosed,
    NotSupported,
    OrderRejected,
    OutcomeUnknown,
    PriceMoved,
    RateLimited,
    TradingDisabled,
    VenueNotFound,
    WrongAccount,
)
from manager.gateways.paper.protocol import MAX_LINE, ProtocolError, decode, encode, split_address

_ERRORS: Mapping[str, type[GatewayError]] = {
    error.code: error
    for error in (
        AuthenticationFailed,
        InsufficientFunds,
        InvalidRequest,
        MarketClosed,
        NotSupported,
        OrderRejected,
        OutcomeUnknown,
        PriceMoved,
        RateLimited,
        TradingDisabled,
        WrongAccount,
    )
}


class VenueLink:
    """One connection to a venue.

    One request at a time, each with a deadline (`time.monotonic()` seconds).

    ConnectionLost and ConnectTimeout close it, so that a late answer is not used for the next request.
    """

    def __init__(self, address: str, deadline: float) -> None:
        """Connect; blocks until `deadline` at most.

        Raises:
            VenueNotFound: No venue listens at the address.
            ConnectTimeout: The connection was not made before `deadline`.
            InvalidRequest: The address is not valid here.
        """
        try:
            where = split_address(address)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        self._received = bytearray()
        self._socket = _connected(where, address, deadline)

    def ask(self, message: Mapping[str, Any], deadline: float) -> dict[str, Any]:
        """Send a request and return the answer.

        Raises:
            ConnectionLost: The connection broke; the venue may have handled the request.
            ConnectTimeout: No answer arrived before `deadline`.
        """
        try:
            self._socket.settimeout(_left(deadline))
            self._socket.sendall(encode(message))
            while b"\n" not in self._received:
                self._socket.settimeout(_left(deadline))
                data = self._socket.recv(65_536)
                if not data:
                    raise ConnectionLost(f"the venue closed the connection during {message['op']}")
                self._received += data
                if len(self._received) > 16 * MAX_LINE:
                    raise ConnectionLost("the venue sent a line that is too long")
            line, _, rest = self._received.partition(b"\n")
            self._received = rest
            return decode(bytes(line))
        except TimeoutError:
            self.close()
            raise ConnectTimeout(f"the venue did not answer {message['op']} in time") from None
        except (OSError, ProtocolError) as error:
            self.close()
            raise ConnectionLost(
                f"the connection to the venue broke during {message['op']}: {error}"
            ) from None
        except ConnectionLost:
            self.close()
            raise

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()


def result_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of an answer.

    Raises the GatewayError of an error answer.
    """
    error = answer.get("error")
    if isinstance(error, dict):
        raise _ERRORS.get(str(error.get("code")), OrderRejected)(str(error.get("message")))
    found = answer.get("ok")
    return found if isinstance(found, dict) else {}


class VenueAdmin:
    """Administration of a venue: accounts, scripted faults and counters.

    A context manager.

    Methods raise GatewayError.
    """

    def __init__(self, address: str, *, timeout_seconds: float = 5.0) -> None:
        self._timeout = timeout_seconds
        self._link = VenueLink(address, time.monotonic() + timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._link.close()

    def create_account(self, server: str, login: int | str, password: str, **terms: Any) -> None:
        """Create an account; `terms` are balance, leverage and position_mode.

        Raises InvalidRequest if the account exists.
        """
        self._ask("enrol", server=server, login=login, password=password, **terms)

    def script_fault(
        self,
        server: str,
        login: int | str,
        kind: str,
        *,
        after: int = 0,
        count: int | None = None,
        seconds: float = 0.0,
        on: tuple[str, ...] = (),
    ) -> None:
        """Inject the fault `kind` into calls of this account.

        It begins after `after` successful calls and happens `count` times (None: until it is cleared). `on`
        limits it to some operations; `seconds` is the delay of the fault `slow`.
        """
        self._ask(
            "fault",
            server=server,
            login=login,
            kind=str(kind),
            after=after,
            count=count,
            seconds=seconds,
            on=list(on),
        )

    def clear_faults(self, server: str, login: int | str) -> None:
        self._ask("clear_faults", server=server, login=login)

    def stats(self) -> dict[str, Any]:
        """Return the counters of the venue.

        `sessions` is the number of live sessions, `overlaps` counts overlapping sessions since the venue
        started, and `live` lists server, login and worker of each session.
        """
        return self._ask("stats")

    def accounts(self) -> list[dict[str, Any]]:
        """Return all accounts with balance and counters of logins and overlaps."""
        found: list[dict[str, Any]] = self._ask("accounts")["accounts"]
        return found

    def _ask(self, op: str, **request: Any) -> dict[str, Any]:
        return result_of(self._link.ask({"op": op, **request}, time.monotonic() + self._timeout))


def _connected(where: str | tuple[str, int], address: str, deadline: float) -> socket.socket:
    family = socket.AF_INET if isinstance(where, tuple) else getattr(socket, "AF_UNIX", None)
    if family is None:
        raise InvalidRequest(f"{address}: this system has no Unix sockets; use tcp:host:port")
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        while True:
            found.settimeout(_left(deadline))
            try:
                found.connect(where)
                break
            except BlockingIOError:
                # A Unix socket with a full connection queue fails at once instead of waiting.
                time.sleep(0.01)
        if isinstance(where, tuple):
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except TimeoutError:
        found.close()
        raise ConnectTimeout(f"no connection to the venue at {address} in time") from None
    except OSError as error:
        found.close()
        raise VenueNotFound(f"no venue at {address}: {error.strerror or error}") from None
    except BaseException:
        found.close()
        raise
    return found


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
