"""Schedules in a real fleet, by the command line."""

import json

import pytest
from support.fleet import SIGKILL, Fleet
from support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.long]

A, B = "account-001", "account-002"
#: Closed for most of a year from the days on which the test may run: one day in February.
CLOSED = {"clock": "UTC", "run": [{"cron": "0 0 29 2 *", "for": "1h"}]}


def resting(fleet: Fleet, account_id: str) -> str:
    info = fleet.store.get_worker(account_id)
    return "" if info is None or info.status != "stopped" else info.rest_text


def test_a_closed_account_rests_and_an_override_runs_it_for_a_while(fleet: Fleet) -> None:
    fleet.add_account(A, 5001, schedule=CLOSED)
    fleet.add_account(B, 5002)
    started = fleet.run("start-all")
    assert started.returncode == 0, started.stderr
    assert "1 started, 1 resting" in started.stdout
    assert "rests" in resting(fleet, A)
    again = fleet.run("start", A)
    assert again.returncode == 0
    assert f"{A} rests" in again.stdout and "--now" in again.stdout
    assert "rests" in fleet.run("ps", "-a").stdout
    doctor = fleet.run("doctor").stdout
    assert "1 of 2 running, 1 resting by schedule" in doctor
    assert A not in doctor, "a rest needs no attention"

    now = fleet.run("start", A, "--now", "--until", "5s")
    assert f"{A} running" in now.stdout, now.stderr
    eventually(lambda: bool(resting(fleet, A)), within=30, what="the override ends")
    types = [
        json.loads(line)["type"]
        for line in fleet.run("events", "--json").stdout.splitlines()
        if '"type"' in line
    ]
    assert {"schedule.override", "schedule.expired"} <= set(types)


def test_a_rest_until_a_time_survives_a_lost_agent_and_ends(fleet: Fleet) -> None:
    fleet.add_account(A, 5001)
    fleet.run_json("start", A)
    before = fleet.workers()[A]
    rested = fleet.run("stop", A, "--until", "10s")
    assert rested.returncode == 0, rested.stderr
    assert f"{A} rests until" in rested.stdout
    assert not before.alive()
    fleet.end_agent(SIGKILL)
    fleet.start_agent()
    eventually(lambda: fleet.status(A) == "running", within=40, what="it runs again after its rest")


def test_a_stop_of_a_resting_account_keeps_it_stopped(fleet: Fleet) -> None:
    fleet.add_account(A, 5001)
    fleet.run_json("start", A)
    fleet.run("stop", A, "--until", "4s")
    assert fleet.run("stop", A).returncode == 0
    fleet.await_ticks(4)
    assert fleet.status(A) == "stopped"
    assert fleet.workers() == {} or not fleet.workers()[A].alive()
