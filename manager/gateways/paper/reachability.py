"""Whether a host reaches the venue of an account, found without logging in: a warning beforehand, not a verdict."""

import threading
import time
from typing import Final

from manager.config import AccountConfig
from manager.gateways.base import GatewayError
from manager.gateways.paper.client import VenueAdmin

#: Seconds that one look may take, and for which its answer serves the other accounts of that venue.
_TIMEOUT: Final = 1.0
_KEPT_SECONDS: Final = 5.0

_lock: Final = threading.Lock()
_found: dict[str, tuple[float, str | None]] = {}


def reach_problem(config: AccountConfig, own_venue: str | None) -> str | None:
    """Return why the account's venue cannot be reached from here; None if it can, or if only a login would tell.

    `own_venue` is this machine's paper venue, for accounts that name none.
    """
    if config.gateway != "paper":
        return None
    address = config.venue or own_venue
    if address is None:
        return "no paper venue is known on this host: set MANAGER_VENUE_URL, or `venue` in the account's file"
    with _lock:
        kept = _found.get(address)
    if kept is None or time.monotonic() - kept[0] > _KEPT_SECONDS:
        try:
            with VenueAdmin(address, timeout_seconds=_TIMEOUT) as venue:
                venue.stats()
            problem = None
        except GatewayError as error:
            problem = f"its venue cannot be reached from this host now: {error}"
        kept = (time.monotonic(), problem)
        with _lock:
            _found[address] = kept
    return kept[1]
