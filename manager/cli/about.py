"""Commands `version`, `completion` and `man`."""

import platform
from importlib.metadata import PackageNotFoundError, version

import click

from manager.cli.common import json_option, print_json, say, settings
from manager.versions import __version__


@click.command("version")
@json_option
def show_version(as_json: bool) -> int:
    """Show the versions of the manager, Python, Celery, kombu and Redis.

    The version of the Redis server is shown if it answers.
    """
    found = {"manager": __version__, "python": platform.python_version()}
    for name in ("celery", "kombu", "redis"):
        try:
            found["redis-py" if name == "redis" else name] = version(name)
        except PackageNotFoundError:
            continue
    found["redis-server"] = _server()
    if as_json:
        print_json(found)
    else:
        for name, number in found.items():
            say(f"{name:<14}{number}")
    return 0


def _server() -> str:
    from manager.errors import ManagerError
    from manager.factory import fleet_store

    try:
        return str(fleet_store(settings()).ping()["name"])
    except ManagerError:
        return "not reachable"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print the shell script that completes `manager` commands.

    It also completes account ids, groups and hosts. For bash: manager completion bash >
    ~/.local/share/bash-completion/completions/manager
    """
    from click.shell_completion import get_completion_class

    from manager.cli.main import cli

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"{shell} has no completion script; use bash, zsh or fish")
    script = kind(cli, {}, "manager", "_MANAGER_COMPLETE")
    click.echo(script.source_template % script.source_vars())
    return 0


@click.command()
def man() -> int:
    """Print the manual page, generated from the help texts.

    For example: manager man > manager.1
    """
    from manager.cli.main import cli

    lines = [
        f'.TH MANAGER 1 "" "Worker Manager {__version__}"',
        ".SH NAME",
        "manager \\- command a fleet of trading workers",
        ".SH SYNOPSIS",
        ".B manager",
        "COMMAND [OPTIONS] [ARGUMENTS]",
        ".SH DESCRIPTION",
        _roff(cli.help or ""),
        ".SH COMMANDS",
    ]
    with click.Context(cli, info_name="manager") as context:
        for name in sorted(cli.commands):
            command = cli.commands[name]
            if not command.hidden:
                lines += _page(command, click.Context(command, info_name=name, parent=context))
    lines += [".SH NOTES", _roff(cli.epilog or "")]
    click.echo("\n".join(lines))
    return 0


def _page(command: click.Command, context: click.Context) -> list[str]:
    lines = [f".SS {_roff(command.get_usage(context).removeprefix('Usage: '))}", _roff(command.help or "")]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and parameter.name != "help":
            lines += [".TP", f".B {_roff(record[0])}", _roff(record[1])]
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            child = command.commands[name]
            lines += _page(child, click.Context(child, info_name=name, parent=context))
    return lines


def _roff(text: str) -> str:
    plain = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{plain}" if plain[:1] in (".", "'") else plain


COMMANDS = (show_version, completion, man)
