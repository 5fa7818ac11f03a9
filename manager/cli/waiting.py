"""What a person is told, in lines, who waits for the answers of single commands."""

import time
from typing import TYPE_CHECKING

import click

from manager.system.text import printable

if TYPE_CHECKING:
    from manager.terminal.awaited import Awaited

#: Seconds of silence after which somebody who waits is told that it goes on.
_SAY_SO_SECONDS = 3.0


class Waiting:
    """Says once what holds every start up, and once for each account what it does."""

    def __init__(self, *, starts: bool) -> None:
        self._starts = starts
        self._began = time.monotonic()
        self._held_up = False
        self._told: set[str] = set()
        self._awaited: Awaited | None = None

    def say(self, account_id: str) -> None:
        """Say what there is to say of an account that has not been answered for; called about once a second."""
        if self._awaited is None:
            from manager.cli.batches import awaited

            self._awaited = awaited(starts=self._starts)
        if not self._held_up:
            text = self._awaited.quarantine()
            self._held_up = bool(text)
            if text:
                click.echo(text, err=True)
        if account_id in self._told:
            return
        doing = ", ".join(wait.what for wait in self._awaited.look([account_id]))
        if time.monotonic() - self._began >= _SAY_SO_SECONDS:
            self._told.add(account_id)
            now = f" ({doing})" if doing else ""
            click.echo(
                printable(
                    f"{account_id}: no answer yet{now}; Ctrl-C stops waiting, and the command continues"
                ),
                err=True,
            )
