"""The paper venue's wire protocol: JSON lines over a stream socket.

There is one answer per request. A request is `{"op": NAME, ...}`. Its answer is `{"ok": {...}}` or `{"error":
{"code": CODE, "message": TEXT}}`, where CODE is the `code` of a `manager.gateways.base.GatewayError`. Money,
prices and volumes are decimal text.

Before `login`, the venue answers only `login` and the operations of the administrator:

| op | takes | answers |
|---|---|---|
| login | server, login, password, worker, pid | account_id, server, environment, can_trade, … |
| check | | can_trade, account_id, server |
| account | | balance, equity, margin, free_margin, currency, open_positions |
| positions | | positions: id, symbol, side, volume, open_price, opened_at, profit |
| tick | symbol | symbol, bid, ask, time (ISO 8601, UTC) |
| instrument | symbol | digits, tick_size, contract_size, volume_min, volume_max, volume_step |
| order | client_order_id, symbol, side, volume, comment | one position |
| close | position_id, volume | |
| logout | | ; then the venue closes the connection |

Operations of the administrator, for tests and demonstrations: `enrol` (server, login, password, balance,
leverage, position_mode) creates an account, `fault` (server, login, kind, after, count, seconds, on),
`clear_faults` (server, login), `stats`, `accounts`. They need no password: only the owner can use the socket
(mode 0600), and a TCP address should be a loopback address.

An answer `{"fault": "hang"}` or `{"fault": "crash"}` makes the gateway's process hang or crash. With it, a
test injects faults into a worker.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

#: Maximum line length in bytes. Valid requests and answers are much shorter.
MAX_LINE: Final = 65_536


class ProtocolError(Exception):
    """Raised when received data is not a valid message."""


def encode(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Parse one line. Raises ProtocolError."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise ProtocolError("the line is not JSON") from None
    if not isinstance(message, dict):
        raise ProtocolError("the line is not a JSON object")
    return message


def split_address(address: str) -> str | tuple[str, int]:
    """Return the path of `unix:/path`, or host and port of `tcp:host:port`.

    Raises ValueError.
    """
    kind, _, rest = address.partition(":")
    if kind == "unix" and rest:
        return rest
    host, colon, port = rest.rpartition(":")
    if kind == "tcp" and colon and host and port.isdecimal() and int(port) <= 65_535:
        return host, int(port)
    raise ValueError(f"{address!r} is not a valid venue address: unix:/path or tcp:host:port is allowed")
