"""The registry of account commands.

Tasks, batches, the command line, the audit trail and both pools use it.
"""

from dataclasses import dataclass
from typing import Final, Literal

from manager.errors import NotSupportedError
from manager.states import TradingMode


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec:
    """An account command.

    `name` is used in the audit trail, in batches and on the command line.
    """

    name: str
    #: The task for one account, and the task for all accounts or a selection.
    task: str
    batch_task: str
    #: The outcome in one word: `account-001: paused`.
    done: str
    #: The activity in one word, for a progress bar.
    doing: str
    #: One line of help.
    summary: str
    #: The state or the trading mode that it makes desired.
    state: Literal["running", "stopped"] | None = None
    mode: TradingMode | None = None
    #: Whether it replaces a running worker.
    restart: bool = False

    @property
    def starts(self) -> bool:
        """Whether it may place an account on another host."""
        return self.state == "running"


START: Final = CommandSpec(
    name="start",
    task="tasks.start_worker",
    batch_task="tasks.start_all_enabled_workers",
    done="started",
    doing="starting",
    summary="Start the workers of one or more accounts.",
    state="running",
)
RESTART: Final = CommandSpec(
    name="restart",
    task="tasks.restart_worker",
    batch_task="tasks.restart_all_workers",
    done="restarted",
    doing="restarting",
    summary="Stop running workers and start them with the current configuration.",
    state="running",
    restart=True,
)
STOP: Final = CommandSpec(
    name="stop",
    task="tasks.stop_worker",
    batch_task="tasks.stop_all_workers",
    done="stopped",
    doing="stopping",
    summary="Stop the workers of one or more accounts.",
    state="stopped",
)
PAUSE: Final = CommandSpec(
    name="pause",
    task="tasks.pause_worker",
    batch_task="tasks.pause_all_workers",
    done="paused",
    doing="pausing",
    summary="Keep sessions connected, but stop trading until they are resumed.",
    mode=TradingMode.PAUSED,
)
RESUME: Final = CommandSpec(
    name="resume",
    task="tasks.resume_worker",
    batch_task="tasks.resume_all_workers",
    done="resumed",
    doing="resuming",
    summary="Let paused sessions trade again.",
    mode=TradingMode.NORMAL,
)

#: Every command, by its name.
COMMANDS: Final = {spec.name: spec for spec in (START, RESTART, STOP, PAUSE, RESUME)}
#: Commands that change the trading mode. They take the same path from the task to the worker.
MODE_COMMANDS: Final = tuple(spec for spec in COMMANDS.values() if spec.mode is not None)


def mode_not_supported(account_id: str, command: str) -> NotSupportedError:
    """Return the error for an account whose gateway runs a program."""
    return NotSupportedError(
        f"{account_id}: {command} is not supported: the program decides by itself when to trade. Use the "
        f"program's own controls, or `manager stop {account_id}`"
    )
