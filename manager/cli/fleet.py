"""start, stop, restart, move: of accounts that are named, or selected by group and label."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from manager.cli.batches import (
    defaults_option,
    restart_many,
    start_many,
    stop_many,
    timeout_option,
    validate_option,
    wait_option,
)
from manager.cli.common import (
    account_argument,
    json_option,
    print_error,
    print_json,
    print_warning,
    say,
    selected,
    selection_options,
    service,
)

if TYPE_CHECKING:
    from manager.models import WorkerInfo

#: Seconds of silence after which somebody who waits is told that it goes on.
_SAY_SO_SECONDS = 3.0
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

    return _each(account_ids, one, _say_started, as_json)


@click.command()
@account_argument(nargs=-1)
@selection_options
@timeout_option
@wait_option
@json_option
def stop(
    account_ids: tuple[str, ...],
    groups: tuple[str, ...],
    labels: tuple[str, ...],
    timeout: float | None,
    wait: bool,
    as_json: bool,
) -> int:
    """Stop the workers of one or more accounts; returns when their processes have provably ended."""
    fleet = service()
    selection = selected(account_ids, groups, labels)
    if selection:
        return stop_many(selection, timeout, wait, as_json)

    def one(account_id: str) -> dict[str, Any]:
        return {"account_id": account_id, "stopped": fleet.stop_worker(account_id, timeout)}

    return _each(account_ids, one, lambda answer: f"{answer['account_id']} stopped", as_json)


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
    return _each(account_ids, service().restart_worker, _say_started, as_json)


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
    return _each((account_id,), lambda one: fleet.move_worker(one, host, force=force), _say_started, as_json)


def _each(
    account_ids: tuple[str, ...],
    one: Callable[[str], Any],
    tell: Callable[[Any], str],
    as_json: bool,
) -> int:
    """Do one thing for each account, go on after a failure, and answer for every one."""
    from manager.errors import ManagerError

    answers: list[Any] = []
    failed = False
    # At once, so that a host which does not answer holds nobody else's command up.
    calls = [_Call(one, account_id) for account_id in account_ids]
    for call in calls:
        try:
            answer = call.answer(quiet=as_json)
        except KeyboardInterrupt:
            click.echo("left; what was sent goes on, and `manager ps` shows what is so", err=True)
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

    def answer(self, *, quiet: bool) -> Any:
        """Wait for the answer, or raise what went wrong; unless `quiet`, say so if it takes long."""
        self.join(_SAY_SO_SECONDS)
        if self.is_alive() and not quiet:
            click.echo(
                f"{self.account_id}: no answer yet; Ctrl-C leaves, and what was sent goes on", err=True
            )
        while self.is_alive():
            self.join(1.0)  # in pieces: Windows hears no Ctrl-C meanwhile
        if self._error is not None:
            raise self._error
        return self._answer


def _say_started(info: "WorkerInfo") -> str:
    data = info.metadata
    already = "runs already" if data.get("already_running") else "running"
    return (
        f"{info.account_id} {already}: worker {info.worker_id}, pid {data.get('pid')} on {data.get('host')}, "
        f"{data.get('health')}"
    )


COMMANDS = (start, stop, restart, move)
