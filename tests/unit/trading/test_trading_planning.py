"""From a decision to a plan: exits, and one entry with stop, target and size."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from support.bar_series import bars_of, tick_bars
from support.instruments import EURUSD, GOLD

from manager.gateways.base import Position, Side, Tick
from manager.trading.entry_limits import entry_refusal
from manager.trading.planning import EntryRules, PlannedEntry, plan_entry, plan_exits
from manager.trading.protections import StopRule, TargetRule
from manager.trading.risk import Entry, OrderRate, Refusal, RiskLimits
from manager.trading.strategies.rsi import RSI
from manager.trading.strategy import Decision
from manager.trading.timeframes import bar_end, default_signal_age

D = Decimal
BARS = bars_of(tick_bars())[:85]
NOW = bar_end(BARS[-1].time, "M5")
TICK = Tick(symbol="EURUSD", bid=D("1.08500"), ask=D("1.08512"), time=NOW)
RULES = EntryRules(
    risk_percent=1.0, stop=StopRule("pips", D(20)), target=TargetRule("r", D("1.5")), max_volume=D("0.30")
)


def planned(decision: Decision, **changes: Any) -> PlannedEntry | Refusal | None:
    data: dict[str, Any] = {
        "instrument": EURUSD,
        "tick": TICK,
        "rules": RULES,
        "base": D(10_000),
        "currency": "USD",
        "quotes": {},
    }
    return plan_entry(decision, BARS, **{**data, **changes})


def test_a_long_entry() -> None:
    found = planned(Decision("long", why="because"), rules=replace(RULES, max_volume=None))
    assert isinstance(found, PlannedEntry)
    assert (found.side, found.price) == (Side.BUY, D("1.08512"))
    assert (found.stop, found.target) == (D("1.08312"), D("1.08812"))
    assert (found.size.volume, found.size.risk) == (D("0.50"), D(100))
    assert (found.intent, found.why) == ("entry-long", "because")


def test_a_short_entry_is_capped_by_the_file() -> None:
    found = planned(Decision("short"))
    assert isinstance(found, PlannedEntry)
    assert (found.side, found.price, found.intent) == (Side.SELL, D("1.08500"), "entry-short")
    assert (found.stop, found.target) == (D("1.08700"), D("1.08200"))
    assert found.size.volume == D("0.30")


def test_a_decision_without_an_entry_has_no_plan() -> None:
    assert planned(Decision(exit=frozenset({"long"}))) is None


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"rules": replace(RULES, direction="short")}, "direction"),
        ({"tick": replace(TICK, bid=D("NaN"))}, "bad_tick"),
        ({"tick": replace(TICK, bid=D(0))}, "bad_tick"),
        ({"instrument": GOLD}, "no_pip"),
        ({"rules": replace(RULES, stop=StopRule("atr", D(2), 100))}, "no_stop"),
    ],
)
def test_why_there_is_no_entry(changes: dict[str, Any], rule: str) -> None:
    found = planned(Decision("long"), **changes)
    assert isinstance(found, Refusal)
    assert found.rule == rule


def test_a_target_below_zero_is_refused() -> None:
    found = planned(Decision("short"), rules=replace(RULES, target=TargetRule("pips", D(20_000))))
    assert isinstance(found, Refusal) and found.rule == "target_too_far"


def test_a_size_that_is_refused_is_refused_by_the_limits() -> None:
    found = planned(Decision("long"), base=D(10))
    assert isinstance(found, PlannedEntry)
    refusal = entry_refusal(entry(found))
    assert refusal is not None and refusal.rule == "risk_too_small"


def entry(plan: PlannedEntry) -> Entry:
    limits = RiskLimits(
        max_positions=1,
        max_concurrent_trades=1,
        portfolio_risk_percent=D(10),
        max_signal_age=default_signal_age("M5"),
    )
    return Entry(
        side=plan.side,
        instrument=EURUSD,
        tick=TICK,
        now=NOW,
        signal_at=NOW,
        stop=plan.stop,
        size=plan.size,
        base=D(10_000),
        limits=limits,
        exposures=(),
        rate=OrderRate(),
        identity_seen=True,
        market_open=True,
    )


def test_a_strategys_signal_becomes_an_entry_that_passes_the_limits() -> None:
    decision = RSI({}).decide(BARS, EURUSD)
    assert decision.enter == "long"
    found = planned(decision, rules=EntryRules(risk_percent=0.5, target=TargetRule("r", D("1.5"))))
    assert isinstance(found, PlannedEntry)
    assert found.size.refused is None
    assert found.size.risk <= 50
    assert found.why.endswith("rose above 30: enter long")
    assert entry_refusal(entry(found)) is None


def position(name: str, **changes: Any) -> Position:
    data: dict[str, Any] = {
        "id": name,
        "symbol": "EURUSD",
        "side": Side.BUY,
        "volume": D(1),
        "open_price": D("1.08"),
        "opened_at": datetime(2026, 11, 23, tzinfo=UTC),
        "profit": D(0),
        "ours": True,
    }
    return Position(**{**data, **changes})


def test_exits_close_our_positions_of_the_direction() -> None:
    positions = [
        position("1"),
        position("2", side=Side.SELL),
        position("3", symbol="GBPUSD"),
        position("4", ours=False),
    ]
    long = plan_exits(Decision(exit=frozenset({"long"})), positions, "EURUSD")
    assert [(one.position.id, one.intent) for one in long] == [("1", "exit:1")]
    both = plan_exits(Decision(exit=frozenset({"long", "short"})), positions, "EURUSD")
    assert [one.position.id for one in both] == ["1", "2"]
    assert plan_exits(Decision("long"), positions, "EURUSD") == []
