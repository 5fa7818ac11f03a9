"""Command `events`: shows and follows the event stream."""

import json
from typing import TYPE_CHECKING, Any

import click

from manager.cli.common import json_option, say, selected, selection_options, service, settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from manager.fleet import Event
    from manager.fleet.event_types import EventFilter
    from manager.fleet.events import EventStream

#: Newest events among which those of some accounts or types are searched.
_MOST = 100_000


@click.command()
@click.option(
    "-n", "last", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Number of events."
)
@click.option("-f", "--follow", is_flag=True, help="Then print new events until Ctrl-C. [default: off]")
@click.option(
    "--after", metavar="CURSOR", help="Show the events after this cursor, oldest first. [default: the newest]"
)
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="PATTERN",
    help="Only these types, such as 'worker.*'. [default: all]",
)
@click.option(
    "--account", "account_ids", multiple=True, metavar="ACCOUNT", help="Only this account. [default: all]"
)
@selection_options
@json_option
def events(
    last: int,
    follow: bool,
    after: str | None,
    types: tuple[str, ...],
    account_ids: tuple[str, ...],
    groups: tuple[str, ...],
    labels: tuple[str, ...],
    as_json: bool,
) -> int:
    """Show what happened in the fleet, newest last.

    With --json, each line is one JSON object. Without --follow, the last line contains the cursor from which
    --after continues.
    """
    from manager.factory import fleet_store
    from manager.fleet.cursors import Cursor, Position
    from manager.telemetry.event_watch import watch_events

    stream = fleet_store(settings()).stream
    only = _only(types, account_ids, groups, labels)
    if after is None:
        cursor = stream.cursor("$")
        found = stream.newest(_MOST if _narrow(only) else last)
        shown = [event for event in found if only.matches(event)][-last:]
        if found:  # an event that came meanwhile is shown once
            cursor = Cursor(cursor.stream, Position.parse(found[-1].id))
    else:
        page = stream.page(stream.cursor(after), count=last, only=only)
        shown, cursor = page.events, page.cursor
    print_events(shown, as_json)
    if not follow:
        if as_json:
            click.echo(json.dumps({"cursor": str(cursor)}))
        return 0
    try:
        for event in watch_events(stream, str(cursor), only=only):
            print_events([event], as_json)
    except KeyboardInterrupt:
        pass
    return 0


def _only(
    types: tuple[str, ...], account_ids: tuple[str, ...], groups: tuple[str, ...], labels: tuple[str, ...]
) -> "EventFilter":
    from manager.fleet.event_types import EventFilter

    selection = selected(account_ids, groups, labels)
    accounts = frozenset(account_ids) if account_ids else None
    if selection:
        fleet = service()
        accounts = frozenset(fleet.select(selection)) | {
            one.account_id for one in fleet.list_workers(selection)
        }
    return EventFilter(types=types, accounts=accounts)


def _narrow(only: "EventFilter") -> bool:
    return bool(only.types) or only.accounts is not None


def newest_of(stream: "EventStream", account_id: str) -> "list[Event]":
    """Return the events of one account that are kept, oldest first."""
    from manager.fleet.event_types import EventFilter

    only = EventFilter(accounts=frozenset({account_id}))
    return [event for event in stream.newest(_MOST) if only.matches(event)]


def print_events(events: "Iterable[Event]", as_json: bool) -> None:
    """Print each event as a line for people, or as a JSON object."""
    for event in events:
        if as_json:
            click.echo(json.dumps(event.to_dict(), ensure_ascii=False))
        else:
            say(event_line(event))


def event_line(event: "Event") -> str:
    """Format an event as one line: time, host, account, change, sender."""
    parts: list[str] = [f"{event.time:%Y-%m-%d %H:%M:%S} UTC", event.host or "-"]
    if event.account_id:
        parts.append(event.account_id)
    what, why = _what(event)
    text = f"{what}: {' '.join(why.split())}" if why else what
    by = f" (by {event.by})" if event.by else ""
    return " ".join([*parts, text]) + by


def _what(event: "Event") -> tuple[str, str | None]:
    data: Any = event.data
    if event.kind == "health":
        missed = f" (after {event.untold} changes without an event)" if event.untold else ""
        return f"health {event.health_before} -> {event.health}{missed}", event.reason
    if event.kind == "state":
        ill = event.health not in (None, "healthy", "unknown")
        return (f"{event.status} ({event.health})" if ill else event.status), event.error or (
            event.reason if ill else None
        )
    if event.type == "worker.mode":
        return f"trading mode {data.get('from')} -> {data.get('to')}", None
    if event.type in ("command.asked", "command.done"):
        outcome = data.get("outcome")
        asked = event.type == "command.asked"
        return f"{data.get('what')} {'asked' if asked else outcome or 'done'}", event.error
    if event.type == "account.resting":
        return "rests", str(data.get("text") or "") or None
    if event.type.startswith("config."):
        named = data.get("problems") or data.get("fields")
        return event.type, ", ".join(map(str, named)) if isinstance(named, list) else event.error
    return event.type, event.error


COMMANDS = (events,)
