"""What a misspelt command is answered with: only commands that change nothing are offered."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

import click

#: By group (its path after `manager`): the commands that only look. A command that is not here is never offered.
READ_ONLY: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset(
        {
            *("ps", "status", "list", "ls", "top", "info", "events", "logs", "hosts", "place", "batch"),
            *("validate", "audit", "doctor", "healthcheck", "version", "completion", "man", "config"),
        }
    ),
    "config": frozenset({"show", "diff", "history"}),
    "secure": frozenset(),
    "service": frozenset({"status"}),
}


class Commands(click.Group):
    """A group that offers, for a misspelt command, none that changes something: it would be typed without thought."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is named. Raises click's UsageError."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            group = ctx.command_path.partition(" ")[2]
            offered = sorted(READ_ONLY.get(group, frozenset()) & set(self.commands))
            close = get_close_matches(args[0], offered, n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            raise click.UsageError(
                f"there is no command {args[0]!r}; {hint}`{ctx.command_path} --help` lists all", ctx
            ) from None
