"""What a host does with changed files at unlucky moments."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.pool_host import Host
from support.reconciled_host import MakeHost, ReconciledHost
from support.waiting import eventually

from manager.config import config_version
from manager.fleet.desired import DISABLED, FORGOTTEN, DesiredStateRequest
from manager.host.commands import CommandContext
from manager.host.reconcile.config_holds import ConfigHolds
from manager.host.reconcile.config_rollbacks import ConfigRollbacks
from manager.host.reconcile.reload import ConfigReload
from manager.host.reconcile.reload_restarts import ReloadRestarts
from manager.host.workers import config_changes
from manager.host.workers.bounded_reads import BoundedConfiguration
from manager.host.workers.config_difference import ConfigDifference
from manager.host.workers.kept_configs import KeptConfig
from manager.session import control
from manager.session.control import ControlError

A = "account-001"
EVENING = datetime(2026, 11, 25, 17, tzinfo=UTC)


@pytest.fixture
def host(make_host: MakeHost) -> ReconciledHost:
    return make_host("host", epoch=EVENING.timestamp)


def looks(host: ReconciledHost, times: int = 2) -> None:
    for _ in range(times):
        host.configuration._snapshot = None
        host.clock.skip(3)
        host.reconcile()


def disabled_by_file(host: ReconciledHost) -> None:
    host.account(A, 1)
    host.commands.start(A, True, True, CommandContext(token="s", by="ops"))
    looks(host)
    host.account(A, 1, enabled=False)
    looks(host, 3)
    there = host.desired.read(A)
    assert there is not None
    assert (there.state, there.why) == ("stopped", DISABLED)


@pytest.mark.parametrize("why", ["stop", FORGOTTEN])
def test_a_stop_that_this_host_has_not_read_yet_beats_enabled_true(host: ReconciledHost, why: str) -> None:
    disabled_by_file(host)
    host.account(A, 1)
    apply = host.reconciler.reload.apply

    def stopped_meanwhile() -> None:
        found = host.reconciler.reload._sweep.settled.get(A)
        if found is not None and found.config is not None and found.config.enabled:
            stop = DesiredStateRequest(account_id=A, state="stopped", token="ops-stop", by="ops", why=why)
            host.desired.set_desired(stop)
        apply()

    host.reconciler.reload.apply = stopped_meanwhile  # type: ignore[method-assign]
    looks(host, 3)
    there = host.desired.read(A)
    assert there is not None
    assert there.state == "stopped", f"started by {there.by} ({there.why})"
    assert A not in host.pool.live


def test_an_account_without_defaults_has_no_schedule_of_the_defaults(host: ReconciledHost) -> None:
    whole = {
        "default_risk": {
            "risk_percent": 1,
            "max_positions": 1,
            "portfolio_risk_percent": 5,
            "max_concurrent_trades": 3,
        },
        "currencies": [
            {
                "symbol": "EURUSD",
                "risk": {"risk_percent": 1, "max_positions": 1},
                "strategy": {
                    "strategy_type": "simple_ma",
                    "timeframe": "M5",
                    "params": {"fast_period": 10, "slow_period": 20},
                },
                "position_management": {},
            }
        ],
    }
    host.account(A, 1, **whole)
    (host.config_dir / "defaults.yaml").write_text(
        "schedule: {clock: UTC, run: [{days: mon-fri, from: '08:00', to: '16:00'}]}"
    )
    host.commands.start(A, False, True, CommandContext(token="s", by="ops"))
    assert A in host.pool.live, "its configuration has no schedule: it starts"
    looks(host, 3)
    assert A in host.pool.live, "and nothing stops it"


@pytest.fixture
def real(short_dir: Path) -> Iterator[Host]:
    found = Host(short_dir)
    yield found
    found.close()


def reload_of(host: Host) -> tuple[ConfigReload, Any]:
    """Return the reload of a pool, and what a reconciliation does with it."""
    desired = SimpleNamespace(account_id="a", host="h", apply_defaults=True, validate=True, generation=1)
    sweep: Any = SimpleNamespace(looks=2, settled={}, present={"a"})
    cache: Any = SimpleNamespace(ended_by=lambda _why: [], running=lambda: [desired])
    others: Any = SimpleNamespace(tick=lambda _together: None)
    approvals: Any = SimpleNamespace(versions=dict)
    drains: Any = SimpleNamespace(active=True)
    rollbacks = ConfigRollbacks(host.paths.previous_dir)
    reload = ConfigReload(
        "h",
        host.pool.config_changes,
        cache,
        sweep,
        BoundedConfiguration(host.config_service),
        lambda _desired: host.config_service.load_account_config("a"),
        ReloadRestarts("h", host.pool, cache, drains, rollbacks, others, host.paths.reload_file),
        others,
        rollbacks,
        ConfigHolds(approvals, rollbacks, host.pool.get_worker_info),
    )

    def look() -> None:
        sweep.settled = {"a": host.config_service.read_account("a")}
        reload.apply()
        eventually(lambda: not reload.in_progress, what="compared")

    return reload, look


def config_of(host: Host) -> Any:
    info = host.pool.get_worker_info("a")
    assert info is not None
    return info.metadata.get("config")


def test_a_symbol_that_the_session_took_waits_for_no_restart(real: Host) -> None:
    real.account("a", 1)
    real.start()
    reload, look = reload_of(real)
    real.account("a", 1, currencies=[{"symbol": "EURUSD"}, {"symbol": "GBPUSD"}])
    for _ in range(3):
        look()
    reload.close()
    record = real.pool.config_changes.record("a")
    assert record is not None
    assert record.config_version == config_version(real.config_service.load_account_config("a"))
    assert config_of(real) is None


def test_a_change_of_which_the_answer_is_lost_is_not_kept_when_the_file_goes_back(
    real: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    real.account("a", 1)
    real.start()
    reload, look = reload_of(real)
    taken: list[dict[str, Any]] = []

    def late(address: str, token: str, request: Any, *, timeout: float) -> Any:
        answer = control.ask(address, token, request, timeout=timeout)
        taken.append(request["config"])
        if len(taken) == 1:
            raise ControlError("no answer within 3 s")  # the loop has taken it and applies it
        return answer

    monkeypatch.setattr(config_changes, "ask", late)
    real.account("a", 1, default_risk={"risk_percent": 9.0})
    look()
    assert taken[0]["default_risk"]["risk_percent"] == 9.0, "the session took it"
    real.account("a", 1)
    for _ in range(3):
        look()
    reload.close()
    assert config_of(real) is None, "shown: it runs what its file says"
    assert taken[-1]["default_risk"]["risk_percent"] == 1.0, "but the session has 9 percent"


def test_an_agent_that_ends_between_its_two_files_still_takes_live_changes(
    real: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    real.account("a", 1)
    worker_id = real.start().worker_id
    reload, look = reload_of(real)

    class Killed(BaseException):
        """The agent was killed."""

    def killed(_record: Any) -> None:
        raise Killed

    monkeypatch.setattr(real.pool.config_changes, "_save", killed)
    real.account("a", 1, groups=["desk"])
    old = real.pool.config_changes.kept.load("a", worker_id)
    assert old is not None
    new = real.config_service.load_account_config("a")
    with pytest.raises(Killed):
        real.pool.config_changes.apply(ConfigDifference.of(old, new))
    reload.close()
    real.pool.close()
    real.new_pool().adopt()
    reload, look = reload_of(real)
    for _ in range(2):
        look()
    reload.close()
    assert config_of(real) is None, config_of(real)


def test_a_new_variable_and_a_group_are_not_shown_as_applied(real: Host) -> None:
    real.account("a", 1)
    real.start()
    reload, _ = reload_of(real)
    worker = real.pool.config_changes.record("a")
    assert worker is not None
    base = real.config_service.load_account_config("a").model_copy(update={"environment": {"A": "1"}})
    wanted = base.model_copy(update={"environment": {"A": "1", "B": "2"}, "groups": ("x",)})
    state = reload._apply(worker, KeptConfig.of(worker.worker_id, base), wanted)
    reload.close()
    assert state
    assert config_of(real)["changes"] == [{"key": "environment.B", "class": "restart"}]
    info = real.pool.get_worker_info("a")
    assert info is not None
    assert info.groups == ("x",)


def test_what_waits_is_cleared_by_a_file_that_means_the_same_again(real: Host) -> None:
    symbols = [{"symbol": "EURUSD"}, {"symbol": "GBPUSD"}]
    real.account("a", 1, currencies=symbols)
    real.start()
    reload, look = reload_of(real)
    real.account("a", 2, currencies=symbols)
    look()
    assert config_of(real)["state"] == "pending"
    real.account("a", 1, currencies=symbols[::-1])
    for _ in range(2):
        look()
    reload.close()
    assert config_of(real) is None, config_of(real)
