"""Forged messages: a client of Redis can send anything, so agents reject and report it."""

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from support.fleet import Fleet, plain_celery
from support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.long]

A = "account-001"
MEGABYTES = 10 * 1024 * 1024


class Bomb:
    """Creates a file if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def message(body: bytes, content_type: str = "application/json", **headers: Any) -> str:
    """Return a raw message in kombu's format, with forged content."""
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


def test_forged_messages_are_dropped_and_the_agent_continues(fleet: Fleet, tmp_path: Path) -> None:
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
    result = fleet.run("restart", A)
    assert result.returncode == 0, result.stderr + fleet.log("agent")[-3000:]
    assert fleet.agent.poll() is None
    assert not mine.exists()
    assert fleet.stats()["overlaps"] == 0
    assert len(fleet.log("agent")) < 1_000_000
    assert "drop_everything" in fleet.log("agent")


def test_a_small_message_that_unpacks_into_gigabytes_stays_packed(fleet: Fleet) -> None:
    packed = zlib.compress(b" " * (400 * 1024 * 1024))
    assert fleet.agent is not None
    process = psutil.Process(fleet.agent.pid)
    before = process.memory_info().rss
    with fleet.redis.client() as client:
        client.lpush(f"host.{fleet.host}", message(packed, compression="application/x-gzip"))
        eventually(lambda: client.llen(f"host.{fleet.host}") == 0, within=10, what="it was taken")
    fleet.await_ticks()
    assert process.memory_info().rss - before < 100 * 1024 * 1024


def test_no_number_of_wrong_headers_makes_an_agent_deaf(fleet: Fleet) -> None:
    """A dropped message must not use up the prefetch limit, or the agent would receive nothing more."""
    fleet.add_accounts(1)
    limits: list[Any] = [5, -1, [-1, -1], {}, "x", 1.5, True]
    stamps: list[Any] = [5, True, [5]]
    others: list[Any] = [[], {"a": 1}, 5]
    tags: list[Any] = [None, True, [], {}, 5, "same", "same"]
    wrong: list[dict[str, Any]] = [
        *({"timelimit": value} for value in limits),
        *({"stamped_headers": value} for value in stamps),
        *({name: value} for name in ("shadow", "id", "task") for value in others),
        *({"eta": value} for value in ("x", "5", "2999-01-01T00:00:00")),
        {"retries": -1},
        {"group": {}},
    ]
    queue = f"host.{fleet.host}"
    with fleet.redis.client() as client:
        for _ in range(10):
            client.lpush(queue, *(message(body(A), **headers) for headers in wrong))
        for tag in tags:
            raw = json.loads(message(body(A)))
            raw["properties"]["delivery_tag"] = tag
            client.lpush(queue, json.dumps(raw))
        for name in ("celery.chord_unlock", "celery.map", "celery.group", "celery.backend_cleanup"):
            client.lpush(queue, message(body("a", "b"), task=name))
        eventually(lambda: client.llen(queue) == 0, within=20, what="everything was taken")
        # Redis stores nothing about received messages, so an attacker cannot add anything to it.
        client.hset("unacked", "planted", json.dumps([json.loads(message(body(A))), "", "celery"]))
        client.zadd("unacked_index", {"planted": 1})
        client.hset("unacked", "broken", "[[not json")
        client.zadd("unacked_index", {"broken": 1})
    result = fleet.run("restart", A)
    assert result.returncode == 0, result.stderr + fleet.log("agent")[-3000:]
    fleet.end_agent()
    fleet.start_agent()
    assert fleet.run("restart", A).returncode == 0
    with fleet.redis.client() as client:
        assert client.hlen("unacked") == 2


@pytest.mark.parametrize("generation", ["1e300", "9007199254740992", "1e999", "-5", '"x"', "NaN"])
def test_a_forged_generation_does_not_prevent_a_stop(fleet: Fleet, generation: str) -> None:
    fleet.add_accounts(1)
    assert fleet.run("start", A).returncode == 0
    worker = fleet.workers()[A]
    with fleet.redis.client() as client:
        client.hset(
            "manager:desired", A, f'{{"state": "running", "host": "test-host", "generation": {generation}}}'
        )
        client.incr("manager:desired:version")
        client.delete("manager:audit")
        client.set("manager:audit", "no trail")
    fleet.await_ticks()
    assert fleet.run("stop", A).returncode == 0
    assert not worker.alive()
    assert fleet.run("start", A).returncode == 0
    assert fleet.run("stop", A).returncode == 0
    assert fleet.workers() == {}


def test_a_forged_epoch_gives_no_two_workers_one_lease(fleet: Fleet) -> None:
    fleet.add_accounts(2)
    with fleet.redis.client() as client:
        client.set("manager:epoch", str(2**53))
        assert fleet.run("start", A).returncode == 0
        lease = client.hgetall("manager:lease:paper:Paper-1:5001")
        assert int(lease[b"epoch"]) < 10**14
        # The same epoch with another host's name: the worker notices it and ends.
        worker = fleet.workers()[A]
        client.hset("manager:lease:paper:Paper-1:5001", "host", "elsewhere")
        assert worker.wait(20)
    assert fleet.stats()["overlaps"] == 0


def test_forged_values_break_no_reader(fleet: Fleet) -> None:
    """Invalid values are shown as such or left out; everything else is shown."""
    fleet.add_accounts(1)
    assert fleet.run("start", A).returncode == 0
    deep = "[" * 200_000
    red = "[/red]\x1b[2J"
    stamp = "9999999999.0 "
    word = {
        "time": 10**400,
        "version": red,
        "labels": {red: red},
        "states": [1],
        "memory_mb": 10**400,
        "load": red,
    }
    beat = {"worker_id": "w", "loop_age_seconds": "x", "open_positions": red, "equity": red}
    with fleet.redis.client() as client:
        client.sadd("manager:hosts", b"\xff", "forger", red)
        client.set("manager:host:forger:drain", deep)
        client.set("manager:host:forger:agent", stamp + json.dumps(word))
        info = {
            "worker_id": "w",
            "account_id": "forged",
            "status": "running",
            "error": red,
            "metadata": {"health": []},
        }
        client.hset("manager:host:forger:workers", "forged", json.dumps(info))
        client.hset("manager:host:forger:beats", "forged", stamp + json.dumps(beat))
        client.hset("manager:host:forger:workers", "deep", deep)
        client.hset("manager:desired", mapping={"deep": deep, "nested": '{"needs":' + deep})
        client.incr("manager:desired:version")
        client.zadd("manager:batches", {b"\xff": 1e300, "batch": 2e300})
        client.hset("manager:batch:batch", "", json.dumps({"what": "start", "by": red, "time": 1e300}))
        client.xadd("manager:events", {b"\xff": b"\xff", "status": red, "account_id": A})
        client.xadd("manager:audit", {b"\xff": b"\xff", "by": red, "what": "\t=1+1"})
    for arguments in (
        *(
            ("ps",),
            ("hosts",),
            ("info", A),
            ("events",),
            ("audit",),
            ("batch",),
            ("audit", "--export", "csv"),
        ),
        *(
            ("place", A),
            ("start", A),
            ("restart", A),
            ("info", "forged"),
            ("ps", "--json"),
            ("hosts", "--json"),
        ),
    ):
        result = fleet.run(*arguments)
        assert "Traceback" not in result.stderr, (arguments, result.stderr[-2000:])
        assert "\x1b" not in result.stdout + result.stderr, arguments
        assert result.returncode in {0, 1}, arguments
    assert A in fleet.run("ps").stdout
    fleet.await_ticks()
    assert fleet.run("stop", A).returncode == 0


def test_a_replayed_start_after_a_stop_changes_nothing(fleet: Fleet) -> None:
    fleet.add_accounts(1)
    out = plain_celery(
        fleet,
        f"""
first = app.send_task("tasks.start_worker", args=["{A}"], task_id="recorded")
first.get(timeout=30)
app.send_task("tasks.stop_worker", args=["{A}"]).get(timeout=30)
first.forget()
# From another sender, because this one may still have the earlier result in its subscription.
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
    # A rejected command does not change the desired state.
    fleet.await_ticks()
    assert fleet.status(A) == "stopped"


def test_agents_still_receive_commands_after_a_broadcast(fleet: Fleet) -> None:
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
