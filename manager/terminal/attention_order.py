"""The order in which accounts are shown where they may not all fit: trouble first, then by account id."""

from typing import Final

#: From what a person should look at first to what is at rest. Health counts for workers that run.
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
_WELL: Final = 5


def attention_rank(state: str, health: str = "") -> int:
    """Return 0 for what needs attention most; equal ranks keep the order of their account ids."""
    rank = _STATES.get(state)
    if rank is not None:
        return rank
    return _HEALTH.get(health, _WELL) if state == "running" else _WELL


def needs_attention(state: str, health: str = "") -> bool:
    """Say whether a person should look at it."""
    return attention_rank(state, health) < _WELL
