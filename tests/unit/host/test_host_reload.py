"""Changed account files: what counts as changed, and what a running worker takes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.configs import GOOD, Directory, config
from support.pool_host import Host
from support.waiting import eventually

from manager.change.reload_classes import changes
from manager.config import AccountConfig, config_version
from manager.config.models import HealthConfig, ProbeConfig, ReadyConfig, StrategyConfig
from manager.errors import ManagerError
from manager.host.reconcile.config_sweep import ConfigSweep
from manager.host.workers.bounded_reads import BoundedConfiguration
from manager.host.workers.config_changes import NotNowError, RefusedError
from manager.host.workers.config_difference import ConfigDifference
from manager.host.workers.kept_configs import KeptConfig, KeptConfigs


class Sweep:
    """A sweep of a directory, with a clock that each look moves on."""

    def __init__(self, root: Path) -> None:
        self.directory = Directory(root)
        self.now = 0.0
        self.of = ConfigSweep(BoundedConfiguration(self.directory.service), lambda: self.now)

    def look(self) -> None:
        self.now += 2.0
        self.directory.service._snapshot = None  # which may be a second old
        assert self.of.look()


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


def test_a_change_counts_once_two_looks_agree(sweep: Sweep) -> None:
    sweep.directory.write("a", GOOD)
    sweep.look()
    assert "a" in sweep.of.settled, "what the first look finds counts"
    sweep.look()
    sweep.directory.write("a", GOOD.replace("5001", "77"))
    sweep.look()
    assert "a" not in sweep.of.settled
    sweep.look()
    found = sweep.of.settled["a"].config
    assert found is not None
    assert found.login == 77


def test_a_new_account_counts_at_its_second_look(sweep: Sweep) -> None:
    sweep.look()
    sweep.directory.write("a", GOOD)
    sweep.look()
    assert "a" not in sweep.of.settled
    assert sweep.of.present == {"a"}
    sweep.look()
    assert "a" in sweep.of.settled


def test_a_new_time_of_change_without_a_new_content_is_no_change(sweep: Sweep) -> None:
    path = sweep.directory.write("a", GOOD)
    sweep.look()
    sweep.look()
    path.touch()
    sweep.look()
    assert "a" in sweep.of.settled


def test_the_named_schedules_count_once_two_looks_agree(sweep: Sweep) -> None:
    sweep.look()
    sweep.look()
    text = "desk: {clock: UTC, run: [{from: '08:00', to: '09:00'}]}"
    (sweep.directory.root / "schedules.yaml").write_text(text)
    sweep.look()
    assert list(sweep.of.schedules.names) == []
    sweep.look()
    assert list(sweep.of.schedules.names) == ["desk"]


def test_a_directory_that_cannot_be_read_leaves_everything_as_it_was(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.directory.write("a", GOOD)
    sweep.look()
    sweep.look()

    def away(_age: float = 0.0) -> Any:
        raise ManagerError("the share is away")

    with monkeypatch.context() as patch:
        patch.setattr(sweep.directory.service, "snapshot", away)
        with pytest.raises(ManagerError):
            sweep.look()
    assert "a" in sweep.of.settled
    assert sweep.of.looks == 1, "one look after the failure does not count alone"


def test_it_looks_no_more_often_than_it_should(sweep: Sweep) -> None:
    sweep.look()
    assert sweep.of.look() is False


def test_a_kept_configuration_is_that_of_one_worker_and_has_no_password(tmp_path: Path) -> None:
    kept = KeptConfigs(tmp_path / "running")
    secret = config(account_id="a").model_copy(
        update={
            "labels": {"desk": "x"},
            "environment": {"API_KEY": "planted-1", "PLAIN": "planted-2"},
            "options": {"nested": [{"pin": "planted-3"}], "number": 4711471147},
            "command": ("bot", "--key=planted-4", "planted-5"),
            "ready": ReadyConfig(http="http://u:planted-6@127.0.0.1/"),
            "health": HealthConfig(probe=ProbeConfig(http="http://127.0.0.1/?key=planted-7")),
            "strategy": StrategyConfig(
                strategy_type="x", timeframe="M5", params={"token": "planted-8", "pin": 815815815, "fast": 12}
            ),
        }
    )
    assert secret.password is not None
    kept.save(KeptConfig.of("w-1", secret))
    path = tmp_path / "running" / "a.json"
    text = path.read_text()
    for hidden in (secret.password.get_secret_value(), "planted", "4711471147", "815815815"):
        assert hidden not in text
    assert path.stat().st_mode & 0o777 == 0o600
    found = kept.load("a", "w-1")
    assert found is not None
    assert found.version == config_version(secret)
    assert changes(found.config, found.hide(secret)) == ()
    other = secret.model_copy(update={"environment": {"API_KEY": "planted-9", "PLAIN": "planted-2"}})
    assert [one.key for one in changes(found.config, found.hide(other))] == ["environment.API_KEY"]
    assert found.config.strategy is not None
    assert found.config.strategy.params["fast"] == 12
    assert kept.load("a", "w-2") is None
    kept.remove("a")
    kept.remove("a")
    assert kept.load("a", "w-1") is None


@pytest.mark.parametrize(
    "content", ["", "[", "[" * 100_000, "{}", '{"worker_id": "w-1", "config": {"x": 1}}']
)
def test_a_broken_kept_configuration_is_unknown(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert KeptConfigs(tmp_path).load("a", "w-1") is None


def test_a_configuration_that_cannot_be_kept_prevents_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    KeptConfigs(tmp_path / "file" / "running").save(KeptConfig.of("w-1", config(account_id="a")))


@pytest.fixture
def host(short_dir: Path) -> Iterator[Host]:
    found = Host(short_dir)
    yield found
    found.close()


def running(host: Host) -> tuple[KeptConfig, AccountConfig]:
    host.account("a", 1)
    worker_id = host.start().worker_id
    kept = host.pool.config_changes.kept.load("a", worker_id)
    assert kept is not None
    return kept, host.config_service.load_account_config("a")


def test_a_running_worker_takes_a_change_and_its_record_says_so(host: Host) -> None:
    kept, old = running(host)
    new = old.model_copy(update={"groups": ("desk",), "health": HealthConfig(hang_after_seconds=7.0)})
    host.pool.config_changes.apply(ConfigDifference.of(kept, new))
    info = host.pool.get_worker_info("a")
    assert info is not None
    assert (info.groups, info.placement.config_version) == (("desk",), config_version(new))
    record = host.pool.config_changes.record("a")
    assert record is not None
    assert record.hang_after_seconds == 7.0
    saved = json.loads(next(host.paths.workers_dir.glob("*.json")).read_text())
    assert saved["config_version"] == config_version(new)
    assert host.pool.config_changes.kept.load("a", kept.worker_id) == KeptConfig(
        kept.worker_id, kept.hide(new), config_version(new), kept.salt
    )


def test_a_symbol_that_the_venue_refuses_changes_no_record(host: Host) -> None:
    kept, old = running(host)
    (euro,) = old.currencies
    new = old.model_copy(update={"currencies": (euro, euro.model_copy(update={"symbol": "NOWHERE"}))})
    with pytest.raises(RefusedError, match="currencies: NOWHERE"):
        host.pool.config_changes.apply(ConfigDifference.of(kept, new))
    record = host.pool.config_changes.record("a")
    assert record is not None
    assert record.config_version == config_version(old)
    assert host.pool.config_changes.kept.load("a", kept.worker_id) == kept


def test_a_command_that_runs_comes_before_a_change(host: Host) -> None:
    kept, old = running(host)
    with host.pool.slots.get("a").lock, pytest.raises(NotNowError):
        host.pool.config_changes.apply(ConfigDifference.of(kept, old))


def test_a_change_for_an_earlier_worker_is_dropped(host: Host) -> None:
    kept, old = running(host)
    host.pool.stop_worker("a")
    with pytest.raises(NotNowError):
        host.pool.config_changes.apply(ConfigDifference.of(kept, old))
    host.start()
    with pytest.raises(NotNowError):
        host.pool.config_changes.apply(ConfigDifference.of(kept, old))


def test_a_difference_is_recorded_once_and_cleared(host: Host) -> None:
    kept, _ = running(host)
    worker_id = kept.worker_id
    state = {"state": "pending", "file": "x", "text": "login", "changes": []}
    for _ in range(2):
        host.pool.config_changes.note("a", worker_id, state, {"fields": ["login"]})
    info = host.pool.get_worker_info("a")
    assert info is not None
    assert info.placement.config == state
    host.pool.config_changes.clear("a", worker_id)
    info = host.pool.get_worker_info("a")
    assert info is not None
    assert info.placement.config is None


def test_the_end_of_a_worker_with_a_changed_configuration_is_noticed(host: Host) -> None:
    kept, old = running(host)
    new = old.model_copy(update={"groups": ("desk",)})
    host.pool.config_changes.apply(ConfigDifference.of(kept, new))
    record = host.pool.config_changes.record("a")
    assert record is not None
    record.process.kill()
    eventually(lambda: host.pool.queries.occupied("a") is False, what="its end is noticed")
    info = host.pool.get_worker_info("a")
    assert info is not None
    assert info.status == "failed"
