"""The trading cycle, which a session runs at each interval.

A strategy is a `Cycle`, or a step after `ObserveCycle`. It gets a gateway and the account's configuration.
The session calls it once per interval, on the session's only thread.
"""

import logging
import time
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

from manager.config import AccountConfig
from manager.gateways.base import Gateway, InvalidRequest, NotSupported
from manager.models import WorkerMetrics
from manager.system import logs

logger = logging.getLogger(__name__)


class Cycle(Protocol):
    """The trading of one cycle."""

    def run(self, gateway: Gateway) -> WorkerMetrics:
        """Run one cycle and return figures for the worker's metrics.

        Raises GatewayError.
        """


@runtime_checkable
class Reloadable(Protocol):
    """A cycle that takes a changed configuration without a restart."""

    def reload(self, config: AccountConfig) -> None:
        """Use `config` from the next cycle on.

        Raises ValueError if that is impossible; then nothing has changed.
        """


class ObserveCycle:
    """Reads positions and the tick of each enabled symbol, and reports them."""

    def __init__(self, config: AccountConfig) -> None:
        self._symbols = config.enabled_symbols()

    def reload(self, config: AccountConfig) -> None:
        """See `Reloadable.reload`."""
        self._symbols = config.enabled_symbols()

    def run(self, gateway: Gateway) -> WorkerMetrics:
        started = time.monotonic()
        try:
            positions = gateway.positions()
        except NotSupported:
            return WorkerMetrics()
        ages: list[float] = []
        refused: list[str] = []
        for symbol in self._symbols:
            try:
                tick = gateway.tick(symbol)
            except InvalidRequest as error:
                refused.append(f"{symbol}: {error}")
                continue
            ages.append((datetime.now(UTC) - tick.time).total_seconds())
        figures = WorkerMetrics(
            open_positions=len(positions),
            refused_symbols=refused,
            cycle_seconds=round(time.monotonic() - started, 4),
        )
        if ages:
            oldest = round(max(0.0, *ages), 3)
            figures = figures.updated(WorkerMetrics(last_tick_age_seconds=oldest))
        logs.event(logger, logging.DEBUG, "cycle_completed", **figures.to_dict())
        return figures
