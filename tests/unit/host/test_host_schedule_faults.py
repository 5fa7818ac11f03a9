"""What schedules do when something else fails or happens at the same moment."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.reconciled_host import MakeHost, ReconciledHost
from support.servers import RedisServer
from support.waiting import eventually

from manager.errors import StartCancelledError
from manager.fleet import overrides as stored_overrides
from manager.fleet.desired import DesiredStateRequest
from manager.fleet.overrides import OverrideStore, override_from_json
from manager.host.commands import CommandContext
from manager.host.reconcile.overrides import OverrideCache
from manager.market.decisions import Override, OverrideKind
from manager.models import WorkerInfo
from manager.states import TradingMode

A = "account-001"
#: A Wednesday.
DAY = datetime(2026, 11, 25, tzinfo=UTC)
NOON, EVENING = DAY + timedelta(hours=12), DAY + timedelta(hours=17)
DESK: dict[str, Any] = {"clock": "UTC", "run": [{"days": "mon-fri", "from": "08:00", "to": "16:00"}]}
WAIT_FLAT = {**DESK, "at_end": {"positions": "wait_flat", "wait": "30m"}}


class Clock:
    """The time by Redis's clock."""

    at = NOON

    def __call__(self) -> float:
        return self.at.timestamp()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def host(clock: Clock, make_host: MakeHost) -> ReconciledHost:
    return make_host("host", epoch=clock)


@pytest.fixture
def overrides(redis_server: RedisServer) -> OverrideStore:
    return OverrideStore(redis_server.url)


def start(host: ReconciledHost) -> WorkerInfo:
    info = host.commands.start(A, True, True, CommandContext(token="start", by="ops"))
    assert isinstance(info, WorkerInfo)
    return info


def running(host: ReconciledHost, **more: Any) -> None:
    """Start the account, with positions if `more` says so."""
    host.account(A, 1, **more)
    start(host)
    host.pool.epochs[A] = ((A,), 1)


def files_change(host: ReconciledHost) -> None:
    """Let the host read files that were changed just now."""
    host.configuration._snapshot = None
    host.clock.skip(60)


def an_override(kind: OverrideKind, at: datetime, hours: float, **more: Any) -> Override:
    return Override(kind=kind, at=at, until=at + timedelta(hours=hours), by="ops", **more)


@pytest.mark.parametrize("mode", [TradingMode.PAUSED, TradingMode.CLOSE_ONLY])
def test_an_unknown_schedule_relaxes_no_mode(host: ReconciledHost, clock: Clock, mode: TradingMode) -> None:
    clock.at = EVENING
    host.account(A, 1)
    host.set_running(A, "host")
    host.pool.live[A], host.pool.epochs[A], host.pool.modes[A] = 1, ((A,), 1), mode
    (host.config_dir / "accounts" / f"{A}.yaml").write_text("gateway: [")
    host.reconcile(2)
    assert host.pool.modes[A] is mode
    host.account(A, 1)
    files_change(host)
    host.reconcile(6)
    eventually(lambda: host.pool.modes[A] is TradingMode.NORMAL, what="the file says that it has no schedule")


def test_an_unknown_schedule_does_not_prevent_a_stricter_mode(host: ReconciledHost) -> None:
    host.account(A, 1)
    host.set_running(A, "host")
    host.pool.live[A], host.pool.epochs[A] = 1, ((A,), 1)
    host.pool.modes[A] = TradingMode.CLOSE_ONLY
    (host.config_dir / "accounts" / f"{A}.yaml").write_text("gateway: [")
    host.reconciler.desired_cache.read()
    host.reconciler.desired_cache.set_mode(A, TradingMode.PAUSED, token="p", by="ops", what="pause")
    host.reconcile()
    eventually(lambda: host.pool.modes[A] is TradingMode.PAUSED, what="the account is paused")


def test_a_directory_that_cannot_be_read_leaves_schedules_of_readable_files(
    host: ReconciledHost, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(host, schedule=DESK)
    host.reconciler.schedules._read.clear()  # as after a start of the agent
    files_change(host)

    def fail(_age: float = 0.0) -> None:
        raise OSError

    monkeypatch.setattr(host.configuration, "snapshot", fail)
    clock.at = EVENING
    host.reconcile(2)
    assert A not in host.pool.live


@pytest.mark.parametrize("content", [None, "gateway: [", ""])
def test_a_close_stops_a_worker_whose_file_is_gone_or_broken(
    host: ReconciledHost, clock: Clock, content: str | None
) -> None:
    running(host, schedule=DESK)
    host.reconcile()
    file = host.config_dir / "accounts" / f"{A}.yaml"
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    files_change(host)
    host.reconcile()
    clock.at = EVENING
    host.reconcile(3)
    assert A not in host.pool.live
    assert host.pool.abandoned == {}, "a resting account is not started"


def test_the_schedule_of_an_account_without_a_file_is_dropped_once_it_should_not_run(
    host: ReconciledHost, clock: Clock
) -> None:
    clock.at = EVENING
    running(host, schedule=DESK)
    (host.config_dir / "accounts" / f"{A}.yaml").unlink()
    host.commands.stop(A, None, CommandContext(token="stop", by="ops"))
    files_change(host)
    host.reconcile()
    assert not host.reconciler.schedules.known(A)


@pytest.mark.parametrize("broken", ["fx: [", "fx: {clock: nowhere}\n", "- fx\n"])
def test_a_broken_schedules_file_never_means_the_session_of_that_name(
    host: ReconciledHost, clock: Clock, broken: str
) -> None:
    file = host.config_dir / "schedules.yaml"
    file.write_text("fx: {clock: UTC, run: [{from: '08:00', to: '16:00'}]}\n")
    running(host, schedule="fx")
    host.reconcile()
    file.write_text(broken)
    files_change(host)
    host.reconcile()
    clock.at = EVENING
    host.reconcile(3)
    assert A not in host.pool.live, "the last known schedule is closed"


def test_openings_are_no_restarts(host: ReconciledHost, clock: Clock) -> None:
    running(host, schedule=DESK, recovery={"max_restarts": 2, "window_seconds": 600})
    for _ in range(4):
        clock.at = EVENING
        host.reconcile(2)
        clock.at = NOON
        host.reconcile(2)
    assert host.pool.abandoned == {}
    assert A in host.pool.live


def test_wait_flat_counts_from_the_end_of_an_override(
    host: ReconciledHost, clock: Clock, overrides: OverrideStore
) -> None:
    clock.at = DAY + timedelta(hours=20)
    overrides.set(A, an_override(OverrideKind.RUN, clock.at, 1))
    running(host, schedule=WAIT_FLAT)
    host.pool.positions[A] = 1
    host.reconcile()
    clock.at += timedelta(hours=1, minutes=1)
    host.reconcile(3)
    assert A in host.pool.live
    eventually(lambda: host.pool.modes.get(A) is TradingMode.CLOSE_ONLY, what="it only closes positions")
    assert overrides.all() == {}, "it has ended"
    clock.at += timedelta(minutes=30)
    host.reconcile(3)
    assert A not in host.pool.live


def test_wait_flat_does_not_wait_for_a_start(host: ReconciledHost, clock: Clock) -> None:
    running(host, schedule=WAIT_FLAT)
    host.reconcile()
    del host.pool.live[A]
    host.pool.starting.add(A)
    clock.at = DAY + timedelta(hours=16, minutes=1)
    decision = host.reconciler.resting.decision(A)
    assert decision is not None
    assert decision.action == "rest"


def test_a_restart_while_it_waits_until_flat_stops_nothing(host: ReconciledHost, clock: Clock) -> None:
    running(host, schedule=WAIT_FLAT)
    host.pool.positions[A] = 1
    clock.at = DAY + timedelta(hours=16, minutes=1)
    host.reconcile()
    host.commands.restart(A, CommandContext(token="restart", by="ops"))
    assert A in host.pool.live


def test_a_rest_that_comes_after_a_stop_marks_nothing(host: ReconciledHost, clock: Clock) -> None:
    running(host, schedule=DESK)
    host.reconcile()
    clock.at = EVENING
    host.commands.stop(A, None, CommandContext(token="stop", by="ops"))
    host.reconciler.resting._run(A)
    assert host.pool.resting(A) is None


def test_a_rest_that_comes_after_a_run_override_stops_nothing(
    host: ReconciledHost, clock: Clock, overrides: OverrideStore
) -> None:
    running(host, schedule=DESK)
    host.reconcile()
    clock.at = EVENING
    overrides.set(A, an_override(OverrideKind.RUN, clock.at, 1))
    host.reconciler.resting._run(A)
    assert A in host.pool.live


def test_a_start_that_the_close_cuts_off_rests(host: ReconciledHost, clock: Clock) -> None:
    host.account(A, 1, schedule=DESK)

    def close() -> None:
        clock.at = EVENING
        raise StartCancelledError(f"{A}: a stop arrived while it was starting")

    host.pool.while_starting = close
    assert start(host).placement.resting is not None


def test_a_stop_that_the_agent_missed_ends_the_rest(host: ReconciledHost, clock: Clock) -> None:
    clock.at = EVENING
    running(host, schedule=DESK)
    assert host.pool.resting(A) is not None
    host.desired.set_desired(
        DesiredStateRequest(account_id=A, state="stopped", token="stop", by="ops", why="stop")
    )
    host.reconcile(2)
    assert host.pool.resting(A) is None


def test_expiring_an_override_does_not_remove_its_successor(
    clock: Clock, overrides: OverrideStore, tmp_path: Path
) -> None:
    old, new = an_override(OverrideKind.RUN, clock.at, 0), an_override(OverrideKind.REST, clock.at, 5)
    overrides.set(A, old)
    cache = OverrideCache(overrides, tmp_path / "overrides.json")
    cache.read(clock.at)
    overrides.set(A, new)
    cache.expire({A}, clock.at + timedelta(seconds=1))
    assert overrides.all() == {A: new}


def test_an_override_that_is_set_during_the_removal_stays(
    redis_server: RedisServer, clock: Clock, overrides: OverrideStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = an_override(OverrideKind.RUN, clock.at, 0), an_override(OverrideKind.REST, clock.at, 5)
    overrides.set(A, old)

    def parsed(raw: bytes) -> Override | None:
        monkeypatch.undo()
        OverrideStore(redis_server.url).set(A, new)
        return override_from_json(raw)

    monkeypatch.setattr(stored_overrides, "override_from_json", parsed)
    overrides.remove_ended({A: old})
    assert overrides.all() == {A: new}


def test_an_override_that_redis_has_lost_stays_until_its_end(
    host: ReconciledHost, clock: Clock, redis_server: RedisServer, overrides: OverrideStore
) -> None:
    overrides.set(A, an_override(OverrideKind.REST, clock.at, 1))
    running(host)
    host.reconcile()
    assert A not in host.pool.live
    redis_server.client().delete("manager:overrides")
    host.reconcile(2)
    assert A not in host.pool.live
    clock.at += timedelta(hours=1)
    host.reconcile(2)
    assert A in host.pool.live


def test_an_override_that_a_person_clears_ends_at_once(
    host: ReconciledHost, clock: Clock, overrides: OverrideStore
) -> None:
    clock.at = overrides.now()
    overrides.set(A, an_override(OverrideKind.REST, clock.at, 1))
    running(host)
    host.reconcile()
    assert A not in host.pool.live
    assert overrides.clear(A)
    clock.at = overrides.now()
    host.reconcile(2)
    assert A in host.pool.live
    assert overrides.all() == {}, "its host has removed it"


def test_overrides_of_accounts_that_no_host_runs_are_removed_after_a_day(
    host: ReconciledHost, clock: Clock, overrides: OverrideStore
) -> None:
    overrides.set("stopped", an_override(OverrideKind.REST, clock.at, 1))
    host.reconcile()
    clock.at += timedelta(hours=2)
    host.reconcile()
    assert list(overrides.all()) == ["stopped"]
    clock.at += timedelta(days=1)
    host.reconcile()
    assert overrides.all() == {}


@pytest.mark.parametrize("content", ["[" * 200_000, "{" * 5, "null", '{"a": 5}', "\x00"])
def test_a_broken_file_of_overrides_is_ignored(
    overrides: OverrideStore, tmp_path: Path, content: str
) -> None:
    (tmp_path / "o.json").write_text(content)
    assert OverrideCache(overrides, tmp_path / "o.json").get("a") is None


def test_overrides_are_saved_once_the_disk_has_room(
    clock: Clock, overrides: OverrideStore, tmp_path: Path
) -> None:
    override = an_override(OverrideKind.REST, clock.at, 5)
    overrides.set(A, override)
    directory = tmp_path / "full"
    cache = OverrideCache(overrides, directory / "o.json")
    cache.read(clock.at)
    directory.mkdir()
    cache.read(clock.at)
    assert OverrideCache(overrides, directory / "o.json").get(A) == override


def test_a_foreign_override_is_cut_and_has_one_line(
    redis_server: RedisServer, clock: Clock, overrides: OverrideStore
) -> None:
    entry = {
        "do": "rest",
        "at": clock.at.isoformat(),
        "until": "2026-12-31T23:59:59-14:00",
        "reason": "x\n\x1b[2J" + "y" * 1_000_000,
        "by": "a\tb",
    }
    redis_server.client().hset("manager:overrides", A, json.dumps(entry))
    found = overrides.get(A)
    assert found is not None
    assert (found.reason[:6], len(found.reason) <= 500, found.by) == ("x [2Jy", True, "a b")
