"""Checks whether a program is ready (`ready` in the account file)."""

from typing import Final

from manager.config.models import ReadyConfig
from manager.gateways.base import ConnectionLost
from manager.gateways.command.notify import NotifySocket
from manager.gateways.command.ports import local_port, port_trouble, served_by, server_of
from manager.gateways.command.program import Program
from manager.gateways.command.program_health import url_trouble
from manager.gateways.command.program_output import ProgramOutput

#: Timeout of one check of a port or URL, in seconds.
_TIMEOUT: Final = 2.0


def refuse_used_port(ready: ReadyConfig) -> None:
    """Raise ConnectionLost if another process already serves the port or URL."""
    port = _ready_port(ready)
    if port is None and ready.http is not None and url_trouble(ready.http, _TIMEOUT) is None:
        raise ConnectionLost(
            f"{ready.http} (ready) answers before the program starts, so it does not show when the program "
            "is ready: set a URL that the program itself serves"
        )
    if port is not None and port_trouble(port) is None:
        raise ConnectionLost(
            f"port {port} (ready) is served by {server_of(port)} before the program starts: end that "
            "process, or give the program another port"
        )


def missing_sign(ready: ReadyConfig, output: ProgramOutput, notify: NotifySocket | None) -> str | None:
    """Return why the program is not ready, or None if it is.

    Blocks for two seconds at most.
    """
    if ready.line is not None:
        return None if output.has_ready_text else f"it has not printed {ready.line!r}"
    if ready.notify:
        notified = notify is not None and notify.ready
        return None if notified else "it has not sent READY=1 (ready.notify)"
    if ready.tcp is not None:
        return port_trouble(int(ready.tcp))
    return None if ready.http is None else url_trouble(ready.http, _TIMEOUT)


def foreign_server(ready: ReadyConfig, program: Program) -> str | None:
    """Return a text if another process serves the port of `ready`, or None.

    The program may have lost a race for the port.
    """
    port = _ready_port(ready)
    if port is None or served_by(port, program.processes()) is not False:
        return None
    return f"port {port} is served by {server_of(port)}, which the program did not start"


def _ready_port(ready: ReadyConfig) -> int | None:
    """Return the port of this machine in `ready`, or None."""
    if ready.tcp is not None:
        return int(ready.tcp)
    return None if ready.http is None else local_port(ready.http)
