"""Command `forget`: clears the record of an account that has no worker."""

import click

from manager.cli.common import account_argument, json_option, print_json, say, settings


@click.command()
@account_argument()
@json_option
def forget(account_id: str, as_json: bool) -> int:
    """Clear the record of an account that has no worker.

    Use it after you have deleted an account file. Starts and stops nothing.
    """
    from manager.factory import fleet_hosts
    from manager.pool.arguments import check_account_id

    fleet_hosts(settings()).forget_account(check_account_id(account_id))
    if as_json:
        print_json({"account_id": account_id, "forgotten": True})
    else:
        say(f"{account_id}: record cleared; `manager start {account_id}` creates it again")
    return 0


COMMANDS = (forget,)
