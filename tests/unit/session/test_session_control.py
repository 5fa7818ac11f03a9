import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import pytest
from support.waiting import eventually

from manager.session.control import ControlError, ControlServer, ask

TOKEN = "right-token"


class Served:
    def __init__(self, address: str) -> None:
        self.requests: list[Mapping[str, Any]] = []
        self.server = ControlServer(address, TOKEN, self.handle)
        self.address = self.server.address

    def handle(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if request.get("op") == "boom":
            raise ZeroDivisionError
        self.requests.append(request)
        return {"ok": True, "echo": request.get("op")}


@pytest.fixture(params=["unix", "tcp"])
def served(request: pytest.FixtureRequest, short_dir: Path) -> Iterator[Served]:
    if request.param == "unix" and sys.platform == "win32":
        pytest.skip("Windows has named pipes instead")
    found = Served(str(short_dir / "w.sock") if request.param == "unix" else "tcp:127.0.0.1:0")
    yield found
    found.server.close()


def test_a_request_is_answered(served: Served) -> None:
    assert ask(served.address, TOKEN, {"op": "ping"}) == {"ok": True, "echo": "ping"}
    assert "token" not in served.requests[0]


def test_a_wrong_token_is_refused_and_reaches_no_handler(served: Served) -> None:
    for token in ("", "wrong", TOKEN + "x"):
        with pytest.raises(ControlError):
            ask(served.address, token, {"op": "stop"})
    assert served.requests == []


def test_a_handler_that_fails_is_an_error_and_not_the_end(served: Served) -> None:
    assert ask(served.address, TOKEN, {"op": "boom"})["ok"] is False
    assert ask(served.address, TOKEN, {"op": "ping"})["ok"] is True


def test_silent_connections_do_not_block_a_stop(served: Served) -> None:
    strangers = [_connect(served.address) for _ in range(6)]
    try:
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(ask(served.address, TOKEN, {"op": "stop"})))
        thread.start()
        eventually(lambda: answers, within=5)
        thread.join()
    finally:
        for stranger in strangers:
            stranger.close()


@pytest.mark.parametrize("junk", [b"", b"[]", b"hello", b"\xff" * 100, b"[" * 60_000, b"x" * 200_000])
def test_junk_is_refused(served: Served, junk: bytes) -> None:
    with _connect(served.address) as stranger:
        try:
            stranger.send_bytes(junk)
            stranger.poll(5)
        except OSError:
            pass  # it hung up before we had said everything
    assert ask(served.address, TOKEN, {"op": "ping"})["ok"] is True
    assert len(served.requests) == 1


def test_nobody_there_is_a_control_error(short_dir: Path) -> None:
    with pytest.raises(ControlError):
        ask(str(short_dir / "none.sock"), TOKEN, {"op": "ping"}, timeout=0.5)


def test_one_that_accepts_and_never_answers_is_a_control_error_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(ControlError):
            ask(f"tcp:127.0.0.1:{port}", TOKEN, {"op": "ping"}, timeout=0.3)


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_the_socket_is_private(short_dir: Path) -> None:
    served = Served(str(short_dir / "w.sock"))
    assert ((short_dir / "w.sock").stat().st_mode & 0o777) == 0o600
    served.server.close()


def _connect(address: str) -> Any:
    make: Callable[..., Any] = Client
    if address.startswith("tcp:"):
        host, _, port = address.removeprefix("tcp:").rpartition(":")
        return make((host, int(port)), family="AF_INET")
    return make(address, family="AF_UNIX")


def test_a_stop_arrives_though_the_system_grants_no_thread(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[Mapping[str, Any]] = []

    def handle(request: Mapping[str, Any]) -> Mapping[str, Any]:
        received.append(request)
        return {"ok": True}

    server = ControlServer(str(short_dir / "c.sock"), "token", handle)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for _ in range(2):
        assert ask(server.address, "token", {"op": "stop"}) == {"ok": True}
    monkeypatch.undo()
    server.close()
    assert [request["op"] for request in received] == ["stop", "stop"]
