"""How long an event in Redis takes to a client: by WebSocket, by Server-Sent Events, and by XREAD itself.

The fleet has 5,000 accounts whose heartbeats change each second. The three clients read the same events at
the same time; XREAD, which the API itself uses, is what the other two are compared with.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from common import machine, table
from fake_fleet import FakeFleet, bearer, environment, served
from support.plain_websocket import PlainClient
from support.ports import free_port
from support.servers import RedisServer
from support.waiting import eventually

from manager.fleet.event_types import Notice
from manager.fleet.keys import EVENTS_KEY

#: Milliseconds between two events.
GAP = (5.0, 25.0)
TYPE = "system.note"


class Reader:
    """The delays of one client, in milliseconds."""

    def __init__(self) -> None:
        self.delays: list[float] = []

    def got(self, data: dict[str, Any]) -> None:
        self.delays.append((time.monotonic_ns() - int(data["sent"])) / 1e6)


async def read_websocket(port: int, headers: dict[str, str], reader: Reader, count: int) -> None:
    client = await PlainClient.open("127.0.0.1", port, headers)
    client.send(
        json.dumps({"op": "subscribe", "id": "e", "topic": "events", "select": {"types": [TYPE]}}).encode()
    )
    try:
        while len(reader.delays) < count:
            for text in await client.frames():
                if text.startswith(b'{"t":"event"') and TYPE.encode() in text:
                    reader.got(json.loads(text)["event"]["data"])
    finally:
        await client.close()


async def read_sse(port: int, headers: dict[str, str], reader: Reader, count: int) -> None:
    stream, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{name}: {value}" for name, value in headers.items()]
    head = ["GET /api/v1/events/stream HTTP/1.1", f"Host: 127.0.0.1:{port}", *lines, "", ""]
    writer.write("\r\n".join(head).encode())
    try:
        while len(reader.delays) < count:
            line = await stream.readline()
            if line.startswith(b"data:") and TYPE.encode() in line:
                found = json.loads(line[5:])
                reader.got((found.get("event") or found)["data"])
    finally:
        writer.close()


def read_redis(url: str, reader: Reader, count: int) -> None:
    client = redis.Redis.from_url(url)
    after: Any = "$"
    while len(reader.delays) < count:
        answer: Any = client.xread({EVENTS_KEY: after}, block=1000)
        for _, entries in answer or ():
            for entry, fields in entries:
                after = entry
                if fields.get(b"type") == TYPE.encode():
                    reader.got(json.loads(fields[b"data"]))


def write(fleet: FakeFleet, count: int) -> None:
    chance = random.Random(15)
    for _ in range(count):
        time.sleep(chance.uniform(*GAP) / 1000)
        fleet.store.stream.add(Notice(type=TYPE, data={"sent": time.monotonic_ns()}))


def measure(count: int) -> list[tuple[str, Reader]]:
    readers = {"WebSocket": Reader(), "Server-Sent Events": Reader(), "XREAD": Reader()}
    with tempfile.TemporaryDirectory(prefix="wm-") as name:
        directory, port = Path(name), free_port()
        (directory / "redis").mkdir()
        server = RedisServer(directory / "redis")
        try:
            fleet = FakeFleet(server.url)
            fleet.start()
            headers = bearer(server.url)
            with served("api", port, directory, environment(server.url, directory)), fleet.sending():
                eventually(lambda: _answers(port), within=30, what="the API answers")
                works: list[Callable[[], Any]] = [
                    lambda: asyncio.run(read_websocket(port, headers, readers["WebSocket"], count)),
                    lambda: asyncio.run(read_sse(port, headers, readers["Server-Sent Events"], count)),
                    lambda: read_redis(server.url, readers["XREAD"], count),
                ]
                threads = [threading.Thread(target=work, daemon=True) for work in works]
                for thread in threads:
                    thread.start()
                time.sleep(3.0)
                write(fleet, count)
                for thread in threads:
                    thread.join(timeout=30)
        finally:
            server.close()
    return list(readers.items())


def _answers(port: int) -> bool:
    import http.client

    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        connection.request("GET", "/api/v1/health")
        return connection.getresponse().status < 500
    except OSError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1000)
    found = measure(parser.parse_args().events)
    print(f"{machine()}\n")
    rows = []
    for name, reader in found:
        delays = sorted(reader.delays)
        p95 = delays[int(len(delays) * 0.95) - 1] if delays else float("nan")
        p50 = statistics.median(delays) if delays else float("nan")
        rows.append((name, len(delays), f"{p50:.1f}", f"{p95:.1f}", f"{delays[-1]:.1f}" if delays else ""))
    print(table(("client", "events", "p50 ms", "p95 ms", "longest ms"), rows))


if __name__ == "__main__":
    main()
