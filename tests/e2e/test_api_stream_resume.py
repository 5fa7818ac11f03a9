"""Streams of the real API process, killed while many clients read."""

import asyncio
import contextlib
import json
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from support.api_process import ApiProcess
from support.fleet import Fleet
from support.streams import info
from support.waiting import eventually
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from manager.fleet import FleetStore
from manager.fleet.tokens import TokenStore

pytestmark = [pytest.mark.e2e, pytest.mark.long]

CLIENTS = 2
EVENTS = 500
KILLS = 1


class Client:
    """Reads events until it has `EVENTS`, and continues after its last cursor when the API ends."""

    def __init__(self, api: ApiProcess, token: str, after: str) -> None:
        self._api = api
        self._token = token
        self._after = after
        self.got: list[str] = []
        self.connections = 0

    async def run(self) -> None:
        while len(self.got) < EVENTS:
            with contextlib.suppress(OSError, EOFError, WebSocketException, TimeoutError):
                await self._read()
            await asyncio.sleep(0.2)

    async def _read(self) -> None:
        url = f"ws{self._api.url.removeprefix('http')}/api/v1/stream"
        headers = {"Authorization": f"Bearer {self._token}"}
        async with connect(url, additional_headers=headers, proxy=None, max_size=None) as connection:
            self.connections += 1
            message = {"op": "subscribe", "id": "e", "topic": "events", "after": self._after}
            await connection.send(json.dumps(message))
            async for text in connection:
                frame = json.loads(text)
                if frame["t"] == "event":
                    self._after = frame["cursor"]
                    self.got.append(frame["event"]["id"])
                    if len(self.got) >= EVENTS:
                        return
                elif frame["t"] == "error":
                    return


async def all_of(runs: list[Callable[[], Awaitable[None]]]) -> None:
    async with asyncio.timeout(150):
        await asyncio.gather(*(run() for run in runs))


def test_every_client_gets_every_event_once_though_the_api_is_killed(bare_fleet: Fleet) -> None:
    store = FleetStore(bare_fleet.redis_url)
    store.report_agent("h", {})
    api = ApiProcess(bare_fleet)
    tokens = [TokenStore(bare_fleet.redis_url).create("reader", ["read"], by="t")[1] for _ in range(5)]
    before = store.stream.cursor("$")
    clients = [Client(api, tokens[number % 5], str(before)) for number in range(CLIENTS)]
    reading = threading.Thread(target=asyncio.run, args=(all_of([one.run for one in clients]),))
    reading.start()
    chance = random.Random(15)
    kills = {chance.randrange(1, EVENTS // 50) for _ in range(KILLS)}
    for step in range(EVENTS // 50):
        store.record("h", [info(f"account-{number}") for number in range(50)], {})
        if step in kills:
            reached = chance.randrange(step * 50)
            eventually(
                lambda: max(len(one.got) for one in clients) > reached,  # noqa: B023 - called at once
                within=60,
                what="some client came so far",
            )
            api.kill()
            api.start()
    reading.join()
    written = [event.id for event in store.stream.page(before, count=EVENTS).events]
    assert len(written) == EVENTS
    for client in clients:
        assert client.got == written, Counter(client.got).most_common(1)
    assert sum(client.connections for client in clients) >= CLIENTS * 2
    store.close()
