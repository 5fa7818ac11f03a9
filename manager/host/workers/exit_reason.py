"""How a worker's end reads to a person."""

import signal
from typing import Final

from manager.session.exit_codes import MEANINGS, WorkerExit

_HINTS = {
    "SIGKILL": "not by this host agent; often by the system when memory runs out",
    "SIGSEGV": "its code or a library crashed",
    "SIGABRT": "its code or a library gave up",
}


#: Ends of which the worker itself has said why: its words are the reason, and its exit code adds nothing for a person.
_SAID: Final = {
    WorkerExit.NOT_CONNECTED,
    WorkerExit.CONNECTION_LOST,
    WorkerExit.LEASE_LOST,
    WorkerExit.STOPPED_BY_FORCE,
}


def describe_exit(code: int | None, exit_reason: str | None) -> str:
    """Return one line: why the worker ended, in its own words where it left any, else its exit code or signal."""
    if exit_reason and code in _SAID:
        return exit_reason
    if exit_reason and code in MEANINGS and code != WorkerExit.STOPPED:
        return f"{MEANINGS[WorkerExit(code)]}: {exit_reason}"
    if code is None:
        text = "the worker process ended (exit code unknown: an earlier host agent started it, or the process that forked it does not answer)"
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
