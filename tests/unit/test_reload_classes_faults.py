"""Classes and texts of unusual keys and values."""

from typing import Any

import pytest
from support.configs import config, merge

from manager.change.reload_classes import changes
from manager.config import AccountConfig


def made(**update: Any) -> AccountConfig:
    data = config(account_id="a").model_dump(mode="json", by_alias=True)
    return AccountConfig.model_validate({**data, **update})


def currency(symbol: str, strategy_type: str = "simple_ma") -> dict[str, Any]:
    data = config().currencies[0].model_dump(mode="json")
    return {**data, "symbol": symbol, "strategy": {**data["strategy"], "strategy_type": strategy_type}}


@pytest.mark.parametrize("symbol", ["EURUSD", "EURUSD.m"])
def test_another_strategy_needs_a_restart_whatever_the_symbol(symbol: str) -> None:
    old, new = made(currencies=[currency(symbol)]), made(currencies=[currency(symbol, "breakout")])
    assert [str(one.reload_class) for one in changes(old, new)] == ["restart"]
    assert merge(old, new) == old, "a running session does not take another strategy"


def test_a_new_variable_prevents_no_live_change() -> None:
    old = made(environment={"A": "1"})
    new = made(environment={"A": "1", "B": "2"}, groups=["desk"])
    assert merge(old, new) == made(environment={"A": "1"}, groups=["desk"])


@pytest.mark.parametrize(
    ("before", "after"), [(("EURUSD",), ("EURUSD", "GBPUSD")), (("EURUSD", "GBPUSD"), ("EURUSD",))]
)
def test_what_a_live_change_has_applied_waits_for_no_restart(
    before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    old, new = (made(currencies=[currency(one) for one in symbols]) for symbols in (before, after))
    assert merge(old, new) == new
    assert {str(one.reload_class) for one in changes(old, new)} == {"live"}


@pytest.mark.parametrize(
    "update",
    [
        {"ready": {"http": "http://u:hunter2@127.0.0.1/"}},
        {"health": {"probe": {"http": "http://127.0.0.1/?token=hunter2"}}},
        {"strategy": {"strategy_type": "x", "timeframe": "M5", "params": {"api_key": "hunter2"}}},
    ],
)
def test_no_value_that_may_hold_a_secret_is_shown(update: dict[str, Any]) -> None:
    shown = str([one.to_dict() for one in changes(made(), made(**update))])
    assert "hunter2" not in shown
