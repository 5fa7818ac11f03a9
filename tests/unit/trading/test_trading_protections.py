"""Stops and targets: distances, prices, and what account files may say."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from support.bar_series import bars_of, tick_bars
from support.instruments import EURUSD, GOLD

from manager.gateways.base import Side
from manager.trading.pips import NoPipError
from manager.trading.protections import (
    DEFAULT_STOP,
    StopRule,
    TargetRule,
    default_target,
    stop_distance,
    stop_price,
    target_distance,
    target_price,
)
from manager.trading.strategy import Decision, ParameterError

D = Decimal
BARS = bars_of(tick_bars())
ENTRY = D("1.08512")
LONG = Decision("long")


def distance(rule: StopRule, decision: Decision = LONG, count: int = 101) -> Decimal | None:
    return stop_distance(decision, rule, BARS[:count], ENTRY, EURUSD)


def test_the_default_stop_is_twice_the_average_true_range() -> None:
    # The published range at bar 100 is 0.000800980.
    assert distance(DEFAULT_STOP) == D("0.00161")
    assert distance(DEFAULT_STOP, count=14) is None
    assert distance(DEFAULT_STOP, count=0) is None


def test_other_stops() -> None:
    assert distance(StopRule("pips", D(20))) == D("0.00200")
    assert distance(StopRule("percent", D(1))) == D("0.01086")
    assert distance(StopRule("price", D("0.001234"))) == D("0.00124")
    with pytest.raises(NoPipError):
        stop_distance(LONG, StopRule("pips", D(20)), BARS, D(2350), GOLD)


def test_on_a_flat_price_there_is_no_stop_and_so_no_entry() -> None:
    flat = [replace(bar, open=D(1), high=D(1), low=D(1), close=D(1)) for bar in BARS[:30]]
    assert stop_distance(LONG, DEFAULT_STOP, flat, ENTRY, EURUSD) is None


def test_the_strategys_own_distances_take_precedence() -> None:
    own = Decision("long", stop_distance=D("0.0030"), target_distance=D("0.0045"))
    assert distance(DEFAULT_STOP, own) == D("0.00300")
    assert target_distance(own, None, D("0.003"), EURUSD) == D("0.00450")


def test_targets() -> None:
    assert default_target("rsi") == TargetRule("r", D("1.5"))
    assert default_target("macd") == TargetRule("r", D(2))
    assert target_distance(LONG, default_target("rsi"), D("0.00161"), EURUSD) == D("0.00242")
    assert target_distance(LONG, TargetRule("pips", D(40)), D("0.00161"), EURUSD) == D("0.00400")
    assert target_distance(LONG, None, D("0.00161"), EURUSD) is None


def test_prices_are_rounded_away_from_the_entry() -> None:
    coarse = replace(EURUSD, tick_size=D("0.00005"))
    assert stop_price(Side.BUY, ENTRY, D("0.00161"), coarse) == D("1.08350")
    assert stop_price(Side.SELL, ENTRY, D("0.00161"), coarse) == D("1.08675")
    assert target_price(Side.BUY, ENTRY, D("0.00242"), coarse) == D("1.08755")
    assert target_price(Side.SELL, ENTRY, D("0.00242"), coarse) == D("1.08270")


def test_rules_as_they_are_written() -> None:
    assert StopRule.read({"atr": 2.0}) == DEFAULT_STOP
    assert StopRule.read({"atr": 1.5, "period": 20}) == StopRule("atr", D("1.5"), 20)
    assert StopRule.read({"percent": 0.1}) == StopRule("percent", D("0.1"))
    assert TargetRule.read({"r": 2.0}) == TargetRule("r", D("2.0"))
    assert TargetRule.read({"pips": 40}) == TargetRule("pips", D(40))
    assert TargetRule.read("none") is None


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({}, "stop: one of atr"),
        ({"atr": 2, "pips": 20}, "stop: one of atr"),
        ({"pips": 20, "period": 14}, "stop: one of atr"),
        ({"atr": 2, "other": 1}, "stop: one of atr"),
        ({"atr": 0}, "stop.atr: a number above 0 is allowed"),
        ({"atr": "2"}, "stop.atr: a number above 0 is allowed"),
        ({"atr": True}, "stop.atr: a number above 0 is allowed"),
        ({"percent": 51}, "stop.percent: a number above 0, up to 50, is allowed"),
        ({"atr": 2, "period": 0}, "stop.period: an integer from 1 to 200 is allowed"),
        ({"pips": float("inf")}, "stop.pips: a number above 0 is allowed"),
    ],
)
def test_stops_out_of_range_say_what_is_allowed(data: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError) as caught:
        StopRule.read(data)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("data", [{}, "off", {"r": 0}, {"r": 2, "pips": 3}, {"atr": 2}])
def test_targets_out_of_range(data: Any) -> None:
    with pytest.raises(ParameterError, match=r"^target"):
        TargetRule.read(data)
