"""One function writes files atomically, and every writer uses it."""

import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.waiting import eventually

from manager.system import atomic_file
from manager.system.state_dir import StatePaths

ROOT = Path(__file__).resolve().parents[2]


def test_a_file_is_written_whole_with_its_mode_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")
    path.chmod(0o644)
    for durable in (False, True):
        assert atomic_file.write(path, "grün", durable=durable) == path
        assert path.read_bytes() == "grün".encode()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    atomic_file.write(path, b"\0\xff", mode=0o640)
    assert path.read_bytes() == b"\0\xff"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640 & ~_umask()
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("theirs")
    path = tmp_path / "mine"
    path.symlink_to(other)
    atomic_file.write(path, "mine")
    assert (other.read_text(), path.read_text(), path.is_symlink()) == ("theirs", "mine", False)


@pytest.mark.parametrize("obstacle", ["directory", "missing"])
def test_a_failed_write_names_the_file_and_leaves_everything_as_it_was(tmp_path: Path, obstacle: str) -> None:
    path = tmp_path / "record.json"
    if obstacle == "directory":
        path.mkdir()
    else:
        path = tmp_path / "gone" / "record.json"
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match=r"record\.json") as caught:
        atomic_file.write(path, "new", durable=True)
    assert caught.value.filename == str(path)
    assert caught.value.strerror
    assert sorted(tmp_path.iterdir()) == before


def test_many_writers_of_one_file_leave_one_of_their_contents_whole(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    contents = [str(number) * 100_000 for number in range(4)]
    path.write_text(contents[0])
    torn: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            text = path.read_text()
            if text not in contents:
                torn.append(len(text))

    reader = threading.Thread(target=read)
    reader.start()
    threads = [
        threading.Thread(target=lambda text=text: [atomic_file.write(path, text) for _ in range(10)])
        for text in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    done.set()
    reader.join(30)
    assert torn == []
    assert path.read_text() in contents
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_writer_that_is_killed_leaves_the_old_file_and_its_draft_is_removed_later(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom manager.system import atomic_file\n"
        "os.fsync = lambda fd: os.kill(os.getpid(), 9)\n"  # a power cut in the middle of a write
        "atomic_file.write(Path(sys.argv[1]), 'new', durable=True)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, timeout=60, check=False)
    assert killed.returncode != 0
    assert path.read_text() == "old"
    (draft,) = eventually(lambda: [one for one in tmp_path.iterdir() if one != path])
    atomic_file.remove_left_drafts(tmp_path)  # it may be another process's that writes right now
    assert draft.exists()
    os.utime(draft, (1, 1))
    atomic_file.remove_left_drafts(tmp_path)
    assert os.listdir(tmp_path) == ["record.json"]


def test_only_drafts_are_removed(tmp_path: Path) -> None:
    names = ["record.json.tmp", ".hidden", ".record.json.tmp", "a.0123456789abcdef.tmp"]
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1))
    directory = tmp_path / ".x.0123456789abcdef.tmp"
    directory.mkdir()
    os.utime(directory, (1, 1))
    atomic_file.remove_left_drafts(tmp_path)
    atomic_file.remove_left_drafts(tmp_path / "no-such-directory")
    assert sorted(os.listdir(tmp_path)) == sorted([*names, directory.name])


def test_a_state_directory_loses_the_drafts_of_an_agent_that_was_killed(short_dir: Path) -> None:
    paths = StatePaths(short_dir / "state")
    paths.create()
    drafts = [
        place / ".a.json.0123456789abcdef.tmp" for place in (paths.root, paths.workers_dir, paths.run_dir)
    ]
    for draft in drafts:
        draft.touch()
        os.utime(draft, (1, 1))
    paths.create()
    assert [draft for draft in drafts if draft.exists()] == []


def test_nothing_else_writes_a_draft_or_starts_a_detached_child() -> None:
    """A second helper would have other mistakes.

    Examples are fewer syncs, colliding drafts and leaked descriptors.
    """
    allowed = {
        # Logs move aside, a directory is laid out as a whole, and the guard must not import this project. A
        # mapped heartbeat file and a file with reserved space are made in their own way.
        r"(draft|path)\w*\.replace\(": {
            "system/atomic_file.py",
            "system/log_file.py",
            "session/heartbeat_file.py",
            "host/reconcile/reserve_file.py",
            "change/config_push.py",
        },
        r"mkstemp|os\.rename|os\.replace": {"system/storage.py"},
        r"subprocess\.Popen\(": {"system/child_process.py"},
        r"os\.execve": {"system/child_process.py", "gateways/command/program_guard.py"},
        r"sys\.executable": {"system/child_process.py", "gateways/command/guarded_program.py"},
    }
    manager = ROOT / "manager"
    for call, files in allowed.items():
        found = {
            file.relative_to(manager).as_posix()
            for file in manager.rglob("*.py")
            if re.search(call, file.read_text())
        }
        assert found == files, call


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
