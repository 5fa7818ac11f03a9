"""Closing positions at a stop, until the deadline; the rest is reported."""

import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from support.venue import VenueProcess

from manager.gateways.base import (
    ConnectionLost,
    GatewayError,
    InvalidRequest,
    MarketClosed,
    NotSupported,
    OrderRejected,
    OutcomeUnknown,
    PriceMoved,
    RateLimited,
    Side,
    TradingDisabled,
)
from manager.gateways.fake import FakeGateway
from manager.gateways.paper.gateway import PaperGateway
from manager.session import closing
from manager.session.closing import ClosingReport, close_positions


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(closing, "_LONGEST_PAUSE", 0.01)


@pytest.fixture
def gateway() -> FakeGateway:
    found = FakeGateway()
    found.connect(soon())
    for number in range(1, 4):
        found.submit_order(f"o{number}", symbol="EURUSD", side=Side.BUY, volume=Decimal("0.1"))
    found.calls.clear()
    return found


def soon(seconds: float = 10) -> float:
    return time.monotonic() + seconds


def close(gateway: FakeGateway, seconds: float = 10) -> ClosingReport:
    return close_positions(gateway, soon(seconds))


def test_all_are_closed_and_looked_at_again(gateway: FakeGateway) -> None:
    report = close(gateway)
    assert report.complete
    assert gateway.calls == ["positions", *["close_position"] * 3, "positions"]
    assert str(report) == "3 of 3 open positions were closed"


@pytest.mark.parametrize(
    "error", [PriceMoved("requote"), RateLimited("slow down"), MarketClosed("till Sunday")]
)
def test_a_refusal_that_passes_is_tried_again(gateway: FakeGateway, error: GatewayError) -> None:
    for _ in range(4):
        gateway.script("close_position", error)
    assert close(gateway).complete
    assert gateway.positions() == []


@pytest.mark.parametrize(
    "error", [OrderRejected("no"), TradingDisabled("read only"), InvalidRequest("what?")]
)
def test_a_refusal_that_does_not_pass_stops_no_other(gateway: FakeGateway, error: GatewayError) -> None:
    gateway.script("close_position", error)
    report = close(gateway)
    assert [position.id for position in gateway.positions()] == ["1"]
    assert gateway.calls.count("close_position") == 3, "it is not sent again"
    assert not report.complete
    assert str(report) == f"1 of 3 positions stay open: 1 EURUSD ({error.code}: {error})"


def test_an_unknown_outcome_is_looked_at_before_anything_is_sent_again(gateway: FakeGateway) -> None:
    """The venue has closed one of two with a lost answer: it is not repeated."""

    def carried_out() -> None:
        gateway._positions.pop("1")
        raise OutcomeUnknown("no answer")

    gateway.script("close_position", carried_out)
    gateway.script("close_position", OutcomeUnknown("no answer"))
    report = close(gateway)
    assert report.complete
    assert gateway.calls == [
        "positions",
        *["close_position"] * 3,
        "positions",
        "close_position",  # of position 2 alone
        "positions",
    ]


def test_once_the_session_is_gone_nothing_more_is_tried(gateway: FakeGateway) -> None:
    gateway.script("close_position", lambda: None)
    gateway.script("close_position", ConnectionLost("reset by peer"))
    report = close(gateway)
    assert gateway.calls == ["positions", "close_position", "close_position"]
    assert str(report) == (
        "2 of 3 positions stay open: 2 EURUSD (connection_lost: reset by peer), "
        "3 EURUSD (not tried: connection_lost: reset by peer)"
    )


def test_the_deadline_ends_it_and_every_position_is_accounted_for(gateway: FakeGateway) -> None:
    for _ in range(10_000):
        gateway.script("close_position", PriceMoved("requote"))
    report = close(gateway, 0.05)
    assert len(report.open) == 3
    assert str(report).startswith("3 of 3 positions stay open: 1 EURUSD (price_moved: requote), 2 EURUSD (")
    assert close(gateway, 0.0).open == dict.fromkeys("123", "not tried")


def test_positions_that_cannot_be_read_are_reported_and_read_again_where_that_helps(
    gateway: FakeGateway,
) -> None:
    gateway.script("positions", RateLimited("slow down"))
    assert close(gateway).complete
    gateway.submit_order("o4", symbol="EURUSD", side=Side.BUY, volume=Decimal("0.1"))
    gateway.script("positions", ConnectionLost("gone"))
    report = close(gateway)
    assert not report.complete
    assert str(report) == "open positions could not be read, so none was closed: connection_lost: gone"


def test_a_gateway_without_positions_has_none_to_close(gateway: FakeGateway) -> None:
    gateway.script("positions", NotSupported("its own affair"))
    assert close(gateway).complete


def test_a_long_list_is_reported_in_part() -> None:
    report = ClosingReport(dict.fromkeys("1234567", "EURUSD"), dict.fromkeys("1234567", "order_rejected: no"))
    assert str(report).endswith("5 EURUSD (order_rejected: no), and 2 more")


@pytest.fixture
def paper(venue: VenueProcess) -> Iterator[Callable[..., PaperGateway]]:
    gateway = venue.gateway()
    gateway.connect(soon())
    for number in range(3):
        gateway.submit_order(f"o{number}", symbol="EURUSD", side=Side.BUY, volume=Decimal("0.1"))

    def with_fault(kind: str, **script: Any) -> PaperGateway:
        with venue.admin() as admin:
            admin.script_fault("Paper-1", 5001, kind, on=("close",), **script)
        return gateway

    yield with_fault
    gateway.disconnect()


def test_requotes_of_a_real_venue_are_waited_out(paper: Callable[..., PaperGateway]) -> None:
    gateway = paper("requote", count=4)
    assert close_positions(gateway, soon()).complete
    assert gateway.positions() == []


def test_a_venue_that_forbids_trading_keeps_every_position_and_the_session(
    paper: Callable[..., PaperGateway],
) -> None:
    gateway = paper("trading_disabled")
    report = close_positions(gateway, soon())
    assert len(report.open) == 3
    assert "trading_disabled" in str(report)
    assert len(gateway.positions()) == 3, "the session is there"


def test_a_lost_reply_does_not_cause_a_second_request(
    paper: Callable[..., PaperGateway], venue: VenueProcess
) -> None:
    gateway = paper("reply_lost", count=1)
    report = close_positions(gateway, soon())
    assert not report.complete, "the connection was lost with the reply, so the positions cannot be read"
    assert "3 of 3 positions may be open" in str(report)
    again = venue.gateway()
    again.connect(soon())
    assert len(again.positions()) == 2
    again.disconnect()
