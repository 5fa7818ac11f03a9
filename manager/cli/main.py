"""`manager`: the group of commands, and how an error becomes one clear line and an exit code."""

import contextlib
import json
import os
import sys

import click

from manager import __version__
from manager.cli import audit, batches, configs, doctor, fleet, hosts, importing, secure, setup, show
from manager.words import printable

_EPILOG = (
    "Exit codes: 0 done, 1 something asked for did not happen, 2 wrong usage. "
    "Settings come from the environment (MANAGER_CONFIG_DIR, MANAGER_STATE_DIR, MANAGER_REDIS_URL, MANAGER_HOST, ...)."
)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=_EPILOG,
)
@click.version_option(__version__, prog_name="manager")
def cli() -> None:
    """Command a fleet of trading workers: one process per broker account."""


for _module in (setup, importing, fleet, batches, hosts, configs, show, audit, doctor, secure):
    for _command in _module.COMMANDS:
        cli.add_command(_command)


def main() -> None:
    """Run the command line and exit with 0 (done), 1 (something did not happen) or 2 (wrong usage)."""
    try:
        code = cli.main(prog_name="manager", standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except BrokenPipeError:
        # Whoever read our output has enough of it; a second complaint at exit helps nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        code = _report(error)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.exit(code if isinstance(code, int) else 0)


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
