"""The worker: one gateway, one loop, from connect to disconnect.

The loop is single-threaded because gateways are. Two daemon threads run beside it: the control channel, which
only sets flags and wakes the loop, and the reporter, which sends the loop's latest metrics.
"""

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from manager.config import config_version
from manager.gateways import runs_programs
from manager.gateways.base import (
    CancelsConnect,
    ConnectionLost,
    ForcedEnd,
    Gateway,
    GatewayError,
    Health,
)
from manager.gateways.command.program import CGROUP_NOTE
from manager.models import WorkerMetrics
from manager.session.closing import close_positions
from manager.session.control import ControlServer
from manager.session.exit_codes import WorkerExit
from manager.session.figures import SessionFigures
from manager.session.guarded_gateway import GuardedGateway
from manager.session.health import HealthJudge
from manager.session.heartbeat_file import HeartbeatWriter
from manager.session.launch_spec import LaunchSpec
from manager.session.lease import Lease, LeaseLost
from manager.session.reload import ConfigHandover, Offer, refused, with_own_start
from manager.session.reporter import Reporter, Sender
from manager.session.resources import ResourceMeter
from manager.session.run_figures import RunFigures
from manager.states import TradingMode, WorkerHealth
from manager.system import logs
from manager.system.processes import ProcessRef
from manager.trading.cycle import Cycle

logger = logging.getLogger(__name__)

#: Seconds for a disconnect if the stop has no deadline (a signal).
_DISCONNECT_SECONDS: Final = 10.0


class Worker:
    """Runs one session.

    `notify` sends a message to the host over the launch pipe; `extend` is passed to the lease.
    """

    def __init__(
        self,
        spec: LaunchSpec,
        gateway: Gateway,
        cycle: Cycle,
        beat: HeartbeatWriter,
        sender: Sender | None,
        notify: Callable[[Mapping[str, Any]], None],
        extend: Callable[[float], None] | None = None,
    ) -> None:
        self._spec = spec
        #: The present configuration; a reload replaces it.
        self._config = spec.config
        self._handover = ConfigHandover()
        self._beat = beat
        self._lease = Lease(spec.lease_seconds, spec.leased_at, self._on_lease_lost, extend)
        program = spec.config.stop.deadline_seconds if spec.config.command is not None else 0.0
        self._gateway = GuardedGateway(gateway, beat, self._lease, program + _DISCONNECT_SECONDS)
        self._cancel_connect = gateway.cancel_connect if isinstance(gateway, CancelsConnect) else None
        self._notify = notify
        self._metrics = WorkerMetrics(health=WorkerHealth.UNKNOWN)
        self._run_figures = RunFigures()
        self._phase = "connecting"
        programs = runs_programs(spec.config.gateway)
        self._resources = ResourceMeter(spec.worker_id, spec.private_dir / CGROUP_NOTE if programs else None)
        self._ref = ProcessRef.me()
        self._figures = SessionFigures(cycle, HealthJudge(spec.config.health), self._resources)
        self._mode = TradingMode(spec.trading_mode)
        #: Whether the stop request asks to close positions, whatever the account's file says.
        self._close_at_end = False
        self._gateway.set_mode(self._mode, 0.0)
        self._stop_deadline: float | None = None
        self._stop_reason = ""
        #: Whether the gateway's program had to be killed.
        self._forced = False
        self._control: ControlServer | None = None
        #: Why the worker's files cannot be restored, so that it is logged once.
        self._restore_error: str | None = None
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._reporter = (
            None
            if sender is None
            else Reporter(
                sender, spec.account_id, self.heartbeat, spec.heartbeat_interval_seconds, self._lease
            )
        )

    def run(self) -> WorkerExit:
        """Connect, then report and run cycles until a stop; return the exit code.

        Raises only for errors in the manager's code.
        """
        self._catch_signals()
        self._beat.status({"phase": self._phase})
        self._control = control = ControlServer(
            self._spec.control_address, self._spec.control_token.get_secret_value(), self._handle
        )
        if self._reporter:
            # Before the session, so that the lease does not expire while it connects.
            self._reporter.start()
        self._resources.start()
        try:
            return self._run(control.address)
        finally:
            self._resources.stop()
            if self._reporter:
                self._reporter.stop()
            control.close()
            self._wake_read.close()
            self._wake_write.close()

    def heartbeat(self) -> dict[str, Any]:
        """Return the heartbeat for Redis.

        Called on the reporter's thread, so it includes the loop's age.
        """
        return {
            "worker_id": self._spec.worker_id,
            "epoch": self._spec.epoch,
            # With pid and start time a host that lost the record of this worker can still end it.
            **self._ref.to_dict(),
            "loop_age_seconds": round(self._beat.age_seconds, 3),
            "call": self._beat.call,
            "last_heartbeat": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **self._metrics.to_dict(),
        }

    def _run(self, control_address: str) -> WorkerExit:
        deadline = time.monotonic() + self._spec.config.timeout / 1000
        logs.event(logger, logging.INFO, "connect_started", gateway=self._spec.config.gateway)
        try:
            session = self._gateway.connect(deadline)
            self._phase = "connected"
            self._run_figures.connected()
            self._metrics = self._figures.connected(session)
            self._refresh(self._gateway.check())
        except GatewayError as error:
            logs.event(logger, logging.WARNING, "connect_failed", str(error), code=error.code)
            self._beat.exit_reason(str(error))
            self._notify(
                {"event": "failed", "code": error.code, "message": str(error), "retryable": error.retryable}
            )
            self._disconnect(None)
            if self._stop_deadline is not None and isinstance(error.__cause__, ForcedEnd):
                return WorkerExit.STOPPED_BY_FORCE
            return WorkerExit.LEASE_LOST if self._lease.lost else WorkerExit.NOT_CONNECTED
        logs.event(logger, logging.INFO, "connected", can_trade=session.can_trade, server=session.server)
        self._notify({"event": "connected", "control": control_address, "beat": self.heartbeat()})
        try:
            self._loop()
        except LeaseLost as error:
            return self._leave(str(error))
        except GatewayError as error:
            # The host does recovery: a worker that lost its venue records the reason and ends.
            logs.event(logger, logging.ERROR, "connection_lost", str(error), code=error.code)
            self._beat.exit_reason(self._exit_reason(error))
            self._disconnect(None)
            return WorkerExit.CONNECTION_LOST
        if self._lease.lost is not None:
            return self._leave(self._lease.lost)
        return self._end()

    def _exit_reason(self, error: GatewayError) -> str:
        """Return the exit reason.

        A venue's text needs the error's code, a program's does not.
        """
        return str(error) if runs_programs(self._spec.config.gateway) else f"{error.code}: {error}"

    def _leave(self, why: str) -> WorkerExit:
        """Close the session but no position: another worker may trade the account."""
        self._phase = "stopping"
        logs.event(logger, logging.ERROR, "lease_lost", why)
        self._beat.exit_reason(f"it lost its lease: {why}")
        self._disconnect(_DISCONNECT_SECONDS)
        return WorkerExit.LEASE_LOST

    def lose_lease(self, why: str) -> None:
        """End the session because its lease is lost. Thread-safe."""
        self._lease.lose(why)

    def _on_lease_lost(self, why: str) -> None:
        self.request_stop(f"it lost its lease: {why}", _DISCONNECT_SECONDS)

    def _loop(self) -> None:
        interval = self._spec.heartbeat_interval_seconds
        next_beat = next_cycle = time.monotonic()
        while self._stop_deadline is None:
            now = time.monotonic()
            health: Health | None = None
            if (offer := self._handover.take()) is not None:
                self._apply(offer)
                next_cycle = min(next_cycle, now + self._config.execution.interval_seconds)
            if now >= next_cycle:
                self._figures.run_cycle(self._gateway, paused=self._mode is TradingMode.PAUSED)
                health = self._gateway.check()
                next_cycle = _next(next_cycle, self._config.execution.interval_seconds)
            if now >= next_beat:
                # Reading the account proves the session; a gateway without accounts needs a check each time.
                self._refresh(health if health or self._figures.has_account else self._gateway.check())
                next_beat = _next(next_beat, interval)
            mode = self._mode
            if self._sleep_until(min(next_beat, next_cycle)):
                self._refresh(self._gateway.check())
            if self._mode is not mode:
                next_beat = time.monotonic()  # publish the new mode at once

    def _apply(self, offer: Offer) -> None:
        """Apply a changed configuration between two cycles."""
        error: str | None = "the session ended"
        try:
            config = with_own_start(self._config, offer.config)
            error = refused(self._gateway, self._config, config)
            error = error or self._figures.reload(config)
            if error is None:
                self._config = config
                logs.event(logger, logging.INFO, "config_applied", version=config_version(config))
        finally:
            offer.answer(error)

    def _refresh(self, health: Health | None) -> None:
        """Publish metrics and health to the host and to Redis.

        Raises ConnectionLost if the session is lost, or unhealthy and to be restarted for it.
        """
        self._restore_files()
        reported = self._figures.refresh(self._gateway, health, self._mode)
        self._metrics = WorkerMetrics.read(self._beat.masked(reported.to_dict()))
        run = self._run_figures.update(self._metrics, self._resources.memory_peak)
        self._beat.status({"phase": self._phase, **self._metrics.to_dict()}, run)
        if reported.health == WorkerHealth.UNHEALTHY and self._config.recovery.restart_unhealthy:
            raise ConnectionLost(
                f"unhealthy, and recovery.restart_unhealthy is set: {reported.health_reason}"
            )

    def _restore_files(self) -> None:
        """Create removed files again: heartbeat file and control socket."""
        try:
            self._beat.restore()
            if self._control is not None and self._control.restore():
                text = f"{self._control.address} was removed"
                logs.event(logger, logging.WARNING, "control_socket_restored", text)
        except OSError as error:
            problem = f"{error.filename or self._spec.beat_file.parent}: {error.strerror or error}"
            if problem != self._restore_error:
                text = f"files of this worker were removed and cannot be restored: {problem}"
                logs.event(logger, logging.ERROR, "files_missing", text)
            self._restore_error = problem
        else:
            self._restore_error = None

    def _end(self) -> WorkerExit:
        deadline = self._stop_deadline or time.monotonic() + _DISCONNECT_SECONDS
        self._phase = "stopping"
        logs.event(logger, logging.INFO, "stop_requested", self._stop_reason)
        clean = True
        if self._close_at_end or self._config.execution.open_positions == "close":
            clean = self._close_positions(deadline)
        clean = self._disconnect(max(0.5, deadline - time.monotonic())) and clean
        logs.event(logger, logging.INFO, "stopped", clean=clean, forced=self._forced)
        if not clean:
            return WorkerExit.STOPPED_UNCLEANLY
        return WorkerExit.STOPPED_BY_FORCE if self._forced else WorkerExit.STOPPED

    def _close_positions(self, deadline: float) -> bool:
        report = close_positions(self._gateway, deadline)
        if not report.complete:
            logs.event(logger, logging.ERROR, "close_failed", str(report))
            self._beat.exit_reason(str(report))
        return report.complete

    def _disconnect(self, seconds: float | None) -> bool:
        """Close the session within `seconds` (None: without a deadline).

        Return whether that succeeded.
        """
        try:
            self._gateway.disconnect(None if seconds is None else time.monotonic() + seconds)
        except ForcedEnd as error:
            self._forced = True
            self._beat.exit_reason(str(error))
        except Exception as error:
            logger.exception("disconnect failed")
            self._beat.exit_reason(f"disconnect failed: {error}")
            return False
        return True

    # Called on other threads and in signal handlers: they only set flags and wake the loop.

    def _handle(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        operation = request.get("op")
        if operation == "stop":
            seconds = float(request.get("seconds", _DISCONNECT_SECONDS))
            if request.get("open_positions") == "close":
                self._close_at_end = True
            self.request_stop(str(request.get("reason", "asked to stop")), seconds)
            return {"ok": True}
        if operation == "ping":
            return {"ok": True, "worker_id": self._spec.worker_id, "pid": os.getpid()}
        if operation == "status":
            return {"ok": True, "phase": self._phase, **self.heartbeat()}
        if operation == "mode":
            return self._set_mode(request)
        if operation == "reload":
            return self._handover.ask(request, self._phase, self._wake)
        known = "mode, ping, reload, status, stop"
        return {"ok": False, "error": f"unknown operation {operation!r}; known: {known}"}

    def _set_mode(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Change the trading mode.

        After the answer `ok` to any mode but `normal` no order is sent until the mode changes.
        """
        try:
            mode = TradingMode(str(request.get("mode")))
        except ValueError:
            return {"ok": False, "error": f"unknown mode {str(request.get('mode'))[:40]!r}"}
        if not self._gateway.set_mode(mode, float(request.get("seconds", 0.0))):
            return {
                "ok": False,
                "error": "an order is in flight and has no answer yet; try again",
            }
        if mode is not self._mode:
            self._mode = mode
            logs.event(
                logger, logging.INFO, "trading_mode_changed", str(request.get("by", ""))[:200], mode=mode
            )
        self._wake()
        return {"ok": True, "mode": mode}

    def request_stop(self, reason: str, seconds: float) -> None:
        """Request the end of the session within `seconds`.

        The first request counts. Safe in a signal handler.
        """
        if self._stop_deadline is None:
            self._stop_reason = reason
            self._stop_deadline = time.monotonic() + seconds
        if self._phase == "connecting" and self._cancel_connect is not None:
            self._cancel_connect()
        self._wake()

    def _wake(self) -> None:
        # A full pipe wakes the loop anyway; a closed one belongs to a loop that has ended.
        with contextlib.suppress(OSError):
            self._wake_write.send(b"x")

    def _catch_signals(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self.request_stop("SIGTERM", self._config.stop_seconds()))
        # Ctrl-C in the agent's terminal must not stop trading.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if sys.platform != "win32":
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _sleep_until(self, when: float) -> bool:
        """Wait until `when` or a wake-up.

        Return whether the gateway is to be checked at once.
        """
        source = self._gateway.wake_source()
        watched = [self._wake_read] if source is None else [self._wake_read, source]
        readable, _, _ = select.select(watched, [], [], max(0.0, when - time.monotonic()))
        if self._wake_read in readable:
            self._wake_read.recv(4096)
        return source is not None and source in readable


def _next(due: float, interval: float) -> float:
    """Return the next due time of the schedule.

    Times missed during a long call are skipped.
    """
    now = time.monotonic()
    return due + interval * (1 + max(0.0, now - due) // interval)
