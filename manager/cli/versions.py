"""Command `versions`: which software and configuration the fleet runs."""

from collections.abc import Sequence

import click

from manager.cli.common import json_option, print_json, say, service, settings
from manager.system.text import counted, printable

#: Names that a line lists at most.
_MAX_NAMES = 8
_CONFIG = {
    "current": "run what their file says",
    "pending": "wait for a restart (`manager reload`)",
    "held": "wait for approval (`manager approve`)",
    "rolled_back": "returned to their earlier configuration (`manager reload`)",
    "vanished": "run, and their file is gone with many others",
    "invalid": "have an invalid file and run as before (`manager validate`)",
}


@click.command()
@json_option
def versions(as_json: bool) -> int:
    """Count workers and hosts by the version of software and configuration that they run."""
    from manager.factory import fleet_hosts
    from manager.fleet.version_counts import version_counts

    found = version_counts(fleet_hosts(settings()).list(), service().list_workers())
    if as_json:
        print_json(found.to_dict())
        return 0
    newest = max(found.hosts, default="")
    for version, names in sorted(found.hosts.items()):
        say(f"hosts    {printable(version):<10} {_names(names)}")
    for version, names in sorted(found.workers.items()):
        old = newest and version != newest
        cure = (
            "; `manager rollout start --to software` brings them to the version of their host" if old else ""
        )
        listed = f": {_names(names)}" if old else ""
        say(f"workers  {printable(version):<10} {counted(len(names), 'worker')}{listed}{cure}")
    for state, names in found.config.items():
        listed = "" if state == "current" else f": {_names(names)}"
        say(f"config   {state:<11} {len(names)} {_CONFIG.get(state, 'of an unknown state')}{listed}")
    for version, names in sorted(found.pushed.items()):
        say(f"pushed   {printable(version):<10} {_names(names)}")
    if not found.hosts and not found.workers:
        say("no live host and no worker: `manager up` starts this machine's")
    return 0


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(map(printable, names[:_MAX_NAMES])) + more


COMMANDS = (versions,)
