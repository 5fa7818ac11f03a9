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


COMMANDS = (info,)
