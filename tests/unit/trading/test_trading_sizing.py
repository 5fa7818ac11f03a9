"""Position sizes: the published examples, and that a size never risks more than allowed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.instruments import BTC, EURUSD, GOLD, INVERSE, USDJPY, instrument

from manager.gateways.base import Account, Side, Tick
from manager.trading.conversion import NoConversion, convert_loss, fresh_quotes
from manager.trading.numbers import exact, on_grid
from manager.trading.sizing import Size, fit_margin, loss_per_lot, risk_base, size, size_dispute

D = Decimal
NOW = datetime(2026, 11, 25, 12, 55, tzinfo=UTC)
QUOTES = {
    "USDJPY": (D("149.500"), D("149.512")),
    "GBPUSD": (D("1.27000"), D("1.27012")),
    "EURUSD": (D("1.08500"), D("1.08512")),
    "USDCHF": (D("0.88000"), D("0.88012")),
}


def sized(entry: str, stop: str, **changes: Any) -> Size:
    data: dict[str, Any] = {
        "base": D(10_000),
        "risk_percent": D(1),
        "side": Side.BUY if D(entry) > D(stop) else Side.SELL,
        "entry": D(entry),
        "stop": D(stop),
        "instrument": EURUSD,
        "currency": "USD",
        "quotes": QUOTES,
    }
    return size(**{**data, **changes})


EXAMPLES = {
    "E1": (sized("1.08512", "1.08312"), "200.000000", "0.50", "100.00"),
    "E2": (sized("149.512", "149.212", instrument=USDJPY), "200.668896", "0.49", "98.33"),
    "E3": (
        sized("0.85500", "0.85750", instrument=instrument("EURGBP"), risk_percent=0.5),
        "317.530000",
        "0.15",
        "47.63",
    ),
    "E4": (sized("2350.30", "2340.30", instrument=GOLD), "1000.000000", "0.10", "100.00"),
    "E5a": (sized("1.08512", "1.08012", base=D(500)), "500.000000", "0.01", "5.00"),
    "E6": (
        sized("0.88012", "0.87712", instrument=instrument("USDCHF"), base=D(20_000), currency="EUR"),
        "314.201927",
        "0.63",
        "197.95",
    ),
    "E7": (
        sized("149.512", "149.112", instrument=USDJPY, base=D(20_000), currency="EUR"),
        "246.597722",
        "0.81",
        "199.74",
    ),
    "E8": (sized("65001", "64001", instrument=BTC), "1000.000000", "0.1000", "100.00"),
    "E9": (sized("1.08512", "1.08312", commission_per_lot=D(7)), "207.000000", "0.48", "99.36"),
    "E10": (
        sized("1.08512", "1.08312", base=D(5_000_000), risk_percent=D(5)),
        "200.000000",
        "100.00",
        "20000.00",
    ),
    "E12": (sized("1.08512", "1.08312", base=D(9_000)), "200.000000", "0.45", "90.00"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_published_example(name: str) -> None:
    found, per_lot, volume, risk = EXAMPLES[name]
    assert found.refused is None
    assert found.volume == D(volume)
    assert round(found.per_lot, 6) == D(per_lot)
    assert round(found.risk, 2) == D(risk)


def test_e5b_a_volume_below_the_least_is_refused_and_never_raised() -> None:
    found = sized("1.08512", "1.07772", base=D(500))
    assert found.refused == "risk_too_small"
    assert found.volume == 0
    assert found.why == "0.01 would risk 7.40 USD, 5.00 is allowed"


def test_e11_decimal_division_loses_a_step_and_fractions_do_not() -> None:
    found = sized("65000", "64000", instrument=INVERSE, base=D("0.5"), currency="BTC", quotes={})
    assert found.volume == 20_800
    assert found.risk == D("0.005")
    by_decimal = D("0.5") * D("0.01") / (1 / D(64000) - 1 / D(65000))
    assert int(by_decimal) == 20_799


def test_float_floor_loses_a_step_and_the_grid_does_not() -> None:
    assert 0.3 // 0.01 == 29.0
    assert on_grid(Fraction(3, 10), D("0.01")) == D("0.30")


def test_the_base_is_the_lower_of_balance_and_equity() -> None:
    account = Account(
        balance=D(10_000),
        equity=D(9_000),
        margin=D(0),
        free_margin=D(9_000),
        currency="USD",
        open_positions=0,
    )
    assert risk_base(account) == 9_000
    assert risk_base(account, "balance") == 10_000
    assert risk_base(account, "equity") == 9_000
    lying = replace(account, equity=D("NaN"))
    assert sized("1.08512", "1.08312", base=risk_base(lying)).refused == "bad_figures"
    with pytest.raises(ValueError, match="allowed are lower, balance, equity"):
        risk_base(account, "highest")


def test_the_volume_is_on_the_grid_that_begins_at_the_least_volume() -> None:
    odd = instrument("EURUSD", volume_min=D("0.03"), volume_step=D("0.02"))
    assert sized("1.08512", "1.08312", instrument=odd).volume == D("0.49")
    assert sized("1.08512", "1.08312", instrument=odd, max_volume=D("0.30")).volume == D("0.29")


def test_caps_of_the_file_and_of_the_venue() -> None:
    limited = instrument("EURUSD", volume_limit=D("0.60"))
    assert sized("1.08512", "1.08312", max_volume=D("0.123")).volume == D("0.12")
    assert sized("1.08512", "1.08312", instrument=limited, held=D("0.25")).volume == D("0.35")
    full = sized("1.08512", "1.08312", instrument=limited, held=D("0.60"))
    assert (full.refused, full.volume) == ("volume_limit", D(0))


def test_a_stop_on_the_wrong_side_is_refused() -> None:
    for side, stop in ((Side.BUY, "1.08612"), (Side.BUY, "1.08512"), (Side.SELL, "1.08412")):
        assert sized("1.08512", stop, side=side).refused == "stop_wrong_side"


@pytest.mark.parametrize(
    "changes",
    [
        {"base": D("NaN")},
        {"max_volume": None, "instrument": replace(EURUSD, volume_max=D("Infinity"))},
        {"risk_percent": D(0)},
        {"risk_percent": D(-1)},
        {"commission_per_lot": D(-7)},
        {"max_volume": D("NaN")},
        {"instrument": replace(EURUSD, volume_limit=D("NaN"))},
        {"held": D(-1)},
        {"instrument": replace(EURUSD, volume_step=D(0))},
        {"instrument": replace(EURUSD, contract_size=D(0))},
        {"instrument": replace(EURUSD, volume_min=D("NaN"))},
    ],
)
def test_figures_without_sense_are_refused(changes: dict[str, Any]) -> None:
    found = sized("1.08512", "1.08312", **changes)
    assert (found.refused, found.volume) == ("bad_figures", D(0))


def test_an_account_without_money_trades_nothing() -> None:
    for base in (D(0), D(-50)):
        assert sized("1.08512", "1.08312", base=base).refused == "risk_too_small"


def test_a_float_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match="Decimal is required"):
        sized("1.08512", "1.08312", base=10_000.0)


def test_tick_value_wrong_at_the_broker_is_a_dispute() -> None:
    """EarnForex PositionSizer#19: a tick value ten times too small."""
    assert sized("1.08512", "1.08312", instrument=replace(EURUSD, loss_tick_value=D("1.00"))).volume == D(
        "0.50"
    )
    assert sized("1.08512", "1.08312", instrument=replace(EURUSD, loss_tick_value=D("1.04"))).refused is None
    for wrong in ("0.10", "10", "1.06", "0", "NaN"):
        found = sized("1.08512", "1.08312", instrument=replace(EURUSD, loss_tick_value=D(wrong)))
        assert (found.refused, found.volume) == ("size_disputed", D(0)), wrong


def test_base_currency_wrong_at_the_broker_does_not_convert() -> None:
    """EarnForex PositionSizer#37: AUD as the base currency of every pair."""
    tick = Tick(symbol="EURUSD", bid=D("1.08500"), ask=D("1.08512"), time=NOW)
    assert fresh_quotes([(replace(EURUSD, base="AUD"), tick)], NOW) == {}
    assert fresh_quotes([(replace(EURUSD, symbol="EURUSD.m"), tick)], NOW) == {"EURUSD": (tick.bid, tick.ask)}


def test_the_venues_own_loss_must_agree_within_five_percent() -> None:
    assert size_dispute(D(100), D(105)) is None
    assert size_dispute(D(100), D(95)) is None
    assert "differ by more than 5 %" in (size_dispute(D(100), D("105.01")) or "")
    assert size_dispute(D(100), D(-100)) is not None


def test_old_and_future_ticks_do_not_convert() -> None:
    for seconds, usable in ((60, True), (61, False), (-61, False)):
        tick = Tick(symbol="EURUSD", bid=D("1.08"), ask=D("1.09"), time=NOW - timedelta(seconds=seconds))
        assert bool(fresh_quotes([(EURUSD, tick)], NOW)) is usable


def test_without_a_quote_there_is_no_size() -> None:
    found = sized("149.512", "149.212", instrument=USDJPY, quotes={})
    assert (found.refused, found.volume) == ("no_conversion", D(0))
    assert "converts JPY to USD" in found.why
    crossed = {"USDJPY": (D("149.512"), D("149.500"))}
    assert sized("149.512", "149.212", instrument=USDJPY, quotes=crossed).refused == "no_conversion"
    unknown = replace(EURUSD, profit_currency="")
    assert sized("1.08512", "1.08312", instrument=unknown).refused == "no_conversion"


def test_conversion_goes_over_usd_then_eur() -> None:
    over_eur = {"EURPLN": (D("4.30"), D("4.31")), "EURNOK": (D("11.50"), D("11.52"))}
    assert convert_loss(Fraction(430), "PLN", "NOK", over_eur) == Fraction(430) / exact(D("4.30")) * exact(
        D("11.52")
    )
    with pytest.raises(NoConversion):
        convert_loss(Fraction(1), "PLN", "NOK", {"EURPLN": (D("4.30"), D("4.31"))})


def test_risk_sized_volume_beyond_margin_is_reduced_or_refused() -> None:
    """EarnForex PositionSizer#109."""
    wanted = sized("1.08512", "1.08312")
    fitted = fit_margin(wanted, margin=D(1_085), free_margin=D(1_000), use_percent=80.0, instrument=EURUSD)
    assert fitted.volume == D("0.36")
    assert fitted.risk == D("72.00")
    none = fit_margin(wanted, margin=D(1_085), free_margin=D(-5), use_percent=80.0, instrument=EURUSD)
    assert (none.refused, none.volume) == ("insufficient_funds", D(0))
    lying = fit_margin(wanted, margin=D("NaN"), free_margin=D(9), use_percent=80.0, instrument=EURUSD)
    assert (lying.refused, lying.volume) == ("bad_figures", D(0))
    assert fit_margin(none, margin=D(1), free_margin=D(9), use_percent=80.0, instrument=EURUSD) is none


cents = st.integers(1, 10**9).map(lambda n: D(n) / 100)


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    step = draw(st.sampled_from([D("0.01"), D("0.1"), D("0.03"), D(1), D("0.0001")]))
    least = step * draw(st.integers(1, 50))
    kind = instrument(
        draw(st.sampled_from(["EURUSD", "USDJPY", "EURGBP", "USDCHF"])),
        volume_step=step,
        volume_min=least,
        volume_max=least + step * draw(st.integers(0, 10_000)),
    )
    entry = kind.tick_size * draw(st.integers(50_000, 200_000))
    distance = kind.tick_size * draw(st.integers(1, 40_000))
    side = draw(st.sampled_from(list(Side)))
    return {
        "base": draw(cents),
        "risk_percent": D(draw(st.integers(1, 1000))) / 100,
        "side": side,
        "entry": entry,
        "stop": entry - distance if side is Side.BUY else entry + distance,
        "instrument": kind,
        "currency": draw(st.sampled_from(["USD", "EUR", "GBP", "JPY"])),
        "quotes": QUOTES,
        "commission_per_lot": D(draw(st.integers(0, 2_000))) / 100,
        "max_volume": draw(st.none() | st.integers(0, 10**6).map(lambda n: D(n) / 1000)),
    }


def check_size(request: dict[str, Any]) -> None:
    found = size(**request)
    kind = request["instrument"]
    allowed = exact(request["base"]) * exact(request["risk_percent"]) / 100
    if found.refused is not None:
        assert found.volume == 0
        return
    assert kind.volume_min <= found.volume <= kind.volume_max
    assert request["max_volume"] is None or found.volume <= request["max_volume"]
    assert (exact(found.volume) - exact(kind.volume_min)) % exact(kind.volume_step) == 0
    loss = loss_per_lot(kind, request["entry"], request["stop"], request["currency"], QUOTES)
    per_lot = loss + exact(request["commission_per_lot"])
    assert exact(found.volume) * per_lot <= allowed
    assert found.volume * found.per_lot <= request["base"] * request["risk_percent"] / 100
    # One step more would risk too much or exceed a limit.
    more = found.volume + kind.volume_step
    over = exact(more) * per_lot > allowed
    cap = request["max_volume"]
    assert over or more > kind.volume_max or (cap is not None and more > cap)


@settings(max_examples=300, deadline=None)
@given(requests())
def test_a_size_is_on_the_grid_within_limits_and_within_the_risk(request: dict[str, Any]) -> None:
    check_size(request)


@pytest.mark.long
@settings(max_examples=2_000, deadline=None)
@given(requests())
def test_a_size_is_right_in_two_thousand_cases(request: dict[str, Any]) -> None:
    check_size(request)


@settings(max_examples=150, deadline=None)
@given(requests(), st.integers(1, 300), st.integers(1, 300))
def test_more_risk_never_gives_less_and_more_distance_never_gives_more(
    request: dict[str, Any], percent: int, ticks: int
) -> None:
    found = size(**request)
    riskier = size(**{**request, "risk_percent": request["risk_percent"] + D(percent) / 100})
    assert riskier.volume >= found.volume
    away = request["instrument"].tick_size * ticks * (-1 if request["side"] is Side.BUY else 1)
    if request["stop"] + away > 0:
        assert size(**{**request, "stop": request["stop"] + away}).volume <= found.volume
