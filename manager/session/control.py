"""The channel for requests of a host agent to a running worker.

It is a Unix socket in the state directory, or a named pipe on Windows. `tcp:127.0.0.1:0` exists so that tests
on every system use the portable code. A connection carries one JSON object each way. Every request must
contain the token of the worker's record, because a named pipe's default rights allow other users.
"""

import contextlib
import hmac
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, Final

from manager.system import logs
from manager.system.private_dirs import ensure_private_dir
from manager.system.spare_files import with_spare

logger = logging.getLogger(__name__)

#: Maximum size of a message in bytes. The largest request stops every account of a host.
_MAX_MESSAGE: Final = 1 << 20
#: Seconds within which a connection must send its request, so that a silent one cannot block a stop.
_REQUEST_SECONDS: Final = 2.0
#: Seconds between attempts to accept a connection after a failure.
_AGAIN_SECONDS: Final = 0.05
#: Maximum number of concurrent connections; further ones are closed without an answer.
_MAX_CONNECTIONS: Final = 8

Handler = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class ControlError(Exception):
    """Raised when a worker's control channel does not answer."""


class ControlServer:
    """Serves requests on daemon threads, also while the loop is in a call."""

    def __init__(self, address: str, token: str, handler: Handler) -> None:
        self._token = token
        self._handler = handler
        self._slots = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        self._closed = False
        self._open(address)

    def _open(self, address: str) -> None:
        self._listener = listener = _listen(address)
        where = listener.address
        #: Its address in the form that `ask` takes.
        self.address = f"tcp:{where[0]}:{where[1]}" if isinstance(where, tuple) else str(where)
        self._inode = _inode_of(self.address)
        threading.Thread(target=self._accept, args=(listener,), name="control", daemon=True).start()

    def restore(self) -> bool:
        """Create the socket again if it was removed; return whether it was.

        Raises OSError.
        """
        if self._closed or self._inode is None:
            return False  # a port and a named pipe cannot be removed
        found = _inode_of(self.address)
        if found == self._inode:
            return False
        ensure_private_dir(Path(self.address).parent)
        # Close first: closing unlinks the path, which the new socket has as well.
        _end_listener(self._listener)
        with contextlib.suppress(FileNotFoundError):
            Path(self.address).unlink()
        self._open(self.address)
        return True

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.close()

    def _accept(self, listener: Listener) -> None:
        while not self._closed:
            try:
                connection: Any = listener.accept()
            except (OSError, EOFError):
                if self._closed or listener is not self._listener:
                    return
                time.sleep(_AGAIN_SECONDS)  # file descriptors may be exhausted for a while
                continue
            if not self._slots.acquire(blocking=False):
                connection.close()
                continue
            try:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
            except (RuntimeError, MemoryError):
                # No thread can be started now, and a stop must still be answered.
                self._serve(connection)

    def _serve(self, connection: "Connection[Any, Any]") -> None:
        try:
            with connection:
                if not connection.poll(_REQUEST_SECONDS):
                    return
                request = json.loads(connection.recv_bytes(_MAX_MESSAGE))
                if not isinstance(request, dict) or not hmac.compare_digest(
                    str(request.pop("token", "")).encode(), self._token.encode()
                ):
                    logs.event(
                        logger, logging.WARNING, "control_refused", "a request without the worker's token"
                    )
                    return
                connection.send_bytes(json.dumps(self._answer(request)).encode())
        except (OSError, EOFError, ValueError, RecursionError) as error:
            logs.event(logger, logging.DEBUG, "control_failed", str(error))
        finally:
            self._slots.release()

    def _answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return self._handler(request)
        except Exception as error:
            logger.exception("a control request failed")
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}


def ask(address: str, token: str, request: Mapping[str, Any], *, timeout: float = 2.0) -> dict[str, Any]:
    """Send one request and return the answer.

    Raises ControlError if no answer arrives within `timeout` seconds.
    """
    try:
        with with_spare(lambda: _connect(address)) as connection:
            connection.send_bytes(json.dumps({**request, "token": token}).encode())
            if not connection.poll(timeout):
                raise ControlError(f"no answer on {address} within {timeout:g} s")
            answer = json.loads(connection.recv_bytes(_MAX_MESSAGE))
    except (OSError, EOFError, ValueError) as error:
        raise ControlError(f"{address}: {error or type(error).__name__}") from None
    if not isinstance(answer, dict):
        raise ControlError(f"{address}: the answer is not a JSON object")
    return answer


def _inode_of(address: str) -> tuple[int, int] | None:
    """Return device and inode of the socket's file; None if it has no file."""
    if address.startswith(("tcp:", "\\\\")):
        return None
    try:
        found = Path(address).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _end_listener(listener: Listener) -> None:
    """Close a listener and wake its thread.

    On Linux `close` alone does not wake the thread.
    """
    inner: Any = getattr(getattr(listener, "_listener", None), "_socket", None)
    if inner is not None:
        with contextlib.suppress(OSError):
            inner.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        listener.close()


def _listen(address: str) -> Listener:
    if address.startswith("tcp:"):
        return Listener(_tcp(address), family="AF_INET", backlog=8)
    if address.startswith("\\\\"):
        return Listener(address, family="AF_PIPE", backlog=8)
    listener = Listener(address, family="AF_UNIX", backlog=8)
    Path(address).chmod(0o600)
    return listener


def _connect(address: str) -> Any:
    if address.startswith("tcp:"):
        return Client(_tcp(address), family="AF_INET")
    return Client(address, family="AF_PIPE" if address.startswith("\\\\") else "AF_UNIX")


def _tcp(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("tcp:").rpartition(":")
    return host, int(port)
