"""Checks of this machine: versions, exposed secrets, and the disk."""

import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from manager.doctor.check import Check, Context
from manager.secure.exposed import open_files, url_problem
from manager.system.state_dir import StatePaths
from manager.system.storage import write_problem
from manager.system.text import counted
from manager.versions import __version__

#: Free bytes below which logs and Redis's append-only file soon fill the disk.
_LITTLE_DISK: Final = 500 * 1024 * 1024
_HERE: Final = "this machine"


def versions(_: Context) -> Iterator[Check]:
    """Check packages of which some versions are known to fail."""
    found = {name: _version(name) for name in ("celery", "kombu", "redis", "pydantic", "flower")}
    text = f"manager {__version__}, Python {sys.version.split()[0]}, " + ", ".join(
        f"{name} {number}" for name, number in found.items()
    )
    if tuple(int(part) for part in found["kombu"].split(".")[:2] if part.isdigit()) < (5, 7):
        advice = "run `pip install --upgrade kombu`: before 5.7 it can receive nothing after a reconnect"
        yield Check(code="versions", outcome="failure", where=_HERE, found=text, advice=advice)
    else:
        yield Check(code="versions", outcome="ok", where=_HERE, found=text)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def secrets(context: Context) -> Iterator[Check]:
    """Check who may read secrets, and whether the Redis URL checks certificates."""
    settings = context.settings
    url = "" if settings.redis_url is None else settings.redis_url.get_secret_value()
    unchecked = url_problem(url)
    if unchecked is not None:
        yield Check(
            code="secrets",
            outcome="warning",
            where="MANAGER_REDIS_URL",
            found=f"the Redis URL contains {unchecked}",
            advice="use ssl_cert_reqs=required and ssl_ca_certs=FILE; `manager secure init` writes such URLs",
        )
    readable = open_files(settings)
    if readable:
        shown = "; ".join(readable[:5]) + (" ..." if len(readable) > 5 else "")
        yield Check(
            code="secrets",
            outcome="warning",
            where=_HERE,
            found=f"other users can read {counted(len(readable), 'file')} with secrets: {shown}",
            advice="run chmod 600 on each, with the host agent's user as owner; change the secrets if "
            "others use this machine",
        )
    if unchecked is None and not readable:
        found = "other users cannot read any file with secrets"
        yield Check(code="secrets", outcome="ok", where=_HERE, found=found)


def state(context: Context) -> Iterator[Check]:
    """Check that the state directory is writable, and its free space."""
    directory = context.settings.state_dir
    # A full disk prevents the creation of a missing directory as well; that error names the path and the fix.
    StatePaths(directory).create()
    refused = write_problem(directory)
    free = shutil.disk_usage(directory).free
    found = f"{directory}, {free / 1e9:.1f} GB free"
    where = str(directory)
    if refused is not None:
        problem, _, fix = refused.partition(": ")
        effect = "running workers continue and stops work, but no worker starts until it is writable"
        yield Check(code="state", outcome="failure", where=where, found=problem, advice=f"{fix}; {effect}")
    elif free < _LITTLE_DISK:
        advice = "free some space: logs and Redis's data are on this disk"
        yield Check(code="state", outcome="failure", where=where, found=found, advice=advice)
    else:
        yield Check(code="state", outcome="ok", where=where, found=found)
