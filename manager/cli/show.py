"""Commands `info` and `events`."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from manager.cli.common import (
    account_argument,
    configuration,
    json_option,
    print_json,
    say,
    service,
    settings,
)

if TYPE_CHECKING:
    from manager.fleet import Event
    from manager.models import WorkerInfo


@click.command()
@account_argument()
@json_option
def info(account_id: str, as_json: bool) -> int:
    """Show all details of one account's worker."""
    from manager.factory import desired_store, fleet_store
    from manager.states import SETTLED

    fleet = service()
    worker = fleet.get_worker_info(account_id)
    if worker is None:
        configuration().account_path(account_id)
        if as_json:
            print_json(None)
        else:
            say(f"{account_id} has never had a worker; `manager start {account_id}` starts one")
        return 1
    if as_json:
        print_json(worker.to_dict())
        return 0
    _say(worker)
    desired = desired_store(settings()).read(account_id)
    if desired is not None:
        when = datetime.fromtimestamp(desired.at / 1000, UTC).isoformat(timespec="seconds")
        where = f" on {desired.host}" if desired.host else ""
        say(f"{'desired_state':<24}{desired.state}{where}, since {when} by {desired.by} ({desired.why})")
        if desired.running and worker.status in SETTLED:
            host = next((one for one in fleet_store(settings()).hosts() if one.name == desired.host), None)
            if host is not None and host.draining:
                say(
                    f"{'':<24}host {host.name} is drained: `manager resume-host {host.name}` starts the "
                    "worker again"
                )
            elif host is not None and not host.live:
                say(f"{'':<24}host {host.name} is {host.state}: start its host agent (`manager host` there)")
    return 0


def _say(worker: "WorkerInfo") -> None:
    from manager.terminal.listing import size_text

    data = worker.to_dict()
    metadata: dict[str, Any] = data.pop("metadata")
    for key, value in {**data, **metadata}.items():
        if value is not None and value not in ([], {}):
            if key.endswith("_bytes") and isinstance(value, int):
                value = f"{value} ({size_text(value)})"  # noqa: PLW2901
            say(f"{key:<24}{value}")


@click.command()
@click.option(
    "-n", "last", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Number of events."
)
@click.option("-f", "--follow", is_flag=True, help="Then print new events until Ctrl-C.")
@click.option("--account", "account_id", help="Show only this account. [default: all]")
@json_option
def events(last: int, follow: bool, account_id: str | None, as_json: bool) -> int:
    """Show changes of workers' states and health, newest last.

    With --json, each line is one JSON object.
    """
    from manager.factory import fleet_store

    store = fleet_store(settings())
    found = store.events(last=last if account_id is None else 10_000)
    chosen = [event for event in found if account_id in (None, event.account_id)][-last:]
    for event in chosen:
        _say_event(event, as_json)
    after = found[-1].id if found else "0"
    try:
        while follow:
            for event in store.follow_events(after):
                after = event.id
                if account_id in (None, event.account_id):
                    _say_event(event, as_json)
    except KeyboardInterrupt:
        pass
    return 0


def _say_event(event: "Event", as_json: bool) -> None:
    import json

    if as_json:
        click.echo(json.dumps(event.to_dict(), ensure_ascii=False))
        return
    what, why = event.status, event.error
    if event.kind == "health":
        what, why = f"health {event.health_before} -> {event.health}", event.reason
    elif event.health not in (None, "healthy", "unknown"):
        what, why = f"{event.status} ({event.health})", event.error or event.reason
    what += f" (after {event.untold} changes without an event)" if event.untold else ""
    text = f"{what}: {' '.join(why.split())}" if why else what
    say(f"{event.time:%Y-%m-%d %H:%M:%S} UTC {event.host} {event.account_id} {text}")


COMMANDS = (info, events)
