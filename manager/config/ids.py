"""Rules for account IDs.

An ID is a file name on every operating system, and part of keys, logs and queue names.
"""

import re
from typing import Final

from manager.errors import InvalidAccountIdError

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RESERVED: Final = frozenset(
    {"con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(1, 10))}
)


def id_problem(account_id: str) -> str | None:
    """Return what is wrong with an account ID, or None if it is valid."""
    if not isinstance(account_id, str) or not _ID.fullmatch(account_id):
        return "an account id is 1 to 64 letters, digits, '.', '_' or '-', and begins with a letter or digit"
    if account_id.endswith("."):
        return "an account id may not end in a dot: Windows drops it"
    if account_id.split(".", maxsplit=1)[0].lower() in _RESERVED:
        return f"Windows reserves the name {account_id.split('.', maxsplit=1)[0]}: choose another account id"
    return None


def checked_id(account_id: str) -> str:
    """Return the ID. Raises InvalidAccountIdError if it is not valid."""
    problem = id_problem(account_id)
    if problem is not None:
        shown = repr(account_id if len(str(account_id)) <= 80 else f"{str(account_id)[:80]}...")
        raise InvalidAccountIdError(f"account id {shown}: {problem}")
    return account_id
