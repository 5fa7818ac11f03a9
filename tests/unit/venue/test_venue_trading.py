"""Money at the venue: invariants over any sequence of orders."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manager.venue.broker import Broker, RefusedError
from manager.venue.ledger import Ledger
from manager.venue.prices import (
    LISTINGS,
    Prices,
    Quote,
    ReplayPrices,
    SeededPrices,
    UnknownSymbolError,
    listing,
)

KEY = ("S", "1")


class SetPrices:
    """Prices that a test sets."""

    def __init__(self) -> None:
        self.middle = {"EURUSD": Decimal("1.10000"), "USDJPY": Decimal("150.000")}

    def quote(self, symbol: str) -> Quote:
        spread = listing(symbol).spread
        bid = self.middle[symbol] - spread / 2
        return Quote(bid, bid + spread, 0.0)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = Ledger(tmp_path / "venue.sqlite")
    yield found
    found.close()


def desk_of(ledger: Ledger, prices: Prices, mode: str = "hedging") -> Broker:
    ledger.create_account(KEY, "x", position_mode=mode)
    return Broker(ledger, prices, lambda: 1_000.0)


def order(desk: Broker, number: int, symbol: str, side: str, volume: str) -> dict[str, str]:
    request = {"client_order_id": f"o{number}", "symbol": symbol, "side": side, "volume": volume}
    return desk.order(KEY, request)


def test_a_long_and_a_short_earn_what_the_price_moved(ledger: Ledger) -> None:
    prices = SetPrices()
    desk = desk_of(ledger, prices)
    long = order(desk, 1, "EURUSD", "buy", "0.10")
    short = order(desk, 2, "USDJPY", "sell", "0.10")
    assert desk.figures(KEY)["equity"] == "9998.00", "the spreads: 12 points of 10 cents, 12 of 10 yen"
    prices.middle = {"EURUSD": Decimal("1.10100"), "USDJPY": Decimal("149.000")}
    profits = {position["id"]: Decimal(position["profit"]) for position in desk.positions(KEY)}
    assert profits[long["id"]] == Decimal("8.80")
    assert profits[short["id"]] == Decimal("66.31"), "9,880 yen at 148.994"
    desk.close(KEY, {"position_id": long["id"]})
    assert desk.figures(KEY)["balance"] == "10008.80"


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(["hedging", "netting"]),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["EURUSD", "USDJPY"]),
            st.sampled_from(["buy", "sell", "close"]),
            st.sampled_from(["0.01", "0.10", "0.25", "40"]),
            st.integers(-300, 300),
        ),
        max_size=12,
    ),
)
def test_equity_is_balance_and_floating_profit(mode: str, steps: list[tuple[str, str, str, int]]) -> None:
    with tempfile.TemporaryDirectory(prefix="wm-") as directory:
        _trade(Ledger(Path(directory) / "venue.sqlite"), mode, steps)


def _trade(ledger: Ledger, mode: str, steps: list[tuple[str, str, str, int]]) -> None:
    prices = SetPrices()
    desk = desk_of(ledger, prices, mode)
    for number, (symbol, what, volume, moved) in enumerate(steps):
        prices.middle[symbol] += moved * listing(symbol).tick_size
        before = desk.figures(KEY)
        try:
            if what == "close":
                held = desk.positions(KEY)
                desk.close(KEY, {"position_id": held[0]["id"] if held else "7"})
            else:
                order(desk, number, symbol, what, volume)
        except RefusedError as error:
            assert error.code == "insufficient_funds"
            assert desk.figures(KEY) == before, "a refused order changes nothing"
        figures = desk.figures(KEY)
        positions = desk.positions(KEY)
        floating = sum((Decimal(p["profit"]) for p in positions), Decimal(0))
        assert Decimal(figures["equity"]) == Decimal(figures["balance"]) + floating
        assert Decimal(figures["free_margin"]) == Decimal(figures["equity"]) - Decimal(figures["margin"])
        assert figures["open_positions"] == len(positions)
        if mode == "netting":
            assert len({p["symbol"] for p in positions}) == len(positions)
    ledger.close()


def test_netting_reduces_and_turns_around(ledger: Ledger) -> None:
    desk = desk_of(ledger, SetPrices(), "netting")
    order(desk, 1, "EURUSD", "buy", "0.30")
    order(desk, 2, "EURUSD", "sell", "0.10")
    assert [(p["side"], p["volume"]) for p in desk.positions(KEY)] == [("buy", "0.20")]
    order(desk, 3, "EURUSD", "sell", "0.50")
    assert [(p["side"], p["volume"]) for p in desk.positions(KEY)] == [("sell", "0.30")]


def test_part_of_a_position_is_closed(ledger: Ledger) -> None:
    desk = desk_of(ledger, SetPrices())
    held = order(desk, 1, "EURUSD", "buy", "0.30")
    assert desk.close(KEY, {"position_id": held["id"], "volume": "0.10"}) == {"closed": "0.10"}
    assert desk.positions(KEY)[0]["volume"] == "0.20"


@pytest.mark.parametrize("volume", ["NaN", "Infinity", "1e400", "0.015", "abc", None, "9" * 400])
def test_a_hostile_volume_is_refused(ledger: Ledger, volume: str) -> None:
    with pytest.raises(RefusedError, match=r"0\.01 to 100 in steps of 0\.01"):
        order(desk_of(ledger, SetPrices()), 1, "EURUSD", "buy", volume)


def test_the_same_seed_gives_the_same_prices_in_every_process() -> None:
    script = (
        "from manager.venue.prices import SeededPrices, LISTINGS\n"
        "p = SeededPrices(7, lambda: 1_700_000_000.25)\n"
        "print([str(p.quote(s).bid) for s in LISTINGS])"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1
    here = SeededPrices(7, lambda: 1_700_000_000.25)
    assert str([str(here.quote(symbol).bid) for symbol in LISTINGS]) in answers.pop().decode()
    other = SeededPrices(8, lambda: 1_700_000_000.25)
    assert here.quote("EURUSD") != other.quote("EURUSD")


@given(st.floats(0, 4e9), st.sampled_from(sorted(LISTINGS)))
def test_seeded_prices_stay_near_the_middle_at_any_time(time: float, symbol: str) -> None:
    quote = SeededPrices(1, lambda: time).quote(symbol)
    middle = LISTINGS[symbol].middle
    assert 0.95 * middle < float(quote.bid) < float(quote.ask) < 1.05 * middle


def test_seeded_prices_move() -> None:
    now = [1_000_000.0]
    prices = SeededPrices(1, lambda: now[0])
    seen = []
    for step in range(60):
        now[0] = 1_000_000.0 + step
        seen.append(prices.quote("EURUSD").bid)
    assert sum(a != b for a, b in pairwise(seen)) > 30


def test_replay_follows_the_bars_and_stands_still_after_them(tmp_path: Path) -> None:
    (tmp_path / "EURUSD.csv").write_text(
        "time,open,high,low,close\n"
        "2026-01-02T00:00:00,1.10,1.12,1.09,1.11\n"
        "2026-01-02T00:01:00,1.11,1.11,1.05,1.06\n"
    )
    now = [5_000.0]
    prices = ReplayPrices(tmp_path, lambda: now[0], speed=60.0)
    half = listing("EURUSD").spread / 2
    seen = []
    for seconds in (0, 1 / 3, 2 / 3, 1, 2, 50):
        now[0] = 5_000.0 + seconds
        seen.append(round(float(prices.quote("EURUSD").bid + half), 4))
    assert seen == [1.10, 1.09, 1.12, 1.11, 1.06, 1.06]
    assert prices.quote("EURUSD").time == 5_002.0, "the last tick grows old"
    with pytest.raises(UnknownSymbolError, match="is not replayed here; EURUSD"):
        prices.quote("GBPUSD")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "time,open\n1,2\n",
        "time,open,high,low,close\n5,1,1,1,1\n4,1,1,1,1\n",
        "time,open,high,low,close\nx,1,1,1,1\n",
    ],
)
def test_a_broken_replay_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "EURUSD.csv").write_text(text)
    with pytest.raises(ValueError, match=r"EURUSD\.csv"):
        ReplayPrices(tmp_path, lambda: 0.0)
