"""A log survives a moved, removed or full file; lost lines are counted."""

import json
import logging
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.waiting import eventually

from manager.errors import SettingsError
from manager.settings import load_settings
from manager.system import logs
from manager.system.log_file import FileTarget
from manager.system.log_writer import WriterHandler

posix = pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be moved on Windows")


@pytest.fixture(autouse=True)
def _root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers, root.level = handlers, level


def say(text: str) -> None:
    logs.event(logging.getLogger("x"), logging.INFO, "noted", text)
    logs.flush()


@posix
def test_found_14_a_log_that_is_moved_or_removed_comes_back(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "accounts" / "t.log"
    logs.configure(file=log)
    say("one")
    log.rename(f"{log}.1")
    say("two")
    assert "one" in Path(f"{log}.1").read_text()
    assert log.read_text().endswith("| two\n")
    log.unlink()
    say("three")
    assert log.read_text().endswith("| three\n")
    shutil.rmtree(tmp_path / "logs")
    say("four")
    assert log.read_text().endswith("| four\n")
    for path, mode in ((log, 0o600), (log.parent, 0o700), (log.parent.parent, 0o700)):
        assert stat.S_IMODE(path.stat().st_mode) == mode


@posix
def test_a_log_whose_name_is_another_file_s_is_opened_again_and_that_file_is_not_rotated(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    target = FileTarget(log, 100, 2)
    target.write("a" * 60 + "\n")
    log.unlink()
    log.write_text("somebody else's\n")
    target.write("b" * 60 + "\n")
    assert log.read_text() == "somebody else's\n" + "b" * 60 + "\n"
    target.close()


@posix
def test_where_no_new_file_can_be_made_the_open_one_takes_the_lines(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "log"
    target = FileTarget(log, 10_000, 2)
    log.parent.rename(tmp_path / "moved")
    (tmp_path / "logs").write_text("a file where the directory was")
    target.write("kept\n")
    assert (tmp_path / "moved" / "log").read_text() == "kept\n"
    (tmp_path / "logs").unlink()
    target.write("back\n")
    assert log.read_text() == "back\n"
    target.close()


@posix
def test_standard_error_follows_the_log(tmp_path: Path) -> None:
    program = (
        "import logging, os, sys\nfrom pathlib import Path\nfrom manager.system import logs\n"
        "log = Path(sys.argv[1])\nlogs.configure(file=log, also_stderr=True)\n"
        "os.write(2, b'first\\n')\nlog.rename(f'{log}.1')\n"
        "logging.getLogger('x').warning('a line')\nlogs.flush()\nos.write(2, b'second\\n')\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "log")], check=True, stderr=subprocess.DEVNULL
    )
    assert (tmp_path / "log.1").read_text() == "first\n"
    assert (tmp_path / "log").read_text().splitlines()[-1] == "second"


def test_fewer_files_than_before_leave_none_behind(tmp_path: Path) -> None:
    for number in (1, 2, 3, 4, 5):
        (tmp_path / f"log.{number}").write_text(str(number))
    target = FileTarget(tmp_path / "log", 10, 2)
    for _ in range(2):
        target.write("0123456789\n")
    target.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert (tmp_path / "log.2").read_text() == "1"


@posix
@pytest.mark.parametrize("as_json", [False, True])
def test_lines_that_a_full_disk_loses_are_counted_and_reported_when_there_is_room(
    tmp_path: Path, as_json: bool
) -> None:
    """A file size limit replaces the full disk: the same write error."""
    program = (
        "import json, logging, resource, sys\nfrom pathlib import Path\nfrom manager.system import logs\n"
        "log = Path(sys.argv[1])\nlogs.configure(file=log, as_json=sys.argv[2] == 'True')\n"
        "said = logging.getLogger('x')\nsaid.warning('before')\nlogs.flush()\n"
        "size = log.stat().st_size\nhard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))\n"
        "for number in range(5): said.warning('lost %d', number)\n"
        "logs.flush()\nassert logs.missing_lines() == 5, logs.missing_lines()\n"
        "assert log.stat().st_size == size + 10\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "said.warning('after')\nlogs.flush()\n"
    )
    log = tmp_path / "log"
    subprocess.run([sys.executable, "-c", program, str(log), str(as_json)], check=True)
    lines = log.read_text().splitlines()
    assert "before" in lines[0]
    assert "5 lines lost: File too large" in lines[-2]
    assert "after" in lines[-1]
    assert not any("lost 1" in line for line in lines)
    if as_json:
        reported = json.loads(lines[-2])
        assert (reported["action"], reported["lines"], reported["level"]) == ("lines_lost", 5, "WARNING")


@posix
def test_lost_lines_are_reported_without_further_log_calls(tmp_path: Path) -> None:
    class Target:
        full = True
        taken: list[str] = []  # noqa: RUF012

        def write(self, text: str) -> None:
            if self.full:
                raise OSError(28, "No space left on device")
            self.taken.append(text)

    target = Target()
    handler = WriterHandler(target)
    handler.setFormatter(logs.formatter())
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "text", None, None)
    handler.emit(record)
    assert handler.flush_within(5)
    assert handler.missing == 1
    target.full = False
    [line] = eventually(lambda: target.taken)
    assert "action=lines_lost lines=1 | 1 line lost: disk full" in line
    handler.close()


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting needs root on Linux")
def test_lost_lines_on_a_real_full_disk_are_counted(tmp_path: Path) -> None:
    """The same on a real full file system, mounted for this process only."""
    program = (
        "import logging, os, sys\nfrom pathlib import Path\nfrom manager.system import logs\n"
        "log = Path(sys.argv[1]) / 'log'\nlogs.configure(file=log, max_bytes=20_000, backups=1)\n"
        "said = logging.getLogger('x')\nsaid.warning('before')\nlogs.flush()\n"
        "filler = log.with_name('filler')\n"
        "with filler.open('wb', buffering=0) as file:\n"
        "    try:\n        while True: file.write(b'x' * 4096)\n    except OSError: pass\n"
        "for number in range(200): said.warning('lost %d %s', number, 'y' * 200)\n"
        "logs.flush()\nlost = logs.missing_lines()\nassert 0 < lost <= 200, lost\n"
        "filler.unlink()\nsaid.warning('after')\nlogs.flush()\n"
        "text = log.read_text()\nassert f'{lost} lines lost: disk full' in text, text[-500:]\n"
        "assert text.splitlines()[-1].endswith('after'), text[-500:]\nprint(lost)\n"
    )
    mount = 'mount -t tmpfs -o size=64k tmpfs "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, program],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare failed" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("MANAGER_LOG_FILE_BYTES", "9999", "greater than or equal to 10000"),
        ("MANAGER_LOG_FILE_BYTES", "5MB", "valid integer"),
        ("MANAGER_LOG_FILES", "1", "greater than or equal to 2"),
    ],
)
def test_how_much_is_kept_is_a_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, problem: str
) -> None:
    monkeypatch.setenv("MANAGER_LOG_FILE_BYTES", "20000")
    monkeypatch.setenv("MANAGER_LOG_FILES", "7")
    assert (load_settings().log_file_bytes, load_settings().log_files) == (20_000, 7)
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name}: .*{problem}"):
        load_settings()
