"""A host's desired state file, on a good disk and on a bad one."""

import stat
from pathlib import Path

import pytest

from manager.fleet.desired import DesiredState
from manager.host.reconcile.desired_state_file import DesiredStateFile
from manager.host.workers.login_throttle import LoginThrottle

ONE = DesiredState(account_id="a", state="running", generation=5, host="h")


def test_saved_state_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "desired.json"
    assert DesiredStateFile(path).load() == ({}, {})
    memory = DesiredStateFile(path)
    assert memory.save([ONE], {}) is None
    assert DesiredStateFile(path).load() == ({"a": ONE}, {})
    assert memory.save([ONE], {"a": "other"}) is None
    assert DesiredStateFile(path).load() == ({"a": ONE}, {"a": "other"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": {"state": "on"}}', "\0" * 100])
def test_an_unreadable_file_is_ignored(tmp_path: Path, text: str) -> None:
    path = tmp_path / "desired.json"
    path.write_text(text)
    assert DesiredStateFile(path).load() == ({}, {})


def test_a_failed_write_is_reported_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state" / "desired.json"
    path.parent.mkdir()
    memory = DesiredStateFile(path)
    memory.save([ONE], {})
    path.parent.rename(tmp_path / "away")  # fails like a full or read-only disk, also as root
    trouble = memory.save([], {})
    assert trouble is not None
    assert str(path) in trouble
    (tmp_path / "away").rename(path.parent)
    assert DesiredStateFile(path).load() == ({"a": ONE}, {})
    assert memory.save([], {}) is None
    assert DesiredStateFile(path).load() == ({}, {})


def test_logins_at_one_server_are_spread_and_other_servers_do_not_wait() -> None:
    import threading

    now = [0.0]
    waited: list[float] = []

    class Waits(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(round(timeout or 0.0, 6))
            return False

    pace = LoginThrottle(10, clock=lambda: now[0])
    for server in ("A", "A", "A", "B"):
        pace.wait(server, Waits())
    assert waited == [0.1, 0.2]
    now[0] = 5.0
    pace.wait("A", Waits())
    assert waited == [0.1, 0.2]
