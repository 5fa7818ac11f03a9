"""Command `token`: creates, lists and revokes tokens of the HTTP API."""

import re
from typing import TYPE_CHECKING

import click

from manager.cli.common import json_option, print_error, print_json, say, settings
from manager.cli.suggestions import Commands

if TYPE_CHECKING:
    from manager.fleet.tokens import Token, TokenStore

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
#: Same as `manager.fleet.tokens.SCOPES`, which is not imported because `--help` must be fast.
_SCOPES = ("read", "metrics", "operate", "configure", "kill", "admin")


def _lifetime(_context: click.Context, _parameter: click.Parameter, value: str) -> float | None:
    """Return a time such as `90d` as seconds; None for `never`."""
    text = value.strip().lower()
    if text == "never":
        return None
    found = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if found is None or int(found[1]) == 0:
        raise click.BadParameter(f"{value!r} is not a lifetime: use 30m, 12h, 90d, 4w or never")
    return float(int(found[1]) * _UNITS[found[2]])


@click.group(cls=Commands)
def token() -> None:
    """Manage tokens for the HTTP API (`manager api`)."""


@token.command()
@click.option(
    "--name",
    required=True,
    metavar="NAME",
    help="The user or program of the token, shown in the audit trail.",
)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(_SCOPES),
    help="What the token allows; repeatable.",
)
@click.option(
    "--expires",
    callback=_lifetime,
    default="90d",
    show_default=True,
    metavar="TIME",
    help="Lifetime: 30m, 12h, 90d, 4w or never.",
)
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="NAME",
    help="Allow commands only for accounts of this group; repeatable.",
)
@click.option(
    "-l",
    "--label",
    "labels",
    multiple=True,
    metavar="KEY[=VALUE]",
    help="Allow commands only for accounts with this label; repeatable.",
)
@click.option("--read-selection", is_flag=True, help="Limit reading to the same accounts as commands.")
@click.option("--no-logs", is_flag=True, help="Forbid reading logs and positions.")
@json_option
def create(
    name: str,
    scopes: tuple[str, ...],
    expires: float | None,
    groups: tuple[str, ...],
    labels: tuple[str, ...],
    read_selection: bool,
    no_logs: bool,
    as_json: bool,
) -> int:
    """Create a token and print it.

    The token is shown only once.
    """
    from manager.client.caller import caller
    from manager.factory import audit_trail
    from manager.placement.labels import Selection

    created, text = _store().create(
        name,
        scopes,
        by=caller(),
        selection=Selection(groups, labels),
        read_selection=read_selection,
        logs=not no_logs,
        expires_seconds=expires,
    )
    audit_trail(settings()).note("token create", by=caller(), text=describe(created))
    if as_json:
        print_json({**created.to_dict(), "token": text})
    else:
        say(text)
        click.echo(f"{describe(created)}; store the token now, it is not shown again", err=True)
    return 0


@token.command("list")
@json_option
def list_tokens(as_json: bool) -> int:
    """List all tokens, without their secrets."""
    found = _store().list()
    if as_json:
        print_json([one.to_dict() for one in found])
        return 0
    for one in found:
        used = "never used" if one.last_used is None else f"last used {one.last_used:%Y-%m-%d %H:%M} UTC"
        say(f"{describe(one)}; {used}")
    if not found:
        say("no tokens; `manager token create` creates one")
    return 0


@token.command()
@click.argument("token_id", metavar="ID")
def revoke(token_id: str) -> int:
    """Revoke a token by its id.

    Servers reject it within a second.
    """
    from manager.client.caller import caller
    from manager.factory import audit_trail

    if not _store().revoke(token_id):
        print_error(f"no token {token_id}: `manager token list` shows the ids")
        return 1
    audit_trail(settings()).note("token revoke", by=caller(), text=f"token {token_id}")
    say(f"token {token_id} revoked")
    return 0


def describe(one: "Token") -> str:
    """Return a token in one line, without its secret."""
    where = f" for {one.selection}" if one.selection else ""
    until = "never expires" if one.expires is None else f"expires {one.expires:%Y-%m-%d %H:%M} UTC"
    return f"token {one.id} ({one.name}): {', '.join(sorted(one.scopes))}{where}, {until}"


def _store() -> "TokenStore":
    from manager.fleet import fleet_url
    from manager.fleet.tokens import TokenStore

    return TokenStore(fleet_url(settings()))


COMMANDS = (token,)
