"""Many clients that reconnect at once, and guesses at tokens beside them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.servers import RedisServer
from support.streams import StreamServer

from manager.api.limits import RATES, RateLimiter
from manager.api.routes import websocket

GUESS = {"Authorization": "Bearer wm_abcdefgh_" + "x" * 43}


@pytest.fixture
def streams(api_redis: RedisServer) -> Iterator[StreamServer]:
    api_redis.forget()
    found = StreamServer(api_redis, limiter=RateLimiter(RATES))
    yield found
    found.close()


def test_sixty_clients_of_one_address_are_let_in_at_once(streams: StreamServer) -> None:
    every = [streams.headers("read") for _ in range(30)]

    def first(headers: dict[str, str]) -> str:
        with streams.client(headers) as client:
            return str(client.next()["t"])

    with ThreadPoolExecutor(60) as threads:
        assert list(threads.map(first, every * 2)) == ["hello"] * 60


def test_a_refused_client_gets_the_problem_and_when_to_try_again(
    streams: StreamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "_PATIENCE_SECONDS", 0.0)
    for _ in range(60):
        with streams.client(GUESS) as client:
            refused = client.next()
            code, reason = client.closed()
            if code == 4029:
                break
            assert (refused["problem"]["code"], code) == ("unauthenticated", 4001)
    assert (code, reason) == (4029, "rate_limited")
    assert (refused["t"], refused["id"], refused["problem"]["code"]) == ("error", None, "rate_limited")
    assert refused["problem"]["retry_after"] == 1


def test_a_valid_client_waits_for_its_turn_while_others_guess(streams: StreamServer) -> None:
    limiter = streams.api.parts.limiter
    for _ in range(20):
        limiter.take("address", "127.0.0.1")
    with streams.client() as client:
        assert client.next()["t"] == "hello"
