"""The local Redis of `manager up`, which listens only on a Unix socket."""

import sys
from pathlib import Path
from typing import Final

from manager.errors import ComponentError
from manager.local.component import Component
from manager.local.redis_binaries import ServerBinary, install_hint, server_binaries
from manager.system.environment import clean_environment
from manager.system.state_dir import StatePaths

#: Redis 6.2 introduced trimming of streams by id, and `LMOVE`, which Celery's transport may use.
MIN_VERSION: Final = (6, 2)
#: Since Redis 7.0 the append-only file is a directory, which earlier servers ignore.
_DIRECTORY_VERSION: Final = (7, 0)
_APPEND_ONLY_DIRECTORY: Final = "appendonlydir"


def find_binary() -> ServerBinary | None:
    """Return the preferred server that is new enough, or None."""
    return next((binary for binary in server_binaries() if binary.at_least(MIN_VERSION)), None)


def local_redis(paths: StatePaths) -> Component:
    """Return the component for this machine's own Redis.

    Raises ComponentError if no server is installed, or if the server would ignore the existing data.
    """
    if sys.platform == "win32":
        raise ComponentError(f"Redis does not run on Windows: set MANAGER_REDIS_URL to {install_hint()}")
    binary = find_binary()
    if binary is None:
        old = "".join(f" ({one} is too old)" for one in server_binaries())
        raise ComponentError(
            f"no Redis server on this machine{old}: install {install_hint()}, or set MANAGER_REDIS_URL to "
            "another Redis"
        )
    _refuse_loss(binary, paths.redis_dir)
    argv = [
        str(binary.path),
        *("--port", "0"),
        *("--unixsocket", str(paths.redis_socket)),
        *("--unixsocketperm", "700"),
        *("--dir", str(paths.redis_dir)),
        *("--daemonize", "no"),
        # Write to disk every second. With full memory a write fails; eviction would silently lose a stop.
        *("--appendonly", "yes"),
        *("--appendfsync", "everysec"),
        *("--maxmemory-policy", "noeviction"),
    ]
    return Component("redis", argv, clean_environment(), paths)


def _refuse_loss(binary: ServerBinary, data: Path) -> None:
    """Raise ComponentError if the server would start without existing data.

    Desired state and leases would be lost silently.
    """
    directory = data / _APPEND_ONLY_DIRECTORY
    if not binary.at_least(_DIRECTORY_VERSION) and directory.is_dir():
        raise ComponentError(
            f"{binary} would ignore the data in {directory}, which Redis 7 or later or Valkey wrote: put "
            "that server first on PATH, or set MANAGER_REDIS_URL to another Redis"
        )


def version_problem(version: str) -> str | None:
    """Return why a server of this version cannot be used, or None."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers >= MIN_VERSION:
        return None
    minimum = ".".join(map(str, MIN_VERSION))
    return f"this Redis is version {version}, but {minimum} or later is required: upgrade it"
