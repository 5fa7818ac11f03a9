"""Commands for accounts: start, stop, restart, move, pause, resume."""

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from manager.cli.batches import (
    defaults_option,
    restart_many,
    set_mode_many,
    start_many,
    stop_many,
    timeout_option,
    validate_option,
    wait_option,
)
from manager.cli.common import (
    account_argument,
    configuration,
    json_option,
    print_error,
    print_json,
    print_warning,
    say,
    selected,
    selection_options,
    service,
)
from manager.cli.local import local_option, stop_here
from manager.cli.schedule import rest_until, start_now, stop_until_option, until_option
from manager.cli.waiting import WaitNotices
from manager.pool.commands import MODE_COMMANDS, CommandSpec

if TYPE_CHECKING:
    from manager.models import WorkerInfo
    from manager.service import WorkerManagerService

#: Seconds between notices about a command that has not finished.
_POLL_SECONDS = 1.0
#: Bounds the commands that run at the same time.
_RUNNING = threading.BoundedSemaphore(32)


@click.command()
@account_argument(nargs=-1)
@selection_options
@defaults_option
@validate_option
@click.option(
    "--now", is_flag=True, help="Start also outside the account's schedule. [default: rest until then]"
)
@until_option
@wait_option
@json_option
def start(
    account_ids: tuple[str, ...],
    groups: tuple[str, ...],
    labels: tuple[str, ...],
    defaults: bool,
    validate: bool,
    now: bool,
    until: str | None,
    wait: bool,
    as_json: bool,
) -> int:
    """Start workers; return when their sessions are connected.

    An account outside its schedule rests until its window opens; `--now` overrides that until the schedule
    next changes, or until `--until`.
    """
    fleet = service()
    selection = selected(account_ids, groups, labels)
    if until is not None and not now:
        raise click.UsageError("--until is the end of an override: use it with --now")
    if selection:
        if now:
            raise click.UsageError("--now needs account names; `manager schedule override` takes several")
        return start_many(selection, defaults, validate, wait, as_json)

    def one(account_id: str) -> "WorkerInfo":
        return fleet.start_worker_from_config(account_id, defaults, validate)

    start_one = start_now(until, one) if now else one
    return _each(account_ids, start_one, _say_started, as_json, starts=True)


@click.command()
@account_argument(nargs=-1)
@selection_options
@timeout_option
@stop_until_option
@wait_option
@local_option
@json_option
def stop(
    account_ids: tuple[str, ...],
    groups: tuple[str, ...],
    labels: tuple[str, ...],
    timeout: float | None,
    until: str | None,
    wait: bool,
    local: bool,
    as_json: bool,
) -> int:
    """Stop workers; return when their processes have ended.

    They stay stopped until a start command; with `--until` they start again then.
    """
    selection = selected(account_ids, groups, labels)
    if until is not None:
        if local or selection or timeout is not None:
            raise click.UsageError(
                "--until takes account names, and none of --local, --timeout, --group and -l"
            )
        return _each(account_ids, partial(rest_until, service(), until=until), _say_resting, as_json)
    if local:
        if selection:
            raise click.UsageError(
                "--local cannot be used with --group or -l: name the accounts, or use `manager stop-all "
                "--local`"
            )
        return stop_here(account_ids, timeout, as_json)
    fleet = service()
    if selection:
        return stop_many(selection, timeout, wait, as_json)

    def one(account_id: str) -> dict[str, Any]:
        return stop_one(fleet, account_id, timeout)

    return _each(account_ids, one, _say_stopped, as_json)


def stop_one(fleet: "WorkerManagerService", account_id: str, timeout: float | None) -> dict[str, Any]:
    """Stop one account; an account without a worker counts as stopped.

    Raises AccountNotFoundError if the account has neither a worker, nor a record, nor a file.
    """
    from manager.errors import NoWorkerError
    from manager.states import SETTLED

    answer: dict[str, Any] = {"account_id": account_id}
    try:
        answer["stopped"] = fleet.stop_worker(account_id, timeout)
        info = fleet.get_worker_info(account_id)
    except NoWorkerError:
        info = fleet.get_worker_info(account_id)
        if info is not None and info.status not in SETTLED:
            raise  # its record says that it runs, so it must not be reported as stopped
        if info is None:
            configuration().account_path(account_id)
        return answer | {"stopped": True, "already_stopped": True}
    if info is not None and info.placement.forced:
        answer |= {"forced": True, "reason": info.error}
    return answer


def _say_stopped(answer: dict[str, Any]) -> str:
    account_id = answer["account_id"]
    if answer.get("already_stopped"):
        return f"{account_id}: already stopped"
    if answer.get("forced"):
        return (
            f"{account_id} stopped by force: {answer['reason']}. Orders and positions may still be open: "
            "check them at the broker"
        )
    return f"{account_id} stopped"


@click.command()
@account_argument(nargs=-1)
@selection_options
@wait_option
@json_option
def restart(
    account_ids: tuple[str, ...], groups: tuple[str, ...], labels: tuple[str, ...], wait: bool, as_json: bool
) -> int:
    """Stop workers and start them with the current configuration."""
    selection = selected(account_ids, groups, labels)
    if selection:
        return restart_many(selection, wait, as_json)
    return _each(account_ids, service().restart_worker, _say_started, as_json, starts=True)


@click.command()
@account_argument()
@click.option("--to", "host", required=True, metavar="HOST", help="The host that will run the account.")
@click.option(
    "--force",
    is_flag=True,
    help="Only if the account's present host is permanently lost. Removes the lease without proof that the "
    "worker has ended. If that worker still trades, the account has two sessions until the worker learns "
    "that it lost its lease. Also ignores the placement rules.",
)
@json_option
def move(account_id: str, host: str, force: bool, as_json: bool) -> int:
    """Stop an account's worker and start it on another host."""
    fleet = service()
    if force:
        print_warning(
            f"{account_id}: if its worker still runs on the lost host, the account has two sessions until "
            "that worker learns that it lost its lease. Make sure that the lost host is off"
        )

    def one(account_id: str) -> "WorkerInfo":
        return fleet.move_worker(account_id, host, force=force)

    return _each((account_id,), one, _say_started, as_json, starts=True)


def _mode_command(command: CommandSpec) -> click.Command:
    """Return the CLI command that sets a trading mode."""

    @click.command(command.name, help=f"{command.summary}\n\nThe mode survives restarts.")
    @account_argument(nargs=-1)
    @selection_options
    @wait_option
    @json_option
    def run(
        account_ids: tuple[str, ...],
        groups: tuple[str, ...],
        labels: tuple[str, ...],
        wait: bool,
        as_json: bool,
    ) -> int:
        selection = selected(account_ids, groups, labels)
        if selection:
            return set_mode_many(command, selection, wait, as_json)
        pool = service().worker_pool

        def say_changed(info: "WorkerInfo") -> str:
            if info.status.value == "running":
                return f"{info.account_id}: {command.done}"
            return f"{info.account_id}: {command.done} from its next start (its worker is {info.status} now)"

        return _each(account_ids, lambda one: pool.set_mode(command, one), say_changed, as_json)

    return run


def _each(
    account_ids: tuple[str, ...],
    one: Callable[[str], Any],
    describe: Callable[[Any], str],
    as_json: bool,
    *,
    starts: bool = False,
) -> int:
    """Run one command for each account and print every outcome.

    Continues after a failure. Returns the exit code.
    """
    from manager.errors import ManagerError

    answers: list[Any] = []
    failed = False
    # All at the same time, so that a host which does not answer delays only its own accounts.
    calls = [_CommandThread(one, account_id) for account_id in account_ids]
    notices = None if as_json else WaitNotices(starts=starts)
    for call in calls:
        try:
            answer = call.answer(notices)
        except KeyboardInterrupt:
            click.echo("Interrupted. Commands already sent continue; check with `manager ps`.", err=True)
            return 130
        except ManagerError as error:
            failed = True
            answers.append(
                {
                    "account_id": call.account_id,
                    "error": {"code": error.code, "message": str(error), "retryable": error.retryable},
                }
            )
            if not as_json:
                print_error(str(error))
            continue
        answers.append(answer if isinstance(answer, dict) else answer.to_dict())
        if not as_json:
            say(describe(answer))
    if as_json:
        print_json(answers[0] if len(answers) == 1 else answers)
    return int(failed)


class _CommandThread(threading.Thread):
    """Runs one account's command; a daemon thread, so that Ctrl-C exits at once."""

    def __init__(self, one: Callable[[str], Any], account_id: str) -> None:
        super().__init__(daemon=True)
        self.account_id = account_id
        self._one = one
        self._answer: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            with _RUNNING:
                self._answer = self._one(self.account_id)
        except BaseException as error:
            self._error = error

    def answer(self, notices: WaitNotices | None) -> Any:
        """Wait for the result and return it, or raise the command's error.

        Blocks. `notices` prints what a slow command waits for.
        """
        while self.is_alive():
            self.join(_POLL_SECONDS)  # a join without a timeout blocks Ctrl-C on Windows
            if self.is_alive() and notices is not None:
                notices.notify(self.account_id)
        if self._error is not None:
            raise self._error
        return self._answer


def _say_resting(answer: dict[str, Any]) -> str:
    return f"{answer['account_id']} {answer['text']}"


def _say_started(info: "WorkerInfo") -> str:
    placement = info.placement
    if info.rest_text:
        return (
            f"{info.account_id} {info.rest_text}: it starts then; `manager start {info.account_id} --now` "
            "overrides that"
        )
    already = "already running" if placement.already_running else "running"
    return (
        f"{info.account_id} {already}: worker {info.worker_id}, pid {placement.pid} on {placement.host}, "
        f"{info.health}"
    )


COMMANDS = (start, stop, restart, move, *map(_mode_command, MODE_COMMANDS))
