"""Sends one GET request again and again over several connections; measures the answers.

Each connection sends its next request when the whole answer has come. As a program it prints the figures as
JSON, so that a benchmark can run it as a process of its own.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Final, cast

import uvloop

_BUFFER: Final = bytearray(1 << 20)
_VIEW: Final = memoryview(_BUFFER)


@dataclass(frozen=True, slots=True)
class Load:
    """What a load measured; times in milliseconds."""

    requests_per_second: float
    p50: float
    p99: float
    slowest: float
    body_bytes: int
    #: HTTP status → answers.
    statuses: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return set(self.statuses) == {"200"}


class _Connection(asyncio.BufferedProtocol):
    """One connection. All of them share one buffer, because bodies are counted and not kept."""

    def __init__(self, request: bytes, until: float, times: list[float], statuses: Counter[str]) -> None:
        self._request = request
        self._until = until
        self._times = times
        self._statuses = statuses
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._left = -1
        self._began = 0.0
        self.body_bytes = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of no such class
        self._send()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _VIEW

    def buffer_updated(self, nbytes: int) -> None:
        if self._left >= 0:
            self._left -= nbytes
        else:
            self._head += _VIEW[:nbytes].tobytes()
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._begin_answer(head.lower(), len(body))
        if self._left <= 0:
            self._end_answer()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed the connection"))

    def _send(self) -> None:
        assert self._transport is not None
        self._head, self._left = b"", -1
        self._began = time.perf_counter()
        self._transport.write(self._request)

    def _begin_answer(self, head: bytes, body: int) -> None:
        self._statuses[head[9:12].decode()] += 1
        length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        self.body_bytes = int(length or 0)
        self._left = self.body_bytes - body

    def _end_answer(self) -> None:
        now = time.perf_counter()
        self._times.append((now - self._began) * 1000)
        if now < self._until:
            self._send()
            return
        assert self._transport is not None
        self.done.set_result(None)
        self._transport.close()


async def _load(port: int, request: bytes, connections: int, seconds: float) -> Load:
    times: list[float] = []
    statuses: Counter[str] = Counter()
    began = time.perf_counter()
    connect = partial(_Connection, request, began + seconds, times, statuses)
    loop = asyncio.get_running_loop()
    made = [(await loop.create_connection(connect, "127.0.0.1", port))[1] for _ in range(connections)]
    await asyncio.gather(*(one.done for one in made))
    took = time.perf_counter() - began
    times.sort()
    return Load(
        requests_per_second=len(times) / took,
        p50=times[len(times) // 2],
        p99=times[int(len(times) * 0.99)],
        slowest=times[-1],
        body_bytes=made[0].body_bytes,
        statuses=dict(statuses),
    )


def load(
    port: int,
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    connections: int = 8,
    seconds: float = 10.0,
) -> Load:
    """Load a server on this machine from a process of its own; blocks for `seconds`."""
    lines = [f"GET {path} HTTP/1.1", f"Host: localhost:{port}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    answer = subprocess.run(
        [sys.executable, __file__, str(port), str(connections), str(seconds)],
        input="\r\n".join([*lines, "", ""]).encode(),
        stdout=subprocess.PIPE,
        check=True,
        env=dict(os.environ),
    )
    return Load(**json.loads(answer.stdout))


def main() -> None:
    """Read the request from stdin, so that its token is in no command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float)
    asked = parser.parse_args()
    request = sys.stdin.buffer.read()
    found = uvloop.run(_load(asked.port, request, asked.connections, asked.seconds))
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
