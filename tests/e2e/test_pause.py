"""Pausing accounts of a real fleet, by CLI, task and batch."""

import json

import pytest
from support.fleet import SIGKILL, Fleet, plain_celery
from support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def mode(fleet: Fleet, account_id: str = "account-001") -> str | None:
    info = fleet.store.get_worker(account_id)
    return None if info is None else str(info.trading_mode)


def test_a_pause_survives_worker_agent_and_restart(fleet: Fleet) -> None:
    fleet.add_account("account-001", 5001)
    before = fleet.run_json("start", "account-001")

    done = fleet.run("pause", "account-001")
    assert (done.returncode, done.stdout) == (0, "account-001: paused\n"), done.stderr
    assert mode(fleet) == "paused", "readers see it as soon as the command has returned"
    assert "paused: it sends no orders" in fleet.run("ps").stdout
    info = fleet.run_json("info", "account-001")
    assert (info["status"], info["worker_id"]) == ("running", before["worker_id"])

    fleet.workers()["account-001"].signal(SIGKILL)
    eventually(
        lambda: (
            (new := fleet.store.get_worker("account-001")) is not None
            and new.worker_id != before["worker_id"]
            and new.status == "running"
        ),
        within=15,
        what="it comes back",
    )
    eventually(lambda: mode(fleet) == "paused", what="and is paused")

    fleet.end_agent()
    fleet.start_agent()
    assert fleet.run_json("restart", "account-001")["metadata"]["trading_mode"] == "paused"

    resumed = fleet.run_json("resume", "account-001")
    assert resumed["metadata"]["trading_mode"] == "normal"
    eventually(lambda: mode(fleet) == "normal")
    lines = fleet.run("audit", "--json").stdout.splitlines()
    entries = {(entry["what"], entry["outcome"]) for entry in map(json.loads, lines)}
    assert {("pause", "ok"), ("resume", "ok")} <= entries


def test_a_group_by_task_and_a_stopped_account(fleet: Fleet) -> None:
    for account_id in fleet.add_accounts(2):
        fleet.run_json("start", account_id)
    printed = plain_celery(
        fleet,
        "import json\n"
        "print(json.dumps(app.send_task('tasks.pause_all_workers').get(timeout=30)))\n"
        "print(json.dumps(app.send_task('tasks.resume_worker', args=['account-002']).get(timeout=30)))\n",
    ).splitlines()
    assert {info["metadata"]["trading_mode"] for info in json.loads(printed[0]).values()} == {"paused"}
    assert json.loads(printed[1])["metadata"]["trading_mode"] == "normal"
    assert fleet.run("stop", "account-002").returncode == 0
    done = fleet.run("pause", "account-002")
    assert "account-002: paused from its next start (its worker is stopped now)" in done.stdout
    assert fleet.run_json("start", "account-002")["metadata"]["trading_mode"] == "paused"
    assert fleet.run("pause", "no-such-account").returncode == 1
