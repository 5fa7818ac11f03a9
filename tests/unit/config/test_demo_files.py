"""`manager init` after the demo: it explains what to do, and moves the demo's files on request."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from manager.config.demo_files import demo_accounts
from manager.config.left_out import left_out
from manager.config.starting_files import write_demo_fleet
from manager.host.workers.records import RecordFiles, WorkerRecord
from manager.system.processes import ProcessRef
from manager.system.state_dir import StatePaths


@pytest.fixture
def config(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("MANAGER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MANAGER_CONFIG_DIR", str(short_dir / "config"))
    monkeypatch.setenv("MANAGER_STATE_DIR", str(short_dir / "state"))
    return short_dir / "config"


@dataclass
class Answer:
    exit_code: int
    output: str


def init(*options: str) -> Answer:
    done = subprocess.run(
        [sys.executable, "-m", "manager.cli", "init", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    return Answer(done.returncode, done.stdout)


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


STARTING = {
    *("defaults.yaml", "accounts/example-paper.yaml", "accounts/example-command.yaml"),
    "secrets/example-paper.password",
}


def test_it_says_that_the_directory_holds_the_demo_fleet(config: Path) -> None:
    write_demo_fleet(config)
    before = files(config)
    answer = init()
    assert answer.exit_code == 1
    assert f"{config} contains the demo fleet (8 accounts); nothing was written" in answer.output
    assert "`manager init --move-demo`" in answer.output
    assert files(config) == before


def test_the_demo_moves_aside_and_the_commented_files_take_its_place(config: Path) -> None:
    write_demo_fleet(config)
    demo = {name: (config / name).read_text() for name in files(config)}
    answer = init("--move-demo")
    assert answer.exit_code == 0, answer.output
    [aside] = [path for path in config.parent.iterdir() if path.name.startswith("config-demo-")]
    assert f"moved {len(demo)} files of the demo fleet to {aside}" in answer.output
    assert {name: (aside / name).read_text() for name in files(aside)} == demo
    assert aside.stat().st_mode & 0o077 == 0
    assert files(config) == STARTING
    assert demo_accounts(config) == []
    assert left_out(config) == []
    assert init("--move-demo").exit_code == 1, "there is no demo any more"


def test_what_a_person_changed_or_added_stays(config: Path) -> None:
    write_demo_fleet(config)
    mine = config / "accounts" / "account-002.yaml"
    mine.write_text(mine.read_text() + "timeout: 5000\n")
    (config / "accounts" / "real.yaml").write_text("gateway: paper\n")
    (config / "defaults.yaml").write_text("server: Mine\n")
    answer = init("--move-demo")
    assert answer.exit_code == 0, answer.output
    assert f"kept {mine}: it was changed since the demo wrote it" in answer.output
    assert files(config) == STARTING | {
        *("accounts/account-002.yaml", "secrets/account-002.password", "accounts/real.yaml"),
    }
    assert (config / "defaults.yaml").read_text() == "server: Mine\n"


@pytest.fixture
def demo_worker(config: Path) -> Iterator[str]:
    """A running worker of the demo on this machine, as a record."""
    paths = StatePaths(config.parent / "state")
    paths.create()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        reference = ProcessRef.of(process.pid)
        assert reference is not None
        record = WorkerRecord(
            worker_id="w",
            account_id="account-003",
            claims=(),
            epoch=1,
            lease_seconds=0.0,
            generation=1,
            process=reference,
            control_address=str(paths.run_dir / "w.sock"),
            control_token="token",
            beat_file=paths.run_dir / "w.beat",
            gateway="paper",
            config_version="1",
            software_version="1",
            stop_timeout_seconds=1.0,
            hang_after_seconds=30.0,
            created_at=datetime.now(UTC),
        )
        RecordFiles(paths.workers_dir).save(record)
        yield record.account_id
    finally:
        process.kill()
        process.communicate()


def test_it_is_refused_while_demo_workers_run(config: Path, demo_worker: str) -> None:
    write_demo_fleet(config)
    before = files(config)
    answer = init("--move-demo")
    assert answer.exit_code == 1
    assert f"error: demo workers are running: {demo_worker}; nothing was moved" in answer.output
    assert files(config) == before


def test_other_peoples_files_are_no_demo(config: Path) -> None:
    (config / "accounts").mkdir(parents=True)
    (config / "accounts" / "account-001.yaml").write_text("gateway: paper\n")
    answer = init()
    assert answer.exit_code == 1
    assert "already contains files; nothing was written" in answer.output
    assert init("--move-demo").exit_code == 1
    assert init("--move-demo", "--demo").exit_code == 2
    assert files(config) == {"accounts/account-001.yaml"}
