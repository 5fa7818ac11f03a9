"""start, stop, restart, start-all, stop-all."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from manager.cli.common import account_argument, json_option, print_error, print_json, print_warning, service

if TYPE_CHECKING:
    from manager.models import BatchResult, WorkerInfo

_defaults = click.option(
    "--defaults/--no-defaults",
    default=True,
    help="Fill what the account's file leaves out from defaults.yaml and the built-in defaults.",
)
_validate = click.option("--validate/--no-validate", default=True, help="Refuse to start an invalid account.")
_timeout = click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Stop by force after so long; by default the account's own execution.stop_timeout_seconds.",
)


@click.command()
@account_argument(nargs=-1, required=True)
@_defaults
@_validate
@json_option
def start(account_ids: tuple[str, ...], defaults: bool, validate: bool, as_json: bool) -> int:
    """Start the workers of one or more accounts; returns when their sessions are connected."""
    fleet = service()

    def one(account_id: str) -> "WorkerInfo":
        return fleet.start_worker_from_config(account_id, defaults, validate)

    return _each(account_ids, one, _say_started, as_json)


@click.command()
@account_argument(nargs=-1, required=True)
@_timeout
@json_option
def stop(account_ids: tuple[str, ...], timeout: float | None, as_json: bool) -> int:
    """Stop the workers of one or more accounts; returns when their processes have provably ended."""
    fleet = service()

    def one(account_id: str) -> dict[str, Any]:
        return {"account_id": account_id, "stopped": fleet.stop_worker(account_id, timeout)}

    return _each(account_ids, one, lambda answer: f"{answer['account_id']} stopped", as_json)


@click.command()
@account_argument(nargs=-1, required=True)
@json_option
def restart(account_ids: tuple[str, ...], as_json: bool) -> int:
    """Stop the workers that run and start them with the configuration as it is now."""
    return _each(account_ids, service().restart_worker, _say_started, as_json)


@click.command()
@account_argument()
@click.option("--to", "host", required=True, metavar="HOST", help="The host that is to run it.")
@click.option(
    "--force",
    is_flag=True,
    help="The account's host is lost for good: take its lease away without proof that its worker has ended. "
    "If that worker still trades, there are two sessions on the account until it hears of it.",
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


@click.command("start-all")
@_defaults
@_validate
@json_option
def start_all(defaults: bool, validate: bool, as_json: bool) -> int:
    """Start every enabled account, as one Celery group, and account for every one."""
    from rich.console import Console

    from manager.local.progress import batch_progress

    fleet = service()
    enabled = sum(on is True for on in fleet.enabled_accounts().values())
    with batch_progress(Console(stderr=True), "starting", enabled, quiet=as_json) as progress:
        result = fleet.start_all(defaults, validate, progress)
    return _say_batch(result, as_json, "started")


@click.command("stop-all")
@_timeout
@json_option
def stop_all(timeout: float | None, as_json: bool) -> int:
    """Stop every worker of the fleet and account for every one."""
    from rich.console import Console

    from manager.local.progress import batch_progress

    fleet = service()
    with batch_progress(Console(stderr=True), "stopping", None, quiet=as_json) as progress:
        result = fleet.stop_all(timeout, progress)
    return _say_batch(result, as_json, "stopped")


def _each(
    account_ids: tuple[str, ...],
    one: Callable[[str], Any],
    say: Callable[[Any], str],
    as_json: bool,
) -> int:
    """Do one thing for each account, go on after a failure, and answer for every one."""
    from manager.errors import ManagerError

    answers: list[Any] = []
    failed = False
    for account_id in account_ids:
        try:
            answer = one(account_id)
        except ManagerError as error:
            failed = True
            answers.append(
                {
                    "account_id": account_id,
                    "error": {"code": error.code, "message": str(error), "retryable": error.retryable},
                }
            )
            if not as_json:
                print_error(str(error))
            continue
        answers.append(answer if isinstance(answer, dict) else answer.to_dict())
        if not as_json:
            click.echo(say(answer))
    if as_json:
        print_json(answers[0] if len(answers) == 1 else answers)
    return int(failed)


def _say_started(info: "WorkerInfo") -> str:
    data = info.metadata
    already = "runs already" if data.get("already_running") else "running"
    return (
        f"{info.account_id} {already}: worker {info.worker_id}, pid {data.get('pid')} on {data.get('host')}, "
        f"{data.get('health')}"
    )


def _say_batch(result: "BatchResult", as_json: bool, done: str) -> int:
    if as_json:
        print_json(
            {
                done: {key: info.to_dict() for key, info in result.done.items()},
                "already_running": {key: info.to_dict() for key, info in result.already.items()},
                "skipped": result.skipped,
                "failed": result.failed,
            }
        )
        return int(not result.ok)
    for account_id in sorted(result.failed):
        print_error(result.failed[account_id])
    for account_id in sorted(result.skipped):
        click.echo(f"skipped: {result.skipped[account_id]}")
    parts = [f"{len(result.done)} {done}"]
    parts += [f"{len(result.already)} already running"] if result.already else []
    parts += [f"{len(result.skipped)} skipped"] if result.skipped else []
    parts += [f"{len(result.failed)} failed"] if result.failed else []
    click.echo(", ".join(parts))
    return int(not result.ok)


COMMANDS = (start, stop, restart, move, start_all, stop_all)
