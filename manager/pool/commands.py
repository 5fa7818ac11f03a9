"""The commands to one account: what each is called everywhere, and what it makes desired. The one registry of them.

Tasks, batches, the command line, the audit trail and both pools take from here what they need to know of a command.
"""

from dataclasses import dataclass
from typing import Final, Literal

from manager.errors import NotSupportedError
from manager.states import TradingMode


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec:
    """One command. `name` is its name in the audit trail, in batches and on the command line."""

    name: str
    #: The task for one account, and the one for all accounts or a selection of them.
    task: str
    batch_task: str
    #: What its answer says in one word, of an account: `account-001: paused`.
    done: str
    #: What a progress bar says meanwhile.
    doing: str
    #: One line of help.
    summary: str
    #: What it makes desired: a state, or how the session trades.
    state: Literal["running", "stopped"] | None = None
    mode: TradingMode | None = None
    #: Whether a worker that runs is replaced.
    restart: bool = False

    @property
    def starts(self) -> bool:
        """Whether it may bring an account to a host that did not have it."""
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
    summary="Stop the workers that run and start them with the configuration as it is now.",
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
    summary="Keep sessions connected but let them trade no more, until they are resumed.",
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
#: Those that change how a session trades. All of them travel the same way, from the task to the worker.
MODE_COMMANDS: Final = tuple(spec for spec in COMMANDS.values() if spec.mode is not None)


def mode_not_supported(account_id: str, command: str) -> NotSupportedError:
    """Return the error for an account whose program decides by itself when to trade."""
    return NotSupportedError(
        f"{account_id}: {command} is not supported by this program, which decides by itself when to trade: use what the "
        f"program offers, or `manager stop {account_id}`"
    )
