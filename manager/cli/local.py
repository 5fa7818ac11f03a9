"""Option `--local`: commands for this machine that need no Redis."""

import click

from manager.cli.common import print_error, print_json, say, settings

local_option = click.option(
    "--local",
    is_flag=True,
    help="Only this machine, without Redis: uses local sockets and the state directory.",
)


def stop_here(account_ids: tuple[str, ...] | None, timeout: float | None, as_json: bool) -> int:
    """Stop accounts of this machine (None: all); return the exit code."""
    from manager.config import ConfigurationService
    from manager.errors import ManagerError
    from manager.local import offline

    now = settings()
    try:
        known = ConfigurationService(now.config_dir).list_accounts()
    except ManagerError:
        known = []
    stops = offline.stop_here(now, account_ids, timeout, known)
    if as_json:
        print_json(
            [
                {
                    "account_id": one.account_id,
                    "stopped": one.outcome != "failed",
                    "outcome": one.outcome,
                    "text": one.text,
                }
                for one in stops
            ]
        )
    for stop in () if as_json else stops:
        more = f": {stop.text}" if stop.text else ""
        if stop.outcome == "failed":
            print_error(f"{stop.account_id}: not stopped{more}")
        elif stop.outcome == "already":
            say(f"{stop.account_id}: already stopped on this machine{more}")
        else:
            say(f"{stop.account_id} stopped{more}")
    if not stops and not as_json:
        say("no workers on this machine")
    return int(any(one.outcome == "failed" for one in stops))
