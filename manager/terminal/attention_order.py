"""The attention order of accounts: trouble first, then by account id.

Used where a screen may not have room for all accounts.
"""

from collections.abc import Iterable
from typing import Final

from manager.telemetry.attention import CODES, Attention

#: Code → rank; 0 needs attention most. The codes are listed with the most urgent first.
_URGENCY: Final = {code: 2 * place for place, code in enumerate(CODES)}
_NORMAL: Final = 2 * len(CODES)
#: States that have a rank without attention. Most of them belong to accounts that have no worker.
_STATES: Final = {
    "invalid": _URGENCY["failed"],
    "file gone": _URGENCY["failed"] + 1,
    "restarting": _URGENCY["version_old"] - 1,
    "stopped": _NORMAL + 1,
    "disabled": _NORMAL + 1,
    "never started": _NORMAL + 1,
}


def attention_rank(state: str, found: Iterable[Attention] = ()) -> int:
    """Return the rank of an account in this state; 0 needs attention most.

    `found` is its attention, as `manager.telemetry.attention` returns it.
    """
    return min([_STATES.get(state, _NORMAL), *(2 * one.urgency for one in found)])
