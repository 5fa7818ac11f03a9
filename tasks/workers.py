"""Tasks for one account's worker.

Each returns JSON, or fails with one of `manager.errors`.
"""

from typing import Any

from manager import wire
from manager.errors import ManagerError
from manager.pool.commands import MODE_COMMANDS, CommandSpec
from tasks.app import app, fleet_service, run_command
from tasks.arguments import checked
from tasks.payloads import AccountArguments, StartArguments, StopArguments


@app.task(name=wire.START_WORKER, bind=True, throws=(ManagerError,))  # type: ignore[untyped-decorator]
def start_worker(
    self: Any, account_id: str, apply_defaults: bool = True, validate: bool = True
) -> dict[str, Any]:
    """Start the account's worker on its host.

    Return its WorkerInfo once it is connected.
    """
    given = checked(
        self, StartArguments, account_id=account_id, apply_defaults=apply_defaults, validate_first=validate
    )
    info = run_command(
        self,
        given.account_id,
        lambda commands, call: commands.start(
            given.account_id, given.apply_defaults, given.validate_first, call
        ),
    )
    return info.to_wire()


@app.task(name=wire.STOP_WORKER, bind=True, throws=(ManagerError,))  # type: ignore[untyped-decorator]
def stop_worker(self: Any, account_id: str, timeout: float | None = None) -> bool:
    """Stop the account's worker and kill it after `timeout` seconds.

    Return True after its proven end.
    """
    given = checked(self, StopArguments, account_id=account_id, timeout=timeout)
    return run_command(
        self, given.account_id, lambda commands, call: commands.stop(given.account_id, given.timeout, call)
    )


@app.task(name=wire.RESTART_WORKER, bind=True, throws=(ManagerError,))  # type: ignore[untyped-decorator]
def restart_worker(self: Any, account_id: str) -> dict[str, Any]:
    """Restart the account's worker with the current configuration.

    Return its WorkerInfo.
    """
    given = checked(self, AccountArguments, account_id=account_id)
    info = run_command(
        self, given.account_id, lambda commands, call: commands.restart(given.account_id, call)
    )
    return info.to_wire()


@app.task(name=wire.GET_WORKER_INFO, bind=True, throws=(ManagerError,))  # type: ignore[untyped-decorator]
def get_worker_info(self: Any, account_id: str) -> dict[str, Any] | None:
    """Return the WorkerInfo of the account's worker on any host, or null."""
    given = checked(self, AccountArguments, account_id=account_id)
    info = fleet_service().get_worker_info(given.account_id)
    return None if info is None else info.to_wire()


def _mode_task(command: CommandSpec) -> Any:
    @app.task(name=command.task, bind=True, throws=(ManagerError,))  # type: ignore[untyped-decorator]
    def set_mode(self: Any, account_id: str) -> dict[str, Any]:
        given = checked(self, AccountArguments, account_id=account_id)
        info = run_command(
            self, given.account_id, lambda commands, call: commands.set_mode(command, given.account_id, call)
        )
        return info.to_wire()

    set_mode.__doc__ = f"{command.summary} Returns the account's WorkerInfo, with `metadata.trading_mode`."
    return set_mode


#: Command name → its task that changes an account's trading mode.
mode_tasks = {command.name: _mode_task(command) for command in MODE_COMMANDS}
