"""The `manager` command. Turns errors into one line and an exit code."""

import contextlib
import json
import os
import sys
from pathlib import Path

import click

from manager.cli import (
    about,
    api,
    audit,
    batches,
    configs,
    doctor,
    events,
    fleet,
    forget,
    history,
    hosts,
    importing,
    info,
    logs,
    ps,
    reload,
    rollout,
    schedule,
    secure,
    service,
    setup,
    token,
    versions,
)
from manager.cli.sections import SECTIONS
from manager.cli.suggestions import Commands
from manager.system.text import printable
from manager.versions import __version__

_EPILOG = (
    "Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted. Settings come from environment "
    "variables (MANAGER_CONFIG_DIR, MANAGER_STATE_DIR, MANAGER_REDIS_URL, MANAGER_HOST, ...)."
)


class _Manager(Commands):
    """The top-level command group; its help lists commands by section."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each section's commands with their complete summaries."""
        for section, commands in SECTIONS.items():
            rows = [(name, summary) for name, summary in commands.items() if name in self.commands]
            with formatter.section(section):
                formatter.write_dl(rows, col_max=12)


@click.group(
    cls=_Manager,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=_EPILOG,
)
@click.version_option(__version__, prog_name="manager")
def cli() -> None:
    """Manage a fleet of trading workers: one process per broker account."""


for _module in (
    setup,
    service,
    importing,
    fleet,
    batches,
    hosts,
    configs,
    ps,
    reload,
    rollout,
    schedule,
    info,
    events,
    history,
    logs,
    forget,
    audit,
    doctor,
    versions,
    secure,
    api,
    token,
    about,
):
    for _command in _module.COMMANDS:
        cli.add_command(_command)


def main() -> None:
    """Run the command line and exit.

    Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted.
    """
    try:
        code = cli.main(prog_name="manager", standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            code = _output_failed(error)
        else:
            # The reader of our output closed it (`| head`): the flush at exit must not report that as an
            # error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
    except Exception as error:
        code = _report(error)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        code = _output_failed(error)
    sys.exit(code if isinstance(code, int) else 0)


def _output_failed(error: OSError) -> int:
    """Print one line for an OSError, usually from writing our own output."""
    # Buffered output would fail again at the exit of the interpreter.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    from manager.system.storage import explain

    if isinstance(error.filename, str):
        text = explain(error, Path(error.filename))
    else:
        text = f"{error.strerror or error}: the output could not be written; check the disk that it goes to"
    with contextlib.suppress(OSError):
        click.echo(f"error: {text}", err=True)
    return 1


def _report(error: Exception) -> int:
    from manager.errors import ManagerError, SettingsError

    if not isinstance(error, ManagerError):
        raise error
    if "--json" in sys.argv:
        click.echo(
            json.dumps({"error": {"code": error.code, "message": str(error), "retryable": error.retryable}})
        )
    else:
        click.echo(f"error: {printable(str(error))}", err=True)
    of_environment = "in the environment" in str(error) or str(error).startswith("MANAGER_")
    return 2 if isinstance(error, SettingsError) and of_environment else 1
