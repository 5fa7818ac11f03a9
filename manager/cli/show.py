"""info, events, logs."""

import contextlib
import os
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from manager.cli.common import (
    account_argument,
    configuration,
    json_option,
    print_error,
    print_json,
    say,
    service,
    settings,
)
from manager.terminal.text import printable

if TYPE_CHECKING:
    from manager.fleet import Event
    from manager.models import WorkerInfo


@click.command()
@account_argument()
@json_option
def info(account_id: str, as_json: bool) -> int:
    """Show all that is known of one account's worker."""
    from manager.factory import desired_store, fleet_store
    from manager.states import SETTLED

    fleet = service()
    worker = fleet.get_worker_info(account_id)
    if worker is None:
        configuration().account_path(account_id)
        if as_json:
            print_json(None)
        else:
            say(f"{account_id} never had a worker; `manager start {account_id}` starts one")
        return 1
    if as_json:
        print_json(worker.to_dict())
        return 0
    _say(worker)
    desired = desired_store(settings()).read(account_id)
    if desired is not None:
        when = datetime.fromtimestamp(desired.at / 1000, UTC).isoformat(timespec="seconds")
        where = f" on {desired.host}" if desired.host else ""
        say(f"{'wanted':<24}{desired.state}{where}, since {when} by {desired.by} ({desired.why})")
        if desired.running and worker.status in SETTLED:
            host = next((one for one in fleet_store(settings()).hosts() if one.name == desired.host), None)
            if host is not None and host.draining:
                say(f"{'':<24}{host.name} is drained: `manager resume-host {host.name}` starts it again")
            elif host is not None and not host.live:
                say(f"{'':<24}{host.name} is {host.state}: start its agent there")
    return 0


def _say(worker: "WorkerInfo") -> None:
    from manager.terminal.listing import size_text

    data = worker.to_dict()
    metadata: dict[str, Any] = data.pop("metadata")
    for key, value in {**data, **metadata}.items():
        if value is not None and value != []:
            if key.endswith("_bytes") and isinstance(value, int):
                value = f"{value} ({size_text(value)})"  # noqa: PLW2901
            say(f"{key:<24}{value}")


@click.command()
@click.option("-n", "last", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new ones until Ctrl-C.")
@click.option("--account", "account_id", help="Only this account's.")
@json_option
def events(last: int, follow: bool, account_id: str | None, as_json: bool) -> int:
    """Show the latest changes of workers' states and health, the newest last; --json: one object a line."""
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


@click.command()
@account_argument()
@click.option(
    "-n", "lines", type=click.IntRange(0, 100_000), default=40, show_default=True, help="How many lines."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
def logs(account_id: str, lines: int, follow: bool) -> int:
    """Show the log of one account's worker, on the host where it runs."""
    from manager.config import ConfigurationService
    from manager.system.state_dir import StatePaths

    now = settings()
    configuration = ConfigurationService(now.config_dir)
    path = StatePaths(now.state_dir).worker_log(configuration.checked_id(account_id))
    if not path.exists():
        configuration.account_path(account_id)
        print_error(
            f"{account_id} has no log on this machine ({path}): it never ran here; "
            f"`manager info {account_id}` shows its host"
        )
        return 1
    with contextlib.suppress(KeyboardInterrupt):
        _tail(path, lines, follow)
    return 0


def _tail(path: Path, lines: int, follow: bool) -> None:
    file = path.open(encoding="utf-8", errors="replace")
    try:
        for line in deque(file, maxlen=lines):
            click.echo(printable(line), nl=False)
        while follow:
            rotated = _rotated(path, file)
            for line in file:
                click.echo(printable(line), nl=False)
            if rotated:
                # Nothing more comes into the old file; all of the new one is still unseen.
                file.close()
                file = path.open(encoding="utf-8", errors="replace")
            else:
                time.sleep(0.2)
    finally:
        file.close()


def _rotated(path: Path, file: TextIO) -> bool:
    try:
        return path.stat().st_ino != os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


COMMANDS = (info, events, logs)
