"""Which changes of a real account's file wait for a person. Pure."""

from collections.abc import Iterable
from typing import Any, Final, Literal

from manager.change.reload_classes import FieldChange, ReloadClass

#: `reload.hold` of an account file.
Hold = Literal["raises", "all", "none"]

#: Limits of which a higher value, or none, allows more exposure.
_LIMITS: Final = frozenset(
    {"risk_percent", "max_positions", "portfolio_risk_percent", "max_concurrent_trades"}
)
#: Sections with such limits.
_RISKS: Final = frozenset({"default_risk", "risk"})
#: Switches that protect open positions.
_PROTECTIONS: Final = frozenset({"enable_breakeven", "enable_trailing"})
#: Keys that decide which account trades.
_IDENTITY: Final = frozenset({"gateway", "login", "server", "password", "venue"})
#: How much each value of `reload.hold` holds.
_STRICTNESS: Final[dict[Any, int]] = {"none": 0, "raises": 1, "all": 2}
#: Classes that change nothing of what the session trades.
_HARMLESS: Final = frozenset({ReloadClass.START_STOP, ReloadClass.PLACEMENT})


def raises_exposure(change: FieldChange) -> bool:
    """Return whether a change lets the account risk more, or makes another account trade.

    That is a higher risk limit or none, a new or enabled currency, a protection of open positions that is
    switched off, a weaker `reload.hold`, and another gateway, venue, login, server or password.
    """
    path, name = change.path, change.path[-1]
    if path[0] in _IDENTITY:
        return True
    if path == ("reload", "hold"):
        return _STRICTNESS[change.new] < _STRICTNESS[change.old]
    if path[0] == "currencies" and len(path) == 2:
        return change.new is not None  # a new currency
    if path[0] == "currencies" and name == "enabled":
        return change.new is True
    if name in _PROTECTIONS and "position_management" in path:
        return change.new is not True
    if name in _LIMITS and _RISKS.intersection(path):
        return _allows_more(change.old, change.new)
    return False


def held_changes(changes: Iterable[FieldChange], hold: Hold) -> tuple[FieldChange, ...]:
    """Return the changes of a real account that wait for approval."""
    if hold == "none":
        return ()
    return tuple(
        one
        for one in changes
        if raises_exposure(one) or (hold == "all" and one.reload_class not in _HARMLESS)
    )


def _allows_more(old: Any, new: Any) -> bool:
    """Return whether a limit is higher than before. None means unlimited."""
    if old is None or new is None:
        return new is None
    return bool(new > old)
