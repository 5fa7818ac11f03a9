"""The health of a running worker, independent of its lifecycle status."""

from collections.abc import Callable
from datetime import UTC, datetime

from manager.config import HealthConfig
from manager.market.sessions import market_is_open
from manager.models import WorkerMetrics
from manager.states import WorkerHealth


class HealthJudge:
    """Judges a session's health at each check; counts checks and failures."""

    def __init__(
        self, config: HealthConfig, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._config = config
        self._clock = clock
        self._session: tuple[bool, bool, str | None] = (True, True, None)
        self._lasting = False
        self._trouble_since: datetime | None = None
        self._checks = 0
        self._failures = 0

    def reload(self, config: HealthConfig) -> None:
        """Judge by other thresholds from now on."""
        self._config = config

    def session(self, connected: bool, can_trade: bool, reason: str | None, *, lasting: bool = False) -> None:
        """Record the gateway's report of the session.

        A `lasting` problem is unhealthy at once.
        """
        self._session = (connected, can_trade, reason)
        self._lasting = lasting

    def judge(self, cycle: WorkerMetrics) -> WorkerMetrics:
        """Return health, reason and counts, given the latest cycle's figures."""
        reason = self._trouble(cycle)
        self._checks += 1
        self._failures += reason is not None
        health = WorkerHealth.HEALTHY
        if reason is None:
            self._trouble_since = None
        else:
            now = self._clock()
            self._trouble_since = self._trouble_since or now
            lasted = (now - self._trouble_since).total_seconds()
            long = self._lasting or lasted >= self._config.unhealthy_after_seconds
            health = WorkerHealth.UNHEALTHY if long else WorkerHealth.DEGRADED
        return WorkerMetrics(
            health=health,
            health_reason=reason,
            can_trade=self._session[1],
            checks=self._checks,
            failed_checks=self._failures,
        )

    def _trouble(self, cycle: WorkerMetrics) -> str | None:
        connected, can_trade, reason = self._session
        if not (connected and can_trade):
            return reason or ("cannot trade" if connected else "venue not connected")
        age = cycle.last_tick_age_seconds
        if (
            age is not None
            and age > self._config.tick_age_seconds
            and market_is_open(self._config.market_hours, self._clock())
        ):
            return f"no tick for {age:.0f} s (health.tick_age_seconds: {self._config.tick_age_seconds:g})"
        took = cycle.cycle_seconds
        if took is not None and took > self._config.cycle_seconds:
            return f"the last cycle took {took:.1f} s (health.cycle_seconds: {self._config.cycle_seconds:g})"
        return None
