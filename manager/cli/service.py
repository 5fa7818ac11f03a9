"""Command `service`: the host agent (or `manager up`) as a system service."""

import subprocess
from typing import TYPE_CHECKING, Any

import click

from manager.cli.common import print_warning, settings
from manager.cli.suggestions import Commands

if TYPE_CHECKING:
    from manager.local.service import ServicePlan


@click.group(cls=Commands)
def service() -> None:
    """Install the host agent (or `manager up`) as a system service.

    The system starts it at boot and restarts it when it ends.
    """


def _options(command: Any) -> Any:
    for option in reversed(
        (
            click.option(
                "--system/--user",
                "system",
                default=None,
                help="A unit of the system, or of this user only. [default: --system for root, else --user]",
            ),
            click.option("--name", default="worker-manager", show_default=True, help="The service's name."),
            click.option("--dry-run", is_flag=True, help="Print the files and commands without using them."),
        )
    ):
        command = option(command)
    return command


@service.command()
@click.argument("runs", metavar="[host|up]", type=click.Choice(["host", "up"]), default="host")
@_options
@click.option(
    "--run-as",
    metavar="USER",
    help="With --system: the user that runs the service. [default: the owner of the state directory]",
)
def install(runs: Any, system: bool | None, name: str, dry_run: bool, run_as: str | None) -> int:
    """Install and start the service.

    It gets the MANAGER_... settings of this shell.

    `host` (the default) runs the host agent of a fleet whose Redis runs separately; workers continue when the
    service stops or restarts. `up` runs everything on one machine; stopping the service stops the workers.
    """
    from manager.local import service as services
    from manager.system.file_lock import FileLock
    from manager.system.state_dir import StatePaths

    plan = _plan(system, name, runs=runs, user=run_as)
    services.require_paths(plan.user)
    if dry_run:
        _print(plan, plan.install)
        return 0
    lock = FileLock(StatePaths(settings().state_dir).agent_lock)
    if lock.held():
        print_warning(
            f"a host agent already runs on this machine (pid {lock.holder()}): the service waits until it "
            "ends"
        )
    for line in services.install(plan):
        click.echo(line)
    for hint in plan.hints:
        click.echo(f"note: {hint}")
    return 0


@service.command()
@_options
def uninstall(system: bool | None, name: str, dry_run: bool) -> int:
    """Stop and remove the service.

    Workers continue if the service runs `host`, and stop if it runs `up`.
    """
    from manager.local import service as services

    plan = _plan(system, name)
    if dry_run:
        for command in plan.uninstall:
            click.echo(services.shown_command(command))
        for file in plan.files:
            if not file.keep:
                click.echo(f"remove {file.path}")
        return 0
    done = services.uninstall(plan)
    for line in done or [f"service {name} is not installed ({plan.files[-1].path} does not exist)"]:
        click.echo(line)
    kept = [file.path for file in plan.files if file.keep and file.path.exists()]
    for path in kept if done else ():
        click.echo(f"kept {path}: it may contain your own changes")
    return 0


@service.command()
@_options
def status(system: bool | None, name: str, dry_run: bool) -> int:
    """Show whether the service is installed and runs.

    Exits with 1 if it is not installed or does not run.
    """
    from manager.local import service as services

    plan = _plan(system, name)
    if dry_run:
        click.echo(services.shown_command(plan.status))
        return 0
    if not plan.files[-1].path.exists():
        click.echo(
            f"service {name} is not installed ({plan.files[-1].path} does not exist); `manager service "
            "install` installs it"
        )
        return 1
    services.require_program(plan.status[0])
    return int(subprocess.run(list(plan.status), check=False).returncode != 0)


def _plan(system: bool | None, name: str, **more: Any) -> "ServicePlan":
    from manager.local.service import service_plan

    scope: Any = None if system is None else "system" if system else "user"
    return service_plan(settings(), name=name, scope=scope, **more)


def _print(plan: "ServicePlan", commands: Any) -> None:
    from manager.local.service import shown_command

    for file in plan.files:
        click.echo(f"# {file.path}" + (" (kept if it exists)" if file.keep else ""))
        click.echo(file.shown or file.text)
    click.echo("# then:")
    for command in commands:
        click.echo(shown_command(command))
    for hint in plan.hints:
        click.echo(f"# note: {hint}")


COMMANDS = (service,)
