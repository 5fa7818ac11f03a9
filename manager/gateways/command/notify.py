"""The notification socket of a program, with systemd's protocol.

Messages: READY=1, STATUS=…, WATCHDOG=1. Source: sd_notify(3). The socket is in the worker's private
directory, so that only the program's user can write to it.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from manager.system.private_dirs import ensure_private_dir

#: Maximum size of a message in bytes.
_MAX_MESSAGE: Final = 4_096
_MAX_STATUS: Final = 200


class NotifySocket:
    """A socket that receives messages until `close`.

    Needs Unix datagram sockets.
    """

    def __init__(self, directory: Path, watchdog_seconds: float | None, uid: int | None = None) -> None:
        """Create the socket in `directory`. Raises OSError.

        `uid` is the program's user, or None for this process's user.
        """
        self._uid = uid
        self._path = directory / "notify"
        self._watchdog_seconds = watchdog_seconds
        self._lock = threading.Lock()
        self._ready = self._closing = False
        self._status: str | None = None
        self._alive_at = time.monotonic()
        self._trouble: str | None = None
        self._listen()

    def _listen(self) -> None:
        family = getattr(socket, "AF_UNIX", None)
        if family is None:
            raise OSError("this system has no Unix sockets")
        ensure_private_dir(self._path.parent)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.bind(str(self._path))
        except OSError:
            self._socket.close()
            raise
        self._path.chmod(0o600)
        if self._uid is not None and sys.platform != "win32":
            os.chown(self._path, self._uid, -1)
        self._closing = False
        self._thread = threading.Thread(
            target=self._receive, args=(self._socket,), name="notify", daemon=True
        )
        self._thread.start()

    def restore(self) -> None:
        """Create the socket again if it was removed. Raises OSError."""
        if not self._path.exists():
            self._end()
            self._listen()

    def environment(self) -> dict[str, str]:
        """Return the environment variables for the program."""
        found = {"NOTIFY_SOCKET": str(self._path)}
        if self._watchdog_seconds is not None:
            found["WATCHDOG_USEC"] = str(int(self._watchdog_seconds * 1_000_000))
        return found

    @property
    def ready(self) -> bool:
        """Whether the program has sent READY=1."""
        with self._lock:
            return self._ready

    @property
    def status(self) -> str | None:
        """The last status text of the program (STATUS=), or None."""
        with self._lock:
            return self._status

    def trouble(self) -> str | None:
        """Return why the watchdog has expired, or None."""
        with self._lock:
            if self._trouble is not None:
                return self._trouble
            if self._watchdog_seconds is None or not self._ready:
                return None
            age = time.monotonic() - self._alive_at
        if age <= self._watchdog_seconds:
            return None
        return f"no WATCHDOG=1 for {age:.0f} s (health.watchdog_seconds: {self._watchdog_seconds:g})"

    def close(self) -> None:
        self._end()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _end(self) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=1.0)
        self._socket.close()

    def _receive(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            # An empty message is valid. The end of the socket is an error, or `_closing`.
            while not self._closing:
                self._take(listening.recv(_MAX_MESSAGE))

    def _take(self, message: bytes) -> None:
        lines = message.decode(errors="replace").splitlines()
        fields: Mapping[str, str] = dict(line.split("=", 1) for line in lines if "=" in line)
        with self._lock:
            if fields.get("READY") == "1":
                self._ready = True
                self._alive_at = time.monotonic()
            if "STATUS" in fields:
                self._status = fields["STATUS"][:_MAX_STATUS] or None
            if fields.get("WATCHDOG") == "1":
                self._alive_at, self._trouble = time.monotonic(), None
            elif fields.get("WATCHDOG") == "trigger":
                self._trouble = "the program itself reported a fault (WATCHDOG=trigger)"
