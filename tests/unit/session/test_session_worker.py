"""The worker's loop in this process, with a fake gateway."""

import os
import signal
import sys
import threading
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.fleet import SIGKILL
from support.waiting import eventually
from support.worker_bench import Bench

from manager.config.models import ExecutionConfig, ReadyConfig, RecoveryConfig, StopConfig
from manager.gateways import GatewayOptions
from manager.gateways.base import (
    AuthenticationFailed,
    ConnectionLost,
    ConnectTimeout,
    Gateway,
    GatewayError,
    Health,
    InsufficientFunds,
    InvalidRequest,
    MarketClosed,
    NotSupported,
    OrderRejected,
    OutcomeUnknown,
    PriceMoved,
    RateLimited,
    Side,
    TradingDisabled,
    VenueNotFound,
    WrongAccount,
)
from manager.gateways.command.gateway import CommandGateway
from manager.models import WorkerMetrics
from manager.session.control import ask
from manager.session.exit_codes import WorkerExit
from manager.session.guarded_gateway import GuardedGateway
from manager.session.heartbeat_file import HeartbeatWriter, read_heartbeat
from manager.session.launch_spec import LaunchSpec


def test_connect_report_stop(bench: Bench) -> None:
    def act(bench: Bench) -> None:
        eventually(lambda: len(bench.sent) >= 2)
        eventually(lambda: "cycle_seconds" in bench.status())
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED
    assert bench.messages[0]["event"] == "connected"
    assert bench.gateway.calls[0] == "connect"
    assert bench.gateway.calls[-1] == "disconnect"
    beat = bench.sent[-1]
    assert (beat["worker_id"], beat["health"], beat["equity"], beat["currency"]) == (
        "w-1",
        "healthy",
        "10000.00",
        "USD",
    )
    assert beat["rss_bytes"] > 1_000_000
    assert beat["last_tick_age_seconds"] < 5
    assert "hunter2" not in str(bench.sent) + str(bench.messages)


@pytest.mark.parametrize(
    ("error", "code"),
    [(AuthenticationFailed("refused"), "authentication_failed"), (ConnectTimeout("late"), "connect_timeout")],
)
def test_a_session_that_cannot_be_connected_is_reported_and_closed(
    bench: Bench, error: Any, code: str
) -> None:
    bench.gateway.script("connect", error)
    assert bench.run() is WorkerExit.NOT_CONNECTED
    (message,) = bench.messages
    assert (message["event"], message["code"], message["message"]) == ("failed", code, str(error))
    assert bench.gateway.calls == ["connect", "disconnect"]
    assert {beat["health"] for beat in bench.sent} <= {"unknown"}


def test_a_session_that_is_gone_right_after_connect_is_not_connected(bench: Bench) -> None:
    bench.gateway.script("check", ConnectionLost("hung up"))
    assert bench.run() is WorkerExit.NOT_CONNECTED
    assert bench.messages[0]["message"] == "hung up"


def test_a_lost_connection_ends_the_worker_with_its_reason(bench: Bench) -> None:
    assert (
        bench.run(lambda b: b.gateway.script("account", ConnectionLost("reset by peer")))
        is WorkerExit.CONNECTION_LOST
    )
    assert bench.exit_reason() == "connection_lost: reset by peer"
    assert bench.gateway.calls[-1] == "disconnect"


def test_connected_but_not_allowed_to_trade_is_degraded_with_the_reason(bench: Bench) -> None:
    def act(bench: Bench) -> None:
        bench.gateway.health = Health(
            ipc_ok=True,
            venue_connected=True,
            can_trade=False,
            account_matches=True,
            reason="algo trading off",
        )
        eventually(lambda: bench.status().get("health") == "degraded")
        assert bench.status()["health_reason"] == "algo trading off"
        bench.gateway.health = Health(ipc_ok=True, venue_connected=True, can_trade=True, account_matches=True)
        eventually(lambda: bench.status().get("health") == "healthy")
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED


def test_a_session_whose_account_was_switched_is_degraded(bench: Bench) -> None:
    def act(bench: Bench) -> None:
        bench.gateway.health = Health(
            ipc_ok=True, venue_connected=True, can_trade=True, account_matches=False
        )
        eventually(lambda: bench.status().get("health") == "degraded")
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED


def test_being_asked_for_fewer_requests_skips_a_cycle_and_no_more(bench: Bench) -> None:
    def act(bench: Bench) -> None:
        bench.gateway.script("positions", RateLimited("slow down"))
        cycles = bench.gateway.calls.count("positions")
        eventually(lambda: bench.gateway.calls.count("positions") > cycles + 2)
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED


def test_a_symbol_that_the_venue_does_not_know_is_reported_and_harms_no_other(bench: Bench) -> None:
    def act(bench: Bench) -> None:
        bench.gateway.script("tick", InvalidRequest("not listed"))
        eventually(lambda: bench.status().get("refused_symbols") == ["EURUSD: not listed"])
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED


def test_a_gateway_without_an_account_is_checked_at_every_beat(bench: Bench) -> None:
    def unsupported() -> None:
        raise NotSupported("none")

    bench.gateway.script("account", unsupported)
    bench.gateway.script("positions", unsupported)

    def act(bench: Bench) -> None:
        checks = bench.gateway.calls.count("check")
        eventually(lambda: bench.gateway.calls.count("check") > checks + 3)
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED
    assert bench.gateway.calls.count("account") == 1


@pytest.mark.parametrize("policy", ["keep", "close"])
def test_the_open_position_policy_at_a_stop(short_dir: Path, bench: Bench, policy: str) -> None:
    bench = Bench(short_dir, open_positions=policy)

    def act(bench: Bench) -> None:
        bench.gateway.submit_order("o", symbol="EURUSD", side=Side.BUY, volume=Decimal("0.1"))
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED
    assert ("close_position" in bench.gateway.calls) == (policy == "close")


def test_a_stop_request_may_ask_to_close_positions_that_the_file_keeps(bench: Bench) -> None:
    def act(bench: Bench) -> None:
        bench.gateway.submit_order("o", symbol="EURUSD", side=Side.BUY, volume=Decimal("0.1"))
        assert bench.ask({"op": "stop", "seconds": 5, "open_positions": "close"})["ok"]

    assert bench.run(act) is WorkerExit.STOPPED
    assert "close_position" in bench.gateway.calls


def test_positions_that_could_not_be_closed_are_an_unclean_stop(short_dir: Path, bench: Bench) -> None:
    bench = Bench(short_dir, open_positions="close")

    def act(bench: Bench) -> None:
        for number in range(3):
            bench.gateway.submit_order(f"o{number}", symbol="EURUSD", side=Side.BUY, volume=Decimal("0.1"))
        bench.gateway.script("close_position", OrderRejected("hunter2 may not"))
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED_UNCLEANLY
    assert bench.exit_reason() == "1 of 3 positions stay open: 1 EURUSD (order_rejected: *** may not)"
    assert bench.gateway.calls[-1] == "disconnect"


class TradingCycle:
    """A cycle whose request the venue refuses each time."""

    def __init__(self, error: GatewayError) -> None:
        self.error = error
        self.cycles = 0

    def run(self, gateway: Gateway) -> WorkerMetrics:
        del gateway
        self.cycles += 1
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        OrderRejected("no"),
        MarketClosed("till Sunday"),
        InvalidRequest("volume"),
        PriceMoved("requote"),
        InsufficientFunds("margin"),
        TradingDisabled("read only"),
        RateLimited("slow down"),
        OutcomeUnknown("no answer"),
        NotSupported("no such order"),
    ],
)
def test_a_refused_request_is_counted_and_the_session_continues(bench: Bench, error: GatewayError) -> None:
    bench.cycle = cycle = TradingCycle(error)

    def act(bench: Bench) -> None:
        eventually(lambda: cycle.cycles >= 3)
        eventually(lambda: bench.status().get("refusals", 0) >= 2)
        assert bench.status()["last_refusal"] == f"{error.code}: {error}"
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED


@pytest.mark.parametrize(
    "error",
    [
        ConnectionLost("x"),
        ConnectTimeout("x"),
        AuthenticationFailed("x"),
        WrongAccount("x"),
        VenueNotFound("x"),
    ],
)
def test_an_error_that_says_that_the_session_is_gone_ends_it(bench: Bench, error: GatewayError) -> None:
    bench.cycle = TradingCycle(error)
    assert bench.run() is WorkerExit.CONNECTION_LOST
    assert bench.exit_reason() == f"{error.code}: x"


def test_an_account_that_is_not_read_once_keeps_its_figures(bench: Bench) -> None:
    def act(bench: Bench) -> None:
        eventually(lambda: bench.status().get("equity"))
        bench.gateway.script("account", RateLimited("slow down"))
        eventually(lambda: bench.status().get("refusals") == 1)
        assert bench.status()["equity"] == "10000.00"
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED


def test_a_paused_session_stays_connected_and_runs_no_cycle(bench: Bench) -> None:
    def act(bench: Bench) -> None:
        eventually(lambda: "tick" in bench.gateway.calls)
        assert bench.ask({"op": "mode", "mode": "paused", "seconds": 1, "by": "desk"})["ok"]
        eventually(lambda: bench.status().get("trading_mode") == "paused")
        eventually(
            lambda: bench.gateway.calls[-1] in {"check", "account"}
        )  # the cycle that was under way is over
        ticks, checks = bench.gateway.calls.count("tick"), bench.gateway.calls.count("check")
        eventually(lambda: bench.gateway.calls.count("check") > checks + 3)
        assert bench.gateway.calls.count("tick") == ticks
        assert bench.status()["health"] == "healthy"
        assert bench.ask({"op": "mode", "mode": "normal"})["ok"]
        eventually(lambda: bench.gateway.calls.count("tick") > ticks)
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED


def test_a_worker_that_begins_paused_runs_no_cycle_at_all(bench: Bench) -> None:
    bench.spec = replace(bench.spec, trading_mode="paused")

    def act(bench: Bench) -> None:
        eventually(lambda: bench.gateway.calls.count("check") > 3)
        assert bench.status()["trading_mode"] == "paused"
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED
    assert "tick" not in bench.gateway.calls


def test_an_unknown_mode_is_refused_and_changes_nothing(bench: Bench) -> None:
    def act(bench: Bench) -> None:
        assert "unknown mode 'sideways'" in bench.ask({"op": "mode", "mode": "sideways"})["error"]
        assert bench.status()["trading_mode"] == "normal"
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED


def test_sigterm_is_a_polite_stop(bench: Bench) -> None:
    assert bench.run(lambda _: signal.raise_signal(signal.SIGTERM)) is WorkerExit.STOPPED
    assert bench.gateway.calls[-1] == "disconnect"


def test_sigint_from_a_terminal_does_not_stop_trading(bench: Bench) -> None:
    def act(bench: Bench) -> None:
        signal.raise_signal(signal.SIGINT)
        cycles = bench.gateway.calls.count("positions")
        eventually(lambda: bench.gateway.calls.count("positions") > cycles)
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED


def test_the_age_of_the_loop_shows_a_stuck_call_while_the_reporter_continues(bench: Bench) -> None:
    release = threading.Event()

    def act(bench: Bench) -> None:
        bench.gateway.script("account", lambda: _wait(release))
        eventually(
            lambda: (
                bench.sent
                and bench.sent[-1]["call"] == "account"
                and bench.sent[-1]["loop_age_seconds"] > 0.3
            )
        )
        answer = ask(bench.spec.control_address, "token", {"op": "status"})
        assert answer["call"] == "account"
        release.set()
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED


def test_the_order_is_json_both_ways_and_its_repr_holds_no_secret(bench: Bench) -> None:
    again = LaunchSpec.from_json(bench.spec.to_json())
    assert again.to_json() == bench.spec.to_json()
    assert again.password == bench.spec.password
    assert "hunter2" not in repr(again)


def _wait(event: threading.Event) -> None:
    assert event.wait(10)


@pytest.mark.parametrize("asked", [True, False])
def test_a_frozen_program_is_unhealthy_at_once_and_is_restarted_if_that_is_asked(
    bench: Bench, asked: bool
) -> None:
    bench.spec = replace(
        bench.spec,
        config=bench.spec.config.model_copy(update={"recovery": RecoveryConfig(restart_unhealthy=asked)}),
    )

    def freeze(bench: Bench) -> None:
        bench.gateway.health = Health(
            ipc_ok=True,
            venue_connected=False,
            can_trade=False,
            account_matches=True,
            reason="bot (pid 7) is stopped",
            unhealthy=True,
        )
        if not asked:
            eventually(lambda: bench.sent and bench.sent[-1].get("health") == "unhealthy")
            assert bench.worker is not None
            bench.worker.request_stop("the test is over", 5)

    if asked:
        assert bench.run(freeze) is WorkerExit.CONNECTION_LOST
        heartbeat = read_heartbeat(bench.beat_file)
        assert heartbeat is not None
        assert "recovery.restart_unhealthy is set: bot (pid 7) is stopped" in str(heartbeat.exit_reason)
    else:
        assert bench.run(freeze) is WorkerExit.STOPPED


@pytest.mark.parametrize(("command", "seconds"), [(None, 10), (("bot",), 70)])
def test_a_program_that_is_lost_has_the_time_that_it_has_at_any_stop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...] | None, seconds: float
) -> None:
    changes = {"command": command, "stop": StopConfig(deadline_seconds=60)}
    bench.spec = replace(bench.spec, config=bench.spec.config.model_copy(update=changes))
    left: list[float | None] = []

    def check() -> Health:
        raise ConnectionLost("gone")

    def disconnect(deadline: float | None = None) -> None:
        del deadline
        heartbeat = read_heartbeat(bench.beat_file)
        assert heartbeat is not None
        left.append(heartbeat.overdue_seconds)

    def act(_: Bench) -> None:
        monkeypatch.setattr(bench.gateway, "check", check)
        monkeypatch.setattr(bench.gateway, "disconnect", disconnect)

    assert bench.run(act) == WorkerExit.CONNECTION_LOST
    assert left[0] == pytest.approx(-seconds, abs=5)


@pytest.mark.skipif(sys.platform == "win32", reason="the program is ended by a signal of POSIX")
def test_the_end_of_a_program_is_noticed_without_waiting_for_the_next_heartbeat(
    bench: Bench, short_dir: Path
) -> None:
    """The worker beats once a minute: only the program's end can wake it."""
    config_ = bench.spec.config.model_copy(update={"gateway": "command"})
    bench.spec = replace(
        bench.spec,
        config=config_.model_copy(update={"execution": ExecutionConfig(interval_seconds=60)}),
        heartbeat_interval_seconds=60,
    )
    gateway = CommandGateway(
        GatewayOptions(
            account_id="account-1",
            worker_id=f"w-test-wakes-{os.getpid()}",
            private_dir=short_dir / "p",
            command=(sys.executable, "-u", "-c", "import time\nprint('ready', flush=True)\ntime.sleep(600)"),
            ready=ReadyConfig(line="ready"),
        )
    )
    gateway_: Any = gateway
    bench.gateway = gateway_

    def act(bench: Bench) -> None:
        assert gateway._program is not None
        os.kill(gateway._program.pid, SIGKILL)
        eventually(bench.exit_reason, what="the worker says why it ends")

    assert bench.run(act) is WorkerExit.CONNECTION_LOST
    assert "was ended by signal 9" in (bench.exit_reason() or "")


def test_a_gateway_without_a_wake_source_is_checked_at_heartbeats(bench: Bench) -> None:
    no_lease: Any = None
    assert GuardedGateway(bench.gateway, HeartbeatWriter(bench.beat_file), no_lease).wake_source() is None


def test_the_use_of_the_whole_tree_is_in_the_heartbeat(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manager.session.resources._FIRST_SECONDS", 0.05)

    def act(bench: Bench) -> None:
        eventually(lambda: bench.status().get("processes"))
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED
    assert bench.status()["processes"] >= 1
    assert bench.status()["memory_bytes"] > 1_000_000
