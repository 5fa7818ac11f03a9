"""What the watch of limits does to real workers, and that commands come first."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.pool_host import Host
from support.waiting import eventually

from manager.config.models_limits import LimitsConfig
from manager.fleet.event_types import Remark
from manager.host.workers.config_difference import ConfigDifference
from manager.host.workers.limit_actions import LimitActions, Limited
from manager.models import WorkerInfo

LIMITS = {"memory_mb": 400, "open_files": 300}
CHANGE = Remark("limit.enforced", {"limit": "memory_mb"})
REASON = "memory 412 MB > limits.memory_mb 400"


@pytest.fixture
def host(short_dir: Path) -> Iterator[Host]:
    found = Host(short_dir)
    found.account("a", 1, limits=LIMITS)
    yield found
    found.close()


def started(host: Host) -> tuple[LimitActions, Limited]:
    host.start()
    (one,) = host.pool.limit_actions.limited()
    return host.pool.limit_actions, one


def info_of(host: Host) -> WorkerInfo:
    found = host.service.get_worker_info("a")
    assert found is not None
    return found


def test_a_worker_without_limits_is_not_watched(host: Host) -> None:
    host.account("b", 2)
    host.start("b")
    assert host.pool.limit_actions.limited() == []
    info = host.service.get_worker_info("b")
    assert info is not None
    assert info.placement.limits is None


def test_limits_are_in_the_record_and_a_new_agent_finds_them(host: Host) -> None:
    _, one = started(host)
    assert one.limits == LimitsConfig(memory_mb=400, open_files=300)
    expected = one.limits.to_record()
    assert info_of(host).placement.limits == expected
    host.pool.close()
    (adopted,) = host.new_pool().adopt()
    assert adopted.placement.limits == expected
    assert host.pool.limit_actions.limited()[0].limits == one.limits


def test_changed_limits_apply_to_the_running_worker_and_a_new_agent_finds_them(host: Host) -> None:
    actions, one = started(host)
    for limits in (LimitsConfig(memory_mb=500), LimitsConfig(), LimitsConfig(processes=5)):
        config = host.config_service.load_account_config("a").model_copy(update={"limits": limits})
        kept = host.pool.config_changes.kept.load("a", one.record.worker_id)
        assert kept is not None
        host.pool.config_changes.apply(ConfigDifference.of(kept, config))
        assert [found.limits for found in actions.limited()] == ([limits] if limits.given else [])
        assert info_of(host).placement.limits == (limits.to_record() if limits.given else None)
    host.pool.close()
    host.new_pool().adopt()
    assert host.pool.limit_actions.limited()[0].limits == limits


def test_an_excess_is_in_the_record_until_it_is_over(host: Host) -> None:
    actions, one = started(host)
    actions.note(one.record, {"memory_mb": REASON}, Remark("limit.exceeded", {}))
    assert info_of(host).placement.exceeded == {"memory_mb": REASON}
    actions.note(one.record, {}, Remark("limit.cleared", {}))
    assert info_of(host).placement.exceeded is None


def test_the_end_for_a_limit_is_clean_and_recovery_decides_about_a_restart(host: Host) -> None:
    actions, one = started(host)
    actions.note(one.record, {"memory_mb": REASON}, Remark("limit.exceeded", {}))
    assert actions.end(one.record, "memory_mb", REASON, CHANGE)
    eventually(lambda: host.lost, what="recovery is asked")
    (ended, reason), *_ = host.lost
    assert (reason, ended.error) == (REASON, REASON)
    assert (ended.placement.ended_by_limit, ended.placement.exit_code) == ("memory_mb", 0)
    # This host restarts nothing.
    eventually(lambda: host.status() == "stopped", what="its end is recorded")
    assert info_of(host).placement.exceeded is None
    assert host.sessions() == 0
    # The next worker has no trace of it.
    assert host.start().placement.ended_by_limit is None


def test_another_worker_of_the_account_is_left_alone(host: Host) -> None:
    actions, one = started(host)
    host.service.restart_worker("a")
    host.process(info_of(host))
    assert not actions.end(one.record, "memory_mb", REASON, CHANGE)
    assert not actions.kill(one.record, "memory_hard_mb", REASON, CHANGE)
    actions.note(one.record, {"memory_mb": REASON}, Remark("limit.exceeded", {}))
    assert info_of(host).placement.exceeded is None
    assert host.status() == "running"


def test_while_a_command_of_the_account_runs_the_watch_leaves_it_alone(host: Host) -> None:
    actions, one = started(host)
    with host.pool.slots.get("a").lock:
        assert not actions.end(one.record, "memory_mb", REASON, CHANGE)
    assert host.status() == "running"
    assert one.record.process.alive()


def test_a_kill_for_hard_memory_waits_for_no_command(host: Host) -> None:
    actions, one = started(host)
    with host.pool.slots.get("a").lock:
        assert actions.kill(one.record, "memory_hard_mb", REASON, CHANGE)
        eventually(lambda: host.lost, what="recovery is asked")
    ended, reason = host.lost[0]
    assert (reason, ended.placement.ended_by_limit) == (REASON, "memory_hard_mb")
    assert not actions.kill(one.record, "memory_hard_mb", REASON, CHANGE)


def run(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    return thread, found


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_stop_by_a_person_takes_over_from_that_for_a_limit(host: Host) -> None:
    host.account("a", 1, limits=LIMITS, execution={"interval_seconds": 0.1, "stop_timeout_seconds": 60})
    actions, one = started(host)
    one.record.process.signal(getattr(signal, "SIGSTOP", 0))  # it cannot end
    thread, found = run(lambda: actions.end(one.record, "memory_mb", REASON, CHANGE))
    eventually(lambda: host.pool.slots.get("a").ended_by_limit, what="the stop for the limit runs")
    assert host.service.stop_worker("a", timeout=0.5) is True
    thread.join(10)
    assert found == [True]
    info = info_of(host)
    assert (str(info.status), info.placement.ended_by_limit) == ("stopped", None)
    assert "did not stop within 0.5 s" in str(info.error)
    assert host.lost == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_worker_that_does_not_stop_for_its_limit_is_killed(host: Host) -> None:
    host.account("a", 1, limits=LIMITS, execution={"interval_seconds": 0.1, "stop_timeout_seconds": 1})
    actions, one = started(host)
    one.record.process.signal(getattr(signal, "SIGSTOP", 0))
    assert actions.end(one.record, "memory_mb", REASON, CHANGE)
    eventually(lambda: host.lost, what="recovery is asked")
    assert host.lost[0][1] == f"{REASON}; it did not stop within 1 s and was killed"


def test_positions_are_those_of_the_heartbeat(host: Host) -> None:
    actions, one = started(host)
    eventually(lambda: actions.open_positions(one.record) == 0, what="the worker reports positions")
    one.record.beat_file.unlink()
    assert actions.open_positions(one.record) is None
