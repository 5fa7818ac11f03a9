"""Position management: the published steps, and that a stop never loosens."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.instruments import BTC, EURUSD, GOLD, USDJPY, instrument

from manager.config.models import PositionManagementConfig
from manager.gateways.base import Instrument, Position, Side, Tick
from manager.trading.pips import NoPipError, pip_size
from manager.trading.positions import Management, ManagementRules, manage, partial_volume, stop_change

D = Decimal
NOW = datetime(2026, 11, 25, 12, 55, tzinfo=UTC)
BOTH = ManagementRules(enable_breakeven=True, enable_trailing=True)
PARTIAL = ManagementRules(enable_partial_close=True)


SPREAD = D("0.00012")


def tick(bid: Decimal, spread: Decimal = SPREAD) -> Tick:
    return Tick(symbol="EURUSD", bid=bid, ask=bid + spread, time=NOW)


def buy(stop: str | None = "1.08300", **changes: Any) -> Position:
    data: dict[str, Any] = {
        "id": "17",
        "symbol": "EURUSD",
        "side": Side.BUY,
        "volume": D("0.50"),
        "open_price": D("1.08500"),
        "opened_at": NOW,
        "profit": D(0),
        "stop_loss": None if stop is None else D(stop),
        "ours": True,
    }
    return Position(**{**data, **changes})


def new_stop(position: Position, at: Tick, kind: Instrument = EURUSD, rules: ManagementRules = BOTH) -> Any:
    change = manage(position, at, kind, rules).stop
    return None if change is None else (change.price, change.rule)


def test_the_published_steps_of_a_buy() -> None:
    position = buy()
    for bid, expected in (
        ("1.08580", None),
        ("1.08650", ("1.08520", "breakeven")),
        ("1.08690", None),
        ("1.08700", ("1.08600", "trailing")),
        ("1.08705", None),
        ("1.08710", ("1.08610", "trailing")),
        ("1.08640", None),
        ("1.08820", ("1.08720", "trailing")),
    ):
        found = new_stop(position, tick(D(bid)))
        assert found == (None if expected is None else (D(expected[0]), expected[1])), bid
        if found is not None:
            position = replace(position, stop_loss=found[0])


def test_the_published_steps_of_a_sell() -> None:
    kind = replace(USDJPY, stops_distance=D("0.050"))
    position = buy("149.800", side=Side.SELL, open_price=D("149.500"))
    for ask, expected in (("149.350", "149.480"), ("149.300", "149.400"), ("149.250", "149.350")):
        found = new_stop(position, tick(D(ask) - D("0.012"), D("0.012")), kind)
        assert found is not None and found[0] == D(expected), ask
        position = replace(position, stop_loss=found[0])


def test_the_reason_of_a_change() -> None:
    change = stop_change(buy(), tick(D("1.08650")), EURUSD, BOTH)
    assert change is not None
    assert change.why == "breakeven: gain 15.0 pips, stop 1.08300 → 1.08520"


def test_emergency_exit_because_the_stop_was_too_near_does_not_happen() -> None:
    """freqtrade#12598: a stop that the venue does not accept. Ours keeps the venue's distance."""
    far = replace(EURUSD, stops_distance=D("0.00150"))
    assert new_stop(buy(), tick(D("1.08700")), far) == (D("1.08550"), "trailing")
    assert new_stop(buy("1.08560"), tick(D("1.08700")), far) is None


def test_a_stop_is_rounded_away_from_the_price() -> None:
    coarse = replace(EURUSD, tick_size=D("0.00025"))
    assert new_stop(buy(), tick(D("1.08650")), coarse) == (D("1.08500"), "breakeven")
    short = buy("1.08700", side=Side.SELL)
    assert new_stop(short, tick(D("1.08338")), coarse) == (D("1.08500"), "breakeven")


def test_inside_the_freeze_distance_nothing_changes() -> None:
    frozen = replace(EURUSD, freeze_distance=D("0.00100"))
    assert new_stop(buy(), tick(D("1.08701")), frozen) is None
    assert new_stop(buy(take_profit=D("1.08800")), tick(D("1.08700")), EURUSD) is not None
    assert new_stop(buy(take_profit=D("1.08660")), tick(D("1.08650")), frozen) is None
    assert new_stop(buy(take_profit=D("1.08800")), tick(D("1.08650")), frozen) == (D("1.08520"), "breakeven")


def test_a_position_without_a_stop_gets_one() -> None:
    assert new_stop(buy(None), tick(D("1.08650"))) == (D("1.08520"), "breakeven")
    assert new_stop(buy(None), tick(D("1.08649"))) is None


def test_only_enabled_rules_and_only_our_positions() -> None:
    at = tick(D("1.08900"))
    assert new_stop(buy(), at, rules=ManagementRules()) is None
    assert new_stop(buy(ours=False), at) is None
    assert new_stop(buy(ours=False), at, rules=replace(BOTH, manage_foreign=True)) is not None
    breakeven = ManagementRules(enable_breakeven=True)
    assert new_stop(buy(), at, rules=breakeven) == (D("1.08520"), "breakeven")
    assert new_stop(buy(), at, rules=ManagementRules(enable_trailing=True)) == (D("1.08800"), "trailing")


@pytest.mark.parametrize("bid", ["0", "-1", "NaN", "Infinity"])
def test_a_tick_that_is_no_price_changes_nothing(bid: str) -> None:
    rules = replace(BOTH, enable_partial_close=True)
    assert manage(buy(), tick(D(bid)), EURUSD, rules) == Management()
    crossed = Tick(symbol="EURUSD", bid=D("1.09"), ask=D("1.08"), time=NOW)
    assert manage(buy(), crossed, EURUSD, rules) == Management()


def test_a_partial_close_happens_once_and_before_the_stop() -> None:
    rules = replace(BOTH, enable_partial_close=True)
    assert manage(buy(), tick(D("1.08749")), EURUSD, rules).close_volume is None
    due = manage(buy(), tick(D("1.08750")), EURUSD, rules)
    assert due.close_volume == D("0.25")
    assert due.stop is not None and due.stop.price == D("1.08650")
    assert manage(buy(), tick(D("1.08750")), EURUSD, rules, partial_done=True).close_volume is None


def test_a_partial_close_of_too_small_volumes_is_skipped_for_good() -> None:
    small = manage(buy(volume=D("0.01")), tick(D("1.08900")), EURUSD, PARTIAL)
    assert (small.close_volume, small.partial_skipped) == (None, True)
    assert partial_volume(D("0.03"), EURUSD, D(50)) == D("0.01")
    assert partial_volume(D("0.03"), EURUSD, D(99)) == D("0.02")
    assert partial_volume(D("0.30"), EURUSD, D("99.9")) == D("0.29")
    large = instrument("EURUSD", volume_min=D("0.10"))
    assert partial_volume(D("0.15"), large, D(50)) is None
    assert partial_volume(D("0.15"), large, D(90)) is None
    assert not manage(buy(volume=D("0.01")), tick(D("1.08900")), EURUSD, BOTH).partial_skipped


def test_pips() -> None:
    assert pip_size(replace(EURUSD, pip_size=None)) == D("0.0001")
    assert pip_size(replace(EURUSD, symbol="EURUSD.m", pip_size=None)) == D("0.0001")
    assert pip_size(replace(USDJPY, pip_size=None)) == D("0.01")
    assert pip_size(replace(GOLD, pip_size=D("0.1"))) == D("0.1")
    for kind in (GOLD, BTC, replace(EURUSD, base="", pip_size=None)):
        with pytest.raises(NoPipError, match=f"{kind.symbol} has no pip; use atr or percent"):
            pip_size(kind)
    with pytest.raises(NoPipError):
        manage(buy(), tick(D("1.08900")), GOLD, BOTH)
    assert manage(buy(), tick(D("1.08900")), GOLD, ManagementRules()) == Management()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"trailing_distance_pips": D(0)}, "trailing_distance_pips: 0; more than 0 is allowed"),
        ({"trailing_step_pips": D(-1)}, "trailing_step_pips: -1; more than 0 is allowed"),
        ({"breakeven_offset_pips": D(-1)}, "breakeven_offset_pips: -1; 0 or more is allowed"),
        (
            {"breakeven_offset_pips": D(15)},
            "breakeven_offset_pips: 15 is not below breakeven_trigger_pips (15)",
        ),
        ({"partial_close_percent": D(100)}, "partial_close_percent: 100; less than 100 is allowed"),
        ({"trailing_start_pips": D("NaN")}, "trailing_start_pips: NaN; more than 0 is allowed"),
    ],
)
def test_rules_out_of_range_say_what_is_allowed(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as caught:
        ManagementRules(**changes)
    assert str(caught.value) == text


def test_rules_come_from_the_account_file() -> None:
    config = PositionManagementConfig(enable_breakeven=True)
    assert ManagementRules.of(config) == ManagementRules(enable_breakeven=True)
    assert ManagementRules.of(PositionManagementConfig(enable_trailing=True)).enable_trailing


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(-400, 400), min_size=1, max_size=40),
    st.sampled_from(list(Side)),
    st.integers(0, 30),
    st.integers(0, 20),
    st.booleans(),
)
def test_a_stop_never_loosens_and_never_reaches_the_price(
    moves: list[int], side: Side, distance: int, freeze: int, first: bool
) -> None:
    kind = replace(
        EURUSD, stops_distance=distance * EURUSD.tick_size, freeze_distance=freeze * EURUSD.tick_size
    )
    sign = 1 if side is Side.BUY else -1
    position = buy(None, side=side)
    if first:
        position = replace(position, stop_loss=position.open_price - sign * D("0.00500"))
    bid = position.open_price
    for move in moves:
        bid += move * EURUSD.tick_size
        at = tick(bid)
        price = at.bid if side is Side.BUY else at.ask
        change = stop_change(position, at, kind, BOTH)
        if change is None:
            continue
        before = position.stop_loss
        assert before is None or sign * (change.price - before) >= kind.tick_size
        assert sign * (price - change.price) >= kind.stops_distance
        assert sign * (price - change.price) > 0
        assert change.price % kind.tick_size == 0
        position = replace(position, stop_loss=change.price)
