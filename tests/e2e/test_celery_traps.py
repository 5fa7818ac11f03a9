"""Known traps of Celery on Redis, tried on a real agent. Each test is named after its trap."""

import base64
import json
import pickle
import threading
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr
from support.fleet import Fleet, plain_celery
from support.waiting import eventually

from manager.errors import FleetUnavailableError
from manager.factory import build_service
from manager.gateways.paper.client import VenueAdmin
from manager.service import WorkerManagerService
from manager.settings import Settings

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def serves(fleet: Fleet) -> bool:
    """Return whether the agent carries out commands; a ping would not prove that."""
    return fleet.run("start", "account-001").returncode == 0


def test_trap_a_redis_restart_kills_the_consumer(fleet: Fleet) -> None:
    fleet.add_accounts(20)
    assert serves(fleet)
    worker = fleet.workers()["account-001"]
    for _ in range(2):
        fleet.redis.restart()
        eventually(lambda: serves(fleet), within=45, what="the agent consumes again")
    assert fleet.agent is not None
    assert fleet.agent.poll() is None
    assert fleet.workers()["account-001"] == worker


def test_trap_a_stop_queues_behind_slow_starts(fleet: Fleet) -> None:
    accounts = fleet.add_accounts(41)
    quick, slow = accounts[0], accounts[1:]
    assert fleet.run("start", quick).returncode == 0
    with VenueAdmin(f"unix:{fleet.paths.venue_socket}") as admin:
        for number, _ in enumerate(slow, 5002):
            admin.script_fault("Paper-1", number, "connect_timeout")
    answer = plain_celery(
        fleet,
        f"""
import json, time
pending = [app.send_task("tasks.start_worker", args=[account]) for account in {slow!r}]
while any(result.state != "STARTED" for result in pending):
    time.sleep(0.01)
began = time.monotonic()
stopped = app.send_task("tasks.stop_worker", args=[{quick!r}]).get(timeout=20)
print(json.dumps([stopped, time.monotonic() - began, [result.state for result in pending]]))
""",
    )
    stopped, seconds, states = json.loads(answer)
    assert stopped is True
    assert seconds < 2
    assert set(states) == {"STARTED"}


def test_trap_a_caller_must_be_restarted_after_an_outage(fleet: Fleet) -> None:
    fleet.add_accounts(2)
    with VenueAdmin(f"unix:{fleet.paths.venue_socket}") as admin:
        admin.script_fault("Paper-1", 5002, "connect_timeout")
    service = build_service(
        Settings(
            redis_url=SecretStr(fleet.redis.url),
            config_dir=fleet.config_dir,
            state_dir=fleet.paths.root,
            host=fleet.host,
        )
    )
    errors: list[BaseException] = []
    thread = threading.Thread(target=_start_and_tell, args=(service, "account-002", errors))
    thread.start()
    eventually(lambda: fleet.status("account-002") == "starting", what="the start is under way")
    fleet.redis.stop()
    thread.join(timeout=30)
    assert [type(error) for error in errors] == [FleetUnavailableError]
    with pytest.raises(FleetUnavailableError):
        service.start_worker_from_config("account-001")
    fleet.redis.start()
    eventually(lambda: fleet.status("account-002") == "failed", within=45, what="the host reports again")
    assert service.start_worker_from_config("account-001").status == "running"


def _start_and_tell(service: WorkerManagerService, account_id: str, reported: list[BaseException]) -> None:
    try:
        service.start_worker_from_config(account_id)
    except BaseException as error:
        reported.append(error)


@pytest.mark.parametrize("kind", ["pickle", "unregistered", "junk"])
def test_trap_a_forged_message_is_refused_and_the_agent_lives(
    fleet: Fleet, tmp_path: Path, kind: str
) -> None:
    fleet.add_accounts(1)
    trace = tmp_path / "executed"
    task_id = str(uuid4())
    body, content_type, encoding = json.dumps([["account-001"], {}, {}]).encode(), "application/json", "utf-8"
    task = "tasks.start_worker"
    if kind == "pickle":
        body = pickle.dumps(Bomb(str(trace)))
        content_type, encoding = "application/x-python-serialize", "binary"
    elif kind == "unregistered":
        task = "os.system"
    else:
        body = b"\xff" * 100_000
    message = {
        "body": base64.b64encode(body).decode(),
        "content-type": content_type,
        "content-encoding": encoding,
        "headers": {"id": task_id, "task": task, "lang": "py", "argsrepr": "", "kwargsrepr": ""},
        "properties": {
            "correlation_id": task_id,
            "delivery_info": {"exchange": "", "routing_key": "celery"},
            "delivery_tag": str(uuid4()),
            "body_encoding": "base64",
        },
    }
    with fleet.redis.client() as client:
        client.lpush("celery", json.dumps(message))
        eventually(lambda: client.llen("celery") == 0, what="the agent took it")
    assert serves(fleet)
    assert not trace.exists()


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path(self.path),))
