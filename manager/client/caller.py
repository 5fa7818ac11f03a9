"""Who sends a command, and under which id: by default this process; the HTTP API says it for each request."""

import getpass
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Final
from uuid import UUID, uuid4, uuid5

#: Names the ids that are derived from the id of a request.
_DERIVED: Final = UUID("5f2d8c51-6c3e-4a0b-9d57-0b6a2f3f7c11")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request of somebody else, on whose behalf this process sends commands."""

    #: Who asked, as the audit trail shows it.
    by: str
    #: The id of the request; sent twice, it acts once. Empty: each command gets a new one.
    token: str = ""
    #: The command (`CommandSpec.name`) whose task gets `token` itself. Others, and members of a batch, get an
    #: id derived from it: the same for the same request.
    command: str = ""
    #: Called once the command is written down and its task is sent; from there on no death of this process
    #: loses it.
    sent: Callable[[], None] | None = None


_request: ContextVar[Request | None] = ContextVar("manager_request", default=None)


@contextmanager
def on_behalf_of(request: Request) -> Iterator[None]:
    """Send the commands inside on behalf of a request. Holds for this thread or asyncio task alone."""
    token = _request.set(request)
    try:
        yield
    finally:
        _request.reset(token)


def caller() -> str:
    """Return who asks: whom the request names, or the user and the machine of this process."""
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
    """Tell the request that its command was sent."""
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
