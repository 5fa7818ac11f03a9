"""Host agents: what happens to workers when an agent ends, and which agents may run."""

import os
import shutil
import signal
import sys
import threading

import pytest
from support.fleet import SIGKILL, Fleet
from support.waiting import eventually

if sys.platform == "linux":
    import resource

pytestmark = pytest.mark.e2e


def end_agent(fleet: Fleet, number: int) -> None:
    assert fleet.agent is not None
    os.kill(fleet.agent.pid, number)
    fleet.agent.wait(timeout=20)


@pytest.mark.long
@pytest.mark.parametrize("number", [SIGKILL, signal.SIGTERM])
def test_a_bootsteps_stop_stops_no_trading_worker(fleet: Fleet, number: int) -> None:
    """After a kill or a clean end of the agent, workers continue and the next agent adopts them."""
    accounts = fleet.add_accounts(3)
    fleet.run_json("start-all")
    before = fleet.workers()
    assert set(before) == set(accounts)

    end_agent(fleet, number)
    assert all(ref.alive() for ref in before.values())
    eventually(lambda: all(fleet.status(a) == "running" for a in accounts), what="still shown as running")

    fleet.start_agent()
    assert fleet.workers() == before
    for account_id in accounts:
        info = fleet.store.get_worker(account_id)
        assert info is not None
        assert info.metadata["adopted"] is True
        assert info.metadata["pid"] == before[account_id].pid

    # The new agent supervises them and carries out commands for them.
    again = fleet.run_json("start", accounts[0])
    assert again["metadata"]["already_running"] is True
    before[accounts[1]].kill()
    eventually(lambda: fleet.workers().get(accounts[1]) not in (None, before[accounts[1]]), within=2)
    eventually(lambda: fleet.status(accounts[1]) == "running", within=2)
    assert fleet.run("stop", accounts[0]).returncode == 0
    assert not before[accounts[0]].alive()


@pytest.mark.long
def test_an_agent_whose_state_directory_was_removed_finds_its_workers(fleet: Fleet) -> None:
    """A worker without a record is shown as running, and a stop ends it."""
    (account_id,) = fleet.add_accounts(1)
    fleet.run_json("start-all")
    worker = fleet.workers()[account_id]
    end_agent(fleet, SIGKILL)
    shutil.rmtree(fleet.paths.workers_dir)
    shutil.rmtree(fleet.paths.run_dir)
    (fleet.paths.root / "id").unlink()

    fleet.start_agent()

    assert fleet.status(account_id) == "running"
    assert fleet.workers() == {account_id: worker}
    assert fleet.run_json("start", account_id)["metadata"]["already_running"] is True
    assert fleet.run("stop", account_id).returncode == 0
    assert not worker.alive()


def test_a_worker_that_died_while_no_agent_lived_is_failed_and_not_running(fleet: Fleet) -> None:
    accounts = fleet.add_accounts(1)
    fleet.run_json("start-all")
    worker = fleet.workers()[accounts[0]]
    end_agent(fleet, SIGKILL)
    worker.kill()
    assert worker.wait(5)

    fleet.start_agent()

    assert fleet.status(accounts[0]) == "failed"
    assert fleet.run_json("start", accounts[0])["status"] == "running"


@pytest.mark.long
def test_a_worker_whose_host_is_silent_is_unknown_and_never_running(fleet: Fleet) -> None:
    accounts = fleet.add_accounts(1)
    fleet.run_json("start-all")
    worker = fleet.workers()[accounts[0]]
    end_agent(fleet, SIGKILL)
    worker.kill()

    eventually(lambda: fleet.status(accounts[0]) == "unknown", within=15)

    info = fleet.store.get_worker(accounts[0])
    assert info is not None
    assert "heartbeat" in (info.error or "")


def test_a_second_agent_on_one_state_directory_is_refused(fleet: Fleet) -> None:
    second = fleet.spawn(
        *(sys.executable, "-m", "celery", "-A", "tasks", "worker", "-P", "threads"),
        *("-Q", f"celery,host.{fleet.host}"),
        log="second",
    )
    assert second.wait(timeout=30) != 0
    assert "another host agent already runs" in fleet.log("second")
    assert fleet.agent is not None
    assert fleet.agent.poll() is None


def test_a_pool_of_processes_is_refused(bare_fleet: Fleet) -> None:
    agent = bare_fleet.spawn(
        *(sys.executable, "-m", "celery", "-A", "tasks", "worker", "-P", "solo", "-Q", "celery"), log="solo"
    )
    assert agent.wait(timeout=30) != 0
    assert "needs Celery's threads pool" in bare_fleet.log("solo")


def test_foreign_files_in_the_state_directory_are_ignored(bare_fleet: Fleet) -> None:
    workers = bare_fleet.paths.workers_dir
    (workers / "junk.json").write_text("{")
    (workers / "list.json").write_text("[]")
    (workers / "other.json").write_text('{"version": 1, "pid": 1, "start_time": "x"}')
    (workers / "notes.txt").write_text("mine")
    bare_fleet.start_agent()
    assert "is not a worker record" in bare_fleet.log("agent")
    assert (workers / "notes.txt").exists()
    assert (workers / "junk.json").exists()
    assert bare_fleet.store.list_workers() == []


@pytest.mark.long
def test_an_agent_that_receives_no_messages_exits_and_its_workers_continue(bare_fleet: Fleet) -> None:
    """Liveness means messages received, not answers to pings: this agent answers pings throughout."""
    fleet = bare_fleet
    fleet.extra_environment["MANAGER_SELF_TEST_SECONDS"] = "0.3"
    fleet.start_venue()
    fleet.start_agent()
    accounts = fleet.add_accounts(1)
    fleet.run_json("start-all")
    worker = fleet.workers()[accounts[0]]
    eventually(
        lambda: fleet.store.hosts()[0].data["heard_seconds_ago"] is not None, what="its self-test arrives"
    )
    assert fleet.agent is not None

    # Another client takes the agent's messages: Redis serves the client that has waited longest.
    over = threading.Event()

    def take() -> None:
        with fleet.redis.client() as client:
            while not over.is_set():
                client.brpop([f"host.{fleet.host}"], timeout=1)

    thieves = [threading.Thread(target=take) for _ in range(40)]
    for thief in thieves:
        thief.start()
    try:
        assert fleet.agent.wait(timeout=20) == 75
    finally:
        over.set()
        for thief in thieves:
            thief.join()
    assert "no message received for" in fleet.log("agent")
    assert worker.alive()


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a running process is set with prlimit")
def test_an_agent_without_free_descriptors_exits_and_the_next_one_adopts_its_workers(
    bare_fleet: Fleet,
) -> None:
    fleet = bare_fleet
    fleet.extra_environment["MANAGER_SELF_TEST_SECONDS"] = "0.3"
    fleet.start_venue()
    fleet.start_agent()
    accounts = fleet.add_accounts(1)
    assert fleet.run("start-all").returncode == 0
    worker = fleet.workers()[accounts[0]]
    assert fleet.agent is not None

    # From now on no file descriptor is free and the connections to Redis end, so the whole agent is affected.
    if sys.platform == "linux":
        resource.prlimit(fleet.agent.pid, resource.RLIMIT_NOFILE, (3, 3))
    fleet.redis.restart()

    assert fleet.agent.wait(timeout=40) == 75
    log = fleet.log("agent")
    assert "has used up its open files and can reach Redis no more; exiting with code 75" in log
    assert worker.alive()
    fleet.start_agent()
    eventually(lambda: fleet.status(accounts[0]) == "running", what="it is adopted", within=20)
    assert fleet.workers()[accounts[0]] == worker
    assert fleet.stats()["overlaps"] == 0


@pytest.mark.long
def test_in_a_container_an_orderly_end_stops_the_workers_and_the_next_agent_starts_them(fleet: Fleet) -> None:
    fleet.add_accounts(3)
    fleet.end_agent(signal.SIGTERM)
    fleet.extra_environment["MANAGER_STOP_WORKERS_ON_EXIT"] = "true"
    fleet.start_agent()
    assert fleet.run("healthcheck").returncode == 0
    assert fleet.run("start-all").returncode == 0
    workers = list(fleet.workers().values())
    fleet.end_agent(signal.SIGTERM)
    assert not any(worker.alive() for worker in workers)
    assert fleet.stats()["live"] == []
    assert [fleet.status(f"account-00{number}") for number in (1, 2, 3)] == ["stopped"] * 3
    assert fleet.run("healthcheck").returncode == 1
    fleet.start_agent()
    eventually(
        lambda: [fleet.status(f"account-00{number}") for number in (1, 2, 3)] == ["running"] * 3,
        within=20,
        what="the workers of desired state run again",
    )
    # A crash is not a clean end: workers continue.
    workers = list(fleet.workers().values())
    fleet.end_agent()
    assert all(worker.alive() for worker in workers)
    assert fleet.stats()["overlaps"] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
@pytest.mark.long
def test_nothing_in_the_state_directory_is_for_others_to_see(fleet: Fleet) -> None:
    fleet.add_accounts(2)
    assert fleet.run("start-all").returncode == 0
    assert fleet.run("drain", fleet.host, "--stop", "--wait").returncode == 0
    assert fleet.run("resume-host", fleet.host).returncode == 0
    eventually(lambda: len(fleet.workers()) == 2, within=20, what="sockets, records and logs are there")
    open_to_others = {
        path.relative_to(fleet.paths.root).as_posix(): oct(path.lstat().st_mode & 0o777)
        for path in [fleet.paths.root, *fleet.paths.root.rglob("*")]
        if path.lstat().st_mode & 0o077
        # The files to which the test redirects the output of agent and venue.
        and path.name not in {"agent.log", "venue.log"}
    }
    assert open_to_others == {}


@pytest.mark.long
def test_the_scheduler_has_due_things_done_and_its_health_is_that_they_are(fleet: Fleet) -> None:
    fleet.extra_environment["MANAGER_TIDY_SECONDS"] = "1"
    result = fleet.run("healthcheck", "--scheduler")
    assert result.returncode == 1
    assert "housekeeping never ran: check that `manager scheduler` runs" in result.stderr
    fleet.spawn(sys.executable, "-m", "manager.cli", "scheduler", log="scheduler")
    eventually(
        lambda: fleet.run("healthcheck", "--scheduler").returncode == 0,
        within=30,
        what="housekeeping has run",
    )
    fleet.end_agent()
    eventually(
        lambda: fleet.run("healthcheck", "--scheduler").returncode == 1,
        within=30,
        what="`ps` shows that no agent will start it",
    )
    assert "Traceback" not in fleet.log("scheduler")
