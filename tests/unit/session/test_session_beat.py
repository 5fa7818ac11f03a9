"""The heartbeat file: what the host knows without asking the worker."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.waiting import eventually

from manager.models import WorkerMetrics
from manager.session.heartbeat_file import HeartbeatWriter, read_heartbeat
from manager.session.run_figures import RunFigures
from manager.system.masking import Masker


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w-1.beat"


def test_notes_for_the_history_are_beside_the_status_and_keep_the_first_equity(path: Path) -> None:
    beat, figures = HeartbeatWriter(path), RunFigures()
    beat.status({"phase": "connecting"}, figures.update(WorkerMetrics(), None))
    heartbeat = read_heartbeat(path)
    assert heartbeat is not None
    assert (heartbeat.status, set(heartbeat.run)) == ({"phase": "connecting"}, {"seen_at"})
    figures.connected()
    first = figures.update(WorkerMetrics(equity="100.00"), None)
    figures.connected()
    last = figures.update(WorkerMetrics(equity="99.50"), 12_000_000)
    beat.status({"equity": "99.50"}, last)
    heartbeat = read_heartbeat(path)
    assert heartbeat is not None
    assert heartbeat.run == last
    assert last["connected_at"] == first["connected_at"]
    assert (last["equity_first"], last["memory_peak_bytes"]) == ("100.00", 12_000_000)
    beat.close()


def test_a_pulse_is_read_as_it_was_written(path: Path) -> None:
    beat = HeartbeatWriter(path)
    beat.status({"health": "healthy", "balance": "10000.00"})
    heartbeat = read_heartbeat(path)
    assert heartbeat is not None
    assert heartbeat.age_seconds < 1
    assert (heartbeat.call, heartbeat.overdue_seconds, heartbeat.exit_reason) == (None, None, None)
    assert heartbeat.status == {"health": "healthy", "balance": "10000.00"}
    assert (path.stat().st_mode & 0o777) == 0o600
    beat.close()


def test_a_call_and_its_deadline_are_seen_from_outside(path: Path) -> None:
    beat = HeartbeatWriter(path)
    beat.begin_call("order_send", time.monotonic() - 3)
    heartbeat = read_heartbeat(path)
    assert heartbeat is not None
    assert heartbeat.call == "order_send"
    assert heartbeat.overdue_seconds == pytest.approx(3, abs=0.5)
    beat.end_call()
    heartbeat = read_heartbeat(path)
    assert heartbeat is not None
    assert (heartbeat.call, heartbeat.overdue_seconds) == (None, None)
    beat.close()


def test_the_last_words_outlive_the_process(path: Path) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\n"
        "from manager.session.heartbeat_file import HeartbeatWriter\n"
        "beat = HeartbeatWriter(Path(sys.argv[1]))\n"
        "beat.exit_reason('no margin left')\nos.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    heartbeat = read_heartbeat(path)
    assert heartbeat is not None
    assert heartbeat.exit_reason == "no margin left"


def test_words_and_status_that_are_too_long_do_no_harm(path: Path) -> None:
    beat = HeartbeatWriter(path)
    beat.exit_reason("ü" * 10_000)
    beat.status({"symbols": ["x" * 100] * 100})
    heartbeat = read_heartbeat(path)
    assert heartbeat is not None
    assert heartbeat.exit_reason is not None
    assert heartbeat.exit_reason.startswith("üüü")
    assert heartbeat.status == {}
    beat.close()


@pytest.mark.parametrize("before", [1, 2, 3, 4])
def test_a_writer_that_is_held_up_in_the_middle_leaves_its_last_whole_state(
    path: Path, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause or death in the middle of a write keeps the health readable."""
    beat = HeartbeatWriter(path)
    for n in range(before):
        beat.status({"n": n})
    whole = beat._head

    def only_begin(at: int, sequence: int) -> None:
        if sequence % 2 == 0:
            raise InterruptedError
        whole(at, sequence)

    monkeypatch.setattr(beat, "_head", only_begin)
    with pytest.raises(InterruptedError):
        beat.status({"n": "half"})
    heartbeat = read_heartbeat(path)
    assert heartbeat is not None
    assert heartbeat.status == {"n": before - 1}
    monkeypatch.undo()
    beat.catch_up()
    beat.exit_reason("held up")
    heartbeat = read_heartbeat(path)
    assert heartbeat is not None
    assert (heartbeat.status, heartbeat.exit_reason) == ({"n": before - 1}, "held up")
    beat.close()


def test_the_page_of_an_older_worker_is_read(path: Path) -> None:
    """Workers outlive the agent that started them, also across an upgrade."""
    beat = HeartbeatWriter(path)
    beat.close()
    path.write_bytes(path.read_bytes()[:4096])
    assert read_heartbeat(path) is not None


@pytest.mark.parametrize("content", [None, b"", b"x" * 4096, b"WMBEAT01", b"\0" * 4096])
def test_a_malformed_beat_file_has_no_heartbeat(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)
    assert read_heartbeat(path) is None


def test_the_gil_is_never_released_in_a_call_and_the_beat_still_tells(path: Path) -> None:
    """A library that holds the interpreter's lock stops every thread."""
    script = (
        "import ctypes, sys, time\nfrom pathlib import Path\n"
        "from manager.session.heartbeat_file import HeartbeatWriter\n"
        "beat = HeartbeatWriter(Path(sys.argv[1]))\nbeat.begin_call('initialize', time.monotonic() + 0.1)\n"
        "ctypes.PyDLL(None).pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)]) as child:
        try:

            def overdue() -> bool:
                heartbeat = read_heartbeat(path)
                return heartbeat is not None and (heartbeat.overdue_seconds or -1) > 0

            eventually(overdue, what="the call is past its deadline")
            heartbeat = read_heartbeat(path)
            assert heartbeat is not None
            assert heartbeat.call == "initialize"
            assert heartbeat.age_seconds > 0.1
        finally:
            child.kill()


def test_readers_never_see_half_a_status(path: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from manager.session.heartbeat_file import HeartbeatWriter\n"
        "beat = HeartbeatWriter(Path(sys.argv[1]))\nprint('go', flush=True)\n"
        "end = time.monotonic() + 1.0\nn = 0\n"
        "while time.monotonic() < end:\n    n += 1\n"
        "    beat.status({'a': n, 'pad': 'x' * (n % 900), 'b': n})\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        seen = 0
        while child.poll() is None:
            heartbeat = read_heartbeat(path)
            if heartbeat is not None and heartbeat.status:
                assert heartbeat.status["a"] == heartbeat.status["b"]
                seen += 1
        assert seen > 10


def test_what_leaves_by_the_beat_file_holds_no_secret(tmp_path: Path) -> None:
    writer = HeartbeatWriter(tmp_path / "beat", Masker(["hunter2", "healthy"]))
    status = {"phase": "connected", "health": "healthy", "health_reason": "login with hunter2 failed", "n": 1}
    masked = writer.masked(status)
    assert masked == {**status, "health_reason": "login with *** failed"}
    writer.status(masked)
    writer.exit_reason("refused: hunter2")
    heartbeat = read_heartbeat(tmp_path / "beat")
    assert heartbeat is not None
    assert heartbeat.exit_reason == "refused: ***"
    assert heartbeat.status == masked
    writer.close()
