"""Flower: readable task names and arguments without secrets, failed starts, read-only, with a password."""

import json
from pathlib import Path

import pytest
from support.fleet import PASSWORD, Fleet
from support.flower import Flower
from support.waiting import eventually

pytestmark = pytest.mark.e2e

A = "account-001"


@pytest.mark.long
def test_flower_shows_what_was_asked_and_what_failed_and_no_more(fleet: Fleet, tmp_path: Path) -> None:
    flower = Flower(fleet, tmp_path)
    fleet.add_accounts(1)
    fleet.add_account("broken", 5002, password="file:secrets/none")
    with fleet.admin() as admin:
        admin.create_account("Paper-1", 5003, "another password")
    fleet.add_account("refused", 5003)
    assert fleet.run("start", A).returncode == 0
    assert fleet.run("start", "broken", "refused").returncode == 1

    def seen() -> dict[str, str]:
        return {str(task["args"]): str(task["state"]) for task in flower.tasks()}

    eventually(
        lambda: len(seen()) == 3 and "STARTED" not in seen().values(), within=20, what="Flower has seen all"
    )
    assert seen() == {
        "('account-001',)": "SUCCESS",
        "('broken',)": "FAILURE",
        "('refused',)": "FAILURE",
    } or seen() == {
        "['account-001']": "SUCCESS",
        "['broken']": "FAILURE",
        "['refused']": "FAILURE",
    }
    tasks = flower.tasks()
    assert {task["name"] for task in tasks} == {"tasks.start_worker"}
    reported = json.dumps(tasks)
    assert "secrets/none is missing" in reported
    assert PASSWORD not in reported
    assert "another password" not in reported
    # Each task of a batch contains the id of the batch.
    batch = fleet.run_json("start-all")["batch"]
    eventually(
        lambda: [str(task["args"]) for task in flower.tasks() if task["root_id"] == batch] != [],
        within=10,
        what="the batch's tasks name it",
    )
    # Read-only, and only with the password.
    assert flower.status("/", auth=False) == 401
    assert flower.status("/api/tasks", auth=False) == 401
    assert flower.status(f"/api/worker/shutdown/agent@{fleet.host}", data=b"") in {401, 403, 405}
    assert flower.status("/api/task/async-apply/tasks.stop_all_workers", data=b"{}") in {401, 403, 405}
    assert flower.status("/api/task/send-task/tasks.stop_all_workers", data=b"{}") in {401, 403, 405}
    fleet.await_ticks()
    assert fleet.status(A) == "running"
    for what in ("cmdline", "environ"):
        assert b"looking-only" not in Path(f"/proc/{fleet.processes[-1].pid}/{what}").read_bytes()
