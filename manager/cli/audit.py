"""Command `audit`: shows who sent which command, and its outcome."""

import csv
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from manager.cli.common import json_option, say, settings
from manager.system.text import printable

if TYPE_CHECKING:
    from manager.fleet.audit import AuditEntry


@click.command()
@click.option(
    "-n", "last", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Number of entries."
)
@click.option("-f", "--follow", is_flag=True, help="Then print new entries until Ctrl-C.")
@click.option("--account", "account_id", help="Show only this account. [default: all]")
@click.option(
    "--export",
    "export",
    type=click.Choice(["jsonl", "csv"]),
    help="Print all stored entries in this format, oldest first. [default: the newest entries as text]",
)
@json_option
def audit(last: int, follow: bool, account_id: str | None, export: str | None, as_json: bool) -> int:
    """Show who sent which command, from where and when, and its outcome.

    The newest entry comes last.
    """
    from manager.factory import audit_trail

    trail = audit_trail(settings())
    if export is not None:
        _export((one for one in trail.everything() if account_id in (None, one.account_id)), export)
        return 0
    follower = trail.follower() if follow else None
    found = trail.last(last if account_id is None else 100_000)
    for entry in [one for one in found if account_id in (None, one.account_id)][-last:]:
        _say(entry, as_json)
    shown = {one.id for one in found}
    try:
        while follower is not None:
            for entry in follower.next():
                if entry.id not in shown and account_id in (None, entry.account_id):
                    _say(entry, as_json)
    except KeyboardInterrupt:
        pass
    return 0


def _say(entry: "AuditEntry", as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(entry.to_dict(), ensure_ascii=False))
        return
    outcome = f" {entry.outcome}" if entry.stage == "done" else " requested"
    text = f": {' '.join(entry.text.split())}" if entry.text else ""
    account = f" {entry.account_id}" if entry.account_id else ""
    # A host may write any caller and any other host into its entries, so the entry names the host that wrote
    # it.
    written = f"written by {entry.recorded_by}" if entry.recorded_by not in ("", entry.host) else ""
    place = ", ".join(part for part in (entry.host, written) if part)
    place = f" ({place})" if place else ""
    say(f"{entry.time:%Y-%m-%d %H:%M:%S} UTC {entry.by} {entry.what}{account}{place}{outcome}{text}")


def _export(entries: "Iterable[AuditEntry]", form: str) -> None:
    if form == "jsonl":
        for entry in entries:
            click.echo(json.dumps(entry.to_dict(), ensure_ascii=False))
        return
    columns = [
        "id",
        "time",
        "stage",
        "what",
        "account_id",
        "by",
        "host",
        "command",
        "outcome",
        "text",
        "recorded_by",
    ]
    writer = csv.DictWriter(sys.stdout, columns)
    writer.writeheader()
    for entry in entries:
        # A spreadsheet runs a cell that starts like a formula, and the caller's name is text that others
        # wrote.
        row = {key: printable(str(value)) for key, value in entry.to_dict().items()}
        writer.writerow({k: f"'{v}" if v[:1] in tuple("=+-@\t\r") else v for k, v in row.items()})


COMMANDS = (audit,)
