"""The exit reason of a worker, as a text for people."""

import signal
from typing import Final

from manager.session.exit_codes import MEANINGS, WorkerExit

_HINTS = {
    "SIGKILL": "not by this host agent; often by the system when it is out of memory",
    "SIGSEGV": "its code or a library crashed",
    "SIGABRT": "its code or a library aborted",
}


#: Exit codes for which the worker's own reason says everything; the code adds nothing for a person.
_EXPLAINED: Final = {
    WorkerExit.NOT_CONNECTED,
    WorkerExit.CONNECTION_LOST,
    WorkerExit.LEASE_LOST,
    WorkerExit.STOPPED_BY_FORCE,
}


def describe_exit(code: int | None, exit_reason: str | None) -> str:
    """Return why the worker ended, in one line.

    That is the worker's own exit reason if it left one, else the meaning of its exit code or signal.
    """
    if exit_reason and code in _EXPLAINED:
        return exit_reason
    if exit_reason and code in MEANINGS and code != WorkerExit.STOPPED:
        return f"{MEANINGS[WorkerExit(code)]}: {exit_reason}"
    if code is None:
        text = (
            "the worker process ended (exit code unknown: an earlier host agent started it, or the process "
            "that forked it does not answer)"
        )
    elif code < 0:
        name = _signal_name(-code)
        hint = _HINTS.get(name)
        text = f"the worker process was ended by {name}" + (f" ({hint})" if hint else "")
    else:
        meaning = MEANINGS.get(WorkerExit(code)) if code in set(WorkerExit) else None
        text = f"the worker process exited with code {code}" + (f" ({meaning})" if meaning else "")
    return f"{text}: {exit_reason}" if exit_reason else text


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
