"""The contract of every trading gateway, also of the shipped fake one and the guard around each."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Protocol

import pytest
from support.venue import VenueProcess

from manager.gateways.base import (
    AuthenticationFailed,
    ConnectionLost,
    Environment,
    Gateway,
    GatewayError,
    InvalidRequest,
    Side,
)
from manager.gateways.fake import FakeGateway
from manager.session.guarded_gateway import GuardedGateway
from manager.session.heartbeat_file import HeartbeatWriter
from manager.session.lease import Lease


class Make(Protocol):
    def __call__(self, *, given: str = "right") -> Gateway: ...


@pytest.fixture(params=["fake", "paper", "guarded"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Return a factory of unconnected gateways for one account whose password is `right`."""
    made: list[Gateway] = []
    if request.param == "fake":

        def fake(*, given: str = "right") -> Gateway:
            return FakeGateway(given=given)

        yield fake
        return
    if request.param == "guarded":
        beat = HeartbeatWriter(tmp_path / "beat")

        def guarded(*, given: str = "right") -> Gateway:
            return GuardedGateway(FakeGateway(given=given), beat, Lease(0.0, 0.0, lambda _why: None))

        yield guarded
        beat.close()
        return
    venue: VenueProcess = request.getfixturevalue("venue")
    with venue.admin() as admin:
        admin.create_account("Paper-1", 5001, "right")

    def paper(*, given: str = "right") -> Gateway:
        made.append(venue.gateway(password=given))
        return made[-1]

    yield paper
    for gateway in made:
        gateway.disconnect()


@pytest.fixture
def gateway(make: Make) -> Gateway:
    found = make()
    found.connect(soon())
    return found


def soon() -> float:
    return time.monotonic() + 5


def test_a_session_describes_itself(make: Make) -> None:
    session = make().connect(soon())
    assert session.environment is Environment.DEMO
    assert session.can_trade
    assert session.blocked_reason is None
    assert session.currency == "USD"
    assert session.leverage >= 1


def test_a_wrong_password_is_refused_and_never_shown(make: Make) -> None:
    gateway = make(given="wr0ng-password")
    with pytest.raises(AuthenticationFailed) as caught:
        gateway.connect(soon())
    assert not caught.value.retryable
    assert "wr0ng" not in str(caught.value)
    assert "wr0ng" not in repr(gateway)
    assert gateway.check().ipc_ok is False


def test_before_a_session_every_call_is_connection_lost(make: Make) -> None:
    gateway = make()
    calls: list[Callable[[], object]] = [
        gateway.account,
        gateway.positions,
        lambda: gateway.tick("EURUSD"),
        lambda: gateway.instrument("EURUSD"),
        lambda: gateway.submit_order("o", symbol="EURUSD", side=Side.BUY, volume=Decimal("0.01")),
        lambda: gateway.close_position("1"),
    ]
    for call in calls:
        with pytest.raises(ConnectionLost):
            call()
    health = gateway.check()
    assert not health.ipc_ok
    assert health.reason


def test_health_of_a_good_session(gateway: Gateway) -> None:
    health = gateway.check()
    assert (health.ipc_ok, health.venue_connected, health.can_trade, health.account_matches) == (True,) * 4
    assert health.reason is None


def test_amounts_are_decimal_and_consistent(gateway: Gateway) -> None:
    account = gateway.account()
    for value in (account.balance, account.equity, account.margin, account.free_margin):
        assert isinstance(value, Decimal)
    assert account.free_margin == account.equity - account.margin
    assert account.open_positions == len(gateway.positions()) == 0


def test_ticks_are_decimal_recent_and_utc(gateway: Gateway) -> None:
    tick = gateway.tick("EURUSD")
    assert tick.bid < tick.ask
    assert isinstance(tick.bid, Decimal)
    assert tick.time.utcoffset() == timedelta(0)
    assert abs((datetime.now(UTC) - tick.time).total_seconds()) < 5
    assert gateway.instrument("EURUSD").tick_size == Decimal("0.00001")


def test_an_unknown_symbol_is_an_invalid_request_that_names_the_known_ones(gateway: Gateway) -> None:
    for call in (gateway.tick, gateway.instrument):
        with pytest.raises(InvalidRequest, match="'NOPE' is not listed here; EURUSD"):
            call("NOPE")


def test_an_order_sent_twice_is_carried_out_once(gateway: Gateway) -> None:
    first = gateway.submit_order("order-1", symbol="EURUSD", side=Side.BUY, volume=Decimal("0.10"))
    again = gateway.submit_order("order-1", symbol="EURUSD", side=Side.BUY, volume=Decimal("0.10"))
    assert again.id == first.id
    (held,) = gateway.positions()
    assert (held.id, held.symbol, held.side, held.volume) == (first.id, "EURUSD", Side.BUY, Decimal("0.10"))
    assert gateway.account().open_positions == 1


def test_closing_a_closed_position_is_success(gateway: Gateway) -> None:
    position = gateway.submit_order("order-1", symbol="EURUSD", side=Side.SELL, volume=Decimal("0.10"))
    gateway.close_position(position.id)
    gateway.close_position(position.id)
    gateway.close_position("never-was")
    assert gateway.positions() == []


def test_an_impossible_volume_is_an_invalid_request(gateway: Gateway) -> None:
    for volume in ("0", "-1", "1000000"):
        with pytest.raises(InvalidRequest):
            gateway.submit_order("o", symbol="EURUSD", side=Side.BUY, volume=Decimal(volume))
    assert gateway.positions() == []


def test_disconnecting_is_idempotent_and_a_new_session_is_possible(make: Make) -> None:
    gateway = make()
    gateway.disconnect()
    gateway.connect(soon())
    gateway.disconnect()
    gateway.disconnect()
    with pytest.raises(ConnectionLost):
        gateway.account()
    gateway.connect(soon())
    assert gateway.account().balance > 0


def test_every_error_has_a_distinct_code() -> None:
    codes = [error.code for error in GatewayError.__subclasses__()]
    assert len(codes) == len(set(codes))
