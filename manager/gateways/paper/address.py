"""The address of this machine's paper venue."""

import contextlib
import sys

from manager.settings import Settings
from manager.system.state_dir import StatePaths


def venue_address(settings: Settings) -> str | None:
    """Return the paper venue's address, or None if it is unknown.

    Its form is `unix:/path` or `tcp:host:port`.
    """
    if settings.venue_url:
        return settings.venue_url
    paths = StatePaths(settings.state_dir)
    if sys.platform != "win32":
        return f"unix:{paths.venue_socket}"
    with contextlib.suppress(OSError):
        return paths.venue_address.read_text().strip() or None
    return None
