"""The notification socket of a program, by systemd's protocol: READY=1, STATUS=…, WATCHDOG=1.

Source: sd_notify(3). The socket lies in the worker's private directory, so that only its own user can write to it.
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

#: Bytes of one message.
_MAX_MESSAGE: Final = 4_096
_MAX_STATUS: Final = 200


class NotifySocket:
    """Listens from its making to `close`. Linux and other systems with Unix datagram sockets."""

    def __init__(self, directory: Path, watchdog_seconds: float | None, uid: int | None = None) -> None:
        """Make the socket; `uid` is the user of the program, if it is not this one. Raises OSError."""
        self._uid = uid
        self._path = directory / "notify"
        self._watchdog_seconds = watchdog_seconds
        self._lock = threading.Lock()
        self._ready = self._closing = False
        self._status: str | None = None
        self._sign_at = time.monotonic()
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

    def mend(self) -> None:
        """Make the socket again if somebody has removed it. Raises OSError."""
        if not self._path.exists():
            self._end()
            self._listen()

    def environment(self) -> dict[str, str]:
        """Return the variables by which a program finds the socket."""
        found = {"NOTIFY_SOCKET": str(self._path)}
        if self._watchdog_seconds is not None:
            found["WATCHDOG_USEC"] = str(int(self._watchdog_seconds * 1_000_000))
        return found

    @property
    def ready(self) -> bool:
        """Whether the program has said READY=1."""
        with self._lock:
            return self._ready

    @property
    def status(self) -> str | None:
        """What the program said of itself last (STATUS=)."""
        with self._lock:
            return self._status

    def trouble(self) -> str | None:
        """Return why the program is not well by its watchdog; None if it is, or if none is set."""
        with self._lock:
            if self._trouble is not None:
                return self._trouble
            if self._watchdog_seconds is None or not self._ready:
                return None
            age = time.monotonic() - self._sign_at
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
            # An empty message is one, and not the end: that is an error, or `_end`.
            while not self._closing:
                self._take(listening.recv(_MAX_MESSAGE))

    def _take(self, message: bytes) -> None:
        lines = message.decode(errors="replace").splitlines()
        said: Mapping[str, str] = dict(line.split("=", 1) for line in lines if "=" in line)
        with self._lock:
            if said.get("READY") == "1":
                self._ready = True
                self._sign_at = time.monotonic()
            if "STATUS" in said:
                self._status = said["STATUS"][:_MAX_STATUS] or None
            if said.get("WATCHDOG") == "1":
                self._sign_at, self._trouble = time.monotonic(), None
            elif said.get("WATCHDOG") == "trigger":
                self._trouble = "the program itself reported a fault (WATCHDOG=trigger)"
