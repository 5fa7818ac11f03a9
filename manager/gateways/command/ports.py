"""Checks of ports: whether they answer, and which process serves them.

A port that answers does not prove that the program serves it.
"""

import contextlib
import ipaddress
import os
import socket
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psutil

#: Timeout of one check, in seconds.
_TIMEOUT: Final = 2.0
_LISTENING: Final = "0A"
_LOCAL_NAMES: Final = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})


def port_trouble(port: int, timeout: float = _TIMEOUT) -> str | None:
    """Return why nothing answers at a port of this machine, or None.

    Tries IPv6 too, because some programs, such as Node's, listen only at ::1 for `localhost`.
    """
    trouble = "nothing answers"
    for address in ("::1", "127.0.0.1"):
        try:
            socket.create_connection((address, port), timeout=timeout).close()
        except OSError as error:
            trouble = error.strerror or str(error)
        else:
            return None
    return f"port {port}: {trouble}"


def local_port(url: str) -> int | None:
    """Return the port in a URL of this machine, or None."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.hostname and _is_local(parts.hostname):
            return parts.port or (443 if parts.scheme == "https" else 80)
    return None


def _is_local(host: str) -> bool:
    """Return whether a host name in lower case is this machine."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.rstrip(".") in _LOCAL_NAMES | {socket.gethostname().lower()}
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


def served_by(port: int, pids: Collection[int]) -> bool | None:
    """Return whether one of these processes listens; None if unknown."""
    if sys.platform != "linux":
        return None
    sockets = _listening(port)
    if not sockets:
        return None  # in another network namespace, or already closed
    readable = True
    for pid in pids:
        try:
            for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{name}") in sockets:  # noqa: PTH115
                        return True
        except PermissionError:
            readable = False
        except OSError:
            continue
    return False if readable else None


def server_of(port: int) -> str:
    """Return the process that listens at the port, for messages."""
    with contextlib.suppress(psutil.Error, OSError):
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port and one.pid:
                return f"{psutil.Process(one.pid).name()} (pid {one.pid})"
    return "another process"


def _listening(port: int) -> set[str]:
    """Return the sockets that listen at the port (Linux).

    Names are those of links in `/proc/PID/fd`.
    """
    found: set[str] = set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{fields[9]}]")
    return found
