"""Command `history`: the runs of one account, and its events."""

import shutil
import sys

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


@click.command()
@account_argument()
@click.option(
    "--runs",
    "what",
    flag_value="runs",
    default="runs",
    help="Show its runs: who started them, how long they ran, why they ended. [default: on]",
)
@click.option("--events", "what", flag_value="events", help="Show its events instead. [default: off]")
@click.option(
    "-n",
    "last",
    type=click.IntRange(1, 100_000),
    default=20,
    show_default=True,
    help="Number of runs or events.",
)
@json_option
def history(account_id: str, what: str, last: int, as_json: bool) -> int:
    """Show an account's past runs on every host, newest last.

    A run is in the history once it has ended. Each host keeps about its newest 2,000 runs.
    """
    if what == "events":
        return _show_events(account_id, last, as_json)
    fleet = service()
    runs = list(reversed(fleet.runs(account_id, last)))
    if as_json:
        print_json([run.to_dict() for run in runs])
        return 0
    worker = fleet.get_worker_info(account_id)
    if not runs and worker is None:
        configuration().account_path(account_id)  # an unknown account is an error
    if runs:
        from manager.terminal.run_list import run_lines

        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        for line in run_lines(runs, width):
            say(line)
    else:
        say(f"no run of {account_id} has ended yet")
    if worker is not None and worker.status == "running":
        since = f" since {worker.started_at:%Y-%m-%d %H:%M:%S} UTC" if worker.started_at else ""
        say(f"{account_id} runs{since} on host {worker.placement.host}; `manager info {account_id}` shows it")
    return 0


def _show_events(account_id: str, last: int, as_json: bool) -> int:
    from manager.cli.events import newest_of, print_events
    from manager.factory import fleet_store

    found = newest_of(fleet_store(settings()).stream, account_id)[-last:]
    print_events(found, as_json)
    if not found and not as_json:
        say(f"no event of {account_id} is kept; `manager events` shows those of the fleet")
    return 0


COMMANDS = (history,)
