"""Configurations to which a host returns if a restart for a changed file fails."""

from pathlib import Path
from typing import Any

import pytest
from support.configs import config

from manager.config import AccountConfig
from manager.config.hidden_values import hide_values, show_values
from manager.errors import InvalidConfigError
from manager.host.reconcile.config_rollbacks import ConfigRollbacks
from manager.host.workers.kept_configs import KeptConfig


def made(**update: Any) -> AccountConfig:
    data = {**config(account_id="a").model_dump(mode="json", by_alias=True), "password": "file:secrets/a"}
    return AccountConfig.model_validate({**data, **update})


OLD = made(environment={"KEY": "planted"}, password="planted-too")
NEW = made(environment={"KEY": "planted"}, login=77, password="planted-too")


@pytest.fixture
def rollbacks(tmp_path: Path) -> ConfigRollbacks:
    found = ConfigRollbacks(tmp_path)
    assert found.begin("a", KeptConfig.of("w", OLD), NEW, 5)
    return found


def test_a_refused_configuration_is_left_until_the_file_changes(
    rollbacks: ConfigRollbacks, tmp_path: Path
) -> None:
    assert rollbacks.config_to_start("a", 5, lambda: NEW) is None, "nothing has failed yet"
    assert rollbacks.failed("a", 5, "wrong password", lambda: NEW, final=True)
    for agent in (rollbacks, ConfigRollbacks(tmp_path)):
        assert agent.config_to_start("a", 5, lambda: NEW) == OLD
        assert agent.unsettled() == {}
    assert "planted" not in (tmp_path / "a.json").read_text()
    corrected = made(login=78)
    assert rollbacks.config_to_start("a", 5, lambda: corrected) is None
    assert rollbacks.find("a") is None
    assert list(tmp_path.iterdir()) == []


def test_a_failure_that_may_pass_counts_twice(rollbacks: ConfigRollbacks) -> None:
    assert not rollbacks.failed("a", 5, "not connected", lambda: NEW, final=False)
    assert rollbacks.unsettled().keys() == {"a"}
    assert rollbacks.failed("a", 5, "not connected", lambda: NEW, final=False)
    assert not rollbacks.failed("a", 5, "not connected", lambda: NEW, final=False), "it has returned already"


def test_a_later_command_tries_the_file(rollbacks: ConfigRollbacks) -> None:
    assert not rollbacks.failed("a", 6, "wrong password", lambda: NEW, final=True), "of another command"
    assert rollbacks.failed("a", 5, "wrong password", lambda: NEW, final=True)
    assert rollbacks.config_to_start("a", 6, lambda: NEW) is None
    assert rollbacks.find("a") is None


@pytest.mark.parametrize("after", [made(login=77), made(login=77, environment={"KEY": "another"})])
def test_a_secret_that_is_gone_prevents_a_return(tmp_path: Path, after: AccountConfig) -> None:
    rollbacks = ConfigRollbacks(tmp_path)
    rollbacks.begin("a", KeptConfig.of("w", OLD), after, 5)
    assert not rollbacks.failed("a", 5, "wrong password", lambda: after, final=True)
    assert rollbacks.find("a") is None


def test_a_file_that_has_changed_or_cannot_be_read_is_not_taken_back(rollbacks: ConfigRollbacks) -> None:
    def broken() -> AccountConfig:
        raise InvalidConfigError("a: no file")

    assert not rollbacks.failed("a", 5, "wrong password", broken, final=True)
    rollbacks.begin("a", KeptConfig.of("w", OLD), NEW, 5)
    assert not rollbacks.failed("a", 5, "wrong password", lambda: made(login=78), final=True)


def test_a_restart_of_an_unproven_configuration_returns_to_the_proven_one(rollbacks: ConfigRollbacks) -> None:
    other = made(environment={"KEY": "planted"}, login=78, password="planted-too")
    assert rollbacks.begin("a", KeptConfig.of("w-2", NEW), other, 6)
    assert rollbacks.failed("a", 6, "wrong password", lambda: other, final=True)
    assert rollbacks.config_to_start("a", 6, lambda: other) == OLD


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"kept": {"worker_id": 1}}', "\xff" * 4])
def test_a_broken_file_is_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_bytes(content.encode("latin-1"))
    assert ConfigRollbacks(tmp_path).find("a") is None


def test_a_full_disk_allows_no_automatic_restart(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not ConfigRollbacks(tmp_path / "file").begin("a", KeptConfig.of("w", OLD), NEW, 5)


def test_hidden_values_come_back_from_the_same_places_only() -> None:
    salt = b"salt"
    params = {"strategy_type": "x", "timeframe": "M5", "params": {"token": "planted", "fast": 12}}
    data = config().currencies[0].model_dump(mode="json")
    both = [{**data, "symbol": "EURUSD", "strategy": params}, {**data, "symbol": "GBPUSD"}]
    before = made(currencies=both, options={"list": ["planted", {"x": 5}], "empty": None})
    hidden = hide_values(before, salt)
    assert "planted" not in hidden.model_dump_json()
    assert show_values(hidden, before, salt) == before
    turned = made(currencies=both[::-1], options={"list": ["planted", {"x": 5}], "empty": None, "more": 1})
    assert show_values(hidden, turned, salt) == before
    assert show_values(hidden, before, b"other") is None
    assert show_values(hidden, made(currencies=both, options={"list": [{"x": 5}, "planted"]}), salt) is None
    assert hidden.password == before.password, "a reference is no secret"
