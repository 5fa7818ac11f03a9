"""The sender and the id of the commands that this process sends.

The sender is the user of this process, unless the HTTP API sets another one for each request.
"""

import getpass
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Final
from uuid import UUID, uuid4, uuid5

#: Namespace of the ids that are derived from the id of a request.
_DERIVED: Final = UUID("5f2d8c51-6c3e-4a0b-9d57-0b6a2f3f7c11")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request of a client for which this process sends commands."""

    #: The sender, as the audit trail shows it.
    by: str
    #: The id of the request, which acts only once. Empty: each command gets a new id.
    token: str = ""
    #: The command (`CommandSpec.name`) whose task gets `token` itself as its id. Other tasks, and those of a
    #: batch, get ids derived from it.
    command: str = ""
    #: Called once the command is recorded and its task is sent. From then on it survives this process.
    sent: Callable[[], None] | None = None


_request: ContextVar[Request | None] = ContextVar("manager_request", default=None)


@contextmanager
def on_behalf_of(request: Request) -> Iterator[None]:
    """Context: send commands on behalf of a request.

    Applies only to this thread or asyncio task.
    """
    token = _request.set(request)
    try:
        yield
    finally:
        _request.reset(token)


def caller() -> str:
    """Return the sender: of the request, else this process's user and machine."""
    request = _request.get()
    return request.by if request is not None else _process()


def new_token(command: str, account_id: str) -> str:
    """Return the id of a new command's task."""
    request = _request.get()
    if request is None or not request.token:
        return str(uuid4())
    if request.command == command:
        return request.token
    return str(uuid5(_DERIVED, f"{request.token} {command} {account_id}"))


def note_sent() -> None:
    """Notify the request that its command was sent."""
    request = _request.get()
    if request is not None and request.sent is not None:
        request.sent()


@cache
def _process() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "?"
    return f"{user}@{socket.gethostname()}"
