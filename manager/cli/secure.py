"""Command `secure`: certificates and users for a private Redis."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from manager.cli.common import settings
from manager.cli.suggestions import Commands

if TYPE_CHECKING:
    from manager.secure.fleet import Created


#: Redis 7 introduced separate rights to read and to write a key, which the fleet's users have.
REDIS_VERSION = (7, 0)


@click.group(cls=Commands)
def secure() -> None:
    """Set up TLS and restricted users for Redis."""


_dir = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="The directory for all files. [default: `secure` in the state directory]",
)


@secure.command("init")
@_dir
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="A host that gets a user; repeatable.")
@click.option(
    "--redis-host",
    "redis_names",
    multiple=True,
    metavar="NAME",
    help="A name or address of Redis; repeatable. The fleet's URLs use the first one. "
    "[default: as in the last run; at first localhost, 127.0.0.1]",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Redis's port. [default: as in the last run; at first 6379]",
)
@click.option(
    "--days",
    type=click.IntRange(1, 3650),
    default=825,
    show_default=True,
    help="Validity of Redis's certificate in days.",
)
@click.option(
    "--tls/--no-tls",
    default=None,
    help="Use --no-tls only in a private network without other users. "
    "[default: as in the last run; at first --tls]",
)
def init(
    directory: Path | None,
    hosts: tuple[str, ...],
    redis_names: tuple[str, ...],
    port: int | None,
    days: int,
    tls: bool | None,
) -> int:
    """Write a certificate authority, Redis's configuration and users.

    Run it again to add what is missing, to renew Redis's certificate, or to update the users' rights.
    Existing users keep their passwords.
    """
    from manager.secure.fleet import USERS, SecureDirectory

    where = SecureDirectory(_directory(directory))
    before = where.previous_setup()
    tls = before.tls if tls is None else tls
    created = where.init(
        hosts=hosts,
        redis_names=redis_names or before.redis_names,
        port=port or before.port,
        days=days,
        tls=tls,
    )
    _say(created)
    for line in _next_redis(created.directory / "redis.conf", tls=tls):
        click.echo(line)
    for user, purpose in USERS.items():
        click.echo(f"  {purpose}: MANAGER_REDIS_URL_FILE={where.url_file(user)}")
    click.echo(
        f"  on each host: copy host-NAME.url{' and ca.crt' if tls else ''} there, mode 0600, and set "
        "MANAGER_REDIS_URL_FILE to its path"
    )
    if tls:
        click.echo("  keep ca.key on this machine: its owner can impersonate your Redis")
    return 0


def _next_redis(configuration: Path, *, tls: bool) -> list[str]:
    """Return the lines that say how to start, or first install, Redis."""
    import shlex

    from manager.local.redis_binaries import install_hint, secure_binary

    required = ".".join(map(str, REDIS_VERSION[:1])) + " or later" + (" with TLS" if tls else "")
    found, refused = secure_binary(REDIS_VERSION, tls=tls)
    notes = [f"  not used: {why}" for why in refused]
    if found is not None:
        return [f"next: {shlex.join([str(found.path), str(configuration)])} --dir DATA", *notes]
    without = "; with --no-tls, in a private network, the bundled server is enough" if tls else ""
    return [
        f"next: redis-server {shlex.quote(str(configuration))} --dir DATA, on the machine where Redis runs",
        f"  no Redis {required} is on PATH of this machine: install {install_hint()}{without}",
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
        "next: make Redis read the new user (an administrator runs `ACL LOAD`, or restarts Redis), and copy "
        "the URL file to the host"
    )
    return 0


def _directory(given: Path | None) -> Path:
    from manager.system.state_dir import StatePaths

    if given is not None:
        return given.absolute()
    paths = StatePaths(settings().state_dir)
    paths.create()
    return paths.root / "secure"


def _say(created: "Created") -> None:
    for path in created.files:
        click.echo(f"wrote {path}")


COMMANDS = (secure,)
