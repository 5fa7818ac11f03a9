"""The host's drain request.

It is read from Redis, and kept in a file for an agent that starts while Redis is down.
"""

import logging
from pathlib import Path

from manager.errors import FleetUnavailableError
from manager.fleet import FleetStore
from manager.fleet.hosts import DrainRequest
from manager.system import atomic_file, logs

logger = logging.getLogger(__name__)


class DrainState:
    """The current drain request of one host.

    `read` and `restore_file` from one thread, the rest from any.
    """

    def __init__(self, host: str, store: FleetStore, path: Path) -> None:
        """Load the request saved in `path`, if there is one.

        Raises OSError or ValueError if it is unreadable.
        """
        self._host = host
        self._store = store
        self._path = path
        #: The latest request that this host knows, or None if it never got one.
        self.request: DrainRequest | None = None
        if path.exists():
            self.request = DrainRequest.from_json(path.read_text())

    @property
    def active(self) -> bool:
        """Whether this host takes no new workers."""
        return self.request is not None and self.request.active

    @property
    def moves(self) -> bool:
        """Whether the drain moves workers to other hosts instead of stopping them."""
        return self.request is not None and self.request.mode == "move"

    def read(self) -> None:
        """Read the request from Redis, or write it back to a Redis that lost it.

        Does nothing while Redis is down.
        """
        try:
            request = self._store.drain(self._host)
            if request is None and self.request is not None:
                self._store.restore_drain(self._host, self.request)
        except FleetUnavailableError:
            return
        if request is not None and request != self.request:
            logs.event(
                logger,
                logging.INFO,
                "drain_requested",
                mode=request.mode,
                by=request.by,
                when_flat=request.when_flat,
            )
            self.request = request
            self._save(request)

    def restore_file(self) -> None:
        """Write the file again if it was deleted."""
        request = self.request
        if request is not None and not self._path.exists():
            self._save(request)

    def _save(self, request: DrainRequest) -> None:
        try:
            atomic_file.write(self._path, request.to_json())
        except OSError as error:
            logs.event(
                logger,
                logging.WARNING,
                "drain_not_saved",
                f"{error}; an agent that starts while Redis is down does not know of this drain",
            )
