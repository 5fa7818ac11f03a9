"""Checks of this machine: versions, secrets that others may read, and the disk of the state directory."""

import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from manager.doctor.check import Check, Context
from manager.secure.exposed import open_files, url_problem
from manager.system.state_dir import StatePaths
from manager.system.storage import why_not_writable
from manager.system.text import counted
from manager.versions import __version__

#: Bytes. Less than this, and logs and Redis's append-only file soon fill the disk.
_LITTLE_DISK: Final = 500 * 1024 * 1024
_HERE: Final = "this machine"


def versions(_: Context) -> Iterator[Check]:
    """Check the packages that are known to fail in some versions."""
    found = {name: _version(name) for name in ("celery", "kombu", "redis", "pydantic", "flower")}
    text = f"manager {__version__}, Python {sys.version.split()[0]}, " + ", ".join(
        f"{name} {number}" for name, number in found.items()
    )
    if tuple(int(part) for part in found["kombu"].split(".")[:2] if part.isdigit()) < (5, 7):
        advice = "kombu before 5.7 can reconnect and then consume nothing: pip install --upgrade kombu"
        yield Check(code="versions", outcome="failure", where=_HERE, found=text, advice=advice)
    else:
        yield Check(code="versions", outcome="ok", where=_HERE, found=text)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def secrets(context: Context) -> Iterator[Check]:
    """Check who may read the secrets of this machine, and what the Redis URL gives up."""
    settings = context.settings
    url = "" if settings.redis_url is None else settings.redis_url.get_secret_value()
    unchecked = url_problem(url)
    if unchecked is not None:
        yield Check(
            code="secrets",
            outcome="warning",
            where="MANAGER_REDIS_URL",
            found=f"the Redis URL says {unchecked}",
            advice="use ssl_cert_reqs=required and ssl_ca_certs=FILE; `manager secure init` makes both",
        )
    readable = open_files(settings)
    if readable:
        shown = "; ".join(readable[:5]) + (" ..." if len(readable) > 5 else "")
        yield Check(
            code="secrets",
            outcome="warning",
            where=_HERE,
            found=f"{counted(len(readable), 'file')} with secrets may be read by others: {shown}",
            advice="chmod 600 them, owned by the user that runs the host agent; change the secrets if others use this machine",
        )
    if unchecked is None and not readable:
        found = "no file with secrets may be read by others"
        yield Check(code="secrets", outcome="ok", where=_HERE, found=found)


def state(context: Context) -> Iterator[Check]:
    """Check that the state directory can be written, and how much room is left."""
    directory = context.settings.state_dir
    # On a full disk a directory that is missing cannot be made either; the error of that has path and cure.
    StatePaths(directory).create()
    refused = why_not_writable(directory)
    free = shutil.disk_usage(directory).free
    found = f"{directory}, {free / 1e9:.1f} GB free"
    where = str(directory)
    if refused is not None:
        problem, _, cure = refused.partition(": ")
        effect = "running workers continue, and a stop is obeyed; nothing new starts until it can be written"
        yield Check(code="state", outcome="failure", where=where, found=problem, advice=f"{cure}; {effect}")
    elif free < _LITTLE_DISK:
        advice = "free some space: logs and Redis's data are written here"
        yield Check(code="state", outcome="failure", where=where, found=found, advice=advice)
    else:
        yield Check(code="state", outcome="ok", where=where, found=found)
