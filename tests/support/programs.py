"""Reads processes and files of a running program of the command gateway."""

from manager.gateways.command.gateway import CommandGateway


def last_line(gateway: CommandGateway) -> str:
    """Return the last line that the program printed so far."""
    assert gateway._output is not None
    return gateway._output.last_line(0.0)


def output_ended(gateway: CommandGateway) -> bool:
    """Return whether the program's output has been read to its end."""
    assert gateway._output is not None
    return not gateway._output._open
