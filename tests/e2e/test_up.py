"""`manager up` as a user runs it: start, supervision, interrupts and errors."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.fleet import SIGKILL, SIGSTOP
from support.ports import free_port
from support.waiting import eventually

from manager.system.processes import ProcessRef
from manager.system.state_dir import StatePaths

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform == "win32", reason="Redis and signals of POSIX"),
]


class Up:
    """Runs `manager up`, repeatedly if needed, in one state directory."""

    def __init__(self, directory: Path) -> None:
        self.paths = StatePaths(directory / "s")
        self.config_dir = directory / "c"
        self.port = free_port()
        self.output = directory / "out"
        self.environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(directory),
            "MANAGER_STATE_DIR": str(self.paths.root),
            "MANAGER_CONFIG_DIR": str(self.config_dir),
            "MANAGER_FLOWER_PORT": str(self.port),
            "MANAGER_API_PORT": "0",
            "MANAGER_HOST": "up-host",
            "FLOWER_UNAUTHENTICATED_API": "true",
        }
        self.running: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> "subprocess.Popen[bytes]":
        with self.output.open("wb") as output:
            self.running = subprocess.Popen(
                [sys.executable, "-m", "manager.cli", "up", *options],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self.running

    def run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "manager.cli", *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_for(self, pattern: str, within: float = 40) -> str:
        def found() -> str | None:
            match = re.search(pattern, self.text)
            if match is None and self.running is not None:
                assert self.running.poll() is None, self.text
            return match.group() if match else None

        return str(eventually(found, within=within, what=f"{pattern!r} is printed"))

    def ps(self) -> dict[str, dict[str, object]]:
        return {entry["account_id"]: entry for entry in json.loads(self.run("ps", "--json").stdout)}

    def component(self, name: str) -> ProcessRef:
        ref = ProcessRef.from_dict(json.loads((self.paths.run_dir / f"{name}.json").read_text()))
        assert ref is not None
        return ref

    def worker(self, account_id: str) -> ProcessRef:
        ref = ProcessRef.from_dict(json.loads((self.paths.workers_dir / f"{account_id}.json").read_text()))
        assert ref is not None
        return ref

    def processes(self) -> list[psutil.Process]:
        """Return every process with this state directory in its arguments or environment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                place = str(self.paths.root)
                known = " ".join(process.cmdline()) + " ".join(process.environ().values())
                if place in known and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def close(self) -> None:
        left = self.processes()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.running is not None:
            self.running.wait(timeout=10)
        psutil.wait_procs(left, timeout=10)


@pytest.fixture
def up(short_dir: Path) -> Iterator[Up]:
    found = Up(short_dir)
    yield found
    found.close()


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def test_the_whole_demo_fleet_up_and_down(up: Up) -> None:
    process = up.start("--demo")
    up.wait_for("6 running, 1 disabled, 1 not started")
    for expected in (
        f"wrote a demo fleet to {up.config_dir}",
        "warning: accounts/account-004.yaml:4:30: default_risk.risk_percent: 12 is above 10.0",
        "error: accounts/account-008.yaml:4:16: default_risk.risk_percnt: unknown key; did you mean "
        "'risk_percent'?",
        "accounts: 7 valid (1 with warnings), 1 invalid",
        f"Flower at http://127.0.0.1:{up.port}",
    ):
        assert expected in up.text
    assert "\x1b" not in up.text, "output without a terminal has no escape codes"
    workers = up.ps()
    assert {name: entry["status"] for name, entry in workers.items()} == {
        f"account-00{number}": "running" for number in range(1, 7)
    }
    api = int((up.paths.run_dir / "api.address").read_text().rpartition(":")[2])
    assert _listeners(up) == {up.port, api}, "no TCP port but Flower's and the API's"

    assert up.run("stop", "account-001").returncode == 0
    up.wait_for("account-001 stopped")
    assert up.run("start", "account-001").returncode == 0
    up.wait_for("account-001 running healthy")

    def start_in_flower() -> bool:
        # Flower learns of a task by events, which arrive after the result; it misses events before it
        # listened.
        tasks = json.loads(fetch(f"http://127.0.0.1:{up.port}/api/tasks"))
        return any(t["name"] == "tasks.start_worker" and t["state"] == "SUCCESS" for t in tasks.values())

    eventually(start_in_flower, within=20, what="Flower shows the start as done")

    second = up.run("up", "--no-flower")
    assert second.returncode == 1
    assert f"`manager up` already runs here (pid {process.pid}" in second.stderr

    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=40) == 0
    assert "stopping; press Ctrl-C again to kill everything now" in up.text
    assert "stopped 6 workers, api, flower, agent, venue, redis" in up.text
    assert up.processes() == []


def _listeners(up: Up) -> set[int]:
    found: set[int] = set()
    for process in up.processes():
        with contextlib.suppress(psutil.Error):
            found |= {
                connection.laddr.port
                for connection in process.net_connections(kind="tcp")
                if connection.status == psutil.CONN_LISTEN
            }
    return found


@pytest.mark.long
def test_a_second_interrupt_kills_at_once_and_leaves_no_process(up: Up) -> None:
    process = up.start("--demo", "--no-flower")
    up.wait_for("6 running")
    # One worker is frozen, so that a graceful stop takes its whole timeout.
    worker = up.worker("account-001")
    worker.signal(SIGSTOP)
    process.send_signal(signal.SIGTERM)
    up.wait_for("stopping; press Ctrl-C again")
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=20)
    assert "killing everything now" in up.text
    assert up.processes() == []


@pytest.mark.long
def test_the_trading_outlives_the_managing_and_the_next_up_takes_it_over(up: Up) -> None:
    process = up.start("--demo", "--no-flower")
    up.wait_for("6 running")
    before = {name: entry["worker_id"] for name, entry in up.ps().items()}
    process.send_signal(SIGKILL)
    process.wait(timeout=10)
    assert {entry["status"] for entry in up.ps().values()} == {"running"}
    again = up.start("--no-flower")
    up.wait_for("6 running")
    for name in ("Redis", "venue", "host agent"):
        assert f"{name}: using the one of an earlier run" in up.text
    assert {name: entry["worker_id"] for name, entry in up.ps().items()} == before
    again.send_signal(signal.SIGINT)
    assert again.wait(timeout=40) == 0
    assert up.processes() == []


@pytest.mark.long
@pytest.mark.parametrize("name", ["agent", "redis", "venue"])
def test_what_dies_is_started_again_and_said(up: Up, name: str) -> None:
    process = up.start("--demo", "--no-flower")
    up.wait_for("6 running")
    dead = up.component(name)
    before = {account: entry["worker_id"] for account, entry in up.ps().items()}
    dead.kill()
    up.wait_for(f"{name} ended.*; restarting it")
    eventually(lambda: up.component(name).alive() and up.component(name) != dead, within=20)
    if name != "venue":
        # Workers trade without agent and Redis; without their venue they end with an error.
        eventually(lambda: _all_run(up, before), within=30, what="the same workers, shown as running again")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert up.processes() == []


def _all_run(up: Up, before: dict[str, object]) -> bool:
    found = up.run("ps", "--json")
    if found.returncode != 0:
        return False
    entries = {entry["account_id"]: entry for entry in json.loads(found.stdout)}
    return {name: e["worker_id"] for name, e in entries.items()} == before and all(
        e["status"] == "running" for e in entries.values()
    )


@pytest.mark.long
def test_data_stays_between_runs(up: Up) -> None:
    assert up.run("up", "--demo", "--no-flower", "--exit-after-start").returncode == 0
    assert up.processes() == []
    (up.config_dir / "accounts" / "account-006.yaml").unlink()
    done = up.run("up", "--demo", "--no-flower", "--exit-after-start")
    assert done.returncode == 0
    assert f"using the existing files in {up.config_dir}; no demo fleet was written" in done.stdout
    assert "5 running, 1 disabled, 1 not started" in done.stdout
    assert up.processes() == []


def test_the_cause_of_a_failed_start_is_one_clear_line(up: Up, short_dir: Path) -> None:
    done = up.run("up")
    assert done.returncode == 1
    assert f"error: no configuration: {up.config_dir} does not exist. Run `manager init`" in done.stderr

    with socket.create_server(("127.0.0.1", up.port)):
        done = up.run("up", "--demo")
    assert done.returncode == 1
    assert (
        f"Flower cannot start: port {up.port} on 127.0.0.1 is in use. Choose another with --flower-port"
        in done.stdout
    )
    assert up.processes() == []

    done = up.run("up", "--no-flower", MANAGER_REDIS_URL=f"redis://:hunter2@127.0.0.1:{free_port()}/0")
    assert done.returncode == 1
    assert "error: Redis at redis://:***@127.0.0.1" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr

    (short_dir / "file").write_text("")
    done = up.run("up", "--no-flower", MANAGER_CONFIG_DIR=str(short_dir / "file"))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    done = up.run("up", "--no-flower", MANAGER_STATE_DIR=str(short_dir / "file"))
    assert done.returncode == 1
    assert "make it writable, or set MANAGER_STATE_DIR" in done.stderr
    assert up.processes() == []


@pytest.mark.long
def test_files_that_are_not_read_are_named_and_are_no_success(up: Up) -> None:
    program = "gateway: command\ncommand: [sleep, '1000']\nready: {after_seconds: 0}\n"
    accounts = up.config_dir / "accounts"
    accounts.mkdir(parents=True)
    (accounts / "good.yaml").write_text(program)
    for name in ("gold.yml", "silver.YAML", "tin desk.yaml", "zinc.yaml.txt"):
        (accounts / name).write_text(program)
    (up.config_dir / "defaults.yml").write_text("default_risk: {risk_percent: 0.1}\n")
    names = ("gold.yml", "silver.YAML", "tin desk", "zinc.yaml.txt", "defaults.yml")
    process = up.start("--no-flower")
    up.wait_for("1 running, 5 not started")
    for answer in (up.run("start-all"), up.run("doctor"), up.run("validate")):
        assert answer.returncode == 1, answer
        for name in names:
            assert name in answer.stdout + answer.stderr, (name, answer)
    assert up.ps()["good"]["status"] == "running"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=40) == 1
    for name in names:
        assert f"{name}" in up.text


@pytest.mark.long
def test_accounts_that_are_not_mounted_are_no_success(up: Up) -> None:
    up.config_dir.mkdir()
    answer = up.run("up", "--no-flower", "--exit-after-start")
    assert answer.returncode == 1
    assert f"{up.config_dir / 'accounts'} does not exist" in answer.stdout + answer.stderr


#: Characters that a URL, a shell, a format string or Celery could interpret.
_ODD = "a #?;&%20%s{x} ü'\"$@:+,"


@pytest.mark.long
def test_any_directory_will_do(short_dir: Path) -> None:
    up = Up(short_dir / _ODD)
    up.config_dir.parent.mkdir()
    try:
        process = up.start("--demo")
        up.wait_for("6 running, 1 disabled, 1 not started")
        assert up.run("restart", "account-001").returncode == 0
        assert up.run("logs", "account-001").returncode == 0
        tasks = json.loads(fetch(f"http://127.0.0.1:{up.port}/api/tasks"))
        assert {task["name"] for task in tasks.values()} >= {"tasks.restart_worker"}
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=40) == 0, up.text
        again = up.run("up", "--no-flower", "--exit-after-start")
        assert again.returncode == 0, again
        assert up.processes() == []
    finally:
        up.close()
