"""The four strategies: published signals, reasons, parameters."""

import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bar_series import bars_of, flat_bars, tick_bars
from support.instruments import EURUSD

from manager.gateways.base import Bar
from manager.trading.strategies.bollinger import Bollinger
from manager.trading.strategies.macd import MACD
from manager.trading.strategies.rsi import RSI
from manager.trading.strategies.series import whole_closes
from manager.trading.strategies.simple_ma import SimpleMA
from manager.trading.strategy import Decision, ParameterError, Strategy, decision_problem

BARS = bars_of(tick_bars())
ALL: dict[str, Any] = {"simple_ma": SimpleMA, "rsi": RSI, "macd": MACD, "bollinger": Bollinger}
SIGNALS = {
    "simple_ma": "22S 45L 68S 90L 113S 135L 157S 179L 201S 223L 245S 267L 290S",
    "rsi": "18S 49S 62S 84L 105S 128L 149S 170L 193S 214L 237S 258L 281S",
    "macd": "42L 64S 86L 108S 130L 152S 174L 196S 218L 240S 262L 284S",
    "bollinger": "147S 189S 210L 212L 231S 252L",
}


def decide(strategy: Strategy, bars: Sequence[Bar]) -> Decision:
    found = strategy.decide(bars, EURUSD)
    assert decision_problem(found) is None
    assert found.why
    assert found.enter is None or found.enter not in found.exit
    return found


def signals(strategy: Strategy, bars: Sequence[Bar], window: int | None = None) -> str:
    found = []
    for t in range(len(bars)):
        first = 0 if window is None else max(0, t + 1 - window)
        enter = decide(strategy, bars[first : t + 1]).enter
        if enter is not None:
            found.append(f"{t}{enter[0].upper()}")
    return " ".join(found)


@pytest.mark.parametrize("name", SIGNALS)
def test_the_published_signals(name: str) -> None:
    assert signals(ALL[name]({}), BARS) == SIGNALS[name]


@pytest.mark.parametrize("name", SIGNALS)
def test_the_window_of_the_warmup_gives_the_same_signals(name: str) -> None:
    strategy = ALL[name]({})
    assert strategy.warmup == 250
    assert signals(strategy, BARS, strategy.warmup) == SIGNALS[name]


def test_bollinger_without_its_filter() -> None:
    found = signals(Bollinger({"rsi_filter": False}), BARS).split()
    assert len(found) == 12
    assert found[:5] == ["21L", "44S", "66L", "89S", "147S"]
    assert found[5] == "189S"


def test_reasons_name_the_value_and_the_limit() -> None:
    found = {t: decide(RSI({}), BARS[: t + 1]) for t in (17, 18, 84, 299)}
    assert found[17].why == "rsi 72.2 ≥ 70: exit long"
    assert found[17].exit == {"long"}
    assert found[18].why == "rsi 72.2 → 67.4, fell below 70: enter short"
    assert found[84].why.endswith("rose above 30: enter long")
    assert found[299].why == "rsi 24.7 ≤ 30: exit short"
    cross = decide(SimpleMA({}), BARS[:46])
    assert cross.enter == "long"
    assert cross.exit == {"short"}
    assert cross.why.endswith("crossed up: enter long, exit short")
    assert "no cross" in decide(SimpleMA({}), BARS[:45]).why
    assert decide(MACD({}), BARS[:65]).exit == {"long"}


def test_bollinger_exits_beyond_the_middle_band() -> None:
    for t in range(30, 300, 7):
        found = decide(Bollinger({}), BARS[: t + 1])
        values = whole_closes(BARS[t - 19 : t + 1])
        beyond = 20 * values[-1] - sum(values)
        assert found.exit == ({"long"} if beyond > 0 else {"short"} if beyond < 0 else set())


@pytest.mark.parametrize("name", ALL)
def test_below_the_bars_that_the_formulas_need_there_is_no_entry(name: str) -> None:
    for count in range(18):
        found = decide(ALL[name]({}), BARS[:count])
        assert found.enter is None
        if name != "rsi" or count < 16:
            assert f"{count} bars" in found.why


def test_float_sma_crosses_on_a_flat_price_and_ours_does_not() -> None:
    """On 183 of 200 flat tails the float averages differ by about 1e-16."""
    for seed in range(40):
        chance = random.Random(seed)
        closes = [110_000 + round(chance.gauss(0, 100)) for _ in range(60)]
        closes += [closes[-1]] * 60
        bars = flat_bars(closes)
        for name, build in ALL.items():
            for t in range(100, 120):
                assert decide(build({}), bars[: t + 1]).enter is None, (name, seed)


def test_a_band_of_no_width_is_no_band() -> None:
    closes = [110_010] + [110_000] * 40
    found = [
        decide(Bollinger({"rsi_filter": False}), flat_bars(closes[: t + 1])).enter for t in range(20, 41)
    ]
    assert found == [None] * 21


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-300, 300), min_size=30, max_size=90),
    st.sampled_from(sorted(ALL)),
)
def test_the_mirrored_price_gives_the_mirrored_decision(moves: list[int], name: str) -> None:
    closes = [500_000]
    for move in moves:
        closes.append(closes[-1] + move)
    mirrored = [1_000_000 - close for close in closes]
    one, other = (decide(ALL[name]({}), flat_bars(some)) for some in (closes, mirrored))
    swap = {"long": "short", "short": "long", None: None}
    assert other.enter == swap[one.enter]
    assert other.exit == {swap[side] for side in one.exit}


@pytest.mark.parametrize("name", ALL)
def test_signals_equal_those_of_ta_libs_indicators(name: str) -> None:
    talib = pytest.importorskip("talib")
    numpy = pytest.importorskip("numpy")
    chance = random.Random(11)
    closes = [110_000]
    for _ in range(399):
        closes.append(closes[-1] + round(chance.gauss(0, 40)))
    prices = numpy.array(closes) * 1e-5
    expected = _from_ta_lib(name, talib, prices)
    found = signals(ALL[name]({}), flat_bars(closes)).split()
    assert len(expected) > 3
    assert found == expected


def _from_ta_lib(name: str, talib: Any, c: Any) -> list[str]:
    if name in ("simple_ma", "macd"):
        d = talib.SMA(c, 10) - talib.SMA(c, 20) if name == "simple_ma" else talib.MACD(c, 12, 26, 9)[2]
        found, last = [], 0
        for t in range(len(c)):
            if abs(d[t]) > 1e-11:
                sign = 1 if d[t] > 0 else -1
                if last == -sign:
                    found.append(f"{t}{'L' if sign > 0 else 'S'}")
                last = sign
        return found
    r = talib.RSI(c, 14)
    if name == "rsi":
        longs = [f"{t}L" for t in range(1, len(c)) if r[t - 1] <= 30 < r[t]]
        shorts = [f"{t}S" for t in range(1, len(c)) if r[t - 1] >= 70 > r[t]]
    else:
        up, _, low = talib.BBANDS(c, 20, 2.0, 2.0, 0)
        steps = range(20, len(c))
        longs = [f"{t}L" for t in steps if c[t - 1] > low[t - 1] and c[t] <= low[t] and r[t] < 35]
        shorts = [f"{t}S" for t in steps if c[t - 1] < up[t - 1] and c[t] >= up[t] and r[t] > 65]
    return sorted(longs + shorts, key=lambda text: int(text[:-1]))


@pytest.mark.parametrize(
    ("name", "params", "text"),
    [
        ("simple_ma", {"fast_period": 0}, "fast_period: 0; 1 to 499 is allowed"),
        ("simple_ma", {"slow_period": 501}, "slow_period: 501; 2 to 500 is allowed"),
        (
            "simple_ma",
            {"fast_period": 20},
            "fast_period: 20 is not below slow_period (20); a lower value is allowed",
        ),
        ("simple_ma", {"fast_period": True}, "fast_period: true is not an integer; 1 to 499 is allowed"),
        ("simple_ma", {"fast_period": 9.5}, "fast_period: 9.5 is not an integer; 1 to 499 is allowed"),
        ("simple_ma", {"fast_period": "10"}, "fast_period: a text is not an integer; 1 to 499 is allowed"),
        (
            "simple_ma",
            {"fast_perod": 5},
            "fast_perod: is not a parameter of this strategy; did you mean 'fast_period'?",
        ),
        ("rsi", {"rsi_period": 1}, "rsi_period: 1; 2 to 200 is allowed"),
        ("rsi", {"oversold": 0}, "oversold: 0; 1 to 99 is allowed"),
        ("rsi", {"oversold": None}, "oversold: nothing is not a number; 1 to 99 is allowed"),
        (
            "rsi",
            {"oversold": 80, "overbought": 70},
            "oversold: 80 is not below overbought (70); a lower value is allowed",
        ),
        ("rsi", {"overbought": float("nan")}, "overbought: nan; 1 to 99 is allowed"),
        ("macd", {"signal_period": 0}, "signal_period: 0; 1 to 200 is allowed"),
        ("bollinger", {"bb_std": 0}, "bb_std: 0; 0.1 to 10 is allowed"),
        ("bollinger", {"rsi_filter": "yes"}, "rsi_filter: a text is not allowed; true or false is"),
    ],
)
def test_a_parameter_out_of_range_says_what_is_allowed(name: str, params: Any, text: str) -> None:
    with pytest.raises(ParameterError) as caught:
        ALL[name](params)
    assert str(caught.value) == text


def test_equal_parameters_are_spelt_equally() -> None:
    assert SimpleMA({"fast_period": 10.0}).params == {"fast_period": 10, "slow_period": 20}
    assert repr(RSI({"oversold": 30.0}).params) == repr(RSI({}).params)
    assert repr(Bollinger({"bb_std": 2}).params) == repr(Bollinger({}).params)


def test_long_periods_ask_for_more_bars() -> None:
    assert SimpleMA({"slow_period": 500}).warmup == 1000
    assert RSI({"rsi_period": 200}).warmup == 3400
    assert MACD({"slow_period": 200}).warmup == 1463


def test_whole_closes_are_exact() -> None:
    bars = bars_of([(1, 1, 1, 1), (150_000, 150_000, 150_000, 150_000)])
    assert whole_closes(bars) == [1, 150_000]
    assert whole_closes([]) == []
    assert Decimal(whole_closes(BARS)[5]) / 100_000 == BARS[5].close
