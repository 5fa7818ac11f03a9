"""Exits of a host agent that its supervisor has to restart.

None of them affects running workers.
"""

import logging
import os
from typing import Final, NoReturn

from manager.system import logs
from manager.system.essential_threads import log_lost

logger = logging.getLogger(__name__)

#: The exit code that tells the supervisor to start a new agent.
RESTART_EXIT: Final = 75


def exit_out_of_files() -> NoReturn:
    """Log that no file descriptor is free, and exit with code 75."""
    logs.event(
        logger,
        logging.CRITICAL,
        "out_of_files",
        "this host agent has used up its open files and can reach Redis no more; exiting with code 75 so "
        "that the supervisor starts one with free files. Running workers are not affected. Raise its limit "
        "of open files (LimitNOFILE) if this happens again",
    )
    _exit()


def exit_self_test_failed(seconds: float) -> NoReturn:
    """Log that no message was received for `seconds`, and exit with code 75."""
    logs.event(
        logger,
        logging.CRITICAL,
        "self_test_failed",
        f"no message received for {seconds:.0f} s although Redis accepts ours; exiting with code 75 so that "
        "the supervisor restarts this agent. Running workers are not affected.",
    )
    _exit()


def exit_thread_lost(thread: str) -> NoReturn:
    """Log that a thread has died, and exit with code 75."""
    log_lost(thread)
    _exit()


def exit_name_lost(reason: str) -> NoReturn:
    """Log that another agent has this host's name, and exit with code 75.

    Otherwise both would carry out the host's commands.
    """
    logs.event(
        logger,
        logging.CRITICAL,
        "name_taken",
        f"{reason}. This agent exits with code 75 and carries out no more commands. Running workers are not "
        "affected.",
    )
    logging.shutdown()
    os._exit(RESTART_EXIT)


def _exit() -> NoReturn:
    logs.flush()
    os._exit(RESTART_EXIT)
