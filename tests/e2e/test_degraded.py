"""Failures of the environment: workers continue, foreign files stay, and the error is visible."""

import json
import os
import socket
import subprocess
import sys

import pytest
from support.fleet import Fleet
from support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.long]

A = "account-001"


def test_redis_out_of_memory_stops_no_trading(fleet: Fleet) -> None:
    accounts = fleet.add_accounts(2)
    fleet.run_json("start", A)
    worker = fleet.workers()[A]
    with fleet.redis.client() as client:
        client.config_set("maxmemory", "1mb")
        result = fleet.run("start", accounts[1])
        stopped = fleet.run("stop", A)
        assert (result.returncode, stopped.returncode) == (1, 1)
        assert "out of memory (OOM)" in result.stderr
        assert "Traceback" not in result.stderr + stopped.stderr
        assert worker.alive()
        assert fleet.stats()["sessions"] == 1
        client.config_set("maxmemory", "0")
    eventually(lambda: fleet.status(A) == "running", within=15, what="it is reported again")
    # A worker's heartbeats may come back before its host's report.
    eventually(lambda: all(host.live for host in fleet.store.hosts()), within=15, what="the host reports")
    assert fleet.run("stop", A).returncode == 0
    assert not worker.alive()


def test_a_file_that_breaks_while_its_account_runs_is_reported_and_mended_by_mending_it(fleet: Fleet) -> None:
    accounts = fleet.add_accounts(2)
    fleet.run_json("start-all")
    workers = fleet.workers()
    path = fleet.config_dir / "accounts" / f"{A}.yaml"
    good = path.read_text()
    path.write_text("gateway: paper\nlogn: [\n")
    fleet.await_ticks()
    assert fleet.workers() == workers  # running workers are not affected

    workers[A].kill()
    workers[accounts[1]].kill()

    eventually(lambda: "is invalid" in ((fleet.store.get_worker(A) or object).error or ""))  # type: ignore[union-attr]
    assert fleet.status(A) == "failed"
    eventually(lambda: fleet.status(accounts[1]) == "running", what="the other one is back")
    path.write_text(good)
    eventually(lambda: fleet.status(A) == "running", what="its file is whole again")


def test_a_state_directory_that_takes_no_writing_is_reported(fleet: Fleet) -> None:
    accounts = fleet.add_accounts(2)
    fleet.run_json("start", A)
    # A directory in place of the file fails every write, as a full or read-only disk would, also for root.
    memory, record = fleet.paths.root / "desired.json", fleet.paths.workers_dir / f"{accounts[1]}.json"
    eventually(memory.exists, what="the agent has saved the desired state")
    memory.unlink()
    memory.mkdir()
    record.mkdir()

    refused = fleet.run("start", accounts[1])

    assert refused.returncode == 1
    assert f"{accounts[1]}.json" in refused.stderr
    assert fleet.status(A) == "running"
    eventually(lambda: "cannot be written" in fleet.run("doctor").stdout, what="doctor reports it", within=20)
    assert "cannot be written" in fleet.run("ps").stderr
    memory.rmdir()
    record.rmdir()
    assert fleet.run("start", accounts[1]).returncode == 0


def test_foreign_files_stale_sockets_and_borrowed_pids_are_left_alone(bare_fleet: Fleet) -> None:
    fleet = bare_fleet
    fleet.start_venue()
    accounts = fleet.add_accounts(2)
    stranger = fleet.spawn(sys.executable, "-c", "import signal; signal.pause()", log="stranger")
    workers, run = fleet.paths.workers_dir, fleet.paths.run_dir
    (workers / "notes.json").write_text("buy milk")
    (workers / "binary.json").write_bytes(os.urandom(200))
    (workers / "more.json").mkdir()
    (fleet.paths.root / "desired.json").write_text("[1, 2")
    with socket.socket(getattr(socket, "AF_UNIX")) as stale:  # noqa: B009 - not on Windows
        stale.bind(str(run / "w-stale.sock"))
    record = {
        "version": 2,
        "worker_id": "w-old",
        "account_id": A,
        "claims": ["paper:Paper-1:5001"],
        "epoch": 1,
        "lease_seconds": 0.0,
        "generation": 1,
        "pid": stranger.pid,
        "start_time": "another boot:1",
        "control_address": str(run / "w-stale.sock"),
        "control_token": "t",
        "beat_file": str(run / "w-old.beat"),
        "gateway": "paper",
        "config_version": "x",
        "software_version": "0",
        "stop_timeout_seconds": 1.0,
        "hang_after_seconds": 30.0,
        "created_at": "2026-01-01T00:00:00+00:00",
        "restarts": 0,
        "last_cause": None,
    }
    (workers / f"{A}.json").write_text(json.dumps(record))

    fleet.start_agent()

    assert stranger.poll() is None
    assert fleet.status(A) == "failed"
    log = fleet.log("agent")
    for name in ("notes.json", "binary.json", "more.json", "desired.json"):
        assert f"{workers / name}" in log or f"{fleet.paths.root / name}" in log, name
    assert (workers / "notes.json").read_text() == "buy milk"
    assert fleet.run_json("start", A)["status"] == "running"
    assert fleet.run_json("start", accounts[1])["status"] == "running"
    assert stranger.poll() is None


def test_a_second_agent_of_the_same_name_is_refused_while_the_first_lives(fleet: Fleet) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "tasks",
            "worker",
            "-P",
            "threads",
            "-Q",
            f"host.{fleet.host}",
        ],
        env={**fleet.environment, "MANAGER_STATE_DIR": str(fleet.paths.root / "second")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"a host agent named {fleet.host} is alive already" in done.stderr


def test_a_batch_continues_after_a_restart_of_redis(fleet: Fleet) -> None:
    accounts = fleet.add_accounts(6)
    with fleet.admin() as admin:
        for login in range(5001, 5007):
            admin.script_fault("Paper-1", login, "slow", seconds=2, count=1, on=("login",))
    batch = subprocess.Popen(
        [sys.executable, "-m", "manager.cli", "start-all", "--json"],
        env=fleet.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: "starting" in {fleet.status(one) for one in accounts}, within=20)
    fleet.redis.restart()
    out, _ = batch.communicate(timeout=90)
    answer = json.loads(out)
    reported = {*answer["started"], *answer["failed"], *answer["skipped"], *answer["pending"]}
    assert reported == set(accounts)
    assert batch.returncode == int(bool(answer["failed"] or answer["pending"]))
    assert set(answer["started"]) == set(accounts), answer
    assert fleet.stats()["overlaps"] == 0
