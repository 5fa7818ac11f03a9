"""Callers that have only Celery and the Redis URL, and import nothing of this project."""

import json

import pytest
from support.fleet import Fleet, plain_celery

import manager

pytestmark = pytest.mark.e2e


def test_a_caller_with_nothing_but_celery_starts_and_stops(fleet: Fleet) -> None:
    fleet.add_account("account-001", 5001)
    answer = json.loads(
        plain_celery(
            fleet,
            """
import json
info = app.send_task("tasks.start_worker", args=["account-001"]).get(timeout=30)
read = app.send_task("tasks.get_worker_info", args=["account-001"]).get(timeout=30)
valid = app.send_task("tasks.validate_config", args=["account-001"]).get(timeout=30)
again = app.send_task("tasks.restart_worker", args=["account-001"]).get(timeout=30)
stopped = app.send_task("tasks.stop_worker", args=["account-001"], kwargs={"timeout": 5}).get(timeout=30)
nobody = app.send_task("tasks.get_worker_info", args=["nobody"]).get(timeout=30)
print(json.dumps([info, read, valid, again, stopped, nobody]))
""",
        )
    )
    info, read, valid, again, stopped, nobody = answer
    assert (info["status"], read["status"], again["status"]) == ("running", "running", "running")
    assert read["worker_id"] == info["worker_id"] != again["worker_id"]
    assert (valid["valid"], valid["account_id"], valid["errors"]) == (True, "account-001", [])
    assert info["version"] == valid["version"] == manager.__version__
    assert stopped is True
    assert nobody is None


def test_a_group_of_fifty(fleet: Fleet) -> None:
    accounts = fleet.add_accounts(50)
    answer = json.loads(
        plain_celery(
            fleet,
            f"""
import json
job = group(app.signature("tasks.start_worker", args=[a]) for a in {accounts!r})
print(json.dumps(job.apply_async().get(timeout=60)))
""",
        )
    )
    assert [info["account_id"] for info in answer] == accounts
    assert {info["status"] for info in answer} == {"running"}
    assert len({info["metadata"]["pid"] for info in answer}) == 50
    assert fleet.run("stop-all").returncode == 0
    assert not fleet.workers()


def test_expected_failures_arrive_with_our_class_name_and_text(fleet: Fleet) -> None:
    fleet.add_account("invalid", 5001, currencies=[])
    answer = json.loads(
        plain_celery(
            fleet,
            """
import json
def attempt(name, *args, **kwargs):
    try:
        return app.send_task(name, args=args, kwargs=kwargs).get(timeout=30)
    except Exception as error:
        return [type(error).__name__, str(error)]
print(json.dumps([
    attempt("tasks.start_worker", "nobody"),
    attempt("tasks.start_worker", "invalid"),
    attempt("tasks.stop_worker", "invalid"),
    attempt("tasks.start_worker", "../../etc/passwd"),
    attempt("tasks.start_worker", {"a": 1}),
    attempt("tasks.start_worker", "x", apply_defaults="yes"),
    attempt("tasks.stop_worker", "x", timeout=-1),
    attempt("tasks.start_worker", "x" * 10000),
]))
""",
        )
    )
    names = [name for name, _ in answer]
    assert names == [
        "AccountNotFoundError",
        "InvalidConfigError",
        "NoWorkerError",
        "InvalidAccountIdError",
        "InvalidPayloadError",
        "InvalidPayloadError",
        "InvalidPayloadError",
        "InvalidPayloadError",
    ]
    assert "currencies" in answer[1][1]
    assert all(text for _, text in answer)
    assert "Traceback" not in fleet.log("agent")


def test_batches_account_for_every_account(fleet: Fleet) -> None:
    fleet.add_accounts(3)
    fleet.add_account("disabled", 6001, enabled=False)
    fleet.add_account("invalid", 6002, currencies=[])
    answer = json.loads(
        plain_celery(
            fleet,
            """
import json
valid = app.send_task("tasks.validate_all_configs").get(timeout=30)
first = app.send_task("tasks.start_all_enabled_workers").get(timeout=60)
second = app.send_task("tasks.start_all_enabled_workers").get(timeout=60)
stopped = app.send_task("tasks.stop_all_workers", kwargs={"timeout": 10}).get(timeout=60)
print(json.dumps([valid, first, second, stopped]))
""",
        )
    )
    valid, first, second, stopped = answer
    assert {key: value["valid"] for key, value in valid.items()} == {
        "account-001": True,
        "account-002": True,
        "account-003": True,
        "disabled": True,
        "invalid": False,
    }
    assert {key: value["metadata"]["outcome"] for key, value in first.items()} == {
        "account-001": "started",
        "account-002": "started",
        "account-003": "started",
        "disabled": "skipped",
        "invalid": "failed",
    }
    assert "currencies" in first["invalid"]["error"]
    assert second["account-001"]["metadata"]["outcome"] == "already_running"
    assert stopped == 3


def test_two_accounts_start_while_a_third_ones_venue_hangs(fleet: Fleet) -> None:
    from manager.gateways.paper.client import VenueAdmin

    accounts = fleet.add_accounts(2)
    fleet.add_account("hanging", 6001, timeout=20_000)
    with VenueAdmin(f"unix:{fleet.paths.venue_socket}") as admin:
        admin.script_fault("Paper-1", 6001, "connect_timeout")
    answer = json.loads(
        plain_celery(
            fleet,
            f"""
import json, time
slow = app.send_task("tasks.start_worker", args=["hanging"])
while slow.state != "STARTED":
    time.sleep(0.01)
began = time.monotonic()
job = group(app.signature("tasks.start_worker", args=[a]) for a in {accounts!r})
infos = job.apply_async().get(timeout=10)
took = time.monotonic() - began
state = slow.state
stopped = app.send_task("tasks.stop_worker", args=["hanging"]).get(timeout=10)
try:
    slow.get(timeout=10)
    error = None
except Exception as e:
    error = type(e).__name__
print(json.dumps([[i["status"] for i in infos], took, state, stopped, error]))
""",
        )
    )
    statuses, took, state, stopped, error = answer
    assert statuses == ["running", "running"]
    assert took < 5
    assert state == "STARTED"
    assert stopped is True
    assert error == "StartCancelledError"
    assert set(fleet.workers()) == set(accounts)
