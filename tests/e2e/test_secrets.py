"""A password exists only where the operator put it and in its worker. These tests search all other places."""

import contextlib
import json
import os
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from support.fleet import PASSWORD, Fleet
from support.ports import free_port
from support.waiting import eventually

pytestmark = pytest.mark.e2e

ENV_PASSWORD = "tr0ub4dor-and-3-from-the-environment"
#: A value that only the environment of a program contains.
API_SECRET = "api-secret-of-an-exchange"
API_LITERAL = "api-key-that-stands-in-the-file"


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


@pytest.mark.long
def test_no_password_anywhere(bare_fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = bare_fleet
    fleet.start_venue()
    # Only the environment of the host agent, where the operator set them, has `env:` credentials.
    monkeypatch.setenv("ACCOUNT_002_PASSWORD", ENV_PASSWORD)
    fleet.start_agent()
    monkeypatch.delenv("ACCOUNT_002_PASSWORD")
    assert fleet.agent is not None
    port = free_port()
    monkeypatch.setenv("FLOWER_UNAUTHENTICATED_API", "true")
    flower = fleet.spawn(
        *(sys.executable, "-m", "celery", "-A", "tasks", "flower"),
        *("--address=127.0.0.1", f"--port={port}"),
        log="flower",
    )
    base = f"http://127.0.0.1:{port}"
    eventually(lambda: _up(base), within=30, what="Flower answers")

    fleet.add_account("account-001", 5001)
    fleet.add_account("account-002", 5002, password="env:ACCOUNT_002_PASSWORD")
    fleet.add_account("account-003", 5003, password=PASSWORD)  # a literal password works, with a warning
    fleet.add_account("account-004", 5001, server="Paper-9", password="file:secrets/missing")
    fleet.add_account(
        "account-005",
        5005,
        gateway="command",
        server="Paper-1",
        command=[
            sys.executable,
            "-uc",
            "import json,os,time;"
            "print('ready', json.load(open(os.environ['MANAGER_CREDENTIALS_FILE']))['password']);"
            "time.sleep(60)",
        ],
        ready={"line": "ready"},
        currencies=None,
    )
    (fleet.config_dir / "secrets" / "api").write_text(API_SECRET + "\n")
    (fleet.config_dir / "secrets" / "api").chmod(0o600)
    fleet.add_account(
        "account-006",
        5006,
        gateway="command",
        server="Paper-1",
        password=None,
        command=[
            sys.executable,
            "-uc",
            "import os,time;s=os.environ['SECRET'];k=os.environ['API_KEY'];"
            "print('x'*(8192-9)+s);print(s[:9],end='');"
            "time.sleep(0.1);print(s[9:]);print(repr(s),k);print('ready');time.sleep(60)",
        ],
        ready={"line": "ready"},
        currencies=None,
        environment={"SECRET": "file:secrets/api", "API_KEY": API_LITERAL},
    )
    fleet.add_account(
        "account-007",
        5007,
        gateway="command",
        server="Paper-1",
        password=None,
        command=[
            sys.executable,
            "-uc",
            "import os;raise SystemExit('cannot log in with '+os.environ['SECRET'])",
        ],
        ready={"line": "ready"},
        currencies=None,
        environment={"SECRET": "file:secrets/api"},
        recovery={"max_restarts": 0},
    )
    texts: dict[str, str] = {}
    for command in ("validate", "start-all", "ps", "events", "doctor"):
        done = fleet.run(command)
        texts[f"manager {command}"] = done.stdout + done.stderr
    for account in range(1, 8):
        for asked in (("info",), ("config", "show"), ("logs",)):
            done = fleet.run(*asked, f"account-00{account}")
            texts[f"{asked} {account}"] = done.stdout + done.stderr
    running = {w.account_id for w in fleet.store.list_workers() if w.status == "running"}
    assert {"account-001", "account-002", "account-006"} <= running, texts
    assert "cannot log in with ***" in texts["manager start-all"]
    fleet.run("restart", "account-001")

    def failed_and_done() -> bool:
        tasks = json.loads(fetch(f"{base}/api/tasks"))
        states = {task["state"] for task in tasks.values() if task["name"] == "tasks.start_worker"}
        return {"SUCCESS", "FAILURE"} <= states

    eventually(failed_and_done, within=10, what="Flower shows the tasks, the failed one red")
    for path in (
        "/api/tasks",
        "/api/workers",
        "/api/queues/length",
        "/api/task/types",
        "/tasks",
        "/workers",
        "/metrics",
    ):
        with contextlib.suppress(OSError):
            texts[f"flower {path}"] = fetch(base + path)
    for task_id in json.loads(texts["flower /api/tasks"]):
        texts[f"flower task {task_id}"] = fetch(f"{base}/task/{task_id}") + fetch(
            f"{base}/api/task/info/{task_id}"
        )
    assert "tasks.start_worker" in texts["flower /api/tasks"]

    if sys.platform == "linux":
        for process in (fleet.agent.pid, *(worker.pid for worker in fleet.workers().values())):
            limits = Path(f"/proc/{process}/limits").read_text()
            (core,) = (line.split() for line in limits.splitlines() if line.startswith("Max core file size"))
            assert core[4] == "0"
    texts |= _redis_values(fleet)
    texts |= _logs(fleet)
    texts |= _processes(fleet, own={fleet.agent.pid})
    texts |= _files(fleet)
    assert any(key.startswith("/proc/") for key in texts)
    found = [
        where for where, text in texts.items() for password in (PASSWORD, ENV_PASSWORD) if password in text
    ]
    assert found == []
    # Only the program's environment may contain them.
    assert [
        where
        for where, text in texts.items()
        for hidden in (API_SECRET, API_LITERAL)
        if hidden in text and not where.endswith("/environ")
    ] == []
    log = texts[str(fleet.paths.worker_log("account-006"))]
    assert "ready" in log
    assert not any(API_SECRET[at : at + 9] in log for at in (0, 9, len(API_SECRET) - 9))
    assert flower.poll() is None


def _up(base: str) -> bool:
    try:
        return bool(fetch(f"{base}/healthcheck"))
    except OSError:
        return False


def _redis_values(fleet: Fleet) -> dict[str, str]:
    found: dict[str, str] = {}
    with fleet.redis.client() as redis:
        client: Any = redis
        for key in client.scan_iter():
            found[f"redis {key!r}"] = repr(client.dump(key)) + repr(_value(client, key))
    assert any("celery-task-meta" in key for key in found)
    return found


def _value(client: Any, key: bytes) -> object:
    reader = {b"string": "get", b"hash": "hgetall", b"set": "smembers"}.get(client.type(key))
    if reader:
        return getattr(client, reader)(key)
    return client.xrange(key) if client.type(key) == b"stream" else None


def _logs(fleet: Fleet) -> dict[str, str]:
    found = {
        str(path): path.read_text(errors="replace")
        for path in fleet.paths.logs_dir.rglob("*")
        if path.is_file()
    }
    assert any("account-001" in name for name in found)
    return found


def _files(fleet: Fleet) -> dict[str, str]:
    """Return all files of the state directory, except private directories of running workers."""
    return {
        str(path): path.read_bytes().decode(errors="replace")
        for path in fleet.paths.root.rglob("*")
        if path.is_file() and not path.parent.name.endswith(".d")
    }


def _processes(fleet: Fleet, own: set[int]) -> dict[str, str]:
    """Return every process's argv and environment, except those of the agent and of this test."""
    found: dict[str, str] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        if pid in own or pid == os.getpid():
            continue
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                found[f"/proc/{pid}/{name}"] = (entry / name).read_bytes().decode(errors="replace")
    assert fleet.agent is not None
    return found
