"""A network namespace for a host, with a cable that can be pulled."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from support.fleet import Fleet
from support.servers import RedisServer


def rejection() -> str | None:
    """Return why this machine cannot create namespaces; None if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2) on this machine"
    name = f"wm-try-{os.getpid()}"
    made = _ip("netns", "add", name, check=False)
    if made.returncode != 0:
        return f"no namespace can be created here: {made.stderr.strip()}"
    _ip("netns", "delete", name)
    return None


class Cable:
    """A namespace and the cable to it. Redis listens at the near end."""

    def __init__(self, number: int) -> None:
        self.name = f"wm-{os.getpid()}-{number}"
        # Concurrent or killed tests use other networks.
        network = os.getpid() % 120 * 2 + number
        self.near, self.far = f"10.213.{network}.1", f"10.213.{network}.2"
        self._link, peer = f"wm{os.getpid() % 100000}n{number}", f"wm{os.getpid() % 100000}f{number}"
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", self._link, "type", "veth", "peer", "name", peer, "netns", self.name)
            _ip("addr", "add", f"{self.near}/24", "dev", self._link)
            _ip("link", "set", self._link, "up")
            _ip("-n", self.name, "addr", "add", f"{self.far}/24", "dev", peer)
            _ip("-n", self.name, "link", "set", peer, "up")
            _ip("-n", self.name, "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    def pull(self) -> None:
        """Drop every packet from now on, without an error at either end."""
        _ip("link", "set", self._link, "down")

    def plug(self) -> None:
        _ip("link", "set", self._link, "up")

    def close(self) -> None:
        _ip("netns", "delete", self.name, check=False)
        _ip("link", "delete", self._link, check=False)


class FarHost(Fleet):
    """A host behind a cable, over which its agent and workers reach Redis."""

    def __init__(
        self, directory: Path, redis: RedisServer, port: int, cable: Cable, host: str, beside: Fleet
    ) -> None:
        super().__init__(directory, redis, host, beside)
        self.cable = cable
        self.redis_url = f"redis://{cable.near}:{port}/0"

    def start_process(self, argv: tuple[str, ...], output: IO[bytes]) -> "subprocess.Popen[Any]":
        return super().start_process(("ip", "netns", "exec", self.cable.name, *argv), output)


def _ip(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=check)
