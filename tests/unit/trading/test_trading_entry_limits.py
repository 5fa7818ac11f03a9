"""Limits before an entry: each refuses by its name, in a fixed sequence."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from support.configs import config, currency, risk
from support.instruments import EURUSD, USDJPY

from manager.config.models import StrategyConfig
from manager.gateways.base import Position, Side, Tick, TradeMode
from manager.states import TradingMode
from manager.trading.entry_limits import entry_refusal
from manager.trading.risk import Entry, Exposure, OrderRate, RiskLimits, exposure_of
from manager.trading.sizing import Size

D = Decimal
NOW = datetime(2026, 11, 25, 12, 55, tzinfo=UTC)
SECOND = timedelta(seconds=1)
TICK = Tick(symbol="EURUSD", bid=D("1.08500"), ask=D("1.08512"), time=NOW)
LIMITS = RiskLimits(
    max_positions=2,
    max_concurrent_trades=4,
    portfolio_risk_percent=D(10),
    max_signal_age=150 * SECOND,
)


def entry(**changes: Any) -> Entry:
    data: dict[str, Any] = {
        "side": Side.BUY,
        "instrument": EURUSD,
        "tick": TICK,
        "now": NOW,
        "signal_at": NOW,
        "stop": D("1.08300"),
        "size": Size(volume=D("0.50"), risk=D(100)),
        "base": D(10_000),
        "limits": LIMITS,
        "exposures": (),
        "rate": OrderRate(),
        "identity_seen": True,
        "market_open": True,
    }
    return Entry(**{**data, **changes})


def held(count: int, symbol: str = "EURUSD", amount: str | None = "10") -> tuple[Exposure, ...]:
    loss = None if amount is None else D(amount)
    return tuple(
        Exposure(symbol=symbol, side=Side.BUY, risk=loss, what=f"position {n}") for n in range(count)
    )


def limits(**changes: Any) -> RiskLimits:
    return replace(LIMITS, **changes)


def tick(seconds: float = 0, bid: str = "1.08500", ask: str = "1.08512") -> Tick:
    return Tick(symbol="EURUSD", bid=D(bid), ask=D(ask), time=NOW - seconds * SECOND)


#: (rule, what is refused, what just passes), in the sequence of the limits.
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("mode", {"mode": TradingMode.CLOSE_ONLY}, {"mode": TradingMode.NORMAL}),
    ("unsettled_order", {"unsettled": 1}, {"unsettled": 0}),
    ("environment", {"environment_problem": "the venue says real"}, {}),
    ("identity", {"identity_seen": False}, {}),
    (
        "trade_mode",
        {"instrument": replace(EURUSD, trade_mode=TradeMode.SHORT_ONLY)},
        {"instrument": replace(EURUSD, trade_mode=TradeMode.LONG_ONLY)},
    ),
    ("market_closed", {"market_open": False}, {}),
    ("bad_tick", {"tick": tick(bid="0")}, {"tick": tick(bid="1.08512")}),
    ("tick_age", {"tick": tick(10.001)}, {"tick": tick(10)}),
    ("spread", {"limits": limits(max_spread=D("0.00011"))}, {"limits": limits(max_spread=D("0.00012"))}),
    ("signal_age", {"signal_at": NOW - 151 * SECOND}, {"signal_at": NOW - 150 * SECOND}),
    ("no_stop", {"stop": None}, {}),
    (
        "stop_too_close",
        {"instrument": replace(EURUSD, stops_distance=D("0.00201"))},
        {"instrument": replace(EURUSD, stops_distance=D("0.00200"))},
    ),
    ("max_positions", {"exposures": held(2)}, {"exposures": held(1)}),
    (
        "max_concurrent_trades",
        {"exposures": held(4, "USDJPY")},
        {"exposures": held(3, "USDJPY")},
    ),
    (
        "unprotected_position",
        {"exposures": held(1, amount=None)},
        {"exposures": held(1, amount=None), "limits": limits(unprotected="ignore")},
    ),
    ("portfolio_risk", {"exposures": held(1, amount="900.01")}, {"exposures": held(1, amount="900")}),
    (
        "cooldown",
        {"last_entries": {("EURUSD", Side.BUY): NOW - 59 * SECOND}},
        {"last_entries": {("EURUSD", Side.BUY): NOW - 60 * SECOND, ("EURUSD", Side.SELL): NOW}},
    ),
    (
        "price_collar",
        {"limit_price": D("1.13938")},
        {"limit_price": D("1.13937")},
    ),
    ("risk_too_small", {"size": Size(refused="risk_too_small", why="0.01 would risk 7.40 USD")}, {}),
    ("check_order", {"check_problem": "margin of 500 is not free"}, {}),
]


#: The stop of a limit order is measured from its price; a refused size has no risk.
DEPENDENT = {("stop_too_close", "price_collar"), ("portfolio_risk", "risk_too_small")}


@pytest.mark.parametrize(("rule", "refused", "passes"), CASES, ids=[case[0] for case in CASES])
def test_a_limit_refuses_by_its_name(rule: str, refused: dict[str, Any], passes: dict[str, Any]) -> None:
    found = entry_refusal(entry(**refused))
    assert found is not None
    assert found.rule == rule
    assert found.why
    assert entry_refusal(entry(**passes)) is None


def test_of_two_refusals_the_earlier_one_is_the_answer() -> None:
    rules = [case[0] for case in CASES]
    for at, (rule, refused, _) in enumerate(CASES):
        for other, later, _ in CASES[at + 1 :]:
            if not set(refused) & set(later) and (rule, other) not in DEPENDENT:
                found = entry_refusal(entry(**refused, **later))
                assert found is not None
                assert rules.index(found.rule) <= at, f"{found.rule} instead of {rule}"


@pytest.mark.parametrize("mode", [mode for mode in TradingMode if mode is not TradingMode.NORMAL])
def test_close_only_also_stops_adding(mode: TradingMode) -> None:
    """freqtrade#8030: a stop of entries that still added to positions."""
    found = entry_refusal(entry(mode=mode, exposures=held(1)))
    assert found is not None and found.rule == "mode"


@pytest.mark.parametrize("mode", [TradeMode.CLOSE_ONLY, TradeMode.DISABLED, TradeMode.LONG_ONLY])
def test_a_side_that_the_venue_does_not_trade(mode: TradeMode) -> None:
    found = entry_refusal(
        entry(side=Side.SELL, stop=D("1.08700"), instrument=replace(EURUSD, trade_mode=mode))
    )
    assert found is not None and found.rule == "trade_mode"


def test_figures_from_the_future_are_refused() -> None:
    for changes, rule in (({"tick": tick(-6)}, "tick_age"), ({"signal_at": NOW + 6 * SECOND}, "signal_age")):
        found = entry_refusal(entry(**changes))
        assert found is not None and found.rule == rule


def test_a_stop_on_the_wrong_side_of_the_price() -> None:
    for side, stop in ((Side.BUY, "1.08500"), (Side.SELL, "1.08512"), (Side.BUY, "NaN")):
        found = entry_refusal(entry(side=side, stop=D(stop)))
        assert found is not None and found.rule == "stop_too_close"


def position(**changes: Any) -> Position:
    data: dict[str, Any] = {
        "id": "17",
        "symbol": "EURUSD",
        "side": Side.BUY,
        "volume": D("0.50"),
        "open_price": D("1.08500"),
        "opened_at": NOW,
        "profit": D(0),
        "stop_loss": D("1.08300"),
    }
    return Position(**{**data, **changes})


def test_the_risk_of_a_position() -> None:
    def risk_of(**changes: Any) -> Decimal | None:
        return exposure_of(position(**changes), EURUSD, "USD", {}).risk

    assert risk_of() == 100
    assert risk_of(stop_loss=D("1.08500")) == 0
    assert risk_of(stop_loss=D("1.08600")) == 0
    assert risk_of(side=Side.SELL, stop_loss=D("1.08600")) == 50
    assert risk_of(side=Side.SELL, stop_loss=D("1.08400")) == 0
    assert risk_of(stop_loss=None) is None
    assert risk_of(stop_loss=D(0)) is None
    assert exposure_of(position(), None, "USD", {}).risk is None
    assert exposure_of(position(symbol="USDJPY"), USDJPY, "USD", {}).risk is None


def test_breakeven_frees_portfolio_risk_and_working_orders_count() -> None:
    first = Exposure(symbol="EURUSD", side=Side.BUY, risk=D(400), what="position 1")
    at_breakeven = exposure_of(position(id="2", stop_loss=D("1.08520")), EURUSD, "USD", {})
    working = Exposure(symbol="GBPUSD", side=Side.SELL, risk=D(200), what="order 3")
    open_now = (first, replace(at_breakeven, symbol="USDCHF"), working)
    assert entry_refusal(entry(exposures=open_now, size=Size(volume=D(1), risk=D(350)))) is None
    found = entry_refusal(entry(exposures=open_now, size=Size(volume=D(1), risk=D(450))))
    assert found is not None and found.rule == "portfolio_risk"
    assert "open risk 600.00 and 450.00 for this entry; 1000.00 is allowed" in found.why


def test_the_eleventh_order_of_a_minute_is_refused_and_leads_to_close_only() -> None:
    rate = OrderRate()
    for n in range(10):
        at = NOW + n * SECOND
        fresh = replace(TICK, time=at)
        assert entry_refusal(entry(rate=rate, now=at, signal_at=at, tick=fresh)) is None
        rate.note(at)
    at = NOW + 59 * SECOND
    found = rate.refusal(at)
    assert found is not None
    assert (found.rule, found.mode) == ("max_orders_per_minute", TradingMode.CLOSE_ONLY)
    assert found.why == "10 order calls within 60 s; 10 are allowed"
    assert rate.refusal(NOW + 60 * SECOND) is None


def test_orders_of_a_day_are_counted_over_24_hours() -> None:
    rate = OrderRate(per_minute=5, per_day=6)
    for hour in range(6):
        rate.note(NOW + hour * timedelta(hours=4))
    found = rate.refusal(NOW + timedelta(hours=23, minutes=59))
    assert found is not None and found.rule == "max_orders_per_day"
    assert rate.refusal(NOW + timedelta(hours=24)) is None


def test_orders_count_after_the_venues_clock_was_set_back() -> None:
    rate = OrderRate(per_minute=1)
    rate.note(NOW)
    assert rate.refusal(NOW - timedelta(hours=2)) is not None


def test_limits_come_from_the_account_file() -> None:
    strategy = StrategyConfig(strategy_type="simple_ma", timeframe="M1")
    one = currency("EURUSD", risk=risk(max_positions=3), strategy=strategy)
    found = RiskLimits.of(config(default_risk=risk(portfolio_risk_percent=0.1), currencies=(one,)), one)
    assert (found.max_positions, found.max_concurrent_trades) == (3, 15)
    assert found.portfolio_risk_percent == D("0.1")
    assert found.max_signal_age == 30 * SECOND
    daily = currency("EURUSD", strategy=StrategyConfig(strategy_type="simple_ma", timeframe="D1"))
    assert RiskLimits.of(config(), daily).max_signal_age == 300 * SECOND
    with pytest.raises(ValueError, match="max_concurrent_trades"):
        RiskLimits.of(config(default_risk=risk(max_concurrent_trades=None)), one)
