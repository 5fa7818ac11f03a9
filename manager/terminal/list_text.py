"""Texts of lists of workers. Imports no rich, so that `manager ps` starts faster."""

from collections.abc import Mapping
from typing import Final

from manager.models import WorkerInfo
from manager.states import TradingMode

#: Account → (state to show instead of a worker's, reason).
Others = Mapping[str, tuple[str, str]]


_MODE_TEXTS: Final = {
    TradingMode.WAITING: "waits for its window: it sends no orders",
    TradingMode.CLOSE_ONLY: "close-only: it opens no positions",
    TradingMode.PAUSED: "paused: it sends no orders",
}


def mode_text(info: WorkerInfo) -> str:
    """Return why a worker sends no orders, or why the account has no worker now, else empty text."""
    return info.rest_text or _MODE_TEXTS.get(info.trading_mode, "")


def seconds_text(seconds: float) -> str:
    """Return a duration as text: 42s, 3m07s, 5h12m, 3d04h."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3_600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3_600}h{whole % 3_600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3_600:02}h"
