"""Schedules of a host's accounts: one level of truth, whatever was down when a boundary passed."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.reconciled_host import MakeHost, ReconciledHost
from support.servers import RedisServer
from support.waiting import eventually

from manager.errors import FleetUnavailableError, InvalidConfigError
from manager.fleet.overrides import OverrideStore
from manager.host.commands import CommandContext
from manager.host.reconcile.overrides import OverrideCache
from manager.market.decisions import Override, OverrideKind
from manager.models import WorkerInfo
from manager.pool.commands import PAUSE, RESUME
from manager.states import TradingMode, WorkerLifecycleStatus

A = "account-001"
#: A Wednesday.
DAY = datetime(2026, 11, 25, tzinfo=UTC)
DESK: dict[str, Any] = {"clock": "UTC", "run": [{"days": "mon-fri", "from": "08:00", "to": "16:00"}]}


class Clock:
    """The epoch clock of the host, set by the test."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at.timestamp()


@pytest.fixture
def clock() -> Clock:
    return Clock(DAY + timedelta(hours=12))


@pytest.fixture
def host(clock: Clock, make_host: MakeHost) -> ReconciledHost:
    return make_host("host", epoch=clock)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url


def start(host: ReconciledHost, account_id: str = A) -> WorkerInfo:
    info = host.commands.start(account_id, True, True, CommandContext(token=f"start-{account_id}", by="ops"))
    assert isinstance(info, WorkerInfo)
    return info


def reconciled(host: ReconciledHost, is_so: Callable[[], bool]) -> None:
    def probe() -> bool:
        host.reconcile()
        return is_so()

    eventually(probe)


def test_a_start_inside_a_window_starts(host: ReconciledHost) -> None:
    host.account(A, 1, schedule=DESK)
    assert start(host).status is WorkerLifecycleStatus.RUNNING


def test_a_start_outside_is_accepted_and_rests(host: ReconciledHost, clock: Clock) -> None:
    clock.at = DAY + timedelta(hours=17)
    host.account(A, 1, schedule=DESK)
    info = start(host)
    assert info.status is WorkerLifecycleStatus.STOPPED
    assert info.metadata["resting"] == {
        "for": "schedule",
        "until": "2026-11-26T08:00:00+00:00",
        "text": "rests until Thu 26 Nov 08:00 UTC (its schedule)",
        "unmet": [],
    }
    assert not host.pool.started
    desired = host.reconciler.desired_cache.get(A)
    assert desired is not None and desired.running, "the start is desired: the schedule carries it out"


def test_an_invalid_account_is_refused_outside_too(host: ReconciledHost, clock: Clock) -> None:
    clock.at = DAY + timedelta(hours=17)
    host.account(A, 1, schedule="fxx")
    with pytest.raises(InvalidConfigError, match="did you mean fx"):
        start(host)


def test_one_start_and_one_stop_for_each_window(host: ReconciledHost, clock: Clock) -> None:
    clock.at = DAY + timedelta(hours=7)
    host.account(A, 1, schedule=DESK)
    start(host)
    for day in range(2):
        for minute in range(0, 24 * 60, 30):
            clock.at = DAY + timedelta(days=day, minutes=minute)
            inside = 8 * 60 <= minute < 16 * 60
            reconciled(host, lambda: (A in host.pool.live) is inside)  # noqa: B023
    assert host.pool.started == [A, A]
    assert host.pool.rested == [A, A]


def test_what_passed_while_the_agent_was_down_is_made_up_at_once(host: ReconciledHost, clock: Clock) -> None:
    host.account(A, 1, schedule=DESK)
    start(host)
    clock.at = DAY + timedelta(days=2, hours=20)  # two closes and an opening later
    reconciled(host, lambda: A not in host.pool.live)
    assert host.pool.rested == [A]


def test_a_resting_account_is_not_restarted_after_a_crash(host: ReconciledHost, clock: Clock) -> None:
    host.account(A, 1, schedule=DESK)
    info = start(host)
    clock.at = DAY + timedelta(hours=17)
    assert host.reconciler.restarts.on_exit(info, "it crashed") is None


def test_a_broken_file_keeps_the_last_known_schedule(host: ReconciledHost, clock: Clock) -> None:
    host.account(A, 1, schedule=DESK)
    start(host)
    host.reconcile()
    (host.config_dir / "accounts" / f"{A}.yaml").write_text("gateway: [")
    host.clock.skip(60)
    host.reconcile()
    assert A in host.pool.live
    clock.at = DAY + timedelta(hours=17)
    reconciled(host, lambda: A not in host.pool.live)


def test_a_changed_schedule_is_followed(host: ReconciledHost) -> None:
    host.account(A, 1, schedule=DESK)
    start(host)
    host.account(A, 1, schedule={**DESK, "run": [{"from": "13:00", "to": "14:00"}]})
    host.clock.skip(60)
    reconciled(host, lambda: A not in host.pool.live)


def test_an_override_runs_outside_and_ends(host: ReconciledHost, clock: Clock, redis_url: str) -> None:
    clock.at = DAY + timedelta(hours=17)
    host.account(A, 1, schedule=DESK)
    start(host)
    store = OverrideStore(redis_url)
    override = Override(
        kind=OverrideKind.RUN, at=clock.at, until=clock.at + timedelta(hours=1), by="ops", reason="news"
    )
    store.set(A, override)
    reconciled(host, lambda: A in host.pool.live)
    clock.at += timedelta(hours=1)
    reconciled(host, lambda: A not in host.pool.live)
    assert store.all() == {}, "the host removes what has ended"
    assert [event.type for event in host.store.events(last=2)] == ["schedule.override", "schedule.expired"]


def test_an_override_holds_while_redis_is_down_and_across_agents(
    host: ReconciledHost, clock: Clock, redis_url: str, tmp_path: Path
) -> None:
    host.account(A, 1, schedule=DESK)
    OverrideStore(redis_url).set(
        A, Override(kind=OverrideKind.REST, at=clock.at, until=clock.at + timedelta(hours=1), by="ops")
    )
    host.reconcile()
    saved = tmp_path / "host" / "overrides.json"

    class Down:
        def all(self) -> Any:
            raise FleetUnavailableError("down")

    later: Any = Down()
    cache = OverrideCache(later, saved)
    cache.read(clock.at)
    found = cache.get(A)
    assert found is not None and found.kind is OverrideKind.REST


def test_outside_may_mean_paused_or_close_only(host: ReconciledHost, clock: Clock) -> None:
    host.account(A, 1, schedule={**DESK, "outside": "pause"})
    host.account("b", 2, schedule={**DESK, "outside": "close_only"})
    for account_id in (A, "b"):
        start(host, account_id)
        host.pool.epochs[account_id] = ((account_id,), 1)
    clock.at = DAY + timedelta(hours=17)
    reconciled(host, lambda: host.pool.modes.get(A) is TradingMode.PAUSED)
    assert host.pool.modes["b"] is TradingMode.CLOSE_ONLY
    info = host.commands.set_mode(RESUME, A, CommandContext(token="resume", by="ops"))
    assert isinstance(info, WorkerInfo)
    assert host.pool.modes[A] is TradingMode.PAUSED, "a resume does not open a closed window"
    clock.at = DAY + timedelta(days=1, hours=9)
    reconciled(host, lambda: host.pool.modes[A] is TradingMode.NORMAL)


def test_a_pause_is_stricter_than_an_open_window(host: ReconciledHost) -> None:
    host.account(A, 1, schedule=DESK)
    start(host)
    host.pool.epochs[A] = ((A,), 1)
    host.commands.set_mode(PAUSE, A, CommandContext(token="pause", by="ops"))
    host.reconcile()
    assert host.pool.modes[A] is TradingMode.PAUSED


def test_with_a_lead_it_is_connected_before_and_waits(host: ReconciledHost, clock: Clock) -> None:
    clock.at = DAY + timedelta(hours=7, minutes=50)
    host.account(A, 1, schedule={**DESK, "lead": "15m"})
    assert start(host).status is WorkerLifecycleStatus.RUNNING
    request = host.reconciler.restarts.start_request(host.reconciler.desired_cache.get(A))  # type: ignore[arg-type]
    assert request.trading_mode is not None and request.trading_mode() is TradingMode.WAITING
    host.pool.epochs[A] = ((A,), 1)
    reconciled(host, lambda: host.pool.modes.get(A) is TradingMode.WAITING)
    clock.at = DAY + timedelta(hours=8)
    reconciled(host, lambda: host.pool.modes[A] is TradingMode.NORMAL)


def test_wait_flat_is_close_only_until_the_positions_are_closed(host: ReconciledHost, clock: Clock) -> None:
    schedule = {**DESK, "at_end": {"positions": "wait_flat", "wait": "30m"}}
    for number, account_id in enumerate((A, "b"), 1):
        host.account(account_id, number, schedule=schedule)
        start(host, account_id)
        host.pool.epochs[account_id] = ((account_id,), 1)
        host.pool.positions[account_id] = 1
    clock.at = DAY + timedelta(hours=16, minutes=1)
    reconciled(host, lambda: host.pool.modes.get(A) is TradingMode.CLOSE_ONLY)
    assert set(host.pool.live) == {A, "b"}
    host.pool.positions[A] = 0
    reconciled(host, lambda: A not in host.pool.live)
    assert "b" in host.pool.live, "it still has a position"
    clock.at = DAY + timedelta(hours=16, minutes=31)
    reconciled(host, lambda: "b" not in host.pool.live)


def test_at_end_close_closes_the_positions_first(host: ReconciledHost, clock: Clock) -> None:
    host.account(A, 1, schedule={**DESK, "at_end": {"positions": "close"}})
    host.account("b", 2, schedule=DESK)
    start(host)
    start(host, "b")
    clock.at = DAY + timedelta(hours=16, minutes=1)
    reconciled(host, lambda: not host.pool.live)
    assert host.pool.closed == [A]


def test_a_human_stop_is_not_undone_by_an_opening(host: ReconciledHost, clock: Clock) -> None:
    host.account(A, 1, schedule=DESK)
    start(host)
    assert host.commands.stop(A, None, CommandContext(token="stop", by="ops")) is True
    clock.at = DAY + timedelta(days=1, hours=9)
    host.reconcile()
    assert A not in host.pool.live


def test_the_reconciler_wakes_at_the_next_boundary(host: ReconciledHost, clock: Clock) -> None:
    host.account(A, 1, schedule=DESK)
    start(host)
    clock.at = DAY + timedelta(hours=16, seconds=-0.5)
    host.reconcile()
    now = host.clock()
    due = host.reconciler.tick(now)
    assert due - now == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize(
    ("opens", "closes", "zone"),
    [
        (datetime(2026, 3, 8, 7, tzinfo=UTC), datetime(2026, 3, 8, 8, tzinfo=UTC), "02:30-04:00"),
        (datetime(2026, 11, 1, 5, 15, tzinfo=UTC), datetime(2026, 11, 1, 6, 45, tzinfo=UTC), "01:15-01:45"),
    ],
)
def test_changes_of_the_clock_open_a_window_once(
    host: ReconciledHost, clock: Clock, opens: datetime, closes: datetime, zone: str
) -> None:
    begin, end = zone.split("-")
    schedule = {"clock": "America/New_York", "run": [{"from": begin, "to": end}]}
    clock.at = opens - timedelta(minutes=1)
    host.account(A, 1, schedule=schedule)
    start(host)
    assert not host.pool.live
    for step in range(-1, 120):
        clock.at = opens + timedelta(minutes=step)
        inside = opens <= clock.at < closes
        reconciled(host, lambda: (A in host.pool.live) is inside)  # noqa: B023
    assert (host.pool.started, host.pool.rested) == ([A], [A])
