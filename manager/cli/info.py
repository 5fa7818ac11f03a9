"""Command `info`."""

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
    from manager.models import WorkerInfo

#: Events that `info` shows, and the newest ones of the fleet among which it looks for them.
_EVENTS_SHOWN = 5
_EVENTS_READ = 20_000


@click.command()
@account_argument()
@json_option
def info(account_id: str, as_json: bool) -> int:
    """Show all details of one account's worker."""
    from manager.factory import desired_store

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
    _say_attention(account_id)
    _say_events(account_id)
    return 0


def _say_attention(account_id: str) -> None:
    """Print the attention items, and what to do next."""
    from manager.factory import desired_store, fleet_store
    from manager.telemetry.attention import account_attention, account_states

    now = settings()
    hosts, workers = fleet_store(now).snapshot([account_id])
    accounts, moment = account_states(hosts, workers, desired_store(now).snapshot())
    found = [
        one
        for account in accounts
        if account.account_id == account_id
        for one in account_attention(account, moment)
    ]
    for one in found:
        since = f" since {one.since.isoformat(timespec='seconds')}" if one.since is not None else ""
        say(f"{'attention':<24}{one.severity}: {one.code}{since}: {' '.join(one.text.split())}")
        say(f"{'':<24}{one.do}")


def _say_events(account_id: str) -> None:
    """Print the newest events of the account, oldest first."""
    from manager.cli.events import event_line
    from manager.factory import fleet_store
    from manager.fleet.event_types import EventFilter

    only = EventFilter(accounts=frozenset({account_id}))
    found = [one for one in fleet_store(settings()).stream.newest(_EVENTS_READ) if only.matches(one)]
    for place, event in enumerate(found[-_EVENTS_SHOWN:]):
        say(f"{'' if place else 'events':<24}{event_line(event)}")


def _say(worker: "WorkerInfo") -> None:
    from manager.terminal.listing import size_text

    data = worker.to_dict()
    metadata: dict[str, Any] = data.pop("metadata")
    for key, value in {**data, **metadata}.items():
        if value is not None and value not in ([], {}):
            if key.endswith("_bytes") and isinstance(value, int):
                value = f"{value} ({size_text(value)})"  # noqa: PLW2901
            if isinstance(value, dict) and "text" in value:
                value = value["text"]  # noqa: PLW2901 `config` and `resting`: --json has the rest
            say(f"{key:<24}{value}")


COMMANDS = (info,)
