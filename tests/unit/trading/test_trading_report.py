"""The report of a replay: figures, drawdown, hash, CSV and picture."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.trading.equity_picture import equity_svg
from manager.trading.report import (
    Drawdown,
    EquityPoint,
    Trade,
    equity_csv,
    figures,
    max_drawdown,
    report,
    trades_hash,
)

D = Decimal
START = datetime(2026, 11, 23, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def trade(n: int, profit: str, **changes: Any) -> Trade:
    data: dict[str, Any] = {
        "symbol": "EURUSD",
        "side": "long",
        "volume": D("0.50"),
        "opened_at": START + n * MINUTE,
        "open_price": D("1.08512"),
        "closed_at": START + (n + 5) * MINUTE,
        "close_price": D("1.08612"),
        "profit": D(profit),
        "why": "target",
    }
    return Trade(**{**data, **changes})


def curve(*values: str | int) -> list[EquityPoint]:
    return [EquityPoint(START + n * MINUTE, D(value)) for n, value in enumerate(values)]


TRADES = [trade(n, profit) for n, profit in enumerate(["50", "-20.10", "-9.90", "0", "-5", "30.00"])]


def test_the_figures_of_trades() -> None:
    found = figures(TRADES)
    assert (found.trades, found.wins, found.losses) == (6, 2, 3)
    assert (found.gross_profit, found.gross_loss, found.net_profit) == (D(80), D(35), D(45))
    assert found.profit_factor == D("2.2857")
    assert found.win_rate == D("0.3333")
    assert found.longest_losing_run == 2


def test_figures_without_trades_and_without_losses() -> None:
    nothing = figures([])
    assert (nothing.profit_factor, nothing.win_rate, nothing.longest_losing_run) == (None, None, 0)
    assert figures(TRADES[:1]).profit_factor is None


def test_a_losing_run_follows_the_sequence_of_closes() -> None:
    late = [replace(TRADES[0], closed_at=START + timedelta(days=1)), *TRADES[1:3], TRADES[4]]
    assert figures(late).longest_losing_run == 3


def test_the_deepest_fall() -> None:
    found = max_drawdown(curve(1000, 900, 2000, 1850, 1900, 2100))
    assert found == Drawdown(D(150), START + 2 * MINUTE, START + 3 * MINUTE, D(10))
    assert max_drawdown(curve(1, 2, 3)) == Drawdown()
    assert max_drawdown([]) == Drawdown()
    assert max_drawdown(curve(3, 2)).percent == D("33.3334")
    assert max_drawdown(curve(0, -5)).percent is None


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=30))
def test_the_deepest_fall_is_that_of_all_pairs(values: list[int]) -> None:
    pairs = [(a, b) for at, a in enumerate(values) for b in values[at:]]
    found = max_drawdown(curve(*values))
    assert found.amount == max(a - b for a, b in pairs)
    assert found.percent is not None
    assert float(found.percent) == pytest.approx(max(100 * (a - b) / a for a, b in pairs), abs=1.01e-4)


def test_the_same_trades_have_the_same_hash() -> None:
    same = [
        replace(
            one,
            volume=D("0.5"),
            profit=one.profit.quantize(D("0.0001")),
            opened_at=one.opened_at.astimezone(timezone(timedelta(hours=9))),
        )
        for one in reversed(TRADES)
    ]
    assert trades_hash(same) == trades_hash(TRADES)
    for changes in ({"profit": D("50.01")}, {"side": "short"}, {"why": "stop"}, {"closed_at": START}):
        other = [replace(TRADES[0], **changes), *TRADES[1:]]
        assert trades_hash(other) != trades_hash(TRADES), changes


def test_the_report_is_json_with_texts_for_money() -> None:
    found = report(TRADES, curve("10000.00", "10050", "10020.10"), ["daily"])
    assert json.loads(json.dumps(found)) == found
    assert found["trades"][1] == {
        "symbol": "EURUSD",
        "side": "long",
        "volume": "0.5",
        "opened_at": "2026-11-23T12:01:00Z",
        "open_price": "1.08512",
        "closed_at": "2026-11-23T12:06:00Z",
        "close_price": "1.08612",
        "profit": "-20.1",
        "why": "target",
    }
    assert found["equity"][0] == ["2026-11-23T12:00:00Z", "10000"]
    assert (found["max_drawdown"], found["max_drawdown_percent"]) == ("29.9", "0.2976")
    assert (found["net_profit"], found["profit_factor"]) == ("45", "2.2857")
    assert found["stopped_by"] == ["daily"]
    assert found["hash"] == trades_hash(TRADES)
    assert report([], [])["profit_factor"] is None


def test_the_curve_as_csv() -> None:
    text = equity_csv(curve("10000.00", "1E+4"))
    assert text == "time,equity\n2026-11-23T12:00:00Z,10000\n2026-11-23T12:01:00Z,10000\n"


def drawn(points: Sequence[EquityPoint], title: str = "account") -> list[tuple[float, float]]:
    picture = ElementTree.fromstring(equity_svg(points, title))
    line = picture.find("{http://www.w3.org/2000/svg}polyline")
    if line is None:
        return []
    pairs = [pair.split(",") for pair in line.attrib["points"].split()]
    return [(float(x), float(y)) for x, y in pairs]


def test_the_curve_as_a_picture() -> None:
    places = drawn(curve(100, 50, 150))
    assert [x for x, _ in places] == [90.0, 485.0, 880.0]
    assert [y for _, y in places] == [160.0, 280.0, 40.0]
    assert drawn(curve(5, 5)) == [(90.0, 40.0), (880.0, 40.0)]


def test_a_long_curve_keeps_its_extremes_and_a_bounded_size() -> None:
    values = [1000] * 50_000
    values[20_001], values[40_001] = 1, 5_000
    places = drawn(curve(*values))
    assert len(places) <= 2 * 780 + 2
    assert {min(y for _, y in places), max(y for _, y in places)} == {40.0, 280.0}


def test_a_picture_without_a_curve_and_with_a_title_that_needs_escapes() -> None:
    text = equity_svg(curve(1), "<a & b>")
    assert "less than two points" in text
    assert "&lt;a &amp; b&gt;" in text
    assert drawn(curve(1), "<a & b>") == []
