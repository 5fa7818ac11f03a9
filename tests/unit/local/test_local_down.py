"""`manager down` and the record of `manager up`: only a proven `up` is stopped."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.waiting import eventually

from manager.local import down
from manager.local.down import run_down
from manager.local.up_record import RequestWatch, UpFiles
from manager.settings import Settings
from manager.system.processes import ProcessRef
from manager.system.state_dir import StatePaths

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

HOLDER = """
import sys, time
from pathlib import Path
from manager.system.file_lock import FileLock
lock = FileLock(Path(sys.argv[1]))
assert lock.acquire()
print("holds it", flush=True)
time.sleep(600)
"""


@pytest.fixture
def paths(short_dir: Path) -> StatePaths:
    found = StatePaths(short_dir / "s")
    found.create()
    return found


@pytest.fixture
def stranger(paths: StatePaths) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the lock of `up` but is not `manager up`."""
    argv = [sys.executable, "-c", HOLDER, str(UpFiles(paths).lock)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds it\n"
        yield process
        process.kill()


def settings_of(paths: StatePaths) -> Settings:
    return Settings(state_dir=paths.root, config_dir=paths.root / "none")


def record_of(paths: StatePaths, pid: int, start_time: str) -> None:
    data = {"pid": pid, "start_time": start_time, "phase": "up", "code": 0, "lines": []}
    (paths.run_dir / "up.json").write_text(json.dumps(data))


def test_nothing_to_stop(short_dir: Path, paths: StatePaths, capsys: pytest.CaptureFixture[str]) -> None:
    never = StatePaths(short_dir / "never")
    for one in (paths, never):
        assert run_down(settings_of(one)) == 0
        assert capsys.readouterr().out == (
            f"nothing to stop: `manager up` does not run here (state directory: {one.root})\n"
        )
    assert not never.root.exists(), "`down` creates no state directory"


@pytest.mark.parametrize("start_time", ["another boot:1", None])
def test_an_unproven_process_is_not_stopped(
    paths: StatePaths,
    stranger: "subprocess.Popen[str]",
    start_time: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(down, "_RECORD_SECONDS", 0.2)
    if start_time is not None:
        record_of(paths, stranger.pid, start_time)
    assert run_down(settings_of(paths)) == 1
    output = capsys.readouterr().err
    assert f"a process (pid {stranger.pid}) holds" in output
    assert "nothing was stopped" in output
    assert stranger.poll() is None


def test_the_record_of_another_process_proves_nothing(
    paths: StatePaths,
    stranger: "subprocess.Popen[str]",
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(down, "_RECORD_SECONDS", 0.2)
    UpFiles(paths).write("up")  # for this process, which does not hold the lock
    assert run_down(settings_of(paths)) == 1
    assert "nothing was stopped" in capsys.readouterr().err
    assert not (paths.run_dir / "up.end").exists()


def test_an_up_of_a_service_is_not_stopped(
    paths: StatePaths, stranger: "subprocess.Popen[str]", capsys: pytest.CaptureFixture[str]
) -> None:
    ref = ProcessRef.of(stranger.pid)
    assert ref is not None
    data = {**ref.to_dict(), "phase": "up", "code": 0, "lines": [], "service": "worker-manager.service"}
    (paths.run_dir / "up.json").write_text(json.dumps(data))
    assert run_down(settings_of(paths)) == 1
    assert "systemctl stop worker-manager.service" in capsys.readouterr().err
    assert not (paths.run_dir / "up.end").exists()


def test_a_request_reaches_only_the_named_process(paths: StatePaths) -> None:
    files = UpFiles(paths)
    asked = threading.Event()
    me = ProcessRef.me()
    with RequestWatch(files, asked.set):
        files.request_shutdown(ProcessRef(me.pid, "another boot:1"))
        eventually(lambda: not (paths.run_dir / "up.end").exists(), what="the old request is dropped")
        assert not asked.is_set()
        files.request_shutdown(me)
        assert asked.wait(10)
    assert list(paths.run_dir.glob("up.*")) == []
