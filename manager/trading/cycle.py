"""What a session does at each interval: for now it looks; strategies take their turn here.

A strategy is a `Cycle`, or a step after `ObserveCycle`. It gets a gateway and the account's configuration, and one call
each interval on the session's only thread.
"""

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from manager.config import AccountConfig
from manager.gateways.base import Gateway, InvalidRequest, NotSupported
from manager.system import logs

logger = logging.getLogger(__name__)


class Cycle(Protocol):
    def run(self, gateway: Gateway) -> Mapping[str, Any]:
        """Do one cycle and return figures for the worker's status. GatewayErrors pass through."""


class ObserveCycle:
    """Reads account, positions, and the tick of each enabled currency, and reports them."""

    def __init__(self, config: AccountConfig) -> None:
        self._symbols = config.enabled_symbols()

    def run(self, gateway: Gateway) -> Mapping[str, Any]:
        started = time.monotonic()
        figures: dict[str, Any] = {}
        try:
            positions = gateway.positions()
            figures["open_positions"] = len(positions)
        except NotSupported:
            return {}
        ages: list[float] = []
        refused: list[str] = []
        for symbol in self._symbols:
            try:
                tick = gateway.tick(symbol)
            except InvalidRequest as error:
                refused.append(f"{symbol}: {error}")
                continue
            ages.append((datetime.now(UTC) - tick.time).total_seconds())
        if ages:
            figures["last_tick_age_seconds"] = round(max(0.0, *ages, 0.0), 3)
        figures["refused_symbols"] = refused
        figures["cycle_seconds"] = round(time.monotonic() - started, 4)
        logs.event(logger, logging.DEBUG, "cycle", **figures)
        return figures
