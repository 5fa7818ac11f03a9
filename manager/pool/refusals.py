"""Records commands that are refused for their arguments."""

from collections.abc import Iterator
from contextlib import contextmanager

from manager.errors import ManagerError
from manager.pool.protocol import WorkerPool


@contextmanager
def noted_refusals(pool: WorkerPool, command: str) -> Iterator[None]:
    """Record invalid arguments in the audit trail, if the pool has one.

    The entry leaves out the account, because an invalid argument can be anything, even a secret.
    """
    try:
        yield
    except ManagerError as error:
        note = getattr(pool, "note_refusal", None)
        if callable(note):
            note(command, "", error)
        raise
