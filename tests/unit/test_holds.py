"""Which changes of a real account wait for a person."""

from typing import Any

import pytest
from support.configs import config

from manager.change.holds import held_changes, raises_exposure
from manager.change.reload_classes import changes, live_config
from manager.config import AccountConfig

EURUSD = config().currencies[0].model_dump(mode="json")


def made(**update: Any) -> AccountConfig:
    data = config(account_id="a").model_dump(mode="json", by_alias=True)
    return AccountConfig.model_validate({**data, "password": "file:a", **update})


def risk(**limits: Any) -> dict[str, Any]:
    return {**EURUSD, "risk": {**EURUSD["risk"], **limits}}


BOTH = [EURUSD, {**EURUSD, "symbol": "GBPUSD"}]
TRAILING = {**EURUSD, "position_management": {"enable_breakeven": True, "enable_trailing": True}}


@pytest.mark.parametrize(
    ("before", "after", "raises"),
    [
        ({}, {"currencies": [risk(risk_percent=5.0)]}, True),
        ({"currencies": [risk(risk_percent=5.0)]}, {}, False),
        ({}, {"currencies": [risk(max_positions=99)]}, True),
        ({"currencies": [risk(max_concurrent_trades=3)]}, {}, True),
        ({}, {"currencies": [risk(max_concurrent_trades=3)]}, False),
        ({}, {"currencies": BOTH}, True),
        ({"currencies": BOTH}, {}, False),
        ({"currencies": [{**EURUSD, "enabled": False}]}, {}, True),
        ({}, {"currencies": [{**EURUSD, "enabled": False}]}, False),
        ({"currencies": [TRAILING]}, {}, True),
        ({}, {"currencies": [TRAILING]}, False),
        ({}, {"login": 77}, True),
        ({}, {"server": "Other"}, True),
        ({}, {"password": "file:b"}, True),
        ({}, {"groups": ["desk"]}, False),
        ({}, {"reload": {"hold": "none"}}, True),
        ({}, {"reload": {"hold": "all"}}, False),
        ({}, {"limits": {"memory_mb": 500}}, False),
    ],
)
def test_what_raises_exposure(before: dict[str, Any], after: dict[str, Any], raises: bool) -> None:
    found = changes(made(**before), made(**after))
    assert found
    assert any(map(raises_exposure, found)) is raises


def test_all_holds_everything_but_what_a_person_may_stop_with() -> None:
    before = made()
    found = changes(before, made(groups=["desk"], enabled=False, host="h2", login=77))
    assert [one.key for one in held_changes(found, "all")] == ["login", "groups"]
    assert held_changes(found, "none") == ()


def test_of_one_edit_the_lower_limit_applies_and_the_higher_one_waits() -> None:
    before = made(currencies=[risk(risk_percent=1.0, max_positions=5)])
    after = made(currencies=[risk(risk_percent=5.0, max_positions=2), {**EURUSD, "symbol": "GBPUSD"}])
    found = changes(before, after)
    held = held_changes(found, "raises")
    assert [one.key for one in held] == ["currencies.EURUSD.risk.risk_percent", "currencies.GBPUSD"]
    merged = live_config(before, after, held)
    assert merged == made(currencies=[risk(risk_percent=1.0, max_positions=2)])


def test_a_removed_currency_that_waits_stays() -> None:
    before, after = made(currencies=BOTH), made(currencies=[EURUSD], groups=["desk"])
    held = held_changes(changes(before, after), "all")
    assert live_config(before, after, held) == before
