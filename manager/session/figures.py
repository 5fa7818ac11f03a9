"""The figures of a session: what its account, cycles, health and processes report."""

import logging
from typing import Final

from manager.config import AccountConfig
from manager.gateways.base import (
    Account,
    ConnectionLost,
    Gateway,
    GatewayError,
    Health,
    NotSupported,
    Session,
)
from manager.models import WorkerMetrics
from manager.session.health import HealthJudge
from manager.session.resources import ResourceMeter
from manager.states import TradingMode, WorkerHealth
from manager.system import logs
from manager.trading.cycle import Cycle, Reloadable

logger = logging.getLogger(__name__)

#: Maximum length of a refusal in the worker's metrics.
_REFUSAL_LENGTH: Final = 200


class SessionFigures:
    """Runs cycles, reads the account, and collects the metrics of both.

    Used by the worker's loop only. A request that the venue refuses is counted; an error that ends the
    session is raised.
    """

    def __init__(self, cycle: Cycle, judge: HealthJudge, resources: ResourceMeter) -> None:
        self._cycle = cycle
        self._judge = judge
        self._resources = resources
        #: False once the gateway has answered that it has no account.
        self.has_account = True
        self._last = WorkerMetrics(health=WorkerHealth.UNKNOWN)
        self._cycle_metrics = WorkerMetrics()
        self._refusals = WorkerMetrics(refusals=0)

    def connected(self, session: Session) -> WorkerMetrics:
        """Record a new session; return the first metrics."""
        self._last = self._last.updated(
            WorkerMetrics(environment=str(session.environment), currency=session.currency)
        )
        self._judge.session(True, session.can_trade, session.blocked_reason)
        return self._last

    def reload(self, config: AccountConfig) -> str | None:
        """Use another configuration from now on.

        Returns None, or why that is impossible; then nothing has changed.
        """
        if not isinstance(self._cycle, Reloadable):
            return "its strategy takes a changed configuration only at a restart"
        try:
            self._cycle.reload(config)
        except ValueError as error:
            return str(error)
        except Exception as error:
            logger.exception("the strategy failed to take a changed configuration")
            return f"its strategy failed to take the change: {type(error).__name__}: {error}"
        self._judge.reload(config.health)
        return None

    def run_cycle(self, gateway: Gateway, *, paused: bool) -> None:
        """Run one cycle of the strategy; none while the session is paused."""
        if paused:
            # The figures of an earlier cycle do not describe a paused session.
            self._cycle_metrics = WorkerMetrics()
            return
        try:
            self._cycle_metrics = self._cycle.run(gateway)
        except GatewayError as error:
            self._refused(error, "cycle_skipped")

    def refresh(self, gateway: Gateway, health: Health | None, mode: TradingMode) -> WorkerMetrics:
        """Return the current metrics. `health` is the gateway's latest check, if there is a new one.

        Raises ConnectionLost if the session is lost.
        """
        metrics = self._last.updated(self._cycle_metrics)
        if health is not None:
            if not health.ipc_ok:
                raise ConnectionLost(health.reason or "the session is lost")
            connected = health.venue_connected and health.account_matches
            self._judge.session(connected, health.can_trade, health.reason, lasting=health.unhealthy)
            metrics = metrics.updated(WorkerMetrics(program_status=health.status))
        if self.has_account:
            metrics = metrics.updated(self._read_account(gateway))
        self._last = metrics.updated(
            self._judge.judge(self._cycle_metrics),
            self._refusals,
            WorkerMetrics(trading_mode=mode),
            self._resources.figures(),
        )
        if missing := logs.missing_lines():
            self._last = self._last.updated(WorkerMetrics(log_lines_missing=missing))
        return self._last

    def _refused(self, error: GatewayError, event: str) -> None:
        """Count a refused request.

        Raises the error again if it means that the session is lost.
        """
        if error.ends_session:
            raise error
        text = f"{error.code}: {error}"[:_REFUSAL_LENGTH]
        self._refusals = WorkerMetrics(refusals=(self._refusals.refusals or 0) + 1, last_refusal=text)
        logs.event(logger, logging.WARNING, event, str(error), code=error.code)

    def _read_account(self, gateway: Gateway) -> WorkerMetrics:
        """Return the account's figures; the previous ones if the venue refuses."""
        try:
            account = gateway.account()
        except NotSupported:
            self.has_account = False
            return WorkerMetrics()
        except GatewayError as error:
            self._refused(error, "account_not_read")
            return self._last
        return WorkerMetrics(
            balance=str(account.balance),
            equity=str(account.equity),
            currency=account.currency,
            profit=str(account.equity - account.balance),
            margin=str(account.margin),
            free_margin=str(account.free_margin),
            margin_level=_margin_level(account),
            open_positions=account.open_positions,
        )


def _margin_level(account: Account) -> float | None:
    """Return the equity in percent of the margin in use.

    None without margin in use.
    """
    return round(float(account.equity / account.margin * 100), 1) if account.margin > 0 else None
