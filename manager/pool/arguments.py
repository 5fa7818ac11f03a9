"""Checks of command arguments, before anything is sent or written."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from manager.config.ids import checked_id
from manager.errors import InvalidPayloadError
from manager.placement.labels import Selection
from manager.settings import HOST_NAME

#: Longest timeout of a stop, in seconds.
MAX_TIMEOUT: Final = 86_400.0


def check_account_id(account_id: Any) -> str:
    """Return the id. Raises InvalidAccountIdError if it is not a valid one."""
    return checked_id(account_id)


def check_timeout(timeout: Any) -> float | None:
    """Return a stop's timeout in seconds; None for the account's own.

    Raises InvalidPayloadError if it is not a number from 0 to MAX_TIMEOUT.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise InvalidPayloadError(f"timeout {timeout!r} is not a number of seconds; nothing was done")
    if math.isnan(timeout) or not 0 <= timeout <= MAX_TIMEOUT:
        raise InvalidPayloadError(
            f"timeout {timeout:g} is not allowed: use 0 to {MAX_TIMEOUT:g} seconds; nothing was done"
        )
    return float(timeout)


def check_host_name(host: Any) -> str:
    """Return a host's name.

    Raises InvalidPayloadError if it is not a valid one.
    """
    if not isinstance(host, str) or not HOST_NAME.fullmatch(host):
        raise InvalidPayloadError(
            f"host {host!r}: a host's name is 1 to 63 letters, digits, '.', '_' or '-'; nothing was done"
        )
    return host


def check_flags(**flags: Any) -> None:
    """Raise InvalidPayloadError for the first flag that is not a boolean."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise InvalidPayloadError(f"{name} {value!r} must be true or false; nothing was done")


def check_selection(group: Any, labels: Any) -> Selection:
    """Return the selection of one or several groups and of labels.

    Raises InvalidPayloadError if either has another type.
    """
    groups = [group] if isinstance(group, str) else [] if group is None else group
    if not isinstance(groups, Sequence) or not all(isinstance(one, str) and one for one in groups):
        raise InvalidPayloadError(
            f"group {group!r} must be a group's name or a list of names; nothing was done"
        )
    if labels is not None and not (
        isinstance(labels, Mapping)
        and all(isinstance(key, str) and key and isinstance(value, str) for key, value in labels.items())
    ):
        raise InvalidPayloadError(f"labels {labels!r} must map names to strings; nothing was done")
    return Selection.of(groups, labels)
