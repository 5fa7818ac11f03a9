"""Progress of a validation: what has happened to each account so far."""

from collections.abc import Callable
from functools import partial
from typing import Final

from manager.models import ValidationResult

#: Called with an account id and one of the stages below.
CheckProgress = Callable[[str, str], None]

#: The account's file has been read.
READ: Final = "read"
#: This machine has checked it.
VALID: Final = "valid"
INVALID: Final = "invalid"
#: A host was asked to check it, and has answered.
ASKED: Final = "asked"
DONE: Final = "done"
FAILED: Final = "failed"


def reads_of(progress: CheckProgress | None) -> Callable[[str], None] | None:
    """Return what reports that an account's file has been read."""
    return None if progress is None else partial(report_read, progress)


def report_read(progress: CheckProgress | None, account_id: str) -> None:
    """Report that an account's file has been read."""
    if progress is not None:
        progress(account_id, READ)


def report(progress: CheckProgress | None, result: ValidationResult) -> None:
    """Report that this machine has checked an account."""
    if progress is not None:
        progress(result.account_id, INVALID if result.has_errors else VALID)
