"""Command `reload`: what waits of changed account files."""

from typing import Any

import click

from manager.cli.common import account_argument, json_option, print_error, print_json, say, service, settings


@click.command()
@account_argument(nargs=-1)
@json_option
def reload(account_ids: tuple[str, ...], as_json: bool) -> int:
    """Show which running accounts differ from their files, and what applies the rest.

    Hosts apply a changed file by themselves within a few seconds, as far as that needs no restart. Without
    ACCOUNT: all accounts.
    """
    from manager.states import LIVE

    found: list[dict[str, Any]] = []
    for info in service().list_workers():
        state = info.placement.config
        # An account that was stopped starts with its file.
        if info.status in LIVE and state is not None and (not account_ids or info.account_id in account_ids):
            found.append({"account_id": info.account_id, "running": info.placement.config_version, **state})
    if as_json:
        print_json(found)
        return 0
    for one in found:
        say(f"{one['account_id']}  {one.get('state')}: {one.get('text')}")
        for change in one.get("changes") or ():
            say(f"  {_line(change)}")
    if not found:
        say("no account differs from its file")
    return 0


@click.command()
@account_argument(nargs=-1, required=True)
@click.option("--to", "version", metavar="VERSION", help="The file's version. [default: the present one]")
@json_option
def approve(account_ids: tuple[str, ...], version: str | None, as_json: bool) -> int:
    """Approve changes of real accounts' files that wait (`reload.hold`).

    `manager reload ACCOUNT` shows them and the version. Their hosts apply them within a few seconds.
    """
    from manager.errors import ManagerError
    from manager.factory import fleet_approvals

    approvals = fleet_approvals(settings())
    answers: list[dict[str, Any]] = []
    failed = False
    for account_id in account_ids:
        try:
            found = approvals.approve(account_id, version)
        except ManagerError as error:
            failed = True
            answers.append({"account_id": account_id, "error": {"code": error.code, "message": str(error)}})
            if not as_json:
                print_error(str(error))
            continue
        answers.append({"account_id": account_id, "version": found})
        if not as_json:
            say(f"{account_id}: version {found} is approved; its host applies it")
    if as_json:
        print_json(answers)
    return int(failed)


def _line(change: dict[str, Any]) -> str:
    values = f" {_text(change['old'])} → {_text(change['new'])}" if "old" in change else ""
    return f"{change.get('key')}{values} ({str(change.get('class')).replace('_', ' ')})"


def _text(value: object) -> str:
    return "none" if value is None else str(value)[:60]


COMMANDS = (reload, approve)
