"""Threads wait for a free connection instead of failing."""

import threading
from typing import Any

import pytest
from pydantic import SecretStr
from support.servers import RedisServer

from manager.client.celery_app import sender_app
from manager.errors import FleetUnavailableError
from manager.fleet import FleetStore, fleet_url
from manager.fleet.desired_store import DesiredStore
from manager.fleet.pools import CONNECTIONS
from manager.fleet.redis_client import open_client, translated
from manager.settings import Settings

THREADS = 300


def at_once(call: Any) -> list[Exception]:
    """Call in many threads at the same moment; return the errors."""
    errors: list[Exception] = []
    together = threading.Barrier(THREADS)

    def run() -> None:
        together.wait()
        try:
            call()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_more_threads_than_connections_wait_for_one(redis_server: RedisServer) -> None:
    assert THREADS > CONNECTIONS
    client = open_client(redis_server.url)
    # Each holds its connection long enough that all are in use.
    assert at_once(lambda: client.blpop(["nothing"], timeout=0.3)) == []


def test_the_clients_of_a_process_share_its_connections(redis_server: RedisServer) -> None:
    store, desired = FleetStore(redis_server.url), DesiredStore(redis_server.url)
    with redis_server.client() as client:
        before = client.info("clients")["connected_clients"]
        store.hosts()
        desired.read("account-001")
        assert client.info("clients")["connected_clients"] == before + 1


def test_a_thread_without_a_free_connection_gets_an_error_in_time(redis_server: RedisServer) -> None:
    client = open_client(redis_server.url, reply_timeout=0.5)
    held = [client.connection_pool.get_connection() for _ in range(CONNECTIONS)]
    try:
        with (
            pytest.raises(FleetUnavailableError, match="No connection available"),
            translated(redis_server.url),
        ):
            client.ping()
    finally:
        for connection in held:
            client.connection_pool.release(connection)
    assert client.ping()


def test_more_threads_than_connections_of_the_result_backend_wait_for_one(redis_server: RedisServer) -> None:
    app = sender_app(fleet_url(Settings(redis_url=SecretStr(redis_server.url))))
    backend = app.backend
    ids = iter(range(THREADS))
    lock = threading.Lock()

    def store() -> None:
        with lock:
            number = next(ids)
        # Each holds its connection for a while, as with a slow network.
        backend.client.blpop(["nothing"], timeout=0.3)
        backend.client.set(f"t{number}", "x")

    assert at_once(store) == []
    with redis_server.client() as client:
        assert client.dbsize() == THREADS
