"""The run history in a real Redis."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from support.runs import run
from support.servers import RedisServer

from manager.errors import FleetUnavailableError
from manager.fleet import FleetStore
from manager.fleet.keys import HOSTS_KEY, runs_key
from manager.fleet.run_types import Run, RunCause
from manager.fleet.runs import RunStore


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[RunStore]:
    client = redis_server.client()
    client.sadd(HOSTS_KEY, "h", "h2")
    client.close()
    found = RunStore(redis_server.url)
    yield found
    found.close()


def ids(runs: list[Run]) -> list[str]:
    return [one.worker_id for one in runs]


def test_an_accounts_runs_come_from_every_host_newest_first(store: RunStore) -> None:
    store.write("h", [run(1), run(2, "other"), run(4)])
    store.write("h2", [run(3, host="h2"), run(5, host="h2")])
    assert ids(store.of("a")) == ["w-5", "w-4", "w-3", "w-1"]
    assert ids(store.of("a", 2)) == ["w-5", "w-4"]
    assert store.of("other") == [run(2, "other")]
    assert store.of("nobody") == []


def test_a_run_that_was_written_twice_is_shown_once_as_it_was_first(store: RunStore) -> None:
    store.write("h", [run(1, reason="killed"), run(2), run(1, reason="found dead")])
    assert [(one.worker_id, one.reason) for one in store.of("a")] == [("w-2", None), ("w-1", "killed")]


def test_more_entries_than_one_read(store: RunStore) -> None:
    for first in range(0, 1200, 200):
        store.write("h", [run(n, "a" if n % 2 else "b") for n in range(first + 1, first + 201)])
    assert ids(store.of("a")) == [f"w-{n}" for n in range(1199, 0, -2)]
    assert len(store.written("h")) == 1200


def test_a_host_reports_only_its_own_runs_and_malformed_entries_are_left_out(
    store: RunStore, redis_server: RedisServer
) -> None:
    forged, good = run(7, host="h2"), run(1)
    client = redis_server.client()
    entries: list[dict[Any, Any]] = [
        {"run": "w-7", "account_id": "a", "data": forged.model_dump_json()},
        {"run": "w-8", "account_id": "a", "data": "{"},
        {"run": "w-9", "account_id": "a", "data": run(9, "b").model_dump_json()},
        {"run": "w-10", "account_id": "a", "data": json.dumps(run(10).to_dict() | {"ended_at": "never"})},
        {"nothing": "1"},
    ]
    for fields in entries:
        client.xadd(runs_key("h"), fields)
    client.close()
    store.write("h", [good])
    assert store.of("a") == [good]
    assert len(store.written("h")) == 6


def test_a_stream_is_bounded_and_what_was_trimmed_is_not_lost(redis_server: RedisServer) -> None:
    store = RunStore(redis_server.url, kept=10)
    written = store.write("h", [run(n) for n in range(1, 301)])
    kept = store.written("h")
    assert 10 <= len(kept) < 150, "Redis trims whole nodes of the stream"
    assert "w-300" in kept
    assert store.lost("h", [written[0], written[-1]]) == []
    client = redis_server.client()
    client.xdel(runs_key("h"), written[-1])
    assert store.lost("h", [written[0], written[-1]]) == [written[-1]]
    client.delete(runs_key("h"))
    client.close()
    assert store.lost("h", [written[-1]]) == [written[-1]]
    store.close()


def test_forget_host_removes_its_runs(store: RunStore, redis_server: RedisServer) -> None:
    store.write("h", [run(1)])
    fleet = FleetStore(redis_server.url)
    fleet.forget_host("h")
    fleet.close()
    client = redis_server.client()
    assert client.exists(runs_key("h")) == 0
    client.close()


def test_without_redis_reading_and_writing_say_so() -> None:
    store = RunStore("unix:///none.sock")
    with pytest.raises(FleetUnavailableError):
        store.of("a")
    with pytest.raises(FleetUnavailableError):
        store.write("h", [run(1)])


def test_a_run_is_the_same_after_json_and_reads_what_later_versions_write() -> None:
    whole = run(
        1,
        connected_at=datetime(2026, 3, 2, 9, 0, 1, tzinfo=UTC),
        equity_first="10000.00",
        exit_code=-9,
        memory_peak_bytes=12_000_000,
    )
    assert Run.from_json(json.dumps(whole.to_dict() | {"later": 1})) == whole
    assert whole.seconds == 60.0
    assert whole.to_dict()["ended_at"] == "2026-03-02T09:01:00Z"


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (["o@h", "start", "c-1", 5], RunCause("o@h", "start", "c-1", 5)),
        (["o@h"], RunCause("o@h")),
        ([1, None, "c", True], RunCause(command="c")),
        (["", "", "", -1], RunCause()),
        ({"by": "x"}, RunCause()),
        (None, RunCause()),
    ],
)
def test_a_cause_is_read_from_any_json(data: object, cause: RunCause) -> None:
    assert RunCause.from_json(data) == cause
