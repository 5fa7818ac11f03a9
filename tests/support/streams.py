"""Streams of the API over a real Redis: a server in this process, and its clients."""

import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from manager.api.app import create_app
from manager.api.stream.connection import MAX_MESSAGE, StreamTimes
from manager.api.stream.hub import Hub
from manager.fleet import FleetStore
from manager.fleet.desired_store import DesiredStore
from manager.fleet.events import EVENTS_KEPT
from manager.fleet.live_reads import LiveReads
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus
from manager.telemetry.fleet_reader import ViewReader
from manager.telemetry.view import FleetView
from support.api import Api
from support.servers import RedisServer
from support.waiting import eventually

Frame = dict[str, Any]


def info(account_id: str, status: str = "running", **members: Any) -> WorkerInfo:
    return WorkerInfo(
        worker_id=f"w-{account_id}",
        account_id=account_id,
        status=WorkerLifecycleStatus(status),
        metadata={"epoch": 3},
        **members,
    )


def beat(account_id: str, **figures: Any) -> dict[str, Any]:
    return {"worker_id": f"w-{account_id}", "loop_age_seconds": 0.0, "health": "healthy", **figures}


class StreamServer:
    """The API with streams, on a free loopback port, over the fleet in a test's Redis."""

    def __init__(
        self,
        server: RedisServer,
        *,
        times: StreamTimes | None = None,
        stale_after_seconds: float = 10.0,
        events_kept: int = EVENTS_KEPT,
        **parts: Any,
    ) -> None:
        """Start to serve; `parts` replace parts of the API."""
        self.redis = server
        self.store = FleetStore(server.url, stale_after_seconds=stale_after_seconds, events_kept=events_kept)
        self.store.report_agent("h", {})
        self._reads = LiveReads(server.url, events_kept=events_kept)
        self.view = FleetView(self._reads, DesiredStore(server.url), stale_after_seconds=stale_after_seconds)
        reader = ViewReader(self.view)
        self.hub = Hub(reader, self.store.stream)
        self.api = Api(
            server,
            {},
            reader=reader,
            hub=self.hub,
            events=self.store.stream,
            stream_times=times or StreamTimes(),
            **parts,
        )
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(
            create_app(self.api.parts, self._lifespan),
            ws="websockets-sansio",
            ws_max_size=MAX_MESSAGE,
            log_config=None,
            lifespan="on",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})
        self._thread.start()
        eventually(lambda: self._server.started and self.hub.head is not None, what="the API serves")

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        self.view.start()
        self.hub.start()
        yield
        self.hub.close()
        self.view.close()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()
        self._reads.close()
        self.store.close()

    def record(self, *workers: WorkerInfo, **beats: dict[str, Any]) -> None:
        """Write records of workers, one event each, as host `h` would."""
        self.store.record("h", list(workers), {name.replace("_", "-"): one for name, one in beats.items()})

    def headers(self, *scopes: str, **options: Any) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api.token(*scopes, **options)}"}

    @contextlib.contextmanager
    def client(
        self, headers: dict[str, str] | None = None, query: str = "", max_queue: int = 16
    ) -> Iterator["StreamClient"]:
        """Open a stream; with a new token that may read, unless `headers` are given.

        The client stops reading while more than `max_queue` frames wait to be taken.
        """
        url = f"ws://{self.address}/api/v1/stream{query}"
        sent = self.headers("read") if headers is None else headers
        with connect(
            url,
            additional_headers=sent,
            subprotocols=[Subprotocol("manager.v1")],
            proxy=None,
            max_size=None,
            max_queue=max_queue,
        ) as found:
            yield StreamClient(found)


class StreamClient:
    """One WebSocket client."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def send(self, **message: Any) -> None:
        self.connection.send(json.dumps(message))

    def subscribe(self, subscription: str, topic: str, **members: Any) -> None:
        self.send(op="subscribe", id=subscription, topic=topic, **members)

    def next(self, within: float = 10.0) -> Frame:
        found: Frame = json.loads(self.connection.recv(timeout=within))
        return found

    def until(self, kind: str, *, where: Callable[[Frame], bool] = lambda _: True) -> Frame:
        """Return the next frame of a kind that fits; frames before it are dropped."""
        while True:
            found = self.next()
            if found["t"] == kind and where(found):
                return found

    def closed(self) -> tuple[int, str]:
        """Return code and reason of the close that comes, after whatever comes before."""
        try:
            while True:
                self.connection.recv(timeout=10)
        except ConnectionClosed as error:
            assert error.rcvd is not None
            return error.rcvd.code, error.rcvd.reason


def rows_of(frame: Frame, columns: list[str]) -> dict[str, dict[str, Any]]:
    """Return the rows of a frame by account."""
    rows = [dict(zip(columns, row, strict=True)) for row in frame["rows"]]
    return {row["account_id"]: row for row in rows}
