"""Whoever reaches Redis can send anything: it is refused, told of, and harms nothing."""

import base64
import json
import pickle
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from support.fleet import Fleet, plain_celery
from support.waiting import eventually

pytestmark = pytest.mark.e2e

A = "account-001"
MEGABYTES = 10 * 1024 * 1024


class Bomb:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def message(body: bytes, content_type: str = "application/json", **headers: Any) -> str:
    """Return a raw message as kombu would put it on a queue, with whatever a forger likes in it."""
    task_id = str(uuid4())
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "utf-8" if content_type.endswith("json") else "binary",
            "content-type": content_type,
            "headers": {"lang": "py", "task": "tasks.start_worker", "id": task_id, "root_id": task_id}
            | headers,
            "properties": {
                "correlation_id": task_id,
                "reply_to": str(uuid4()),
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": "celery"},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid4()),
            },
        }
    )


def body(*args: Any, **kwargs: Any) -> bytes:
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return json.dumps([args, kwargs, embed]).encode()


def test_absurd_arguments_are_refused_and_harm_nothing(fleet: Fleet) -> None:
    fleet.add_accounts(1)
    out = plain_celery(
        fleet,
        f"""
def tried(name, *args, **kwargs):
    try:
        print("DONE", app.send_task(name, args=args, kwargs=kwargs).get(timeout=20))
    except Exception as error:
        print(type(error).__name__, len(str(error)), str(error)[:60])

tried("tasks.start_worker", 5)
tried("tasks.start_worker", None)
tried("tasks.start_worker", ["{A}"])
tried("tasks.start_worker", "../../etc/passwd")
tried("tasks.start_worker", "x" * {MEGABYTES})
tried("tasks.start_worker", "{A}", apply_defaults="yes")
tried("tasks.start_worker", "{A}", colour="red")
tried("tasks.stop_worker", "{A}", timeout=-1)
tried("tasks.stop_worker", "{A}", timeout=float("nan"))
tried("tasks.stop_worker", "{A}", timeout=1e300)
tried("tasks.start_all_enabled_workers", group={{"a": 1}})
tried("tasks.start_all_enabled_workers", labels={{"x" * 1000: "y"}})
tried("tasks.validate_configs", ["a", {{}}])
""",
    )
    lines = out.splitlines()
    assert len(lines) == 13, out
    assert not [line for line in lines if line.startswith("DONE")], out
    assert all(int(line.split()[1]) < 2000 for line in lines), out
    assert {line.split()[0] for line in lines} <= {
        "InvalidPayloadError",
        "InvalidAccountIdError",
        "TypeError",
    }, out
    assert fleet.run("start", A).returncode == 0
    trail = [json.loads(line) for line in fleet.run("audit", "--export", "jsonl").stdout.splitlines()]
    assert [one for one in trail if one["outcome"] == "invalid_payload"]
    assert all(len(json.dumps(one)) < 5000 for one in trail)
    assert len(fleet.log("agent")) < 200_000


def test_forged_messages_are_dropped_and_the_agent_goes_on(fleet: Fleet, tmp_path: Path) -> None:
    fleet.add_accounts(1)
    mine = tmp_path / "touched"
    queue = f"host.{fleet.host}"
    with fleet.redis.client() as client:
        client.lpush(queue, message(pickle.dumps([[A], {}, {}]), "application/x-python-serialize"))
        client.lpush(queue, message(pickle.dumps(Bomb(mine)), "application/x-python-serialize"))
        client.lpush(queue, message(body(A), task="os.system"))
        client.lpush(queue, message(body(A), task="tasks.drop_everything"))
        client.lpush(queue, message(b"[[not json"))
        client.lpush(queue, message(b"[" * 100_000))
        client.lpush(queue, message(b'"' + b"x" * MEGABYTES + b'"'))
        client.lpush(queue, message(body("x" * MEGABYTES)))
        client.lpush(queue, message(body(A), manager_hops="many", manager_by={"a": 1}))
        client.lpush(queue, message(body(A), manager_hops=-5, manager_by="x" * 100_000))
        client.lpush(queue, message(body(A), manager_hops=10**30))
        client.lpush(queue, "x" * MEGABYTES, "[1, 2]", "null", "{}", b"\xff\xfe", '{"headers": 5, "body": 5}')
        client.lpush(
            queue,
            message(b"[[], {}, {}, {}]"),
            message(b"5"),
            message(b'{"a": 1}'),
            message(body(A), id=None),
        )
        client.lpush(
            queue, message(body(A), task=None), message(body(A), expires="soon"), message(body(A), eta="x")
        )
        client.lpush(queue, message(body(A), retries="x", timelimit=5, group=[1], shadow="y" * 100_000))
        client.lpush(f"host.{uuid4().hex}", message(body(A)))
        client.rpush(
            f"manager:host:{fleet.host}:nudges", b"x" * 100_000, b"{}", b"[1]", json.dumps({"token": 5})
        )
        eventually(
            lambda: client.llen(queue) == 0, within=10, what=f"everything was taken: {client.llen(queue)}"
        )
    assert fleet.agent is not None
    told = fleet.run("restart", A)
    assert told.returncode == 0, told.stderr + fleet.log("agent")[-3000:]
    assert fleet.agent.poll() is None
    assert not mine.exists()
    assert fleet.stats()["overlaps"] == 0
    assert len(fleet.log("agent")) < 1_000_000
    assert "drop_everything" in fleet.log("agent")


def test_a_replayed_start_after_a_stop_changes_nothing(fleet: Fleet) -> None:
    fleet.add_accounts(1)
    out = plain_celery(
        fleet,
        f"""
first = app.send_task("tasks.start_worker", args=["{A}"], task_id="recorded")
first.get(timeout=30)
app.send_task("tasks.stop_worker", args=["{A}"]).get(timeout=30)
first.forget()
# Of a sender of its own: this one may still find the earlier answer in its subscription.
other = Celery(broker=app.conf.broker_url, backend=app.conf.result_backend)
again = other.send_task("tasks.start_worker", args=["{A}"], task_id="recorded")
try:
    print("DONE", again.get(timeout=30))
except Exception as error:
    print(type(error).__name__)
""",
    )
    assert out.strip() == "StartCancelledError"
    assert fleet.status(A) == "stopped"
    assert fleet.stats()["sessions"] == 0 or not fleet.stats()["live"]


def test_a_manager_of_another_version_may_stop_and_nothing_else(fleet: Fleet) -> None:
    fleet.add_accounts(1)
    out = plain_celery(
        fleet,
        f"""
def tried(name, version):
    try:
        sent = app.send_task(name, args=["{A}"], headers={{"manager_version": version}})
        print("done", bool(sent.get(timeout=30)))
    except Exception as error:
        print(type(error).__name__, error)

tried("tasks.start_worker", "0.9.0")
tried("tasks.start_worker", {{"a": [1]}})
tried("tasks.start_worker", "x" * 100_000)
app.send_task("tasks.start_worker", args=["{A}"]).get(timeout=30)
tried("tasks.restart_worker", "0.9.0")
print(app.send_task("tasks.get_worker_info", args=["{A}"]).get(timeout=30)["metadata"]["restarts"])
tried("tasks.stop_worker", "0.9.0")
""",
    )
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == [
        *["VersionMismatchError"] * 4,
        "0",
        "done",
    ], out
    assert "version 0.9.0 and version" in lines[0]
    assert all(len(line) < 500 for line in lines)
    trail = [json.loads(line) for line in fleet.run("audit", "--export", "jsonl").stdout.splitlines()]
    assert [one["what"] for one in trail if one["outcome"] == "version_mismatch"] == [
        *["start"] * 3,
        "restart",
    ]
    # What was refused is not wanted either.
    fleet.look_again()
    assert fleet.status(A) == "stopped"


def test_a_broadcast_ends_no_agent_and_makes_none_deaf(fleet: Fleet) -> None:
    fleet.add_accounts(1)
    out = plain_celery(
        fleet,
        f"""
name = "agent@{fleet.host}"
for command, arguments in {{
    "shutdown": {{}},
    "cancel_consumer": {{"queue": "host.{fleet.host}"}},
    "revoke": {{"task_id": "next"}},
    "pool_shrink": {{"n": 64}},
    "pool_restart": {{}},
    "rate_limit": {{"task_name": "tasks.start_worker", "rate_limit": "1/h"}},
}}.items():
    print(app.control.broadcast(command, arguments=arguments, destination=[name], reply=True, timeout=2))
print(app.control.ping(destination=[name], timeout=5))
print(app.send_task("tasks.start_worker", args=["{A}"], task_id="next").get(timeout=30)["status"])
""",
    )
    lines = out.splitlines()
    assert all("error" in line or line == "[]" for line in lines[:6]), out
    assert "pong" in lines[6]
    assert lines[7] == "running"
    assert fleet.agent is not None
    assert fleet.agent.poll() is None
