"""Notices for a caller that waits for a slow command."""

import time
from typing import TYPE_CHECKING

import click

from manager.system.text import printable

if TYPE_CHECKING:
    from manager.terminal.pending_reasons import PendingReasons

#: Seconds without a result after which a notice is printed.
_NOTICE_SECONDS = 3.0


class WaitNotices:
    """Prints each notice once: the quarantine, and what accounts wait for."""

    def __init__(self, *, starts: bool) -> None:
        self._starts = starts
        self._began = time.monotonic()
        self._quarantine_said = False
        self._notified: set[str] = set()
        self._reasons: PendingReasons | None = None

    def notify(self, account_id: str) -> None:
        """Print what a pending account does, if that is due.

        Called about once a second.
        """
        if self._reasons is None:
            from manager.cli.batches import pending_reasons

            self._reasons = pending_reasons(starts=self._starts)
        if not self._quarantine_said:
            text = self._reasons.quarantine()
            self._quarantine_said = bool(text)
            if text:
                click.echo(text, err=True)
        if account_id in self._notified:
            return
        doing = ", ".join(wait.what for wait in self._reasons.read([account_id]))
        if time.monotonic() - self._began >= _NOTICE_SECONDS:
            self._notified.add(account_id)
            now = f" ({doing})" if doing else ""
            click.echo(
                printable(
                    f"{account_id}: no answer yet{now}; Ctrl-C stops waiting, and the command continues"
                ),
                err=True,
            )
