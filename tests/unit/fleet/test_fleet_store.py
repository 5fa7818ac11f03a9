"""States of workers and hosts, read from records and heartbeats in a real Redis."""

import json
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from support.servers import RedisServer
from support.waiting import eventually

from manager.errors import FleetUnavailableError
from manager.fleet import FleetStore
from manager.fleet.keys import beats_key
from manager.fleet.leases import LeaseBeats
from manager.fleet.server import server_name
from manager.fleet.timestamped import Timestamped
from manager.fleet.workers import observe
from manager.models import WorkerInfo, utc_now
from manager.states import WorkerLifecycleStatus as S


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[FleetStore]:
    found = FleetStore(redis_server.url, stale_after_seconds=0.5)
    yield found
    found.close()


def info(account_id: str = "a", status: S = S.RUNNING, worker_id: str = "w-1") -> WorkerInfo:
    return WorkerInfo(worker_id=worker_id, account_id=account_id, status=status, metadata={"host": "h"})


def beat(worker_id: str = "w-1", **figures: Any) -> dict[str, Any]:
    return {"worker_id": worker_id, "loop_age_seconds": 0.0, "health": "healthy", **figures}


def test_only_a_fresh_heartbeat_proves_that_a_worker_runs(store: FleetStore) -> None:
    store.report_agent("h", {})
    store.record("h", [info()], {"a": beat(equity="9.99")})
    found = store.get_worker("a")
    assert found is not None
    assert (found.status, found.metadata["equity"], str(found.health)) == ("running", "9.99", "healthy")
    eventually(lambda: store.list_workers()[0].status == "unknown", within=3)
    stale = store.get_worker("a")
    assert stale is not None
    assert stale.error is not None
    assert stale.error.startswith("last recorded as running: the worker sent no heartbeat for")
    assert stale.health == "unknown"


LIVE_CASES = [
    (S.RUNNING, None, S.UNKNOWN),
    (S.RUNNING, Timestamped(0.1, beat("w-other")), S.UNKNOWN),
    (S.RUNNING, Timestamped(0.1, beat(loop_age_seconds=99.0)), S.UNKNOWN),
    (S.RUNNING, Timestamped(0.1, beat()), S.RUNNING),
    (S.STOPPED, Timestamped(0.1, beat()), S.STOPPED),
    (S.FAILED, Timestamped(0.1, beat()), S.FAILED),
    (S.STARTING, None, S.STARTING),
]


@pytest.mark.parametrize(("status", "word", "seen"), LIVE_CASES)
def test_a_live_state_needs_proof(status: S, word: Timestamped | None, seen: S) -> None:
    assert observe(info(status=status), word, True, 10.0).status is seen


def test_a_silent_host_makes_starts_unknown_but_not_workers_with_a_heartbeat() -> None:
    assert observe(info(status=S.STARTING), None, False, 10.0).status is S.UNKNOWN
    assert observe(info(), Timestamped(0.1, beat()), False, 10.0).status is S.RUNNING


def test_the_hosts_record_of_a_mode_wins_over_the_last_heartbeat() -> None:
    """An acknowledged pause must not be shown as `normal` until the next heartbeat."""
    recorded = info().with_(metadata={"trading_mode": "paused"})
    earlier = Timestamped(0.5, {**beat(), "trading_mode": "normal"})
    assert observe(recorded, earlier, True, 10.0).trading_mode == "paused"


def test_a_restarted_redis_counts_as_one_that_lost_data(store: FleetStore, redis_server: RedisServer) -> None:
    """It may have lost writes between two reports, which the reports themselves do not show."""
    assert store.report_agent("h", {"word": 1}) == (None, 0, None)
    before, _, _ = store.report_agent("h", {"word": 2})
    assert before is not None
    assert before["word"] == 1
    redis_server.restart()
    assert store.report_agent("h", {"word": 3}) == (None, 0, None)
    before, _, _ = store.report_agent("h", {"word": 4})
    assert before is not None
    assert before["word"] == 3


def test_hosts_live_and_lost(store: FleetStore, redis_server: RedisServer) -> None:
    store.report_agent("h1", {"pid": 7})
    store.report_agent("h2", {"pid": 8})
    store.forget_agent("h2")
    with redis_server.client() as client:
        seconds = client.time()[0] - 60
        client.sadd("manager:hosts", "h3")
        client.set("manager:host:h3:agent", f"{seconds} {json.dumps({'pid': 9})}")
    assert [(host.name, host.live) for host in store.hosts()] == [("h1", True), ("h2", False), ("h3", False)]
    assert store.hosts()[2].age_seconds == pytest.approx(60, abs=2)


def test_freshness_ignores_the_clocks_of_hosts(store: FleetStore, redis_server: RedisServer) -> None:
    """Redis stamps heartbeats, so a host whose clock is an hour off is still live."""
    wrong = info().with_(created_at=utc_now() - timedelta(hours=1), started_at=utc_now() + timedelta(hours=1))
    store.record("h", [wrong], {})
    with redis_server.client() as client:
        beats = LeaseBeats(client, host="h", beats_key=beats_key("h"), claims=[], epoch=0, ttl_seconds=0)
        beats.send("a", beat(last_heartbeat="1999-01-01T00:00:00Z"))
    found = store.get_worker("a")
    assert found is not None
    assert found.status == "running"
    assert found.metadata["heartbeat_age_seconds"] < 1


def test_an_ended_worker_loses_its_heartbeat_in_the_same_transaction(
    store: FleetStore, redis_server: RedisServer
) -> None:
    store.record("h", [info()], {"a": beat()})
    store.record("h", [info(status=S.STOPPED)], {})
    with redis_server.client() as client:
        assert client.hgetall("manager:host:h:beats") == {}


def test_of_two_hosts_records_the_running_one_wins(store: FleetStore) -> None:
    store.record("h1", [info(worker_id="w-1")], {"a": beat("w-1")})
    store.record("h2", [info(status=S.STOPPED, worker_id="w-2")], {})
    assert [found.worker_id for found in store.list_workers()] == ["w-1"]
    one = store.get_worker("a")
    assert one is not None
    assert one.worker_id == "w-1"


def test_a_renamed_host_has_its_worker_under_the_new_name(store: FleetStore) -> None:
    """The worker sends heartbeats under the old name; the agent records it under the new one."""
    old, new = (info("a").with_(metadata={"host": host}) for host in ("a-host", "b-host"))
    store.record("a-host", [old], {"a": beat(equity="9.99")})
    store.report_agent("b-host", {})
    store.record("b-host", [new], {})
    (found,) = store.list_workers()
    assert (found.status, found.metadata["host"], found.metadata["equity"]) == ("running", "b-host", "9.99")
    assert found.metadata["renamed_from"] == "a-host"
    store.record("b-host", [new.with_(status=S.STOPPED)], {})
    (found,) = store.list_workers()
    assert found.status == "stopped", "the record under the old name is ignored"


def test_workers_that_ended_unobserved_are_recorded_as_failed(store: FleetStore) -> None:
    store.record("h", [info("a"), info("b", worker_id="w-2"), info("c", S.STOPPED, "w-3")], {"a": beat()})
    ended = store.settle("h", {"a"})
    assert [(one.worker_id, str(one.status)) for one in ended] == [("w-2", "failed")]
    assert {found.account_id: str(found.status) for found in store.list_workers()} == {
        "a": "running",
        "b": "failed",
        "c": "stopped",
    }


def test_workers_that_ended_unobserved_during_a_stop_are_recorded_as_stopped(store: FleetStore) -> None:
    store.record("h", [info("a"), info("b", S.STOPPING, "w-2"), info("c", worker_id="w-3")], {})
    store.settle("h", set(), lambda account_id: account_id == "a")
    found = {one.account_id: one for one in store.list_workers()}
    assert {key: str(one.status) for key, one in found.items()} == {
        "a": "stopped",
        "b": "stopped",
        "c": "failed",
    }
    assert (found["a"].error, found["b"].error) == (None, None)
    assert found["c"].error == "it was gone when the host agent started"


def test_every_change_is_an_event_in_order(store: FleetStore) -> None:
    store.record("h", [info(status=S.STARTING), info()], {})
    store.record("h", [info(status=S.FAILED).with_(error="gone")], {})
    events = store.events()
    assert [(event.status, event.error) for event in events] == [
        ("starting", None),
        ("running", None),
        ("failed", "gone"),
    ]
    assert [event.status for event in store.events(last=1)] == ["failed"]
    assert [event.status for event in store.follow_events(events[0].id)] == ["running", "failed"]
    assert store.follow_events(events[-1].id, wait_seconds=0.05) == []


def test_malformed_records_are_skipped(store: FleetStore, redis_server: RedisServer) -> None:
    store.record("h", [info()], {"a": beat()})
    with redis_server.client() as client:
        client.hset("manager:host:h:workers", mapping={"x": "junk", "y": "{}", "z": b"\xff"})
        client.hset("manager:host:h:beats", "a", "no stamp")
        client.set("manager:host:h:agent", "[]")
    assert [(found.account_id, str(found.status)) for found in store.list_workers()] == [("a", "unknown")]
    assert [host.live for host in store.hosts()] == [False]


def test_ten_thousand_workers_are_two_round_trips(store: FleetStore, redis_server: RedisServer) -> None:
    infos = [info(f"a{number}", worker_id=f"w-{number}") for number in range(10_000)]
    store.record("h", infos, {found.account_id: beat(found.worker_id) for found in infos})
    with redis_server.client() as client:
        before = client.info("stats")["total_net_output_bytes"], client.info("commandstats")
        assert len(store.list_workers()) == 10_000
        calls = client.info("commandstats")
    for command in ("hgetall", "smembers"):
        assert (
            calls[f"cmdstat_{command}"]["calls"] - before[1].get(f"cmdstat_{command}", {"calls": 0})["calls"]
            <= 2
        )


def test_without_redis_the_error_is_one_clear_line(redis_server: RedisServer) -> None:
    store = FleetStore(redis_server.url)
    redis_server.stop()
    with pytest.raises(FleetUnavailableError, match="is the fleet up"):
        store.list_workers()
    store.close()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"-NOAUTH Authentication required.\r\n", "check user and password in MANAGER_REDIS_URL"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "still loading its data"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "cannot be used"),
        (None, "cannot be used"),
    ],
)
def test_half_open_and_foreign_servers_raise_an_error_in_time(answer: bytes | None, expected: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                if answer is not None:
                    connection.recv(4096)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        store = FleetStore(f"redis://user:hunter2@127.0.0.1:{port}/0")
        with pytest.raises(FleetUnavailableError, match=expected) as caught:
            store.hosts()
        assert "hunter2" not in str(caught.value)
        store.close()
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        for connection in held:
            connection.close()


def test_a_forged_last_entry_of_the_event_stream_breaks_no_record_or_reader(
    store: FleetStore, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    store.record("h", [info()], {})
    with redis_server.client() as client:
        client.xadd("manager:events", {"status": "forged"}, id="18446744073709551615-18446744073709551615")
    store.report_agent("h", {})
    store.record("h", [info("b")], {"b": beat()})
    found = store.get_worker("b")
    assert found is not None
    assert found.status == "running"
    assert "event_lost" in str([record.__dict__ for record in caplog.records])
    assert [event.status for event in store.events()] == ["running", "forged"]
    assert [event.status for event in store.follow_events("0", wait_seconds=0.1)] == ["running", "forged"]
    with redis_server.client() as client:
        client.delete("manager:events")
    store.record("h", [info("c")], {})
    assert [event.account_id for event in store.events()] == ["c"]


def test_a_server_is_named_by_its_product_and_version(store: FleetStore) -> None:
    assert (
        server_name({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"})
        == "Valkey 9.1.2"
    )
    assert server_name({"redis_version": "6.2.14"}) == "Redis 6.2.14"
    assert store.ping()["name"].split()[0] in {"Redis", "Valkey"}
