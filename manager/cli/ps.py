"""Commands `ps` (also `status`, `list`, `ls`) and `top`."""

import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from manager.cli.batches import warn_if_none_selected
from manager.cli.common import (
    account_argument,
    complete_hosts,
    configuration,
    json_option,
    print_json,
    print_warning,
    say,
    selected,
    selection_options,
    service,
    settings,
)
from manager.cli.local import local_option
from manager.system.text import counted
from manager.terminal.sort_keys import SORTS

if TYPE_CHECKING:
    from manager.models import WorkerInfo
    from manager.service import WorkerManagerService
    from manager.telemetry.attention import AccountState, Attention

#: Seconds between updates with `--watch`.
_POLL_SECONDS = 1.0


def _columns(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    from manager.terminal.listing import COLUMNS

    names = tuple(name.strip() for name in value.split(",")) if value else ()
    # The last column was called `error` until version 0.3.
    names = tuple("attention" if name == "error" else name for name in names)
    for name in names:
        if name not in COLUMNS:
            raise click.BadParameter(f"{name!r} is not a column; use {', '.join(COLUMNS)}")
    return names


def _options(command: Any) -> Any:
    for option in reversed(
        (
            account_argument(nargs=-1),
            selection_options,
            click.option(
                "-a", "--all", "everything", is_flag=True, help="Include accounts that have no worker."
            ),
            click.option(
                "--host",
                "hosts",
                multiple=True,
                metavar="HOST",
                shell_complete=complete_hosts,
                help="Only workers on this host.",
            ),
            click.option(
                "--state", "states", multiple=True, metavar="STATE", help="Only workers in this state."
            ),
            click.option(
                "--sort",
                "by",
                type=click.Choice(SORTS),
                help="Sort order; `attention` puts trouble first. [default: account; attention with --watch]",
            ),
            click.option(
                "-o",
                "--columns",
                callback=_columns,
                metavar="NAME,...",
                help="Show these columns in this order, out of account, state, health, host, pid, uptime, "
                "restarts, cpu, memory, procs, equity, pos, beat, attention. [default: those that fit the "
                "terminal]",
            ),
            local_option,
            json_option,
        )
    ):
        command = option(command)
    return command


@click.command()
@_options
@click.option("-w", "--watch", is_flag=True, help="Show a list that updates every second until q or Ctrl-C.")
def ps(watch: bool, **options: Any) -> int:
    """List workers and their state (also: status, list, ls)."""
    return _live(options, commands=False) if watch else _once(options)


@click.command()
@_options
def top(**options: Any) -> int:
    """Show a live list of workers, with keys to start, stop, restart and pause them.

    The key ? shows all keys. Each command asks y or n first. Without a terminal, prints the list once.
    """
    return _live(options, commands=True)


def _live(options: dict[str, Any], *, commands: bool) -> int:
    if options["as_json"] or not sys.stdout.isatty():
        return _once(options)
    if options["local"]:
        return _watch_local(options)
    from manager.cli.live import run_live

    return run_live(options, commands=commands)


def _watch_local(options: dict[str, Any]) -> int:
    """Update the list of this machine's workers, which needs no Redis, until Ctrl-C."""
    from manager.errors import ManagerError

    # Trouble first, because a screen shows only the first of hundreds.
    options = {**options, "by": options["by"] or "attention"}
    try:
        while True:
            try:
                shown = _listing(options)[1]
            except ManagerError as error:
                shown = [f"error: {error}"]
            height = shutil.get_terminal_size().lines
            # Cursor home, then clear below it: the screen neither scrolls nor flickers.
            click.echo("\x1b[H\x1b[J" + "\n".join(_screen(shown, height)), nl=False)
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        click.echo()
        return 0


def _screen(shown: list[str], height: int) -> list[str]:
    """Return the lines that fit on the screen, and a line that counts the others."""
    room = max(1, height - 2)
    more = len(shown) - room
    ends = "Ctrl-C ends this view; workers are not affected"
    return [*shown[:room], "", f"{counted(more, 'account')} more. {ends}" if more > 0 else ends]


def _once(options: dict[str, Any]) -> int:
    workers, shown = _listing(options)
    if options["as_json"]:
        print_json([info.to_dict() for info in workers])
        return 0
    selection = selected((), options["groups"], options["labels"])
    if not options["local"]:
        _warn(options)
    if len(shown) > 1:
        for line in shown:
            click.echo(line)
        return 0
    if selection:
        say(f"no workers match {selection}")
        return warn_if_none_selected(selection)
    filters = [f"--host {name}" for name in options["hosts"]] + [
        f"--state {name}" for name in options["states"]
    ]
    if filters:
        say(f"no workers match {' '.join(filters)}; `manager ps -a` lists every account")
    elif options["account_ids"]:
        say(f"no workers for {', '.join(options['account_ids'])}; `manager ps -a` lists every account")
    elif options["local"]:
        say("no workers on this machine")
    else:
        say("no workers; `manager ps -a` lists every account, `manager start-all` starts the enabled ones")
    return 0


def _listing(options: dict[str, Any]) -> "tuple[list[WorkerInfo], list[str]]":
    from manager.terminal.listing import lines, make_rows, sort_rows

    account_ids = options["account_ids"]
    selection = selected(account_ids, options["groups"], options["labels"])
    if options["local"]:
        from manager.local.offline import local_workers

        workers, others = local_workers(settings()), {}
        if selection:
            workers = [info for info in workers if selection.matches(info.groups, info.labels)]
    else:
        fleet = service()
        workers = fleet.list_workers()
        everything = options["everything"] or bool(account_ids)
        others = _others(fleet, workers) if everything else _gone(workers)
        if selection:
            workers = fleet.list_workers(selection)
            chosen = {*fleet.select(selection), *(info.account_id for info in workers)}
            others = {key: value for key, value in others.items() if key in chosen}
    if account_ids:
        known = {info.account_id for info in workers} | set(others)
        for account_id in account_ids:
            if account_id not in known and not options["local"]:
                configuration().account_path(account_id)
        workers = [info for info in workers if info.account_id in account_ids]
        others = {key: value for key, value in others.items() if key in account_ids}
    attention = None if options["local"] else _attention()
    rows = sort_rows(make_rows(workers, others, attention=attention), options["by"] or "account")
    for key, name in (("hosts", "host"), ("states", "state")):
        if options[key]:
            rows = [row for row in rows if row.cells.get(name, "") in options[key]]
    names = {row.cells["account"] for row in rows}
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return [info for info in workers if info.account_id in names], lines(rows, width, options["columns"])


def _others(fleet: "WorkerManagerService", workers: "list[WorkerInfo]") -> dict[str, tuple[str, str]]:
    """Return state and reason of accounts that cannot or did not start.

    The keys are accounts without a worker, and accounts whose file prevents a start.
    """
    shown = {info.account_id for info in workers}
    found = _gone(workers)
    for account_id, loaded in fleet.select().items():
        config = None if loaded is None else loaded.config
        result = fleet.validate_config(account_id)
        if config is None or result.has_errors:
            found[account_id] = (
                "invalid",
                result.errors[0] if result.errors else "its account file cannot be read",
            )
        elif not config.enabled:
            found[account_id] = ("disabled", "enabled: false")
        elif account_id not in shown:
            found[account_id] = ("never started", f"`manager start {account_id}` starts it")
    return found


def _gone(workers: "list[WorkerInfo]") -> dict[str, tuple[str, str]]:
    from manager.doctor import file_gone

    return {
        account_id: (
            "file gone",
            f"its account file is missing: restore it, or run `manager {verb} {account_id}`",
        )
        for account_id, verb in file_gone(configuration(), workers).items()
    }


def _attention() -> "dict[str, list[Attention]]":
    """Return the attention items by account id."""
    from manager.telemetry.attention import account_attention

    accounts, now = _accounts()
    return {account.account_id: account_attention(account, now) for account in accounts}


def _accounts() -> "tuple[list[AccountState], float]":
    from manager.factory import desired_store, fleet_store
    from manager.telemetry.attention import account_states

    now = settings()
    return account_states(*fleet_store(now).snapshot(None), desired_store(now).snapshot())


def _warn(options: dict[str, Any]) -> None:
    from manager.factory import fleet_store
    from manager.telemetry.attention import should_run_but_does_not

    for host in fleet_store(settings()).hosts():
        if trouble := host.report.trouble:
            print_warning(f"host {host.name}: {trouble}")
    selection = selected(options["account_ids"], options["groups"], options["labels"])
    chosen = set(service().select(selection)) if selection else set(options["account_ids"])
    accounts, now = _accounts()
    not_running = [one.account_id for one in accounts if should_run_but_does_not(one, now)]
    missing = [one for one in not_running if one in chosen or not (selection or options["account_ids"])]
    if missing:
        names = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        print_warning(
            f"{counted(len(missing), 'account')} should be running but "
            f"{'is' if len(missing) == 1 else 'are'} not: {names}. Run `manager doctor`, or `manager info "
            "ACCOUNT` for the reason"
        )


def _alias(name: str) -> click.Command:
    return click.Command(name, params=ps.params, callback=ps.callback, help=ps.help, hidden=True)


COMMANDS = (ps, *map(_alias, ("status", "list", "ls")), top)
