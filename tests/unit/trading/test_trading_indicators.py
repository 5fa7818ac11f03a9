"""Indicators equal the published values, and TA-Lib's."""

import hashlib
import random
from collections.abc import Sequence

import pytest
from support.bar_series import tick_bars

from manager.trading import indicators

BARS = tick_bars()
CLOSES = [close * 1e-5 for _, _, _, close in BARS]
HIGHS = [high * 1e-5 for _, high, _, _ in BARS]
LOWS = [low * 1e-5 for _, _, low, _ in BARS]

STOCKCHARTS = [
    44.3389, 44.0902, 44.1497, 43.6124, 44.3278, 44.8264, 45.0955, 45.4245, 45.8433, 46.0826, 45.8931,
    46.0328, 45.6140, 46.2820, 46.2820, 46.0028, 46.0328, 46.4116, 46.2222, 45.6439, 46.2122, 46.2521,
    45.7137, 46.4515, 45.7835, 45.3548, 44.0288, 44.1783, 44.2181, 44.5672, 43.4205, 42.6628, 43.1314,
]  # fmt: skip
STOCKCHARTS_RSI = [
    70.53, 66.32, 66.55, 69.41, 66.36, 57.97, 62.93, 63.26, 56.06, 62.38, 54.71, 50.42, 39.99, 41.46,
    41.87, 45.46, 37.30, 33.08, 37.77,
]  # fmt: skip


def test_the_series_is_the_published_one() -> None:
    text = "".join("{},{},{},{}\n".format(*bar) for bar in BARS)
    digest = "744097b7738d50403eb77ff86609eb38761b3171574e1aa63331e9b517e0c04c"
    assert hashlib.sha256(text.encode()).hexdigest() == digest


@pytest.mark.parametrize(
    ("t", "close", "rsi", "macd", "bands", "atr"),
    [
        (
            100,
            108787,
            66.693212,
            (0.000792509, 0.000520291, 0.000272218),
            (1.089270650, 1.084841000, 1.080411350),
            0.000800980,
        ),
        (
            299,
            108086,
            24.663771,
            (-0.000985454, -0.000264252, -0.000721202),
            (1.089857026, 1.085661000, 1.081464974),
            0.000838601,
        ),
    ],
)
def test_the_published_values(
    t: int, close: int, rsi: float, macd: Sequence[float], bands: Sequence[float], atr: float
) -> None:
    assert BARS[t][3] == close
    assert indicators.rsi(CLOSES, 14)[t] == pytest.approx(rsi, abs=1e-6)
    assert [one[t] for one in indicators.macd(CLOSES, 12, 26, 9)] == pytest.approx(macd, abs=1e-9)
    assert [one[t] for one in indicators.bollinger(CLOSES, 20, 2.0)] == pytest.approx(bands, abs=1e-9)
    assert indicators.atr(HIGHS, LOWS, CLOSES, 14)[t] == pytest.approx(atr, abs=1e-9)


def test_the_published_sheet_of_the_relative_strength_index() -> None:
    found = indicators.rsi(STOCKCHARTS, 14)
    assert found[:14] == [None] * 14
    assert found[14:] == pytest.approx(STOCKCHARTS_RSI, abs=0.005)


def test_on_a_flat_price_the_index_is_undefined() -> None:
    """TA-Lib says 0, so that the first tick up after a flat weekend would leave the oversold range."""
    found = indicators.rsi([1.1] * 30 + [1.2], 14)
    assert found[:30] == [None] * 30
    assert found[30] == 100.0


@pytest.mark.parametrize("count", range(5))
def test_below_its_first_index_an_indicator_is_undefined(count: int) -> None:
    few = CLOSES[:count]
    undefined: list[float | None] = [None] * count
    assert indicators.sma(few, 5) == undefined
    assert indicators.ema(few, 5) == undefined
    assert indicators.rsi(few, 5) == undefined
    assert indicators.atr(few, few, few, 5) == undefined
    assert indicators.macd(few, 2, 3, 5) == (undefined,) * 3
    assert indicators.bollinger(few, 5, 2.0) == (undefined,) * 3


def same(ours: Sequence[float | None], theirs: Sequence[float], within: float) -> None:
    """Assert that both are defined from the same index on, and equal."""
    defined = [value == value for value in theirs]
    assert [value is not None for value in ours] == defined
    left = [value for value in ours if value is not None]
    right = [float(value) for value, is_one in zip(theirs, defined, strict=True) if is_one]
    assert left == pytest.approx(right, abs=within, rel=0)


@pytest.mark.parametrize("seed", range(5))
def test_indicators_equal_ta_libs(seed: int) -> None:
    """TA-Lib seeds the fast mean of MACD late; talipp does not, and differs at first."""
    talib = pytest.importorskip("talib")
    numpy = pytest.importorskip("numpy")
    chance = random.Random(seed)
    closes = [1.1]
    for _ in range(399):
        closes.append(round(closes[-1] + chance.gauss(0, 0.0004), 5))
    highs = [round(close + abs(chance.gauss(0, 0.0002)), 5) for close in closes]
    lows = [round(close - abs(chance.gauss(0, 0.0002)), 5) for close in closes]
    c, h, low = (numpy.array(values) for values in (closes, highs, lows))
    fast, slow, signal = chance.randint(2, 12), chance.randint(13, 40), chance.randint(2, 12)
    n = chance.randint(2, 30)
    same(indicators.sma(closes, n), talib.SMA(c, n), 1e-14)
    same(indicators.ema(closes, n), talib.EMA(c, n), 1e-14)
    same(indicators.rsi(closes, n), talib.RSI(c, n), 1e-10)
    same(indicators.atr(highs, lows, closes, n), talib.ATR(h, low, c, n), 1e-14)
    for ours, theirs in zip(
        indicators.macd(closes, fast, slow, signal), talib.MACD(c, fast, slow, signal), strict=True
    ):
        same(ours, theirs, 1e-14)
    # TA-Lib's variance is a difference of squares: its error at 1.1 is about 1e-9.
    for ours, theirs in zip(
        indicators.bollinger(closes, n, 2.0), talib.BBANDS(c, n, 2.0, 2.0, 0), strict=True
    ):
        same(ours, theirs, 1e-8)
