"""Commands `start-all`, `stop-all` and `batch`.

A command for many accounts is one Celery group. It continues if its caller leaves.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import click

from manager.cli.common import (
    json_option,
    print_error,
    print_json,
    print_warning,
    say,
    selected,
    selection_options,
    service,
    settings,
)
from manager.cli.local import local_option, stop_here
from manager.pool.commands import COMMANDS as COMMANDS_BY_NAME
from manager.system.text import counted

if TYPE_CHECKING:
    from manager.client.celery_pool import CeleryWorkerPool
    from manager.config import LoadedAccount
    from manager.fleet.batches import BatchRecord
    from manager.models import BatchResult
    from manager.placement.labels import Selection
    from manager.pool.commands import CommandSpec
    from manager.pool.protocol import Progress
    from manager.service import WorkerManagerService
    from manager.terminal.pending_reasons import PendingReasons

defaults_option = click.option(
    "--defaults/--no-defaults",
    default=True,
    help="Complete the account file from defaults.yaml and the built-in defaults. [default: --defaults]",
)
validate_option = click.option(
    "--validate/--no-validate", default=True, help="Reject an invalid account. [default: --validate]"
)
timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Kill the worker if it has not stopped by then. [default: the account's "
    "execution.stop_timeout_seconds]",
)
wait_option = click.option(
    "--wait/--no-wait",
    default=True,
    help="For many accounts: wait for all results, or return at once; `manager batch` shows them later. "
    "[default: --wait]",
)

_DONE = {name: command.done for name, command in COMMANDS_BY_NAME.items()} | {"validate": "valid"}
#: Skipped accounts that a terminal lists; the others are counted.
_SKIPPED_SHOWN = 10
_NOTHING_SENT = "Interrupted before a command was sent: no account is affected."
#: Seconds between reads of a batch with `--wait`.
_POLL_SECONDS = 0.2


@click.command("start-all")
@selection_options
@defaults_option
@validate_option
@wait_option
@json_option
def start_all(
    groups: tuple[str, ...],
    labels: tuple[str, ...],
    defaults: bool,
    validate: bool,
    wait: bool,
    as_json: bool,
) -> int:
    """Start every enabled account as one Celery group.

    Prints the outcome of every account.
    """
    return start_many(selected((), groups, labels), defaults, validate, wait, as_json)


@click.command("stop-all")
@selection_options
@timeout_option
@wait_option
@local_option
@json_option
def stop_all(
    groups: tuple[str, ...],
    labels: tuple[str, ...],
    timeout: float | None,
    wait: bool,
    local: bool,
    as_json: bool,
) -> int:
    """Stop every worker of the fleet, or of this machine with --local.

    Prints the outcome of every account.
    """
    if local:
        if groups or labels:
            raise click.UsageError(
                "--local stops every worker of this machine; use it without --group and -l, or name "
                "accounts in `manager stop ACCOUNT... --local`"
            )
        return stop_here(None, timeout, as_json)
    return stop_many(selected((), groups, labels), timeout, wait, as_json)


@click.command()
@click.argument("batch_id", metavar="[ID]", required=False)
@click.option("--wait", is_flag=True, help="Return when no account is pending.")
@json_option
def batch(batch_id: str | None, wait: bool, as_json: bool) -> int:
    """Show the progress of a batch, or list the batches of the last day.

    ID is the id of a batch or an unambiguous beginning of it.
    """
    from manager.errors import FleetUnavailableError
    from manager.factory import celery_worker_pool

    pool = celery_worker_pool(settings())
    records = pool.batches(1000)
    if batch_id is None:
        return _list(pool, records[:20], as_json)
    known = [record.id for record in records if record.id.startswith(batch_id)]
    if len(known) > 1:
        print_error(f"{batch_id}: {len(known)} batch ids begin with this: type more characters of the id")
        return 2
    record, result = pool.batch_result(known[0] if known else batch_id)
    while wait and result.pending:
        time.sleep(_POLL_SECONDS)
        with contextlib.suppress(FleetUnavailableError):  # a restart of Redis must not end the wait
            record, result = pool.batch_result(record.id)
    if not as_json:
        say(f"{record.what} of {_total(record)} accounts by {record.by}, {record.time:%Y-%m-%d %H:%M:%S} UTC")
    return say_batch(result, as_json, _DONE.get(record.what, "done"))


def _list(pool: "CeleryWorkerPool", records: "list[BatchRecord]", as_json: bool) -> int:
    answers: list[dict[str, Any]] = []
    for record in records:
        _, result = pool.batch_result(record.id)
        counts = {
            "done": len(result.done),
            "already": len(result.already),
            "resting": len(result.resting),
            "skipped": len(result.skipped),
            "failed": len(result.failed),
            "pending": len(result.pending),
        }
        answers.append(
            {"id": record.id, "what": record.what, "by": record.by, "time": record.time.isoformat(), **counts}
        )
        if not as_json:
            summary = ", ".join(f"{count} {part}" for part, count in counts.items() if count) or "empty"
            say(f"{record.id}  {record.time:%Y-%m-%d %H:%M:%S} UTC  {record.what}: {summary} ({record.by})")
    if as_json:
        print_json(answers)
    elif not answers:
        say("no batches in the last day")
    return 0


def _total(record: "BatchRecord") -> int:
    return len(record.tasks) + len(record.settled)


def start_many(selection: "Selection", defaults: bool, validate: bool, wait: bool, as_json: bool) -> int:
    """Start the selected accounts, or all, and return the exit code."""
    fleet = service()

    def enabled() -> list[str]:
        return [
            account_id
            for account_id, loaded in _select(fleet, selection, as_json).items()
            if loaded is not None and loaded.config is not None and loaded.config.enabled
        ]

    def go(batch_id: str, progress: "Progress | None") -> "BatchResult":
        return fleet.start_all(
            defaults, validate, progress, selection=selection, batch_id=batch_id, wait=wait
        )

    return _run("start", "starting", enabled, go, selection, as_json)


def restart_many(selection: "Selection", wait: bool, as_json: bool) -> int:
    """Restart the selected accounts that have a worker; return the exit code."""
    fleet = service()

    def go(batch_id: str, progress: "Progress | None") -> "BatchResult":
        return fleet.restart_all(progress, selection=selection, batch_id=batch_id, wait=wait)

    def present() -> list[str]:
        running = set(fleet.worker_pool.stoppable())
        return [account_id for account_id in _select(fleet, selection, as_json) if account_id in running]

    return _run("restart", "restarting", present, go, selection, as_json)


def stop_many(selection: "Selection", timeout: float | None, wait: bool, as_json: bool) -> int:
    """Stop the selected accounts, or all, and return the exit code."""
    fleet = service()

    def go(batch_id: str, progress: "Progress | None") -> "BatchResult":
        return fleet.stop_all(timeout, progress, selection=selection, batch_id=batch_id, wait=wait)

    def present() -> list[str]:
        # An account without a file is selected by its record. The progress bar does not count it; the result
        # does.
        found = fleet.worker_pool.stoppable()
        chosen = _select(fleet, selection, as_json) if selection else {}
        return [one for one in found if not selection or chosen.get(one) is not None]

    return _run("stop", "stopping", present, go, selection, as_json)


def set_mode_many(command: "CommandSpec", selection: "Selection", wait: bool, as_json: bool) -> int:
    """Change the trading mode of the selected accounts; return the exit code."""
    fleet = service()

    def go(batch_id: str, progress: "Progress | None") -> "BatchResult":
        return fleet.set_mode_all(command, progress, selection=selection, batch_id=batch_id, wait=wait)

    def present() -> list[str]:
        found = fleet.worker_pool.stoppable()
        chosen = _select(fleet, selection, as_json) if selection else {}
        return [one for one in found if not selection or one in chosen]

    return _run(command.name, command.doing, present, go, selection, as_json)


def _run(
    what: str,
    doing: str,
    find: "Callable[[], Collection[str]]",
    go: "Callable[[str, Progress | None], BatchResult]",
    selection: "Selection",
    as_json: bool,
) -> int:
    from manager.pool.protocol import new_batch_id
    from manager.terminal.progress import batch_progress, progress_console

    batch_id = new_batch_id()
    reasons = pending_reasons(starts=what != "stop")
    accounts: Collection[str] | None = None
    try:
        accounts = find()
        with batch_progress(progress_console(), doing, accounts, reasons, quiet=as_json) as progress:
            result = go(batch_id, progress)
    except KeyboardInterrupt:
        text = _NOTHING_SENT if accounts is None else interrupted_text(batch_id, _DONE[what])
        click.echo(text, err=True)
        return 130
    code = say_batch(result, as_json, _DONE[what])
    return code or warn_if_none_selected(selection)


def _select(
    fleet: "WorkerManagerService", selection: "Selection", as_json: bool
) -> "dict[str, LoadedAccount | None]":
    """Return the selected accounts as loaded from their files."""
    from manager.terminal.progress import progress_console, reading_progress

    with reading_progress(progress_console(), quiet=as_json):
        return fleet.select(selection)


def interrupted_text(batch_id: str, done: str) -> str:
    """Return what an interrupt has left: what was sent, and what the hosts continue with."""
    from manager.errors import FleetUnavailableError, NoBatchError
    from manager.factory import celery_worker_pool

    check = f"check with `manager batch {batch_id}`"
    pool = celery_worker_pool(settings())
    try:
        accepted = pool.batch_sender.accepted(batch_id)
        result = pool.batch_result(batch_id)[1]
    except NoBatchError:
        accepted = set()
    except FleetUnavailableError:
        return f"Interrupted. Commands that were sent continue on the hosts; {check}."
    if not accepted:
        return _NOTHING_SENT
    going = len(accepted & set(result.pending))
    unsent = len(result.pending) - going
    parts = [f"{len(result.done)} {done}"]
    parts += [f"{len(result.failed)} failed"] if result.failed else []
    parts += [f"the hosts continue with {going}"] if going else []
    parts += [f"{unsent} not sent"] if unsent else []
    return f"Interrupted: {', '.join(parts)}; {check}."


def warn_if_none_selected(selection: "Selection") -> int:
    """Print an error and return 1 if a selection matches no account, else 0.

    An empty selection is usually a typing error, so it is not a success.
    """
    if not selection or service().select(selection):
        return 0
    accounts = service().select().values()
    groups = sorted(
        {group for loaded in accounts if loaded and loaded.repaired for group in loaded.repaired.groups}
    )
    print_error(
        f"no account matches {selection}; groups in the account files: {', '.join(groups) or 'none'}. "
        "`manager ps -a` lists every account"
    )
    return 1


def say_batch(result: "BatchResult", as_json: bool, done: str) -> int:
    """Print the outcome of a batch and return the exit code."""
    if as_json:
        print_json(
            {
                done: {key: info.to_dict() for key, info in result.done.items()},
                "already_running": {key: info.to_dict() for key, info in result.already.items()},
                "resting": {key: info.to_dict() for key, info in result.resting.items()},
                "skipped": result.skipped,
                "failed": result.failed,
                "pending": sorted(result.pending),
                "batch": result.batch_id,
                "trouble": result.trouble,
            }
        )
        return int(not result.ok)
    from manager.client.outcomes import forced_stops

    # Failures and the summary come last, because a terminal shows only the last lines of hundreds.
    skipped = sorted(result.skipped)
    shown = skipped[:_SKIPPED_SHOWN] if sys.stdout.isatty() else skipped
    for account_id in shown:
        say(f"skipped: {result.skipped[account_id]}")
    if len(shown) < len(skipped):
        say(f"skipped: {len(skipped) - len(shown)} more; --json lists all")
    for account_id, why in forced_stops(result.done).items():
        print_warning(
            f"{account_id} stopped by force: {why}. Orders and positions may still be open: check them at "
            "the broker"
        )
    for account_id in sorted(result.failed):
        print_error(result.failed[account_id])
    if result.trouble:
        print_error(
            f"outcome unknown for {counted(len(result.pending), 'account')}: "
            f"{', '.join(sorted(result.pending))}: {result.trouble}"
        )
    parts = [f"{len(result.done)} {done}"]
    parts += [f"{len(result.already)} already running"] if result.already else []
    parts += [f"{len(result.resting)} resting (`manager schedule next`)"] if result.resting else []
    parts += [f"{len(result.skipped)} skipped"] if result.skipped else []
    parts += [f"{len(result.failed)} failed"] if result.failed else []
    parts += [f"{len(result.pending)} pending"] if result.pending else []
    running = done != "stopped" and len(result.done) + len(result.already) > 1
    say(", ".join(parts) + ("; `manager ps` shows all" if running and sys.stdout.isatty() else ""))
    if result.pending:
        say(
            f"`manager batch {result.batch_id}` shows the progress; with --wait it returns when none is "
            "pending"
        )
    return int(not result.ok)


def pending_reasons(*, starts: bool) -> "PendingReasons":
    """Return the reader of reasons why accounts are pending."""
    from manager.factory import fleet_store
    from manager.fleet.leases import LeaseStore
    from manager.terminal.pending_reasons import PendingReasons

    store = fleet_store(settings())
    return PendingReasons(store, LeaseStore(store.url) if starts else None)


COMMANDS = (start_all, stop_all, batch)
