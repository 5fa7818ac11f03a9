"""Checks whether this host reaches a paper venue, without a login."""

import threading
import time
from typing import Final

from manager.gateways.base import GatewayError
from manager.gateways.paper.client import VenueAdmin

#: Timeout of one check, in seconds.
_TIMEOUT: Final = 1.0
#: Seconds for which a result also serves the other accounts of that venue.
_CACHE_SECONDS: Final = 5.0

_lock: Final = threading.Lock()
_results: dict[str, tuple[float, str | None]] = {}


def reach_problem(address: str | None) -> str | None:
    """Return why the venue cannot be reached from here, or None if it can.

    `address` is `unix:/path` or `tcp:host:port`; None if this host knows no venue. Blocks for one second at
    most.
    """
    if address is None:
        return "no paper venue is known on this host: set MANAGER_VENUE_URL, or `venue` in the account's file"
    with _lock:
        result = _results.get(address)
    if result is None or time.monotonic() - result[0] > _CACHE_SECONDS:
        try:
            with VenueAdmin(address, timeout_seconds=_TIMEOUT) as venue:
                venue.stats()
            problem = None
        except GatewayError as error:
            problem = f"its venue cannot be reached from this host now: {error}"
        result = (time.monotonic(), problem)
        with _lock:
            _results[address] = result
    return result[1]
