"""Command `api`: the HTTP API in the foreground."""

from pathlib import Path

import click

from manager.cli.common import settings


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port; 0: any free one. [default: MANAGER_API_PORT, or 8700]",
)
@click.option("--address-file", type=click.Path(path_type=Path), hidden=True, help="[default: none]")
def api(port: int | None, address_file: Path | None) -> int:
    """Run the HTTP API in the foreground.

    It listens on MANAGER_API_ADDRESS (127.0.0.1). Clients need a token: `manager token create`.
    """
    from manager.api.serve import run_api

    return run_api(settings(), port, address_file)


COMMANDS = (api,)
