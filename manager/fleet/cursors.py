"""Cursors: positions from which a reader of the event stream continues.

A cursor is `<stream id>:<ms>-<seq>`. The stream id (`manager:events:id`, 8 hex digits) changes when Redis has
lost its data and the stream begins again. A reader gets exactly the entries after its cursor.

A cursor is *gone* if its stream was replaced, or if entries after it may have been trimmed. A cursor that is
declared gone one entry too early does no harm: the reader lists the fleet again.
"""

import re
import secrets
from dataclasses import dataclass
from typing import Any, Final, Self

from redis.exceptions import NoPermissionError, ReadOnlyError, ResponseError

from manager.errors import CursorGoneError, InvalidCursorError

STREAM_ID_KEY: Final = "manager:events:id"

_POSITION: Final = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?")
_STREAM_ID: Final = re.compile(r"[0-9a-f]{8}")
#: Milliseconds and sequence numbers of Redis have 64 bits each.
_MOST: Final = 2**64 - 1
#: Fraction of the kept entries from which a stream without `entries-added` (Redis 6.2) counts as trimmed.
_NEARLY_FULL: Final = 0.9


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """An entry's position in the stream.

    Consists of milliseconds by Redis's clock and a sequence number.
    """

    ms: int
    seq: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `<ms>-<seq>` or `<ms>`. Raises InvalidCursorError."""
        found = _POSITION.fullmatch(text)
        if found is None or max(int(found[1]), int(found[2] or 0)) > _MOST:
            raise InvalidCursorError(
                f"{text[:60]!r} is not a cursor: give one that an event page or stream returned, like "
                "5f3a09c1:1795609058334-0"
            )
        return cls(int(found[1]), int(found[2] or 0))

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"


#: The position before the first entry of any stream.
START: Final = Position(0, 0)


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in the stream with this id."""

    stream: str
    position: Position

    def __str__(self) -> str:
        return f"{self.stream}:{self.position}"


def stream_id(client: Any) -> str:
    """Return the id of the event stream, and create it if it is missing.

    Returns an empty string if it is missing and this user may not write it. Errors of redis-py propagate.
    """
    found = client.get(STREAM_ID_KEY)
    if found is None:
        try:
            client.set(STREAM_ID_KEY, secrets.token_hex(4), nx=True)
        except (NoPermissionError, ReadOnlyError):
            return ""
        found = client.get(STREAM_ID_KEY)
    return bytes(found or b"").decode(errors="replace")


def read_cursor(client: Any, key: str, text: str, *, kept: int) -> Cursor:
    """Return the cursor that `text` names, ready to read after it.

    `text` is a cursor, `<id>:$` (now), `<id>:0` (the oldest entry kept), or any of these without an id.
    Errors of redis-py propagate.

    Raises:
        InvalidCursorError: `text` is not a cursor.
        CursorGoneError: its stream was replaced, or entries after it may have been trimmed.
    """
    stream, separator, place = text.rpartition(":")
    if separator and not _STREAM_ID.fullmatch(stream):
        raise InvalidCursorError(f"{text[:60]!r} is not a cursor: its stream id is not 8 hexadecimal digits")
    position = None if place == "$" else Position.parse(place)
    present = stream_id(client)
    if separator and stream != present:
        raise CursorGoneError(
            "the event stream was replaced after this cursor was returned, as when Redis lost its data: list "
            "the fleet again, then follow from the new cursor",
            oldest=str(Cursor(present, START)),
        )
    if position is None:
        return Cursor(present, _newest(client, key))
    if position != START:
        _require_kept(client, key, position, present, kept)
    return Cursor(present, position)


def _newest(client: Any, key: str) -> Position:
    entries = client.xrevrange(key, count=1)
    return Position.parse(entries[0][0].decode()) if entries else START


def _require_kept(client: Any, key: str, position: Position, present: str, kept: int) -> None:
    """Raise CursorGoneError if entries after `position` may have been trimmed."""
    try:
        info = client.xinfo_stream(key)
    except ResponseError:
        return  # no stream yet: nothing was trimmed
    first = info.get("first-entry")
    length = int(info.get("length", 0))
    added = info.get("entries-added")
    # `max-deleted-entry-id` does not show it: trimming leaves it at 0-0 (seen with Redis 7.0.15).
    trimmed = length >= kept * _NEARLY_FULL if added is None else int(added) > length
    if first is None or not trimmed:
        return
    oldest = Position.parse(first[0].decode())
    if position < oldest:
        raise CursorGoneError(
            "events after this cursor are no longer kept: list the fleet again, "
            "then follow from the new cursor",
            oldest=str(Cursor(present, oldest)),
        )
