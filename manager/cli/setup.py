"""Commands that run components: `up`, `down`, `host`, `scheduler`, others.

The others are `init`, `flower` and `healthcheck`.
"""

from pathlib import Path

import click

from manager.cli.common import settings
from manager.system.text import counted


@click.command()
@click.option(
    "--demo", is_flag=True, help="First write a small example fleet if the config directory is empty."
)
@click.option("--flower/--no-flower", default=True, help="Start Flower too. [default: --flower]")
@click.option(
    "--flower-port",
    type=click.IntRange(1, 65535),
    help="Flower's port. [default: MANAGER_FLOWER_PORT, or 5555]",
)
@click.option("--api/--no-api", default=True, help="Start the HTTP API too. [default: --api]")
@click.option(
    "--api-port",
    type=click.IntRange(0, 65535),
    help="Port of the API; 0: any free one. [default: MANAGER_API_PORT, or 8700]",
)
@click.option(
    "--exit-after-start",
    is_flag=True,
    help="A trial run: stop everything again after the accounts have started.",
)
@click.option(
    "-d",
    "--detach",
    is_flag=True,
    help="Run in the background; return when the accounts have started or failed.",
)
@click.option("--background", is_flag=True, hidden=True)
def up(
    demo: bool,
    flower: bool,
    flower_port: int | None,
    api: bool,
    api_port: int | None,
    exit_after_start: bool,
    detach: bool,
    background: bool,
) -> int:
    """Start everything on this machine, then every enabled account.

    Starts Redis (unless MANAGER_REDIS_URL names one), the paper venue, the host agent, Flower and the HTTP
    API. Shows the workers until Ctrl-C, which stops everything. Closing the terminal also stops everything.
    With --detach no terminal is needed, and `manager down` stops everything.
    """
    from manager.local.up import run_up

    if detach:
        from manager.local.detach import run_detached

        if exit_after_start:
            raise click.UsageError("use either --detach or --exit-after-start, not both")
        options = [
            *(["--demo"] if demo else []),
            "--flower" if flower else "--no-flower",
            *(["--flower-port", str(flower_port)] if flower_port else []),
            "--api" if api else "--no-api",
            *(["--api-port", str(api_port)] if api_port is not None else []),
        ]
        return run_detached(settings(), options)
    return run_up(
        settings(),
        demo=demo,
        flower=flower,
        flower_port=flower_port,
        api=api,
        api_port=api_port,
        once=exit_after_start,
        background=background,
    )


@click.command()
def down() -> int:
    """Stop everything that `manager up` started on this machine.

    Works as Ctrl-C in the terminal of `manager up`, and needs no Redis. Workers stop first, then the API,
    Flower, the host agent, the paper venue and the Redis that `up` started. Returns when all of them have
    ended, and names what had to be killed.
    """
    from manager.local.down import run_down

    return run_down(settings())


@click.command()
@click.option("--demo", is_flag=True, help="Write a small example fleet at the paper venue instead.")
@click.option(
    "--move-demo",
    is_flag=True,
    help="First move the demo fleet's files to a directory next to the config directory. Fails while demo "
    "workers run.",
)
def init(demo: bool, move_demo: bool) -> int:
    """Write commented example files for a new fleet.

    Never overwrites existing files.
    """
    from manager.config.demo_files import demo_accounts
    from manager.config.starting_files import write_demo_fleet, write_starting_files
    from manager.gateways import example_files, summaries

    if demo and move_demo:
        raise click.UsageError(
            "--demo writes the demo fleet and --move-demo moves it away: use only one of them"
        )
    directory = settings().config_dir
    held = demo_accounts(directory)
    if move_demo:
        if not held:
            click.echo(f"error: {directory} does not contain the demo fleet; nothing was moved", err=True)
            return 1
        if not _moved_demo(directory, held):
            return 1
    if demo:
        written = write_demo_fleet(directory)
    else:
        written = write_starting_files(directory, summaries(), example_files(), beside=move_demo)
    if not written and held:
        click.echo(
            f"{directory} contains the demo fleet ({counted(len(held), 'account')}); nothing was written. "
            "`manager init --move-demo` moves its files away and writes example files for a real fleet"
        )
        return 1
    if not written:
        click.echo(
            f"{directory} already contains files; nothing was written. Set MANAGER_CONFIG_DIR to use "
            "another directory"
        )
        return 1
    for path in written:
        click.echo(f"wrote {path}")
    click.echo(f"next: edit {_shown(written)}, then run `manager validate` and `manager up`")
    return 0


def _moved_demo(directory: Path, held: list[str]) -> bool:
    """Move the demo's files away and print each step.

    Returns False if demo workers run, because they would lose their files.
    """
    from manager.config.demo_files import move_demo
    from manager.local.sweep import live_workers
    from manager.system.state_dir import StatePaths

    paths = StatePaths(settings().state_dir)
    running = {record.account_id for record in live_workers(paths)} & set(held)
    if running:
        click.echo(
            f"error: demo workers are running: {', '.join(sorted(running))}; nothing was moved. Run "
            "`manager down` or `manager stop-all`, then try again",
            err=True,
        )
        return False
    aside, moved, stay = move_demo(directory)
    click.echo(f"moved {counted(len(moved), 'file')} of the demo fleet to {aside}")
    for path in stay:
        click.echo(f"kept {path}: it was changed since the demo wrote it")
    return True


def _shown(written: list[Path]) -> str:
    accounts = [path for path in written if path.parent.name == "accounts"]
    return str((accounts or written)[0])


@click.command()
def host() -> int:
    """Run this machine's host agent in the foreground.

    This is `celery -A tasks worker` with the options that the agent needs.
    """
    from manager.local.agent import run_agent

    return run_agent(settings())


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Flower's port. [default: MANAGER_FLOWER_PORT, or 5555]"
)
def flower(port: int | None) -> int:
    """Run Flower, read-only, in the foreground.

    MANAGER_FLOWER_AUTH_FILE names a file of users and passwords; without it Flower asks for no password.
    """
    from manager.local.flower import run_flower

    now = settings()
    return run_flower(now, port or now.flower_port)


@click.command()
def scheduler() -> int:
    """Run the fleet's scheduler in the foreground.

    It sends housekeeping tasks at fixed intervals, and host agents carry them out.
    """
    from manager.local.scheduler import run_scheduler

    return run_scheduler(settings())


@click.command()
@click.option(
    "--scheduler",
    "of_scheduler",
    is_flag=True,
    help="Check the scheduler instead: whether housekeeping runs.",
)
def healthcheck(of_scheduler: bool) -> int:
    """Check this machine's host agent, for supervisors.

    Exits with 1 unless the agent is live, reports to Redis and receives messages.
    """
    from manager.factory import desired_store, fleet_store

    now = settings()
    if of_scheduler:
        return _check_scheduler(desired_store(now).tidied_seconds_ago(), now.tidy_seconds)
    found = next((host for host in fleet_store(now).hosts() if host.name == now.host), None)
    if found is None or not found.live:
        click.echo(f"host {now.host} has no live host agent; `manager host` starts one", err=True)
        return 1
    age = found.report.heard_seconds_ago
    if age is not None and age > 6 * now.self_test_seconds:
        click.echo(
            f"host {now.host}: its host agent has received no message for {age:g} s, not even its own "
            "self-test; restart the agent",
            err=True,
        )
        return 1
    click.echo(f"host {now.host}: {found.state}, {counted(found.workers, 'worker')}")
    return 0


def _check_scheduler(ago: float | None, interval: float) -> int:
    healthy = ago is not None and ago < 3 * interval
    text = "housekeeping never ran" if ago is None else f"housekeeping ran {ago:.0f} s ago"
    click.echo(
        text if healthy else f"{text}: check that `manager scheduler` runs and that a host is live",
        err=not healthy,
    )
    return int(not healthy)


COMMANDS = (up, down, init, host, flower, scheduler, healthcheck)
