"""`--local`: stops during an outage of Redis, with an agent, without one, and with one that hangs."""

import json

import pytest
from support.fleet import SIGKILL, SIGSTOP, Fleet
from support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.long]

A, B = "account-001", "account-002"
SIGCONT = 18


def test_with_redis_away_a_living_agent_stops_and_does_not_start_again(fleet: Fleet) -> None:
    fleet.add_accounts(2)
    fleet.run_json("start-all")
    workers = fleet.workers()
    fleet.redis.stop()

    listed = json.loads(fleet.run("ps", "--local", "--json").stdout)
    done = fleet.run("stop", A, "--local")

    assert [(one["account_id"], one["status"]) for one in listed] == [(A, "running"), (B, "running")]
    assert (done.returncode, done.stderr) == (0, ""), done
    assert f"{A} stopped" in done.stdout
    assert not workers[A].alive()
    again = fleet.run("stop", A, "--local")
    assert (again.returncode, again.stdout) == (0, f"{A}: already stopped on this machine\n")
    # The agent restarts a worker that dies at once: the other account shows that it does so now.
    workers[B].kill()
    eventually(lambda: fleet.workers().get(B) not in (None, workers[B]), what="B is recovered")
    assert A not in fleet.workers()
    fleet.redis.start()
    eventually(lambda: fleet.status(A) == "stopped", within=30, what="Redis has the new status")
    fleet.await_ticks()
    assert fleet.status(A) == "stopped"
    assert A not in fleet.workers()
    assert fleet.run("stop", "acount-001", "--local").returncode == 1


def test_without_an_agent_a_note_keeps_the_next_one_from_starting_it_again(fleet: Fleet) -> None:
    fleet.add_accounts(2)
    fleet.run_json("start-all")
    workers = fleet.workers()
    fleet.end_agent(SIGKILL)
    fleet.redis.stop()

    done = fleet.run("stop-all", "--local")

    assert done.returncode == 0, done
    assert not any(worker.alive() for worker in workers.values())
    fleet.redis.start()
    fleet.start_agent()
    fleet.await_ticks()
    assert {fleet.status(A), fleet.status(B)} == {"stopped"}
    assert not list(fleet.paths.stops_dir.iterdir())
    outcomes = json.loads("[" + ",".join(fleet.run("audit", "--json").stdout.splitlines()) + "]")
    assert {one["account_id"] for one in outcomes if one["what"] == "stop" and one["outcome"] == "ok"} == {
        A,
        B,
    }
    assert fleet.run("start", A).returncode == 0, "a later start overrules the note"


def test_an_agent_that_does_not_answer_obeys_the_note_when_it_wakes(fleet: Fleet) -> None:
    fleet.add_accounts(1)
    fleet.run_json("start", A)
    worker = fleet.workers()[A]
    assert fleet.agent is not None
    fleet.agent.send_signal(SIGSTOP)

    done = fleet.run("stop", A, "--local")

    assert done.returncode == 1
    assert "may restart the account" in done.stderr
    assert not worker.alive()
    fleet.agent.send_signal(SIGCONT)
    eventually(lambda: fleet.status(A) == "stopped", within=20, what="the agent has taken the note")
    fleet.await_ticks()
    assert fleet.status(A) == "stopped"
    assert not list(fleet.paths.stops_dir.iterdir())
