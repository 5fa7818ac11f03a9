"""Commands that need no fleet, as a user runs them."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.cli import fleet, waiting
from manager.cli.batches import say_batch
from manager.errors import FleetUnavailableError
from manager.models import BatchResult, WorkerInfo
from manager.states import WorkerLifecycleStatus
from manager.system.text import counted, printable
from tasks import batches as batch_tasks

ACCOUNT = "gateway: paper\nlogin: 5001\nserver: Paper-1\npassword: hunter22\ncurrencies: [{symbol: EURUSD}]\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("MANAGER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MANAGER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("MANAGER_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


def manager(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "manager.cli", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def write_account(home: Path, text: str = ACCOUNT) -> None:
    accounts = home / "config" / "accounts"
    accounts.mkdir(parents=True, exist_ok=True)
    (accounts / "account-001.yaml").write_text(text)


def test_config_show_prints_everything_except_the_password(home: Path) -> None:
    write_account(home)
    shown = json.loads(manager("config", "show", "account-001", "--json").stdout)
    assert shown["account_id"] == "account-001"
    assert shown["password"] == "***"
    assert shown["currencies"][0]["strategy"]["timeframe"] == "M5"


def test_config_show_prints_the_origin_of_each_value(home: Path) -> None:
    write_account(home)
    (home / "config" / "defaults.yaml").write_text("# shared\ntimeout: 5000\n")
    answer = manager("config", "show", "account-001", "--origin")
    lines = answer.stdout.splitlines()
    assert "timeout: 5000    # defaults.yaml:2" in lines
    assert "login: 5001    # accounts/account-001.yaml:2" in lines
    assert "execution.interval_seconds: 30.0    # built-in" in lines
    assert "hunter22" not in answer.stdout
    as_json = json.loads(manager("config", "show", "account-001", "--origin", "--json").stdout)
    assert {"key": "timeout", "value": 5000, "origin": "defaults.yaml:2"} in as_json


def test_validate_names_line_and_column_and_exits_with_1(home: Path) -> None:
    write_account(home, ACCOUNT + "tiemout: 3\n")
    answer = manager("validate", "account-001")
    assert answer.returncode == 1
    assert "accounts/account-001.yaml:6:1" in answer.stdout
    assert "timeout" in answer.stdout
    (result,) = json.loads(manager("validate", "--json").stdout)
    assert result["valid"] is False


def test_init_writes_valid_files_and_never_overwrites(home: Path) -> None:
    first = manager("init")
    assert first.returncode == 0
    assert (home / "config" / "defaults.yaml").exists()
    assert manager("validate").returncode == 0
    again = manager("init")
    assert again.returncode == 1
    assert "nothing was written" in again.stdout


@pytest.fixture
def followed(home: Path) -> Iterator["subprocess.Popen[str]"]:
    write_account(home)
    log = home / "state" / "logs" / "accounts" / "account-001.log"
    log.parent.mkdir(parents=True)
    log.write_text("one\ntwo\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "manager.cli", "logs", "account-001", "-n", "1", "-f"],
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def test_logs_follow_loses_no_line_in_a_rotation(home: Path, followed: "subprocess.Popen[str]") -> None:
    assert followed.stdout is not None
    log = home / "state" / "logs" / "accounts" / "account-001.log"
    assert followed.stdout.readline() == "two\n"
    with log.open("a") as old:
        old.write("three\n")
    assert followed.stdout.readline() == "three\n"
    for number in range(1, 4):
        with log.open("a") as old:
            log.rename(log.with_name(f"account-001.log.{number}"))
            old.write(f"last {number}\n")
        log.write_text(f"first {number}\n")
        assert followed.stdout.readline() == f"last {number}\n"
        assert followed.stdout.readline() == f"first {number}\n"


def test_logs_says_that_an_account_never_ran(home: Path) -> None:
    write_account(home)
    answer = manager("logs", "account-001")
    assert answer.returncode == 1
    assert "never ran here" in answer.stderr
    unknown = manager("logs", "account-002")
    assert "did you mean account-001" in unknown.stderr


def test_a_slow_account_prints_a_notice_and_does_not_delay_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "_NOTICE_SECONDS", 0.0)
    monkeypatch.setattr(fleet, "_POLL_SECONDS", 0.05)
    both = threading.Barrier(2)
    released = threading.Event()

    def one(account_id: str) -> dict[str, str]:
        both.wait(10)
        if account_id == "slow":
            assert released.wait(10)
        else:
            threading.Timer(0.3, released.set).start()
        return {"account_id": account_id}

    assert fleet._each(("slow", "quick"), one, lambda answer: f"{answer['account_id']} done", False) == 0
    output = capsys.readouterr()
    assert output.out.splitlines() == ["slow done", "quick done"]
    assert output.err == "slow: no answer yet; Ctrl-C stops waiting, and the command continues\n"


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[2J\x07b\n\tc\u202e") == "a\ufffd[2J\ufffdb\n\tc\ufffd"
    assert printable("Zürich 東京") == "Zürich 東京"
    assert (counted(0, "worker"), counted(1, "worker")) == ("0 workers", "1 worker")


INTERRUPTED = BatchResult(
    done={"a": WorkerInfo(worker_id="w", account_id="a", status=WorkerLifecycleStatus.RUNNING)},
    pending={"c": "task-c", "b": "task-b"},
    batch_id="batch-1",
    trouble="Redis at unix:x cannot be used",
)


def test_a_batch_after_an_outage_names_every_account_and_fails(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert say_batch(INTERRUPTED, False, "started") == 1
    output = capsys.readouterr()
    assert output.out.splitlines()[0] == "1 started, 2 pending"
    assert "manager batch batch-1" in output.out
    assert output.err == "error: outcome unknown for 2 accounts: b, c: Redis at unix:x cannot be used\n"
    assert say_batch(INTERRUPTED, True, "started") == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["pending"], answer["batch"]) == (["b", "c"], "batch-1")
    assert answer["trouble"] == "Redis at unix:x cannot be used"
    left = INTERRUPTED.model_copy(update={"trouble": ""})
    assert say_batch(left, True, "started") == 0, "a caller that does not wait misses no result"


def test_the_task_of_a_batch_after_an_outage_names_every_account(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Fleet:
        def list_workers(self) -> list[WorkerInfo]:
            raise FleetUnavailableError("it is away again")

    monkeypatch.setattr(batch_tasks, "fleet_service", Fleet)
    answer = batch_tasks._complete(INTERRUPTED, "started")
    assert {key: one["metadata"]["outcome"] for key, one in answer.items()} == {
        "a": "started",
        "b": "pending",
        "c": "pending",
    }
    assert answer["b"]["status"] == "unknown"
    assert "manager batch batch-1" in answer["b"]["error"]
