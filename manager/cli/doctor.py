"""Command `doctor`: finds problems of a fleet, and shows how to fix them."""

import click

from manager.cli.common import json_option, print_json, say, settings

#: Values of `where` that are not printed, because the finding names them.
_EVERYWHERE = ("this machine", "hosts", "fleet")
_MARKS = {"ok": "ok  ", "warning": "warn", "failure": "FAIL"}


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Check Redis, host agents, clocks, account files, disk and versions.

    Each finding that is not ok says what to do. Changes nothing. Exits with 1 if there is a failure.
    """
    from manager.doctor import run_checks

    checks = run_checks(settings())
    failed = any(check.outcome == "failure" for check in checks)
    if as_json:
        print_json([check.to_dict() for check in checks])
        return int(failed)
    for check in checks:
        where = "" if check.where in check.found or check.where in _EVERYWHERE else f" [{check.where}]"
        say(f"{_MARKS[check.outcome]}  {check.code}: {check.found}{where}")
        if check.advice:
            say(f"      {check.advice}")
    return int(failed)


COMMANDS = (doctor,)
