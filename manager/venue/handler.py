"""Handles requests: logins, session calls, faults, administration.

It accepts a second login to an account, as brokers do, and counts it as an overlap, which the manager exists
to prevent. Before it counts an overlap it reads the older connection, which may be closed at the other end.
"""

import logging
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from manager.system import logs
from manager.venue.broker import Broker, RefusedError
from manager.venue.faults import Fault, FaultKind, FaultScript
from manager.venue.ledger import AccountKey, Ledger
from manager.venue.server import Connection, VenueServer

logger = logging.getLogger("manager.venue")

#: Servers whose accounts say that they are real, to rehearse what only real accounts have.
_REAL_SERVERS: Final = "Paper-Real"


class RequestHandler:
    """Answers every request of every connection. Used by one thread."""

    def __init__(self, ledger: Ledger, broker: Broker) -> None:
        self._ledger = ledger
        self._broker = broker
        self._faults = FaultScript()
        self._live: dict[AccountKey, set[Connection]] = {}
        self._overlaps = 0

    def handle(self, server: VenueServer, connection: Connection, request: dict[str, Any]) -> None:
        """Answer one request, an invalid one with an error."""
        try:
            self._carry_out(server, connection, request)
        except RefusedError as error:
            server.send(connection, {"error": {"code": error.code, "message": str(error)}})
        except (ValueError, TypeError, LookupError, InvalidOperation) as error:
            text = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
            server.send(connection, {"error": {"code": "invalid_request", "message": text}})

    def closed(self, connection: Connection) -> None:
        if connection.account is not None:
            live = self._live.get(connection.account, set())
            live.discard(connection)
            if not live:
                self._live.pop(connection.account, None)

    def _carry_out(self, server: VenueServer, connection: Connection, request: dict[str, Any]) -> None:
        name = str(request.get("op"))
        administer = _ADMINISTRATION.get(name)
        if administer is not None:
            server.send(connection, {"ok": administer(self, server, request)})
            return
        if name == "login":
            self._with_fault(
                server, connection, _key(request), name, lambda: self._login(server, connection, request)
            )
            return
        operation = _OPERATIONS.get(name)
        if operation is None:
            known = ", ".join(["login", *_OPERATIONS, *_ADMINISTRATION])
            raise RefusedError("invalid_request", f"no operation {name[:40]!r}; there are {known}")
        account = connection.account
        if account is None:
            raise RefusedError("invalid_request", f"log in before the request {name}")
        self._with_fault(
            server, connection, account, name, lambda: operation(self, connection, account, request)
        )

    def _with_fault(
        self,
        server: VenueServer,
        connection: Connection,
        account: AccountKey,
        name: str,
        do: Callable[[], dict[str, Any]],
    ) -> None:
        fault = self._faults.take(account, name)
        kind = fault.kind if fault else None
        if fault is not None:
            logs.event(
                logger, logging.INFO, "fault", kind=fault.kind, call=name, server=account[0], login=account[1]
            )
        match kind:
            case FaultKind.AUTH_FAILURE:
                raise RefusedError("authentication_failed", "invalid login or password")
            case FaultKind.CONNECT_TIMEOUT:
                return
            case FaultKind.CONNECTION_LOST:
                server.drop(connection)
            case FaultKind.REQUOTE:
                raise RefusedError("price_moved", "requote: the price has moved")
            case FaultKind.TRADING_DISABLED if name in ("order", "close"):
                raise RefusedError("trading_disabled", "trading is disabled for this account")
            case FaultKind.HANG | FaultKind.CRASH:
                server.send(connection, {"fault": str(kind)})
            case FaultKind.REPLY_LOST:
                do()
                server.drop(connection)
            case _:
                answer = do()
                if kind is FaultKind.TRADING_DISABLED:
                    answer |= {"can_trade": False, "blocked_reason": "trading is disabled for this account"}
                elif kind is FaultKind.WRONG_ACCOUNT:
                    answer |= {"account_id": f"{account[1]}9"}
                server.send(connection, {"ok": answer}, _lateness(fault))

    def _login(self, server: VenueServer, connection: Connection, request: dict[str, Any]) -> dict[str, Any]:
        key = _key(request)
        password = request.get("password")
        if not isinstance(password, str) or not password:
            raise RefusedError("authentication_failed", "invalid login or password")
        right = self._ledger.authenticate(key, password)
        if right is None:
            self._ledger.create_account(key, password)
            logs.event(logger, logging.INFO, "account_created", server=key[0], login=key[1])
        elif not right:
            raise RefusedError("authentication_failed", "invalid login or password")
        if connection.account is not None:
            raise RefusedError("invalid_request", "this connection is logged in already")
        who = f"worker {request.get('worker') or '?'} pid {request.get('pid') or '?'}"[:120]
        others = self._others(server, key)
        if others:
            self._overlaps += len(others)
            there = ", ".join(sorted(other.who for other in others))
            text = f"OVERLAP: {who} logged in while {there} is connected"
            logs.event(logger, logging.ERROR, "login_overlap", text, server=key[0], login=key[1])
        connection.account, connection.who = key, who
        self._live.setdefault(key, set()).add(connection)
        self._ledger.count_login(key, len(others))
        logs.event(logger, logging.INFO, "logged_in", who, server=key[0], login=key[1])
        account = self._ledger.account(key)
        return {
            "account_id": key[1],
            "server": key[0],
            "environment": "real" if key[0].startswith(_REAL_SERVERS) else "demo",
            "position_mode": account.position_mode,
            "can_trade": True,
            "blocked_reason": None,
            "currency": account.currency,
            "leverage": account.leverage,
        }

    def _others(self, server: VenueServer, key: AccountKey) -> list[Connection]:
        """Return the account's other connections that are open now.

        Reads each to find out.
        """
        for other in list(self._live.get(key, ())):
            server.read(other)
        return list(self._live.get(key, ()))

    def _check(self, _c: Connection, key: AccountKey, _r: dict[str, Any]) -> dict[str, Any]:
        return {"account_id": key[1], "server": key[0], "can_trade": True}

    def _account(self, _c: Connection, key: AccountKey, _r: dict[str, Any]) -> dict[str, Any]:
        return self._broker.figures(key)

    def _positions(self, _c: Connection, key: AccountKey, _r: dict[str, Any]) -> dict[str, Any]:
        return {"positions": self._broker.positions(key)}

    def _tick(self, _c: Connection, _k: AccountKey, request: dict[str, Any]) -> dict[str, Any]:
        return self._broker.tick(str(request.get("symbol")))

    def _instrument(self, _c: Connection, _k: AccountKey, request: dict[str, Any]) -> dict[str, Any]:
        return self._broker.instrument(str(request.get("symbol")))

    def _order(self, _c: Connection, key: AccountKey, request: dict[str, Any]) -> dict[str, Any]:
        answer = self._broker.order(key, request)
        logs.event(logger, logging.INFO, "order_filled", server=key[0], login=key[1], position=answer["id"])
        return answer

    def _close(self, _c: Connection, key: AccountKey, request: dict[str, Any]) -> dict[str, Any]:
        return self._broker.close(key, request)

    def _logout(self, connection: Connection, key: AccountKey, _r: dict[str, Any]) -> dict[str, Any]:
        logs.event(logger, logging.INFO, "logged_out", connection.who, server=key[0], login=key[1])
        connection.leaving = True
        return {}

    # administration

    def _create_account(self, _s: VenueServer, request: dict[str, Any]) -> dict[str, Any]:
        mode = request.get("position_mode") or "hedging"
        if mode not in ("hedging", "netting"):
            raise ValueError(f"position_mode {mode!r}; hedging or netting is allowed")
        self._ledger.create_account(
            _key(request),
            str(request["password"]),
            balance=Decimal(str(request.get("balance") or "10000.00")),
            leverage=int(request.get("leverage") or 100),
            position_mode=mode,
        )
        return {}

    def _fault(self, _s: VenueServer, request: dict[str, Any]) -> dict[str, Any]:
        self._faults.add(_key(request), Fault.from_request(request))
        return {}

    def _clear_faults(self, _s: VenueServer, request: dict[str, Any]) -> dict[str, Any]:
        self._faults.clear(_key(request))
        return {}

    def _stats(self, server: VenueServer, _: dict[str, Any]) -> dict[str, Any]:
        for connections in list(self._live.values()):
            for connection in list(connections):
                server.read(connection)
        live = [
            {"server": key[0], "login": key[1], "who": sorted(c.who for c in found)}
            for key, found in sorted(self._live.items())
        ]
        return {
            "sessions": sum(map(len, self._live.values())),
            "overlaps": self._overlaps,
            "live": live,
        }

    def _accounts(self, _s: VenueServer, _: dict[str, Any]) -> dict[str, Any]:
        return {"accounts": self._ledger.summaries()}


_Operation = Callable[[RequestHandler, Connection, AccountKey, dict[str, Any]], dict[str, Any]]

_OPERATIONS: Final[Mapping[str, _Operation]] = {
    "check": RequestHandler._check,
    "account": RequestHandler._account,
    "positions": RequestHandler._positions,
    "tick": RequestHandler._tick,
    "instrument": RequestHandler._instrument,
    "order": RequestHandler._order,
    "close": RequestHandler._close,
    "logout": RequestHandler._logout,
}
_ADMINISTRATION: Final[
    Mapping[str, Callable[[RequestHandler, VenueServer, dict[str, Any]], dict[str, Any]]]
] = {
    "enrol": RequestHandler._create_account,
    "fault": RequestHandler._fault,
    "clear_faults": RequestHandler._clear_faults,
    "stats": RequestHandler._stats,
    "accounts": RequestHandler._accounts,
}


def _key(request: dict[str, Any]) -> AccountKey:
    server, login = request.get("server"), request.get("login")
    if isinstance(login, int) and not isinstance(login, bool):
        login = str(login)
    if not isinstance(server, str) or not isinstance(login, str) or not 0 < len(server) + len(login) <= 256:
        raise RefusedError("invalid_request", "server and login are required")
    return server, login


def _lateness(fault: Fault | None) -> float:
    return fault.seconds if fault is not None and fault.kind is FaultKind.SLOW else 0.0
