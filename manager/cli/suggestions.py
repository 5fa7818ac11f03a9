"""Suggestions for misspelt commands: only commands that change nothing."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

import click

#: Group (its path after `manager`) → its read-only commands. Other commands are never suggested.
READ_ONLY: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset(
        {
            *("ps", "status", "list", "ls", "top", "info", "events", "logs", "hosts", "place", "batch"),
            *("ps", "status", "list", "ls", "top", "info", "events", "logs", "hosts", "place", "batch"),
            *("validate", "audit", "doctor", "healthcheck", "version", "completion", "man", "config"),
            *("history", "reload", "versions"),
        }
    ),
    "config": frozenset({"show", "diff", "history"}),
    "rollout": frozenset({"list", "show"}),
    "schedule": frozenset({"show", "next"}),
    "secure": frozenset(),
    "service": frozenset({"status"}),
    "token": frozenset({"list"}),
}


class Commands(click.Group):
    """A group that suggests only read-only commands for a misspelt one.

    A user may run a suggestion without thinking, so it must not start or stop anything.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the named command. Raises click.UsageError if it does not exist."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            group = ctx.command_path.partition(" ")[2]
            offered = sorted(READ_ONLY.get(group, frozenset()) & set(self.commands))
            close = get_close_matches(args[0], offered, n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            raise click.UsageError(
                f"{args[0]!r} is not a command; {hint}`{ctx.command_path} --help` lists all commands", ctx
            ) from None
