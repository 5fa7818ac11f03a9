"""Texts about changed account files. They contain no secret."""

import re
from collections.abc import Sequence
from typing import Final

from manager.change.reload_classes import FieldChange, ReloadClass

#: A problem of a file, and the keys whose values may be secret.
_PROBLEM: Final = re.compile(r"(?P<place>\S+:\d+:\d+: )(?P<key>[^\s:]+):")
_MAY_BE_SECRET: Final = frozenset(
    {
        "password",
        "command",
        "environment",
        "environment_file",
        "options",
        "ready",
        "health",
        "venue",
        "strategy",
    }
)


def without_secrets(problem: str) -> str:
    """Return a problem's text without the value of a key that may hold a secret."""
    found = _PROBLEM.match(problem)
    if found is None or found["key"].split(".")[0].split("[")[0] not in _MAY_BE_SECRET:
        return problem
    return f"{found['place']}{found['key']}: is not valid; `manager validate` shows why"


def restart_text(account_id: str) -> str:
    """Return which command applies the account's file."""
    return f"`manager restart {account_id}` applies its file"


def explain(account_id: str, later: Sequence[FieldChange], restarts: str) -> str:
    """Return what has to happen for changes that the running session does not take.

    `restarts` says when the host restarts the worker by itself; empty: it does not.
    """
    keys = key_names(later)
    classes = {one.reload_class for one in later}
    if classes == {ReloadClass.NEXT_START}:
        return f"{keys}: takes effect at the next start"
    if classes == {ReloadClass.PLACEMENT}:
        return f"{keys}: takes effect at the next start, or by `manager move {account_id} --to HOST`"
    return f"{keys}: {restarts or restart_text(account_id)}"


def key_names(found: Sequence[FieldChange]) -> str:
    """Return the first keys of changes."""
    return ", ".join(one.key for one in found[:5]) + (", …" if len(found) > 5 else "")
