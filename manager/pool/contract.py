"""The contract of `WorkerPool` as a test suite.

The service works with any pool that passes it. Subclass `WorkerPoolContract` in a test module, with a pytest
fixture `case` that returns a new `PoolCase` for each test. This module does not import pytest.
"""

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from manager.errors import (
    AccountDisabledError,
    AccountNotFoundError,
    AuthenticationRefusedError,
    HostUnavailableError,
    InvalidConfigError,
    InvalidPayloadError,
    ManagerError,
    NotSupportedError,
    NoWorkerError,
)
from manager.models import WorkerInfo
from manager.pool.commands import PAUSE, RESUME
from manager.pool.protocol import StartRequest, WorkerPool
from manager.states import TradingMode, WorkerLifecycleStatus

_S: Final = WorkerLifecycleStatus

#: Keys that `WorkerInfo.metadata` has at least, once a worker was created.
METADATA_KEYS: Final = frozenset(
    {
        *("host", "pid", "gateway", "epoch", "generation", "restarts", "last_cause"),
        *("version", "config_version", "health", "log_file"),
    }
)

#: Seconds for which a test waits for its threads.
_WAIT: Final = 60.0


class PoolCase(Protocol):
    """A pool under test, and the accounts that it can start.

    The accounts are `good-1`, `good-2` and `good-3` (valid; `good-1` has the group `desk` and the label
    `book=7`), `off` (disabled), `bad` (`max_positions` and `max_concurrent_trades` are 0) and `refused` (its
    venue refuses the credentials). There is no account `missing`.
    """

    @property
    def pool(self) -> WorkerPool: ...

    def request(self, account_id: str) -> StartRequest:
        """Return a request to start the account, validated, with defaults."""

    def spoil(self, account_id: str) -> None:
        """Make the account's configuration invalid in the way of `bad`."""


class WorkerPoolContract:
    """The contract. Each test gets a case without workers."""

    def test_a_start_returns_the_running_worker(self, case: PoolCase) -> None:
        info = case.pool.start_worker(case.request("good-1"))
        assert (info.account_id, info.status, info.error, info.stopped_at) == (
            "good-1",
            _S.RUNNING,
            None,
            None,
        )
        assert info.worker_id
        assert info.started_at is not None
        assert info.created_at <= info.started_at
        assert set(info.metadata) >= METADATA_KEYS
        assert "already_running" not in info.metadata
        assert isinstance(info.metadata["pid"], int)
        assert info.metadata["host"]
        assert info.metadata["gateway"] == "paper"
        assert (info.groups, info.labels) == (("desk",), {"book": "7"})
        assert _json_both_ways(info) == info
        seen = case.pool.get_worker_info("good-1")
        assert seen is not None
        assert (seen.worker_id, seen.status) == (info.worker_id, _S.RUNNING)
        assert (seen.groups, seen.labels) == (info.groups, info.labels)
        assert case.pool.has_worker_for_account("good-1")

    def test_a_second_start_returns_the_running_worker(self, case: PoolCase) -> None:
        first = case.pool.start_worker(case.request("good-1"))
        again = case.pool.start_worker(case.request("good-1"))
        assert again.worker_id == first.worker_id
        assert again.metadata["already_running"] is True
        assert set(again.metadata) >= METADATA_KEYS

    def test_concurrent_starts_of_one_account_create_one_worker(self, case: PoolCase) -> None:
        found: list[str] = []

        def start() -> None:
            found.append(case.pool.start_worker(case.request("good-1")).worker_id)

        threads = [threading.Thread(target=start) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_WAIT)
        assert len(found) == 5
        assert len(set(found)) == 1

    def test_a_stop_ends_the_worker_and_a_second_stop_is_refused(self, case: PoolCase) -> None:
        started = case.pool.start_worker(case.request("good-1"))
        assert case.pool.stop_worker("good-1") is True
        info = case.pool.get_worker_info("good-1")
        assert info is not None
        assert (info.worker_id, info.status, info.error) == (started.worker_id, _S.STOPPED, None)
        assert info.stopped_at is not None
        assert info.metadata["exit_code"] == 0
        assert not case.pool.has_worker_for_account("good-1")
        _raises(NoWorkerError, lambda: case.pool.stop_worker("good-1"))
        assert case.pool.start_worker(case.request("good-1")).worker_id != started.worker_id

    def test_a_pause_survives_a_stop_and_a_start_until_it_is_resumed(self, case: PoolCase) -> None:
        _raises(NoWorkerError, lambda: case.pool.set_mode(PAUSE, "missing"))
        started = case.pool.start_worker(case.request("good-1"))
        paused = case.pool.set_mode(PAUSE, "good-1")
        assert (paused.worker_id, paused.status) == (started.worker_id, _S.RUNNING)
        assert paused.trading_mode is TradingMode.PAUSED
        case.pool.stop_worker("good-1")
        again = case.pool.start_worker(case.request("good-1"))
        assert again.trading_mode is TradingMode.PAUSED
        result = case.pool.set_mode_many(RESUME, ["good-1", "missing"])
        assert (list(result.done), list(result.skipped)) == (["good-1"], ["missing"])
        assert result.done["good-1"].trading_mode is TradingMode.NORMAL

    def test_an_account_that_never_ran_has_no_worker(self, case: PoolCase) -> None:
        error = _raises(NoWorkerError, lambda: case.pool.stop_worker("good-1"))
        assert isinstance(error, ValueError)
        assert "good-1" in str(error)
        assert case.pool.get_worker_info("missing") is None
        assert not case.pool.has_worker_for_account("missing")

    def test_a_start_of_a_missing_disabled_or_invalid_account_is_refused(self, case: PoolCase) -> None:
        wrong: dict[str, type[ManagerError]] = {
            "missing": AccountNotFoundError,
            "off": AccountDisabledError,
            "bad": InvalidConfigError,
        }
        for account_id, kind in wrong.items():
            error = _raises(kind, partial(case.pool.start_worker, case.request(account_id)))
            assert isinstance(error, ValueError)
            assert account_id in str(error)
            assert not case.pool.has_worker_for_account(account_id)
            if account_id == "bad":
                assert "max_positions" in str(error)
                assert "max_concurrent_trades" in str(error)

    def test_a_failed_start_leaves_no_worker_and_is_recorded(self, case: PoolCase) -> None:
        error = _raises(AuthenticationRefusedError, lambda: case.pool.start_worker(case.request("refused")))
        assert isinstance(error, RuntimeError)
        assert not case.pool.has_worker_for_account("refused")
        info = case.pool.get_worker_info("refused")
        assert info is not None
        assert (info.status, info.started_at) == (_S.FAILED, None)
        assert info.error == str(error).removeprefix("refused: "), (
            "the record names the account in another field"
        )
        assert info.stopped_at is not None
        assert case.pool.stop_worker("refused") is True
        stopped = case.pool.get_worker_info("refused")
        assert stopped is not None
        assert stopped.status is _S.STOPPED

    def test_a_restart_creates_a_new_worker_whether_or_not_one_runs(self, case: PoolCase) -> None:
        first = case.pool.restart_worker(case.request("good-1"))
        second = case.pool.restart_worker(case.request("good-1"))
        assert (first.status, second.status) == (_S.RUNNING, _S.RUNNING)
        assert second.worker_id != first.worker_id
        assert "already_running" not in second.metadata

    def test_a_restart_with_an_invalid_configuration_stops_nothing(self, case: PoolCase) -> None:
        running = case.pool.start_worker(case.request("good-1"))
        case.spoil("good-1")
        _raises(InvalidConfigError, lambda: case.pool.restart_worker(case.request("good-1")))
        info = case.pool.get_worker_info("good-1")
        assert info is not None
        assert (info.worker_id, info.status) == (running.worker_id, _S.RUNNING)

    def test_a_batch_result_contains_every_account(self, case: PoolCase) -> None:
        case.pool.start_worker(case.request("good-1"))
        names = ["good-1", "good-2", "bad", "off", "refused", "missing"]
        reported: dict[str, str] = {}
        result = case.pool.start_many([case.request(name) for name in names], reported.__setitem__)
        assert set(result.done) == {"good-2"}
        assert set(result.already) == {"good-1"}
        assert set(result.failed) == {"bad", "off", "refused", "missing"}
        assert (result.skipped, result.pending, result.trouble, result.ok) == ({}, {}, "", False)
        assert "max_positions" in result.failed["bad"]
        assert result.done["good-2"].status is _S.RUNNING
        assert reported == {
            **dict.fromkeys(("bad", "off", "refused", "missing"), "failed"),
            "good-1": "already",
            "good-2": "done",
        }
        again = case.pool.restart_many([case.request("good-1"), case.request("good-3")])
        assert set(again.done) == {"good-1", "good-3"}
        assert again.done["good-1"].worker_id != result.already["good-1"].worker_id
        assert [info.account_id for info in case.pool.list_workers() if info.status is _S.RUNNING] == [
            *("good-1", "good-2", "good-3"),
        ]
        assert set(case.pool.stoppable()) >= {"good-1", "good-2", "good-3"}
        stopped = case.pool.stop_many(["good-1", "good-2", "good-3", "missing"])
        assert set(stopped.done) == {"good-1", "good-2", "good-3"}
        assert set(stopped.skipped) == {"missing"}
        assert (stopped.failed, stopped.ok) == ({}, True)
        assert {info.status for info in stopped.done.values()} == {_S.STOPPED}
        assert not {"good-1", "good-2", "good-3"} & set(case.pool.stoppable())

    def test_an_ended_worker_is_in_the_history_of_a_pool_that_keeps_one(self, case: PoolCase) -> None:
        try:
            assert case.pool.runs("missing") == []
        except NotSupportedError:
            return
        before = len(case.pool.runs("good-1"))
        info = case.pool.start_worker(case.request("good-1"))
        assert len(case.pool.runs("good-1")) == before, "a run is in the history once it has ended"
        case.pool.stop_worker("good-1")
        deadline = time.monotonic() + _WAIT
        while len(found := case.pool.runs("good-1")) == before and time.monotonic() < deadline:
            time.sleep(0.02)  # the host writes the end before it answers, and the history just after
        assert len(found) == before + 1
        assert (found[0].worker_id, found[0].account_id) == (info.worker_id, "good-1")
        assert (found[0].status, found[0].exit_code, found[0].reason) == ("stopped", 0, None)
        assert found[0].host == info.metadata["host"]
        assert info.created_at <= found[0].ended_at
        assert case.pool.runs("good-1", 1) == found[:1]

    def test_an_empty_batch_has_an_empty_result(self, case: PoolCase) -> None:
        for result in (case.pool.start_many([]), case.pool.restart_many([]), case.pool.stop_many([])):
            assert (result.done, result.failed, result.ok) == ({}, {}, True)

    def test_an_invalid_timeout_is_refused(self, case: PoolCase) -> None:
        case.pool.start_worker(case.request("good-1"))
        wrong: tuple[Any, ...] = (-1, float("nan"), "soon", True)
        for timeout in wrong:
            _raises(InvalidPayloadError, partial(case.pool.stop_worker, "good-1", timeout))
        assert case.pool.has_worker_for_account("good-1")

    def test_a_move_to_an_unknown_host_stops_nothing(self, case: PoolCase) -> None:
        running = case.pool.start_worker(case.request("good-1"))
        _raises(HostUnavailableError, lambda: case.pool.move_worker("good-1", "no-such-host"))
        info = case.pool.get_worker_info("good-1")
        assert info is not None
        assert (info.worker_id, info.status) == (running.worker_id, _S.RUNNING)


def _raises(kind: type[ManagerError], call: Callable[[], object]) -> ManagerError:
    try:
        answer = call()
    except ManagerError as error:
        assert isinstance(error, kind), f"{type(error).__name__} instead of {kind.__name__}: {error}"
        return error
    raise AssertionError(f"{kind.__name__} was not raised; the answer was {answer!r}")


def _json_both_ways(info: WorkerInfo) -> WorkerInfo:
    return WorkerInfo.from_dict(json.loads(json.dumps(info.to_wire())))
