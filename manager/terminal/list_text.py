"""Texts of lists of workers. Imports no rich, so that `manager ps` starts faster."""

from collections.abc import Mapping

from manager.models import WorkerInfo
from manager.states import TradingMode

#: Account → (state to show instead of a worker's, reason).
Others = Mapping[str, tuple[str, str]]


def mode_text(info: WorkerInfo) -> str:
    """Return a note about a trading mode that blocks orders, else empty text."""
    return "paused: it sends no orders" if info.trading_mode is TradingMode.PAUSED else ""


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
