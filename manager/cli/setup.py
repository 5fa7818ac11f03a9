"""up, down, init, host, flower, scheduler, healthcheck."""

from pathlib import Path

import click

from manager.cli.common import settings
from manager.system.text import counted


@click.command()
@click.option(
    "--demo", is_flag=True, help="First write a small example fleet, if the config directory is empty."
)
@click.option("--flower/--no-flower", default=True, help="Also start Flower.")
@click.option(
    "--flower-port", type=click.IntRange(1, 65535), help="Flower's port on 127.0.0.1 (default 5555)."
)
@click.option(
    "--exit-after-start", is_flag=True, help="Stop everything again once all have started: a trial."
)
@click.option(
    "-d", "--detach", is_flag=True, help="Run in the background; return once all have started, or failed to."
)
@click.option("--background", is_flag=True, hidden=True)
def up(
    demo: bool,
    flower: bool,
    flower_port: int | None,
    exit_after_start: bool,
    detach: bool,
    background: bool,
) -> int:
    """Start all that one machine needs, then every enabled account, and show them until Ctrl-C.

    Closing its terminal ends it as Ctrl-C does: the workers stop. With --detach it needs no terminal, and
    `manager down` ends it.
    """
    from manager.local.up import run_up

    if detach:
        from manager.local.detach import run_detached

        if exit_after_start:
            raise click.UsageError("--detach and --exit-after-start do not go together")
        options = [
            *(["--demo"] if demo else []),
            "--flower" if flower else "--no-flower",
            *(["--flower-port", str(flower_port)] if flower_port else []),
        ]
        return run_detached(settings(), options)
    return run_up(
        settings(),
        demo=demo,
        flower=flower,
        flower_port=flower_port,
        once=exit_after_start,
        background=background,
    )


@click.command()
def down() -> int:
    """Stop what `manager up` runs on this machine, as Ctrl-C in its terminal does; needs no Redis.

    Workers stop politely, then the host agent, Flower, the paper venue and the Redis that `up` started. Returns when
    all has ended, and names what had to be killed.
    """
    from manager.local.down import run_down

    return run_down(settings())


@click.command()
@click.option("--demo", is_flag=True, help="A small example fleet at the paper venue instead.")
@click.option(
    "--move-demo",
    is_flag=True,
    help="First move the demo fleet's files into a directory beside this one; refused while its workers run.",
)
def init(demo: bool, move_demo: bool) -> int:
    """Write commented starting files for a real fleet; existing files are never overwritten."""
    from manager.config.demo_files import demo_accounts
    from manager.config.starting_files import write_demo_fleet, write_starting_files
    from manager.gateways import example_files, summaries

    if demo and move_demo:
        raise click.UsageError("--demo writes the demo fleet and --move-demo moves it away: give one of them")
    directory = settings().config_dir
    held = demo_accounts(directory)
    if move_demo:
        if not held:
            click.echo(f"error: {directory} does not hold the demo fleet; nothing was moved", err=True)
            return 1
        if not _moved_demo(directory, held):
            return 1
    if demo:
        written = write_demo_fleet(directory)
    else:
        written = write_starting_files(directory, summaries(), example_files(), beside=move_demo)
    if not written and held:
        click.echo(
            f"{directory} holds the demo fleet ({counted(len(held), 'account')}); nothing was written. `manager init "
            "--move-demo` moves its files aside and writes the starting files for a real fleet"
        )
        return 1
    if not written:
        click.echo(
            f"{directory} has files already; nothing was written. MANAGER_CONFIG_DIR names another directory"
        )
        return 1
    for path in written:
        click.echo(f"wrote {path}")
    click.echo(f"next: edit {_shown(written)}, then run `manager validate` and `manager up`")
    return 0


def _moved_demo(directory: Path, held: list[str]) -> bool:
    """Move the demo's files aside and say so; False if its workers run, which would lose their files."""
    from manager.config.demo_files import move_demo
    from manager.local.sweep import live_workers
    from manager.system.state_dir import StatePaths

    paths = StatePaths(settings().state_dir)
    running = {record.account_id for record in live_workers(paths)} & set(held)
    if running:
        click.echo(
            f"error: demo workers run: {', '.join(sorted(running))}; nothing was moved. End `manager up` with Ctrl-C, or "
            "run `manager stop-all`, and try again",
            err=True,
        )
        return False
    aside, moved, stay = move_demo(directory)
    click.echo(f"moved {counted(len(moved), 'file')} of the demo fleet to {aside}")
    for path in stay:
        click.echo(f"left {path}: it is not as the demo wrote it")
    return True


def _shown(written: list[Path]) -> str:
    accounts = [path for path in written if path.parent.name == "accounts"]
    return str((accounts or written)[0])


@click.command()
def host() -> int:
    """Run this machine's host agent in the foreground: `celery -A tasks worker` with the right options."""
    from manager.local.agent import run_agent

    return run_agent(settings())


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Its port (default: MANAGER_FLOWER_PORT, 5555).")
def flower(port: int | None) -> int:
    """Run Flower for the fleet in the foreground: for looking only, behind a password with MANAGER_FLOWER_AUTH_FILE."""
    from manager.local.flower import run_flower

    now = settings()
    return run_flower(now, port or now.flower_port)


@click.command()
def scheduler() -> int:
    """Run the fleet's scheduler in the foreground: it sends what is due now and then, and hosts do it."""
    from manager.local.scheduler import run_scheduler

    return run_scheduler(settings())


@click.command()
@click.option(
    "--scheduler", "of_scheduler", is_flag=True, help="Of the scheduler: whether what is due is done."
)
def healthcheck(of_scheduler: bool) -> int:
    """Say whether this machine's host agent lives, reports, and hears what is sent to it; 1 if not."""
    from manager.factory import desired_store, fleet_store

    now = settings()
    if of_scheduler:
        return _scheduler_is_well(desired_store(now).tidied_seconds_ago(), now.tidy_seconds)
    found = next((host for host in fleet_store(now).hosts() if host.name == now.host), None)
    if found is None or not found.live:
        click.echo(f"host {now.host} has no live agent", err=True)
        return 1
    heard = found.report.heard_seconds_ago
    if heard is not None and heard > 6 * now.self_test_seconds:
        click.echo(f"host {now.host} has heard nothing for {heard:g} s, not even itself", err=True)
        return 1
    click.echo(f"host {now.host}: {found.state}, {counted(found.workers, 'worker')}")
    return 0


def _scheduler_is_well(ago: float | None, interval: float) -> int:
    well = ago is not None and ago < 3 * interval
    text = "nothing that is due was ever done" if ago is None else f"what is due was done {ago:.0f} s ago"
    click.echo(text if well else f"{text}: does `manager scheduler` run, and is a host live?", err=not well)
    return int(not well)


COMMANDS = (up, down, init, host, flower, scheduler, healthcheck)
