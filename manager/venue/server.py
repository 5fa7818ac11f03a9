"""The venue's sockets: one thread, many connections.

Requests of a connection are answered in sequence.
"""

import heapq
import logging
import os
import selectors
import socket
import stat
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from manager.gateways.paper.protocol import MAX_LINE, ProtocolError, decode, encode, split_address

logger = logging.getLogger("manager.venue")

#: Bytes that may wait for a client that does not read; beyond them it is disconnected.
_MAX_UNSENT: Final = 1_000_000


class VenueError(Exception):
    """Raised when a venue cannot be started; the text is for the operator."""


@dataclass(eq=False, slots=True)
class Connection:
    """A connection of a client."""

    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    #: (server, login) after its login.
    account: tuple[str, str] | None = None
    #: Description of the client, for log lines.
    who: str = ""
    #: Close the connection after the answer.
    leaving: bool = False
    closed: bool = False


class Handler(Protocol):
    """Handles the server's requests."""

    def handle(self, server: "VenueServer", connection: Connection, request: dict[str, Any]) -> None:
        """Answer one request through `server.send`."""

    def closed(self, connection: Connection) -> None:
        """Called when a connection has ended."""


class VenueServer:
    """Serves until `stop` is called. `stop` is safe in a signal handler."""

    def __init__(self, address: str, handler: Handler) -> None:
        self._handler = handler
        self._late: list[tuple[float, int, Connection, bytes]] = []
        self._selector = selectors.DefaultSelector()
        self._listener = _listen(address)
        self._listener.setblocking(False)
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._running = True
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)

    @property
    def address(self) -> str:
        where = self._listener.getsockname()
        return f"unix:{where}" if isinstance(where, str) else f"tcp:{where[0]}:{where[1]}"

    def stop(self) -> None:
        """Make `serve` return."""
        self._running = False
        self._wake_write.send(b"x")

    def serve(self) -> None:
        """Answer requests until `stop`; then close every connection."""
        try:
            while self._running:
                wait = max(0.0, self._late[0][0] - time.monotonic()) if self._late else None
                for key, mask in self._selector.select(wait):
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.data is not None:
                        self._serve(key.data, mask)
                self._send_late()
        finally:
            where = self._listener.getsockname()
            self._listener.close()
            if isinstance(where, str):
                Path(where).unlink(missing_ok=True)
            for key in list(self._selector.get_map().values()):
                if key.data is not None:
                    self.drop(key.data)
            self._selector.close()
            self._wake_read.close()
            self._wake_write.close()

    # connections

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listener.accept()
            except OSError:
                return  # no connection waits, or no file descriptor is available now
            connected.setblocking(False)
            self._selector.register(connected, selectors.EVENT_READ, Connection(connected))

    def _serve(self, connection: Connection, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._flush(connection)
        if mask & selectors.EVENT_READ:
            self.read(connection)

    def read(self, connection: Connection) -> None:
        """Read and answer all received requests.

        Drop the connection if its other end is closed.
        """
        ended = False
        while not connection.closed:
            try:
                data = connection.socket.recv(MAX_LINE)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                ended = True
                break
            connection.received += data
            self._take_lines(connection)
        if ended:
            self.drop(connection)

    def _take_lines(self, connection: Connection) -> None:
        while not connection.closed and not connection.leaving:
            line, newline, rest = connection.received.partition(b"\n")
            if not newline:
                if len(line) > MAX_LINE:
                    self.drop(connection)
                return
            connection.received = rest
            self._answer(connection, bytes(line))

    def _answer(self, connection: Connection, line: bytes) -> None:
        try:
            self._handler.handle(self, connection, decode(line))
        except ProtocolError as error:
            self.send(connection, {"error": {"code": "invalid_request", "message": str(error)}})
            connection.leaving = True
        self._flush(connection)

    def send(self, connection: Connection, message: Mapping[str, Any], late_by: float = 0.0) -> None:
        """Send an answer, `late_by` seconds from now."""
        if late_by > 0:
            due = time.monotonic() + late_by
            heapq.heappush(self._late, (due, id(connection), connection, encode(message)))
        else:
            connection.unsent += encode(message)

    def _send_late(self) -> None:
        while self._late and self._late[0][0] <= time.monotonic():
            _, _, connection, data = heapq.heappop(self._late)
            if not connection.closed:
                connection.unsent += data
                self._flush(connection)

    def _flush(self, connection: Connection) -> None:
        if connection.closed:
            return
        try:
            if connection.unsent:
                sent = connection.socket.send(connection.unsent)
                del connection.unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self.drop(connection)
            return
        if len(connection.unsent) > _MAX_UNSENT or (connection.leaving and not connection.unsent):
            self.drop(connection)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
        self._selector.modify(connection.socket, events, connection)

    def drop(self, connection: Connection) -> None:
        """Close a connection without an answer. Idempotent."""
        if connection.closed:
            return
        connection.closed = True
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._handler.closed(connection)


def _listen(address: str) -> socket.socket:
    """Return a listening socket.

    Raises VenueError if the address is in use or invalid.
    """
    try:
        where = split_address(address)
    except ValueError as error:
        raise VenueError(str(error)) from None
    try:
        if isinstance(where, tuple):
            return socket.create_server(where, backlog=1024)
        return _listen_unix(where)
    except OSError as error:
        raise VenueError(f"cannot listen on {address}: {error.strerror or error}") from None


def _listen_unix(path: str) -> socket.socket:
    if sys.platform == "win32":
        raise VenueError("this system has no Unix sockets: listen on tcp:127.0.0.1:0")
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if Path(path).exists() and stat.S_ISSOCK(Path(path).stat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                try:
                    probe.connect(path)
                except ConnectionRefusedError:
                    Path(path).unlink()  # left by a dead venue: the connection was refused
                else:
                    raise VenueError(f"another venue listens on {path}")
        before = os.umask(0o177)
        try:
            found.bind(path)
        finally:
            os.umask(before)
        found.listen(1024)
    except BaseException:
        found.close()
        raise
    return found
