"""Slow and idle connections, against a real server of this process."""

import asyncio
import contextlib
import json
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from support.waiting import eventually
from websockets.sync.client import connect

from manager.api.connections import IdleConnections, OncePerMinute, connection_class

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
#: More than the kernel buffers for a client that does not read.
LARGE = b"x" * 64_000_000


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer after the body: at `/late` after a second, at `/large` with LARGE."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": "pong"})
        return
    assert scope["type"] == "http"
    if scope["path"] == "/late":
        await asyncio.sleep(1)
    if scope["path"] != "/early":
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
    body = LARGE if scope["path"] == "/large" else b"ok"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Server:
    """A server whose connections may be slow for 0.3 s, and of which three may be idle."""

    def __init__(self) -> None:
        self.idle = IdleConnections(3)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        protocol = connection_class(self.idle, request_seconds=0.3, stall_seconds=0.3)
        config = uvicorn.Config(
            app, http=protocol, ws="websockets-sansio", lifespan="off", log_config=None, timeout_keep_alive=60
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})
        self._thread.start()
        eventually(lambda: self._server.started, what="the server listens")

    @property
    def connections(self) -> int:
        return len(self._server.server_state.connections)

    @property
    def tasks(self) -> int:
        return len(self._server.server_state.tasks)

    def open(self, sent: bytes = b"") -> socket.socket:
        found = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        found.sendall(sent)
        return found

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


def rest(connection: socket.socket) -> bytes:
    """Return what the server sends until it ends the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            found += data
    connection.close()
    return found


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b""),
        (b"GET / HT", b"408"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"408"),
        (b"\r\n", b"408"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc", b""),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b""),
    ],
)
def test_a_request_that_does_not_arrive_in_time_ends_its_connection(
    server: Server, sent: bytes, status: bytes
) -> None:
    assert rest(server.open(sent))[9:12] == status
    assert len(server.idle) == 0


def test_a_next_request_that_does_not_arrive_in_time_ends_its_connection(server: Server) -> None:
    connection = server.open(REQUEST)
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    connection.sendall(b"GET / HT")
    assert rest(connection)[9:12] == b"408"


def test_the_rest_of_a_body_after_an_early_answer_does_not_keep_a_connection(server: Server) -> None:
    connection = server.open(b"POST /early HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\nabc")
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    connection.sendall(b"def")
    assert rest(connection)[9:12] == b"408"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nX: " + b"a" * 1_000_000,
        b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 100_000,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: a\r\n" * 100_000,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 1_000_000,
    ],
    ids=["header", "headers", "trailers", "chunk"],
)
def test_an_endless_head_is_refused(server: Server, sent: bytes) -> None:
    connection = server.open()
    with contextlib.suppress(ConnectionError):
        connection.sendall(sent)
    assert rest(connection)[9:12] in {b"431", b""}  # the answer is lost if more was on its way
    eventually(lambda: server.connections == 0, what="it is closed")


def test_a_large_body_does_not_count_as_a_large_head(server: Server) -> None:
    body = b"a" * 1_000_000
    connection = server.open(b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + body)
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    connection.close()


def test_requests_that_wait_for_an_earlier_answer_are_limited(server: Server) -> None:
    few = server.open(REQUEST * 10)
    found = b""
    while found.count(b"200 OK") < 10:
        found += few.recv(65536)
    few.close()
    assert b"400 Bad Request" in rest(server.open(REQUEST.replace(b"/ ", b"/late ", 1) + REQUEST * 1000))


def test_a_late_answer_is_sent(server: Server) -> None:
    connection = server.open(REQUEST.replace(b"/ ", b"/late ", 1))
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    connection.close()


@pytest.mark.parametrize("requests", [1, 3])
def test_a_client_that_does_not_read_its_answers_is_dropped(
    server: Server, requests: int, caplog: pytest.LogCaptureFixture
) -> None:
    connection = server.open(REQUEST.replace(b"/ ", b"/large ", 1) * requests)
    eventually(lambda: server.connections == 1, what="it is connected")
    eventually(lambda: server.connections + server.tasks == 0, what="it is dropped")
    assert len(rest(connection)) < len(LARGE)
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR] == []


def test_a_client_that_does_not_read_its_last_answer_is_dropped(server: Server) -> None:
    request = REQUEST.replace(b"/ ", b"/large ", 1).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    connection = server.open(request)
    eventually(lambda: server.connections == 1, what="it is connected")
    eventually(lambda: server.connections == 0, what="it is dropped")
    connection.close()


def test_the_connection_that_is_idle_longest_makes_room(server: Server) -> None:
    late = server.open(REQUEST.replace(b"/ ", b"/late ", 1))
    eventually(lambda: server.connections == 1, what="it waits for its answer")
    idle = [server.open() for _ in range(40)]
    with contextlib.closing(server.open(REQUEST)) as another:
        assert another.recv(65536).startswith(b"HTTP/1.1 200")
    assert len(server.idle) <= 3
    assert late.recv(65536).startswith(b"HTTP/1.1 200"), "a connection whose request is answered is not idle"
    assert [rest(one) for one in idle] == [b""] * 40
    late.close()


def test_a_websocket_is_neither_slow_nor_idle(server: Server) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/") as client:
        eventually(lambda: len(server.idle) == 0, what="it is no connection of HTTP any more")
        silent = server.open()
        assert rest(silent) == b""  # after the time that a request may take
        client.send("ping")
        assert client.recv() == "pong"


def test_a_line_is_logged_once_a_minute_and_errors_always() -> None:
    now = [0.0]
    found = OncePerMinute(lambda: now[0])

    def passes(text: str, level: int = logging.WARNING) -> bool:
        return found.filter(logging.LogRecord("uvicorn.error", level, "", 0, text, None, None))

    assert [passes("invalid"), passes("invalid"), passes("other")] == [True, False, True]
    assert [passes("broken", logging.ERROR), passes("broken", logging.ERROR)] == [True, True]
    now[0] = 61.0
    assert passes("invalid")


def test_bytes_that_are_not_http_get_a_problem(server: Server) -> None:
    head, _, body = rest(server.open(b"GET /\x00 HTTP/1.1\r\n\r\n")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request")
    assert b"application/problem+json" in head
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (400, "malformed_request")
