"""Many stream clients of one API process that is killed while they read, and what each of them got."""

import asyncio
import json
import random
import threading
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from manager.fleet import FleetStore
from manager.fleet.cursors import Position
from manager.fleet.tokens import TokenStore
from support.api_process import ApiProcess
from support.fleet import Fleet
from support.plain_websocket import ClosedError, PlainClient
from support.streams import info
from support.waiting import eventually

#: Streams of one token, and events that one write of records makes.
_PER_TOKEN = 20
_STEP = 50
#: Events that the writer is ahead of the fastest client, at most.
_AHEAD = 2_000
#: Seconds before a client connects again: the first time, and at most.
_FIRST_PAUSE, _MOST_PAUSE = 0.5, 15.0


@dataclass(frozen=True)
class Outcome:
    """What the clients of one trial got."""

    clients: int
    events: int
    kills: int
    lost: int
    repeated: int
    #: Connections that the API refused, and connections that it served.
    refused: int
    connections: int
    seconds: float


class _Client:
    """Reads events until it has `wanted`, and continues after its last cursor when the API ends."""

    def __init__(self, api: ApiProcess, token: str, after: str, wanted: int, seed: int) -> None:
        self._api = api
        self._headers = {"Authorization": f"Bearer {token}"}
        self._after = after
        self._wanted = wanted
        self._chance = random.Random(seed)
        #: Positions of the events in the order of their arrival, two numbers for each.
        self.got = array("Q")
        self.connections = self.refused = 0

    @property
    def count(self) -> int:
        return len(self.got) // 2

    async def run(self) -> None:
        pause = _FIRST_PAUSE
        while self.count < self._wanted:
            before = self.count
            try:
                await self._read()
            except ClosedError as closed:
                self.refused += closed.code == 4029
            except OSError:
                pass
            pause = _FIRST_PAUSE if self.count > before else min(pause * 2, _MOST_PAUSE)
            if self.count < self._wanted:
                await asyncio.sleep(pause * self._chance.uniform(0.5, 1.0))

    async def _read(self) -> None:
        host, _, port = self._api.url.removeprefix("http://").partition(":")
        client = await PlainClient.open(host, int(port), self._headers)
        try:
            message = {"op": "subscribe", "id": "e", "topic": "events", "after": self._after}
            client.send(json.dumps(message).encode())
            while self.count < self._wanted:
                for text in await client.frames():
                    self._take(text)
        finally:
            await client.close()

    def _take(self, text: bytes) -> None:
        if not text.startswith(b'{"t":"event"'):
            self.connections += text.startswith(b'{"t":"hello"')
            assert not text.startswith(b'{"t":"gone"'), text
            return
        # The cursor is the third member; parsing the whole frame would cost more than the API takes.
        begin = text.index(b'"cursor":"') + 10
        self._after = text[begin : text.index(b'"', begin)].decode()
        position = Position.parse(self._after.partition(":")[2])
        self.got.extend((position.ms, position.seq))


class ResumeTrial:
    """Writes events while clients read, and kills the API at random moments."""

    def __init__(self, fleet: Fleet, *, clients: int, events: int, kills: int, seed: int = 15) -> None:
        self._store: FleetStore = fleet.store
        self._events = events
        self._kills = kills
        self._chance = random.Random(seed)
        self._store.report_agent("h", {})
        self.api = ApiProcess(fleet)
        tokens = TokenStore(fleet.redis_url)
        names = [tokens.create("reader", ["read"], by="t")[1] for _ in range(-(-clients // _PER_TOKEN))]
        self._before = self._store.stream.cursor("$")
        self._clients = [
            _Client(self.api, names[number % len(names)], str(self._before), events, number)
            for number in range(clients)
        ]
        self._ended = threading.Event()

    def run(self, *, within: float, clock: Callable[[], float], say: Callable[[str], None]) -> Outcome:
        """Return what the clients got; raises TimeoutError if some did not get all `within` seconds."""
        began = clock()
        failed: list[BaseException] = []
        reading = threading.Thread(target=self._read, args=(within, failed))
        writing = threading.Thread(target=self._write)
        reading.start()
        writing.start()
        try:
            for reached in sorted(self._chance.randrange(self._events) for _ in range(self._kills)):
                self._await(reached, within)
                if self._ended.is_set():
                    break
                self.api.kill()
                self.api.start()
                say(f"{clock() - began:.0f} s: killed at {reached} of {self._events} events")
        finally:
            reading.join()
            self._ended.set()
            writing.join()
        if failed:
            raise failed[0]
        return self._outcome(clock() - began)

    def _await(self, reached: int, within: float) -> None:
        """Wait until the fastest client has so many events, and half of all got some since the last kill."""
        before = [one.count for one in self._clients]

        def there() -> bool:
            counts = [one.count for one in self._clients]
            reading = sum(now > then or now >= self._events for now, then in zip(counts, before, strict=True))
            return self._ended.is_set() or (max(counts) > reached and reading * 2 >= len(counts))

        eventually(there, within=within, what="the clients came so far")

    def _read(self, within: float, failed: list[BaseException]) -> None:
        async def all_of() -> None:
            async with asyncio.timeout(within):
                await asyncio.gather(*(one.run() for one in self._clients))

        try:
            asyncio.run(all_of())
        except BaseException as error:
            failed.append(error)
        self._ended.set()

    def _write(self) -> None:
        pause = threading.Event()
        for first in range(0, self._events, _STEP):
            while first - max(one.count for one in self._clients) > _AHEAD:
                if self._ended.is_set():
                    return
                pause.wait(0.02)
            count = min(_STEP, self._events - first)
            self._store.record("h", [info(f"account-{number}") for number in range(count)], {})

    def _outcome(self, seconds: float) -> Outcome:
        written = array("Q")
        for event in self._store.stream.page(self._before, count=self._events).events:
            position = Position.parse(event.id)
            written.extend((position.ms, position.seq))
        lost = repeated = 0
        for client in self._clients:
            # The agent's silence is an event too: what comes after the last event that counts is cut.
            read = client.got[: len(written)]
            if read == written:
                continue
            got = list(zip(read[::2], read[1::2], strict=True))
            lost += len(set(zip(written[::2], written[1::2], strict=True)) - set(got))
            repeated += max(1, len(got) - len(set(got)))  # another order counts as one
        return Outcome(
            len(self._clients),
            len(written) // 2,
            self._kills,
            lost,
            repeated,
            sum(one.refused for one in self._clients),
            sum(one.connections for one in self._clients),
            seconds,
        )
