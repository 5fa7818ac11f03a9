"""Two hosts of one fleet: placement, reassignment and lost hosts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fleet import SIGKILL, SIGSTOP, Fleet, plain_celery
from support.waiting import eventually

from manager.fleet.leases import LeaseStore

pytestmark = [pytest.mark.e2e, pytest.mark.long]

A = "account-001"
SIGCONT = 18
SIGTERM = 15


@pytest.fixture
def other(fleet: Fleet, short_dir: Path) -> Iterator[Fleet]:
    """A second host of `fleet`."""
    second = Fleet(short_dir / "second", fleet.redis, "other-host", beside=fleet)
    second.start_agent()
    yield second
    second.close()


def host_of(fleet: Fleet, account_id: str = A) -> object:
    found = fleet.store.get_worker(account_id)
    return None if found is None or found.status != "running" else found.metadata["host"]


def test_an_account_runs_on_its_pin_whichever_host_gets_the_task(fleet: Fleet, other: Fleet) -> None:
    ids = [f"account-{number:03}" for number in range(1, 9)]
    for number, account_id in enumerate(ids, 1):
        fleet.add_account(account_id, 5000 + number, host=[fleet.host, other.host][number % 2])
    # A caller that knows only Celery: tasks on the shared queue, in a group.
    out = plain_celery(
        fleet,
        f"""
result = group(app.signature("tasks.start_worker", args=[a]) for a in {ids!r}).apply_async()
print([info["metadata"]["host"] for info in result.get(timeout=60)])
""",
    )
    assert out.strip() == str([[fleet.host, other.host][number % 2] for number in range(1, 9)])
    assert fleet.run("stop-all").returncode == 0
    assert fleet.stats() | {"overlaps": 0, "sessions": 0} == fleet.stats()


def test_a_pinned_host_that_is_away_is_named(fleet: Fleet) -> None:
    fleet.add_account(A, 5001, host="elsewhere")
    result = fleet.run("start", A)
    assert result.returncode == 1
    assert "may run on host elsewhere alone" in result.stderr


def test_an_account_stays_where_it_ran_last(fleet: Fleet, other: Fleet) -> None:
    fleet.add_accounts(1)
    fleet.run_json("start", A)
    first = host_of(fleet)
    for _ in range(4):
        fleet.run("stop", A)
        assert fleet.run_json("start", A)["metadata"]["host"] == first


def test_without_failover_an_account_of_a_lost_host_starts_on_no_other(fleet: Fleet, other: Fleet) -> None:
    fleet.add_account(A, 5001, host=None)
    fleet.run_json("start", A)
    lost, left = (fleet, other) if host_of(fleet) == fleet.host else (other, fleet)
    worker = lost.workers()[A]
    # Host and worker are silent, so the worker may still trade.
    worker.signal(SIGSTOP)
    lost.end_agent()
    eventually(lambda: left.status(A) == "unknown", within=20, what="the state of the worker is unknown")

    result = left.run("start", A)

    assert result.returncode == 1
    assert f"{A} has its worker on host {lost.host}, whose agent is silent" in result.stderr
    refused = left.run("move", A, "--to", left.host)
    assert refused.returncode == 1
    moved = left.run("move", A, "--to", left.host, "--force")
    assert moved.returncode == 0, moved.stderr
    assert "two sessions" in moved.stderr
    assert host_of(left) == left.host
    # The lost worker continues: it ends by itself, and its agent does not restart it.
    worker.signal(SIGCONT)
    assert worker.wait(20)
    lost.start_agent()
    eventually(lambda: host_of(left) == left.host)
    assert not lost.workers()


def test_a_move_is_a_stop_there_and_a_start_here(fleet: Fleet, other: Fleet) -> None:
    fleet.add_account(A, 5001)
    fleet.run_json("start", A)
    here = str(host_of(fleet))
    there = other.host if here == fleet.host else fleet.host
    assert fleet.run("move", A, "--to", there).returncode == 0
    assert host_of(fleet) == there
    again = fleet.run("move", A, "--to", there)
    assert again.returncode == 1
    assert "already" in again.stderr
    nowhere = fleet.run("move", A, "--to", "nowhere")
    assert nowhere.returncode == 1
    assert "no live agent" in nowhere.stderr
    assert fleet.stats()["overlaps"] == 0


def test_a_lease_edited_into_nonsense_is_cleared_by_force_alone(fleet: Fleet, other: Fleet) -> None:
    fleet.add_account(A, 5001)
    with fleet.redis.client() as client:
        client.set("manager:lease:paper:Paper-1:5001", "nonsense")
    result = fleet.run("start", A)
    assert result.returncode == 1
    assert "--force" in result.stderr
    assert fleet.run("move", A, "--to", other.host, "--force").returncode == 0
    assert host_of(fleet) == other.host


def test_with_failover_another_host_takes_over_when_the_time_has_passed(fleet: Fleet, other: Fleet) -> None:
    fleet.add_account(A, 5001, failover="auto")
    fleet.run_json("start", A)
    lost, left = (fleet, other) if host_of(fleet) == fleet.host else (other, fleet)
    worker = lost.workers()[A]
    worker.kill()
    lost.end_agent()

    eventually(lambda: host_of(left) == left.host, within=30, what=f"reassigned: {left.log('agent')[-2000:]}")

    assert left.stats()["overlaps"] == 0
    # After its return, the host learns that the account was reassigned.
    lost.start_agent()
    assert not lost.workers()
    assert LeaseStore(left.redis.url).holders()[0].host == left.host


def test_a_paused_worker_with_failover_never_wakes_into_a_second_session(fleet: Fleet, other: Fleet) -> None:
    """SIGSTOP acts as a suspend: the worker continues long after its lease has expired and must not trade."""
    fleet.add_account(A, 5001, failover="auto")
    fleet.run_json("start", A)
    lost, left = (fleet, other) if host_of(fleet) == fleet.host else (other, fleet)
    worker = lost.workers()[A]
    assert lost.agent is not None
    lost.agent.send_signal(SIGSTOP)
    worker.signal(SIGSTOP)

    eventually(lambda: host_of(left) == left.host, within=30, what="reassigned")
    worker.signal(SIGCONT)

    assert worker.wait(5)
    assert left.stats()["overlaps"] == 0
    lost.agent.send_signal(SIGCONT)
    lost.end_agent(SIGKILL)


def test_a_stop_after_a_rename_of_the_host_reports_the_actual_state(fleet: Fleet) -> None:
    fleet.add_accounts(2)
    fleet.run_json("start-all")
    workers = fleet.workers()
    fleet.end_agent(SIGTERM)
    fleet.host = "new-name"
    fleet.start_agent()

    def heartbeats() -> list[str]:
        # A record of the adoption itself has no time of a heartbeat.
        return [info["metadata"].get("last_heartbeat", "") for info in fleet.run_json("ps")]

    adopted = heartbeats()
    # The agent must read each heartbeat after adoption, not repeat those that it read then.
    eventually(
        lambda: all(new > old for new, old in zip(heartbeats(), adopted, strict=True)),
        what="heartbeats after the adoption",
    )
    shown = fleet.run_json("ps")
    assert {(info["status"], info["metadata"]["host"]) for info in shown} == {("running", "new-name")}
    done = fleet.run("stop", A)
    assert done.returncode == 0, done.stderr
    out = plain_celery(
        fleet, "print(app.send_task('tasks.stop_worker', args=['account-002']).get(timeout=60))"
    )
    assert out.strip() == "True"
    assert not any(worker.alive() for worker in workers.values())
    assert {info["status"] for info in fleet.run_json("ps")} == {"stopped"}
