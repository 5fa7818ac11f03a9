"""When each key of an account file takes effect."""

from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel
from support.configs import config, merge

from manager.change.reload_classes import CLASSES, ReloadClass, changes, class_of
from manager.config import AccountConfig
from manager.config.models import (
    ExecutionConfig,
    HealthConfig,
    ProbeConfig,
    RiskConfig,
    StrategyConfig,
)


def models_in(kind: Any) -> list[type[BaseModel]]:
    """Return the models within an annotation."""
    if get_origin(kind) in (Union, UnionType) or get_args(kind):
        return [model for one in get_args(kind) for model in models_in(one)]
    return [kind] if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def leaves(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Yield the dotted keys of a model; a currency has the symbol EURUSD."""
    for name, field in model.model_fields.items():
        key = f"{path}{name}"
        inner = models_in(field.annotation)
        if key in ("schedule", "account_id", "currencies.EURUSD.symbol"):
            continue
        if key == "currencies":
            yield from leaves(inner[0], "currencies.EURUSD.")
        elif inner:
            yield from leaves(inner[0], f"{key}.")
        else:
            yield key


@pytest.mark.parametrize("key", [*leaves(AccountConfig), "schedule"])
def test_every_key_has_a_class(key: str) -> None:
    assert class_of(tuple(key.split("."))) in ReloadClass


def test_every_row_is_about_a_key_that_exists() -> None:
    known = {*leaves(AccountConfig), "schedule"}
    for pattern in CLASSES:
        key = pattern.replace("*", "EURUSD")
        assert any(one == key or one.startswith(f"{key}.") for one in known), pattern
    with pytest.raises(KeyError):
        class_of(("nonsense",))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("enabled", "start_stop"),
        ("login", "restart"),
        ("timeout", "next_start"),
        ("currencies.EURUSD.risk.risk_percent", "live"),
        ("currencies.EURUSD.enabled", "live"),
        ("currencies.EURUSD.strategy.timeframe", "restart"),
        ("currencies.EURUSD.strategy.params.fast_period", "live"),
        ("execution.interval_seconds", "live"),
        ("labels.desk", "agent"),
        ("environment.PATH", "restart"),
        ("host", "placement"),
    ],
)
def test_the_class_of_a_key(key: str, expected: str) -> None:
    assert class_of(tuple(key.split("."))) == expected


def test_the_probe_of_a_program_needs_a_restart() -> None:
    assert class_of(("health", "probe", "tcp"), program=True) == "restart"
    assert class_of(("health", "probe", "tcp")) == "live"
    assert class_of(("health", "hang_after_seconds"), program=True) == "live"


def test_changes_name_the_key_the_values_and_the_class() -> None:
    old = config(account_id="a")
    (euro,) = old.currencies
    new = old.model_copy(
        update={
            "login": 77,
            "default_risk": RiskConfig(risk_percent=0.5, max_positions=5),
            "currencies": (euro.model_copy(update={"enabled": False}),),
            "options": {"token": "hunter2"},
        }
    )
    found = {one.key: one for one in changes(old, new)}
    assert found["login"].to_dict() == {"key": "login", "class": "restart", "old": old.login, "new": 77}
    assert found["currencies.EURUSD.enabled"].reload_class == "live"
    assert found["default_risk.risk_percent"].new == 0.5
    assert found["options.token"].to_dict() == {"key": "options.token", "class": "restart"}
    assert changes(old, old) == ()


def test_a_change_of_the_password_has_no_values() -> None:
    old = config(account_id="a")
    (change,) = changes(old, old.model_copy(update={"password": None}))
    assert change.to_dict() == {"key": "password", "class": "restart"}


def test_what_needs_no_restart_is_merged_into_the_running_configuration() -> None:
    old = config(account_id="a")
    (euro,) = old.currencies
    gold = euro.model_copy(update={"symbol": "XAUUSD"})
    moved = euro.model_copy(
        update={
            "strategy": StrategyConfig(strategy_type="rsi", timeframe="H1", params={"period": 9}),
            "risk": RiskConfig(risk_percent=0.1, max_positions=1),
        }
    )
    new = old.model_copy(
        update={
            "login": 77,
            "groups": ("desk",),
            "execution": ExecutionConfig(interval_seconds=5.0),
            "currencies": (moved, gold),
        }
    )
    merged = merge(old, new)
    assert merged.login == old.login
    assert merged.groups == ("desk",)
    assert merged.execution.interval_seconds == 5.0
    first, second = merged.currencies
    assert (first.strategy.strategy_type, first.strategy.timeframe) == (
        euro.strategy.strategy_type,
        euro.strategy.timeframe,
    )
    assert first.strategy.params["period"] == 9
    assert first.risk.risk_percent == 0.1
    assert second.symbol == "XAUUSD"
    assert merged.password == old.password
    assert {one.key for one in changes(merged, new)} == {
        "login",
        "currencies.EURUSD.strategy.strategy_type",
        "currencies.EURUSD.strategy.timeframe",
    }


def test_a_removed_symbol_leaves_the_running_configuration() -> None:
    old = config(account_id="a")
    (euro,) = old.currencies
    both = old.model_copy(update={"currencies": (euro, euro.model_copy(update={"symbol": "GBPUSD"}))})
    merged = merge(both, old.model_copy(update={"login": 77}))
    assert [one.symbol for one in merged.currencies] == ["EURUSD"]


def test_health_of_a_session_is_live_and_all_of_it_is_taken() -> None:
    old = config(account_id="a")
    new = old.model_copy(update={"health": HealthConfig(probe=ProbeConfig(tcp=80), cycle_seconds=1.0)})
    assert merge(old, new) == new
