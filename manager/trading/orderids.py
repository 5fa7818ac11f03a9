"""Client order ids: a function of the decision that leads to the order.

A restarted or moved worker that evaluates the same closed bar computes the same id. The venue, or a look-up
before the order, therefore recognises the second request. An id is 128 bits; each venue gets them in a form
that it accepts.
"""

import base64
import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from manager.gateways.base import Side

#: The unit separator: no part of an id contains it, so that different parts never give one text.
_SEPARATOR: Final = "\x1f"
_SIZE: Final = 16
_TAG_SHIFT: Final = 48


@dataclass(frozen=True, slots=True)
class OrderId:
    """The 128 bits of a client order id, and the forms that venues accept."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != _SIZE:
            raise ValueError(f"an order id has {_SIZE} bytes, not {len(self.raw)}")

    @property
    def text(self) -> str:
        """`w` and 26 characters of base32: 27 characters of `[a-z0-9]`."""
        return "w" + base64.b32encode(self.raw).decode().rstrip("=").lower()

    @property
    def uuid(self) -> str:
        """A UUID of version 8: version and variant replace 6 of the bits."""
        raw = bytearray(self.raw)
        raw[6] = raw[6] & 0x0F | 0x80
        raw[8] = raw[8] & 0x3F | 0x80
        return str(uuid.UUID(bytes=bytes(raw)))

    @property
    def hex(self) -> str:
        """`0x` and 32 hexadecimal digits."""
        return "0x" + self.raw.hex()

    def magic(self, identity: str) -> int:
        """Return the form for MT5's `magic`, below 2^63.

        It is the tag of the identity (15 bits) and the first 48 bits of the id.
        """
        return identity_tag(identity) << _TAG_SHIFT | int.from_bytes(self.raw[:6], "big")


def order_id(
    identity: str, symbol: str, strategy_key: str, bar_time: datetime, intent: str, attempt: int = 0
) -> OrderId:
    """Return the id of one attempt of one decision.

    `identity` is `gateway:server:login`, `bar_time` the aware time of the bar that was decided on (of a kill
    for `flatten`), and `intent` one of the texts that this module makes. A new attempt is used only after a
    definite refusal.

    Raises ValueError for a naive time, a negative attempt, and an empty or unprintable part.
    """
    if bar_time.tzinfo is None:
        raise ValueError(f"the time of the bar ({bar_time.isoformat()}) has no time zone")
    if attempt < 0:
        raise ValueError(f"attempt {attempt} is below 0")
    time = bar_time.astimezone(UTC).isoformat().replace("+00:00", "Z")
    parts = (identity, symbol, strategy_key, time, intent, str(attempt))
    for part in parts:
        if not part or not part.isprintable():
            raise ValueError(f"{part!r} cannot be a part of an order id: it is empty or unprintable")
    joined = _SEPARATOR.join(parts).encode()
    return OrderId(hashlib.blake2b(joined, digest_size=_SIZE).digest())


def client_order_id(
    identity: str, symbol: str, strategy_key: str, bar_time: datetime, intent: str, attempt: int = 0
) -> str:
    """Return the id of `order_id` as a text of 27 characters."""
    return order_id(identity, symbol, strategy_key, bar_time, intent, attempt).text


def identity_tag(identity: str) -> int:
    """Return the 15 bits that mark an account's orders in MT5's `magic`."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=2).digest(), "big") >> 1


def is_ours(magic: int, identity: str) -> bool:
    """Return whether a `magic` that the venue reports has the account's tag."""
    return magic >> _TAG_SHIFT == identity_tag(identity)


def strategy_key(strategy_type: str, timeframe: str, params: Mapping[str, Any]) -> str:
    """Return `type/timeframe/sha8`, where sha8 identifies the parameters.

    `params` includes the strategy's defaults, as the strategy spells them, so that a default that is written
    out changes nothing. sha8 is the beginning of a SHA-256 of their JSON with sorted keys and no spaces.
    """
    text = json.dumps(dict(params), sort_keys=True, separators=(",", ":"))
    return f"{strategy_type}/{timeframe}/{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def entry_intent(side: Side) -> str:
    """Return the intent of an entry in one direction."""
    return "entry-long" if side is Side.BUY else "entry-short"


def exit_intent(position_id: str) -> str:
    """Return the intent of closing a whole position."""
    return f"exit:{position_id}"


def partial_intent(position_id: str) -> str:
    """Return the intent of the one partial close of a position."""
    return f"partial:{position_id}"


def stop_intent(position_id: str, number: int) -> str:
    """Return the intent of the `number`-th stop order of a position."""
    return f"stop:{position_id}:{number}"


def flatten_intent(kill_id: str, position_id: str) -> str:
    """Return the intent of closing a position because of a kill."""
    return f"flatten:{kill_id}:{position_id}"
