"""The guarded gateway: lease, then the record of the call, then the call."""

import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from manager.gateways.base import OrderRejected, Side, TradingPaused
from manager.gateways.fake import FakeGateway
from manager.session.guarded_gateway import ORDER_SECONDS, GuardedGateway
from manager.session.heartbeat_file import HeartbeatWriter, read_heartbeat
from manager.session.lease import Lease, LeaseLost
from manager.states import TradingMode


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "beat"


@pytest.fixture
def beat(path: Path) -> Iterator[HeartbeatWriter]:
    found = HeartbeatWriter(path)
    yield found
    found.close()


@pytest.fixture
def lease() -> Lease:
    return Lease(0.0, 0.0, lambda _why: None)


def order(gateway: GuardedGateway) -> None:
    gateway.submit_order("o1", symbol="EURUSD", side=Side.BUY, volume=Decimal("0.1"))


def test_an_order_in_flight_is_seen_from_outside_with_its_deadline(
    path: Path, beat: HeartbeatWriter, lease: Lease
) -> None:
    inner = FakeGateway()
    seen: list[object] = []

    def read_call() -> None:
        found = read_heartbeat(path)
        assert found is not None
        assert found.overdue_seconds is not None
        seen.append((found.call, -ORDER_SECONDS <= found.overdue_seconds < 1 - ORDER_SECONDS))

    inner.script("submit_order", read_call)
    inner.script("close_position", read_call)
    gateway = GuardedGateway(inner, beat, lease)
    gateway.connect(time.monotonic() + 5)
    order(gateway)
    gateway.close_position("1", Decimal("0.1"))
    assert seen == [("submit_order", True), ("close_position", True)]
    after = read_heartbeat(path)
    assert after is not None
    assert after.call is None


def test_a_refused_order_leaves_no_call_behind(path: Path, beat: HeartbeatWriter, lease: Lease) -> None:
    inner = FakeGateway()
    inner.script("submit_order", OrderRejected("no"))
    gateway = GuardedGateway(inner, beat, lease)
    gateway.connect(time.monotonic() + 5)
    with pytest.raises(OrderRejected):
        order(gateway)
    after = read_heartbeat(path)
    assert after is not None
    assert after.call is None


class Losable(Lease):
    """A lease whose loss does not end this process."""

    gone = False

    def check(self) -> None:
        if self.gone:
            raise LeaseLost("another worker has it")


def test_without_a_lease_nothing_is_sent_but_the_session_is_closed(beat: HeartbeatWriter) -> None:
    inner = FakeGateway()
    lease = Losable(0.0, 0.0, lambda _why: None)
    gateway = GuardedGateway(inner, beat, lease)
    gateway.connect(time.monotonic() + 5)
    inner.calls.clear()
    lease.gone = True
    with pytest.raises(LeaseLost):
        order(gateway)
    for call in (gateway.account, gateway.positions, gateway.check):
        with pytest.raises(LeaseLost):
            call()
    with pytest.raises(LeaseLost):
        gateway.close_position("1")
    assert inner.calls == []
    gateway.disconnect()
    assert inner.calls == ["disconnect"]


def test_a_gateway_of_before_without_a_deadline_works_and_is_reported(
    beat: HeartbeatWriter, lease: Lease
) -> None:
    class Old(FakeGateway):
        def disconnect(self) -> None:  # type: ignore[override]
            super().disconnect()

    inner = Old()
    with pytest.warns(DeprecationWarning, match=r"Old\.disconnect\(\) takes no deadline"):
        gateway = GuardedGateway(inner, beat, lease)  # type: ignore[arg-type]
    gateway.connect(time.monotonic() + 5)
    gateway.disconnect(time.monotonic() + 1)
    assert inner.calls[-1] == "disconnect"


def test_once_a_pause_is_acknowledged_no_order_leaves(beat: HeartbeatWriter, lease: Lease) -> None:
    """A pause waits for the order in flight and refuses the orders after it."""
    inner = FakeGateway()
    on_its_way, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        on_its_way.set()
        assert go_on.wait(10)

    inner.script("submit_order", slow)
    gateway = GuardedGateway(inner, beat, lease)
    gateway.connect(time.monotonic() + 5)
    sending = threading.Thread(target=order, args=(gateway,))
    sending.start()
    assert on_its_way.wait(10)
    assert gateway.set_mode(TradingMode.PAUSED, 0.01) is False, (
        "it is not paused while an order may still reach the venue"
    )
    go_on.set()
    assert gateway.set_mode(TradingMode.PAUSED, 10) is True
    sending.join()
    assert len(inner.positions()) == 1
    with pytest.raises(TradingPaused):
        gateway.submit_order("o2", symbol="EURUSD", side=Side.BUY, volume=Decimal("0.1"))
    assert len(inner.positions()) == 1
    gateway.close_position(inner.positions()[0].id)
    assert list(inner.positions()) == [], "what is open can be closed"
    assert gateway.set_mode(TradingMode.NORMAL, 1) is True
    gateway.submit_order("o3", symbol="EURUSD", side=Side.BUY, volume=Decimal("0.1"))


@pytest.mark.parametrize("mode", [TradingMode.WAITING, TradingMode.CLOSE_ONLY, TradingMode.PAUSED])
def test_only_the_normal_mode_sends_orders(beat: HeartbeatWriter, lease: Lease, mode: TradingMode) -> None:
    inner = FakeGateway()
    gateway = GuardedGateway(inner, beat, lease)
    gateway.connect(time.monotonic() + 5)
    order(gateway)
    assert gateway.set_mode(mode, 1) is True
    with pytest.raises(TradingPaused):
        gateway.submit_order("o2", symbol="EURUSD", side=Side.BUY, volume=Decimal("0.1"))
    gateway.close_position(inner.positions()[0].id)
    assert list(inner.positions()) == []
