"""A changed configuration reaches the running session."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest
from support.configs import config
from support.waiting import eventually
from support.worker_bench import Bench

from manager.config import AccountConfig
from manager.config.models import ExecutionConfig, HealthConfig
from manager.gateways.base import ConnectionLost, Gateway, Tick
from manager.models import WorkerMetrics
from manager.session.exit_codes import WorkerExit
from manager.session.reload import ConfigHandover, SessionBusyError


def reload(bench: Bench, new: AccountConfig) -> Mapping[str, Any]:
    return bench.ask({"op": "reload", "config": new.model_dump(mode="json", exclude={"password"})})


def changed(bench: Bench, **update: Any) -> AccountConfig:
    return bench.spec.config.model_copy(update=update)


def with_symbol(bench: Bench, symbol: str) -> AccountConfig:
    (first,) = bench.spec.config.currencies
    return changed(bench, currencies=(first, first.model_copy(update={"symbol": symbol})))


def test_thresholds_intervals_and_symbols_change_without_a_new_session(bench: Bench) -> None:
    symbols: set[str] = set()
    tick = bench.gateway.tick

    def noted(symbol: str) -> Tick:
        symbols.add(symbol)
        return tick(symbol)

    bench.gateway.tick = noted  # type: ignore[method-assign]

    def act(bench: Bench) -> None:
        new = with_symbol(bench, "GBPUSD").model_copy(
            update={
                "health": HealthConfig(cycle_seconds=0.0, market_hours="always"),
                "execution": ExecutionConfig(interval_seconds=0.02, stop_timeout_seconds=5),
            }
        )
        assert reload(bench, new) == {"ok": True, "error": None}
        eventually(lambda: bench.status()["health"] == "degraded", what="the new threshold counts")
        symbols.clear()
        eventually(lambda: symbols == {"EURUSD", "GBPUSD"}, what="the cycle reads both symbols")
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED
    assert bench.gateway.calls.count("connect") == 1


def test_a_shorter_interval_counts_at_once(bench: Bench) -> None:
    bench.spec = bench.spec.__class__(
        **{name: getattr(bench.spec, name) for name in bench.spec.__slots__}
        | {"config": changed(bench, execution=ExecutionConfig(interval_seconds=3600.0))}
    )

    def act(bench: Bench) -> None:
        eventually(lambda: "positions" in bench.gateway.calls, what="the first cycle")
        before = bench.gateway.calls.count("positions")
        assert reload(bench, changed(bench, execution=ExecutionConfig(interval_seconds=0.05)))["ok"]
        eventually(lambda: bench.gateway.calls.count("positions") > before + 1, what="further cycles")
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED


def test_a_symbol_that_the_venue_does_not_know_changes_nothing(bench: Bench) -> None:
    def act(bench: Bench) -> None:
        new = with_symbol(bench, "NOWHERE").model_copy(update={"health": HealthConfig(cycle_seconds=0.0)})
        answer = reload(bench, new)
        assert not answer["ok"]
        assert "currencies: NOWHERE: invalid_request" in answer["error"]
        time.sleep(0.2)
        assert bench.status()["health"] == "healthy", "no part of the change was applied"
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED


def test_open_positions_of_the_changed_configuration_count_at_the_stop(bench: Bench) -> None:
    def act(bench: Bench) -> None:
        assert reload(bench, changed(bench, execution=ExecutionConfig(open_positions="close")))["ok"]
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED
    calls = bench.gateway.calls
    assert "positions" in calls[len(calls) - 4 :], "the stop looked for positions to close"


def test_a_session_that_is_lost_during_the_change_ends_and_answers(bench: Bench) -> None:
    def act(bench: Bench) -> None:
        bench.gateway.script("tick", ConnectionLost("hung up"))
        answer = reload(bench, with_symbol(bench, "GBPUSD"))
        assert answer["ok"] is False

    assert bench.run(act) is WorkerExit.CONNECTION_LOST


def test_a_strategy_without_reload_keeps_its_configuration(bench: Bench) -> None:
    class Fixed:
        def run(self, gateway: Gateway) -> WorkerMetrics:
            del gateway
            return WorkerMetrics()

    bench.cycle = Fixed()

    def act(bench: Bench) -> None:
        answer = reload(bench, changed(bench, health=HealthConfig(cycle_seconds=0.0)))
        assert answer == {
            "ok": False,
            "error": "its strategy takes a changed configuration only at a restart",
        }
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED


@pytest.mark.parametrize("payload", [None, {}, "text", {"account_id": "a", "gateway": 5}])
def test_a_configuration_that_cannot_be_read_is_refused(bench: Bench, payload: Any) -> None:
    def act(bench: Bench) -> None:
        answer = bench.ask({"op": "reload", "config": payload})
        assert answer["error"] == "this version of the worker cannot read the configuration"
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED


def test_a_loop_inside_a_long_call_takes_the_change_neither_now_nor_later() -> None:
    handover = ConfigHandover()
    with pytest.raises(SessionBusyError, match="did not take it within"):
        handover.offer(config(account_id="a"), lambda: None, seconds=0.01)
    assert handover.take() is None


def test_a_second_change_waits_its_turn() -> None:
    handover, first = ConfigHandover(), config(account_id="a")
    results: list[str | None] = []
    offered = threading.Event()
    thread = threading.Thread(target=lambda: results.append(handover.offer(first, offered.set, seconds=5)))
    thread.start()
    assert offered.wait(5)
    with pytest.raises(SessionBusyError, match="under way"):
        handover.offer(first, lambda: None)
    taken = handover.take()
    assert taken is not None
    taken.answer(None)
    thread.join()
    assert results == [None]
