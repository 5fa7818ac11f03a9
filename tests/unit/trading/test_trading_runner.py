"""The runner: one decision for each new bar, and none on bars or strategies that are wrong."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from support.bar_series import START, bars_of, tick_bars
from support.instruments import EURUSD

from manager.gateways.base import Bar, Instrument
from manager.market.names import SessionName
from manager.trading.bars import BarsError, MarketHours, check_bars
from manager.trading.runner import Step, StepKind, StrategyRunner
from manager.trading.strategies.rsi import RSI
from manager.trading.strategies.simple_ma import SimpleMA
from manager.trading.strategy import Decision, Strategy, all_params
from manager.trading.timeframes import bar_end

BARS = bars_of(tick_bars())
FX = MarketHours("fx")
MINUTE = timedelta(minutes=1)
FIVE = 5 * MINUTE


def runner(strategy: Strategy | None = None, warmup: int | None = 60) -> StrategyRunner:
    chosen = SimpleMA({}) if strategy is None else strategy
    return StrategyRunner(chosen, symbol="EURUSD", timeframe="M5", hours=FX, warmup=warmup)


def step(run: StrategyRunner, bars: Sequence[Bar], late: timedelta = timedelta()) -> Step:
    now = bar_end(bars[-1].time, "M5") + late if bars else START
    return run.step(bars, EURUSD, now)


def test_a_replay_and_a_live_session_decide_the_same_however_often_they_restart() -> None:
    whole = runner()
    chance = random.Random(3)
    live = runner()
    seen = 0
    for end in range(60, 301):
        expected = step(whole, BARS[:end])
        assert expected.kind is StepKind.DECIDED
        # A live session fetches the last 200 bars, some seconds late, and restarts now and then.
        if chance.random() < 0.2:
            live = runner()
        found = step(live, BARS[max(0, end - 200) : end], late=timedelta(seconds=chance.randint(0, 200)))
        assert found == expected
        seen += expected.decision is not None and expected.decision.enter is not None
    assert seen == 11


def test_a_bar_has_one_decision() -> None:
    run = runner()
    first = step(run, BARS[:100])
    assert (first.kind, first.bar_time) == (StepKind.DECIDED, BARS[99].time)
    assert first.signal_at == BARS[99].time + FIVE
    again = step(run, BARS[:100], late=MINUTE)
    assert (again.kind, again.decision) == (StepKind.NO_NEW_BAR, None)
    assert step(run, BARS[:101]).kind is StepKind.DECIDED


def test_it_warms_up_first() -> None:
    run = runner(warmup=None)
    assert run.warmup == 250
    for end in (0, 1, 249):
        found = step(run, BARS[:end])
        assert (found.kind, found.decision) == (StepKind.WARMING_UP, None)
        assert found.why == f"{end} of 250 closed bars"
    assert step(run, BARS[:250]).kind is StepKind.DECIDED


class Recorder:
    """Notes the bars that it is given."""

    warmup = 40

    def __init__(self, answer: Any = None) -> None:
        self.seen: list[Sequence[Bar]] = []
        self.answer = Decision(why="-") if answer is None else answer

    def decide(self, bars: Sequence[Bar], instrument: Instrument) -> Decision:
        assert instrument is EURUSD
        self.seen.append(bars)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_the_window_is_exactly_the_warmup() -> None:
    recorder = Recorder()
    step(runner(recorder, warmup=None), BARS[:100])
    step(runner(recorder, warmup=55), BARS[:100])
    assert [list(bars) for bars in recorder.seen] == [BARS[60:100], BARS[45:100]]
    assert isinstance(recorder.seen[0], tuple)


def test_the_forming_bar_is_refused() -> None:
    """freqtrade#9813, #746: signals of a forming candle cannot be reproduced."""
    found = runner().step(BARS[:100], EURUSD, BARS[99].time + 4 * MINUTE)
    assert (found.kind, found.decision) == (StepKind.DEGRADED, None)
    assert found.why == "bars: the bar of 2026-11-23 20:15 is not closed: it ends 60 s later"


def wrong(change: Any) -> list[Bar]:
    bars = list(BARS[:100])
    change(bars)
    return bars


def put(bars: list[Bar], **changes: Any) -> None:
    bars[70] = replace(bars[70], **changes)


WRONG: dict[str, tuple[Any, str]] = {
    "missing": (lambda bars: bars.pop(70), "bars are missing between 2026-11-23 17:45 and 2026-11-23 17:55"),
    "repeated": (lambda bars: bars.insert(70, bars[70]), "the bar of 2026-11-23 17:50 is repeated"),
    "swapped": (
        lambda bars: bars.insert(70, bars.pop(71)),
        "bars are missing between 2026-11-23 17:45 and 2026-11-23 17:55",
    ),
    "newest first": (lambda bars: bars.reverse(), "bars are out of order"),
    "off the grid": (lambda bars: put(bars, time=bars[70].time + MINUTE), "does not begin where a bar of M5"),
    "other symbol": (lambda bars: put(bars, symbol="GBPUSD"), "the venue sent GBPUSD M5"),
    "other timeframe": (lambda bars: put(bars, timeframe="M1"), "the venue sent EURUSD M1"),
    "naive": (lambda bars: put(bars, time=bars[70].time.replace(tzinfo=None)), "no time zone"),
    "no price": (lambda bars: put(bars, close=Decimal(0)), "not a number above 0"),
    "nan": (lambda bars: put(bars, close=Decimal("NaN")), "not a number above 0"),
    "outside": (lambda bars: put(bars, close=Decimal(2)), "prices outside its high"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_bars_never_give_a_decision(name: str) -> None:
    change, text = WRONG[name]
    bars = wrong(change)
    found = runner().step(bars, EURUSD, BARS[99].time + FIVE)
    assert (found.kind, found.decision) == (StepKind.DEGRADED, None)
    assert found.why.startswith("bars: ")
    assert text in found.why


def test_bars_before_the_window_do_not_matter() -> None:
    bars = [*BARS[:20], *BARS[30:100]]
    assert step(runner(), bars).kind is StepKind.DECIDED


def test_bars_that_end_long_ago_are_missing_while_the_market_is_open() -> None:
    found = step(runner(), BARS[:100], late=10 * MINUTE)
    assert found.why == "bars: bars are missing since 2026-11-23 20:20 UTC, and the market is open"
    assert step(runner(), BARS[:100], late=9 * MINUTE).kind is StepKind.DECIDED


def test_a_bar_that_was_decided_on_may_not_vanish() -> None:
    run = runner(warmup=40)
    assert step(run, BARS[:100]).kind is StepKind.DECIDED
    older = run.step(BARS[:99], EURUSD, BARS[99].time + FIVE)
    assert older.kind is StepKind.DEGRADED
    assert "before that of 2026-11-23 20:15, which was decided on" in older.why
    assert step(run, BARS[:101]).kind is StepKind.DECIDED


@pytest.mark.parametrize("name", WRONG)
def test_wrong_bars_are_found_after_the_rest_was_checked(name: str) -> None:
    change, text = WRONG[name]
    run = runner(warmup=80)
    assert step(run, BARS[:99]).kind is StepKind.DECIDED
    found = run.step(wrong(change), EURUSD, BARS[99].time + FIVE)
    assert (found.kind, found.decision) == (StepKind.DEGRADED, None)
    assert text in found.why
    assert step(run, BARS[:100]).kind is StepKind.DECIDED


def test_a_hole_in_front_of_the_newest_bar_is_found() -> None:
    run = runner()
    assert step(run, BARS[:99]).kind is StepKind.DECIDED
    found = step(run, [*BARS[:99], BARS[100]])
    assert found.why.startswith("bars: bars are missing between 2026-11-23 20:10 and 2026-11-23 20:20")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero at "),
        ("long", "it returned str, not a Decision"),
        (Decision("buy"), "enter is 'buy'"),  # type: ignore[arg-type]
        (Decision(exit={"long"}), "exit is {'long'}"),  # type: ignore[arg-type]
        (Decision("long", stop_distance=Decimal(0)), "stop_distance is Decimal('0')"),
        (Decision("long", target_distance=0.1), "target_distance is 0.1"),  # type: ignore[arg-type]
        (Decision("long", stop_distance=Decimal("NaN")), "stop_distance is Decimal('NaN')"),
    ],
)
def test_a_strategy_that_fails_gives_no_decision(answer: Any, text: str) -> None:
    run = runner(Recorder(answer))
    for _ in range(2):
        found = step(run, BARS[:100])
        assert (found.kind, found.decision) == (StepKind.DEGRADED, None)
        assert found.why.startswith("strategy: ")
        assert text in found.why
    if isinstance(answer, Exception):
        assert "test_trading_runner.py:" in found.why


def test_the_parameters_for_the_key() -> None:
    assert all_params(RSI({}), {}) == {"rsi_period": 14, "oversold": 30, "overbought": 70}
    assert all_params(Recorder(), {"mine": 1}) == {"mine": 1}


def hours(name: SessionName, first: str, last: str) -> timedelta:
    return MarketHours(name).missing(
        datetime.fromisoformat(first).replace(tzinfo=UTC), datetime.fromisoformat(last).replace(tzinfo=UTC)
    )


def test_rests_of_the_market_are_not_missing_bars() -> None:
    # A weekend, with an hour's delay at the opening; winter time in New York is UTC-5.
    assert hours("fx", "2026-11-20T22:00", "2026-11-22T23:00") == timedelta()
    # The rollover, and the rest of metals after it, also in summer time.
    assert hours("fx", "2026-11-23T21:55", "2026-11-23T23:05") == timedelta()
    assert hours("fx", "2026-07-06T20:55", "2026-07-06T22:05") == timedelta()
    # A bar at noon is missing, and so is one just before the rollover's time.
    assert hours("fx", "2026-11-23T12:00", "2026-11-23T12:05") == FIVE
    assert hours("fx", "2026-11-23T21:50", "2026-11-23T22:00") == FIVE
    # A holiday lasts half a day or more, and not for weeks.
    assert hours("fx", "2026-12-24T18:00", "2026-12-25T23:00") == timedelta()
    assert hours("fx", "2026-11-23T04:00", "2026-11-23T15:59") == timedelta(hours=11, minutes=59)
    assert hours("fx", "2026-11-01T00:00", "2026-11-30T00:00") > timedelta(days=10)
    # Markets that never close have no rests.
    assert hours("crypto", "2026-12-25T00:00", "2026-12-26T00:00") == timedelta(days=1)
    assert hours("always", "2026-11-23T22:00", "2026-11-23T22:05") == FIVE


def bar(time: str, timeframe: str) -> Bar:
    one = Decimal(1)
    at = datetime.fromisoformat(time).replace(tzinfo=UTC)
    return Bar(symbol="EURUSD", timeframe=timeframe, time=at, open=one, high=one, low=one, close=one)


@pytest.mark.parametrize(
    ("timeframe", "times"),
    [
        # A server at UTC+2 in winter and UTC+3 in New York's summer, whose clock changed on 2026-11-01.
        ("D1", ["2026-10-29T21:00", "2026-11-01T22:00", "2026-11-02T22:00"]),
        ("D1", ["2026-12-23T22:00", "2026-12-27T22:00"]),
        ("D1", ["2026-03-05T22:00", "2026-03-08T21:00"]),
        ("H4", ["2026-10-30T17:00", "2026-11-01T22:00"]),
        ("W1", ["2026-10-24T21:00", "2026-10-31T21:00", "2026-11-07T22:00", "2027-03-13T22:00"][:3]),
        ("MN1", ["2026-01-31T22:00", "2026-02-28T22:00", "2026-03-31T21:00"]),
        ("MN1", ["2026-02-01T00:00", "2026-03-01T00:00", "2026-04-01T00:00"]),
    ],
)
def test_long_bars_of_venues_with_a_clock_of_their_own(timeframe: str, times: list[str]) -> None:
    bars = [bar(time, timeframe) for time in times]
    now = bar_end(bars[-1].time, timeframe)
    check_bars(bars, symbol="EURUSD", timeframe=timeframe, now=now, hours=FX)


def test_long_bars_that_overlap_or_leave_a_hole() -> None:
    for timeframe, times, text in (
        ("D1", ["2026-11-23T22:00", "2026-11-24T20:00"], "begins before"),
        ("H1", ["2026-11-23T12:00", "2026-11-23T12:30"], "begins before"),
        ("H4", ["2026-11-23T08:00", "2026-11-23T16:00"], "bars are missing"),
        ("MN1", ["2026-01-01T00:00", "2026-03-01T00:00"], "bars are missing"),
        ("W1", ["2026-11-07T22:00", "2026-11-21T22:00"], "bars are missing"),
    ):
        bars = [bar(time, timeframe) for time in times]
        now = bar_end(bars[-1].time, timeframe)
        with pytest.raises(BarsError, match=text):
            check_bars(bars, symbol="EURUSD", timeframe=timeframe, now=now, hours=FX)
