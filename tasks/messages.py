"""Checks that a message must pass before Celery reads it. Pure: no I/O.

Anyone who may write to Redis can put anything on a queue, and no message may end a host agent or its
consumer. Celery refuses other serializers and unknown tasks, but does not validate everything else. A header
of a wrong type, or a delivery tag that Redis does not accept, ends its consumer or blocks a slot forever. A
small compressed message can unpack to gigabytes. `tasks/consumer.py` applies these checks;
tests/e2e/test_forged.py sends such messages.
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from redis.exceptions import DataError

from manager import wire

#: The exceptions that reading a malformed message raises.
MALFORMED_ERRORS: Final = (
    *(ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError),
    DataError,
)

#: Maximum length of a header. Two headers contain the task's arguments, shortened by the sender.
_MAX_TEXT: Final = 10_000
#: Maximum length of a task id for which a refusal is stored, and of an origin in a log line.
_MAX_ID: Final = 255
#: Maximum length of a protocol 1 body in which the task id is searched.
_MAX_BODY: Final = 100_000
#: Maximum delay of an eta: a delayed task waits in the agent's memory and is lost with it.
_MAX_ETA: Final = timedelta(minutes=5)
#: Tasks for which an eta is refused. The agent would read the command when it is due, and would then treat
#: it as later than a stop that was sent in the meantime.
_NOT_LATER: Final = frozenset({wire.START_WORKER, wire.RESTART_WORKER, wire.START_ALL, wire.RESTART_ALL})


@dataclass(frozen=True, slots=True)
class Sender:
    """What is readable of a refused message.

    Each text is bounded, and empty if unreadable.
    """

    task_id: str = ""
    task: str = ""
    origin: str = ""
    #: Whether the sender expects a result.
    expects_result: bool = True


def _text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_TEXT


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1_000_000


def _limits(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(one is None or (isinstance(one, int | float) and one >= 0) for one in value)
    )


#: Celery's headers, each with the check of its value if it is present and not null.
_HEADERS: Final[Mapping[str, Callable[[object], bool]]] = {
    **dict.fromkeys(
        (
            "lang",
            "root_id",
            "parent_id",
            "group",
            "shadow",
            "origin",
            "argsrepr",
            "kwargsrepr",
            "eta",
            "expires",
        ),
        _text,
    ),
    "retries": _count,
    "group_index": _count,
    "replaced_task_nesting": _count,
    "timelimit": _limits,
    "ignore_result": lambda value: isinstance(value, bool),
    "stamped_headers": lambda value: isinstance(value, list) and all(map(_text, value)),
    "stamps": lambda value: isinstance(value, dict),
}


def checked_message(raw: Any) -> dict[str, Any]:
    """Return the checked message for Celery, with a new delivery tag.

    The sender's delivery tag may have any type, or be another message's. Raises one of `MALFORMED_ERRORS` if
    the message is refused; the text says why, and what the sender should do.
    """
    headers, properties = raw["headers"], raw["properties"]
    if not headers.get("task") and _body(raw):
        raise ValueError("messages of Celery's protocol 1 are refused: set task_protocol = 2")
    if not _text(headers["task"]) or not (_text(headers["id"]) and headers["id"]):
        raise ValueError("the headers task and id must be text")
    if headers.get("compression"):
        raise ValueError("compressed messages are refused: send this task without compression")
    for name, fits in _HEADERS.items():
        value = headers.get(name)
        if value is not None and not fits(value):
            raise ValueError(f"the header {name} has a wrong type or value: leave it to Celery")
    if (eta := headers.get("eta")) is not None:
        _check_eta(headers["task"], eta)
    return {**raw, "properties": {**properties, "delivery_tag": str(uuid4())}}


def check_parts(payload: Any) -> None:
    """Check a task's decoded body: arguments and embedded signatures.

    Celery unpacks the signatures, which it sends when the task is done, outside its error handling. A part of
    a wrong type would leave the task in the agent's count of running tasks forever. Raises one of
    `MALFORMED_ERRORS`.
    """
    args, kwargs, embedded = payload
    if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
        raise TypeError("arguments")
    for name, part in ({} if embedded is None else embedded).items():
        if part is None:
            continue
        if name == "chord":
            part = [part]  # noqa: PLW2901
        elif name not in {"callbacks", "errbacks", "chain"}:
            raise ValueError(name)
        if not isinstance(part, list) or not all(map(_signature, part)):
            raise TypeError(name)


def _signature(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _text(value.get("task"))
        and all(isinstance(value.get(name) or {}, dict) for name in ("kwargs", "options"))
    )


def _check_eta(task: str, eta: str) -> None:
    if task in _NOT_LATER:
        raise ValueError(
            f"countdown and eta are refused for {task}, because a stop that is sent in the meantime must "
            "win: send the task when it is due"
        )
    try:
        when = datetime.fromisoformat(eta)
    except ValueError:
        raise ValueError("the header eta is not an ISO 8601 time: leave it to Celery") from None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    if when > datetime.now(UTC) + _MAX_ETA:
        raise ValueError(
            f"an eta more than {_MAX_ETA.seconds // 60} minutes ahead is refused: "
            "send the task when it is due"
        )


def sender_of(raw: Any) -> Sender:
    """Return what is readable of a refused message. Never raises."""
    try:
        headers, properties = _mapping(raw["headers"]), _mapping(raw.get("properties"))
        # Protocol 1 messages have their headers in the body.
        own = headers if headers.get("id") else _body(raw)
        return Sender(
            task_id=_id(own.get("id")) or _id(properties.get("correlation_id")),
            task=_short(own.get("task")),
            origin=_short(own.get("origin")),
            expects_result=headers.get("ignore_result") is not True,
        )
    except MALFORMED_ERRORS:
        return Sender()


def _body(raw: Any) -> dict[str, Any]:
    """Return the body of a protocol 1 message.

    Empty if it is not plain, short JSON.
    """
    try:
        body = raw["body"]
        if not isinstance(body, str) or len(body) > _MAX_BODY or _mapping(raw["headers"]).get("compression"):
            return {}
        if _mapping(raw["properties"]).get("body_encoding") == "base64":
            body = base64.b64decode(body)
        found = _mapping(json.loads(body))
    except (*MALFORMED_ERRORS, binascii.Error):
        return {}
    return found if isinstance(found.get("task"), str) and isinstance(found.get("id"), str) else {}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _id(value: object) -> str:
    """Return a task's id if it is safe in a Redis key, else an empty text."""
    return value if isinstance(value, str) and len(value) <= _MAX_ID and value.isprintable() else ""


def _short(value: object) -> str:
    if not isinstance(value, str):
        return ""
    return "".join(one if one.isprintable() else "?" for one in value[:_MAX_ID])
