"""start, stop, restart, move: of accounts that are named, or selected by group and label."""

import threading
from collections.abc import Callable
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
from manager.cli.waiting import Waiting
from manager.pool.commands import MODE_COMMANDS, CommandSpec

if TYPE_CHECKING:
    from manager.models import WorkerInfo
    from manager.service import WorkerManagerService

#: Seconds between two looks at what is waited for.
_LOOK_SECONDS = 1.0
#: Commands under way at once.
_AT_ONCE = threading.BoundedSemaphore(32)


@click.command()
@account_argument(nargs=-1)
@selection_options
@defaults_option
@validate_option
@wait_option
@json_option
def start(
    account_ids: tuple[str, ...],
    groups: tuple[str, ...],
    labels: tuple[str, ...],
    defaults: bool,
    validate: bool,
    wait: bool,
    as_json: bool,
) -> int:
    """Start the workers of one or more accounts; returns when their sessions are connected."""
    fleet = service()
    selection = selected(account_ids, groups, labels)
    if selection:
        return start_many(selection, defaults, validate, wait, as_json)

    def one(account_id: str) -> "WorkerInfo":
        return fleet.start_worker_from_config(account_id, defaults, validate)

    return _each(account_ids, one, _say_started, as_json, starts=True)


@click.command()
@account_argument(nargs=-1)
@selection_options
@timeout_option
@wait_option
@local_option
@json_option
def stop(
    account_ids: tuple[str, ...],
    groups: tuple[str, ...],
    labels: tuple[str, ...],
    timeout: float | None,
    wait: bool,
    local: bool,
    as_json: bool,
) -> int:
    """Stop the workers of one or more accounts; returns when their processes have provably ended."""
    selection = selected(account_ids, groups, labels)
    if local:
        if selection:
            raise click.UsageError("--local goes with accounts, or with stop-all: not with --group or -l")
        return stop_here(account_ids, timeout, as_json)
    fleet = service()
    if selection:
        return stop_many(selection, timeout, wait, as_json)

    def one(account_id: str) -> dict[str, Any]:
        return stop_one(fleet, account_id, timeout)

    return _each(account_ids, one, _say_stopped, as_json)


def stop_one(fleet: "WorkerManagerService", account_id: str, timeout: float | None) -> dict[str, Any]:
    """Stop one account. One that has no worker is stopped already; one of which nothing is known is an error."""
    from manager.errors import NoWorkerError
    from manager.states import SETTLED

    answer: dict[str, Any] = {"account_id": account_id}
    try:
        answer["stopped"] = fleet.stop_worker(account_id, timeout)
        info = fleet.get_worker_info(account_id)
    except NoWorkerError:
        info = fleet.get_worker_info(account_id)
        if info is not None and info.status not in SETTLED:
            raise  # what is recorded says otherwise: it must not be called stopped
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
            f"{account_id} stopped by force: {answer['reason']}. Its orders and positions may be open: check them at the "
            "broker"
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
    """Stop the workers that run and start them with the configuration as it is now."""
    selection = selected(account_ids, groups, labels)
    if selection:
        return restart_many(selection, wait, as_json)
    return _each(account_ids, service().restart_worker, _say_started, as_json, starts=True)


@click.command()
@account_argument()
@click.option("--to", "host", required=True, metavar="HOST", help="The host that is to run it.")
@click.option(
    "--force",
    is_flag=True,
    help="The account's host is lost for good: take its lease away without proof that its worker has ended. "
    "If that worker still trades, there are two sessions on the account until it hears of it. It overrules the rules of "
    "placement as well.",
)
@json_option
def move(account_id: str, host: str, force: bool, as_json: bool) -> int:
    """Stop an account's worker where it is and start it on another host."""
    fleet = service()
    if force:
        print_warning(
            f"{account_id}: if its worker still runs on a host that nobody can reach, there are two sessions on the "
            "account until it hears of this: make sure that the lost host is off"
        )

    def one(account_id: str) -> "WorkerInfo":
        return fleet.move_worker(account_id, host, force=force)

    return _each((account_id,), one, _say_started, as_json, starts=True)


def _mode_command(command: CommandSpec) -> click.Command:
    """Return the command line of a command that changes how sessions trade."""

    @click.command(command.name, help=f"{command.summary} It survives every restart.")
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
            return f"{info.account_id}: {command.done}; it is {info.status}, and this holds when it starts"

        return _each(account_ids, lambda one: pool.set_mode(command, one), say_changed, as_json)

    return run


def _each(
    account_ids: tuple[str, ...],
    one: Callable[[str], Any],
    tell: Callable[[Any], str],
    as_json: bool,
    *,
    starts: bool = False,
) -> int:
    """Do one thing for each account, go on after a failure, and answer for every one."""
    from manager.errors import ManagerError

    answers: list[Any] = []
    failed = False
    # At once, so that a host which does not answer holds nobody else's command up.
    calls = [_Call(one, account_id) for account_id in account_ids]
    waiting = None if as_json else Waiting(starts=starts)
    for call in calls:
        try:
            answer = call.answer(waiting)
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
            say(tell(answer))
    if as_json:
        print_json(answers[0] if len(answers) == 1 else answers)
    return int(failed)


class _Call(threading.Thread):
    """One account's command on a thread of its own, which the end of the process does not wait for."""

    def __init__(self, one: Callable[[str], Any], account_id: str) -> None:
        super().__init__(daemon=True)
        self.account_id = account_id
        self._one = one
        self._answer: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            with _AT_ONCE:
                self._answer = self._one(self.account_id)
        except BaseException as error:
            self._error = error

    def answer(self, waiting: Waiting | None) -> Any:
        """Wait for the answer, or raise what went wrong; `waiting` says what it takes long for."""
        while self.is_alive():
            self.join(_LOOK_SECONDS)  # in pieces: Windows hears no Ctrl-C meanwhile
            if self.is_alive() and waiting is not None:
                waiting.say(self.account_id)
        if self._error is not None:
            raise self._error
        return self._answer


def _say_started(info: "WorkerInfo") -> str:
    placement = info.placement
    already = "runs already" if placement.already_running else "running"
    return (
        f"{info.account_id} {already}: worker {info.worker_id}, pid {placement.pid} on {placement.host}, "
        f"{info.health}"
    )


COMMANDS = (start, stop, restart, move, *map(_mode_command, MODE_COMMANDS))
