"""The paper venue's wire protocol: JSON lines over a stream socket, one request, one answer, in order.

A request is `{"op": NAME, ...}`; its answer is `{"ok": {...}}` or `{"error": {"code": CODE, "message": TEXT}}`, where
CODE is the `code` of a `manager.gateways.base.GatewayError`. Money, prices and volumes are decimal text.

Before `login` only `login` and the operations of the administrator are answered:

| op | takes | answers |
|---|---|---|
| login | server, login, password, worker, pid | account_id, server, environment, position_mode, can_trade, … |
| check | | can_trade, account_id, server |
| account | | balance, equity, margin, free_margin, currency, open_positions |
| positions | | positions: id, symbol, side, volume, open_price, opened_at, profit |
| tick | symbol | symbol, bid, ask, time (ISO 8601, UTC) |
| instrument | symbol | digits, tick_size, contract_size, volume_min, volume_max, volume_step |
| order | client_order_id, symbol, side, volume, comment | one position |
| close | position_id, volume | |
| logout | | ; then the venue closes the connection |

The administrator's, for tests and demonstrations: `create_account` (server, login, password, balance, leverage,
position_mode), `fault` (server, login, kind, after, count, seconds, on), `clear_faults` (server, login), `stats`,
`accounts`. There is no password for them: the socket is its owner's alone (mode 0600), and a TCP address should be
loopback.

An answer `{"fault": "hang"}` or `{"fault": "crash"}` asks the gateway itself to hang or to crash: that is how a
script of faults reaches into a worker.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

#: Bytes. No request or answer comes near it; a longer line is a mistake or an attack.
MAX_LINE: Final = 65_536


class ProtocolError(Exception):
    """Raised when the other end sent something that is no message."""


def encode(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Return one message. Raises ProtocolError."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise ProtocolError("a line of JSON is wanted") from None
    if not isinstance(message, dict):
        raise ProtocolError("a JSON object is wanted")
    return message


def split_address(address: str) -> str | tuple[str, int]:
    """Return the path of `unix:/path`, or host and port of `tcp:host:port`. Raises ValueError."""
    kind, _, rest = address.partition(":")
    if kind == "unix" and rest:
        return rest
    host, colon, port = rest.rpartition(":")
    if kind == "tcp" and colon and host and port.isdecimal() and int(port) <= 65_535:
        return host, int(port)
    raise ValueError(f"{address!r} is not a valid venue address: unix:/path or tcp:host:port is allowed")
