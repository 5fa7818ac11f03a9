"""The run history of a real host: kills of workers and agents, and an outage of Redis."""

from pathlib import Path
from typing import Any

import pytest
from support.fleet import Fleet
from support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.long]

A = "account-001"


def runs(fleet: Fleet) -> list[dict[str, Any]]:
    """Return the account's runs, oldest first."""
    found: list[dict[str, Any]] = fleet.run_json("history", A)
    return found


def has_runs(fleet: Fleet, count: int) -> list[dict[str, Any]]:
    """Return the account's runs once there are so many."""
    try:
        eventually(lambda: len(runs(fleet)) == count, within=30, what=f"{count} runs")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{runs(fleet)}\n{fleet.log('agent')[-3000:]}") from None
    return runs(fleet)


def test_every_end_is_in_the_history_with_who_and_why(fleet: Fleet) -> None:
    fleet.add_accounts(1)
    fleet.run_json("start", A)
    first = fleet.workers()[A]
    first.kill()
    crashed = has_runs(fleet, 1)[0]
    assert (crashed["why"], crashed["status"], crashed["exit_code"]) == ("start", "restarting", -9)
    assert crashed["by"]
    assert crashed["asked_at"]
    assert crashed["equity_first"] == crashed["equity_last"] != ""

    eventually(lambda: fleet.workers().get(A) not in (None, first))
    eventually(lambda: fleet.status(A) == "running")
    fleet.run_json("restart", A)
    fleet.run_json("stop", A)
    _, recovered, restarted = has_runs(fleet, 3)
    assert (recovered["by"], recovered["why"], recovered["restarts"]) == ("", "recovery", 1)
    assert (recovered["status"], recovered["ended_why"]) == ("stopped", "restart")
    assert (restarted["why"], restarted["ended_why"], restarted["exit_code"]) == ("restart", "stop", 0)
    assert restarted["ended_by"] == crashed["by"]


def test_a_worker_that_died_with_its_agent_is_recorded_by_the_next(fleet: Fleet) -> None:
    fleet.add_accounts(1)
    started = fleet.run_json("start", A)
    worker = fleet.workers()[A]
    fleet.end_agent()
    worker.kill()
    assert worker.wait(10)
    fleet.spawn_agent()
    fleet.await_agent()
    lost = has_runs(fleet, 1)[0]
    assert (lost["worker_id"], lost["status"], lost["observed"]) == (started["worker_id"], "failed", False)
    assert (lost["why"], lost["pid"]) == ("start", worker.pid)


def test_a_run_that_ended_while_redis_was_down_is_written_once_it_is_back(fleet: Fleet) -> None:
    """The agent that saw the end dies too, before Redis is back."""
    fleet.add_accounts(1)
    started = fleet.run_json("start", A)
    worker = fleet.workers()[A]
    fleet.redis.stop()
    worker.kill()
    spool, saved = fleet.paths.runs_dir, [started["worker_id"]]
    eventually(lambda: [path.stem for path in spool.glob("*.json")] == saved, within=30)
    fleet.end_agent()
    fleet.redis.start()
    fleet.spawn_agent()
    fleet.await_agent()

    def of_the_worker() -> list[dict[str, Any]]:
        # The first agent may have started another worker before it was killed; that one is another run.
        return [one for one in runs(fleet) if one["worker_id"] == started["worker_id"]]

    eventually(of_the_worker, within=30, what="its run is in the history")
    (found,) = of_the_worker()
    assert (found["exit_code"], found["observed"]) == (-9, True)


def test_the_runs_of_a_moved_account_come_from_both_hosts(fleet: Fleet, short_dir: Path) -> None:
    fleet.add_accounts(1)
    other = Fleet(short_dir / "other", fleet.redis, "other-host", beside=fleet)
    try:
        other.start_agent()
        first = fleet.run_json("start", A)["metadata"]["host"]
        second = ({fleet.host, other.host} - {first}).pop()
        assert fleet.run("move", A, "--to", second).returncode == 0
        assert fleet.run("drain", second, "--wait").returncode == 0
        eventually(lambda: fleet.status(A) == "running")
        fleet.run_json("stop", A)
        found = has_runs(fleet, 3)
        assert [one["host"] for one in found] == [first, second, first]
        assert [one["why"] for one in found] == ["start", "move", "drain"]
        assert [one["ended_why"] for one in found] == ["stop", "drain", "stop"]
        assert all(one["exit_code"] == 0 for one in found)
    finally:
        other.close()
