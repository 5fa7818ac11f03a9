"""Batch results contain every account during outages of a real Redis. The test plays the host."""

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from redis.exceptions import RedisError
from support.servers import RedisServer
from support.waiting import eventually

from manager.client import answers, batch_sender
from manager.client.batch_checks import BatchChecks
from manager.client.celery_pool import CeleryWorkerPool
from manager.client.outcomes import recorded_outcome
from manager.errors import CommandTimeoutError, FleetUnavailableError, StopFailedError
from manager.factory import celery_worker_pool
from manager.fleet import FleetStore
from manager.fleet.batch_events import BatchAnnouncer
from manager.fleet.desired import DesiredState, DesiredStateRequest
from manager.fleet.desired_store import DesiredStore
from manager.models import BatchResult, ValidationResult, WorkerInfo
from manager.pool.batches import stopped_count
from manager.pool.protocol import Batch, StartRequest
from manager.settings import Settings
from manager.states import WorkerLifecycleStatus

S = WorkerLifecycleStatus
ACCOUNTS = ["a", "b", "c"]


class Host:
    """Writes to Redis what a host agent writes: its report, records and results."""

    def __init__(self, redis: RedisServer, pool: CeleryWorkerPool) -> None:
        self.redis, self.pool = redis, pool
        self.store, self.desired = FleetStore(redis.url), DesiredStore(redis.url)
        self.threads = ThreadPoolExecutor(2)
        self.report()

    def report(self) -> None:
        self.store.report_agent("h", {"version": "0.2.0"})

    def start_all(self) -> "Future[BatchResult]":
        requests = [StartRequest(one, True, True, _nothing) for one in ACCOUNTS]
        return self.threads.submit(self.pool.start_many, requests, None, Batch("batch-1"))

    def stop_all(self) -> "Future[BatchResult]":
        return self.threads.submit(self.pool.stop_many, ACCOUNTS, None, None, Batch("batch-1"))

    def tokens(self) -> dict[str, str]:
        """Return the tasks of the batch by account, once all are in the queue."""

        def sent() -> bool:
            with contextlib.suppress(RedisError), self.redis.client() as client:
                return bool(client.llen("celery") + client.llen("host.h") == len(ACCOUNTS))
            return False

        eventually(sent, what="every task is sent")
        record = self.pool.batch_sender._records.read("batch-1")
        assert record is not None
        return dict(record.tasks)

    def answer(self, token: str, account_id: str) -> None:
        self.store_result(token, self.info(account_id, S.RUNNING).to_wire())

    def store_result(self, token: str, result: Any) -> None:
        """Store a task's result as Celery does."""
        meta = {"status": "SUCCESS", "result": result, "traceback": None, "children": [], "task_id": token}
        with self.redis.client() as client:
            client.set(f"celery-task-meta-{token}", json.dumps(meta))

    def info(self, account_id: str, status: WorkerLifecycleStatus, **metadata: Any) -> WorkerInfo:
        return WorkerInfo(
            worker_id=f"w-{account_id}",
            account_id=account_id,
            status=status,
            metadata={"host": "h", **metadata},
        )

    def runs(self, account_id: str) -> None:
        """Record that the account was started by its present desired state."""
        desired = self.desired.read(account_id)
        assert desired is not None
        info = self.info(account_id, S.RUNNING, generation=desired.generation)
        self.store.record("h", [info], {account_id: {"worker_id": info.worker_id}})

    def close(self) -> None:
        self.threads.shutdown()
        self.store.close()
        self.desired.close()


def _nothing() -> Any:
    raise AssertionError("the files are the host's to read")


@pytest.fixture
def host(redis_server: RedisServer) -> Iterator[Host]:
    pool = celery_worker_pool(Settings(redis_url=redis_server.url, command_timeout_seconds=20))
    found = Host(redis_server, pool)
    yield found
    found.close()


def test_a_restart_of_redis_during_the_wait_loses_no_account(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_sender, "_QUIET_RECHECK_SECONDS", 0.5)
    batch = host.start_all()
    tokens = host.tokens()
    host.answer(tokens["a"], "a")
    host.redis.restart()
    host.answer(tokens["b"], "b")
    host.runs("c")  # its result is lost, but the record shows the outcome
    result = batch.result(30)
    assert set(result.done) == set(ACCOUNTS)
    assert (result.ok, result.trouble, result.pending) == (True, "", {})


def test_an_outage_of_redis_leaves_every_account_pending_until_it_is_back(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_sender, "_RETRY_LIMIT_SECONDS", 0.2)
    batch = host.start_all()
    tokens = host.tokens()
    host.redis.stop()
    result = batch.result(30)
    assert result.pending == tokens
    assert result.batch_id == "batch-1"
    assert not result.ok
    assert "cannot be used" in result.trouble
    host.redis.start()
    host.answer(tokens["a"], "a")
    host.runs("b")
    record, later = host.pool.batch_result("batch-1")
    assert record.what == "start"
    assert set(later.done) == {"a", "b"}
    assert later.pending == {"c": tokens["c"]}


def test_an_outage_of_redis_during_the_sending_leaves_accounts_pending(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_sender, "_RETRY_LIMIT_SECONDS", 0.2)
    written = host.pool._sender._with_desired

    def then_gone(commands: Any) -> Any:
        found = written(commands)
        if host.redis.process.poll() is None:
            host.redis.stop()
        return found

    monkeypatch.setattr(host.pool._sender, "_with_desired", then_gone)
    result = host.start_all().result(60)
    assert set(result.pending) == set(ACCOUNTS)
    assert not result.ok
    assert result.trouble


def test_commands_are_sent_once_after_a_restart_of_redis(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second sending repeats the same tasks: their ids and generations stay."""
    written = host.pool._sender._with_desired
    generations: list[list[int]] = []

    def restarted(commands: Any) -> Any:
        found = written(commands)
        generations.append([one.generation for one in found])
        if len(generations) == 1:
            host.redis.stop()
            host.redis.start()
            raise FleetUnavailableError("the reply is lost")
        return found

    monkeypatch.setattr(host.pool._sender, "_with_desired", restarted)
    batch = host.start_all()
    for account_id, token in host.tokens().items():
        host.answer(token, account_id)
    assert set(batch.result(30).done) == set(ACCOUNTS)
    assert generations[0] == generations[1]


def test_an_outage_of_redis_before_the_sending_is_an_error(host: Host) -> None:
    host.redis.stop()
    with pytest.raises(FleetUnavailableError, match="nothing was sent"):
        host.start_all().result(30)


def test_a_stop_of_all_with_an_unknown_outcome_is_not_a_success(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_sender, "_RETRY_LIMIT_SECONDS", 0.2)
    batch = host.stop_all()
    host.tokens()
    host.redis.stop()
    with pytest.raises(
        StopFailedError, match="of 3 of 3 workers it is unknown whether they stopped: a, b, c: Redis"
    ) as caught:
        stopped_count(batch.result(30))
    assert "manager batch batch-1" in str(caught.value)


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_stop_on_a_renamed_host_gets_its_outcome_from_the_record(
    host: Host, monkeypatch: pytest.MonkeyPatch, carried_out: bool
) -> None:
    """The task stays in the queue of the old name. The agent stopped the worker when it started."""
    monkeypatch.setattr("manager.fleet.hosts.HOST_STALE_AFTER", 0.3)
    monkeypatch.setattr(answers, "_RECHECK_SECONDS", 0.1)
    host.desired.set_desired(
        DesiredStateRequest(account_id="a", state="running", token="t", by="me", why="start", host="h")
    )
    running = host.info("a", S.RUNNING)
    host.store.record("h", [running], {"a": {"worker_id": running.worker_id}})
    host.report()
    stop = host.threads.submit(host.pool.stop_worker, "a")
    eventually(lambda: (desired := host.desired.read("a")) is not None and not desired.running)
    if carried_out:
        host.store.report_agent("new", {"version": "0.2.0"})
        stopped = running.with_(status=S.STOPPED, metadata={"host": "new"})
        host.store.record("new", [stopped], {})
        assert stop.result(20) is True
    else:
        with pytest.raises(CommandTimeoutError, match="it may still be carried out"):
            stop.result(20)


D = DesiredState(account_id="a", state="running", generation=7, by="me", why="start", host="h")
RUNS = WorkerInfo(worker_id="w", account_id="a", status=S.RUNNING, metadata={"generation": 7, "host": "h"})
OLD = RUNS.with_(metadata={"generation": 5})
FAILED = RUNS.with_(status=S.FAILED, error="the login is wrong")
STOPPED = RUNS.with_(status=S.STOPPED)
STOP = replace(D, state="stopped", why="stop")


@pytest.mark.parametrize(
    ("what", "generation", "desired", "info", "part"),
    [
        ("start", 7, D, RUNS, "done"),
        ("start", 7, D, OLD, "already"),
        ("restart", 7, D, OLD, None),
        ("restart", 7, D, RUNS, "done"),
        ("start", 7, D, FAILED, "failed"),
        ("start", 7, D, FAILED.with_(metadata={"generation": 5}), None),
        ("start", 7, D, None, None),
        ("start", 7, D, STOPPED, None),
        ("start", 7, STOP, STOPPED, "failed"),  # refused, and withdrawn
        ("start", 5, D, RUNS, "failed"),  # replaced by a later command
        ("start", None, D, RUNS, None),
        ("start", 7, None, RUNS, None),
        ("stop", 7, STOP, STOPPED, "done"),
        ("stop", 7, STOP, FAILED, "done"),
        ("stop", 7, STOP, RUNS, None),
        ("stop", 7, STOP, None, None),  # Redis may have lost its record
        ("stop", 7, STOP, STOPPED.with_(metadata={"host": "before"}), None),
        ("stop", 7, STOP, STOPPED.with_(metadata={"host": "now", "renamed_from": "h"}), "done"),
        ("stop", 7, replace(STOP, host=""), STOPPED, None),
        ("stop", 5, D, RUNS, "failed"),
    ],
)
def test_records_show_the_outcome_of_a_command(
    what: str, generation: int | None, desired: DesiredState | None, info: WorkerInfo | None, part: str | None
) -> None:
    found = recorded_outcome(what, generation, desired, info)
    assert (found[0] if found is not None else None) == part


def events(host: Host) -> list[tuple[str, str, dict[str, Any]]]:
    found = host.store.events(last=100)
    return [(one.type, one.command, dict(one.data)) for one in found if one.type.startswith("batch.")]


def test_a_batch_has_one_event_at_its_begin_and_one_at_its_end(host: Host) -> None:
    batch = host.start_all()
    tokens = host.tokens()
    begun = ("batch.begun", "batch-1", {"what": "start", "accounts": 3})
    eventually(lambda: events(host) == [begun], what="the batch has begun")
    for account_id, token in tokens.items():
        host.answer(token, account_id)
    batch.result(30)
    counts = {"what": "start", "done": 3, "already": 0, "resting": 0, "skipped": 0, "failed": 0}
    assert events(host) == [begun, ("batch.done", "batch-1", counts)]
    host.pool.batch_result("batch-1")
    host.pool.batch_sender.announce_ended(10)
    assert len(events(host)) == 2


def test_the_end_of_a_batch_that_was_left_is_an_event(host: Host) -> None:
    requests = [StartRequest(one, True, True, _nothing) for one in ACCOUNTS[:2]]
    settled = {"c": ("skipped", "c: disabled in its file")}
    host.pool.start_many(requests, None, Batch("batch-1", settled, False))
    tokens = host.pool.batch_result("batch-1")[1].pending
    host.answer(tokens["a"], "a")
    host.pool.batch_sender.announce_ended(10)
    assert [one[0] for one in events(host)] == ["batch.begun"]
    host.answer(tokens["b"], "b")
    host.pool.batch_sender.announce_ended(10)
    counts = {"what": "start", "done": 2, "already": 0, "resting": 0, "skipped": 1, "failed": 0}
    assert events(host)[1:] == [("batch.done", "batch-1", counts)]


def test_a_batch_that_validates_has_its_outcomes_in_its_record(host: Host) -> None:
    checks = BatchChecks(host.pool.batch_sender._records, BatchAnnouncer(host.store))
    checks.begin("check-1", ["a", "b"])
    record, result = host.pool.batch_result("check-1")
    assert (record.what, set(result.pending)) == ("validate", {"a", "b"})
    good = ValidationResult(valid=True, account_id="a")
    bad = ValidationResult(valid=False, account_id="b", errors=("wrong", "odd"))
    checks.settle("check-1", {"a": good, "b": bad})
    _, result = host.pool.batch_result("check-1")
    assert (set(result.done), result.failed, result.pending) == ({"a"}, {"b": "wrong; odd"}, {})
    assert [one[0] for one in events(host)] == ["batch.begun", "batch.done"]
