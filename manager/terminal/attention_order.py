"""The attention order of accounts: trouble first, then by account id.

Used where a screen may not have room for all accounts.
"""

from typing import Final

#: State → rank; 0 needs attention most. For running workers the rank depends on health.
_STATES: Final = {
    "failed": 0,
    "invalid": 0,
    "file gone": 1,
    "unknown": 1,
    "restarting": 3,
    "stopped": 6,
    "disabled": 6,
    "never started": 6,
}
_HEALTH: Final = {"unhealthy": 2, "unknown": 3, "degraded": 4}
_NORMAL: Final = 5


def attention_rank(state: str, health: str = "") -> int:
    """Return the rank of an account; 0 needs attention most."""
    rank = _STATES.get(state)
    if rank is not None:
        return rank
    return _HEALTH.get(health, _NORMAL) if state == "running" else _NORMAL


def needs_attention(state: str, health: str = "") -> bool:
    """Return whether an operator should check the account."""
    return attention_rank(state, health) < _NORMAL
