"""The history of runs on a host, with real workers and a real venue."""

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from support.pool_host import Host
from support.waiting import eventually

from manager.errors import AuthenticationRefusedError
from manager.fleet.run_types import Run, RunCause
from manager.host.workers import exits
from manager.host.workers.slot import Rest
from manager.models import WorkerInfo
from manager.pool.protocol import StartRequest
from manager.session.heartbeat_file import Heartbeat, read_heartbeat
from manager.versions import __version__

SIGKILL: int = getattr(signal, "SIGKILL", signal.SIGTERM)
SIGSTOP: int = getattr(signal, "SIGSTOP", signal.SIGTERM)
ASKED = RunCause("ops@desk", "start", "c-1", 1_767_225_600_000)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


@pytest.fixture
def host(short_dir: Path) -> Iterator[Host]:
    found = Host(short_dir)
    found.account("a", 1)
    yield found
    found.close()


def request(host: Host, generation: int = 1, origin: RunCause | None = ASKED) -> StartRequest:
    made = host.service._start_requests.start_request("a", generation=generation)
    return replace(made, origin=origin)


def start(host: Host, generation: int = 1, origin: RunCause | None = ASKED) -> WorkerInfo:
    info = host.pool.start_worker(request(host, generation, origin))
    host.process(info)
    return info


def measured(host: Host) -> None:
    """Wait until the worker has noted the memory that it uses."""
    (path,) = host.paths.run_dir.glob("*.beat")

    def noted() -> bool:
        heartbeat = read_heartbeat(path)
        return heartbeat is not None and "memory_peak_bytes" in heartbeat.run

    eventually(noted)


def only(host: Host) -> Run:
    (run,) = host.runs
    return run


def test_a_stopped_worker_leaves_one_whole_run(host: Host) -> None:
    info = start(host)
    measured(host)
    host.end_cause = RunCause("ops@desk", "stop")
    host.service.stop_worker("a")
    run = only(host)
    assert (run.account_id, run.worker_id, run.host) == ("a", info.worker_id, "h")
    assert (run.pid, run.epoch, run.generation) == (
        info.metadata["pid"],
        info.metadata["epoch"],
        1,
    )
    assert (run.gateway, run.version) == ("paper", __version__)
    assert run.config_version == info.metadata["config_version"]
    assert (run.by, run.why, run.command) == ("ops@desk", "start", "c-1")
    assert run.asked_at is not None
    assert run.asked_at.isoformat() == "2026-01-01T00:00:00+00:00"
    assert (run.status, run.exit_code, run.reason, run.forced) == ("stopped", 0, None, False)
    assert (run.ended_by, run.ended_why, run.observed) == ("ops@desk", "stop", True)
    assert run.connected_at is not None
    assert run.started_at <= run.connected_at <= run.ended_at
    assert run.memory_peak_bytes is not None
    assert run.memory_peak_bytes > 1_000_000
    assert run.currency == "USD"
    assert Decimal(run.equity_first or "") == Decimal("10000")
    assert Decimal(run.equity_last or "") == Decimal("10000")
    host.service.start_worker_from_config("a")
    host.service.stop_worker("a")
    assert len(host.runs) == 2


def test_no_run_contains_the_password(host: Host) -> None:
    start(host)
    host.service.stop_worker("a")
    host.account("a", 1, password="wrong-hunter2")
    with pytest.raises(AuthenticationRefusedError):
        start(host, 2)
    assert len(host.runs) == 2
    assert not any("hunter2" in run.model_dump_json() for run in host.runs)


def test_a_killed_worker_leaves_its_signal_and_last_figures(host: Host) -> None:
    info = start(host)
    os.kill(info.metadata["pid"], SIGKILL)
    eventually(lambda: host.runs != [])
    run = only(host)
    assert (run.status, run.exit_code, run.ended_why) == ("failed", -9, "")
    assert run.reason is not None
    assert "SIGKILL" in run.reason
    assert Decimal(run.equity_last or "") == Decimal("10000")
    host.service.stop_worker("a")
    assert len(host.runs) == 1, "the stop of a failed worker is not a run"


def test_a_refused_login_is_a_run_without_a_session(host: Host) -> None:
    start(host)
    host.service.stop_worker("a")  # the venue knows the password by now
    host.account("a", 1, password="another")
    with pytest.raises(AuthenticationRefusedError) as caught:
        start(host, 2)
    run = host.runs[1]
    assert (run.status, run.connected_at, run.equity_first) == ("failed", None, None)
    assert run.error_code == caught.value.code
    assert run.reason is not None
    assert run.reason in str(caught.value)


def test_a_stop_by_force_says_so(host: Host) -> None:
    info = start(host)
    os.kill(info.metadata["pid"], SIGSTOP)
    host.service.stop_worker("a", timeout=0.1)
    run = only(host)
    assert (run.status, run.forced, run.exit_code) == ("stopped", True, -9)


def test_a_restart_ends_one_run_and_begins_another(host: Host) -> None:
    first = start(host)
    host.end_cause = RunCause("ops@desk", "restart")
    again = host.pool.restart_worker(request(host, 2, RunCause("ops@desk", "restart", "c-2")))
    host.process(again)
    run = only(host)
    assert (run.worker_id, run.ended_why) == (first.worker_id, "restart")
    host.service.stop_worker("a")
    assert (host.runs[1].why, host.runs[1].command) == ("restart", "c-2")


def test_nobody_asked_for_the_start_after_a_crash(host: Host) -> None:
    info = start(host, 7)
    os.kill(info.metadata["pid"], SIGKILL)
    eventually(lambda: host.status() == "failed")
    recovered = host.pool.recover_worker(request(host, 7))
    assert recovered is not None
    host.process(recovered)
    host.service.stop_worker("a")
    assert [(run.by, run.why) for run in host.runs] == [("ops@desk", "start"), ("", "recovery")]


def test_a_schedule_ends_a_run_and_begins_the_next(host: Host) -> None:
    start(host, 7)
    host.end_cause = RunCause("ops@desk", "stop")
    host.pool.rest_worker("a", lambda: Rest({"for": "schedule", "until": None, "text": "rests"}, 7))
    reopened = host.pool.recover_worker(request(host, 7))
    assert reopened is not None
    host.process(reopened)
    host.service.stop_worker("a")
    before, after = host.runs
    assert (before.ended_by, before.ended_why) == ("", "schedule")
    assert (after.by, after.why) == ("", "schedule")
    assert after.ended_why == "stop"


def test_the_next_agent_records_a_worker_that_died_with_the_agent(host: Host) -> None:
    """Prevents that a run is lost if the machine kills both, as when memory runs out."""
    info = start(host)
    measured(host)
    host.pool.close()
    process = host.process(info)
    process.kill()
    assert process.wait(5)

    host.new_pool().adopt()

    run = only(host)
    assert (run.worker_id, run.status, run.observed) == (info.worker_id, "failed", False)
    assert (run.by, run.why, run.command) == ("ops@desk", "start", "c-1")
    assert Decimal(run.equity_first or "") == Decimal("10000")
    assert run.memory_peak_bytes is not None
    assert run.connected_at is not None
    assert run.connected_at <= run.ended_at


def test_the_next_agent_records_an_adopted_workers_end_with_who_started_it(host: Host) -> None:
    start(host)
    host.pool.close()
    host.new_pool().adopt()
    assert host.runs == []
    host.service.stop_worker("a")
    run = only(host)
    assert (run.by, run.why, run.observed) == ("ops@desk", "start", True)


def test_a_worker_that_ended_while_its_stop_was_wanted_has_stopped(host: Host) -> None:
    info = start(host)
    host.pool.close()
    process = host.process(info)
    process.kill()
    assert process.wait(5)
    host.end_cause = RunCause("ops@desk", "stop")
    host.new_pool().adopt(lambda _account_id: True)
    run = only(host)
    assert (run.status, run.observed, run.ended_by) == ("stopped", False, "ops@desk")


def test_no_odd_value_keeps_a_worker_from_ending(host: Host) -> None:
    """Prevents that whoever can write desired state makes an ended worker look as if it ran."""
    start(host, 1, RunCause("\ud800" * 2_000, "start", "c" * 10_000, 10**15 - 1))
    host.end_cause = RunCause("\udcff", "stop")
    host.service.stop_worker("a")
    run = only(host)
    assert (run.by, run.asked_at, run.ended_by) == ("?" * 499 + "…", None, "?")
    assert len(run.command) == 500
    assert Run.from_json(run.model_dump_json()) == run


def test_a_history_that_fails_is_logged_and_the_worker_ends(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(run: Run) -> None:
        raise ValueError("no room")

    monkeypatch.setattr(host, "note", fail)
    start(host)
    assert host.service.stop_worker("a") is True
    assert host.status() == "stopped"
    assert "a run is missing in the history" in caplog.text


def test_a_worker_that_ends_while_it_gets_another_configuration_has_ended(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents that an ended worker is shown as running for ever."""
    info = start(host)
    slot = host.pool.slots.get("a")
    changed: list[str] = []

    def change_and_read(path: Path) -> Heartbeat | None:
        with slot.guard:
            if slot.record is not None and not changed:
                slot.record = replace(slot.record, config_version="later")
                changed.append("later")
        return read_heartbeat(path)

    monkeypatch.setattr(exits, "read_heartbeat", change_and_read)
    os.kill(info.metadata["pid"], SIGKILL)
    eventually(lambda: host.status() == "failed")
    assert only(host).config_version == "later"
